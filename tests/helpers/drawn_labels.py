"""Labels drawn on synthetic scans: shapes and masks, and sources of what they label."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
import xarray as xr
from shapely.geometry import mapping

from contrail_data.composites import COMPOSITES
from contrail_data.geo.fixed_grid import FixedGrid
from contrail_data.sources.drawn_labels import LabelRequest
from contrail_data.sources.scan_tiles import TileRequest
from contrail_data.sources.scans import ScanSource, open_scan_source

CENTRE = (29.5, -92.0)
TIME = "2024-03-01T12:40:00Z"
NOON = np.datetime64("2024-03-01T12:40", "ns")
SINGLE = {"places": [CENTRE], "size": 48, "before": 0, "after": 0}
EVERYWHERE = {"type": "Feature", "geometry": mapping(shapely.box(-110, 10, -70, 50)), "properties": {"area": True}}


def feature(geometry: Any, **properties: object) -> dict[str, Any]:
    return {"type": "Feature", "geometry": mapping(geometry), "properties": {"time": TIME, **properties}}


def write(path: Path, features: Sequence[dict[str, Any]], **members: object) -> Path:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(features), **members}))
    return path


def open_labelled(scans: Path, files: Path | Sequence[Path], request: dict[str, Any], **labels: Any) -> ScanSource:
    files = [files] if isinstance(files, Path) else files
    drawn = LabelRequest(files=files, **labels)
    return open_scan_source(str(scans), TileRequest(**request), COMPOSITES["ash"], "train", labels=drawn)


def masks_of(source: ScanSource) -> list[np.ndarray]:
    return [source.read_sample(record_id).labels.mask for record_id in source.record_ids]


def square(grid: FixedGrid, top: int, left: int, height: int, width: int) -> shapely.Polygon:
    """The outline of some pixels of a scan in degrees."""
    pixels = shapely.segmentize(shapely.box(left, top, left + width, top + height), 1.0)

    def to_degrees(points: np.ndarray) -> np.ndarray:
        columns, rows = points.T - 0.5
        latitude, longitude = grid.projection.to_geodetic(grid.x + grid.dx * columns, grid.y + grid.dy * rows)
        return np.stack([longitude, latitude], -1)

    return shapely.transform(pixels, to_degrees)


def save_netcdf(path: Path, grid: FixedGrid, mask_yx: np.ndarray, unit: str = "rad") -> Path:
    """Write a mask as `predict-scans` does; in metres as other programs do."""
    x, y = (axis * (grid.projection.height if unit == "m" else 1) for axis in grid.axes())
    attributes = {"grid_mapping": "goes_imager_projection", "_FillValue": 255}
    xr.Dataset(
        {"mask": (("time", "y", "x"), mask_yx[np.newaxis], attributes)},
        coords={
            "time": ("time", [NOON + np.timedelta64(3, "s")]),
            "x": ("x", x, {"units": unit}),
            "y": ("y", y, {"units": unit}),
            "goes_imager_projection": ((), 0, grid.projection.cf_attributes()),
        },
    ).to_netcdf(path)
    return path


def save_geotiff(path: Path, grid: FixedGrid, mask_yx: np.ndarray, **options: Any) -> Path:
    profile = {"driver": "GTiff", "height": grid.height, "width": grid.width, "count": 1, "dtype": mask_yx.dtype}
    profile |= {"crs": grid.projection.crs_wkt, "transform": rasterio.Affine.from_gdal(*grid.geotransform)}
    with rasterio.open(path, "w", **profile | options) as file:
        file.write(mask_yx, 1)
        file.update_tags(time=TIME)
    return path
