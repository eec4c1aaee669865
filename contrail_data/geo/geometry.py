"""Footprints, the transformation of projected coordinates, and the angles of sun and satellite above them.

Latitude and longitude are geodetic degrees (WGS 84), north and east positive; times are UTC.
"""

import math
from functools import lru_cache
from typing import TypedDict

import numpy as np
import numpy.typing as npt
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

Array = npt.NDArray[np.float64]

GOES_EAST_LONGITUDE = -75.2
"""Nominal longitude of GOES-East, degrees."""
# GRS 80 and the satellite's height over the equator, as in the ABI's goes_imager_projection (product user
# guide, volume 3, table 5.1.2); WGS 84 differs by 0.1 mm in the polar radius.
_EQUATOR_RADIUS = 6378137.0
_FLATTENING = 1 / 298.257222101
_SATELLITE_RADIUS = _EQUATOR_RADIUS + 35786023.0
_WGS_84 = (
    'GEOGCS["WGS 84",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,298.257223563]],PRIMEM["Greenwich",0],'
    'UNIT["degree",0.0174532925199433]]'
)
_J2000 = np.datetime64("2000-01-01T12:00:00", "ms")


class Footprint(TypedDict):
    """Place of a sample; NaN or empty if unknown. Keys are variables of the store."""

    latitude: float
    """Of the tile's centre, degrees."""
    longitude: float
    corner_latitude: Array
    """Of the outer corners, float64 (4): upper left, upper right, lower right, lower left; degrees."""
    corner_longitude: Array
    geotransform: Array
    """float64 (6), GDAL order: x of the outer upper left corner, pixel width, 0, y of the corner, 0, pixel height."""
    crs_wkt: str
    """Projection as well-known text."""


def unknown_footprint() -> Footprint:
    """Return the footprint of a sample whose place is unknown.

    Returns:
        NaN for numbers and an empty projection.
    """
    corners = np.full(4, math.nan)
    return Footprint(
        latitude=math.nan,
        longitude=math.nan,
        corner_latitude=corners,
        corner_longitude=corners,
        geotransform=np.full(6, math.nan),
        crs_wkt="",
    )


@lru_cache(maxsize=256)
def to_geodetic(wkt: str) -> Transformer:
    """Return the transformation from projected (x, y) to (longitude, latitude) in degrees.

    All threads may share it: since pyproj 3.1 a Transformer made by `from_crs` keeps its PROJ state in thread-local
    storage (pyproj documentation, "Advanced examples: multithreading").

    Args:
        wkt: The projection as well-known text.

    Returns:
        The transformer, cached.

    Raises:
        ValueError: If PROJ cannot read the projection.
    """
    try:
        projected = CRS.from_wkt(wkt)
        own = projected.geodetic_crs
        # PROJ takes 25 ms in each thread to search for ways from one datum to another, even to the same one.
        target = own if own is not None and own == CRS.from_wkt(_WGS_84) else "EPSG:4326"
        return Transformer.from_crs(projected, target, always_xy=True)
    except ProjError as error:
        raise ValueError(f"unreadable projection {wkt[:60]!r}: {str(error).splitlines()[0][:100]}") from None


def solar_zenith(latitude: npt.ArrayLike, longitude: npt.ArrayLike, time: npt.ArrayLike) -> Array:
    """Compute the angle between the sun's geometric (not refracted) centre and the zenith.

    NOAA's solar position algorithm after Meeus, Astronomical Algorithms, chapters 12, 22, 25 and 28; within 0.02 degree
    of SPA from 1950 to 2050. Arguments broadcast.

    Args:
        latitude: Degrees north.
        longitude: Degrees east.
        time: datetime64, UTC.

    Returns:
        Degrees, float64; NaN where an argument is NaN or NaT.
    """
    declination, _ = _sun(_days(time))
    hour_angle = np.radians(15 * _solar_hour(longitude, time) - 180)
    phi = np.radians(np.asarray(latitude, np.float64))
    cosine = np.sin(phi) * np.sin(declination) + np.cos(phi) * np.cos(declination) * np.cos(hour_angle)
    return np.asarray(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def local_solar_hour(longitude: npt.ArrayLike, time: npt.ArrayLike) -> Array:
    """Compute the apparent (true) local solar time, which is 12 when the sun crosses the meridian.

    Mean solar time plus the equation of time (Meeus, equation 28.3, as in NOAA's calculator). Arguments broadcast.

    Args:
        longitude: Degrees east.
        time: datetime64, UTC.

    Returns:
        Hours in [0, 24), float64; NaN where an argument is NaN or NaT.
    """
    hour = np.mod(_solar_hour(longitude, time), 24.0)
    return np.where(hour == 24.0, 0.0, hour)  # np.mod of a tiny negative number rounds up to 24


def satellite_zenith(
    latitude: npt.ArrayLike, longitude: npt.ArrayLike, satellite_longitude: npt.ArrayLike = GOES_EAST_LONGITUDE
) -> Array:
    """Compute the angle between a geostationary satellite and the normal of the ellipsoid.

    It is the angle of the vector from the point on the GRS 80 ellipsoid to the satellite, 35,786,023 m above the
    equator, in local east, north and up. Arguments broadcast.

    Args:
        latitude: Degrees north.
        longitude: Degrees east.
        satellite_longitude: Degrees east.

    Returns:
        Degrees, float64; above 90 the satellite is below the horizon; NaN where an argument is NaN.
    """
    phi = np.radians(np.asarray(latitude, np.float64))
    delta = np.radians(np.asarray(longitude, np.float64) - np.asarray(satellite_longitude, np.float64))
    e2 = _FLATTENING * (2 - _FLATTENING)
    normal = _EQUATOR_RADIUS / np.sqrt(1 - e2 * np.sin(phi) ** 2)  # radius of curvature in the prime vertical
    # Earth-centred, x through the point's meridian, z to the north pole.
    dx = _SATELLITE_RADIUS * np.cos(delta) - normal * np.cos(phi)
    east = -_SATELLITE_RADIUS * np.sin(delta)
    dz = -normal * (1 - e2) * np.sin(phi)
    north = dz * np.cos(phi) - dx * np.sin(phi)
    up = dx * np.cos(phi) + dz * np.sin(phi)
    return np.asarray(np.degrees(np.arctan2(np.hypot(east, north), up)))


def _days(time: npt.ArrayLike) -> Array:
    """Return days since J2000.0, NaN for NaT. UTC serves as terrestrial time, an error of 0.001 degree of the sun."""
    elapsed = np.asarray(time, "datetime64[ms]") - _J2000
    return np.asarray(elapsed / np.timedelta64(86_400_000, "ms"), np.float64)


def _solar_hour(longitude: npt.ArrayLike, time: npt.ArrayLike) -> Array:
    """Return true solar time in hours, not wrapped to [0, 24)."""
    days = _days(time)
    _, equation = _sun(days)
    return np.asarray(24 * np.mod(days + 0.5, 1.0) + np.asarray(longitude, np.float64) / 15 + equation)


def _sun(days: Array) -> tuple[Array, Array]:
    """Return the sun's apparent declination in radians and the equation of time in hours (Meeus 25.2-25.8, 28.3)."""
    t = days / 36525
    mean_longitude = np.radians(280.46646 + t * (36000.76983 + 0.0003032 * t))
    anomaly = np.radians(357.52911 + t * (35999.05029 - 0.0001537 * t))
    eccentricity = 0.016708634 - t * (0.000042037 + 0.0000001267 * t)
    centre = (
        (1.914602 - t * (0.004817 + 0.000014 * t)) * np.sin(anomaly)
        + (0.019993 - 0.000101 * t) * np.sin(2 * anomaly)
        + 0.000289 * np.sin(3 * anomaly)
    )
    node = np.radians(125.04 - 1934.136 * t)
    longitude = mean_longitude + np.radians(centre - 0.00569 - 0.00478 * np.sin(node))
    mean_obliquity = 23 + (26 + (21.448 - t * (46.815 + t * (0.00059 - 0.001813 * t))) / 60) / 60
    obliquity = np.radians(mean_obliquity + 0.00256 * np.cos(node))
    declination = np.arcsin(np.sin(obliquity) * np.sin(longitude))
    y = np.tan(obliquity / 2) ** 2
    equation = (
        y * np.sin(2 * mean_longitude)
        - 2 * eccentricity * np.sin(anomaly)
        + 4 * eccentricity * y * np.sin(anomaly) * np.cos(2 * mean_longitude)
        - 0.5 * y**2 * np.sin(4 * mean_longitude)
        - 1.25 * eccentricity**2 * np.sin(2 * anomaly)
    )
    return declination, np.degrees(equation) / 15
