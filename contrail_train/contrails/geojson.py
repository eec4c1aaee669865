"""Contrails as GeoJSON features (RFC 7946)."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import numpy as np
from shapely import LineString, affinity, box
from shapely import Polygon as ShapelyPolygon

from contrail_train.contrails.shapes import Contrail, Points, wind


class GeometryKind(StrEnum):
    """Which geometry of a contrail becomes a feature."""

    LINES = "lines"
    """The centre line, as a LineString."""
    POLYGONS = "polygons"
    """The outline, as a MultiPolygon."""


def to_features(contrails: Sequence[Contrail], kind: GeometryKind) -> list[dict[str, Any]]:
    """Express contrails as GeoJSON features.

    Coordinates are longitude and latitude to five digits, about a metre. Geometries that cross 180 degrees of longitude
    are cut there (RFC 7946, section 3.1.9), which turns a LineString into a MultiLineString.

    Args:
        contrails: Contrails, as of `shapes.contrails`.
        kind: Which geometry to write.

    Returns:
        One feature for each contrail, with the contrail's properties.
    """
    geometry = _line_geometry if kind is GeometryKind.LINES else _polygon_geometry
    return [{"type": "Feature", "geometry": geometry(one), "properties": one.properties} for one in contrails]


def _line_geometry(contrail: Contrail) -> dict[str, Any]:
    if not _crosses_180(contrail.line):
        return {"type": "LineString", "coordinates": _coordinates(contrail.line)}
    parts = [_coordinates(part.coords) for part in _cut_at_180(LineString(contrail.line))]
    return {"type": "MultiLineString", "coordinates": parts}


def _polygon_geometry(contrail: Contrail) -> dict[str, Any]:
    polygons = []
    for polygon in contrail.outline:
        parts = [polygon]
        if _crosses_180(polygon[0]):
            parts = [
                [wind(np.array(ring.coords), hole=i > 0) for i, ring in enumerate([part.exterior, *part.interiors])]
                for part in _cut_at_180(ShapelyPolygon(polygon[0], polygon[1:]))
            ]
        polygons += [[_coordinates(ring) for ring in part] for part in parts]
    return {"type": "MultiPolygon", "coordinates": polygons}


def _coordinates(points: Any) -> list[list[float]]:
    rounded: list[list[float]] = np.round(np.asarray(points, np.float64), 5).tolist()
    return rounded


def _crosses_180(points: Points) -> bool:
    return bool(np.abs(points[:, 0]).max() > 180)


def _cut_at_180(shape: Any) -> list[Any]:
    """The lines or polygons of a shape west and east of 180 degrees, with longitudes within -180 to 180."""
    parts = []
    for turn in (-360, 0, 360):
        piece = affinity.translate(shape.intersection(box(turn - 180, -90, turn + 180, 90)), -turn)
        parts += [part for part in getattr(piece, "geoms", [piece]) if part.geom_type == shape.geom_type]
    return [part for part in parts if not part.is_empty]
