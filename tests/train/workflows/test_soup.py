"""Averages of the weights of several runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

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
