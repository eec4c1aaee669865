"""A mask as contrails on the Earth: for each region its centre line and its outline, with length, width and bearing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pyproj import Geod
from scipy import ndimage
from scipy.sparse import coo_array, csgraph

from contrail_data.errors import ContrailError
from contrail_data.geo.fixed_grid import FixedGrid
from contrail_train.contrails.cleaning import EIGHT

Points = npt.NDArray[np.float64]
Polygon = list[Points]

GEOD = Geod(ellps="GRS80")  # ABI's ellipsoid; a tenth of a millimetre from WGS84's
_STEP = 3.0  # pixels along a region that one vertex of its centre line is the mean of
_TOLERANCE = 0.75  # pixels that a simplified centre line may lie off
_LARGEST = 200_000  # pixels; what is larger is no contrail, and gets a straight line in bounded memory
_RESERVED = ("type", "features", "coordinates", "geometries", "geometry", "properties")


@dataclass(frozen=True)
class Contrail:
    """Longitude and latitude in degrees; longitudes run on past 180 rather than jump, so that shapes are whole."""

    line: Points
    """(n, 2) longitude, latitude along the middle."""
    outline: list[Polygon]
    """Polygons, each an outer ring and its holes, (n, 2) longitude, latitude, closed, right-hand rule."""
    properties: dict[str, Any]


def contrails(
    mask_yx: npt.NDArray[np.bool_],
    probability_yx: npt.NDArray[np.float32],
    grid: FixedGrid,
    *,
    row_time: npt.NDArray[np.datetime64],
    satellite: str,
    altitude: float | None = None,
) -> list[Contrail]:
    """One for each 8-connected region of a mask (y, x) on a fixed grid; none for a region that reaches off the Earth.

    row_time (y): when each row was scanned, UTC. altitude: metres for which places are freed of parallax; None: places
    are those of the ellipsoid behind. Properties: id, length_km (along the line), width_km (area over length),
    orientation_deg (bearing of the line at its middle, 0 to 180 from north), mean_probability, max_probability,
    pixels, time (of the mean row; null where that is not known), satellite, altitude_m.

    A line follows the longest way through a region: of a fork its two longest arms, of a ring half of it.

    Raises ContrailError where mask, probability, times and grid differ in shape.
    """
    shape = (grid.height, grid.width)
    if mask_yx.shape != shape or probability_yx.shape != shape or row_time.shape != shape[:1]:
        raise ContrailError(
            f"mask {mask_yx.shape}, probability {probability_yx.shape} and times {row_time.shape} are not of the grid "
            f"{shape}: cut all to one window"
        )
    labels, _ = ndimage.label(mask_yx, EIGHT)
    found = []
    for number, window in enumerate(ndimage.find_objects(labels), 1):
        inside = labels[window] == number
        corner = np.array([window[0].start, window[1].start])
        y, x = np.nonzero(inside)
        line = _places(grid, _centre_line(y, x) + corner, altitude)
        rings = [[_places(grid, ring + corner - 0.5, altitude) for ring in polygon] for polygon in _outline(inside)]
        if np.isnan(line).any() or any(np.isnan(ring).any() for polygon in rings for ring in polygon):
            continue  # at the very limb
        near = float(line[0, 0])
        line = _unwrapped(line, near)
        rings = [[_turned(_unwrapped(r, near), hole=i > 0) for i, r in enumerate(polygon)] for polygon in rings]
        area = sum(_area(ring) * (-1 if i else 1) for polygon in rings for i, ring in enumerate(polygon))
        length = float(GEOD.line_length(line[:, 0], line[:, 1]))
        p = probability_yx[window][inside]
        time = row_time[round(float(y.mean())) + int(corner[0])]
        properties = {
            "id": number,
            "length_km": round(length / 1e3, 2),
            "width_km": round(area / length / 1e3, 2),
            "orientation_deg": round(_orientation(line), 1) % 180,
            "mean_probability": round(float(p.mean(dtype=np.float64)), 4),
            "max_probability": round(float(p.max()), 4),
            "pixels": len(y),
            "time": None if np.isnat(time) else f"{np.datetime_as_string(time, 's')}Z",
            "satellite": satellite,
        }
        if altitude is not None:
            properties["altitude_m"] = altitude
        found.append(Contrail(line, rings, properties))
    return found


def to_geojson(found: Sequence[Contrail], kind: str, members: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A feature collection (RFC 7946) of `lines` (LineString) or `polygons` (MultiPolygon), longitude and latitude to
    five digits, a metre. What crosses 180 degrees is cut there (section 3.1.9), so that a line is then a
    MultiLineString. `members` join the collection as foreign members.

    Raises ContrailError for another kind, and for members of names that section 7.1 keeps from a collection.
    """
    if kind not in ("lines", "polygons"):
        raise ContrailError(f"{kind}: no kind of shape: take lines or polygons")
    taken = sorted(set(members or {}) & set(_RESERVED))
    if taken:
        raise ContrailError(f"{', '.join(taken)}: a name that GeoJSON keeps to itself: call the member otherwise")
    shaped = _line_geometry if kind == "lines" else _polygon_geometry
    features = [{"type": "Feature", "geometry": shaped(c), "properties": c.properties} for c in found]
    return {"type": "FeatureCollection", "features": features, **(members or {})}


def _line_geometry(contrail: Contrail) -> dict[str, Any]:
    if _crosses(contrail.line):
        from shapely import LineString

        parts = [_numbers(part.coords) for part in _cut(LineString(contrail.line))]
        return {"type": "MultiLineString", "coordinates": parts}
    return {"type": "LineString", "coordinates": _numbers(contrail.line)}


def _polygon_geometry(contrail: Contrail) -> dict[str, Any]:
    polygons = []
    for polygon in contrail.outline:
        if _crosses(polygon[0]):
            from shapely import Polygon as Shape

            for part in _cut(Shape(polygon[0], polygon[1:])):
                rings = [part.exterior, *part.interiors]
                turned = [_turned(np.array(ring.coords), hole=i > 0) for i, ring in enumerate(rings)]
                polygons.append([_numbers(ring) for ring in turned])
        else:
            polygons.append([_numbers(ring) for ring in polygon])
    return {"type": "MultiPolygon", "coordinates": polygons}


def _numbers(points: Any) -> list[list[float]]:
    rounded: list[list[float]] = np.round(np.asarray(points, np.float64), 5).tolist()
    return rounded


def _crosses(points: Points) -> bool:
    return bool(np.abs(points[:, 0]).max() > 180)


def _cut(shape: Any) -> list[Any]:
    """Its lines or polygons west and east of 180 degrees, longitudes back within -180 to 180."""
    from shapely import affinity, box

    parts = []
    for turn in (-360, 0, 360):
        piece = affinity.translate(shape.intersection(box(turn - 180, -90, turn + 180, 90)), -turn)
        parts += [part for part in getattr(piece, "geoms", [piece]) if part.geom_type == shape.geom_type]
    return [part for part in parts if not part.is_empty]


def _centre_line(y: npt.NDArray[np.intp], x: npt.NDArray[np.intp]) -> Points:
    """(n, 2) fractional rows, columns from outer edge to outer edge along the middle of one region; two at least.

    The longest way through the region runs between the two pixels that are farthest apart within it. Pixels equally
    far from its start lie across it: their mean is the middle. This is what a skeleton's longest path gives, to
    fractions of a pixel and without spurs.
    """
    points = np.stack([y, x], -1).astype(np.float64)
    if len(points) < 2 * _STEP or len(points) > _LARGEST:
        return _major_axis(points)
    far, previous, end = _longest_way(y, x)
    whole = far[end]
    across = len(points) / (whole + 1)
    bins = int((whole - across) // _STEP)
    if bins < 2:  # hardly longer than wide
        return _major_axis(points)
    # Half a width from its ends, the way is still on its way from a corner to the middle.
    inner = (far >= across / 2) & (far <= whole - across / 2)
    which = np.clip(((far - across / 2) / (whole - across) * bins).astype(int), 0, bins - 1)
    which[~inner] = np.where(far[~inner] < across / 2, -1, bins)
    # A fork's other arm, a ring's other side: as far, but apart. Only the part of a bin that the way meets counts.
    pairs = _neighbours(y, x)
    pairs = pairs[:, which[pairs[0]] == which[pairs[1]]]
    part = csgraph.connected_components(_graph(pairs, np.ones(pairs.shape[1]), len(points)), directed=False)[1]
    way = [end]
    while previous[way[-1]] >= 0:
        way.append(int(previous[way[-1]]))
    on = np.isin(part, part[way])
    count = np.bincount(which[on] + 1, minlength=bins + 2)[1:-1]
    sums = [np.bincount(which[on] + 1, v[on], bins + 2)[1:-1] for v in points.T]
    middles = (np.stack(sums, -1) / np.maximum(count, 1)[:, np.newaxis])[count > 0]

    middles[1:-1] = (middles[:-2] + 2 * middles[1:-1] + middles[2:]) / 4  # a slight slope is a stair of pixels

    from shapely import LineString

    ends = [_edge(points[on & (which <= 0)], middles[1], middles[0])]
    ends.append(_edge(points[on & (which >= bins - 1)], middles[-2], middles[-1]))
    line = LineString([ends[0], *middles, ends[1]]).simplify(_TOLERANCE)
    return np.array(line.coords)


def _edge(points: Points, before: Points, last: Points) -> Points:
    """Where the line on from `before` through `last` leaves the pixels."""
    along = (last - before) / np.hypot(*(last - before))
    return np.asarray(last + along * (((points - last) @ along).max() + _half_pixel(along)))


def _half_pixel(along: Points) -> float:
    """How far along a direction a pixel's square reaches from its centre, on the mean over where it is cut."""
    return float(0.5 * np.abs(along).max() + 0.25 * np.abs(along).min())


def _major_axis(points: Points) -> Points:
    """(2, 2) a straight line through the pixels' mean, as long as they reach."""
    centre = points.mean(0)
    _, axes = np.linalg.eigh(np.cov((points - centre).T, bias=True) if len(points) > 1 else np.eye(2))
    along = axes[:, -1] * np.sign(axes[np.argmax(np.abs(axes[:, -1])), -1])  # one direction on any machine
    at = (points - centre) @ along
    more = _half_pixel(along)
    return np.stack([centre + along * (at.min() - more), centre + along * (at.max() + more)])


def _longest_way(y: npt.NDArray[np.intp], x: npt.NDArray[np.intp]) -> tuple[Points, npt.NDArray[np.int32], int]:
    """(distance in pixels from one end, the pixel before on the way from there, the other end's number).

    Farthest from anywhere is one end, farthest from that the other: exact in a tree, and all but exact in long and
    thin regions.
    """
    pairs = _neighbours(y, x)
    lengths = np.hypot(y[pairs[0]] - y[pairs[1]], x[pairs[0]] - x[pairs[1]])
    graph = _graph(pairs, lengths, len(y))
    start = int(np.argmax(csgraph.dijkstra(graph, directed=False, indices=0)))
    far, previous = csgraph.dijkstra(graph, directed=False, indices=start, return_predecessors=True)
    return far, previous, int(np.argmax(far))


def _neighbours(y: npt.NDArray[np.intp], x: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """(2, n) numbers of the pixels that touch, each pair once."""
    number = np.full((y.max() + 2, x.max() + 3), -1, np.intp)
    number[y, x + 1] = np.arange(len(y))
    pairs = []
    for dy, dx in ((0, 1), (1, -1), (1, 0), (1, 1)):
        other = number[y + dy, x + 1 + dx]
        pairs.append(np.stack([np.flatnonzero(other >= 0), other[other >= 0]]))
    return np.concatenate(pairs, axis=1)


def _graph(pairs: npt.NDArray[np.intp], weights: Points, size: int) -> Any:
    return coo_array((weights, (pairs[0], pairs[1])), (size, size)).tocsr()


def _outline(inside: npt.NDArray[np.bool_]) -> list[Polygon]:
    """Polygons of (n, 2) rows, columns along the pixels' edges; (0, 0) is the outer corner of the first pixel."""
    from rasterio.features import shapes

    found = shapes(inside.astype(np.uint8), mask=inside, connectivity=4)  # 8 gives rings that cross themselves
    return [[np.array(ring, np.float64)[:, ::-1] for ring in shape["coordinates"]] for shape, _ in found]


def _places(grid: FixedGrid, points: Points, altitude: float | None) -> Points:
    """(n, 2) longitude, latitude of fractional rows, columns."""
    latitude, longitude = grid.projection.to_geodetic(grid.x + points[:, 1] * grid.dx, grid.y + points[:, 0] * grid.dy)
    if altitude is not None:
        latitude, longitude = grid.projection.without_parallax(latitude, longitude, altitude)
    return np.stack([longitude, latitude], -1)


def _unwrapped(points: Points, near: float) -> Points:
    """With longitudes within 180 degrees of `near`."""
    return np.stack([near + (points[:, 0] - near + 180) % 360 - 180, points[:, 1]], -1)


def _turned(ring: Points, hole: bool) -> Points:
    """Outer rings anticlockwise, holes clockwise."""
    moved = ring - ring[0]  # products of small numbers: a pixel is 1e-4 of the coordinates
    signed = np.sum(moved[:-1, 0] * moved[1:, 1] - moved[1:, 0] * moved[:-1, 1])
    return ring if (signed > 0) != hole else ring[::-1]


def _orientation(line: Points) -> float:
    """Bearing in degrees at the middle: the mean of those from there on and back by 15 % of the length, which is less
    than a bend is long and more than a vertex is off.
    """
    _, _, steps = GEOD.inv(line[:-1, 0], line[:-1, 1], line[1:, 0], line[1:, 1])
    at = np.concatenate([[0.0], np.cumsum(steps)])
    lon, lat = (np.interp(at[-1] * np.array([0.35, 0.5, 0.65]), at, v) for v in line.T)
    there, back = (GEOD.inv(lon[1], lat[1], lon[i], lat[i])[0] for i in (2, 0))
    turn = (back + 180 - there + 180) % 360 - 180
    return float(there + turn / 2) % 180


def _area(ring: Points) -> float:
    """Square metres."""
    return abs(float(GEOD.polygon_area_perimeter(ring[:, 0], ring[:, 1])[0]))
