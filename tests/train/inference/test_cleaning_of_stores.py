"""Masks of stores, cleaned as masks of scans are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import ndimage

from contrail_data.errors import ContrailError, UsageError
from contrail_data.store.reader import open_store
from contrail_train.contrails.cleaning import Cleaning, clean, counts_by_size
from contrail_train.inference.detector import Prediction
from contrail_train.inference.load import load_model
from contrail_train.inference.predictor import Predictor
from helpers.cli import run_data, run_train

CLEANING = {"min_pixels": 4, "low": 0.65, "reach": 2, "fill": 0.6, "elongation": 1.2}


@pytest.fixture(scope="module")
def model(finished: Path) -> Predictor:
    """A predictor whose probability is the smoothed red channel, which has regions of many sizes."""

    def smoothed_red(window_btchw: torch.Tensor, valid_bhw: torch.Tensor | None = None) -> Prediction:
        red_bhw = torch.nn.functional.avg_pool2d(window_btchw[:, 0, :1].float(), 5, 1, 2)[:, 0]
        std_b11, mean_b11 = torch.std_mean(red_bhw, (1, 2), keepdim=True)
        p_bhw = torch.sigmoid((red_bhw - mean_b11) / std_b11)
        return Prediction(p_bhw, p_bhw.amax((1, 2)), torch.ones(len(p_bhw)))

    model = load_model(finished)
    return replace(model, detect=smoothed_red, decision=replace(model.decision, threshold=0.75, gate=0.0))


def large_regions(mask_yx: np.ndarray, pixels: int) -> np.ndarray:
    """Remove regions of fewer pixels, one after the other."""
    labels, count = ndimage.label(mask_yx, np.ones((3, 3)))
    return np.isin(labels, [i for i in range(1, count + 1) if (labels == i).sum() >= pixels])


def predicted(run: Path, store: Path, out: Path, *args: object) -> xr.Dataset:
    done = run_train("predict", run, store, "-o", out, *args)
    assert done.returncode == 0, done.stderr
    return open_store(out)


@pytest.mark.slow
def test_small_regions_are_removed_from_predictions_and_pseudo_labels(
    finished: Path, unseen: Path, tmp_path: Path
) -> None:
    plain = predicted(finished, unseen, tmp_path / "plain.zarr")
    cleaned = predicted(finished, unseen, tmp_path / "cleaned.zarr", "--min-pixels", 9)
    expected = np.array([large_regions(mask, 9) for mask in plain["frame_mask"].values[:, 0]])
    assert 0 < expected.sum() < plain["frame_mask"].values.sum()
    np.testing.assert_array_equal(cleaned["frame_mask"].values[:, 0], expected)
    np.testing.assert_array_equal(cleaned["logit"].values, plain["logit"].values)
    assert cleaned.attrs["cleaning"] == {"min_pixels": 9}
    assert "cleaning" not in plain.attrs
    assert cleaned.attrs["digest"] != plain.attrs["digest"]
    done = run_data("pseudo-label", unseen, "--model", finished, "-o", tmp_path / "pseudo.zarr", "--min-pixels", 9)
    assert done.returncode == 0, done.stderr
    pseudo, human = open_store(tmp_path / "pseudo.zarr"), open_store(unseen)
    assert pseudo.attrs["cleaning"] == {"min_pixels": 9}
    labelled = int(human["labelled_frame"].values[0])
    np.testing.assert_array_equal(pseudo["frame_mask"].values[:, labelled], human["mask"].values)


def test_neighbours_in_time_are_predicted_where_they_are_not_selected(model, unseen: Path) -> None:
    """The mask of one frame is that of cleaning all frames together, at the ends of a sample as well."""
    store = open_store(unseen)
    own = model.for_store(store)
    image = store["image"].values[:6]
    p_btyx = np.stack([own.predict(one[:, np.newaxis]).probability for one in image])
    whole = [clean(p_tyx, np.ones(p_tyx.shape, bool), Cleaning(0.75, **CLEANING)) for p_tyx in p_btyx]
    assert 0 < np.sum(whole) < (p_btyx >= 0.6).sum()
    steps = {"hysteresis": 0.65, "consistent": 2, "fill_gaps": 0.6, "elongation": 1.2}
    make = own.with_cleaning("4", **steps).mask_maker(store)
    for sample, frames in [(0, [4]), (1, [0]), (2, [7]), (3, [1, 4]), (4, list(range(8))), (5, [6, 7])]:
        masks = make(sample, frames, p_btyx[sample][frames], None)
        np.testing.assert_array_equal(masks, whole[sample][frames])


@pytest.mark.slow
def test_an_evaluation_counts_the_cleaned_masks(finished: Path, unseen: Path, tmp_path: Path) -> None:
    cleaned = predicted(finished, unseen, tmp_path / "p.zarr", "--min-pixels", 6, "--consistent", 3)
    done = run_train("evaluate", finished, unseen, "-o", tmp_path, "--worst", 0, "--min-pixels", 6, "--consistent", 3)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("evaluation-*.json")
    values = json.loads(path.read_text())
    mask, label = cleaned["frame_mask"].values[:, 0] > 0, open_store(unseen)["mask"].values > 0
    counts = [(mask & label).sum(), (mask & ~label).sum(), (~mask & label).sum()]
    assert [values["tp"], values["fp"], values["fn"]] == counts
    assert values["cleaning"] == {"min_pixels": 6, "reach": 3}
    assert "masks cleaned by min_pixels, reach" in path.with_suffix(".html").read_text()


def test_a_step_without_neighbouring_frames_is_refused(model, unseen: Path, tmp_path: Path) -> None:
    store = open_store(unseen)
    own = model.for_store(store).with_cleaning(consistent=3)
    with pytest.raises(UsageError, match="--consistent: has no effect on 1 time"):
        own.mask_maker(store.isel(time=[0]))
    for text in ("0", "-3", "2.5", "x", str(2**40)):
        with pytest.raises(UsageError, match="--min-pixels"):
            model.with_cleaning(text)


def test_counts_by_size_are_those_of_masks_without_small_regions() -> None:
    rng = np.random.default_rng(0)
    mask, target = ndimage.uniform_filter(rng.random((2, 60, 70)), (0, 3, 3)) > 0.52
    for size, counts in zip((1, 3, 20), counts_by_size(mask, target, (1, 3, 20)), strict=True):
        kept = large_regions(mask, size)
        assert counts.tolist() == [(kept & target).sum(), (kept & ~target).sum(), (~kept & target).sum()]


def test_the_fitted_size_has_the_best_dice_on_the_hold_out(finished: Path, store: Path, tmp_path: Path) -> None:
    """Against a loop over sizes of predictions of the held-out records."""
    calibration = json.loads((finished / "calibration.json").read_text())
    plain = predicted(finished, store, tmp_path / "plain.zarr")
    held = [record_id in calibration["holdout_records"] for record_id in plain["record_id"].values.tolist()]
    masks, labels = plain["frame_mask"].values[held, 0] > 0, open_store(store)["mask"].values[held] > 0
    dice = {}
    for size in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256):
        kept = np.array([large_regions(mask, size) for mask in masks])
        dice[size] = 2 * (kept & labels).sum() / (kept.sum() + labels.sum())
    assert calibration["min_pixels"] == max(dice, key=dice.get)
    assert 0 <= calibration["min_pixels_dice"] <= 1
    fitted = predicted(finished, store, tmp_path / "fitted.zarr", "--min-pixels", "fit")
    given = predicted(finished, store, tmp_path / "given.zarr", "--min-pixels", calibration["min_pixels"])
    assert fitted.attrs["digest"] == given.attrs["digest"]


def test_a_run_of_an_earlier_version_has_no_fitted_size(model, unseen: Path) -> None:
    with pytest.raises(ContrailError, match="has no fitted --min-pixels"):
        replace(model, min_pixels=None).with_cleaning("fit")
