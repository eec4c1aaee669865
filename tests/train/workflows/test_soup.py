"""Averages of the weights of several runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from contrail_data.errors import ContrailError
from contrail_train.evaluation.held_out import calibrate_on_held_out
from contrail_train.evaluation.score import EvaluationOptions
from contrail_train.inference.load import load_model
from contrail_train.runs.calibration import finish, read_calibration
from contrail_train.workflows.soup import average_runs
from helpers.cli import run_train
from helpers.runs import SHORT, set_options


@pytest.mark.slow
def test_a_soup_keeps_frozen_statistics_and_recomputes_others(store: Path, tmp_path: Path) -> None:
    for name, frozen in (("frozen", "[batch_norm]"), ("free", "[]")):
        run, out = tmp_path / name, tmp_path / f"{name}-soup"
        options = set_options(*SHORT, f"data.train={store}", f"model.freeze={frozen}", "augment.label_shift=[0,0]")
        assert run_train("run", "unet2d", "--out", run, *options).returncode == 0
        assert run_train("soup", run, run, "--out", out).returncode == 0
        one, other = (load_file(path / "best.safetensors") for path in (run, out))
        differ = {key.rpartition(".")[2] for key in one if not torch.equal(one[key], other[key])}
        assert differ - {"num_batches_tracked"} == (set() if name == "frozen" else {"running_mean", "running_var"})
        if name == "frozen":
            first, second = (json.loads((path / "calibration.json").read_text())["holdout"] for path in (run, out))
            known = [key for key, value in first.items() if value is not None]  # a few groups have no interval
            assert [second[key] for key in known] == pytest.approx([first[key] for key in known], rel=1e-3)
        else:
            two = tmp_path / "two"
            assert (
                run_train("run", "unet2d", "--out", two, *options, "--set", "data.second_target=mean").returncode == 0
            )
            refused = run_train("soup", run, two, "--out", tmp_path / "mixed")
            assert f"{two}: its data.second_target is not that of {run}" in refused.stderr


@pytest.mark.slow
def test_a_soup_takes_its_threshold_from_others_only_if_no_run_held_records_out(finished: Path, tmp_path: Path) -> None:
    calibration, model = read_calibration(finished), load_model(finished, "cpu")
    scores = calibration["holdout"]
    assert scores is not None
    borrowed = {"taken_from": {"models": {str(finished): model.decision.model}, "scores": scores}}
    on_all = {"holdout": None, "holdout_records": [], "holdout_groups": [], "holdout_counts": None, "threshold": 0.5}
    runs = {"own": {}, "both": borrowed, "lent": on_all | borrowed, "none": on_all}
    for name, changes in runs.items():
        finish(Path(shutil.copytree(finished, tmp_path / name)), calibration | changes)  # type: ignore[operator]
    soups = {
        pair: average_runs([tmp_path / name for name in pair], tmp_path / "-".join(pair), "cpu")
        for pair in (("both", "own"), ("none", "lent"), ("none", "none"))
    }
    assert "taken_from" not in soups["both", "own"]
    assert soups["both", "own"]["holdout"] is not None
    lent, fitted_there = (
        soups["none", "lent"],
        calibrate_on_held_out([model], EvaluationOptions(model.device, title=None)),
    )
    assert lent["taken_from"]["models"] == borrowed["taken_from"]["models"]
    assert lent["threshold"] == fitted_there.choice.threshold != 0.5
    assert soups["none", "none"]["threshold"] == 0.5
    borrowed["taken_from"]["models"][str(finished)] = "sha256:another"
    finish(tmp_path / "lent", calibration | on_all | borrowed)  # type: ignore[operator]
    with pytest.raises(ContrailError, match="is not the model that the run took its threshold from"):
        average_runs([tmp_path / "lent"] * 2, tmp_path / "changed", "cpu")
