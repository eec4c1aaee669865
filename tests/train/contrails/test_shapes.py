"""The regions of a mask as shapes on the Earth."""

from __future__ import annotations

import json

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis.extra.numpy import arrays
from pyproj import Geod, Transformer
from scipy import ndimage

from contrail_data.errors import ContrailError
from contrail_data.geo.fixed_grid import FixedGrid, Projection
from contrail_train.contrails.instances import connected
from contrail_train.contrails.shapes import to_features, trace

SIZE = 400
GEOD = Geod(ellps="GRS80")
GRID = FixedGrid(Projection(-75.2), -0.05, 0.1, 56e-6, -56e-6, SIZE, SIZE)
START = np.datetime64("2024-01-01T00:00:00")
ROWS, COLUMNS = np.mgrid[:SIZE, :SIZE]


def shapes_of(mask: np.ndarray, grid: FixedGrid = GRID, **options):
    row_time = START + np.arange(len(mask)).astype("timedelta64[s]")
    p = mask * np.float32(0.8)
    return trace(connected(mask, p), p, grid, row_time=row_time, satellite="GOES-16", **options)


def place(row: float, column: float, grid: FixedGrid = GRID) -> tuple[float, float]:
    """Return longitude and latitude, computed by PROJ and not by the code under test."""
    h = grid.projection.height
    to_geodetic = Transformer.from_crs(grid.projection.crs_wkt, "+proj=longlat +ellps=GRS80", always_xy=True)
    return to_geodetic.transform((grid.x + column * grid.dx) * h, (grid.y + row * grid.dy) * h)


def line(start: tuple[float, float], stop: tuple[float, float], width: float) -> np.ndarray:
    length = np.hypot(stop[0] - start[0], stop[1] - start[1])
    ey, ex = (stop[0] - start[0]) / length, (stop[1] - start[1]) / length
    along = (ROWS - start[0]) * ey + (COLUMNS - start[1]) * ex
    return (along >= 0) & (along <= length) & (np.abs((ROWS - start[0]) * ex - (COLUMNS - start[1]) * ey) <= width / 2)


def apart(a: float, b: float) -> float:
    """Return the degrees between two orientations."""
    return abs((a - b + 90) % 180 - 90)


def geometries(regions, kind: str) -> list[shapely.Geometry]:
    features = json.loads(json.dumps(to_features(regions), allow_nan=False))
    features = features[: len(regions)] if kind == "lines" else features[len(regions) :]
    shapes = [shapely.from_geojson(json.dumps(f["geometry"])) for f in features]
    assert all(shape.is_valid and not shape.is_empty for shape in shapes)
    return shapes


@pytest.mark.parametrize("width", [2, 3, 6])
@pytest.mark.parametrize("stop", [(100, 250), (160, 300), (200, 250), (300, 110), (300, 100), (200, 20), (100, 20)])
def test_length_width_orientation_and_time_match_a_drawn_line(stop: tuple[float, float], width: float) -> None:
    start = (100.3, 100.4)  # between pixels, so that the number of pixels across equals the width
    stop = (stop[0] + 0.3, stop[1] + 0.4)
    (region,) = shapes_of(line(start, stop, width))
    bearing, _, metres = GEOD.inv(*place(*start), *place(*stop))
    properties = region.properties
    assert properties["length_km"] == pytest.approx(metres / 1e3, rel=0.03)
    assert apart(properties["orientation_deg"], bearing) < 2
    assert 0 <= properties["orientation_deg"] < 180
    middle = np.array([start, stop]).mean(0)
    across = np.array([-(stop[1] - start[1]), stop[0] - start[0]]) / np.hypot(stop[0] - start[0], stop[1] - start[1])
    drawn = GEOD.inv(*place(*(middle - width / 2 * across)), *place(*(middle + width / 2 * across)))[2]
    assert properties["width_km"] == pytest.approx(drawn / 1e3, rel=0.3)
    second = (np.datetime64(properties["time"].removesuffix("Z")) - START).astype(int)
    assert second == pytest.approx(middle[0], abs=1.5)
    assert properties["mean_probability"] == properties["max_probability"] == 0.8
    assert properties["satellite"] == "GOES-16"
    assert len(region.line.coords) <= 8  # a straight line needs few points


@pytest.mark.parametrize("part", [0.25, 0.5, 0.8])
def test_a_bent_line_is_followed(part: float) -> None:
    y, x = ROWS - 200, COLUMNS - 200
    turned = np.arctan2(y, x) % (2 * np.pi)
    (region,) = shapes_of((np.abs(np.hypot(y, x) - 60) <= 1.5) & (turned <= part * 2 * np.pi))
    angles = np.linspace(0, part * 2 * np.pi, 400)
    lon, lat = place(200 + 60 * np.sin(angles), 200 + 60 * np.cos(angles))
    assert region.properties["length_km"] == pytest.approx(GEOD.line_length(lon, lat) / 1e3, rel=0.03)
    steps = np.cumsum(GEOD.inv(lon[:-1], lat[:-1], lon[1:], lat[1:])[2])
    i = int(np.searchsorted(steps, steps[-1] / 2))  # pixels are not squares on the ground: not half the angle
    bearing = GEOD.inv(lon[i], lat[i], lon[i + 1], lat[i + 1])[0]
    assert apart(region.properties["orientation_deg"], bearing) < 2
    rows, columns = GRID.indices(*shapely.get_coordinates(region.line).T[::-1])
    assert np.abs(np.hypot(rows - 200, columns - 200) - 60).max() < 1.5


def test_a_fork_is_as_long_as_its_two_longest_arms() -> None:
    arms = line((200, 100), (200, 200), 3) | line((200, 200), (130, 270), 3) | line((200, 200), (240, 240), 3)
    (region,) = shapes_of(arms)
    lon, lat = place(np.array([200, 200, 130]), np.array([100, 200, 270]))
    assert region.properties["length_km"] == pytest.approx(GEOD.line_length(lon, lat) / 1e3, rel=0.03)


def test_a_ring_has_a_hole_and_the_length_of_half_of_it() -> None:
    radius = np.hypot(ROWS - 200, COLUMNS - 200)
    regions = shapes_of(np.abs(radius - 40) <= 1.5)
    (outline,) = geometries(regions, "polygons")
    assert [len(part.interiors) for part in outline.geoms] == [1]
    angles = np.linspace(0, 2 * np.pi, 400)
    around = GEOD.line_length(*place(200 + 40 * np.sin(angles), 200 + 40 * np.cos(angles))) / 1e3
    assert regions[0].properties["length_km"] == pytest.approx(around / 2, rel=0.15)  # either half may be measured


def test_single_pixels_and_regions_at_the_edge_have_valid_shapes() -> None:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[0, 0] = mask[-1, -1] = mask[50, 50] = True
    mask[300, 300] = mask[301, 301] = True  # touch at a corner
    mask[100:200, -2:] = True
    regions = sorted(shapes_of(mask), key=lambda c: c.properties["pixels"])
    assert [c.properties["pixels"] for c in regions] == [1, 1, 1, 2, 200]
    assert [len(g.geoms) for g in geometries(regions, "polygons")] == [1, 1, 1, 2, 1]
    assert all(len(g.coords) >= 2 and g.length > 0 for g in geometries(regions, "lines"))
    isolated = next(c for c in regions if abs(shapely.get_coordinates(c.outline) - place(50, 50)).max() < 0.1)
    pixel_area = shapely.Polygon(
        [place(50 + i, 50 + j) for i, j in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))]
    )
    exact = abs(GEOD.geometry_area_perimeter(pixel_area)[0]) / 1e6
    assert isolated.properties["length_km"] * isolated.properties["width_km"] == pytest.approx(exact, rel=0.01)
    assert not shapes_of(np.zeros((SIZE, SIZE), bool))


def test_a_region_that_reaches_off_the_earth_is_left_out() -> None:
    grid = FixedGrid(Projection(-75.2), -0.151844, 0.151844, 56e-6 * 14, -56e-6 * 14, SIZE, SIZE)
    mask = np.zeros((SIZE, SIZE), bool)
    mask[0, :9] = mask[190:194, 150:190] = True
    assert [c.properties["pixels"] for c in shapes_of(mask, grid)] == [160]


@pytest.mark.slow
@given(mask=arrays(np.bool_, (12, 13)))
def test_any_mask_gives_valid_shapes_that_cover_its_pixels(mask: np.ndarray) -> None:
    grid = GRID.window(100, 100, *mask.shape)
    regions = shapes_of(mask, grid)
    assert sum(c.properties["pixels"] for c in regions) == mask.sum()
    assert len(geometries(regions, "lines")) == ndimage.label(mask, np.ones((3, 3)))[1]
    outlines = geometries(regions, "polygons")
    assert all(part.exterior.is_ccw for g in outlines for part in g.geoms)
    assert not any(hole.is_ccw for g in outlines for part in g.geoms for hole in part.interiors)
    covered = shapely.union_all(outlines) if outlines else shapely.Polygon()
    latitude, longitude = grid.geodetic()
    np.testing.assert_array_equal(shapely.contains_xy(covered, longitude, latitude), mask)
    for contrail in regions:
        properties = contrail.properties
        assert properties["length_km"] > 0
        assert properties["width_km"] > 0


def test_shapes_are_cut_at_180_degrees() -> None:
    west = FixedGrid(Projection(-137.0), -0.151844, 0.151844, 56e-6, -56e-6, 5424, 5424)
    row, column = (int(i) for i in west.indices(30.0, 180.0))
    window = west.window(row - 100, column - 100, 200, 200)
    mask = np.zeros((200, 200), bool)
    mask[99:102, 60:140] = True
    mask[100, 70:130] = False  # a hole across 180 degrees
    (region,) = shapes_of(mask, window)
    assert abs(np.diff(shapely.get_coordinates(region.line)[:, 0])).max() < 10
    assert region.properties["length_km"] < 500
    for kind in ("lines", "polygons"):
        (geometry,) = geometries([region], kind)
        bounds = np.array([part.bounds for part in geometry.geoms])
        assert (bounds[:, 2] - bounds[:, 0] < 3).all()
        assert bounds[:, 2].max() == 180
        assert bounds[:, 0].min() == -180
    parts = [json.loads(json.dumps(to_features([region])))[1]["geometry"]["coordinates"]]
    assert all(shapely.Polygon(p[0]).exterior.is_ccw for p in parts[0])


def test_parallax_of_11_km_matches_the_viewing_geometry_at_40_north_100_west() -> None:
    grid = FixedGrid(Projection(-75.2), 0, 0, 56e-6, -56e-6, SIZE, SIZE)
    row, column = (round(float(i)) for i in grid.indices(40.0, -100.0))
    window = grid.window(row - 200, column - 200, SIZE, SIZE)
    mask = line((190, 180), (210, 220), 3)
    (seen,), (true,) = shapes_of(mask, window), shapes_of(mask, window, altitude=11_000.0)
    seen_at, true_at = (shapely.get_coordinates(region.line).mean(0) for region in (seen, true))
    bearing, _, moved = GEOD.inv(*seen_at, *true_at)
    # The line of sight is inclined by the satellite's zenith angle, which is computed here on a sphere.
    centre = np.arccos(np.cos(np.radians(40)) * np.cos(np.radians(100 - 75.2)))
    zenith = centre + np.arctan(np.sin(centre) / (42_164.16 / 6_378.137 - np.cos(centre)))
    assert moved == pytest.approx(11_000 * np.tan(zenith), rel=0.03)
    assert moved == pytest.approx(14_500, rel=0.05)
    assert apart(bearing, GEOD.inv(-100.0, 40.0, -75.2, 0.0)[0]) < 2  # towards the sub-satellite point
    assert GEOD.inv(*true_at, -75.2, 0.0)[2] < GEOD.inv(*seen_at, -75.2, 0.0)[2]
    assert true.properties["altitude_m"] == 11_000
    assert "altitude_m" not in seen.properties


def test_features_have_the_properties_of_their_contrail() -> None:
    regions = shapes_of(line((100, 100), (120, 160), 3))
    for feature, geometry in zip(to_features(regions), ("LineString", "MultiPolygon"), strict=True):
        assert (feature["type"], feature["geometry"]["type"]) == ("Feature", geometry)
        assert feature["properties"] == regions[0].properties


def test_time_is_null_for_rows_without_one_and_other_sizes_are_refused() -> None:
    mask = line((100, 100), (120, 160), 3)
    p, never = mask.astype(np.float32), np.full(SIZE, np.datetime64("NaT", "s"))
    assert trace(connected(mask, p), p, GRID, row_time=never, satellite="x")[0].properties["time"] is None
    with pytest.raises(ContrailError, match="cut all of them to one window"):
        trace(connected(mask[:-1], p[:-1]), p, GRID, row_time=never, satellite="x")


def test_a_large_region_is_drawn_as_a_straight_line() -> None:
    grid = FixedGrid(Projection(-75.2), -0.05, 0.05, 56e-6, -56e-6, 600, 1200)
    (region,) = shapes_of(np.ones((600, 1200), bool), grid)
    assert len(region.line.coords) == 2
