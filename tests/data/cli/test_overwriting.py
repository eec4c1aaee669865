"""No command overwrites its own input, or anything of another kind than it writes."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from contrail_data.storage.place import Place
from contrail_data.store.reader import open_store
from contrail_data.store.verify import verify
from helpers.cli import run_data
from helpers.labels import pseudo_of
from helpers.records import write_record
from helpers.stores import contents


def test_no_command_overwrites_a_store_that_it_reads(sealed40: Path, tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    shutil.copytree(sealed40, store)
    (tmp_path / "link.zarr").symlink_to(store)
    write_record(tmp_path / "new/train/zz", np.random.default_rng(9))
    for args in (
        ("subset", store, "-o", store),
        ("subset", store, "-o", tmp_path / "link.zarr"),
        ("merge", store, sealed40, "-o", store),
        ("append", store, tmp_path / "new", "-o", store),
    ):
        done = run_data(*args, "--overwrite")
        assert done.returncode == 1, args
        assert "store to read from; choose another -o" in done.stderr
    assert contents(store) == contents(sealed40)
    assert run_data("subset", sealed40, "--records", "001", "-o", tmp_path / "link.zarr", "--overwrite").returncode == 0
    assert open_store(store).sizes["sample"] == 1  # the link was followed to the store
    done = run_data("build-ash", tmp_path / "new", "-o", tmp_path / "new/train/x.zarr")
    assert "lies among the records" in done.stderr


def test_overwrite_replaces_only_the_kind_of_thing_that_a_command_writes(sealed40: Path, tmp_path: Path) -> None:
    labels = pseudo_of(sealed40, tmp_path / "labels.zarr")
    shutil.copytree(sealed40, tmp_path / "samples.zarr")
    shutil.copytree(sealed40, tmp_path / "unfinished.zarr")
    (tmp_path / "unfinished.zarr/.building").mkdir()
    (tmp_path / "unfinished.zarr/zarr.json").rename(tmp_path / "unfinished.zarr/.building/plan")
    (tmp_path / "mine.json").write_text("{}")
    (tmp_path / "notes.zarr").mkdir()
    (tmp_path / "notes.zarr/zarr.json").write_text("{}")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for command, message in (
        (("subset", sealed40, "-o", labels), "not a store of samples"),
        (("subset", sealed40, "-o", tmp_path / "notes.zarr"), "not a store of samples"),
        (("propagate", sealed40, "-o", tmp_path / "samples.zarr"), "not a store of pseudo-labels"),
        (("propagate", sealed40, "-o", tmp_path / "unfinished.zarr"), "not a store of pseudo-labels"),
        (("splits", sealed40, "-o", tmp_path / "mine.json"), "not a .csv file"),
        (("report", sealed40, "-o", tmp_path / "mine.json"), "not a .html file"),
        (("audit", sealed40, "--page", tmp_path / "mine.json"), "not a .html file"),
    ):
        done = run_data(*command, "--overwrite")
        assert done.returncode == 1, command
        assert f"{message}, and --overwrite" in done.stderr
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("markers", [{"zarr.json"}, {"config.yaml", "environment.json"}, {"pipeline.yaml", "stages"}])
def test_folders_of_files_are_not_written_into_stores_and_runs(
    markers: set[str], sealed40: Path, tmp_path: Path
) -> None:
    for marker in markers:
        (tmp_path / marker).touch()
    for folder in (tmp_path, tmp_path / "sub/folder"):
        for command in (("preview", sealed40, "-o", folder), ("synth", folder), ("synth-scans", folder)):
            done = run_data(*command)
            assert done.returncode == 1, command
            assert f"would change {tmp_path}, a store or the directory of a run" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == markers


def test_a_build_without_a_usable_record_does_not_block_its_path(tmp_path: Path) -> None:
    for name, broken in (("broken", True), ("sound", False)):
        record = tmp_path / name / "train/r"
        write_record(record, np.random.default_rng(0))
        if broken:
            (record / "band_11.npy").unlink()
        done = run_data("build-ash", tmp_path / name, "-o", tmp_path / "s.zarr", "--size", 32)
        assert done.returncode == int(broken), done.stderr
    assert verify(Place(str(tmp_path / "s.zarr"))) == []
