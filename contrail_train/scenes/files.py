"""A predicted scene as files that others open without help: CF zarr and NetCDF, GeoTIFF, GeoJSON, PNG and GIF."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from PIL import Image, ImageDraw
from scipy import ndimage

from contrail_data.errors import ContrailError
from contrail_data.geo.coastline import coastline
from contrail_data.geo.fixed_grid import FixedGrid
from contrail_data.reports.pictures import outlined, png
from contrail_data.scans.scene import GRID_MAPPING, grid_of
from contrail_data.storage.files import check_new, write_atomically
from contrail_train.contrails.shapes import contrails, to_geojson

SUFFIXES = (".zarr", ".nc", ".tif", ".geojson", ".png", ".gif")
DEGREES = 0.02
"""Of a GeoTIFF's pixel."""
_FILL = 65535
_LARGEST_PICTURE = 2500
_COAST, _CONTRAIL = (255, 255, 255), (255, 255, 0)


def check_outputs(outs: Sequence[Path], overwrite: bool) -> None:
    """Raises ContrailError for a kind of file that is not written, or one that is there already."""
    for out in outs:
        if out.suffix not in SUFFIXES:
            raise ContrailError(f"{out}: a scene is written as one of {', '.join(SUFFIXES)}: choose a name with one")
        check_new(out, overwrite, scene=True)


def _of_time(out: Path, stamp: Any, times: int) -> Path:
    return out if times == 1 else out.with_name(f"{out.stem}-{stamp}{out.suffix}")


def write(scene: xr.Dataset, out: Path, *, altitude: float | None = None) -> list[Path]:
    """Write a scene with `mask` and `valid` (see `predict_files`) in the format that the suffix tells: paths written.

    altitude: metres for which shapes are corrected for parallax. GeoTIFF and PNG hold one time: of several each gets a
    file of its own, the time in its name. Files appear whole or not at all.
    """
    stamps = [np.datetime_as_string(t, "m").replace("-", "").replace(":", "") for t in scene["time"].values]
    if out.suffix in (".zarr", ".nc"):
        _write_cf(scene, out)
        return [out]
    if out.suffix == ".geojson":
        write_atomically(out, [json.dumps(geojson(scene, altitude), allow_nan=False).encode()])
        return [out]
    if out.suffix == ".gif":
        frames = [picture(scene.isel(time=i)) for i in range(len(stamps))]
        staged = out.with_name(f".{out.name}.partial")
        frames[0].save(staged, "gif", save_all=True, append_images=frames[1:], duration=500, loop=0)
        staged.replace(out)
        return [out]
    paths = []
    for i, stamp in enumerate(stamps):
        path = _of_time(out, stamp, len(stamps))
        if out.suffix == ".png":
            write_atomically(path, [png(picture(scene.isel(time=i)))])
        else:
            _write_geotiff(scene.isel(time=i), path)
        paths.append(path)
    return paths


# ------------------------------------------------------------------------------------------------------- CF conventions


def _write_cf(scene: xr.Dataset, out: Path) -> None:
    about = {"grid_mapping": GRID_MAPPING}
    made = scene.drop_vars([n for n in ("image", "channel", "scan_start", "scan_end") if n in scene.variables])
    made["probability"].attrs = {"long_name": "probability of a contrail", "units": "1", **about}
    flags: Mapping[str, Any] = {"flag_values": np.array([0, 1], np.uint8), **about}
    made["mask"].attrs = {"long_name": "contrail", "flag_meanings": "clear contrail", **flags}
    made["valid"].attrs = {"long_name": "seen and predicted", "flag_meanings": "no yes", **flags}
    made["scan_time"].attrs = {"long_name": "time of the row's scan", "standard_name": "time"}
    if "gate_score" in made:
        made["gate_score"].attrs = {"long_name": "mean of a tile's highest probabilities", "units": "1", **about}
    packed = {"dtype": "uint16", "scale_factor": 1e-4, "_FillValue": np.uint16(_FILL)}
    encoding: dict[str, dict[str, Any]] = {n: dict(packed) for n in ("probability", "gate_score") if n in made}
    made["mask"] = made["mask"].where(made["valid"] > 0, np.uint8(255)).assign_attrs(made["mask"].attrs)
    encoding["mask"] = {"dtype": "uint8", "_FillValue": np.uint8(255)}  # what is missing is not clear
    encoding["valid"] = {"dtype": "uint8", "_FillValue": None}
    encoding |= {n: {"units": "seconds since 1970-01-01", "dtype": "float64"} for n in ("time", "scan_time")}
    staged = out.with_name(f".{out.name}.partial")
    _remove(staged)
    try:
        if out.suffix == ".zarr":
            with warnings.catch_warnings():  # of consolidated metadata, which every reader takes
                warnings.filterwarnings("ignore", category=UserWarning, module="zarr")
                made.to_zarr(staged, mode="w", encoding=encoding, zarr_format=3, consolidated=True)
        else:
            for name in ("probability", "gate_score", "mask", "valid"):
                if name in encoding:
                    encoding[name] |= {"zlib": True, "complevel": 1}
            made.attrs["inputs"] = "\n".join(scene.attrs["inputs"])
            made.to_netcdf(staged, engine="netcdf4", encoding=encoding)  # GDAL misses h5netcdf's units
        _remove(out)
        staged.rename(out)
    except OSError as error:
        raise ContrailError(f"{out}: cannot be written ({error.strerror}): check space and permissions") from None
    finally:
        _remove(staged)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------------------------- GeoTIFF


def _write_geotiff(scene: xr.Dataset, out: Path) -> None:
    """A cloud-optimised GeoTIFF in latitude and longitude: probability in steps of 1/250, and the mask; 255: no data.

    GeoTIFF knows no geostationary projection, so it is resampled: probability bilinear, the mask of the nearest pixel.
    """
    import rasterio
    from rasterio.io import MemoryFile
    from rasterio.shutil import copy
    from rasterio.transform import from_origin

    grid = grid_of(scene)
    at_y, at_x = np.nonzero(_edge(scene["valid"].values > 0))
    if not len(at_y):
        raise ContrailError(f"{out}: no pixel of the scene could be predicted: choose another area")
    latitude, longitude = grid.projection.to_geodetic(grid.x + at_x * grid.dx, grid.y + at_y * grid.dy)
    origin = grid.projection.longitude
    east = (longitude - origin + 180) % 360 - 180
    south, north = math.floor(float(latitude.min()) / DEGREES), math.ceil(float(latitude.max()) / DEGREES)
    left, right = math.floor(float(east.min()) / DEGREES), math.ceil(float(east.max()) / DEGREES)
    height, width = max(north - south, 1), max(right - left, 1)
    probability = np.nan_to_num(scene["probability"].values)
    profile = {
        **{"driver": "GTiff", "width": width, "height": height, "count": 2, "dtype": "uint8", "nodata": 255},
        **{"crs": "EPSG:4326", "tiled": True, "blockxsize": 256, "blockysize": 256},
        "transform": from_origin(origin + left * DEGREES, north * DEGREES, DEGREES, DEGREES),
    }
    with MemoryFile() as memory:
        with memory.open(**profile) as file:
            for top in range(0, height, 256):
                rows = min(256, height - top)
                y = (north - top - 0.5 - np.arange(rows)) * DEGREES
                x = origin + (left + 0.5 + np.arange(width)) * DEGREES
                i, j = grid.indices(y[:, np.newaxis], x[np.newaxis])
                at = np.nan_to_num(np.stack([i, j]), nan=-9.0)
                there = ndimage.map_coordinates(scene["valid"].values, at, order=0, cval=0) > 0
                p = ndimage.map_coordinates(probability, at, order=1, mode="nearest")
                mask = ndimage.map_coordinates(scene["mask"].values, at, order=0, cval=0)
                window = rasterio.windows.Window(0, top, width, rows)
                file.write(np.where(there, np.rint(250 * p), 255).astype(np.uint8), 1, window=window)
                file.write(np.where(there, mask, 255).astype(np.uint8), 2, window=window)
            file.scales = (1 / 250, 1.0)
            file.set_band_description(1, "probability of a contrail")
            file.set_band_description(2, "contrail: 0 no, 1 yes")
            stamp = {key: str(scene.attrs[key]) for key in ("platform", "model", "threshold", "composite", "software")}
            file.update_tags(time=str(scene["time"].values), inputs=" ".join(scene.attrs["inputs"]), **stamp)
        staged = out.with_name(f".{out.stem}.partial.tif")
        try:
            copy(memory.name, staged, driver="COG", compress="DEFLATE", overview_resampling="nearest")
            staged.replace(out)
        finally:
            staged.unlink(missing_ok=True)


def _edge(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The pixels of a mask at its edge: its extremes in latitude and longitude lie there."""
    return mask & ~ndimage.binary_erosion(mask)


# ------------------------------------------------------------------------------------------------------------- GeoJSON


def geojson(scene: xr.Dataset, altitude: float | None) -> dict[str, Any]:
    """The contrails of all times as one feature collection: for each its centre line and its outline."""
    grid = grid_of(scene)
    features: list[dict[str, Any]] = []
    for i in range(scene.sizes["time"]):
        one = scene.isel(time=i)
        found = contrails(
            one["mask"].values > 0,
            np.nan_to_num(one["probability"].values),
            grid,
            row_time=one["scan_time"].values,
            satellite=str(scene.attrs["platform"]),
            altitude=altitude,
        )
        for kind in ("lines", "polygons"):
            features += to_geojson(found, kind)["features"]
    told = ("platform", "model", "threshold", "gate", "composite", "software", "inputs")
    return {"type": "FeatureCollection", "features": features, **{key: scene.attrs[key] for key in told}}


# ------------------------------------------------------------------------------------------------------------- pictures


def picture(scene: xr.Dataset) -> Image.Image:
    """The composite of one time with coastlines, contrails outlined; reduced where it is large."""
    grid = grid_of(scene)
    image = scene["image"].values
    rgb = np.ascontiguousarray(np.moveaxis(image[:3] if len(image) >= 3 else image[[0, 0, 0]], 0, -1))
    drawn = Image.fromarray(outlined(rgb, (scene["mask"].values > 0, _CONTRAIL)))
    canvas = ImageDraw.Draw(drawn)
    for line in _coast(grid):
        canvas.line([(float(x), float(y)) for x, y in line], fill=_COAST, width=1)
    factor = math.ceil(max(drawn.size) / _LARGEST_PICTURE)
    return drawn.reduce(factor) if factor > 1 else drawn


def _coast(grid: FixedGrid) -> list[npt.NDArray[np.float64]]:
    """Coastlines as runs of (column, row) that the grid shows."""
    runs = []
    for line in coastline():
        rows, columns = grid.indices(line[:, 1], line[:, 0])
        shown = ~np.isnan(rows)
        for run in np.split(np.arange(len(line)), np.flatnonzero(~shown)):
            kept = run[shown[run]]
            if len(kept) > 1:
                runs.append(np.stack([columns[kept], rows[kept]], -1))
    return runs
