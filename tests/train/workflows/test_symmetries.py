"""Thresholds of models that average over other symmetries than those they were calibrated with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from contrail_data.errors import ContrailError
from contrail_data.labels.predictor import Symmetries
from contrail_data.store.reader import open_store
from contrail_train.evaluation.held_out import held_out_records
from contrail_train.evaluation.metrics import best_threshold, dice
from contrail_train.evaluation.score import EvaluationOptions, score
from contrail_train.inference import load
from contrail_train.inference.predictor import Predictor
from contrail_train.runs.calibration import read_calibration
from contrail_train.workflows.symmetries import load_predictor
from helpers.cli import run_train


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def holdout_dice_at(model: Predictor, threshold: float) -> tuple[float, float]:
    """Dice of the model's held-out records at a threshold, and the best."""
    options = EvaluationOptions(torch.device("cpu"), title=None)
    scores = score(model.detect_on_label_grid, held_out_records(model), options, threshold)
    return float(dice(*scores.counts.sum(1))), best_threshold(scores.histogram.sum(0))[1]


@pytest.mark.slow
def test_the_threshold_is_fitted_with_the_symmetries_and_kept_beside_the_calibration(run: Path, unseen: Path) -> None:
    own = load_predictor(run, "cpu")
    assert held_out_records(own).record_id.tolist() == read_calibration(run)["holdout_records"]
    turned = load_predictor(run, "cpu", Symmetries.DIHEDRAL)
    at_refitted, best = holdout_dice_at(turned, turned.decision.threshold)
    assert at_refitted == best >= holdout_dice_at(turned, own.decision.threshold)[0]
    file = run / "calibration-dihedral.json"
    kept = json.loads(file.read_text())
    assert kept["threshold"] == turned.decision.threshold != own.decision.threshold
    assert load_predictor(run, "cpu", Symmetries.NONE).decision == own.decision
    assert not (run / "calibration-none.json").exists()

    old = {key: value for key, value in kept.items() if key != "digest"}
    file.write_text(json.dumps(old | {"threshold": 0.25}))  # read, not fitted again
    assert load_predictor(run, "cpu", Symmetries.DIHEDRAL).decision.threshold == 0.25
    for damaged in (kept | {"threshold": 0.25}, old | {"threshold": 2}, old | {"model": "sha256:other"}, {}):
        file.write_text(json.dumps(damaged))
        assert load_predictor(run, "cpu", Symmetries.DIHEDRAL).decision == turned.decision
        assert json.loads(file.read_text()) == kept
    done = run_train("predict", run, unseen, "-o", run.parent / "p.zarr", "--tta", "dihedral")
    assert done.returncode == 0, done.stderr
    assert open_store(run.parent / "p.zarr").attrs["threshold"] == turned.decision.threshold


def test_a_threshold_is_not_guessed_where_the_held_out_records_cannot_be_read(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str) -> None:
        raise ContrailError(f"{name}: gone.zarr does not exist")

    monkeypatch.setattr("contrail_train.runs.stores.open_named", refuse)
    with pytest.raises(ContrailError, match=r"gone\.zarr.*are needed to fit threshold and gate with --tta flips"):
        load_predictor(run, "cpu", Symmetries.FLIPS)
    assert load.load_model(run, "cpu").decision == load_predictor(run, "cpu").decision


def test_a_directory_that_cannot_be_written_is_used_all_the_same(
    run: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from contrail_train.workflows import symmetries

    def refuse(path: Path, value: object) -> None:
        raise ContrailError(f"{path}: cannot be written")

    monkeypatch.setattr(symmetries, "write_json", refuse)
    decision = load_predictor(run, "cpu", Symmetries.FLIPS).decision
    assert "not kept" in capfd.readouterr().err
    monkeypatch.undo()
    assert load_predictor(run, "cpu", Symmetries.FLIPS).decision == decision


@pytest.mark.slow
def test_pipelines_fit_thresholds_of_other_symmetries_too(pipeline: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(pipeline, tmp_path / "p"))
    own, turned = (load_predictor(path, "cpu", symmetries) for symmetries in (None, Symmetries.FLIPS))
    assert held_out_records(own).record_id.tolist() == read_calibration(path)["holdout_records"]
    assert np.isclose(*holdout_dice_at(turned, turned.decision.threshold))
    assert (path / "calibration-flips.json").is_file()
