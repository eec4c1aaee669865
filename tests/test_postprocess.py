"""Cleaning a mask, and its regions as shapes on the Earth."""

from __future__ import annotations

import json

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from contrail_data.errors import ContrailError
from contrail_data.fixed_grid import FixedGrid, Projection
from contrail_train.postprocess import Cleaning, clean
from contrail_train.shapes import GEOD, contrails, to_geojson

MAPS = arrays(np.float32, (2, 12, 14), elements=st.floats(0, 1, width=16))
VALID = arrays(np.bool_, (2, 12, 14))


@given(
    p=MAPS, valid=VALID, low=st.floats(0, 0.5), size=st.integers(1, 6), long=st.floats(1, 4), reach=st.integers(1, 3)
)
def test_each_switch_only_does_what_it_says(p, valid, low, size, long, reach) -> None:
    plain = clean(p, valid, Cleaning(0.5))
    np.testing.assert_array_equal(plain, (p >= 0.5) & valid)
    grown = clean(p, valid, Cleaning(0.5, low=low))
    assert (grown >= plain).all()
    assert not (grown & ~((p >= low) & valid)).any()
    for less in (Cleaning(0.5, min_pixels=size), Cleaning(0.5, elongation=long), Cleaning(0.5, reach=reach)):
        made = clean(p, valid, less)
        assert (made <= plain).all()
        np.testing.assert_array_equal(clean(made.astype(np.float32), valid, less), made)  # once is enough


def test_what_goes_and_what_stays() -> None:
    p = np.zeros((3, 30, 30), np.float32)
    p[:, 5, 2:22] = 0.9  # a line, in all times
    p[1, 20:24, 20:24] = 0.9  # a blob, in one
    p[1, 27, 3] = 0.9
    p[1, 5, 22:26] = 0.4  # where the line fades
    everywhere = np.ones(p.shape, bool)

    def pixels(**switches) -> int:
        return int(clean(p, everywhere, Cleaning(0.5, **switches))[1].sum())

    assert pixels() == 20 + 16 + 1
    assert pixels(low=0.3) == 24 + 16 + 1
    assert pixels(min_pixels=2) == 20 + 16
    assert pixels(elongation=3) == 20
    assert pixels(reach=2) == 20
    with pytest.raises(ContrailError, match="above the threshold"):
        clean(p, everywhere, Cleaning(0.5, low=0.6))


GRID = FixedGrid(Projection(-75.2), -0.05, 0.1, 56e-6, -56e-6, 400, 400)


def shapes_of(mask: np.ndarray, **options):
    time = np.full(len(mask), np.datetime64("2024-01-01T00:00:00")) + np.arange(len(mask)).astype("timedelta64[s]")
    return contrails(mask, mask * np.float32(0.8), GRID, row_time=time, satellite="GOES-16", **options)


def line(start: tuple[float, float], stop: tuple[float, float], width: float) -> np.ndarray:
    rows, columns = np.mgrid[:400, :400]
    length = np.hypot(stop[0] - start[0], stop[1] - start[1])
    ey, ex = (stop[0] - start[0]) / length, (stop[1] - start[1]) / length
    along = (rows - start[0]) * ey + (columns - start[1]) * ex
    return (along >= 0) & (along <= length) & (np.abs((rows - start[0]) * ex - (columns - start[1]) * ey) <= width / 2)


@pytest.mark.parametrize("stop", [(200, 250), (120, 300), (300, 110), (100, 20)])
def test_length_width_and_bearing_of_a_drawn_line(stop: tuple[float, float]) -> None:
    start = (100.0, 100.0)
    (found,) = shapes_of(line(start, stop, 3))
    ends = [GRID.projection.to_geodetic(GRID.x + j * GRID.dx, GRID.y + i * GRID.dy) for i, j in (start, stop)]
    (lat0, lon0), (lat1, lon1) = ends
    bearing, _, metres = GEOD.inv(lon0, lat0, lon1, lat1)
    told = found.properties
    assert told["length_km"] == pytest.approx(metres / 1e3, rel=0.03)
    assert abs((told["bearing_deg"] - bearing + 90) % 180 - 90) < 2
    beside = GRID.projection.to_geodetic(GRID.x + 100 * GRID.dx, GRID.y + 101 * GRID.dy)
    assert told["width_km"] == pytest.approx(3 * GEOD.inv(lon0, lat0, beside[1], beside[0])[2] / 1e3, rel=0.3)
    row = (start[0] + stop[0]) / 2
    second = (np.datetime64(told["time"][:-1]) - np.datetime64("2024-01-01T00:00:00")).astype(int)
    assert second == pytest.approx(row, abs=1.5)


def test_odd_regions_are_valid_features() -> None:
    mask = np.zeros((400, 400), bool)
    mask[0, 0] = mask[50, 50] = True  # the grid's corner, and a pixel alone
    mask[100:120, 100:120] = True
    mask[105:115, 105:115] = False  # a ring
    mask[200:240, 200] = mask[[*range(200, 220)], [*range(200, 220)]] = True  # a fork
    mask[300, 300] = mask[301, 301] = True  # that touch by a corner
    found = shapes_of(mask)
    assert [c.properties["pixels"] for c in found] == [1, 1, 300, 59, 2]
    for kind in ("lines", "polygons"):
        for feature in json.loads(json.dumps(to_geojson(found, kind), allow_nan=False))["features"]:
            shape = shapely.from_geojson(json.dumps(feature["geometry"]))
            assert shape.is_valid
            if kind == "polygons":
                assert all(part.exterior.is_ccw for part in shape.geoms)
    ring = shapely.from_geojson(json.dumps(to_geojson(found[2:3], "polygons")["features"][0]["geometry"]))
    assert len(ring.geoms[0].interiors) == 1
    assert not shapes_of(np.zeros((400, 400), bool))


def test_parallax_moves_shapes_towards_the_satellite() -> None:
    mask = line((100, 100), (140, 160), 3)
    (seen,), (true,) = shapes_of(mask), shapes_of(mask, altitude=11_000.0)
    _, _, moved = GEOD.inv(*seen.line[0], *true.line[0])
    assert 9_000 < moved < 16_000
    assert true.line[0, 1] < seen.line[0, 1]
    assert true.properties["altitude_m"] == 11_000
