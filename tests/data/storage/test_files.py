"""Files that operating systems leave in folders, and names of files in messages."""

import errno
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from contrail_data.errors import ContrailError
from contrail_data.storage.files import first_line, partial_path, reported_errors
from contrail_data.storage.place import Place
from contrail_data.store.verify import verify
from contrail_data.synthetic.abi import write_abi
from helpers.cli import run_data
from helpers.stores import contents

STRAY = (
    ".DS_Store",
    "._c.npy",
    "._OR_ABI-L1b-RadM1-M6C14_G16_s2024.nc",
    "Thumbs.db",
    "desktop.ini",
    ".nfs01",
)


def litter(root: Path) -> None:
    """Put stray files into every folder, and the folders of stray files beside them."""
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        for name in STRAY:
            (folder / name).write_bytes(b"\0\5\x16\7")
        for name in ("__MACOSX", "@eaDir"):
            (folder / name).mkdir()


def test_stray_files_are_neither_damage_nor_bad_records(raw: Path, sealed40: Path, tmp_path: Path) -> None:
    shutil.copytree(sealed40, tmp_path / "s.zarr")
    litter(raw)
    litter(tmp_path / "s.zarr")
    assert verify(Place(str(tmp_path / "s.zarr"))) == []
    assert run_data("pull", tmp_path / "s.zarr", "-o", tmp_path / "copy.zarr").returncode == 0
    assert contents(tmp_path / "copy.zarr") == contents(sealed40)
    (tmp_path / "new.zarr").mkdir()
    litter(tmp_path / "new.zarr")
    done = run_data("build-ash", raw, "-o", tmp_path / "new.zarr", "--size", 32)
    assert done.returncode == 0, done.stderr
    assert "9 samples, 0 set aside" in done.stdout


def test_stray_files_among_frames_and_scans_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    np.save(tmp_path / "frames/a.npy", np.zeros((32, 32, 4), np.float32))
    write_abi(tmp_path / "scans", np.datetime64("2024-06-11T20:00"), scans=1, size=(64, 64))
    for folder in ("frames", "scans"):
        litter(tmp_path / folder)
    options = ("--size", 32, "--before", 0, "--after", 0)
    scans = run_data("build-ash", tmp_path / "scans", "-o", tmp_path / "x.zarr", *options, "--at", "29.5,-92")
    assert scans.returncode == 0, scans.stderr
    frames = run_data("build-ash", tmp_path / "frames", "-o", tmp_path / "f.zarr", "--size", 32)
    assert frames.returncode == 0, frames.stderr
    (tmp_path / "frames/a.npy").unlink()
    none = run_data("build-ash", tmp_path / "frames", "--source", "frames", "-o", tmp_path / "none.zarr")
    assert "contains no .npy frames" in none.stderr


def test_an_unfinished_file_is_reported_by_the_name_that_it_will_have(tmp_path: Path) -> None:
    with (
        pytest.raises(ContrailError, match=rf"^{re.escape(str(tmp_path))}/model\.pt2: cannot be written \(No space"),
        reported_errors(str(partial_path(partial_path(tmp_path / "model.pt2"))), "written"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_reason_is_not_cut_short_by_the_path_of_its_file() -> None:
    path = Path("/", "a" * 200, "x.gpkg")
    assert first_line(OSError(f"'{path}' not recognized as being in a supported file format"), path).endswith("format")
