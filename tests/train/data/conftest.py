"""A store to train on."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.stores import build_small


@pytest.fixture
def store(raw: Path, tmp_path: Path) -> Path:
    build_small(raw, tmp_path / "train.zarr")
    return tmp_path / "train.zarr"
