"""Contrails that people drew on scans: read from vector files and from masks as shapes in degrees, each with a time."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from pyproj import CRS
from pyproj.exceptions import ProjError

from contrail_data.errors import ContrailError
from contrail_data.sources.drawn_shapes import DEGREES, DrawnShape, Points, parse_time, to_degrees_from
from contrail_data.storage.files import first_line, reported_errors

_VECTORS = (".geojson", ".json", ".gpkg", ".shp", ".fgb")
_MASKS = (".tif", ".tiff", ".nc")
_WIDEST, _HIGHEST = 200.0, 30_000.0
"""Largest width of a line that is believed, km, and largest altitude, m."""
_DETECTED = ("id", "length_km", "width_km", "orientation_deg")
"""Properties by which the lines and outlines that `predict-scans` writes are recognised."""
_USED = (*_DETECTED, "area", "time", "satellite", "altitude_m")


@dataclass(frozen=True)
class DrawnLabels:
    """The shapes of some label files."""

    shapes: list[DrawnShape] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """One line for each feature that was left out."""
    notes: list[str] = field(default_factory=list)

    def search_times(self) -> list[np.datetime64]:
        """Return when scans are searched for, which may have begun a quarter of an hour before a label's time.

        Returns:
            Times in UTC, at most 5 minutes apart around each label.
        """
        times = {shape.time.astype("datetime64[m]") for shape in self.shapes if shape.time is not None}
        return sorted(time - np.timedelta64(lag, "m") for time in times for lag in (0, 5, 10, 15))


def read_labels(paths: Sequence[Path]) -> DrawnLabels:
    """Read contrails that people drew, and the areas that they looked at.

    Of a contrail that `predict-scans` wrote, the line is used only if the files have no outlines of its kind at all: a
    line beside its outline would count twice, and one whose outline was deleted was not meant to stay.

    Args:
        paths: Vector files (GeoJSON; GeoPackage, Shapefile and FlatGeobuf with the extra `geo`) or masks (GeoTIFF, or
            NetCDF as `predict-scans` writes it).

    Returns:
        The shapes.

    Raises:
        ContrailError: If a file cannot be read, or no shape is usable.
    """
    labels = DrawnLabels()
    for path in paths:
        kind = path.suffix.lower()
        if kind not in (*_VECTORS, *_MASKS):
            raise ContrailError(f"{path}: not a format of labels; give {', '.join((*_VECTORS, *_MASKS))}")
        if not path.is_file():
            raise ContrailError(f"{path}: no such file; check the path")
        with reported_errors(str(path), "read"):
            if kind in _VECTORS:
                _read_features(path, labels)
            else:
                from contrail_data.sources.label_masks import read_masks  # imports rasterio, which takes a while

                labels.shapes.extend(read_masks(path))
    return replace(labels, shapes=_without_repeated_lines(labels))


def _without_repeated_lines(labels: DrawnLabels) -> list[DrawnShape]:
    outlined = {shape.contrail for shape in labels.shapes if shape.contrail is not None and not shape.is_line}
    if not outlined:
        return labels.shapes
    lines = [shape for shape in labels.shapes if shape.contrail is not None and shape.is_line]
    if deleted := sum(line.contrail not in outlined for line in lines):
        labels.notes.append(f"{deleted} detected contrails are left out, as only their centre lines are left")
    return [shape for shape in labels.shapes if shape.contrail is None or not shape.is_line]


# -------------------------------------------------------------------------------------------------------- vector files


def _read_features(path: Path, labels: DrawnLabels) -> None:
    read = _geojson_features if path.suffix.lower() in (".geojson", ".json") else _ogr_features
    for where, geometry, properties in read(path):
        try:
            labels.shapes.append(_drawn_shape(where, geometry, properties))
        except ValueError as error:
            labels.problems.append(f"{where}: {error}")


def _geojson_features(path: Path) -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    """Yield name, geometry in degrees and properties of each feature."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        reason = first_line(error) if path.stat().st_size else "0 bytes"
        raise ContrailError(f"{path}: cannot be read as JSON ({reason}); save it again") from None
    try:
        entries = [(feature.get("geometry"), feature.get("properties") or {}) for feature in content["features"]]
        name = ((content.get("crs") or {}).get("properties") or {}).get("name", "OGC:CRS84")
    except (KeyError, TypeError, AttributeError):
        raise ContrailError(f"{path}: not a GeoJSON feature collection; save it as one, as QGIS does") from None
    try:
        to_degrees = to_degrees_from(CRS.from_user_input(name))
    except (ProjError, TypeError):
        raise ContrailError(f"{path}: unknown coordinate system {str(name)[:40]!r}; save it in EPSG:4326") from None
    for number, (geometry, properties) in enumerate(entries, 1):
        try:
            shape = None if geometry is None else shapely.transform(shapely.geometry.shape(geometry), to_degrees)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, shapely.errors.ShapelyError):
            shape = None
        yield f"{path.name}: feature {number}", shape, properties if isinstance(properties, dict) else {}


def _ogr_features(path: Path) -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    """Yield name, geometry in degrees and properties of each feature of all layers."""
    if find_spec("geopandas") is None or find_spec("pyogrio") is None:
        remedy = "run pip install '.[geo]' in the checkout, or save the layers as GeoJSON"
        raise ContrailError(f"{path}: geopandas is needed to read it; {remedy}")
    import geopandas
    import pyogrio

    try:
        layers = {name: geopandas.read_file(path, layer=name) for name, kind in pyogrio.list_layers(path) if kind}
    except Exception as error:  # of GDAL, PROJ, shapely or pandas
        reason = first_line(error, path).partition(";")[0].rstrip(".")
        raise ContrailError(f"{path}: cannot be read ({reason}); save it again") from None
    for name, layer in layers.items():
        if layer.crs is None:
            raise ContrailError(f"{path}: layer {name} has no coordinate system; set it to EPSG:4326 in QGIS")
        degrees = layer.to_crs(DEGREES)
        for number, (geometry, row) in enumerate(
            zip(degrees.geometry, degrees.drop(columns=degrees.geometry.name).to_dict("records"), strict=True), 1
        ):
            yield f"{path.name}: layer {name}, feature {number}", geometry, row


def _drawn_shape(where: str, geometry: Any, properties: Mapping[str, Any]) -> DrawnShape:
    """Check a feature; raises ValueError with the reason and the remedy."""
    if geometry is None or geometry.is_empty or not np.isfinite(shapely.get_coordinates(geometry)).all():
        raise ValueError("has no usable geometry; draw it again")
    shape = _lines_or_polygons(geometry)
    if (np.abs(shapely.get_coordinates(shape)) > (540, 90)).any():
        raise ValueError("is not in degrees; give longitude before latitude, in EPSG:4326")
    properties = {key: properties[key] for key in _USED if not _is_nothing(properties.get(key))}
    is_line = shapely.get_dimensions(shape) == 1
    is_area = str(properties.get("area", "")).lower() in ("true", "yes", "1", "1.0")
    if is_area and is_line:
        raise ValueError("a line is not an area; draw a polygon")
    time = parse_time(properties.get("time"))
    if time is None and not is_area:
        raise ValueError("has no time; set its property time, as in 2024-03-01T12:40:00Z")
    detected = set(_DETECTED) <= properties.keys()
    return DrawnShape(
        geometry=shape if is_area else _across_180(shape),
        where=where,
        time=time,
        is_area=is_area,
        width_km=_number(properties, "width_km", math.inf if detected else _WIDEST) if is_line else None,
        altitude=_number(properties, "altitude_m", _HIGHEST) or 0.0,
        contrail=(properties.get("satellite"), str(time), _plain(properties["id"])) if detected else None,
    )


def _lines_or_polygons(geometry: Any) -> Any:
    """Return the polygons of a geometry, or its lines if it has none, valid and flat; raises ValueError for points."""
    parts = shapely.get_parts(shapely.make_valid(shapely.force_2d(geometry)))
    while (shapely.get_type_id(parts) == shapely.GeometryType.GEOMETRYCOLLECTION).any():
        parts = shapely.get_parts(parts)
    for dimension, join in ((2, shapely.multipolygons), (1, shapely.multilinestrings)):
        same = parts[shapely.get_dimensions(parts) == dimension]
        if len(same):
            return join(shapely.get_parts(same))
    raise ValueError("is a point, not a line or a polygon; draw the contrail")


def _across_180(shape: Any) -> Any:
    """Return lines or polygons of which parts that seem to go round the world cross 180 degrees of longitude."""

    def eastward(points: Points) -> Points:
        return np.stack([np.where(points[:, 0] < 0, points[:, 0] + 360, points[:, 0]), points[:, 1]], -1)

    parts = shapely.get_parts(shape)
    widths = [part.bounds[2] - part.bounds[0] for part in parts]
    return type(shape)(
        [shapely.transform(part, eastward) if width > 180 else part for part, width in zip(parts, widths, strict=True)]
    )


def _is_nothing(value: Any) -> bool:
    """Return whether a property is missing: null, empty, or what pandas puts in its place (NaN and NaT)."""
    return value is None or str(value) in ("", "nan", "NaT", "<NA>")


def _plain(number: Any) -> str:
    """Return an id as text; pandas turns whole numbers of which one is missing into fractional ones."""
    return str(number).removesuffix(".0")


def _number(properties: Mapping[str, Any], name: str, largest: float) -> float | None:
    """Return a positive number of a feature, None if it states none; raises ValueError."""
    value = properties.get(name)
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not 0 <= number <= largest:
        raise ValueError(f"{name} {str(value)[:40]!r} is not a number from 0 to {largest:g}; correct it")
    return number or None
