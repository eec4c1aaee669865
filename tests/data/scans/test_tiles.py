"""Tiles cut from scans."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from pyproj import CRS

from contrail_data.geo.fixed_grid import FixedGrid
from contrail_data.geo.geometry import to_geodetic
from contrail_data.scans.scene import assemble
from contrail_data.scans.tiles import Tile, cut, lattice_sites, native_tile, utm_tile
from helpers.grids import EAST


def geodetic_of(tile: Tile) -> tuple[np.ndarray, np.ndarray]:
    """Return the latitude and longitude of the pixels' centres."""
    y = tile.row_min + (np.arange(tile.height) + 0.5) * tile.row_size
    x = tile.col_min + (np.arange(tile.width) + 0.5) * tile.col_size
    longitude, latitude = to_geodetic(tile.projection_wkt).transform(*np.meshgrid(x, y))
    return latitude, longitude


def scene(values: np.ndarray, x: float = -0.03, y: float = 0.1):
    """Return a scene with one time and band on a window of the grid, and that window."""
    grid = FixedGrid(EAST, x, y, 56e-6, -56e-6, *values.shape)
    time = np.array(["2024-03-01T12:00:00"], "datetime64[ns]")
    return assemble(values[None, None], [14], grid, [(time[0], time[0])], {"platform": "GOES-16"}), grid


@pytest.mark.parametrize("size", [31, 32, 33, 64])
@pytest.mark.parametrize("row", [40.0, 39.8, 40.3])
def test_a_native_tile_is_centred_on_the_named_pixel(size: int, row: float) -> None:
    """The place lies in the middle pixel of an odd tile, and half a pixel at most from the middle of an even one."""
    _, grid = scene(np.zeros((80, 90), np.float32))
    latitude, longitude = (float(a) for a in EAST.to_geodetic(grid.x + 50 * grid.dx, grid.y + row * grid.dy))
    tile = native_tile(grid, latitude, longitude, size)
    rows, columns = tile.pixel_indices(grid)
    off = np.abs([rows.mean() - row, columns.mean() - 50])
    assert off.max() <= 0.5 + 1e-6
    if size % 2:
        assert (rows[size // 2, 0], columns[0, size // 2]) == (40, 50)


def test_a_native_tile_copies_the_grid_and_is_missing_beyond_it() -> None:
    values = np.arange(80 * 90, dtype=np.float32).reshape(80, 90)
    full_scene, grid = scene(values)
    latitude, longitude = (float(a) for a in EAST.to_geodetic(grid.x + 50.3 * grid.dx, grid.y + 40.3 * grid.dy))
    tile = native_tile(grid, latitude, longitude, 32)
    np.testing.assert_array_equal(cut(full_scene, tile)[0, :, :, 0], values[25:57, 35:67])
    assert tile.footprint()["latitude"] == pytest.approx(latitude, abs=0.03)
    outside = EAST.to_geodetic(grid.x - 0.3 * grid.dx, grid.y + 0.3 * grid.dy)
    corner = native_tile(grid, *(float(a) for a in outside), 32)
    pixels = cut(full_scene, corner)[0, :, :, 0]
    assert np.isnan(pixels[:15]).all()
    assert np.isnan(pixels[:, :15]).all()
    np.testing.assert_array_equal(pixels[15:, 16:], values[:17, :16])


def test_resampling_agrees_with_pyresample_and_keeps_missing_pixels() -> None:
    import dask.array as da
    from pyresample import geometry
    from pyresample.gradient import ResampleBlocksGradientSearchResampler

    rng = np.random.default_rng(0)
    values = 280 + 5 * rng.standard_normal((200, 220)).cumsum(0).astype(np.float32) / 14
    full_scene, grid = scene(values)
    latitude, longitude = (float(a[100, 110]) for a in grid.geodetic())
    tile = utm_tile(latitude, longitude, 64, 2000.0)
    ours = cut(full_scene, tile)[0, :, :, 0]
    left, top = tile.col_min, tile.row_min
    extent = (left, top + 64 * tile.row_size, left + 64 * tile.col_size, top)
    target = geometry.AreaDefinition("t", "", "", CRS.from_wkt(tile.projection_wkt), 64, 64, extent)
    a, b, c, d = grid.geotransform[[0, 3, 1, 5]]
    source = geometry.AreaDefinition(
        "s", "", "", CRS.from_wkt(EAST.crs_wkt), 220, 200, (a, b + 200 * d, a + 220 * c, b)
    )
    resampler = ResampleBlocksGradientSearchResampler(source, target)
    resampler.precompute()
    source_values = xr.DataArray(da.from_array(values), dims=("y", "x"))
    theirs = resampler.compute(source_values, method="bilinear", fill_value=np.nan).values
    assert np.abs(ours - theirs).max() < 2e-3

    holed = values.copy()
    holed[100, 110] = np.nan
    missing = np.isnan(cut(scene(holed)[0], tile)[0, :, :, 0])
    assert 1 <= missing.sum() <= 9
    np.testing.assert_array_equal(cut(scene(holed)[0], tile)[0, :, :, 0][~missing], ours[~missing])


def test_a_plane_in_scan_angles_is_resampled_exactly() -> None:
    x, y = np.meshgrid(-0.03 + 56e-6 * np.arange(200), 0.1 - 56e-6 * np.arange(200))
    full_scene, grid = scene((1e4 * (x + 2 * y)).astype(np.float32))
    tile = utm_tile(*(float(a[100, 100]) for a in grid.geodetic()), 48, 2100.0)
    at_x, at_y = EAST.to_scan_angles(*geodetic_of(tile))
    np.testing.assert_allclose(cut(full_scene, tile)[0, :, :, 0], 1e4 * (at_x + 2 * at_y), rtol=0, atol=2e-3)


@pytest.mark.parametrize(("latitude", "longitude"), [(0.0, -75.0), (40.0, -120.0), (-41.0, -35.0), (58.0, -100.0)])
def test_interpolated_pixel_indices_agree_with_exact_ones(latitude: float, longitude: float) -> None:
    grid = FixedGrid(EAST, -0.151844, 0.151844, 56e-6, -56e-6, 5424, 5424)
    tile = utm_tile(latitude, longitude)
    rows, columns = tile.pixel_indices(grid)
    for ours, exact in zip((rows, columns), grid.indices(*geodetic_of(tile)), strict=True):
        assert np.abs(ours - exact).max() < 1e-5
    top, left = int(rows.min()), int(columns.min())
    window = grid.window(top, left, 200, 120)
    tile_indices = tile.indices_of(window)
    to_place = to_geodetic(tile.projection_wkt)
    y, x = window.geodetic()
    x, y = to_place.transform(x, y, direction="INVERSE")
    np.testing.assert_allclose(tile_indices[0], (y - tile.row_min) / tile.row_size - 0.5, rtol=0, atol=1e-2)
    np.testing.assert_allclose(tile_indices[1], (x - tile.col_min) / tile.col_size - 0.5, rtol=0, atol=1e-2)


def test_tiles_agree_with_those_of_the_data_set(real_data: Path) -> None:
    entries = json.loads((real_data / "opencontrails/validation_metadata.json").read_text())
    sites = np.array(lattice_sites())
    other_zone = 0
    numbers = ("projection_wkt", "row_min", "row_size", "col_min", "col_size")
    for entry in entries[::5]:
        footprint = Tile(**{key: entry[key] for key in numbers}, height=256, width=256).footprint()
        place = footprint["latitude"], footprint["longitude"]
        assert np.abs(sites - place).max(1).min() < 0.1
        ours = utm_tile(*place)
        other_zone += CRS.from_wkt(ours.projection_wkt) != CRS.from_wkt(entry["projection_wkt"])
        assert ours.footprint()["latitude"] == pytest.approx(place[0], abs=1e-6)
        assert 256 * ours.col_size == pytest.approx(256 * entry["col_size"], rel=0.07)
    assert other_zone < 0.03 * len(entries) / 5  # where the western edge of the area is the edge of a zone
