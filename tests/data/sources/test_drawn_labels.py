"""Contrails that people drew on scans become the masks of samples."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
import xarray as xr
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from pyproj import Geod
from shapely.geometry import mapping

from contrail_data.errors import ContrailError
from contrail_data.geo.fixed_grid import FixedGrid, Projection
from contrail_data.scans.listing import Scan
from contrail_data.scans.tiles import native_tile, utm_tile
from contrail_data.sources import label_files
from contrail_data.sources.drawn_labels import LabelRequest, ScanLabels, match_labels
from contrail_data.sources.drawn_shapes import DrawnShape
from contrail_data.sources.tile_labels import LineWidth
from contrail_data.store.reader import open_store
from helpers.cli import run_data
from helpers.drawn_labels import (
    EVERYWHERE,
    NOON,
    SINGLE,
    TIME,
    feature,
    masks_of,
    open_labelled,
    save_geotiff,
    save_netcdf,
    square,
    write,
)


def test_scans_are_searched_that_began_a_quarter_of_an_hour_before_a_label() -> None:
    shape = DrawnShape(geometry=shapely.box(0, 0, 1, 1), where="", time=NOON)
    times = np.array(label_files.DrawnLabels([shape]).search_times())
    assert NOON - times.min() == np.timedelta64(15, "m")
    assert times.max() == NOON
    assert (np.diff(times) <= np.timedelta64(5, "m")).all()


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 11_000.0]))
@example(64926991, 0.0)  # across 180 degrees
def test_shapes_of_pixels_mark_these_pixels_whatever_their_altitude(seed: int, altitude: float) -> None:
    """Shapes corrected for parallax go back to where the scan shows them."""
    rng = np.random.default_rng(seed)
    projection = Projection(float(rng.uniform(-180, 180)), sweep=str(rng.choice(["x", "y"])))
    step = 5.6e-5
    y, x = rng.uniform(-0.09, 0.09, 2)
    grid = FixedGrid(projection, x, y, step, -step, 40, 40)
    latitude, longitude = (float(v) for v in projection.to_geodetic(x + 20 * step, y - 20 * step))
    tile = native_tile(grid, latitude, longitude, 40)
    top, left = rng.integers(1, 30, 2)
    height, width = rng.integers(1, 9, 2)
    shape = square(grid, top, left, height, width)
    if altitude:
        points = shapely.get_coordinates(shape)
        moved = projection.without_parallax(points[:, 1], points[:, 0], altitude)
        shape = shapely.Polygon(np.stack(moved[::-1], -1))
    assume(shape.bounds[2] - shape.bounds[0] < 180)  # `read_labels` turns shapes across 180 degrees
    drawn = DrawnShape(geometry=shape, where="", time=None, altitude=altitude)
    labels = ScanLabels(grid=grid, contrails=[drawn], area=None, line_width=LineWidth(4, False))
    on_tile = labels.on_tile(tile)
    assert on_tile is not None
    rows, columns = (values.astype(int) for values in tile.pixel_indices(grid))
    expected = (rows >= top) & (rows < top + height) & (columns >= left) & (columns < left + width)
    np.testing.assert_array_equal(on_tile.mask(40, 40), expected)


@pytest.mark.parametrize("longitude", [-75.2, 179.0])
@pytest.mark.parametrize("area", [None, (-250.0, -80.0, 330.0, 80.0)])
def test_a_tile_across_the_limb_has_all_labels_that_the_scan_shows(longitude: float, area: tuple | None) -> None:
    """Lines of pixels along rows and columns from the middle of the tile to where the Earth ends."""
    step = 4.48e-4
    grid = FixedGrid(Projection(longitude), -338 * step, 338 * step, step, -step, 677, 677)
    latitude, east = (float(v) for v in grid.projection.to_geodetic(0.095, 0.095))
    tile = native_tile(grid, latitude, east, 256)
    rows, columns = tile.pixel_indices(grid)
    assert 0.5 < np.isfinite(rows).mean() < 0.9
    shapes = [square(grid, 150, 520, 5, 60), square(grid, 75, 430, 60, 4), square(grid, 230, 600, 2, 35)]
    contrails = [DrawnShape(geometry=shape, where="", time=None) for shape in shapes]
    everywhere = None if area is None else shapely.box(*area)
    labels = ScanLabels(grid=grid, contrails=contrails, area=everywhere, line_width=LineWidth(4, False))
    on_tile = labels.on_tile(tile)
    assert on_tile is not None
    marked = np.zeros((677, 677), bool)
    marked[150:155, 520:580] = marked[75:135, 430:434] = marked[230:232, 600:635] = True
    seen = np.isfinite(rows)
    expected = marked[np.where(seen, rows, 0).astype(int), np.where(seen, columns, 0).astype(int)] & seen
    assert expected.sum() > 400
    np.testing.assert_array_equal(on_tile.mask(256, 256), expected)


@pytest.mark.parametrize(("properties", "width"), [({}, 6.0), ({"width_km": 9.5}, 9.5)])
def test_a_line_marks_what_is_within_half_its_width(
    scans: Path, tmp_path: Path, properties: dict[str, float], width: float
) -> None:
    line = shapely.LineString([(-92.3, 29.2), (-91.9, 29.6), (-91.75, 29.62)])
    path = write(tmp_path / "labels.geojson", [feature(line, **properties), EVERYWHERE])
    options = {} if properties else {"line_width": "6km"}
    source = open_labelled(scans, path, {**SINGLE, "pixel": 2000.0}, **options)
    (mask,) = masks_of(source)
    tile = source.entries[source.record_ids[0]].tile
    x, y = tile.col_min + 2000 * (np.arange(48) + 0.5), tile.row_min - 2000 * (np.arange(48) + 0.5)
    from contrail_data.geo.geometry import to_geodetic

    longitude, latitude = to_geodetic(tile.projection_wkt).transform(*np.meshgrid(x, y))
    along = shapely.get_coordinates(shapely.segmentize(line, 0.002))
    geod = Geod(ellps="WGS84")
    nearest = [
        min(geod.inv(np.full(len(along), lon), np.full(len(along), lat), *along.T)[2])
        for lon, lat in zip(longitude.ravel(), latitude.ravel(), strict=True)
    ]
    distance = np.reshape(nearest, (48, 48)) / 1e3
    beside_ends = shapely.distance(shapely.points(longitude, latitude), line.boundary) > 0.06
    np.testing.assert_array_equal(mask[(distance < width / 2 - 0.1) & beside_ends], 1)  # the ends are cut straight
    np.testing.assert_array_equal(mask[distance > width / 2 + 0.1], 0)


def test_a_line_of_any_width_is_in_one_piece(scans: Path, tmp_path: Path) -> None:
    from scipy import ndimage

    line = shapely.LineString([(-92.4, 29.2), (-91.6, 29.7)])
    path = write(tmp_path / "labels.geojson", [feature(line, width_km=0.1), EVERYWHERE])
    (mask,) = masks_of(open_labelled(scans, path, {**SINGLE, "pixel": 2000.0}))
    assert mask.any()
    assert ndimage.label(mask, np.ones((3, 3)))[1] == 1
    path = write(tmp_path / "labels.geojson", [feature(line), EVERYWHERE])
    counts = [
        masks_of(open_labelled(scans, path, {**SINGLE, "pixel": 2000.0}, line_width=width))[0].sum()
        for width in ("1px", "3px", "6km")
    ]
    assert counts[0] < counts[1] == pytest.approx(counts[2], rel=0.1)


def test_features_that_cannot_be_used_are_listed_one_by_one_and_the_rest_is_built(scans: Path, tmp_path: Path) -> None:
    box = shapely.box(-92.1, 29.4, -92.0, 29.5)
    features = [
        feature(box, width_km=778),  # a polygon has its width
        feature(box, time=None),
        feature(box, time="at noon"),
        feature(box, time="2024-03-02T12:40:00Z"),
        feature(shapely.Point(-92, 29)),
        feature(shapely.LineString([(-92, 29), (-91, 29)]), width_km=-1),
        feature(shapely.box(29.4, -92.1, 29.5, -92.0)),
        feature(shapely.LineString([(-92, 29), (-91, 29)]), area=True),
        {"type": "Feature", "geometry": None, "properties": {"time": TIME}},
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": 3}, "properties": {"time": TIME}},
        EVERYWHERE,
    ]
    path = write(tmp_path / "labels.geojson", features)
    options = ("--at", "29.5,-92", "--size", "48", "--pixel", "2000", "--before", "0", "--after", "0")
    done = run_data("build-ash", scans, "-o", tmp_path / "s.zarr", "--labels", path, *options)
    assert done.returncode == 3, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("set aside: ")]
    for number, reason in {
        2: "has no time; set its property time",
        3: "time 'at noon' is not a time",
        4: "no scan of 2024-03-02T12:40:00; add it",
        5: "is a point",
        6: "width_km '-1' is not a number from 0 to 200",
        7: "is not in degrees; give longitude before latitude",
        8: "a line is not an area",
        9: "has no usable geometry",
        10: "has no usable geometry",
    }.items():
        assert sum(f"labels.geojson: feature {number}: " in line and reason in line for line in lines) == 1, reason
    assert len(lines) == 9
    store = open_store(tmp_path / "s.zarr")
    assert store["mask"].values.any()
    assert store.attrs["label_shift"] == [0.0, 0.0]
    assert store["label_source"].values.tolist() == ["human"]
    assert "samples with labels: 1, looked at without any: 0" in done.stderr
    path.write_text(path.read_text().replace("-92.0", "-91.9"))
    changed = run_data("build-ash", scans, "-o", tmp_path / "s.zarr", "--labels", path, *options)
    assert changed.returncode == 1, changed.stderr  # other labels make another store


def test_files_that_are_no_labels_are_refused_in_one_line(scans: Path, grid: FixedGrid, tmp_path: Path) -> None:
    mask_yx = np.zeros((grid.height, grid.width), np.uint8)
    (tmp_path / "list.geojson").write_text("[]")
    (tmp_path / "text.geojson").write_text("nonsense")
    (tmp_path / "empty.geojson").write_text("")
    write(tmp_path / "crs.geojson", [], crs={"properties": {"name": "EPSG:123"}})
    (tmp_path / "empty.tif").write_bytes(b"")
    (tmp_path / "empty.nc").write_bytes(b"")
    (tmp_path / "empty.gpkg").write_bytes(b"")
    (tmp_path / "text.tif").write_bytes(b"nonsense")
    (tmp_path / "text.nc").write_bytes(b"nonsense")
    save_geotiff(tmp_path / "half.tif", grid, mask_yx + np.float32(0.5))
    save_geotiff(tmp_path / "unseen.tif", grid, mask_yx + np.uint8(255))
    save_geotiff(
        tmp_path / "away.tif", grid, mask_yx, crs="EPSG:4326", transform=rasterio.Affine(0.02, 0, 10, 0, -0.02, 50)
    )
    save_netcdf(tmp_path / "column.nc", grid.window(50, 60, 1, 1), mask_yx[50:51, 60:61])
    write(tmp_path / "away.geojson", [feature(shapely.box(10, 50, 11, 51))])
    write(tmp_path / "late.geojson", [feature(shapely.box(-92.1, 29.4, -92, 29.5), time="2024-03-05T12:40:00Z")])
    save_geotiff(tmp_path / "seven.tif", grid, mask_yx + np.uint8(7))
    save_geotiff(tmp_path / "nowhere.tif", grid, mask_yx, crs=None)
    save_geotiff(tmp_path / "two.tif", grid, mask_yx, count=2)
    with rasterio.open(save_geotiff(tmp_path / "never.tif", grid, mask_yx), "r+") as file:
        file.update_tags(time="")
    with rasterio.open(save_geotiff(tmp_path / "noon.tif", grid, mask_yx), "r+") as file:
        file.update_tags(time="noon")
    xr.Dataset({"mask": (("y", "x"), mask_yx)}).to_netcdf(tmp_path / "flat.nc")
    write(tmp_path / "none.geojson", [])
    for name, reason in {
        "absent.geojson": "no such file",
        "labels.txt": "not a format of labels",
        "list.geojson": "not a GeoJSON feature collection",
        "text.geojson": "cannot be read as JSON (Expecting value",
        "empty.geojson": "cannot be read as JSON (0 bytes); save it again",
        "crs.geojson": "unknown coordinate system 'EPSG:123'; save it in EPSG:4326",
        "empty.tif": "cannot be read as GeoTIFF (0 bytes)",
        "empty.nc": "cannot be read as NetCDF (0 bytes)",
        "empty.gpkg": "empty.gpkg: cannot be read (not recognized as being in a supported file format); save it again",
        "text.tif": "cannot be read as GeoTIFF (not recognized as being in a supported file format); check it",
        "text.nc": "cannot be read as NetCDF (NetCDF: Unknown file format); check it",
        "half.tif": "holds other values than 0",
        "unseen.tif": "all pixels are 255",
        "away.tif": "less than half was looked at of each of 1 tiles",
        "column.nc": "not an axis of at least 2 pixels",
        "away.geojson": "feature 1: lies outside of the scan of 2024-03-01T12:40:00; check its coordinates",
        "late.geojson": "--labels: no scan is of the times of these labels",
        "seven.tif": "holds other values than 0",
        "nowhere.tif": "has no coordinate system",
        "two.tif": "has 2 bands",
        "never.tif": "has no time",
        "noon.tif": "time 'noon' is not a time",
        "flat.nc": "its mask has no axes time, y and x",
        "none.geojson": "none.geojson: holds no labels",
    }.items():
        with pytest.raises(ContrailError, match=re.escape(reason)) as error:
            open_labelled(scans, tmp_path / name, SINGLE)
        assert "\n" not in str(error.value)


def test_what_was_looked_at_may_cross_180_degrees() -> None:
    step = 0.3 / 96
    grid = FixedGrid(Projection(-137.0), -0.15, 0.15, step, -step, 96, 96)
    scan = Scan(start=NOON, end=NOON, bands=(), files=("x",), platform="GOES-18", grid=grid, open=xr.Dataset)
    shape = DrawnShape(geometry=shapely.box(-179, 31, -178, 32), where="", time=NOON)
    request = LabelRequest(files=(Path("a.geojson"),), area=(30, 170, 40, -170))
    labels, _, _ = match_labels(request, label_files.DrawnLabels([shape]), [scan])
    latitude, longitude = np.array(labels[scan].sites(500)).T
    assert (latitude.min() > 30) & (latitude.max() < 40)
    assert (np.abs(longitude % 360 - 180) < 10).all()
    assert longitude.min() < 0 < longitude.max()


def test_only_what_was_looked_at_counts(scans: Path, tmp_path: Path) -> None:
    """A tile is labelled if half of it was looked at; its other pixels are missing."""
    contrail = feature(shapely.box(-92.3, 29.4, -92.2, 29.5))
    west = {"type": "Feature", "geometry": mapping(shapely.box(-99, 20, -91.95, 40)), "properties": {"area": "yes"}}
    path = write(tmp_path / "labels.geojson", [contrail, west])
    pixel = {"pixel": 2000.0}
    (sample,) = (s.read_sample(s.record_ids[0]) for s in [open_labelled(scans, path, {**SINGLE, **pixel})])
    valid = sample.valid[..., 0]
    assert valid[:, :20].all()
    assert not valid[:, 30:].any()
    with pytest.raises(ContrailError, match="no sample can be cut"):
        open_labelled(scans, path, {**SINGLE, **pixel, "places": [(29.5, -91.7)]})
    with pytest.raises(ContrailError, match=r"nothing states where this scan was looked at; .*--label-area"):
        open_labelled(scans, write(tmp_path / "bare.geojson", [contrail]), SINGLE)
    with pytest.raises(ContrailError, match="contradicts the areas in the labels"):
        open_labelled(scans, path, SINGLE, whole_scans=True)
    with pytest.raises(ContrailError, match="--line-width: has no effect"):
        open_labelled(scans, path, SINGLE, line_width="3km")


def test_tiles_cover_what_was_looked_at_and_those_without_labels_have_no_contrail(
    scans: Path, grid: FixedGrid, tmp_path: Path
) -> None:
    latitude, longitude = grid.geodetic()
    row, column = 30, 35
    contrail = square(grid, row, column, 3, 12)
    path = write(tmp_path / "labels.geojson", [feature(contrail)])
    request = {"size": 32, "pixel": 2000.0, "before": 0, "after": 0}
    source = open_labelled(scans, path, request, whole_scans=True)
    samples = [source.read_sample(record_id) for record_id in source.record_ids]
    assert {sample.attributes["label_source"] for sample in samples} == {"human"}
    covered = np.zeros(latitude.shape, bool)
    marked = np.zeros(latitude.shape, bool)
    for record_id, sample in zip(source.record_ids, samples, strict=True):
        rows, columns = (np.rint(v).astype(int) for v in source.entries[record_id].tile.indices(latitude, longitude))
        inside = (rows >= 0) & (rows < 32) & (columns >= 0) & (columns < 32)
        covered |= inside
        marked[inside] |= sample.labels.mask[rows[inside], columns[inside]] > 0
    assert covered[8:-8, 8:-8].all()
    assert marked[row : row + 3, column : column + 12].all()
    assert marked.sum() < 60
    assert any(not sample.labels.mask.any() for sample in samples)
    assert "looked at without any" in source.note
    window = (float(latitude[80, 20]), float(longitude[80, 20]), float(latitude[20, 90]), float(longitude[20, 90]))
    part = open_labelled(scans, path, request, area=window)
    assert 0 < len(part.record_ids) < len(source.record_ids)


def test_the_line_of_an_outlined_contrail_is_not_counted_twice(scans: Path, tmp_path: Path) -> None:
    detected = {"id": 1, "length_km": 30.0, "width_km": 30.0, "orientation_deg": 90.0, "satellite": "GOES-16"}
    line = shapely.LineString([(-92.3, 29.5), (-91.7, 29.5)])
    outline = shapely.box(-92.3, 29.48, -91.7, 29.52)
    pixel = {**SINGLE, "pixel": 2000.0}

    def marked(*features: dict[str, Any]) -> tuple[int, str]:
        source = open_labelled(scans, write(tmp_path / "labels.geojson", [*features, EVERYWHERE]), pixel)
        return int(masks_of(source)[0].sum()), source.note

    only_outline, _ = marked(feature(outline))
    assert marked(feature(line, **detected), feature(outline, **detected))[0] == only_outline
    # The outline of the second one was deleted: the contrail is not there.
    second = feature(shapely.LineString([(-92.3, 29.2), (-91.7, 29.2)]), **detected | {"id": 2})
    count, note = marked(feature(line, **detected), second, feature(outline, **detected))
    assert count == only_outline
    assert "1 detected contrails are left out, as only their centre lines are left" in note
    # Lines that were added, and a file of nothing but lines, count.
    added = feature(shapely.LineString([(-92.3, 29.2), (-91.7, 29.2)]), width_km=6)
    assert marked(feature(line, **detected), added, feature(outline, **detected))[0] > only_outline
    assert marked(feature(line, **detected))[0] > 3 * only_outline


def test_labels_are_drawn_as_far_off_the_image_as_those_of_another_data_set(
    scans: Path, grid: FixedGrid, tmp_path: Path
) -> None:
    path = write(tmp_path / "labels.geojson", [feature(square(grid, 55, 60, 4, 9)), EVERYWHERE])
    masks = []
    for shift in ((), ("--label-shift", "2", "-1")):
        out = tmp_path / f"s{len(masks)}.zarr"
        options = ("--native", "--at", "29.5,-92", "--size", "48", "--before", "0", "--after", "0", *shift)
        done = run_data("build-ash", scans, "-o", out, "--labels", path, *options)
        assert done.returncode == 0, done.stderr
        store = open_store(out)
        assert store.attrs["label_shift"] == ([2.0, -1.0] if shift else [0.0, 0.0])
        masks.append(store["mask"].values[0])
    assert masks[0].sum() == 36
    np.testing.assert_array_equal(masks[1], np.roll(masks[0], (2, -1), (0, 1)))


@pytest.mark.parametrize(("time", "expected"), [
    ("2024-03-01T12:40:05Z", "124000"),  # under way
    ("2024-03-01T14:40:05+02:00", "124000"),
    ("2024/03/01 12:39:20", "124000"),  # before the scan that starts next
    ("2024-03-01T12:44:00", "124000"),
    ("2024-03-01T12:46:00", "125000"),
])  # fmt: skip
def test_a_label_belongs_to_the_scan_of_its_time(scans: Path, tmp_path: Path, time: str, expected: str) -> None:
    features = [feature(shapely.box(-92.1, 29.4, -92.0, 29.5), time=time), EVERYWHERE]
    source = open_labelled(scans, write(tmp_path / "labels.geojson", features), SINGLE)
    assert [record_id.split("-")[1][9:] for record_id in source.record_ids] == [expected]


def test_requested_times_without_labels_have_no_contrail(scans: Path, tmp_path: Path) -> None:
    features = [feature(shapely.box(-92.1, 29.4, -92.0, 29.5)), EVERYWHERE]
    request = {**SINGLE, "times": [np.datetime64("2024-03-01T12:20")]}
    source = open_labelled(scans, write(tmp_path / "labels.geojson", features), request)
    (mask,) = masks_of(source)
    assert not mask.any()
    assert "labels of other times than those requested: 1" in source.note


def test_shapes_across_180_degrees_are_the_same_in_one_piece_and_in_two(tmp_path: Path) -> None:
    grid = FixedGrid(Projection(170.0, sweep="y"), -0.06, 0.06, 5.6e-5, -5.6e-5, 2200, 2200)
    whole = shapely.box(179.8, 0.3, 180.6, 0.5)
    corners = [(179.8, 0.3), (-179.4, 0.3), (-179.4, 0.5), (179.8, 0.5)]  # as most programs write it
    round_the_world = label_files.read_labels([write(tmp_path / "a.geojson", [feature(shapely.Polygon(corners))])])
    parts = shapely.MultiPolygon([shapely.box(179.8, 0.3, 180, 0.5), shapely.box(-180, 0.3, -179.4, 0.5)])
    tile = utm_tile(0.4, 179.99, 64, 2000.0)
    masks = []
    for shape in (whole, parts, round_the_world.shapes[0].geometry):
        drawn = DrawnShape(geometry=shape, where="", time=None)
        labels = ScanLabels(grid=grid, contrails=[drawn], area=shape.buffer(3), line_width=LineWidth(4, False))
        on_tile = labels.on_tile(tile)
        assert on_tile is not None
        masks.append(on_tile.mask(64, 64))
    np.testing.assert_array_equal(masks, masks[:1] * 3)
    assert masks[0].sum() == pytest.approx(0.8 * 0.2 * 111.3 * 110.6 / 4, rel=0.1)


def test_layers_of_a_geopackage_are_read_in_any_coordinate_system(scans: Path, tmp_path: Path) -> None:
    geopandas = pytest.importorskip("geopandas")
    pytest.importorskip("pyogrio")
    import pandas as pd

    shapes = {
        "contrails": [shapely.box(-92.3, 29.4, -92.1, 29.5)],
        "lines": [shapely.LineString([(-92, 29.3), (-91.8, 29.7)])],
    }
    for layer, geometries in shapes.items():
        frame = geopandas.GeoDataFrame({"time": [pd.Timestamp(TIME)]}, geometry=geometries, crs=4326)
        frame.to_crs(3857).to_file(tmp_path / "labels.gpkg", layer=layer)
    area = geopandas.GeoDataFrame({"area": [True]}, geometry=[shapely.box(-110, 10, -70, 50)], crs=4326)
    area.to_file(tmp_path / "labels.gpkg", layer="looked_at")
    path = write(tmp_path / "labels.geojson", [feature(shape) for (shape,) in shapes.values()] + [EVERYWHERE])
    request = {**SINGLE, "pixel": 2000.0}
    expected, read = (masks_of(open_labelled(scans, f, request)) for f in (path, tmp_path / "labels.gpkg"))
    assert expected[0].any()
    np.testing.assert_array_equal(read, expected)
