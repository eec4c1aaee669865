"""The geostationary grid against NOAA's published point, PROJ, pyresample and satpy; tiles cut from it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from pyproj import CRS, Geod, Transformer

from contrail_data.geo.fixed_grid import FixedGrid, Projection
from contrail_data.geo.geometry import satellite_zenith, tile_geometry, to_geodetic
from contrail_data.scans.scene import assemble
from contrail_data.scans.tiles import _indices, cut, lattice_sites, native_tile, utm_tile

EAST = Projection(-75.0)
ANGLE = st.floats(-0.155, 0.155)


def test_the_published_point() -> None:
    """GOES-R product users' guide, volume 3, the worked example of 5.1.2.8."""
    latitude, longitude = EAST.to_geodetic(-0.024052, 0.095340)
    assert latitude == pytest.approx(33.846162, abs=1e-6)
    assert longitude == pytest.approx(-84.690932, abs=1e-6)
    x, y = EAST.to_scan_angles(33.846162, -84.690932)
    assert (x, y) == (pytest.approx(-0.024052, abs=1e-8), pytest.approx(0.095340, abs=1e-8))


@pytest.mark.parametrize("sweep", ["x", "y"])
@given(x=ANGLE, y=ANGLE, longitude=st.floats(-179, 179))
def test_scan_angles_there_and_back_agree_with_proj(sweep: str, x: float, y: float, longitude: float) -> None:
    projection = Projection(longitude, sweep=sweep)
    latitude, east = projection.to_geodetic(x, y)
    crs = CRS.from_wkt(projection.crs_wkt)
    theirs = Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True).transform(
        x * projection.height, y * projection.height
    )
    if np.isnan(latitude):
        assert not np.isfinite(theirs[0])
        return
    if satellite_zenith(latitude, east, longitude) > 89.9:
        return  # at the limb a rounding decides
    assert latitude == pytest.approx(theirs[1], abs=1e-7)
    assert (east - theirs[0] + 180) % 360 - 180 == pytest.approx(0, abs=1e-7)
    back = projection.to_scan_angles(latitude, east)
    assert back[0] == pytest.approx(x, abs=1e-10)
    assert back[1] == pytest.approx(y, abs=1e-10)


def test_what_the_earth_hides_is_nowhere() -> None:
    x, y = EAST.to_scan_angles([0, 0, 0, 85], [105, 20, -75 + 81, -75])
    np.testing.assert_array_equal(np.isnan(x), [True, True, False, True])
    np.testing.assert_array_equal(np.isnan(x), np.isnan(y))


def test_parallax_of_a_contrail() -> None:
    """Seen at 40 N 100 W from 75.2 W, an 11 km high thing lies about 14.5 km nearer to the satellite: h tan(zenith), a
    little less for the Earth's curve. From where it really is, it is seen where it was navigated to."""
    projection = Projection(-75.2)
    latitude, longitude = projection.without_parallax(40.0, -100.0, 11_000.0)
    distance = Geod(ellps="GRS80").inv(-100, 40, longitude, latitude)[2]
    assert distance == pytest.approx(11_000 * np.tan(np.radians(satellite_zenith(40, -100, -75.2))), rel=0.01)
    assert latitude < 40
    assert longitude > -100
    angles = projection.to_scan_angles(latitude, longitude, 11_000.0)
    again = projection.to_geodetic(*angles)
    assert again == (pytest.approx(40.0, abs=1e-5), pytest.approx(-100.0, abs=1e-5))


def scene(values: np.ndarray, x: float = -0.03, y: float = 0.1):
    """One time and band of a window of the grid."""
    grid = FixedGrid(EAST, x, y, 56e-6, -56e-6, *values.shape)
    time = np.array(["2024-03-01T12:00:00"], "datetime64[ns]")
    return assemble(values[None, None], [14], grid, time, time, {"platform": "GOES-16"}), grid


def test_a_native_tile_is_the_grid_itself_and_empty_beyond_it() -> None:
    values = np.arange(80 * 90, dtype=np.float32).reshape(80, 90)
    whole, grid = scene(values)
    latitude, longitude = (float(a) for a in EAST.to_geodetic(grid.x + 50.3 * grid.dx, grid.y + 40.3 * grid.dy))
    tile = native_tile(grid, latitude, longitude, 32)
    np.testing.assert_array_equal(cut(whole, tile)[0, :, :, 0], values[25:57, 35:67])
    assert tile.geometry()["latitude"] == pytest.approx(latitude, abs=0.03)
    beside = EAST.to_geodetic(grid.x - 0.3 * grid.dx, grid.y + 0.3 * grid.dy)
    corner = native_tile(grid, *(float(a) for a in beside), 32)
    made = cut(whole, corner)[0, :, :, 0]
    assert np.isnan(made[:15]).all()
    assert np.isnan(made[:, :15]).all()
    np.testing.assert_array_equal(made[15:, 16:], values[:17, :16])


def test_resampling_agrees_with_pyresample_and_keeps_what_is_missing() -> None:
    import dask.array as da
    from pyresample import geometry
    from pyresample.gradient import ResampleBlocksGradientSearchResampler

    rng = np.random.default_rng(0)
    values = 280 + 5 * rng.standard_normal((200, 220)).cumsum(0).astype(np.float32) / 14
    whole, grid = scene(values)
    latitude, longitude = (float(a[100, 110]) for a in grid.geodetic())
    tile = utm_tile(latitude, longitude, 64, 2000.0)
    ours = cut(whole, tile)[0, :, :, 0]
    left, top = tile.col_min, tile.row_min
    extent = (left, top + 64 * tile.row_size, left + 64 * tile.col_size, top)
    target = geometry.AreaDefinition("t", "", "", CRS.from_wkt(tile.projection_wkt), 64, 64, extent)
    a, b, c, d = grid.geotransform[[0, 3, 1, 5]]
    source = geometry.AreaDefinition(
        "s", "", "", CRS.from_wkt(EAST.crs_wkt), 220, 200, (a, b + 200 * d, a + 220 * c, b)
    )
    resampler = ResampleBlocksGradientSearchResampler(source, target)
    resampler.precompute()
    given = xr.DataArray(da.from_array(values), dims=("y", "x"))
    theirs = resampler.compute(given, method="bilinear", fill_value=np.nan).values
    assert np.abs(ours - theirs).max() < 2e-3

    holed = values.copy()
    holed[100, 110] = np.nan
    missing = np.isnan(cut(scene(holed)[0], tile)[0, :, :, 0])
    assert 1 <= missing.sum() <= 9
    np.testing.assert_array_equal(cut(scene(holed)[0], tile)[0, :, :, 0][~missing], ours[~missing])


def test_a_plane_in_scan_angles_is_resampled_exactly() -> None:
    x, y = np.meshgrid(-0.03 + 56e-6 * np.arange(200), 0.1 - 56e-6 * np.arange(200))
    whole, grid = scene((1e4 * (x + 2 * y)).astype(np.float32))
    tile = utm_tile(*(float(a[100, 100]) for a in grid.geodetic()), 48, 2100.0)
    at_x, at_y = EAST.to_scan_angles(*tile.geodetic())
    np.testing.assert_allclose(cut(whole, tile)[0, :, :, 0], 1e4 * (at_x + 2 * at_y), rtol=0, atol=2e-3)


@pytest.mark.parametrize(("latitude", "longitude"), [(0.0, -75.0), (40.0, -120.0), (-41.0, -35.0), (58.0, -100.0)])
def test_splines_between_exact_places_are_exact_enough(latitude: float, longitude: float) -> None:
    grid = FixedGrid(EAST, -0.151844, 0.151844, 56e-6, -56e-6, 5424, 5424)
    tile = utm_tile(latitude, longitude)
    rows, columns = _indices(grid, tile)
    for ours, exact in zip((rows, columns), grid.indices(*tile.geodetic()), strict=True):
        assert np.abs(ours - exact).max() < 1e-5
    top, left = int(rows.min()), int(columns.min())
    window = grid.window(top, left, 200, 120)
    back = tile.indices_of(window)
    to_place = to_geodetic(tile.projection_wkt)
    y, x = window.geodetic()
    x, y = to_place.transform(x, y, direction="INVERSE")
    np.testing.assert_allclose(back[0], (y - tile.row_min) / tile.row_size - 0.5, rtol=0, atol=1e-2)
    np.testing.assert_allclose(back[1], (x - tile.col_min) / tile.col_size - 0.5, rtol=0, atol=1e-2)


def test_tiles_are_those_of_the_dataset(real_data: Path) -> None:
    entries = json.loads((real_data / "opencontrails/validation_metadata.json").read_text())
    sites = np.array(lattice_sites())
    other_zone = 0
    numbers = ("projection_wkt", "row_min", "row_size", "col_min", "col_size")
    for entry in entries[::5]:
        there = tile_geometry(**{key: entry[key] for key in numbers}, height=256, width=256)
        place = there["latitude"], there["longitude"]
        assert np.abs(sites - place).max(1).min() < 0.1
        ours = utm_tile(*place)
        other_zone += CRS.from_wkt(ours.projection_wkt) != CRS.from_wkt(entry["projection_wkt"])
        assert ours.geometry()["latitude"] == pytest.approx(place[0], abs=1e-6)
        assert 256 * ours.col_size == pytest.approx(256 * entry["col_size"], rel=0.07)
    assert other_zone < 0.03 * len(entries) / 5  # where the western edge runs along a zone's
