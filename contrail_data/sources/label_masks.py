"""Masks that people drew on scans, as the outlines of their pixels."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from rasterio import Affine
from rasterio.features import shapes

from contrail_data.errors import ContrailError
from contrail_data.geo.fixed_grid import Projection
from contrail_data.sources.drawn_shapes import DrawnShape, Points, ToDegrees, to_degrees_from, with_infinity
from contrail_data.sources.mask_files import MISSING, open_mask_file


def read_masks(path: Path) -> Iterator[DrawnShape]:
    """Read the masks of a file, one for each time.

    Args:
        path: A GeoTIFF whose tag `time` states the time, or NetCDF like that of `predict-scans`, see `open_mask_file`.

    Yields:
        The outlines of regions of contrail pixels, and of what was looked at.

    Raises:
        ContrailError: If the file does not hold masks, or does not state their time.
    """
    file = open_mask_file(path)
    if file.times is None:
        remedy = "its coordinate time" if path.suffix == ".nc" else "its tag time, as in 2024-03-01T12:40:00Z"
        raise ContrailError(f"{path}: has no time; set {remedy}")
    x, y = file.x, file.y
    transform = Affine(x.step, 0, x.first - x.step / 2, 0, y.step, y.first - y.step / 2)
    mapping = file.crs.to_cf()
    is_view = mapping.get("grid_mapping_name") == "geostationary"
    to_degrees = partial(_scan_angles_to_degrees, Projection.from_cf(mapping)) if is_view else to_degrees_from(file.crs)
    was_seen = False
    for number, time in enumerate(file.times):
        where = path.name if len(file.times) == 1 else f"{path.name}, {np.datetime_as_string(time, 's')}"
        values_yx = file.read(number, slice(None), slice(None))
        was_seen |= not np.isnan(values_yx).all()
        yield from _mask_shapes(values_yx, transform, to_degrees, time=time, where=where)
    if not was_seen:
        raise ContrailError(f"{path}: all pixels are {MISSING} (not seen) or missing; set those without contrails to 0")


def _mask_shapes(
    values_yx: npt.NDArray[np.float32],
    transform: Affine,
    to_degrees: ToDegrees,
    *,
    time: np.datetime64,
    where: str,
) -> Iterator[DrawnShape]:
    """Yield the outlines of a mask's pixels, and of those that were looked at."""
    seen_yx = ~np.isnan(values_yx)
    if not np.isin(values_yx[seen_yx], (0, 1)).all():
        raise ContrailError(f"{where}: holds other values than 0 (clear), 1 (contrail) and 255 (not seen); correct it")
    for marked_yx, is_area in ((seen_yx & (values_yx > 0), False), (seen_yx, True)):
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
