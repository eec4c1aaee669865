"""A mask as contrails on the Earth: for each region its centre line and its outline, with length, width and bearing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pyproj import Geod
from scipy import ndimage

from contrail_data.fixed_grid import FixedGrid
from contrail_train.postprocess import EIGHT

GEOD = Geod(ellps="GRS80")
_STEP = 3.0  # pixels between the vertices of a centre line


@dataclass(frozen=True)
class Contrail:
    line: npt.NDArray[np.float64]
    """(n, 2) longitude, latitude in degrees, along the middle."""
    outline: list[list[npt.NDArray[np.float64]]]
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
    """One for each 8-connected region of a mask (y, x) on a fixed grid.

    row_time (y): when each row was scanned, UTC. altitude: metres for which places are freed of parallax; None: places
    are those of the ellipsoid behind. Properties: id, length_km (along the line), width_km (area over length),
    bearing_deg (of the line from end to end, 0 to 180 from north), mean_probability, max_probability, pixels, time (of
    the mean row), satellite, altitude_m.
    """
    labels, _ = ndimage.label(mask_yx, EIGHT)
    found = []
    for number, window in enumerate(ndimage.find_objects(labels), 1):
        inside = labels[window] == number
        corner = np.array([window[0].start, window[1].start])
        p = probability_yx[window][inside]
        y, x = np.nonzero(inside)
        rings = [[_places(grid, ring + corner - 0.5, altitude) for ring in polygon] for polygon in _outline(inside)]
        line = _places(grid, _centre_line(y, x) + corner, altitude)
        if np.isnan(line).any() or any(np.isnan(ring).any() for polygon in rings for ring in polygon):
            continue  # at the very limb
        rings = [[_turned(ring, hole=i > 0) for i, ring in enumerate(polygon)] for polygon in rings]
        area = sum(_area(ring) * (-1 if i else 1) for polygon in rings for i, ring in enumerate(polygon))
        length = float(GEOD.line_length(line[:, 0], line[:, 1]))
        bearing = float(GEOD.inv(*line[0], *line[-1])[0]) % 180
        row = min(round(float(y.mean())) + int(corner[0]), len(row_time) - 1)
        properties = {
            "id": number,
            "length_km": round(length / 1e3, 2),
            "width_km": round(area / max(length, 1.0) / 1e3, 2),
            "bearing_deg": round(bearing, 1),
            "mean_probability": round(float(p.mean()), 4),
            "max_probability": round(float(p.max()), 4),
            "pixels": int(inside.sum()),
            "time": f"{np.datetime_as_string(row_time[row], 's')}Z",
            "satellite": satellite,
        }
        if altitude is not None:
            properties["altitude_m"] = altitude
        found.append(Contrail(line, rings, properties))
    return found


def to_geojson(found: Sequence[Contrail], kind: str) -> dict[str, Any]:
    """A feature collection (RFC 7946) of `lines` (LineString) or `polygons` (MultiPolygon)."""

    def points(ring: npt.NDArray[np.float64]) -> list[list[float]]:
        return np.round(ring, 5).tolist()  # a metre

    features = []
    for contrail in found:
        if kind == "lines":
            geometry: dict[str, Any] = {"type": "LineString", "coordinates": points(contrail.line)}
        else:
            polygons = [[points(ring) for ring in polygon] for polygon in contrail.outline]
            geometry = {"type": "MultiPolygon", "coordinates": polygons}
        features.append({"type": "Feature", "geometry": geometry, "properties": contrail.properties})
    return {"type": "FeatureCollection", "features": features}


def _centre_line(y: npt.NDArray[np.intp], x: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    """(n, 2) fractional rows, columns: the mean of the pixels across, step by step along the region's major axis, from
    outer edge to outer edge; two points at least."""
    points = np.stack([y, x], -1).astype(np.float64)
    centre = points.mean(0)
    _, axes = np.linalg.eigh(
        np.cov((points - centre).T, bias=True) + np.eye(2) * 1e-9 if len(points) > 1 else np.eye(2)
    )
    along = axes[:, -1] * np.sign(
        axes[np.argmax(np.abs(axes[:, -1])), -1]
    )  # one direction, whatever the library's sign
    at = (points - centre) @ along
    reach = 0.5 * np.abs(along).max() + 0.5 * np.abs(along).min()
    bins = max(1, round((at.max() - at.min()) / _STEP))
    edges = np.linspace(at.min(), at.max(), bins + 1)
    which = np.clip(np.searchsorted(edges, at, "right") - 1, 0, bins - 1)
    middles = [points[which == b].mean(0) for b in range(bins) if (which == b).any()]

    first, last = (
        along * (edge - (m - centre) @ along)
        for edge, m in ((at.min() - reach, middles[0]), (at.max() + reach, middles[-1]))
    )
    if bins == 1:
        return np.stack([centre + along * (at.min() - reach), centre + along * (at.max() + reach)])
    return np.stack([middles[0] + first, *middles, middles[-1] + last])


def _outline(inside: npt.NDArray[np.bool_]) -> list[list[npt.NDArray[np.float64]]]:
    """Polygons of (n, 2) rows, columns along the pixels' edges; (0, 0) is the outer corner of the first pixel."""
    from rasterio.features import shapes

    found = shapes(inside.astype(np.uint8), mask=inside, connectivity=4)
    return [[np.array(ring, np.float64)[:, ::-1] for ring in shape["coordinates"]] for shape, _ in found]


def _places(grid: FixedGrid, points: npt.NDArray[np.float64], altitude: float | None) -> npt.NDArray[np.float64]:
    """(n, 2) longitude, latitude of fractional rows, columns."""
    latitude, longitude = grid.projection.to_geodetic(grid.x + points[:, 1] * grid.dx, grid.y + points[:, 0] * grid.dy)
    if altitude is not None:
        latitude, longitude = grid.projection.without_parallax(latitude, longitude, altitude)
    return np.stack([longitude, latitude], -1)


def _turned(ring: npt.NDArray[np.float64], hole: bool) -> npt.NDArray[np.float64]:
    """Outer rings anticlockwise, holes clockwise."""
    signed = np.sum(ring[:-1, 0] * ring[1:, 1] - ring[1:, 0] * ring[:-1, 1])
    return ring if (signed > 0) != hole else ring[::-1]


def _area(ring: npt.NDArray[np.float64]) -> float:
    """Square metres."""
    return abs(float(GEOD.polygon_area_perimeter(ring[:, 0], ring[:, 1])[0]))
