"""Two stores that share images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from contrail_data.build.build import build
from contrail_data.composites import COMPOSITES
from contrail_data.sources.open import open_source
from contrail_data.store.reader import open_store
from contrail_data.store.settings import StoreSettings
from helpers.records import write_record


@pytest.fixture
def stores(tmp_path: Path) -> tuple[xr.Dataset, xr.Dataset]:
    """Build stores `a` and `b` that share images.

    Records 0 and 1 of `b` have the images of records 0 and 1 of `a`; record 0 has another mask, record 1 the same one.
    Record 2 of `b` and record 3 of `a` have the same flat image.
    """
    rng = np.random.default_rng(1)
    for i in range(4):
        write_record(tmp_path / f"a/train/a{i}", rng, size=64)
    for i in range(3):
        folder = write_record(tmp_path / f"b/train/b{i}", rng, size=64)
        for band in (11, 14, 15) if i < 2 else ():
            np.save(folder / f"band_{band:02d}.npy", np.load(tmp_path / f"a/train/a{i}/band_{band:02d}.npy"))
    for folder in (tmp_path / "a/train/a3", tmp_path / "b/train/b2"):
        for band in (11, 14, 15):
            np.save(folder / f"band_{band:02d}.npy", np.full((64, 64, 8), 280 + len(folder.parts[-2]), "<f4"))
    (tmp_path / "b/train/b0/human_individual_masks.npy").unlink()
    np.save(tmp_path / "b/train/b0/human_pixel_masks.npy", np.zeros((64, 64, 1), "<i4"))
    opened = []
    for name in "ab":
        source = open_source(tmp_path / name, "train", COMPOSITES["ash"])
        build(source, StoreSettings(COMPOSITES["ash"], size=64), str(tmp_path / f"{name}.zarr"), workers=1)
        opened.append(open_store(tmp_path / f"{name}.zarr"))
    return opened[0], opened[1]
