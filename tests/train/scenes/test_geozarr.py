"""Zarr files of predicted scenes: GDAL and xarray open them, in their place, with overviews."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray as xr
import zarr
from rasterio.warp import transform

from contrail_data.scans.scene import grid_of
from contrail_train.contrails.cleaning import Cleaning
from contrail_train.scenes.contrails import SceneContrails
from contrail_train.scenes.files import write
from helpers.scenes import START, scene_of, smooth

SHAPE = (90, 1031)
"""Odd, and wide enough for two overviews."""


@pytest.fixture(scope="module")
def scene() -> xr.Dataset:
    return scene_of(smooth(np.random.default_rng(0), SHAPE), Cleaning(0.5))


@pytest.fixture(scope="module")
def path(scene: xr.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("zarr") / "s.zarr"
    write([SceneContrails(scene=scene)], out, {START: out})
    return out


@pytest.mark.parametrize("name", ["probability", "mask"])
def test_gdal_opens_each_array_in_its_place(scene: xr.Dataset, path: Path, name: str) -> None:
    """GDAL 3.10, which does not read version 3 of zarr, by the copy of the metadata in version 2."""
    latitude, longitude = grid_of(scene).geodetic()
    with rasterio.open(f'ZARR:"{path}":/{name}') as file, xr.open_zarr(path) as opened:
        read = file.read(1, masked=True)
        values = opened[name].values[0]
        np.testing.assert_array_equal(read.mask, np.isnan(values))
        np.testing.assert_array_equal(read.compressed(), values[~np.isnan(values)])
        for i, j in ((0, 0), (50, 700), (89, 1030)):
            (x,), (y,) = transform(file.crs, "EPSG:4326", *([value] for value in file.xy(i, j)))
            assert (x, y) == pytest.approx((longitude[i, j], latitude[i, j]), abs=1e-6)


def test_a_pixel_of_an_overview_is_the_highest_of_its_four(path: Path) -> None:
    with xr.open_zarr(path) as full:
        for name in ("probability", "mask", "valid"):
            values = full[name].values[0]
            for level, factor in (("ovr_2x", 2), ("ovr_4x", 4)):
                with xr.open_zarr(path, group=level) as overview:
                    assert overview.sizes["x"] == -(-SHAPE[1] // factor)
                    for i, j in ((0, 0), (7, 11), (5, overview.sizes["x"] - 1)):
                        block = values[i * factor : (i + 1) * factor, j * factor : (j + 1) * factor]
                        expected = np.nan if np.isnan(block).all() else np.nanmax(block)
                        np.testing.assert_equal(overview[name].values[0, i, j], expected)
                    grid, whole = grid_of(overview), grid_of(full)
                    assert grid.geotransform[[0, 3]] == pytest.approx(whole.geotransform[[0, 3]])
                    assert grid.dx == pytest.approx(factor * whole.dx)


def test_attributes_follow_the_conventions_of_zarr(scene: xr.Dataset, path: Path) -> None:
    """The identifiers and keys are those of zarr-conventions at their tag v0.1."""
    root = zarr.open_group(path, mode="r")
    registered = {item["name"]: item["uuid"] for item in root.attrs["zarr_conventions"]}
    assert registered == {
        "multiscales": "d35379db-88df-4056-af3a-620245f8e347",
        "proj": "f17cb550-5864-4468-aeb7-f3180cfb622f",
        "spatial": "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4",
    }
    layout = {item["asset"]: item for item in root.attrs["multiscales"]["layout"]}
    assert set(layout) == {
        f"{level}{name}" for level in ("", "ovr_2x/", "ovr_4x/") for name in ("probability", "mask", "valid")
    }
    for asset, item in layout.items():
        array = root[asset]
        assert item["spatial:shape"] == list(array.shape[1:]) == array.attrs["spatial:shape"]
        assert item["spatial:transform"] == array.attrs["spatial:transform"]
        assert array.attrs["spatial:dimensions"] == ["y", "x"] == list(array.metadata.dimension_names[1:])
        assert item.get("derived_from", asset) in layout
    west, south, east, north = root.attrs["spatial:bbox"]
    width, _, left, _, height, top = root["mask"].attrs["spatial:transform"]
    assert (left, top) == (west, north)
    assert (left + width * SHAPE[1], top + height * SHAPE[0]) == pytest.approx((east, south))
    assert root.attrs["proj:wkt2"] == root["ovr_2x"].attrs["proj:wkt2"] == grid_of(scene).projection.crs_wkt


def test_both_versions_of_the_metadata_describe_the_same_arrays(path: Path) -> None:
    old = json.loads((path / ".zmetadata").read_text())["metadata"]
    root = zarr.open_group(path, mode="r")
    arrays = {name: node for name, node in root.members(max_depth=None) if isinstance(node, zarr.Array)}
    assert {key.removesuffix("/.zarray") for key in old if key.endswith("/.zarray")} == set(arrays)
    for name, array in arrays.items():
        described = old[f"{name}/.zarray"]
        assert (described["shape"], described["chunks"]) == (list(array.shape), list(array.chunks))
        assert np.dtype(described["dtype"]) == array.dtype


def test_xarray_opens_it_without_a_warning(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with xr.open_zarr(path) as opened:
            assert opened["time_bounds"].values[0, 0] == START


def test_places_of_pixels_are_written_on_request(scene: xr.Dataset, tmp_path: Path) -> None:
    latitude, longitude = grid_of(scene).geodetic()
    for out in (tmp_path / "p.nc", tmp_path / "p.zarr"):
        write([SceneContrails(scene=scene)], out, {START: out}, places=True)
        with xr.open_dataset(out) as opened:
            np.testing.assert_allclose(opened["latitude"], latitude, atol=1e-5)
            np.testing.assert_allclose(opened["longitude"], longitude, atol=1e-5)
            assert "latitude" in opened["mask"].encoding["coordinates"]
