"""The fixed grid of geostationary imagers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyproj import CRS, Geod, Transformer

from contrail_data.geo.fixed_grid import FixedGrid, Projection
from contrail_data.geo.geometry import satellite_zenith
from helpers.grids import EAST

ANGLE = st.floats(-0.155, 0.155)


def test_scan_angles_agree_with_the_published_example() -> None:
    """Compare with the worked example in the GOES-R product users' guide, volume 3, section 5.1.2.8."""
    latitude, longitude = EAST.to_geodetic(-0.024052, 0.095340)
    assert latitude == pytest.approx(33.846162, abs=1e-6)
    assert longitude == pytest.approx(-84.690932, abs=1e-6)
    x, y = EAST.to_scan_angles(33.846162, -84.690932)
    assert (x, y) == (pytest.approx(-0.024052, abs=1e-8), pytest.approx(0.095340, abs=1e-8))


@pytest.mark.parametrize("sweep", ["x", "y"])
@given(x=ANGLE, y=ANGLE, longitude=st.floats(-179, 179))
def test_conversions_in_both_directions_agree_with_proj(sweep: str, x: float, y: float, longitude: float) -> None:
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
        return  # at the limb, rounding decides whether a place is visible
    assert latitude == pytest.approx(theirs[1], abs=1e-7)
    assert (east - theirs[0] + 180) % 360 - 180 == pytest.approx(0, abs=1e-7)
    angles = projection.to_scan_angles(latitude, east)
    assert angles[0] == pytest.approx(x, abs=1e-10)
    assert angles[1] == pytest.approx(y, abs=1e-10)


def test_places_that_the_earth_hides_have_no_scan_angles() -> None:
    x, y = EAST.to_scan_angles([0, 0, 0, 85], [105, 20, -75 + 81, -75])
    np.testing.assert_array_equal(np.isnan(x), [True, True, False, True])
    np.testing.assert_array_equal(np.isnan(x), np.isnan(y))


def test_parallax_correction_moves_a_contrail_towards_the_satellite() -> None:
    """Correct a contrail at a height of 11 km that appears at 40 N 100 W from 75.2 W.

    It lies about 14.5 km nearer to the satellite: h tan(zenith), or a little less because the Earth is curved. From the
    satellite, a contrail of this height at the corrected place appears at the original place.
    """
    projection = Projection(-75.2)
    latitude, longitude = projection.without_parallax(40.0, -100.0, 11_000.0)
    distance = Geod(ellps="GRS80").inv(-100, 40, longitude, latitude)[2]
    assert distance == pytest.approx(11_000 * np.tan(np.radians(satellite_zenith(40, -100, -75.2))), rel=0.01)
    assert latitude < 40
    assert longitude > -100
    earth_centred = Transformer.from_crs("EPSG:4979", "EPSG:4978", always_xy=True)
    x, y, z = earth_centred.transform(longitude + 75.2, latitude, 11_000.0)  # x points to the satellite
    along = projection.distance - x
    apparent = projection.to_geodetic(np.arctan2(y, np.hypot(along, z)), np.arctan2(z, along))
    assert apparent == (pytest.approx(40.0, abs=1e-5), pytest.approx(-100.0, abs=1e-5))
    back = projection.with_parallax(latitude, longitude, 11_000.0)
    assert back == (pytest.approx(40.0, abs=1e-9), pytest.approx(-100.0, abs=1e-9))


def test_the_zenith_angle_of_a_pixel_is_that_of_its_place() -> None:
    grid = FixedGrid(EAST, -0.1518, 0.1518, 6e-4, -6e-4, 507, 507)
    expected = satellite_zenith(*grid.geodetic(), grid.projection.longitude)
    np.testing.assert_allclose(grid.zenith(), expected, rtol=0, atol=1e-5)
    assert 0 < np.isnan(expected).sum() < expected.size / 2
