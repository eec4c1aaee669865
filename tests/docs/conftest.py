"""What the examples of docstrings read."""

from __future__ import annotations

from pathlib import Path

import pytest

from contrail_data.synthetic.abi import write_abi
from helpers.abi import SIZE, START
from helpers.records import write_train_split


@pytest.fixture(scope="module")
def examples(store: Path, unseen: Path, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data/records`, `data/train.zarr`, `data/validation.zarr`, `data/abi` and `runs/a`."""
    folder = tmp_path_factory.mktemp("examples")
    for name in ("data", "runs"):
        (folder / name).mkdir()
    write_train_split(folder / "data").rename(folder / "data/records")
    write_abi(folder / "data/abi", START, scans=1, size=SIZE, centre=(29.5, -92.0))
    for name, target in (("data/train.zarr", store), ("data/validation.zarr", unseen), ("runs/a", finished)):
        (folder / name).symlink_to(target)
    return folder
