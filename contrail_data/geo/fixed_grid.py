"""The fixed grid of a geostationary imager: scan angles to geodetic latitude and longitude, and back.

The view is from `height` above the equator onto an ellipsoid, after NOAA's GOES-R product definition and users' guide,
volume 3, section 5.1.2.8. Scan angles are in radians; latitude and longitude are geodetic degrees, north and east
positive. `sweep` states about which axis the imager's mirrors turn first: "x" for ABI, "y" for AHI and AMI.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from pyproj import CRS

Array = npt.NDArray[np.float64]

# Numbers of a CF grid mapping, in the order of `Projection`.
_CF_KEYS = ("longitude_of_projection_origin", "perspective_point_height", "semi_major_axis", "semi_minor_axis")


@dataclass(frozen=True)
class Projection:
    """Where an imager looks from. Lengths are in metres."""

    longitude: float
    """Longitude of the projection's origin, degrees east."""
    height: float = 35786023.0
    """Height of the satellite above the equator."""
    equator_radius: float = 6378137.0
    """As `pole_radius` that of GRS 80, as in ABI's `goes_imager_projection`."""
    pole_radius: float = 6356752.31414
    sweep: str = "x"

    @property
    def distance(self) -> float:
        """Distance of the satellite from the Earth's centre, metres."""
        return self.height + self.equator_radius

    @cached_property
    def crs_wkt(self) -> str:
        """Well-known text of the projection, whose coordinates are scan angles times `height`.

        Returns:
            The text; coordinates are in metres.
        """
        view = {"h": self.height, "lon_0": self.longitude, "sweep": self.sweep}
        return str(CRS(proj="geos", **view, a=self.equator_radius, b=self.pole_radius, units="m").to_wkt())

    @classmethod
    def from_cf(cls, mapping: Mapping[str, Any]) -> Self:
        """Read the attributes of a CF grid mapping variable, the inverse of `cf_attributes`.

        Args:
            mapping: Attributes by name, also as the HDF5 library returns them.

        Returns:
            The projection.
        """
        sweep = np.ravel(mapping["sweep_angle_axis"])[0]
        longitude, height, equator, pole = (float(np.ravel(mapping[key])[0]) for key in _CF_KEYS)
        return cls(longitude, height, equator, pole, sweep.decode() if isinstance(sweep, bytes) else str(sweep))

    def cf_attributes(self) -> dict[str, Any]:
        """Return the attributes of a CF grid mapping variable.

        Returns:
            Attributes by name.
        """
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
        """Convert scan angles to places. Arguments broadcast.

        Args:
            x: Angle to the east, radians.
            y: Angle to the north, radians.

        Returns:
            Latitude and longitude in degrees, float64; NaN where the line of sight misses the Earth.
        """
        px, py, pz = self._intersect(x, y)
        latitude = np.degrees(np.arctan2(self._squash * pz, np.hypot(px, py)))
        longitude = self.longitude + np.degrees(np.arctan2(py, px))
        return latitude, (longitude + 180) % 360 - 180

    def zenith(self, x: npt.ArrayLike, y: npt.ArrayLike) -> Array:
        """Compute the angle between the satellite and the normal of the ellipsoid. Arguments broadcast.

        It is `geometry.satellite_zenith` at the places of `to_geodetic`, in half of the time.

        Args:
            x: Angle to the east, radians.
            y: Angle to the north, radians.

        Returns:
            Degrees, float64; NaN where the line of sight misses the Earth.
        """
        px, py, pz = self._intersect(x, y)
        nx, ny, nz = px, py, self._squash * pz
        vx, vy, vz = self.distance - px, -py, -pz
        lengths = np.sqrt((nx**2 + ny**2 + nz**2) * (vx**2 + vy**2 + vz**2))
        return np.asarray(np.degrees(np.arccos(np.minimum((nx * vx + ny * vy + nz * vz) / lengths, 1))))

    @property
    def _squash(self) -> float:
        return (self.equator_radius / self.pole_radius) ** 2

    def _intersect(self, x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[Array, Array, Array]:
        """Return where lines of sight meet the Earth, as `_position` does; NaN where they miss it."""
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        sin_x, cos_x, sin_y, cos_y = np.sin(x), np.cos(x), np.sin(y), np.cos(y)
        along = cos_x * cos_y  # components of the line of sight: to the Earth's centre, east, north
        east, north = (sin_x, cos_x * sin_y) if self.sweep == "x" else (sin_x * cos_y, sin_y)
        a = along**2 + east**2 + self._squash * north**2
        b = -2 * self.distance * along
        c = self.distance**2 - self.equator_radius**2
        with np.errstate(invalid="ignore"):
            reach = (-b - np.sqrt(b**2 - 4 * a * c)) / (2 * a)
        return self.distance - reach * along, reach * east, reach * north

    def to_scan_angles(self, latitude: npt.ArrayLike, longitude: npt.ArrayLike) -> tuple[Array, Array]:
        """Convert places to scan angles. Arguments broadcast.

        Args:
            latitude: Degrees north.
            longitude: Degrees east.

        Returns:
            Angles to the east and to the north in radians, float64; NaN where the Earth hides the place.
        """
        px, py, pz = self._position(latitude, longitude)
        along, east, north = self.distance - px, py, pz
        if self.sweep == "x":
            x = np.arctan2(east, np.hypot(along, north))
            y = np.arctan2(north, along)
        else:
            x = np.arctan2(east, along)
            y = np.arctan2(north, np.hypot(along, east))
        seen = px >= self.equator_radius**2 / self.distance - 1e-6  # in front of the horizon
        return np.where(seen, x, np.nan), np.where(seen, y, np.nan)

    def without_parallax(
        self, latitude: npt.ArrayLike, longitude: npt.ArrayLike, altitude: float
    ) -> tuple[Array, Array]:
        """Correct places for parallax: intersect the line of sight with the ellipsoid raised by `altitude`.

        Args:
            latitude: Degrees north of the point on the ellipsoid behind the object, to which it was navigated.
            longitude: Degrees east of that point.
            altitude: Altitude of the object, metres.

        Returns:
            True latitude and longitude of the object in degrees, float64; NaN where the point is not visible.
        """
        return self._raised(altitude).to_geodetic(*self.to_scan_angles(latitude, longitude))

    def with_parallax(self, latitude: npt.ArrayLike, longitude: npt.ArrayLike, altitude: float) -> tuple[Array, Array]:
        """Find where an object appears on the ellipsoid, the inverse of `without_parallax`.

        Args:
            latitude: Degrees north of the object.
            longitude: Degrees east of it.
            altitude: Altitude of the object, metres.

        Returns:
            Latitude and longitude of the point on the ellipsoid behind the object in degrees, float64; NaN where the
            object is not visible, or nothing is behind it.
        """
        return self.to_geodetic(*self._raised(altitude).to_scan_angles(latitude, longitude))

    def _raised(self, altitude: float) -> Self:
        """Return the same view onto the ellipsoid raised by `altitude`."""
        equator, pole = self.equator_radius + altitude, self.pole_radius + altitude
        return replace(self, height=self.height - altitude, equator_radius=equator, pole_radius=pole)

    def _position(self, latitude: npt.ArrayLike, longitude: npt.ArrayLike) -> list[Any]:
        """Return Earth-centred coordinates in metres: towards the satellite, to its east, to the north."""
        phi = np.radians(np.asarray(latitude, np.float64))
        delta = np.radians(np.asarray(longitude, np.float64) - self.longitude)
        e2 = 1 - (self.pole_radius / self.equator_radius) ** 2
        normal = self.equator_radius / np.sqrt(1 - e2 * np.sin(phi) ** 2)
        ring = normal * np.cos(phi)
        return [ring * np.cos(delta), ring * np.sin(delta), normal * (1 - e2) * np.sin(phi)]


@dataclass(frozen=True)
class FixedGrid:
    """A window of the grid: the centre of pixel (i, j) lies at (y + i * dy, x + j * dx) in radians, with dy < 0."""

    projection: Projection
    x: float
    y: float
    dx: float
    dy: float
    height: int
    width: int

    @property
    def geotransform(self) -> Array:
        """Geotransform of the outer corner in GDAL's order, float64 (6), in metres of `projection.crs_wkt`."""
        h = self.projection.height
        return np.array([(self.x - self.dx / 2) * h, self.dx * h, 0, (self.y - self.dy / 2) * h, 0, self.dy * h])

    def axes(self) -> tuple[Array, Array]:
        """Return the scan angles of the pixels' centres.

        Returns:
            Angles to the east, (width), and to the north, (height), radians.
        """
        columns, rows = (np.arange(n, dtype=np.float64) for n in (self.width, self.height))
        return self.x + self.dx * columns, self.y + self.dy * rows

    def window(self, top: int, left: int, height: int, width: int) -> Self:
        """Return a window of this grid, which may reach beyond its edges.

        Args:
            top: First row.
            left: First column.
            height: Rows.
            width: Columns.

        Returns:
            The window.
        """
        return replace(self, x=self.x + left * self.dx, y=self.y + top * self.dy, height=height, width=width)

    def window_around(self, rows: Array, columns: Array, margin: int = 0) -> tuple[slice, slice] | None:
        """Find the window of the grid that covers some places.

        Args:
            rows: Fractional rows; NaN where a place is not seen.
            columns: Fractional columns, likewise.
            margin: Pixels to add on each side.

        Returns:
            Rows and columns, or None if the grid covers none of the places.
        """
        if np.isnan(rows).all():
            return None
        top, left = (max(math.floor(float(np.nanmin(a))) - margin, 0) for a in (rows, columns))
        bottom = min(math.ceil(float(np.nanmax(rows))) + 1 + margin, self.height)
        right = min(math.ceil(float(np.nanmax(columns))) + 1 + margin, self.width)
        return (slice(top, bottom), slice(left, right)) if top < bottom and left < right else None

    def contains(self, rows: npt.ArrayLike, columns: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Return whether points lie on the grid.

        Args:
            rows: Fractional rows.
            columns: Fractional columns, in the same shape.

        Returns:
            Whether they do; False for NaN.
        """
        i, j = np.asarray(rows), np.asarray(columns)
        return (i > -0.5) & (i < self.height - 0.5) & (j > -0.5) & (j < self.width - 0.5)

    def geodetic(self) -> tuple[Array, Array]:
        """Return the places of the pixels' centres.

        Returns:
            Latitude and longitude, (height, width) each, degrees; NaN off the Earth.
        """
        x, y = self.axes()
        return self.projection.to_geodetic(x[np.newaxis], y[:, np.newaxis])

    def zenith(self) -> Array:
        """Return the satellite's zenith angle at the pixels' centres.

        Returns:
            Degrees, (height, width); NaN off the Earth.
        """
        x, y = self.axes()
        return self.projection.zenith(x[np.newaxis], y[:, np.newaxis])

    def indices(self, latitude: npt.ArrayLike, longitude: npt.ArrayLike) -> tuple[Array, Array]:
        """Find places on the grid. Arguments broadcast.

        Args:
            latitude: Degrees north.
            longitude: Degrees east.

        Returns:
            Fractional rows and columns; NaN where a place is not visible, and beyond the range of indices outside the
            window.
        """
        x, y = self.projection.to_scan_angles(latitude, longitude)
        return (y - self.y) / self.dy, (x - self.x) / self.dx
