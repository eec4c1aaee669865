"""Predictions of a finished run."""

from __future__ import annotations

import csv
import json
import re
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from contrail_data.composites import COMPOSITES
from contrail_data.labels.predictor import LABELLED_FRAME
from contrail_data.labels.write import write_labels
from contrail_data.store.logits import decode
from contrail_data.store.reader import open_store
from contrail_data.store.schema import Kind
from contrail_data.store.settings import StoreSettings
from contrail_train.config.presets import get_config
from contrail_train.config.settings import with_settings
from contrail_train.data.normalise import normalise
from contrail_train.inference.detector import Detector, Prediction
from contrail_train.inference.export import export
from contrail_train.inference.load import load_model
from contrail_train.inference.predictor import Predictor
from contrail_train.inference.tables import record_table
from contrail_train.training.fit import fit
from helpers.cli import run_train
from helpers.runs import SHORT, TINY, run_steps, set_options
from helpers.stores import build_small


@pytest.mark.slow
def test_prediction_and_evaluation_count_the_same_pixels(unseen: Path, finished: Path, tmp_path: Path) -> None:
    store, run = unseen, tmp_path / "run"
    shutil.copytree(finished, run)
    done = run_train("evaluate", run, store)
    assert done.returncode == 0, done.stderr
    (path,) = run.glob("evaluation-*.json")
    result = json.loads(path.read_text())
    assert f"{result['dice']:.4f}" in done.stdout
    page = path.with_suffix(".html").read_text()
    assert re.search(r"best: 0\.\d{3} in epoch \d", page)
    assert "data:image/png" in page
    done = run_train("predict", finished, store, "-o", tmp_path / "pred.zarr")
    assert done.returncode == 0, done.stderr
    predicted, labels = open_store(tmp_path / "pred.zarr"), open_store(store)
    mask, label = predicted["frame_mask"].values[:, 0] > 0, labels["mask"].values > 0
    assert [int((mask & label).sum()), int((mask & ~label).sum()), int((~mask & label).sum())] == [
        result["tp"],
        result["fp"],
        result["fn"],
    ]
    assert result["dice"] == 2 * result["tp"] / (2 * result["tp"] + result["fp"] + result["fn"])
    assert predicted.attrs["parent"] == labels.attrs["digest"]


def test_predictions_lie_on_the_grid_of_the_stores_own_labels(store: Path, finished: Path, tmp_path: Path) -> None:
    import torch

    from contrail_train.data.augment import to_label_frame
    from contrail_train.inference.load import load_model

    settings = StoreSettings(COMPOSITES["ash"], size=64, label_shift=(0.0, 0.0))
    build_small(store.parent / "raw", tmp_path / "unshifted.zarr", settings=settings)
    image = open_store(store)["image"].values[:2, 4:5]
    model = load_model(finished)
    shifted = model.for_store(open_store(store)).predict(image).probability
    plain = model.for_store(open_store(tmp_path / "unshifted.zarr")).predict(image).probability
    np.testing.assert_allclose(to_label_frame(torch.from_numpy(plain)[:, None], (0.5, 0.5))[:, 0], shifted, atol=1e-6)
    assert np.abs(plain - shifted).max() > 1e-4


def test_the_digest_of_predictions_does_not_depend_on_the_path_of_the_store(
    store: Path, finished: Path, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(store)
    for name, path in (("a.zarr", store), ("b.zarr", tmp_path / "link")):
        assert run_train("predict", finished, path, "-o", tmp_path / name).returncode == 0
    a, b = open_store(tmp_path / "a.zarr").attrs, open_store(tmp_path / "b.zarr").attrs
    assert a["digest"] == b["digest"]
    assert "statistics" not in a


@pytest.mark.slow
def test_a_classifier_evaluates_and_predicts_records(store: Path, unseen: Path, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "classifier"
    options = set_options(*TINY, "model.decoder=null", "model.record_head={}", f"data.train={store}")
    done = run_train("run", "unet2d", "--out", out, *options)
    assert done.returncode == 0, done.stderr
    assert "Dice of records" in done.stdout
    store = unseen
    done = run_train("evaluate", out, store)
    assert done.returncode == 0, done.stderr
    (path,) = out.glob("evaluation-*.json")
    result = json.loads(path.read_text())
    assert result["tp"] + result["fn"] == 12 == result["positive_records"]
    failed = run_train("predict", out, store, "-o", tmp_path / "none.zarr")
    assert failed.returncode == 1
    assert "classifies records, not pixels" in failed.stderr

    table = tmp_path / "records.csv"
    done = run_train("predict", out, store, "-o", table, "--batch", "5")
    assert done.returncode == 0, done.stderr
    with table.open() as file:
        rows = list(csv.DictReader(file))
    opened = open_store(store)
    assert [row["record_id"] for row in rows] == opened["record_id"].values.tolist()
    assert {row["store"] for row in rows} == {opened.attrs["digest"]}
    is_positive = opened["positive_pixels"].values > 0
    is_predicted = np.array([row["contrail"] == "1" for row in rows])
    assert (int((is_predicted & is_positive).sum()), int((is_predicted & ~is_positive).sum())) == (
        result["tp"],
        result["fp"],
    )
    assert run_train("predict", out, store, "-o", table).returncode == 1  # exists
    assert run_train("predict", out, store, "-o", table, "--frames", "all", "--overwrite").returncode == 0
    assert len(table.read_text().splitlines()) == 1 + 16 * 8
    refused = run_train("predict", finished, store, "-o", tmp_path / "masks.csv")
    assert "predicts pixels only" in refused.stderr


def test_windows_are_read_while_others_are_classified(
    finished: Path, unseen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, second_read, overlapped = open_store(unseen), threading.Event(), []
    model, read_with = replace(load_model(finished, "cpu"), head="record"), Predictor.window_reader

    def window_reader(model: Predictor, store: xr.Dataset) -> Callable[[Sequence[tuple[int, int]]], np.ndarray]:
        def read(windows: Sequence[tuple[int, int]]) -> np.ndarray:
            if windows[0][0] > 0:
                second_read.set()
            return read_with(model, store)(windows)

        return read

    def detect(window_btchw: torch.Tensor, valid_bhw: torch.Tensor | None) -> Prediction:
        overlapped.append(second_read.wait(timeout=60))
        return model.detect(window_btchw, valid_bhw)

    monkeypatch.setattr(Predictor, "window_reader", window_reader)
    table = tmp_path / "records.csv"
    count = record_table(replace(model, detect=detect), store, table, frames=LABELLED_FRAME, batch=3)
    assert len(overlapped) > 1
    assert all(overlapped)
    assert count == store.sizes["sample"] == len(table.read_text().splitlines()) - 1


def test_only_pixels_of_another_size_are_warned_about(
    finished: Path, unseen: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, store = load_model(finished, "cpu"), open_store(unseen)
    replace(model, size=2 * model.size).for_store(store)
    replace(model, pixel=1.07 * model.pixel).for_store(store)  # a tile of OpenContrails beside the median of all
    assert not caplog.messages
    replace(model, pixel=2 * model.pixel).for_store(store)
    assert "contrails differ in width" in caplog.text


@pytest.mark.slow
def test_a_run_that_repeats_edges_predicts_every_frame(store: Path, unseen: Path, tmp_path: Path) -> None:
    settings = [*SHORT, "model.mixer={kind: mean}", "data.frames=[-2,0]", "data.edges=repeat", f"data.train={store}"]
    fit(with_settings(get_config("unet2d"), settings), tmp_path / "run")
    model, parent = load_model(tmp_path / "run"), open_store(unseen)
    write_labels(parent, model.labeller_for(parent), tmp_path / "all.zarr", kind=Kind.PREDICTIONS)
    labels = open_store(tmp_path / "all.zarr")
    assert labels["frame"].values.tolist() == [list(range(8))] * parent.sizes["sample"]
    repeated = model.for_store(parent).predict(parent["image"].values[:1, [0, 0]])
    np.testing.assert_allclose(decode(labels["logit"].values[0, 0]), repeated.probability[0], rtol=2e-3)


@pytest.mark.slow
def test_the_dice_that_a_score_head_expects_is_score_and_confidence_also_in_an_exported_file(
    store: Path, unseen: Path, tmp_path: Path
) -> None:
    run_steps(store, out := tmp_path / "run", "model.score_head={}", "epochs=1", "data.holdout=0.3", steps=None)
    model = load_model(out)
    assert isinstance(model.detect, Detector)
    image = torch.from_numpy(open_store(unseen)["image"].values[:4, 4:5])
    with torch.no_grad():
        network = model.detect.networks["run"]
        expected_b = network.model(normalise(image, network.view))["score_logit_b1"][:, 0].sigmoid()  # type: ignore[operator,arg-type]
        torch.testing.assert_close(model.detect(image).score_b, expected_b)
    export(model, tmp_path / "model.pt2")
    for name, predictor in (("run", model), ("file", load_model(tmp_path / "model.pt2"))):
        labeller = predictor.labeller_for(opened := open_store(unseen))
        open_gate = replace(labeller.decision, threshold=0.0, gate=0.0)
        write_labels(opened, replace(labeller, decision=open_gate), tmp_path / f"{name}.zarr", kind=Kind.PREDICTIONS)
        written = open_store(tmp_path / f"{name}.zarr")
        np.testing.assert_array_equal(written["frame_confidence"].values, written["frame_score"].values)
