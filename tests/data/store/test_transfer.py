"""Copies are verified, resume, and may be made by several processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from contrail_data.catalog.catalog import open_named
from contrail_data.storage.place import Place
from contrail_data.store.cache import cache_place, local_copy
from contrail_data.store.reader import open_store, pixel_reader
from contrail_data.store.verify import verify
from helpers.cli import run_data
from helpers.stores import contents, flip


@pytest.mark.slow
def test_a_pull_is_verified_and_resumes_and_its_copy_is_opened_by_digest(
    sealed40: Path, tmp_path: Path, s3: str
) -> None:
    url, digest = f"{s3}/s.zarr", open_store(sealed40).attrs["digest"]
    done = run_data("push", sealed40, url)
    assert done.returncode == 0, done.stderr
    target = cache_place(digest)
    target.path.mkdir(parents=True)
    content = Place(url).read("image/c.1.0.0.0.0")
    Place(url).write("image/c.1.0.0.0.0", [content[:-1] + b"\0"])
    done = run_data("pull", url)
    assert done.returncode == 1
    assert "image/c.1.0.0.0.0: fails its checksum" in done.stderr
    assert local_copy(digest) is None
    Place(url).write("image/c.1.0.0.0.0", [content])
    done = run_data("pull", url)
    assert done.returncode == 0, done.stderr
    assert "files already there" in done.stdout
    assert contents(target.path) == contents(sealed40)
    assert verify(target) == []
    assert open_named(url).attrs["path"] == str(target.path)
    Place(url).write("image/c.1.0.0.0.0", [b"gone"])  # the local copy is read
    out = np.empty((1, 3, 32, 32), np.uint8)
    pixel_reader(open_named(url), check=True)(17, [4], out)


@pytest.mark.slow
def test_several_processes_can_pull_at_once(sealed40: Path, tmp_path: Path) -> None:
    program = """if True:
        import os, sys
        import dask, zarr
        from contrail_data.catalog.catalog import open_named
        from contrail_data.cli.main import main
        pulls = range(3)
        if all(os.fork() for _ in pulls):  # here, and not in one of the children
            sys.exit(max(os.waitstatus_to_exitcode(os.wait()[1]) for _ in pulls))
        main()
    """
    environment = {**os.environ, "CONTRAIL_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", program, "pull", str(sealed40)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (copy,) = (tmp_path / "cache/stores").iterdir()
    assert contents(copy) == contents(sealed40)


@pytest.mark.slow
def test_an_existing_copy_is_verified_and_repaired(sealed40: Path, tmp_path: Path) -> None:
    store, copy = tmp_path / "s.zarr", tmp_path / "copy.zarr"
    shutil.copytree(sealed40, store)
    assert run_data("pull", store, "-o", copy).returncode == 0
    flip(copy / "image/c.1.0.0.0.0")
    assert run_data("pull", store, "-o", copy).returncode == 0
    assert contents(copy) == contents(sealed40)
    flip(store / "provenance.json")
    done = run_data("pull", store, "-o", tmp_path / "new.zarr")
    assert done.returncode == 1
    assert "provenance.json" in done.stderr
    assert not (tmp_path / "new.zarr/zarr.json").exists()
