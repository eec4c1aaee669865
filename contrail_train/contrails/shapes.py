"""A mask as contrails on the Earth: each region with its centre line, outline, length, width and bearing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NotRequired, TypedDict

import numpy as np
import numpy.typing as npt
from pyproj import Geod
from rasterio.features import shapes
from scipy import ndimage

from contrail_data.errors import ContrailError
from contrail_data.geo.fixed_grid import FixedGrid
from contrail_train.contrails.centre_line import Points, centre_line
from contrail_train.contrails.cleaning import EIGHT_CONNECTED

Polygon = list[Points]
"""An outer ring and its holes, each (n, 2)."""
GEOD = Geod(ellps="GRS80")
"""The ellipsoid of ABI's fixed grid; within a tenth of a millimetre of WGS84."""


class ContrailProperties(TypedDict):
    """Properties of a contrail as they are written to GeoJSON."""

    id: int
    """Number of the region in its mask, from 1."""
    length_km: float
    """Along the centre line."""
    width_km: float
    """Area over length."""
    orientation_deg: float
    """Bearing at the middle of the centre line, 0 to 180 from north."""
    mean_probability: float
    max_probability: float
    pixels: int
    time: str | None
    """When the region's mean row was scanned, UTC; None if that is not known."""
    satellite: str
    altitude_m: NotRequired[float]
    """Present if positions are corrected for parallax."""


@dataclass(frozen=True)
class Contrail:
    """One contrail in degrees. Longitudes may exceed 180, so that a shape that crosses it is in one piece."""

    line: Points
    """Longitude and latitude along the middle, shape (vertex, 2)."""
    outline: list[Polygon]
    """Polygons of longitude and latitude, rings closed, following the right-hand rule."""
    properties: ContrailProperties


def contrails(
    mask_yx: npt.NDArray[np.bool_],
    probability_yx: npt.NDArray[np.float32],
    grid: FixedGrid,
    *,
    row_time: npt.NDArray[np.datetime64],
    satellite: str,
    altitude: float | None = None,
) -> list[Contrail]:
    """Trace the contrails of a mask.

    A centre line follows the longest path through its region: the two longest arms of a fork, half of a ring.

    Args:
        mask_yx: Mask on the fixed grid, bool (y, x).
        probability_yx: Probability of a contrail, same shape.
        grid: The fixed grid.
        row_time: When each row was scanned, UTC, datetime64 (y).
        satellite: Name of the satellite, stored in the properties.
        altitude: Altitude of the contrails in metres, to correct their positions for parallax. None leaves positions
            where the line of sight meets the ellipsoid.

    Returns:
        One contrail for each 8-connected region, except for regions that extend beyond the Earth's limb.

    Raises:
        ContrailError: If mask, probability, times and grid differ in shape.
    """
    shape = (grid.height, grid.width)
    if mask_yx.shape != shape or probability_yx.shape != shape or row_time.shape != shape[:1]:
        raise ContrailError(
            f"mask {mask_yx.shape}, probability {probability_yx.shape}, times {row_time.shape}: they do not fit the "
            f"grid {shape}; cut all of them to one window"
        )
    labels, _ = ndimage.label(mask_yx, EIGHT_CONNECTED)
    traced = []
    for number, window in enumerate(ndimage.find_objects(labels), 1):
        inside_yx = labels[window] == number
        corner = np.array([window[0].start, window[1].start])
        y, x = np.nonzero(inside_yx)
        line = _to_longitude_latitude(grid, centre_line(y, x) + corner, altitude)
        outline = [
            [_to_longitude_latitude(grid, ring + corner - 0.5, altitude) for ring in polygon]
            for polygon in _outline(inside_yx)
        ]
        if np.isnan(line).any() or any(np.isnan(ring).any() for polygon in outline for ring in polygon):
            continue  # at the very limb
        near = float(line[0, 0])
        line = _unwrap(line, near)
        outline = [[wind(_unwrap(ring, near), hole=i > 0) for i, ring in enumerate(polygon)] for polygon in outline]
        length = float(GEOD.line_length(line[:, 0], line[:, 1]))
        p = probability_yx[window][inside_yx]
        time = row_time[round(float(y.mean())) + int(corner[0])]
        properties: ContrailProperties = {
            "id": number,
            "length_km": round(length / 1e3, 2),
            "width_km": round(_area(outline) / length / 1e3, 2),
            "orientation_deg": round(_orientation(line), 1) % 180,
            "mean_probability": round(float(p.mean(dtype=np.float64)), 4),
            "max_probability": round(float(p.max()), 4),
            "pixels": len(y),
            "time": None if np.isnat(time) else f"{np.datetime_as_string(time, 's')}Z",
            "satellite": satellite,
        }
        if altitude is not None:
            properties["altitude_m"] = altitude
        traced.append(Contrail(line, outline, properties))
    return traced


def wind(ring: Points, hole: bool) -> Points:
    """Order the points of a ring by the right-hand rule.

    Args:
        ring: Closed ring of longitude and latitude, shape (n, 2).
        hole: Whether it is a hole.

    Returns:
        The ring, anticlockwise if it is an outer ring and clockwise if it is a hole.
    """
    moved = ring - ring[0]  # a pixel is 1e-4 of the coordinates: products of small numbers stay exact
    signed = np.sum(moved[:-1, 0] * moved[1:, 1] - moved[1:, 0] * moved[:-1, 1])
    return ring if (signed > 0) != hole else ring[::-1]


def _outline(inside_yx: npt.NDArray[np.bool_]) -> list[Polygon]:
    """Polygons of rows and columns along the pixels' edges; (0, 0) is the outer corner of the first pixel."""
    traced = shapes(inside_yx.astype(np.uint8), mask=inside_yx, connectivity=4)  # 8 lets rings cross themselves
    return [[np.array(ring, np.float64)[:, ::-1] for ring in shape["coordinates"]] for shape, _ in traced]


def _to_longitude_latitude(grid: FixedGrid, points: Points, altitude: float | None) -> Points:
    """Longitude and latitude (n, 2) of fractional rows and columns (n, 2)."""
    latitude, longitude = grid.projection.to_geodetic(grid.x + points[:, 1] * grid.dx, grid.y + points[:, 0] * grid.dy)
    if altitude is not None:
        latitude, longitude = grid.projection.without_parallax(latitude, longitude, altitude)
    return np.stack([longitude, latitude], -1)


def _unwrap(points: Points, near: float) -> Points:
    """The points with longitudes within 180 degrees of `near`."""
    return np.stack([near + (points[:, 0] - near + 180) % 360 - 180, points[:, 1]], -1)


def _orientation(line: Points) -> float:
    """Bearing in degrees at the middle of a line.

    The mean of the bearings to the points 15 % of the length ahead and behind: less than the length of a bend, and more
    than the error of a vertex.
    """
    _, _, steps = GEOD.inv(line[:-1, 0], line[:-1, 1], line[1:, 0], line[1:, 1])
    along = np.concatenate([[0.0], np.cumsum(steps)])
    lon, lat = (np.interp(along[-1] * np.array([0.35, 0.5, 0.65]), along, values) for values in line.T)
    ahead, behind = (GEOD.inv(lon[1], lat[1], lon[i], lat[i])[0] for i in (2, 0))
    turn = (behind + 180 - ahead + 180) % 360 - 180
    return float(ahead + turn / 2) % 180


def _area(outline: list[Polygon]) -> float:
    """Square metres, without holes."""
    areas = [[abs(float(GEOD.polygon_area_perimeter(r[:, 0], r[:, 1])[0])) for r in polygon] for polygon in outline]
    return sum(area * (-1 if i else 1) for polygon in areas for i, area in enumerate(polygon))
