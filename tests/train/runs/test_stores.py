"""Stores of a finished run that are opened again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from contrail_data.errors import ContrailError
from contrail_data.store.reader import open_store
from contrail_train.runs.stores import find_folds, open_run_stores
from helpers.cli import run_data, run_train
from helpers.runs import SHORT, set_options


@pytest.fixture(scope="module")
def made(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run on `data/train.zarr`, a relative path."""
    folder = tmp_path_factory.mktemp("made")
    shutil.copytree(store, folder / "data/train.zarr")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done = run_train("run", "unet2d", "--out", "run", *set_options(*SHORT, "data.train=data/train.zarr"))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_a_store_is_found_where_the_run_was_made(made: Path, unseen: Path, tmp_path: Path, monkeypatch) -> None:
    """Another store under the same relative name is not taken for it."""
    shutil.copytree(unseen, tmp_path / "data/train.zarr")
    monkeypatch.chdir(tmp_path)
    (opened,) = open_run_stores(made / "run").values()
    assert opened.attrs["path"] == str(made / "data/train.zarr")
    done = run_train("soup", made / "run", made / "run", "--out", "soup")
    assert done.returncode == 0, done.stderr
    calibration = json.loads((tmp_path / "soup/calibration.json").read_text())
    assert calibration["stores"] == {"data/train.zarr": open_store(made / "data/train.zarr").attrs["digest"]}
    assert list(open_run_stores(tmp_path / "soup")) == ["data/train.zarr"]


@pytest.mark.slow
def test_another_store_at_the_place_of_a_run_is_refused(made: Path, unseen: Path, tmp_path: Path, monkeypatch) -> None:
    shutil.copytree(made, tmp_path / "made")
    run = tmp_path / "made/run"
    environment = json.loads((run / "environment.json").read_text())
    old, _ = environment.pop("places"), environment.pop("digest")
    assert old == {"data/train.zarr": str(made / "data/train.zarr")}
    (run / "environment.json").write_text(json.dumps(environment))  # as earlier versions wrote it
    monkeypatch.chdir(tmp_path / "made")
    assert list(open_run_stores(run)) == ["data/train.zarr"]
    shutil.rmtree("data/train.zarr")
    shutil.copytree(unseen, "data/train.zarr")
    was, now = (open_store(place).attrs["digest"] for place in (made / "data/train.zarr", "data/train.zarr"))
    for command in (
        ("soup", run, run, "--out", "soup"),
        ("pipeline", "unet2d_single", "--out", "p", *set_options(f"all.run={run}")),
        ("predict", run, unseen, "-o", "p.zarr", "--tta", "flips"),
    ):
        done = run_train(*command)
        assert done.returncode == 1, command
        error = done.stderr.splitlines()[-1]
        assert f"was made with data/train.zarr of digest {was}, but data/train.zarr has digest {now}" in error
    with pytest.raises(ContrailError, match="restore the store of the run"):
        open_run_stores(run)
    done = run_train(
        "pipeline", "unet2d_single", "--out", "q", *set_options(f"all.run={run}", f"calibrate_on={unseen}")
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_changed_file_of_folds_is_noticed(store: Path, made: Path, tmp_path: Path, monkeypatch) -> None:
    from contrail_train.config.presets import get_config
    from contrail_train.config.settings import with_settings
    from contrail_train.training.fit import fit

    monkeypatch.chdir(tmp_path)
    folds = tmp_path / "folds.csv"
    assert run_data("splits", store, "-o", folds, "--folds", 3).returncode == 0
    changes = [f"data.train={store}", "data.folds=folds.csv", "data.holdout=0.15", "epochs=3"]
    config = with_settings(get_config("unet2d"), [*SHORT, *changes])
    fit(config, tmp_path / "run", stop_after=2, checkpoint_minutes=0)
    rows = folds.read_text().replace(",0,", ",9,").replace(",1,", ",0,").replace(",9,", ",1,")
    shutil.copytree(tmp_path / "run", tmp_path / "killed")
    fit(config, tmp_path / "run")
    monkeypatch.chdir(made)  # where a relative path leads nowhere
    assert find_folds(tmp_path / "run") == str(folds)
    folds.write_text(rows)
    with pytest.raises(ContrailError, match="was made with another"):
        find_folds(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ContrailError, match=r"folds\.csv of another digest"):
        fit(config, tmp_path / "killed", stop_after=3)
