"""What a run directory holds, and who may write to it."""

from __future__ import annotations

import errno
import json
import os
import signal
from pathlib import Path

import pytest

from contrail_data.errors import ContrailError
from contrail_data.store.reader import open_store
from contrail_train.runs.begun import locked_directory
from contrail_train.runs.names import CONFIG
from helpers.cli import run_train
from helpers.runs import TINY, run_steps, set_options


def test_a_run_directory_records_settings_stores_losses_and_calibration(store: Path, finished: Path) -> None:
    import yaml

    config = yaml.safe_load((finished / "config.yaml").read_text())
    assert config["model"]["encoder"] == "test_resnet"
    assert config["data"]["train"] == [str(store)]
    environment = json.loads((finished / "environment.json").read_text())
    assert environment["stores"] == {str(store): open_store(store).attrs["digest"]}
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < losses[0]
    calibration = json.loads((finished / "calibration.json").read_text())
    assert calibration["statistics"] == open_store(store).attrs["statistics"]
    assert len(calibration["holdout_records"]) == calibration["holdout"]["records"] > 0
    assert list((finished / "tensorboard").iterdir())


def test_a_run_that_never_trained_can_be_corrected(store: Path, tmp_path: Path) -> None:
    options = set_options(*TINY, f"data.train={store}", "epochs=1")
    failed = run_train("run", "unet2d", "--out", tmp_path / "r", *options, *set_options("model.encoder=resnet10"))
    assert failed.returncode == 1
    assert "did you mean resnet10t" in failed.stderr
    assert run_train("run", "unet2d", "--out", tmp_path / "r", *options).returncode == 0


def test_a_full_disk_is_reported_and_an_empty_directory_removed(tmp_path: Path) -> None:
    refused = pytest.raises(
        ContrailError, match=r"metrics.jsonl: cannot be used \(No space left on device\); make room"
    )
    with refused, locked_directory(tmp_path / "r", CONFIG, "run directory"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "metrics.jsonl")
    assert not (tmp_path / "r").exists()


def test_a_second_process_in_one_run_directory_is_refused(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "r"
    run_steps(store, out, steps=1)
    reading, writing = os.pipe()
    other = os.fork()
    if other == 0:
        try:
            with locked_directory(out, CONFIG, "run directory"):
                os.write(writing, b"held")
                signal.pause()
        finally:
            os._exit(1)
    os.close(writing)
    try:
        assert os.read(reading, 4) == b"held"
        begun = (out / CONFIG).read_bytes()
        with pytest.raises(ContrailError, match=f"in use by process {other} "):
            run_steps(store, out, "seed=3", steps=2)
        assert (out / CONFIG).read_bytes() == begun
    finally:
        os.kill(other, signal.SIGKILL)
        os.waitpid(other, 0)
        os.close(reading)
    assert len(run_steps(store, out, steps=2)) == 2
