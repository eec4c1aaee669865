"""A store to train on, and random numbers that are the same in each test."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from helpers.stores import build_small


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def store(raw: Path, tmp_path: Path) -> Path:
    build_small(raw, tmp_path / "train.zarr")
    return tmp_path / "train.zarr"
