"""Predictions in memory are those that the commands write."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import contrail_data
from contrail_data.errors import ContrailError, UsageError
from contrail_data.store.logits import encode
from contrail_data.store.reader import open_store
from contrail_data.synthetic.abi import write_abi
from contrail_train import load_predictor, predict
from contrail_train.contrails.cleaning import Cleaning
from contrail_train.inference.predictor import Predictor
from helpers.abi import START, add_wedge
from helpers.cli import run_train


@pytest.fixture(scope="module")
def model(finished: Path) -> Predictor:
    return load_predictor(finished, "cpu")


def test_a_store_and_samples_of_it_are_predicted_as_by_the_command(
    finished: Path, model: Predictor, unseen: Path, tmp_path: Path
) -> None:
    assert run_train("predict", finished, unseen, "-o", tmp_path / "p.zarr", "--device", "cpu").returncode == 0
    stored = open_store(tmp_path / "p.zarr")
    everything = predict(model, unseen)
    np.testing.assert_array_equal(encode(everything["probability"].values), stored["logit"].values[:, 0])
    np.testing.assert_array_equal(everything["mask"], stored["frame_mask"].values[:, 0])
    np.testing.assert_allclose(everything["score"], stored["frame_score"].values[:, 0], rtol=1e-5)
    assert everything["mask"].any()
    ids = everything["record_id"].values[[5, 2]]
    some = predict(model, contrail_data.open_store(unseen).sel(record_id=ids), batch=1)
    xr.testing.assert_allclose(some, everything.sel(record_id=ids), atol=1e-5)


@pytest.mark.slow
def test_missing_pixels_of_samples_without_labels_are_no_contrail(
    finished: Path, model: Predictor, tmp_path: Path
) -> None:
    paths = write_abi(tmp_path / "abi", START, scans=2, size=(96, 110), centre=(29.5, -92.0))
    add_wedge(paths[4], 0.9)
    given = {"time": ["2024-03-01T12:10"], "at": [(29.5, -92.0)], "before": 1, "after": 0, "size": 64, "pixel": 2000.0}
    contrail_data.build_store(tmp_path / "abi", tmp_path / "s.zarr", **given)
    done = run_train("predict", finished, tmp_path / "s.zarr", "-o", tmp_path / "p.zarr", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    stored, predicted = open_store(tmp_path / "p.zarr"), predict(model, tmp_path / "s.zarr")
    np.testing.assert_array_equal(predicted["mask"], stored["frame_mask"].values[:, 0])
    np.testing.assert_array_equal(encode(predicted["probability"].values), stored["logit"].values[:, 0])
    missing = open_store(tmp_path / "s.zarr")["valid"].values[:, 1] == 0
    assert 0.1 < missing.mean() < 0.9
    assert not predicted["probability"].values[missing].any()


def test_arrays_of_any_type_and_form_give_the_same(model: Predictor, unseen: Path) -> None:
    stored, decoded = open_store(unseen)["image"][:3, 4:5].values, contrail_data.open_store(unseen)
    expected = predict(model, stored)
    for image in (stored / np.float32(255), stored / 255, stored[:, 0][:, None]):
        xr.testing.assert_identical(predict(model, image), expected)
    xr.testing.assert_allclose(predict(model, stored[1, 0]), expected.isel(sample=[1]), atol=1e-5)
    named = decoded["image"].isel(sample=slice(3), time=4).transpose("y", "x", "sample", "channel")
    predicted = predict(model, named)
    xr.testing.assert_identical(predicted.drop_vars([*predicted.coords]), expected)
    np.testing.assert_array_equal(predicted["record_id"], decoded["record_id"][:3])


@pytest.mark.slow
def test_a_scene_is_predicted_as_by_the_command(finished: Path, model: Predictor, tmp_path: Path) -> None:
    write_abi(tmp_path / "abi", START, scans=2, size=(96, 110), centre=(29.5, -92.0))
    done = run_train("predict-scans", finished, tmp_path / "abi", "-o", tmp_path / "s.nc", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    predicted = predict(model, contrail_data.open_abi(tmp_path / "abi"))
    with xr.open_dataset(tmp_path / "s.nc") as written:
        assert predicted["time"].size == 2
        np.testing.assert_array_equal(predicted["mask"].values, written["mask"].values)
        np.testing.assert_allclose(predicted["probability"].values, written["probability"].values, atol=1e-3)


def test_masks_are_cleaned_as_the_predictor_asks(model: Predictor, unseen: Path) -> None:
    image = contrail_data.open_store(unseen)["image"].isel(sample=slice(3), time=4)
    plain = predict(model, image)["mask"].values
    cleaned = predict(model.with_cleaning(min_pixels="4000"), image)["mask"].values
    assert plain.any()
    assert not cleaned.any()
    with pytest.raises(UsageError, match="--consistent: has no effect on 1 time"):
        predict(replace(model, cleaning=Cleaning(0.5, reach=1)), image)


def test_what_cannot_be_predicted_is_an_error_of_one_line(model: Predictor, unseen: Path) -> None:
    decoded = contrail_data.open_store(unseen)
    image = decoded["image"][:2, 4:5].values
    for what, message in (
        (image[:, :, :2], r"shape \(2, 1, 2, 64, 64\), but the model takes \(sample, 1, 3, y, x\).*R, G, B"),
        (decoded["image"][:2, 4, ::-1], "channels B, G, R, but the model takes R, G, B"),
        (decoded["image"][:2, :2], r"frames at \[0\]"),
        (image + 1, r"not uint8 or within \[0, 1\]"),
        (np.where(image > 0.5, np.nan, image), r"not uint8 or within \[0, 1\]"),
        (decoded[["mask"]], "neither samples of a store nor scans"),
        (decoded.isel(sample=[]), "select samples by lists or slices"),
        (decoded.isel(sample=0), "select samples by lists or slices"),
        ("nothing.zarr", "neither a store nor a name|no such store"),
    ):
        with pytest.raises(ContrailError, match=message) as refused:
            predict(model, what)
        assert "\n" not in str(refused.value)
    with pytest.raises(ContrailError, match="'builtin:starter' is not a predictor; load it with"):
        predict("builtin:starter", image)  # type: ignore[arg-type]
    with pytest.raises(ContrailError, match="batch: cannot be 0"):
        predict(model, image, batch=0)
    with pytest.raises(ContrailError, match="classifies records, not pixels"):
        predict(replace(model, head="record"), image)


def test_symmetries_are_named_by_text(finished: Path) -> None:
    with pytest.raises(UsageError, match="symmetries='mirror': unknown; use one of none, flips, dihedral"):
        load_predictor(str(finished), symmetries="mirror")
    assert load_predictor(str(finished), "cpu", "none").decision == load_predictor(finished, "cpu").decision
