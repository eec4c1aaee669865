"""Lists of runs: state, scores and what differs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from contrail_train.config.presets import get_config
from contrail_train.config.settings import to_yaml, with_settings
from contrail_train.runs.begun import locked_directory
from contrail_train.runs.listing import State, find_runs, settings_that_differ, summarise
from contrail_train.runs.names import CONFIG
from helpers.cli import run_train
from helpers.runs import run_steps


@pytest.fixture(scope="module")
def folder(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, one that was stopped after its first epoch, and one that was killed before its checkpoint."""
    root = tmp_path_factory.mktemp("runs")
    run_steps(store, root / "a", "epochs=1", steps=None)
    run_steps(store, root / "deeper/b", "optim.lr=1e-2", "data.crop=32", steps=4)
    run_steps(store, root / "c", steps=1)
    (root / "other").mkdir()
    (root / "other" / CONFIG).write_text("not: ours\n")
    return root


def test_runs_are_listed_with_state_scores_and_what_differs(folder: Path) -> None:
    runs, problems = find_runs(folder)
    assert not problems
    assert [(run.path.name, run.state) for run in runs] == [
        ("a", State.FINISHED),
        ("c", State.BEGUN),
        ("b", State.STOPPED),
    ]
    a, c, b = runs
    calibration = json.loads((folder / "a/calibration.json").read_text())
    assert a.dice == a.scores["dice"] == calibration["holdout"]["dice"]
    assert c.dice is None
    assert b.dice == b.epochs[0]["holdout_dice"] == b.best["holdout_dice"]
    assert [*settings_that_differ(runs)[2]] == ["epochs", "data.crop", "optim.lr"]
    listed = run_train("runs", "ls", folder)
    assert listed.returncode == 0, listed.stderr
    lines = [line for line in listed.stdout.splitlines() if "unet2d" in line]
    assert [line.split()[0] for line in lines][-1] == "c"
    assert "optim.lr=0.01" in listed.stdout
    assert f"{a.dice:.4f}" in listed.stdout
    documents = json.loads(run_train("runs", "ls", folder, "--json").stdout)
    assert {document["state"] for document in documents} == {"finished", "stopped", "begun"}


def test_the_table_leaves_out_settings_of_the_preset(tmp_path: Path) -> None:
    settings = {"a": ("unet2d",), "b": ("unet2d", "optim.lr=1e-2"), "c": ("unet25d", "epochs=3"), "d": ("no_such",)}
    for name, (preset, *changes) in settings.items():
        config = with_settings(get_config("unet2d" if name == "d" else preset), changes)
        (tmp_path / name).mkdir()
        (tmp_path / name / CONFIG).write_text(to_yaml(config.model_copy(update={"preset": preset})))
        (tmp_path / name / "environment.json").write_text("{}")
    listed = run_train("runs", "ls", tmp_path)
    assert listed.returncode == 0, listed.stderr
    shown = {line.split()[0]: line.split()[4:] for line in listed.stdout.splitlines() if "begun" in line}
    assert [shown[name] for name in "abc"] == [[], ["optim.lr=0.01"], ["epochs=3"]]
    documents = json.loads(run_train("runs", "ls", tmp_path, "--json").stdout)
    assert all({"epochs", "optim.lr", "data.frames"} <= document["settings"].keys() for document in documents)


def test_a_run_that_a_process_works_on_is_running(folder: Path) -> None:
    import os

    reading, writing = os.pipe()
    answering, asked = os.pipe()
    child = os.fork()
    if child == 0:  # a process is never in the way of its own locks
        try:
            with locked_directory(folder / "c", CONFIG, "run directory"):
                os.write(writing, b"held")
                os.read(answering, 1)
        finally:
            os._exit(0)
    try:
        assert os.read(reading, 4) == b"held"
        assert summarise(folder / "c").state == State.RUNNING
    finally:
        os.write(asked, b".")
        os.waitpid(child, 0)
    assert summarise(folder / "c").state == State.BEGUN


def test_a_run_is_shown_with_its_epochs_and_settings(folder: Path) -> None:
    shown = run_train("runs", "show", folder / "deeper/b")
    assert shown.returncode == 0, shown.stderr
    assert "stopped, 1 of 3 epochs scored" in shown.stdout
    assert "optim.lr=0.01" in shown.stdout
    assert "best" in shown.stdout
    assert "resumes when its command is run again" in shown.stderr
    failed = run_train("runs", "show", folder)
    assert failed.returncode == 1
    assert "not a run directory" in failed.stderr
    assert "nothing: no such run directory" in run_train("runs", "show", folder / "nothing").stderr


def test_a_damaged_run_is_set_aside(folder: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(folder / "a", tmp_path / "good")
    shutil.copytree(folder / "a", tmp_path / "bad")
    (tmp_path / "bad/environment.json").write_text("{")
    listed = run_train("runs", "ls", tmp_path)
    assert listed.returncode == 3
    assert "set aside:" in listed.stderr
    assert "bad/environment.json: damaged" in listed.stderr
    assert "good" in listed.stdout
