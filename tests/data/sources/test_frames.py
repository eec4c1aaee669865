"""Published ash frames become a store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from contrail_data.store.reader import open_store
from contrail_data.store.settings import StoreSettings
from helpers.stores import ASH, build_small


@pytest.mark.slow
def test_frames_become_a_store_of_one_time_step(real_data: Path, tmp_path: Path) -> None:
    built = build_small(real_data / "ash_frames", tmp_path / "f.zarr", settings=StoreSettings(ASH))
    assert built.samples == 155
    ds = open_store(tmp_path / "f.zarr")
    assert ds["image"].shape == (155, 1, 3, 256, 256)
    index = list(ds["record_id"].values).index("195731008142151")
    published = np.load(real_data / "ash_frames/195731008142151.npy")
    np.testing.assert_allclose(np.moveaxis(ds["image"].values[index, 0] / 255, 0, -1), published[..., :3], atol=0.0022)
    np.testing.assert_array_equal(ds["mask"].values[index], published[..., 3])
