"""Masks that people drew on scans, as the outlines of their pixels."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import shapely
import xarray as xr
from pyproj import CRS
from rasterio import Affine
from rasterio.errors import RasterioError
from rasterio.features import shapes

from contrail_data.errors import ContrailError
from contrail_data.geo.fixed_grid import Projection
from contrail_data.scans.scene import grid_mapping_of
from contrail_data.sources.drawn_shapes import DrawnShape, Points, ToDegrees, parse_time, to_degrees_from, with_infinity
from contrail_data.storage.files import first_line

_MISSING = 255
"""Value of pixels that were not labelled."""


def read_geotiff(path: Path) -> Iterator[DrawnShape]:
    """Read a mask in any coordinate system.

    Args:
        path: A GeoTIFF of one band, or with one whose description begins with "contrail"; its tag `time` states the
            time.

    Yields:
        The outlines of regions of contrail pixels, and of what was looked at.

    Raises:
        ContrailError: If the file is not such a mask.
    """
    try:
        with rasterio.open(path) as file:
            named = [i for i, text in enumerate(file.descriptions, 1) if (text or "").startswith("contrail")]
            band = named[0] if named else 1
            if file.count > 1 and not named:
                raise ContrailError(f"{path}: has {file.count} bands; save only the mask, or describe it as contrail")
            mask_yx, crs, transform, nodata = file.read(band), file.crs, file.transform, file.nodata
            tags = file.tags()
    except RasterioError as error:
        raise ContrailError(f"{path}: not a GeoTIFF: {first_line(error)[:100]}; save it again") from None
    if crs is None:
        raise ContrailError(f"{path}: has no coordinate system; save it on the scan's grid or in EPSG:4326")
    text = tags.get("time") or tags.get("TIFFTAG_DATETIME", "").replace(":", "-", 2)
    try:
        time = parse_time(text or None)
    except ValueError as error:
        raise ContrailError(f"{path}: {error}") from None
    if time is None:
        raise ContrailError(f"{path}: has no time; set its tag time, as in 2024-03-01T12:40:00Z")
    to_degrees = to_degrees_from(CRS.from_user_input(crs))
    yield from _mask_shapes(mask_yx, nodata, transform, to_degrees, time=time, where=path.name)


def read_netcdf(path: Path) -> Iterator[DrawnShape]:
    """Read masks on the grid of a satellite, in a file like those that `predict-scans` writes.

    Args:
        path: NetCDF with `mask(time, y, x)`.

    Yields:
        The outlines of regions of contrail pixels, and of what was looked at, of each time.

    Raises:
        ContrailError: If the file is not such a mask.
    """
    try:
        scene = xr.open_dataset(path, mask_and_scale=False)
    except (OSError, ValueError) as error:
        raise ContrailError(f"{path}: not a NetCDF file: {first_line(error)[:100]}; save it again") from None
    with scene:
        if "mask" not in scene or not {"time", "y", "x"} <= set(scene["mask"].dims):
            raise ContrailError(f"{path}: has no mask(time, y, x); give a file like those of predict-scans")
        try:
            projection = Projection.from_cf(scene.variables[grid_mapping_of(scene)].attrs)
        except (KeyError, ContrailError):
            raise ContrailError(f"{path}: states no geostationary grid mapping of its mask; save it again") from None
        height = projection.height
        x, y = (scene[name].values / (height if scene[name].attrs.get("units") == "m" else 1.0) for name in ("x", "y"))
        dx, dy = (x[-1] - x[0]) / (len(x) - 1), (y[-1] - y[0]) / (len(y) - 1)
        transform = Affine(dx, 0, x[0] - dx / 2, 0, dy, y[0] - dy / 2)
        mask = scene["mask"].transpose("time", "y", "x")
        for index, time in enumerate(scene["time"].values.astype("datetime64[ns]")):
            where = f"{path.name}, {np.datetime_as_string(time, 's')}"
            to_degrees = partial(_scan_angles_to_degrees, projection)
            yield from _mask_shapes(mask[index].values, None, transform, to_degrees, time=time, where=where)


def _mask_shapes(
    mask_yx: npt.NDArray[Any],
    nodata: float | None,
    transform: Affine,
    to_degrees: ToDegrees,
    *,
    time: np.datetime64,
    where: str,
) -> Iterator[DrawnShape]:
    """Yield the outlines of a mask's pixels, and of those that were looked at."""
    if mask_yx.dtype.kind not in "biu":
        raise ContrailError(f"{where}: holds {mask_yx.dtype}, not a mask; save 0 (clear), 1 (contrail), 255 (not seen)")
    seen_yx = (mask_yx != _MISSING) & (mask_yx != (_MISSING if nodata is None else nodata))
    if nodata == 0:  # a raster whose clear pixels were declared transparent
        seen_yx = mask_yx != _MISSING
    if len(values := np.unique(mask_yx[seen_yx])) > 2 or not set(values.tolist()) <= {0, 1}:
        raise ContrailError(f"{where}: holds other values than 0 (clear), 1 (contrail) and 255 (not seen); correct it")
    for marked_yx, is_area in ((seen_yx & (mask_yx > 0), False), (seen_yx, True)):
        outlines = _outlines(marked_yx, transform, to_degrees)
        if is_area and not all(map(_is_finite, outlines)):
            outlines = _outlines(_within_limb(seen_yx, transform, to_degrees), transform, to_degrees)
        for outline in filter(_is_finite, outlines):
            yield DrawnShape(geometry=shapely.make_valid(outline), where=where, time=time, is_area=is_area)


def _outlines(marked_yx: npt.NDArray[np.bool_], transform: Affine, to_degrees: ToDegrees) -> list[Any]:
    """Trace the outlines of 4-connected regions in degrees."""
    traced = shapes(marked_yx.astype(np.uint8), mask=marked_yx, connectivity=4, transform=transform)
    return [shapely.transform(shapely.geometry.shape(polygon), to_degrees) for polygon, _ in traced]


def _is_finite(shape: Any) -> bool:
    return bool(np.isfinite(shape.bounds).all())


def _within_limb(seen_yx: npt.NDArray[np.bool_], transform: Affine, to_degrees: ToDegrees) -> npt.NDArray[np.bool_]:
    """Return the pixels all of whose corners are on the Earth."""
    within_yx = seen_yx.copy()
    columns = np.arange(seen_yx.shape[1] + 1)
    a, b, c, d, e, f = transform[:6]
    above: npt.NDArray[np.bool_] = np.zeros(len(columns), bool)
    for row in range(len(seen_yx) + 1):
        corners = np.stack([a * columns + b * row + c, d * columns + e * row + f], -1)
        below = np.asarray(np.isfinite(to_degrees(corners)).all(1))
        if row > 0:
            within_yx[row - 1] &= above[1:] & above[:-1] & below[1:] & below[:-1]
        above = below
    return within_yx


def _scan_angles_to_degrees(projection: Projection, points: Points) -> Points:
    latitude, longitude = projection.to_geodetic(points[:, 0], points[:, 1])
    longitude = projection.longitude + (longitude - projection.longitude + 180) % 360 - 180
    return with_infinity(longitude, latitude)
