"""Masks of contrails become the masks of samples, pixel by pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import shapely
import xarray as xr

from contrail_data.geo.fixed_grid import FixedGrid, Projection
from contrail_data.sources.label_masks import read_masks
from helpers.drawn_labels import (
    CENTRE,
    open_labelled,
    save_geotiff,
    save_netcdf,
)


@pytest.mark.parametrize("form", ["rad.nc", "m.nc", "tif"])
def test_a_mask_on_the_grid_of_the_scan_comes_back_pixel_by_pixel(
    scans: Path, grid: FixedGrid, tmp_path: Path, form: str
) -> None:
    rng = np.random.default_rng(1)
    mask_yx = (rng.random((grid.height, grid.width)) < 0.05).astype(np.uint8)
    mask_yx[:, :40] = 255  # not looked at
    path = tmp_path / f"mask.{form.rpartition('.')[2]}"
    if form == "tif":
        save_geotiff(path, grid, mask_yx, nodata=255)
    else:
        save_netcdf(path, grid, mask_yx, form.partition(".")[0])
    request = {"places": [CENTRE], "native": True, "size": 96, "before": 0, "after": 1}
    source = open_labelled(scans, path, request)
    (record_id,) = source.record_ids
    sample, tile = source.read_sample(record_id), source.entries[record_id].tile
    rows, columns = (values.astype(int) for values in tile.pixel_indices(grid))
    expected = mask_yx[rows, columns]
    assert (expected == 255).any()
    np.testing.assert_array_equal(sample.labels.mask, expected == 1)
    np.testing.assert_array_equal(sample.valid[..., 0], expected != 255)
    assert sample.valid[..., 1].all()  # the next frame was not to be looked at
    assert sample.attributes["label_source"] == "human"


def test_a_mask_of_the_full_disk_counts_as_looked_at_up_to_the_limb(tmp_path: Path) -> None:
    step = 0.304 / 120
    grid = FixedGrid(Projection(-75.2), -59.5 * step, 59.5 * step, step, -step, 120, 120)
    mask_yx = np.zeros((120, 120), np.uint8)
    mask_yx[40:42, 50:60] = 1
    mask_yx[60:70, 60:70] = 255
    for path in save_netcdf(tmp_path / "disk.nc", grid, mask_yx), save_geotiff(tmp_path / "disk.tif", grid, mask_yx):
        read = list(read_masks(path))
        area = shapely.union_all([shape.geometry for shape in read if shape.is_area])
        latitude, longitude = grid.geodetic()
        inside = shapely.contains_xy(area, np.nan_to_num(longitude), np.nan_to_num(latitude)) & ~np.isnan(latitude)
        assert not inside[60:70, 60:70].any()
        corners = np.isnan(grid.window(-1, -1, 122, 122).geodetic()[0])
        near_limb = np.lib.stride_tricks.sliding_window_view(corners, (3, 3)).any((2, 3))
        np.testing.assert_array_equal(inside[~near_limb], mask_yx[~near_limb] != 255)
        (contrail,) = (shape for shape in read if not shape.is_area)
        marked = shapely.contains_xy(contrail.geometry, np.nan_to_num(longitude), np.nan_to_num(latitude))
        np.testing.assert_array_equal(marked & ~np.isnan(latitude), mask_yx == 1)


@pytest.mark.parametrize(("height", "width"), [(1, 40), (40, 1)])
def test_a_mask_of_one_row_or_column_marks_its_pixels(grid: FixedGrid, tmp_path: Path, height: int, width: int) -> None:
    window = grid.window(50, 60, height, width)
    marks = [
        shapely.union_all([shape.geometry for shape in read_masks(path) if not shape.is_area])
        for path in (
            save_netcdf(tmp_path / "one.nc", window, np.ones((height, width), np.uint8)),
            save_geotiff(tmp_path / "one.tif", window, np.ones((height, width), np.uint8)),
        )
    ]
    latitude, longitude = grid.geodetic()
    expected = np.zeros(latitude.shape, bool)
    expected[50 : 50 + height, 60 : 60 + width] = True
    for mark in marks:
        np.testing.assert_array_equal(shapely.contains_xy(mark, longitude, latitude), expected)


def test_masks_turned_over_or_without_a_fill_value_are_the_same(grid: FixedGrid, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    mask_yx = (rng.random((grid.height, grid.width)) < 0.02).astype(np.uint8)
    mask_yx[:, :40] = 255
    with xr.open_dataset(save_netcdf(tmp_path / "m.nc", grid, mask_yx), mask_and_scale=False) as dataset:
        turned = dataset.isel(x=slice(None, None, -1), y=slice(None, None, -1)).load()
    del turned["mask"].attrs["_FillValue"]
    turned.to_netcdf(tmp_path / "turned.nc")
    areas = [[shape.geometry for shape in read_masks(tmp_path / name)] for name in ("m.nc", "turned.nc")]
    assert len(areas[0]) > 100
    assert shapely.equals_exact(*(shapely.normalize(shapely.union_all(area)) for area in areas), 1e-9)


def test_clear_pixels_that_a_program_declared_transparent_were_looked_at(grid: FixedGrid, tmp_path: Path) -> None:
    mask_yx = np.zeros((grid.height, grid.width), np.uint8)
    mask_yx[20:30, 40:60], mask_yx[:, :10] = 1, 255
    (contrail,), (area,) = (
        [shape for shape in read_masks(save_geotiff(tmp_path / "m.tif", grid, mask_yx, nodata=0)) if shape.is_area == a]
        for a in (False, True)
    )
    assert area.geometry.contains(contrail.geometry)
    latitude, longitude = grid.geodetic()
    np.testing.assert_array_equal(shapely.contains_xy(area.geometry, longitude, latitude), mask_yx != 255)
