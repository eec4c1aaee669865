"""Stores to report on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from helpers.stores import build_composite


@pytest.fixture
def store(raw: Path, tmp_path: Path) -> xr.Dataset:
    return build_composite(raw, tmp_path / "s.zarr")


@pytest.fixture
def bare(tmp_path: Path) -> xr.Dataset:
    """Build a store with one sample of one frame, without time, place or annotators."""
    (tmp_path / "frames").mkdir()
    frame = np.random.default_rng(0).random((256, 256, 4)).astype(np.float16)
    frame[..., 3] = 0
    frame[40:44, 40:200, 3] = 1
    np.save(tmp_path / "frames" / "f1.npy", frame)
    return build_composite(tmp_path / "frames", tmp_path / "bare.zarr", size=256)
