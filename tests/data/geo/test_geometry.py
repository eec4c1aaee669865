"""Geometry against published values and independent libraries."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pvlib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod, Transformer

from contrail_data.geo.geometry import local_solar_hour, satellite_zenith, solar_zenith
from contrail_data.scans.tiles import Tile


def utm(meridian: int) -> str:
    return (
        'PROJCS["unknown",GEOGCS["unknown",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,298.257223563,'
        'AUTHORITY["EPSG","7030"]],AUTHORITY["EPSG","6326"]],PRIMEM["Greenwich",0,AUTHORITY["EPSG","8901"]],'
        'UNIT["degree",0.0174532925199433,AUTHORITY["EPSG","9122"]]],PROJECTION["Transverse_Mercator"],'
        f'PARAMETER["latitude_of_origin",0],PARAMETER["central_meridian",{meridian}],'
        'PARAMETER["scale_factor",0.9996],PARAMETER["false_easting",500000],PARAMETER["false_northing",0],'
        'UNIT["metre",1,AUTHORITY["EPSG","9001"]],AXIS["Easting",EAST],AXIS["Northing",NORTH]]'
    )


# Record 2243486080767052614 of OpenContrails' validation_metadata.json.
RECORD = {
    "projection_wkt": utm(-63),
    "row_min": 2686377.25,
    "row_size": -1984.93212890625,
    "col_min": 466287.28125,
    "col_size": 1929.760986328125,
    "height": 256,
    "width": 256,
}


def test_the_footprint_of_a_real_record_has_the_expected_centre():
    tile = Tile(**RECORD).footprint()
    assert (round(tile["latitude"], 4), round(tile["longitude"], 4)) == (21.9823, -60.9342)
    assert tile["geotransform"].tolist() == [
        466287.28125,
        1929.760986328125,
        0,
        2686377.25,
        0,
        -1984.93212890625,
    ]
    assert tile["crs_wkt"] == RECORD["projection_wkt"]


def test_corners_are_outer_and_clockwise_from_upper_left():
    tile = Tile(**RECORD).footprint()
    lat, lon = tile["corner_latitude"], tile["corner_longitude"]
    assert lat.shape == lon.shape == (4,)
    assert lat.dtype == lon.dtype == np.float64
    assert lat[:2].min() > tile["latitude"] > lat[2:].max()
    assert lon[[0, 3]].max() < tile["longitude"] < lon[[1, 2]].min()
    # On the ellipsoid, the edges are 256 pixels long times the projection's scale, which is within 0.3 % of 1 here.
    _, _, length = Geod(ellps="WGS84").inv(lon, lat, np.roll(lon, -1), np.roll(lat, -1))
    expected = 256 * np.array([RECORD["col_size"], -RECORD["row_size"]] * 2)
    np.testing.assert_allclose(length, expected, rtol=3e-3)
    # The centre of a one-pixel tile at the same corner is half a pixel from that corner.
    single = Tile(**{**RECORD, "height": 1, "width": 1}).footprint()
    np.testing.assert_allclose(single["corner_latitude"][0], lat[0])
    x, y = Transformer.from_crs(4326, RECORD["projection_wkt"], always_xy=True).transform(
        single["longitude"], single["latitude"]
    )
    np.testing.assert_allclose(
        [x, y],
        [RECORD["col_min"] + RECORD["col_size"] / 2, RECORD["row_min"] + RECORD["row_size"] / 2],
        atol=1e-3,
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"projection_wkt": "PROJCS[broken"}, "unreadable projection"),
        ({"projection_wkt": ""}, "unreadable projection"),
        ({"row_min": float("nan")}, "not finite"),
        ({"col_size": float("inf")}, "not finite"),
        ({"height": 0}, "empty tile"),
        ({"row_size": 0.0}, "empty tile"),
        ({"row_min": 1e11}, "outside"),
    ],
)
def test_unusable_tiles_raise_an_error_of_one_line(change, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        Tile(**{**RECORD, **change}).footprint()
    assert "\n" not in str(caught.value)


def test_threads_share_the_cached_projection():
    jobs = [{**RECORD, "projection_wkt": utm(-63 - 6 * (i % 5)), "row_min": 2e6 + 1e3 * i} for i in range(200)]
    with ThreadPoolExecutor(8) as pool:
        threaded = [t["latitude"] for t in pool.map(lambda j: Tile(**j).footprint(), jobs)]
    assert threaded == [Tile(**j).footprint()["latitude"] for j in jobs]


def sampled_places(count: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    start = np.datetime64("1995-01-01T00:00:00", "s")
    times = start + rng.integers(0, 40 * 365 * 86400, count).astype("timedelta64[s]")
    return rng.uniform(-90, 90, count), rng.uniform(-180, 180, count), times


@pytest.mark.slow
def test_solar_zenith_agrees_with_spa():
    lat, lon, times = sampled_places()
    spa = [
        pvlib.solarposition.spa_python(pd.DatetimeIndex([t], tz="UTC"), a, o, altitude=0)["zenith"].iloc[0]
        for a, o, t in zip(lat, lon, times, strict=True)
    ]
    assert np.abs(solar_zenith(lat, lon, times) - spa).max() < 0.02


def test_local_solar_hour_agrees_with_spa_equation_of_time():
    _, lon, times = sampled_places(50)
    spa = pvlib.solarposition.spa_python(pd.DatetimeIndex(times, tz="UTC"), 0, 0)["equation_of_time"].to_numpy()
    seconds = (times - times.astype("datetime64[D]")) / np.timedelta64(1, "s")
    expected = np.mod(seconds / 3600 + lon / 15 + spa / 60, 24)
    gap = np.mod(local_solar_hour(lon, times) - expected + 12, 24) - 12
    assert np.abs(gap).max() * 3600 < 3  # seconds


def test_the_sun_agrees_with_the_almanac_at_equinox_and_solstice():
    # USNO: March equinox 2020-03-20 03:50 UTC, June solstice 2019-06-21 15:54 UTC. The sun stands over the
    # equator, or 23.4366 degrees north, where its hour angle is 0.
    for moment, declination in (("2020-03-20T03:50", 0.0), ("2019-06-21T15:54", 23.4366)):
        time = np.datetime64(moment)
        noon_longitude = 15 * (12 - local_solar_hour(0.0, time))
        assert solar_zenith(90.0, 0.0, time) == pytest.approx(90 - declination, abs=0.005)
        assert solar_zenith(declination, noon_longitude, time) == pytest.approx(0, abs=0.01)
    # Equation of time: extremes +16 min 28 s on 3 November, -14 min 14 s on 11 February (almanac values).
    for day, minutes in (("2019-11-03", 16.45), ("2020-02-11", -14.23)):
        offset = 60 * (local_solar_hour(0.0, np.datetime64(f"{day}T12:00")) - 12)
        assert offset == pytest.approx(minutes, abs=0.05)


def test_satellite_zenith_agrees_with_proj():
    rng = np.random.default_rng(2)
    assert satellite_zenith(0.0, -75.2) == pytest.approx(0, abs=1e-9)
    assert satellite_zenith(0.0, -137.0, satellite_longitude=-137.0) == pytest.approx(0, abs=1e-9)
    angle = np.radians(-75.2)
    radius = 6378137.0 + 35786023.0
    for lat, lon in zip(rng.uniform(-60, 60, 20), rng.uniform(-130, -20, 20), strict=True):
        local = Transformer.from_pipeline(f"+proj=topocentric +ellps=GRS80 +lon_0={lon} +lat_0={lat} +h_0=0")
        east, north, up = local.transform(radius * np.cos(angle), radius * np.sin(angle), 0.0)
        expected = np.degrees(np.arctan2(np.hypot(east, north), up))
        assert satellite_zenith(lat, lon) == pytest.approx(expected, abs=1e-6)


def test_missing_coordinates_and_times_give_missing_angles():
    nan, nat, now = np.nan, np.datetime64("NaT"), np.datetime64("2019-10-15T15:20")
    assert np.isnan(solar_zenith([nan, 10.0, 10.0], [0.0, nan, 0.0], np.array([now, now, nat]))).all()
    assert np.isnan(local_solar_hour([nan, 0.0], np.array([now, nat]))).all()
    assert np.isnan(satellite_zenith([nan, 0.0], [0.0, nan])).all()


def test_arguments_broadcast():
    times = np.datetime64("2019-10-15T00:00", "ns") + np.arange(3) * np.timedelta64(10, "m")
    zenith = solar_zenith(np.zeros((4, 1, 1)), np.zeros((5, 1)), times)
    assert zenith.shape == (4, 5, 3)
    assert zenith.dtype == np.float64
    assert local_solar_hour(np.zeros((5, 1)), times).shape == (5, 3)


places = st.floats(-90, 90), st.floats(-180, 180), st.integers(0, 60 * 366 * 86400)


@settings(max_examples=60)
@given(*places)
def test_solar_zenith_at_the_antipode_is_the_supplement(latitude, longitude, seconds):
    time = np.datetime64("1980-01-01") + np.timedelta64(seconds, "s")
    zenith = solar_zenith(latitude, longitude, time)
    assert 0 <= zenith <= 180
    assert solar_zenith(-latitude, longitude + 180, time) == pytest.approx(180 - zenith, abs=1e-5)
    hour = local_solar_hour(longitude, time)
    assert 0 <= hour < 24
    later = local_solar_hour(longitude + 15, time) - hour
    assert min(abs(later - 1), abs(later + 23)) < 1e-9


@settings(max_examples=60)
@given(st.floats(-80, 80), st.floats(-75, 75))
def test_satellite_zenith_is_symmetric(latitude, offset):
    assert satellite_zenith(latitude, -75.2 + offset) == pytest.approx(satellite_zenith(-latitude, -75.2 - offset))
    # Seen from orbit, the zenith angle exceeds the central angle of the sub-satellite point.
    central = np.degrees(np.arccos(np.cos(np.radians(latitude)) * np.cos(np.radians(offset))))
    assert satellite_zenith(latitude, -75.2 + offset) >= central - 0.2
