"""Contrails on the Earth: each contrail of an image with its centre line, outline, length, width and bearing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from pyproj import Geod
from rasterio.features import shapes
from scipy import ndimage
from shapely import LineString, MultiLineString, MultiPolygon, Polygon
from shapely.geometry import mapping
from shapely.geometry.polygon import orient

from contrail_data.errors import ContrailError
from contrail_data.geo.fixed_grid import FixedGrid
from contrail_train.contrails.instances import Instance, Instances
from contrail_train.contrails.polyline import Points

GEOD = Geod(ellps="GRS80")
"""The ellipsoid of ABI's fixed grid; within a tenth of a millimetre of WGS84."""


@dataclass(frozen=True)
class Contrail:
    """One contrail in degrees. Longitudes may exceed 180, so that a shape that crosses it is in one piece."""

    line: LineString
    """Longitude and latitude along the middle."""
    outline: MultiPolygon
    """Longitude and latitude along the edge, rings by the right-hand rule."""
    properties: dict[str, Any]
    """As in GeoJSON, see `trace`."""


def trace(
    instances: Instances,
    probability_yx: npt.NDArray[np.float32],
    grid: FixedGrid,
    *,
    row_time: npt.NDArray[np.datetime64],
    satellite: str,
    altitude: float | None = None,
) -> list[Contrail]:
    """Trace contrails of an image on the Earth.

    The properties are id (number of the contrail, from 1), length_km (of the centre line), width_km (area over length),
    orientation_deg (bearing at the middle of the centre line, 0 to 180 from north), confidence, mean_probability,
    max_probability, pixels, time (when the mean row was scanned, UTC; None if that is not known), satellite and, if
    positions are corrected for parallax, altitude_m.

    Args:
        instances: The contrails on the fixed grid.
        probability_yx: Probability of a contrail, (y, x).
        grid: The fixed grid.
        row_time: When each row was scanned, UTC, datetime64 (y).
        satellite: Name of the satellite.
        altitude: Altitude of the contrails in metres, to correct their positions for parallax. None leaves positions
            where the line of sight meets the ellipsoid.

    Returns:
        The contrails, except for those that extend beyond the Earth's limb.

    Raises:
        ContrailError: If labels, probability, times and grid differ in shape.
    """
    labels_yx, shape = instances.labels_yx, (grid.height, grid.width)
    if labels_yx.shape != shape or probability_yx.shape != shape or row_time.shape != shape[:1]:
        sizes = f"mask {labels_yx.shape}, probability {probability_yx.shape}, times {row_time.shape}, grid {shape}"
        raise ContrailError(f"{sizes}: shapes differ; cut all of them to one window")
    traced = []
    windows = ndimage.find_objects(labels_yx)
    for instance in instances.instances:
        window = windows[instance.number - 1]
        inside_yx = labels_yx[window] == instance.number
        top, left = window[0].start, window[1].start
        line = _on_earth(LineString(instance.line[:, ::-1]), grid, altitude)
        outline = _on_earth(_outline(inside_yx, top, left), grid, altitude)
        if not np.isfinite(shapely.get_coordinates([line, outline])).all():
            continue  # at the very limb
        near = line.coords[0][0]
        line, outline = _unwrap(line, near), MultiPolygon([orient(part) for part in _unwrap(outline, near).geoms])
        properties = _properties(instance, line, outline, probability_yx[window][inside_yx])
        time = row_time[round(float(np.nonzero(inside_yx)[0].mean())) + top]
        properties["time"] = None if np.isnat(time) else f"{np.datetime_as_string(time, 's')}Z"
        properties["satellite"] = satellite
        traced.append(Contrail(line, outline, properties | ({"altitude_m": altitude} if altitude is not None else {})))
    return traced


def _properties(
    instance: Instance, line: LineString, outline: MultiPolygon, probability: npt.NDArray[np.float32]
) -> dict[str, Any]:
    """What is measured of a contrail with a line and an outline in degrees, and the probabilities of its pixels."""
    length = GEOD.geometry_length(line)
    return {
        "id": instance.number,
        "length_km": round(length / 1e3, 2),
        "width_km": round(GEOD.geometry_area_perimeter(outline)[0] / length / 1e3, 2),
        "orientation_deg": round(_orientation(np.array(line.coords)), 1) % 180,
        "confidence": round(instance.confidence, 4),
        "mean_probability": round(float(probability.mean(dtype=np.float64)), 4),
        "max_probability": round(float(probability.max()), 4),
        "pixels": instance.pixels,
    }


def places(points: Points, grid: FixedGrid, altitude: float | None = None) -> Points:
    """Convert pixels to places.

    Args:
        points: Fractional columns and rows, (point, 2).
        grid: The fixed grid.
        altitude: Metres for which places are corrected for parallax; None for no correction.

    Returns:
        Longitude and latitude in degrees, float64 (point, 2); infinite beyond the limb, as a ring of NaN is not closed.
    """
    x, y = grid.x + points[:, 0] * grid.dx, grid.y + points[:, 1] * grid.dy
    latitude, longitude = grid.projection.to_geodetic(x, y)
    if altitude is not None:
        latitude, longitude = grid.projection.without_parallax(latitude, longitude, altitude)
    return np.nan_to_num(np.stack([longitude, latitude], -1), nan=np.inf)


def geometries(traced: Sequence[Contrail]) -> tuple[list[LineString | MultiLineString], list[MultiPolygon]]:
    """Express the shapes of contrails as files hold them.

    Coordinates are longitude and latitude to five digits, about a metre. Shapes that cross 180 degrees of longitude are
    cut there (RFC 7946, section 3.1.9), which turns a LineString into a MultiLineString.

    Args:
        traced: The contrails.

    Returns:
        Their centre lines and their outlines.
    """
    lines = [_within_180(contrail.line) for contrail in traced]
    outlines = [
        MultiPolygon([orient(part) for polygon in contrail.outline.geoms for part in _within_180(polygon)])
        for contrail in traced
    ]
    return (
        [_rounded(parts[0] if len(parts) == 1 else MultiLineString(parts)) for parts in lines],
        [_rounded(outline) for outline in outlines],
    )


def _rounded(shape: Any) -> Any:
    return shapely.transform(shape, lambda points: np.round(points, 5))


def to_features(traced: Sequence[Contrail]) -> list[dict[str, Any]]:
    """Express contrails as GeoJSON features (RFC 7946).

    Args:
        traced: The contrails.

    Returns:
        One feature for the centre line of each contrail, then one for the outline of each, both with its properties;
        shapes as of `geometries`.
    """
    lines, outlines = geometries(traced)
    return [
        {"type": "Feature", "geometry": mapping(geometry), "properties": contrail.properties}
        for geometry, contrail in zip([*lines, *outlines], [*traced, *traced], strict=True)
    ]


def _within_180(shape: LineString | Polygon) -> list[Any]:
    """The parts of a shape west and east of 180 degrees, with longitudes within -180 to 180."""
    if shape.bounds[0] >= -180 and shape.bounds[2] <= 180:
        return [shape]
    parts = []
    for turn in (-360, 0, 360):
        piece = shape.intersection(shapely.box(turn - 180, -90, turn + 180, 90))
        parts += shapely.get_parts(shapely.transform(piece, lambda points, turn=turn: points - (turn, 0))).tolist()
    return [part for part in parts if part.geom_type == shape.geom_type and not part.is_empty]


def _outline(inside_yx: npt.NDArray[np.bool_], top: int, left: int) -> MultiPolygon:
    """Polygons of columns and rows along the edges of a region's pixels, whose centres have integer coordinates."""
    traced = shapes(inside_yx.astype(np.uint8), mask=inside_yx, connectivity=4)  # 8 lets rings cross themselves
    polygons = MultiPolygon([shapely.geometry.shape(polygon) for polygon, _ in traced])
    return shapely.transform(polygons, lambda points: points + np.array([left - 0.5, top - 0.5]))


def _on_earth(shape: Any, grid: FixedGrid, altitude: float | None) -> Any:
    """A shape of fractional columns and rows in longitude and latitude; infinite beyond the limb."""
    return shapely.transform(shape, lambda points: places(points, grid, altitude))


def _unwrap(shape: Any, near: float) -> Any:
    """The shape with longitudes within 180 degrees of `near`."""
    return shapely.transform(
        shape, lambda points: np.stack([near + (points[:, 0] - near + 180) % 360 - 180, points[:, 1]], -1)
    )


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
