"""No command overwrites its own input."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from contrail_data.store.reader import open_store
from helpers.cli import run_data
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
