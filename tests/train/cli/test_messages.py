"""Errors of contrail-train end in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.cli import run_train
from helpers.runs import TINY, set_options


@pytest.mark.slow
def test_a_dry_run_prints_its_cost_and_leaves_no_files(store: Path, tmp_path: Path, monkeypatch) -> None:
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    trace = tmp_path / "inductor/trace.json"
    done = run_train("run", "unet2d", "--dry-run", "--profile", trace, *set_options(*TINY, f"data.train={store}"))
    assert done.returncode == 0, done.stderr
    names = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"augment", "forward", "loss", "backward", "optimiser"} <= names
    for text in ("samples/s", "steps in 3 epochs", "GiB", "backward "):
        assert text in done.stdout
    # torch creates a cache whose name contains "inductor"
    assert not [path for path in tmp_path.iterdir() if "inductor" not in path.name]
    assert run_train("run", "unet2d", *set_options(f"data.train={store}")).returncode == 2


def test_mistakes_are_reported_in_one_line(store: Path, finished: Path, tmp_path: Path) -> None:
    for args, message in [
        (("run", "unet2", "--out", tmp_path / "x"), "did you mean unet2d"),
        (("run", "unet2d", "--out", tmp_path / "x"), "data.train: is empty"),
        (("run", "unet2d", "--out", tmp_path / "x", *set_options("optim.learning=3")), "there is no setting"),
        (("run", "unet2d", "--out", tmp_path / "x", *set_options("epochs")), "key=value"),
        (("run", "unet2d", "--out", finished, *set_options(f"data.train={store}")), "another"),
        (
            ("run", "unet2d", "--out", tmp_path / "x", *set_options(f"data.train={tmp_path}/no.zarr")),
            "no.zarr: neither a store",
        ),
        (("evaluate", tmp_path, store), "not a run directory"),
        (("evaluate", finished, finished), "zarr.json"),
        (("evaluate", finished, store, "--device", "cuda:9"), "cuda:9"),
        (("evaluate", finished, store), "all 16 labelled records were used to train"),
        (("predict", finished, store, "-o", tmp_path / "p.zarr", "--frames", "some"), "--frames 'some'"),
    ]:
        failed = run_train(*args)
        assert failed.returncode == 1, args
        assert failed.stderr.splitlines()[-1].startswith("error: "), failed.stderr
        assert message in failed.stderr.splitlines()[-1]
        assert "Traceback" not in failed.stderr


def test_a_wrong_setting_names_the_file_that_it_was_to_change(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("preset: ours\nepochs: 2\n")
    done = run_train("run", tmp_path / "mine.yaml", "--dry-run", "--set", "lr=1")
    assert f"error: {tmp_path}/mine.yaml --set lr=1: there is no setting 'lr'" in done.stderr
