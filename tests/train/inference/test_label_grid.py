"""The learned map from the frame of the masks onto the grid of the labels."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from contrail_data.labels.predictor import Symmetries
from contrail_data.scans.listing import list_abi_scans
from contrail_data.store.reader import open_store
from contrail_data.synthetic.abi import write_abi
from contrail_train.data.augment import to_label_frame
from contrail_train.evaluation.report import evaluate_store
from contrail_train.inference.export import export
from contrail_train.inference.exported import load_exported
from contrail_train.inference.label_grid import NO_MOMENTS, centre_of_mass, moments, solve, to_learned_grid
from contrail_train.inference.load import load_model
from contrail_train.runs.calibration import LabelGrid, finish, read_calibration
from contrail_train.scenes.predict import predict_scan
from contrail_train.scenes.tiling import Tiling
from contrail_train.workflows import symmetries
from contrail_train.workflows.symmetries import load_predictor
from helpers.exports import CPU, SIDE, one_stub, predictor

KERNEL = np.outer([0, 0.1, 0.6, 0.1, 0], [0, 0.3, 0.5, 0, 0]).tolist()
GRID: LabelGrid = {"shift": [0.5, 0.5], "kernel": KERNEL, "bias": 0.01, "fixed_threshold": 0.3}


def learned(shift: tuple[float, float], truth: tuple[float, float], missing: int = 0) -> LabelGrid:
    """Learn from labels that are drawn with the probabilities of an image that is moved by the true shift."""
    rng, summed = np.random.default_rng(0), np.zeros(NO_MOMENTS)
    for _ in range(25):
        p = torch.from_numpy(rng.random((200, 200), np.float32) ** 2)
        label = rng.random((200, 200)) < to_label_frame(p[None, None], truth)[0, 0].numpy()
        valid = np.ones((200, 200), bool)
        valid[:missing] = False
        label[:missing] = True
        summed += moments(p, shift, label, valid)
    return solve(summed, shift, 0.5)


@pytest.mark.parametrize("truth", [(0.5, 0.5), (0.3, 0.5), (0.0, 1.25), (-0.75, 0.5)])
def test_the_weights_of_a_bilinear_shift_are_recovered_from_labels(truth: tuple[float, float]) -> None:
    """Labels follow the moved probabilities on average, so least squares tend to the weights that move them."""
    grid = learned((0.5, 0.5), truth)
    at_centre = np.zeros((5, 5))
    at_centre[2, 2] = 1
    expected = ndimage.shift(at_centre, [-t for t in truth], order=1)  # where a label looks
    np.testing.assert_allclose(grid["kernel"], expected, atol=0.03)
    assert centre_of_mass(grid) == pytest.approx(truth, abs=0.1)
    assert grid["bias"] == pytest.approx(0, abs=0.03)


def test_without_labels_it_is_the_fixed_shift() -> None:
    p_bhw = torch.rand(2, 12, 17)
    for shift in ((0.5, 0.5), (0.0, 0.0), (1.25, -2.5)):
        moved = to_learned_grid(p_bhw, solve(np.zeros(NO_MOMENTS), shift, 0.5))
        torch.testing.assert_close(moved, to_label_frame(p_bhw, shift), atol=1e-6, rtol=0)


def test_labels_of_missing_pixels_teach_nothing() -> None:
    with_missing = learned((0.5, 0.5), (0.5, 0.5), missing=20)
    np.testing.assert_allclose(with_missing["kernel"], learned((0.5, 0.5), (0.5, 0.5))["kernel"], atol=0.05)


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A run that uses a learned map."""
    path = Path(shutil.copytree(finished, tmp_path / "run"))
    finish(path, read_calibration(path) | {"label_grid": GRID})
    return path


def test_a_calibration_keeps_the_map_and_predictions_and_scores_use_it(
    run: Path, finished: Path, unseen: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(unseen)
    assert read_calibration(run)["label_grid"] == GRID
    plain, model = (load_model(path, "cpu").for_store(store) for path in (finished, run))
    window_btchw = store["image"].values[:, 4:5]
    p, image_p = model.predict(window_btchw).probability, plain.detect(torch.from_numpy(window_btchw), None)[0]
    torch.testing.assert_close(torch.from_numpy(p), to_learned_grid(image_p, GRID), atol=1e-6, rtol=0)
    values = evaluate_store(model, store, name="s", out=run.parent / "out", pictures=0).values
    mask, label = p >= model.decision.threshold, store["mask"].values > 0
    assert values["tp"] == (mask & label).sum() > 0
    assert values["fp"] == (mask & ~label).sum()
    assert plain.decision.threshold == model.decision.threshold
    assert plain.decision.model != model.decision.model  # another model, as it predicts something else
    assert not caplog.records


def test_labels_that_lie_elsewhere_get_the_fixed_shift_and_its_threshold(
    run: Path, unseen: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(unseen).assign_attrs(label_shift=[0.0, 0.0])
    with caplog.at_level(logging.WARNING):
        model = load_model(run, "cpu").with_cleaning("2").for_store(store)
    assert "the learned label grid is not used" in caplog.text
    assert model.label_grid is None
    assert model.decision.threshold == model.cleaning.threshold == GRID["fixed_threshold"]  # type: ignore[union-attr]


def test_scans_stay_in_the_frame_of_the_image(run: Path, finished: Path, tmp_path: Path) -> None:
    write_abi(tmp_path / "abi", np.datetime64("2024-03-01T12:00"), scans=1, seed=3, size=(80, 90))
    scans = list_abi_scans(str(tmp_path / "abi"), (11, 14, 15)).scans

    def scene(path: Path):
        model = replace(load_model(path, "cpu"), label_shift=(0.0, 0.0))  # as of labels that lie on the image
        return predict_scan(model, scans, np.datetime64("2024-03-01T12:00"), Tiling(model.size, 0.5))

    mapped, plain = scene(run), scene(finished)
    np.testing.assert_array_equal(mapped["probability"], plain["probability"])
    assert mapped.attrs["threshold"] == GRID["fixed_threshold"]


@pytest.mark.slow
def test_an_exported_file_states_the_map_and_draws_its_masks_in_the_frame_of_the_image(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = predictor(one_stub(off=(0.5, 0.5)))
    grid = GRID | {"shift": list(plain.label_offset), "fixed_threshold": plain.decision.threshold}
    model = replace(plain, decision=replace(plain.decision, threshold=0.1)).with_label_grid(grid)
    export(model, tmp_path / "a.pt2")
    read = load_exported(tmp_path / "a.pt2", CPU)
    assert replace(read, detect=model.detect, path=model.path) == model
    window = np.random.default_rng(0).integers(0, 256, (2, 1, 3, SIDE, SIDE), np.uint8)
    np.testing.assert_allclose(read.predict(window).probability, model.predict(window).probability, atol=5e-5)
    mask = torch.export.load(tmp_path / "a.pt2").module()(torch.from_numpy(window))["mask"]
    assert 0 < int(mask.sum()) < mask.numel()  # at 0.1 all pixels would be contrail


@pytest.mark.slow
def test_another_map_is_learned_with_other_symmetries(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_predictor(run, "cpu").label_grid == GRID
    assert load_predictor(run, "cpu", Symmetries.FLIPS).label_grid is None  # the run's settings ask for none
    monkeypatch.setattr(symmetries, "GRID_WHEN", {"fixed": "always"})
    model = load_predictor(run, "cpu", Symmetries.DIHEDRAL)
    assert model.label_grid is not None
    assert model.label_grid["kernel"] != KERNEL
    monkeypatch.setattr(symmetries, "calibrate_on_held_out", lambda *_: pytest.fail("fitted again"))
    assert load_predictor(run, "cpu", Symmetries.DIHEDRAL).label_grid == model.label_grid
