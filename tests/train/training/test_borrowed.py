"""Thresholds of runs that train on all records, taken from runs that held some of them out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from contrail_data.errors import ContrailError
from contrail_data.labels.predictor import Symmetries
from contrail_data.settings.fields import known_keys
from contrail_data.settings.parse import validated
from contrail_train.cli.common import print_holdout
from contrail_train.config.presets import get_config
from contrail_train.config.schema import RunConfig
from contrail_train.config.settings import to_explained_yaml, with_settings
from contrail_train.evaluation.held_out import calibrate_on_held_out, held_out_records
from contrail_train.evaluation.score import EvaluationOptions
from contrail_train.inference.load import load_model
from contrail_train.runs.calibration import read_calibration
from contrail_train.training.fit import fit
from contrail_train.training.setup import Setup
from contrail_train.workflows.soup import average_runs
from contrail_train.workflows.symmetries import load_predictor
from helpers.runs import SHORT


@pytest.fixture(scope="module")
def folds(store: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs that hold out the two halves of the records."""
    root = tmp_path_factory.mktemp("folds")
    for fold in range(2):
        settings = [*SHORT, f"data.train={store}", "data.holdout=0.5", f"data.fold={fold}"]
        fit(with_settings(get_config("unet2d"), settings), root / str(fold))
    return [root / "0", root / "1"]


def settings_on_all(store: Path, folds: list[Path], *more: str) -> list[str]:
    sources = ",".join(map(str, folds))
    return [*SHORT, f"data.train={store}", "data.holdout=0", f"calibration.from=[{sources}]", *more]


@pytest.mark.slow
def test_a_run_on_all_records_takes_the_threshold_of_all_folds_together(
    store: Path, folds: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(with_settings(get_config("unet2d"), settings_on_all(store, folds)), tmp_path / "all")
    print_holdout("", read_calibration(tmp_path / "all"), reason="")
    assert f"held-out records of {folds[0]}, {folds[1]}, which" in " ".join(capsys.readouterr().out.split())
    calibration = read_calibration(tmp_path / "all")
    models = [load_model(fold, "cpu") for fold in folds]
    taken = calibration["taken_from"]
    assert taken["models"] == {str(model.path): model.decision.model for model in models}
    assert taken["scores"]["records"] == 16  # each record once, predicted by the run that held it out
    assert calibration["holdout"] is None
    options = EvaluationOptions(models[0].device, title=None)
    together = calibrate_on_held_out(models, options).choice
    assert (calibration["threshold"], calibration["gate"]) == (together.threshold, together.gate)
    assert calibration["threshold"] != 0.5
    assert calibration["min_pixels"] == together.min_pixels

    soup = average_runs([tmp_path / "all"] * 2, tmp_path / "soup", "cpu")
    assert (soup["threshold"], soup["taken_from"]) == (calibration["threshold"], taken)
    turned = load_predictor(tmp_path / "all", "cpu", Symmetries.FLIPS)
    by_folds = [load_model(fold, "cpu", Symmetries.FLIPS) for fold in folds]
    assert turned.decision.threshold == calibrate_on_held_out(by_folds, options).choice.threshold


@pytest.mark.slow
def test_records_of_all_folds_decide_as_those_of_one_model_would(folds: list[Path]) -> None:
    """One model twice, with the halves of its records, is the model with all of them."""
    from contrail_train.evaluation.calibrate import HeldOut, calibrate

    model = load_model(folds[0], "cpu")
    items, options = held_out_records(model), EvaluationOptions(model.device, title=None)
    halves = [items[np.arange(0, 3)], items[np.arange(3, len(items))]]
    whole, *parts = [HeldOut(model.detect, part, model.label_offset) for part in (items, *halves)]
    assert calibrate(parts, options) == calibrate([whole], options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("top_k=50", "differs from this run in top_k"),
        ("data.target=mean", "differs from this run in targets"),
        ("augment.label_shift=[0,0]", "differs from this run in label shift"),
        ("model.record_head={}", "differs from this run in heads"),
    ],
)
def test_thresholds_that_would_mean_something_else_are_refused(
    store: Path, folds: list[Path], change: str, message: str
) -> None:
    config = with_settings(get_config("unet2d"), settings_on_all(store, folds, change))
    with pytest.raises(ContrailError, match=message):
        Setup(config)


def test_other_settings_of_the_folds_are_named(
    store: Path, folds: list[Path], capfd: pytest.CaptureFixture[str]
) -> None:
    Setup(with_settings(get_config("unet2d"), settings_on_all(store, folds, "loss.dice=1")))
    assert "whose best threshold may differ: loss.dice" in " ".join(capfd.readouterr().err.split())


def test_a_threshold_is_taken_from_elsewhere_only_without_a_hold_out() -> None:
    with pytest.raises(ContrailError, match=r"calibration\.from: has no effect"):
        with_settings(RunConfig(), ["calibration.from=runs/a"])


def test_the_held_out_records_of_a_model_are_not_counted_twice() -> None:
    with pytest.raises(ContrailError, match="names runs/a twice"):
        with_settings(RunConfig(), ["data.holdout=0", "calibration.from=[runs/a,runs/b,runs/a]"])


def test_a_setting_that_is_a_word_of_python_is_written_and_read_as_such() -> None:
    config = with_settings(RunConfig(), ["data.holdout=0", "calibration.from=runs/a"])
    assert config.calibration.from_ == ["runs/a"]
    assert "calibration.from" in known_keys(RunConfig)
    assert "\n  from: [runs/a]" in to_explained_yaml(config)
    assert validated(RunConfig, json.loads(config.model_dump_json()), "json") == config
    with pytest.raises(ContrailError, match=r"calibration\.from: cannot be '3'; give a list"):
        with_settings(RunConfig(), ["calibration.from=3"])
