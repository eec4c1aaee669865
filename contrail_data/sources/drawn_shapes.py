"""Shapes of label files: where and when a contrail was drawn, or what was looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from pyproj import CRS, Transformer

from contrail_data.settings.times import utc_time

Points = npt.NDArray[np.float64]
ToDegrees = Callable[[Points], Points]
DEGREES = CRS.from_user_input("OGC:CRS84")


@dataclass(frozen=True, kw_only=True)
class DrawnShape:
    """One shape of a label file: a contrail, or an area that was looked at."""

    geometry: Any
    """A shapely line or polygon, of one or several parts, in degrees of longitude and latitude."""
    where: str
    """File and number of the feature, for messages."""
    time: np.datetime64 | None
    """UTC; None for an area that was looked at in every scan."""
    is_area: bool = False
    width_km: float | None = None
    """Width of a line; None if the file does not state it."""
    altitude: float = 0.0
    """Metres for which the position was corrected for parallax."""
    contrail: tuple[Any, ...] | None = None
    """Which contrail of `predict-scans` the shape is the line or the outline of; None for a shape that was drawn."""

    @property
    def is_line(self) -> bool:
        """Whether the shape needs a width."""
        return shapely.get_dimensions(self.geometry) == 1


def parse_time(value: Any) -> np.datetime64 | None:
    """Parse a time.

    Args:
        value: Text or a datetime, see `utc_time`; or None.

    Returns:
        The time in UTC, datetime64[ns]; None for None.

    Raises:
        ValueError: If it is not a time of 1970 to 2199.
    """
    if value is None:
        return None
    try:
        return np.datetime64(utc_time(value if isinstance(value, datetime) else str(value)), "ns")
    except ValueError as error:
        raise ValueError(f"time {error}") from None


def to_degrees_from(crs: CRS) -> ToDegrees:
    """Return the transformation of points from a coordinate system to degrees.

    Args:
        crs: The coordinate system; its axes are taken as east and north.

    Returns:
        A function of points (n, 2) to longitude and latitude (n, 2); infinite off the Earth.
    """
    if crs in (DEGREES, CRS.from_epsg(4326)):
        return lambda points: points
    transformer = Transformer.from_crs(crs, DEGREES, always_xy=True)
    centre = crs.to_cf().get("longitude_of_projection_origin")

    def _transform(points: Points) -> Points:
        longitude, latitude = transformer.transform(*points.T)
        if centre is not None:  # a disk that reaches across 180 degrees stays in one piece
            with np.errstate(invalid="ignore"):  # infinite off the Earth
                longitude = centre + (longitude - centre + 180) % 360 - 180
        return with_infinity(longitude, latitude)

    return _transform


def with_infinity(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> Points:
    """Join coordinates as points that shapely accepts, which would not close a ring of NaN.

    Args:
        x: First coordinates.
        y: Second coordinates.

    Returns:
        Points (n, 2); infinite where one of the coordinates is not finite.
    """
    points = np.stack([x, y], -1)
    points[~np.isfinite(points).all(-1)] = np.inf
    return points
