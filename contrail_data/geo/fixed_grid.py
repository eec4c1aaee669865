"""The fixed grid of a geostationary imager: scan angles ↔ geodetic latitude and longitude.

From first principles, after NOAA's GOES-R product definition and users' guide, volume 3, section 5.1.2.8: a view from
`height` over the equator onto an ellipsoid. Angles of the grid are radians, latitude and longitude degrees (geodetic,
north and east positive). The instrument's mirror order (`sweep`) decides which angle is turned first: "x" for ABI, "y"
for AHI and AMI.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

EQUATOR_RADIUS, POLE_RADIUS = 6378137.0, 6356752.31414  # GRS 80, as ABI's goes_imager_projection states them


@dataclass(frozen=True)
class Projection:
    """Where an imager looks from; lengths in metres, `longitude` of the projection's origin in degrees."""

    longitude: float
    height: float = 35786023.0
    """Over the equator."""
    equator_radius: float = EQUATOR_RADIUS
    pole_radius: float = POLE_RADIUS
    sweep: str = "x"

    @property
    def distance(self) -> float:
        """Of the satellite from the Earth's centre."""
        return self.height + self.equator_radius

    @cached_property
    def crs_wkt(self) -> str:
        """Well-known text of the projection, whose coordinates are scan angles times `height`, in metres."""
        from pyproj import CRS

        crs = CRS.from_dict(
            {
                **{"proj": "geos", "h": self.height, "lon_0": self.longitude, "sweep": self.sweep},
                **{"a": self.equator_radius, "b": self.pole_radius, "units": "m"},
            }
        )
        return str(crs.to_wkt())

    def cf_attributes(self) -> dict[str, Any]:
        """Of a CF grid mapping variable."""
        return {
            "grid_mapping_name": "geostationary",
            "perspective_point_height": self.height,
            "semi_major_axis": self.equator_radius,
            "semi_minor_axis": self.pole_radius,
            "longitude_of_projection_origin": self.longitude,
            "latitude_of_projection_origin": 0.0,
            "sweep_angle_axis": self.sweep,
        }

    def to_geodetic(self, x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[Array, Array]:
        """(latitude, longitude) in degrees, float64, of scan angles x (east) and y (north) in radians, which broadcast;
        NaN where the line of sight misses the Earth.
        """
        x, y = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(y, np.float64))
        sin_x, cos_x, sin_y, cos_y = np.sin(x), np.cos(x), np.sin(y), np.cos(y)
        if self.sweep == "x":  # the line of sight: towards the Earth's centre, east, north
            along, east, north = cos_x * cos_y, sin_x, cos_x * sin_y
        else:
            along, east, north = cos_x * cos_y, sin_x * cos_y, sin_y
        squash = (self.equator_radius / self.pole_radius) ** 2
        a = along**2 + east**2 + squash * north**2
        b = -2 * self.distance * along
        c = self.distance**2 - self.equator_radius**2
        with np.errstate(invalid="ignore"):
            reach = (-b - np.sqrt(b**2 - 4 * a * c)) / (2 * a)
        px, py, pz = self.distance - reach * along, reach * east, reach * north
        latitude = np.degrees(np.arctan2(squash * pz, np.hypot(px, py)))
        longitude = self.longitude + np.degrees(np.arctan2(py, px))
        return latitude, (longitude + 180) % 360 - 180

    def to_scan_angles(
        self, latitude: npt.ArrayLike, longitude: npt.ArrayLike, altitude: npt.ArrayLike = 0.0
    ) -> tuple[Array, Array]:
        """(x, y) in radians, float64, under which a point `altitude` metres above the ellipsoid is seen; NaN where the
        Earth hides it. Arguments broadcast.
        """
        px, py, pz = self._position(latitude, longitude, altitude)
        along, east, north = self.distance - px, py, pz
        if self.sweep == "x":
            x = np.arctan2(east, np.hypot(along, north))
            y = np.arctan2(north, along)
        else:
            x = np.arctan2(east, along)
            y = np.arctan2(north, np.hypot(along, east))
        seen = self._seen(px, py, pz)
        return np.where(seen, x, np.nan), np.where(seen, y, np.nan)

    def without_parallax(
        self, latitude: npt.ArrayLike, longitude: npt.ArrayLike, altitude: float
    ) -> tuple[Array, Array]:
        """Where a thing at `altitude` metres really is (latitude, longitude in degrees, float64), if it was navigated
        to the given point of the ellipsoid behind it. NaN where that point is not seen.

        The line of sight is met with the ellipsoid raised by `altitude`.
        """
        x, y = self.to_scan_angles(latitude, longitude)
        raised = Projection(
            self.longitude,
            self.height - altitude,
            self.equator_radius + altitude,
            self.pole_radius + altitude,
            self.sweep,
        )
        return raised.to_geodetic(x, y)

    def _position(self, latitude: npt.ArrayLike, longitude: npt.ArrayLike, altitude: npt.ArrayLike) -> list[Any]:
        """Earth-centred metres: towards the satellite, east of it, north."""
        phi = np.radians(np.asarray(latitude, np.float64))
        delta = np.radians(np.asarray(longitude, np.float64) - self.longitude)
        up = np.asarray(altitude, np.float64)
        e2 = 1 - (self.pole_radius / self.equator_radius) ** 2
        normal = self.equator_radius / np.sqrt(1 - e2 * np.sin(phi) ** 2)
        ring = (normal + up) * np.cos(phi)
        return [ring * np.cos(delta), ring * np.sin(delta), (normal * (1 - e2) + up) * np.sin(phi)]

    def _seen(self, px: Array, py: Array, pz: Array) -> npt.NDArray[np.bool_]:
        """Whether nothing of the Earth lies before a point: it is before the horizon, or beside the disk."""
        squash = (self.equator_radius / self.pole_radius) ** 2
        horizon = self.equator_radius**2 / self.distance
        beside = py**2 + squash * pz**2 > (self.distance - px) ** 2 * self.equator_radius**2 / (
            self.distance**2 - self.equator_radius**2
        )
        return np.asarray((px >= horizon - 1e-6) | beside)


@dataclass(frozen=True)
class FixedGrid:
    """A window of the grid: the centre of pixel (i, j) lies at (y + i * dy, x + j * dx), radians; dy is negative."""

    projection: Projection
    x: float
    y: float
    dx: float
    dy: float
    height: int
    width: int

    @property
    def geotransform(self) -> Array:
        """GDAL's, of the outer corner, in metres of `projection.crs_wkt`."""
        h = self.projection.height
        return np.array(
            [(self.x - self.dx / 2) * h, self.dx * h, 0.0, (self.y - self.dy / 2) * h, 0.0, self.dy * h], np.float64
        )

    def axes(self) -> tuple[Array, Array]:
        """(x (width), y (height)) of the pixels' centres, radians."""
        columns, rows = (np.arange(n, dtype=np.float64) for n in (self.width, self.height))
        return self.x + self.dx * columns, self.y + self.dy * rows

    def window(self, top: int, left: int, height: int, width: int) -> FixedGrid:
        return FixedGrid(
            self.projection, self.x + left * self.dx, self.y + top * self.dy, self.dx, self.dy, height, width
        )

    def geodetic(self) -> tuple[Array, Array]:
        """(latitude, longitude), each (height, width), degrees; NaN beside the Earth."""
        x, y = self.axes()
        return self.projection.to_geodetic(x[np.newaxis], y[:, np.newaxis])

    def indices(self, latitude: npt.ArrayLike, longitude: npt.ArrayLike) -> tuple[Array, Array]:
        """Fractional (row, column) of places; NaN where they are not seen, any number outside the window."""
        x, y = self.projection.to_scan_angles(latitude, longitude)
        return (y - self.y) / self.dy, (x - self.x) / self.dx
