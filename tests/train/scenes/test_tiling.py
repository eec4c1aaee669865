"""Tiles that cover a scan."""

import numpy as np
import pytest

from contrail_data.geo.fixed_grid import FixedGrid, Projection
from contrail_train.scenes.tiling import Mosaic, Tiling, fill_missing, strips, window_of_area

SIDE = 96


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("longitude", [-137.0, -75.2, 0.0, 104.7, 140.7])
def test_tiles_cover_a_scan_wherever_the_satellite_is(longitude: float, native: bool) -> None:
    step = 0.3 / SIDE
    grid = FixedGrid(Projection(longitude), -0.15, 0.15, step, -step, SIDE, SIDE)
    tiling = Tiling(64, max_zenith=60)
    mosaic = Mosaic(grid, tiling, with_score=False)
    for strip in strips(grid, tiling, native=native, pixel=20_000):
        for tile in strip:
            mosaic.add(tile, np.full((64, 64), 0.5, np.float32), 0.0)
    seen_yx = mosaic.within(slice(0, SIDE))
    np.testing.assert_array_equal(seen_yx, grid.zenith() <= 60)
    assert 0.2 < seen_yx.mean() < 0.8
    is_predicted_yx = np.isfinite(mosaic.average(seen_yx)[0])
    assert not is_predicted_yx[~seen_yx].any()
    assert is_predicted_yx[seen_yx].mean() > 0.99  # only every fourth pixel of this coarse grid asks for a tile


def test_an_area_across_180_degrees_is_found_in_a_scan_of_goes_west() -> None:
    step = 0.3 / SIDE
    grid = FixedGrid(Projection(-137.0), -0.15, 0.15, step, -step, SIDE, SIDE)
    rows, columns = window_of_area(grid, (20, 175, 40, -165))
    latitude, longitude = grid.window(
        rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start
    ).geodetic()
    assert (rows, columns) == window_of_area(grid, (20, 175, 40, 195))
    assert np.nanmin(np.abs(latitude - 30)) < 1
    assert np.nanmin(np.abs(longitude % 360 - 180)) < 1


def test_missing_pixels_have_the_values_of_the_nearest_valid_one_of_their_frame() -> None:
    values = np.random.default_rng(0).random((3, 20, 30, 2)).astype(np.float32)
    valid_tyx = np.ones((2, 20, 30), bool)
    valid_tyx[0, 12:, 3:9] = valid_tyx[1, 4, 5] = valid_tyx[1, :, 25:] = False
    filled = values.copy()
    filled[:, ~np.moveaxis(valid_tyx, 0, -1)] = np.nan
    fill_missing(filled, valid_tyx)
    for frame, valid_yx in enumerate(valid_tyx):
        sources = np.argwhere(valid_yx)
        for y, x in np.ndindex(valid_yx.shape):
            distance = np.hypot(*(sources - (y, x)).T)
            nearest = values[:, *sources[distance == distance.min()].T, frame]
            assert (filled[:, y, x, frame] == nearest.T).all(1).any()
