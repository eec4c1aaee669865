"""Predicted scenes as files that other programs open directly: CF zarr and NetCDF, GeoTIFF, GeoJSON, PNG and GIF."""

from __future__ import annotations

import io
import json
import math
import re
import shutil
import warnings
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import xarray as xr
import yaml
from PIL import Image, ImageDraw
from rasterio.io import MemoryFile
from rasterio.shutil import copy
from rasterio.transform import from_origin
from scipy import ndimage

from contrail_data.errors import ContrailError
from contrail_data.geo.coastline import coastline
from contrail_data.geo.fixed_grid import FixedGrid
from contrail_data.reports.pictures import draw_outlines, encode_png
from contrail_data.scans.scene import grid_of
from contrail_data.storage.files import check_new, write_atomically
from contrail_train.contrails.shapes import contrails, to_features

SUFFIXES = (".zarr", ".nc", ".tif", ".geojson", ".png", ".gif")
DEGREES = 0.02
"""Side of a GeoTIFF's pixel in degrees."""
_LARGEST_PICTURE = 2500
_COAST, _CONTRAIL = (255, 255, 255), (255, 255, 0)


def check_outputs(outs: Sequence[Path], overwrite: bool) -> None:
    """Check that scenes can be written to files.

    Args:
        outs: The files.
        overwrite: Whether existing ones may be replaced.

    Raises:
        ContrailError: If the format of a file is unknown, or it exists and may not be replaced.
    """
    for out in outs:
        if out.suffix not in SUFFIXES:
            raise ContrailError(f"{out}: not a format of scenes; choose a name that ends in {', '.join(SUFFIXES)}")
        check_new(out, overwrite, scene=True)


def write(scene: xr.Dataset, out: Path, *, altitude: float | None = None) -> list[Path]:
    """Write a scene in the format that the suffix selects. Files appear complete or not at all.

    Args:
        scene: A predicted scene with `mask` and `valid`, see `predict.predict_files`.
        out: The file. GeoTIFF and PNG hold one time: with several, each gets its own file, with the time in its name.
        altitude: Metres for which shapes in GeoJSON are corrected for parallax; None for no correction.

    Returns:
        The files written.
    """
    times = [scene.isel(time=i) for i in range(scene.sizes["time"])]
    if out.suffix in (".tif", ".png"):
        stamps = np.datetime_as_string(scene["time"].values, "m").tolist()
        names = [f"{out.stem}-{re.sub('[-:]', '', stamp)}{out.suffix}" for stamp in stamps]
        paths = [out.with_name(name) for name in names] if len(times) > 1 else [out]
        for time, path in zip(times, paths, strict=True):
            if out.suffix == ".png":
                write_atomically(path, [encode_png(picture(time))])
            else:
                _write_geotiff(time, path)
        return paths
    if out.suffix == ".geojson":
        write_atomically(out, [json.dumps(geojson(scene, altitude), allow_nan=False).encode()])
    elif out.suffix == ".gif":
        content = io.BytesIO()
        first, *others = map(picture, times)
        first.save(content, "gif", save_all=True, append_images=others, duration=500, loop=0)
        write_atomically(out, [content.getvalue()])
    else:
        _write_cf(scene, out)
    return [out]


# ------------------------------------------------------------------------------------------------------- CF conventions


def _write_cf(scene: xr.Dataset, out: Path) -> None:
    # Everything but the composite.
    dataset, encoding = _cf_dataset(scene)
    staged = out.with_name(f".{out.name}.partial")
    _remove(staged)
    try:
        if out.suffix == ".zarr":
            with warnings.catch_warnings():  # about consolidated metadata, which all readers accept
                warnings.filterwarnings("ignore", category=UserWarning, module="zarr")
                dataset.to_zarr(staged, mode="w", encoding=encoding, zarr_format=3, consolidated=True)
        else:
            for name in ("probability", "gate_score", "mask", "valid"):
                if name in encoding:
                    encoding[name] |= {"zlib": True, "complevel": 1}
            dataset.attrs["inputs"] = "\n".join(scene.attrs["inputs"])
            dataset.to_netcdf(staged, engine="netcdf4", encoding=encoding)  # GDAL misses h5netcdf's units
        _remove(out)
        staged.rename(out)
    except OSError as error:
        raise ContrailError(f"{out}: cannot be written ({error.strerror}); check space and permissions") from None
    finally:
        _remove(staged)


def _cf_dataset(scene: xr.Dataset) -> tuple[xr.Dataset, dict[str, dict[str, Any]]]:
    """The scene with CF attributes, and the encoding of its variables."""
    dataset = scene.drop_vars(["image", "channel", "scan_start", "scan_end"], errors="ignore")
    dataset["mask"] = dataset["mask"].where(dataset["valid"] > 0, np.uint8(255))
    variables = yaml.safe_load(files(__package__).joinpath("cf.yaml").read_text())
    variables = {name: variable for name, variable in variables.items() if name in dataset.variables}
    for name, variable in variables.items():
        dataset[name].attrs |= variable.get("attributes", {})
    for name in ("mask", "valid"):
        dataset[name].attrs["flag_values"] = np.array([0, 1], np.uint8)
    return dataset, {name: variable["encoding"] for name, variable in variables.items()}


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------------------------- GeoTIFF


def _write_geotiff(scene: xr.Dataset, out: Path) -> None:
    """Write one time as a cloud-optimised GeoTIFF in latitude and longitude, 255 where there is no data.

    Band 1 is the probability in steps of 1/250, resampled bilinearly because GeoTIFF has no geostationary projection;
    band 2 is the mask of the nearest pixel.
    """
    grid = grid_of(scene)
    south, west, north, east = _degrees_covered(scene, grid, out)
    height, width = north - south, east - west
    probability = np.nan_to_num(scene["probability"].values)
    profile = {"driver": "GTiff", "width": width, "height": height, "count": 2, "dtype": "uint8", "nodata": 255}
    profile |= {"crs": "EPSG:4326", "tiled": True, "blockxsize": 256, "blockysize": 256}
    corner = from_origin(grid.projection.longitude + west * DEGREES, north * DEGREES, DEGREES, DEGREES)
    with MemoryFile() as memory:
        with memory.open(transform=corner, **profile) as file:
            for top in range(0, height, 256):
                rows = min(256, height - top)
                y = (north - top - 0.5 - np.arange(rows)) * DEGREES
                x = grid.projection.longitude + (west + 0.5 + np.arange(width)) * DEGREES
                indices = np.nan_to_num(np.stack(grid.indices(y[:, np.newaxis], x[np.newaxis])), nan=-9.0)
                valid = ndimage.map_coordinates(scene["valid"].values, indices, order=0, cval=0) > 0
                p = ndimage.map_coordinates(probability, indices, order=1, mode="nearest")
                mask = ndimage.map_coordinates(scene["mask"].values, indices, order=0, cval=0)
                window = rasterio.windows.Window(0, top, width, rows)
                for band, values in ((1, np.rint(250 * p)), (2, mask)):
                    file.write(np.where(valid, values, 255).astype(np.uint8), band, window=window)
            file.scales = (1 / 250, 1.0)
            file.set_band_description(1, "probability of a contrail")
            file.set_band_description(2, "contrail: 0 no, 1 yes")
            tags = {key: str(scene.attrs[key]) for key in ("platform", "model", "threshold", "composite", "software")}
            file.update_tags(time=str(scene["time"].values), inputs=" ".join(scene.attrs["inputs"]), **tags)
        with MemoryFile(ext=".tif") as optimised:
            copy(memory.name, optimised.name, driver="COG", compress="DEFLATE", overview_resampling="nearest")
            write_atomically(out, [optimised.read()])


def _degrees_covered(scene: xr.Dataset, grid: FixedGrid, out: Path) -> tuple[int, int, int, int]:
    # South, west, north and east of the valid pixels in multiples of `DEGREES`; longitudes relative to the satellite's.
    valid = scene["valid"].values > 0
    if not valid.any():
        raise ContrailError(f"{out}: no pixel of the scene could be predicted; choose another area")
    y, x = np.nonzero(valid & ~ndimage.binary_erosion(valid))  # the extremes lie at the edge
    latitude, longitude = grid.projection.to_geodetic(grid.x + x * grid.dx, grid.y + y * grid.dy)
    east = (longitude - grid.projection.longitude + 180) % 360 - 180
    bottom, left = (math.floor(float(values.min()) / DEGREES) for values in (latitude, east))
    top, right = (math.ceil(float(values.max()) / DEGREES) for values in (latitude, east))
    return bottom, left, max(top, bottom + 1), max(right, left + 1)


# ------------------------------------------------------------------------------------------------------------- GeoJSON


def geojson(scene: xr.Dataset, altitude: float | None) -> dict[str, Any]:
    """Express the contrails of all times as one feature collection.

    Args:
        scene: A predicted scene with `mask`.
        altitude: Metres for which shapes are corrected for parallax; None for no correction.

    Returns:
        The centre line and the outline of each contrail, with the scene's provenance.
    """
    features: list[dict[str, Any]] = []
    for i in range(scene.sizes["time"]):
        one = scene.isel(time=i)
        traced = contrails(
            one["mask"].values > 0,
            np.nan_to_num(one["probability"].values),
            grid_of(scene),
            row_time=one["scan_time"].values,
            satellite=str(scene.attrs["platform"]),
            altitude=altitude,
        )
        features += to_features(traced)
    provenance = ("platform", "model", "threshold", "gate", "composite", "software", "inputs")
    return {"type": "FeatureCollection", "features": features, **{key: scene.attrs[key] for key in provenance}}


# ------------------------------------------------------------------------------------------------------------- pictures


def picture(scene: xr.Dataset) -> Image.Image:
    """Draw the composite of one time with coastlines, with contrails outlined.

    Args:
        scene: One time of a predicted scene with `mask`.

    Returns:
        The picture, reduced by a whole factor if it is large.
    """
    image_cyx = scene["image"].values
    rgb = np.moveaxis(image_cyx[[0, 1, 2] if len(image_cyx) >= 3 else [0, 0, 0]], 0, -1)
    drawn = Image.fromarray(draw_outlines(np.ascontiguousarray(rgb), (scene["mask"].values > 0, _CONTRAIL)))
    canvas = ImageDraw.Draw(drawn)
    for line in _coastline_on(grid_of(scene)):
        canvas.line([(float(x), float(y)) for x, y in line], fill=_COAST, width=1)
    factor = math.ceil(max(drawn.size) / _LARGEST_PICTURE)
    return drawn.reduce(factor) if factor > 1 else drawn


def _coastline_on(grid: FixedGrid) -> list[npt.NDArray[np.float64]]:
    """The visible parts of the coastline as columns and rows (n, 2) of the grid."""
    visible_parts = []
    for line in coastline():
        rows, columns = grid.indices(line[:, 1], line[:, 0])
        visible = ~np.isnan(rows)
        for part in np.split(np.arange(len(line)), np.flatnonzero(~visible)):
            part = part[visible[part]]
            if len(part) > 1:
                visible_parts.append(np.stack([columns[part], rows[part]], -1))
    return visible_parts
