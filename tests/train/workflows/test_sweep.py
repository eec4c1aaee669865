"""Sweeps: trials are runs; an interrupted one resumes, several processes share one, and mistakes are refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from contrail_data.errors import ContrailError
from contrail_data.settings.parse import validated
from helpers.cli import run_train
from helpers.runs import TINY

pytest.importorskip("optuna")


def space(store: Path, folder: Path, *, trials: int = 3, **more: object) -> Path:
    """Write the file of a tiny sweep; JSON is YAML."""
    settings = dict(pair.split("=", 1) for pair in TINY)
    settings |= {"data.train": str(store), "epochs": "2"}
    del settings["optim.lr"]
    tree = {
        "settings": {key: json.loads(value) if value[0] in "[0123456789" else value for key, value in settings.items()},
        "search": {"optim.lr": {"low": 1e-3, "high": 1e-2, "log": True}, "augment.affine": [None, {}]},
        "trials": trials,
        **more,
    }
    path = folder / f"space{trials}.yaml"
    path.write_text(json.dumps(tree))
    return path


@pytest.mark.slow
def test_an_interrupted_sweep_resumes_its_trial_and_ends_like_an_undisturbed_one(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from contrail_train.config.sweep import read_sweep
    from contrail_train.training import fit as loop
    from contrail_train.workflows.sweep import run_sweep

    config = read_sweep(space(store, tmp_path, trials=2))
    whole = run_sweep(config, tmp_path / "whole", "cpu")
    steps, take = [], loop.train_step

    def interrupted(*args: object) -> object:
        steps.append(1)
        if len(steps) == 10:  # in the second epoch of the second trial
            raise KeyboardInterrupt
        return take(*args)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_sweep(config, tmp_path / "killed", "cpu")
    resumed = run_sweep(config, tmp_path / "killed", "cpu")
    assert resumed.trials == whole.trials
    assert [trial.state for trial in resumed.trials] == ["complete", "complete"]
    for number in ("0000", "0001"):
        ours, theirs = (tmp_path / run / f"trials/{number}/best.safetensors" for run in ("whole", "killed"))
        assert ours.read_bytes() == theirs.read_bytes()
    rows = list(csv.DictReader((tmp_path / "killed/trials.csv").open()))
    assert [float(row["dice"]) for row in rows] == sorted((float(row["dice"]) for row in rows), reverse=True)
    assert (tmp_path / "killed/sweep.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_trials_that_contradict_or_fall_behind_are_set_aside(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from contrail_train.workflows import sweep

    scores = iter([(0.5, 0.5), (0.6, 0.6), (0.4, 0.1)])

    def fake_fit(config, out, on_epoch):
        if config.batch_size == 5:
            raise ContrailError("batch_size=5: does not fit")
        for epoch, dice in enumerate(next(scores), 1):
            on_epoch(epoch, sweep.EpochScores(dice, None, None, None, None))
        return {"holdout": {"dice": dice}}

    monkeypatch.setattr(sweep, "fit", fake_fit)
    config = validated(
        sweep.SweepConfig,
        {
            "settings": {"data.train": [str(store)], "epochs": 2},
            "search": {"batch_size": [4, 5, 6, 7], "seed": {"low": 0, "high": 9}},
            "trials": 8,
            "prune": {"trials": 1, "epochs": 1},
        },
        "space",
    )
    with pytest.raises(StopIteration):  # once three trials had a score
        sweep.run_sweep(config, tmp_path / "s", "cpu")
    states = [row["state"] for row in csv.DictReader((tmp_path / "s/trials.csv").open())]
    assert states.count("complete") == 2
    assert states.count("pruned") <= 1


def test_several_processes_share_a_sweep_without_doing_a_trial_twice(store: Path, tmp_path: Path) -> None:
    from contrail_train.config.sweep import read_sweep
    from contrail_train.workflows import sweep

    config, out = read_sweep(space(store, tmp_path, trials=3)), tmp_path / "s"
    with pytest.MonkeyPatch.context() as patch:
        begun: list[str] = []

        def fake_fit(config, folder, on_epoch=None):
            begun.append(folder.name)
            if len(begun) == 1:  # another process comes while this one is at its first trial
                sweep.run_sweep(read_sweep(space(store, tmp_path, trials=3)), out, "cpu")
            return {"holdout": {"dice": float(folder.name)}}

        patch.setattr(sweep, "fit", fake_fit)
        result = sweep.run_sweep(config, out, "cpu")
    assert sorted(begun) == ["0000", "0001", "0002"]
    assert [trial.number for trial in result.trials] == [2, 1, 0]
    assert len({trial.chosen["optim.lr"] for trial in result.trials}) == 3


def test_mistakes_in_a_sweep_are_refused_in_one_line(store: Path, tmp_path: Path) -> None:
    for more, message in (
        ({"search": {"optim.lrr": [1, 2]}}, "did you mean optim.lr"),
        ({"search": {"optim.lr": {"low": 2, "high": 1}}}, "must be below high"),
        ({"search": {"optim.lr": [0.1]}}, "nothing to choose from"),
        ({"search": {"epochs": [1, 2]}}, "remove it from one of them"),
        ({"seeds": 3}, "there is no setting 'seeds'; did you mean seed"),
        ({"settings": {"data.train": str(store), "data.holdout": 0}}, "compared on held-out records"),
    ):
        failed = run_train("sweep", space(store, tmp_path, **more), "--out", tmp_path / "s")
        assert failed.returncode == 1, more
        assert message in failed.stderr.splitlines()[-1]
        assert "Traceback" not in failed.stderr
    assert not (tmp_path / "s").exists()


def test_a_folder_of_other_files_is_refused_and_left_as_it_was(store: Path, tmp_path: Path) -> None:
    from contrail_train.config.sweep import read_sweep
    from contrail_train.workflows.sweep import run_sweep

    config = read_sweep(space(store, tmp_path))
    (other := tmp_path / "other").mkdir()
    (other / "thesis.tex").write_text("x")
    for out in (other, other / "thesis.tex"):
        with pytest.raises(ContrailError, match="exists and is not a sweep; choose another --out"):
            run_sweep(config, out, "cpu")
    assert [path.name for path in other.iterdir()] == ["thesis.tex"]
