"""A predicted scene as zarr that xarray, GDAL and QGIS open, with overviews.

The attributes follow three conventions of zarr-conventions at version 0.1: `proj` (formerly geo-proj), `spatial` and
`multiscales`. The layout is that of GDAL's own overviews: full resolution in the root, half of it in `ovr_2x`, a
quarter in `ovr_4x` and so on, each pixel the highest value of its four.

The metadata are those of zarr version 3. Versions of GDAL before 3.11 predate its final form, so a copy of the metadata
in version 2 lies beside them (`.zmetadata`), chunks have the names of version 2, and they are packed with gzip, which
each build of GDAL can read.
"""

import json
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr
from zarr.codecs import GzipCodec

from contrail_data.geo.fixed_grid import FixedGrid
from contrail_data.scans.scene import grid_mapping_of, grid_of
from contrail_data.storage.files import partial_path, publish, reported_errors
from contrail_train.scenes.cf import CHUNK, Encoding, cf_dataset, chunks_of

_CONVENTIONS = {
    "proj": ("f17cb550-5864-4468-aeb7-f3180cfb622f", "Coordinate reference system information for geospatial data"),
    "spatial": ("689b58e2-cf7b-45e0-9fff-9cfc0883d6b4", "Spatial coordinate information"),
    "multiscales": ("d35379db-88df-4056-af3a-620245f8e347", "Multiscale layout of zarr datasets"),
}
"""UUID and description of each convention."""


def write_zarr(scene: xr.Dataset, out: Path, *, places: bool = False) -> None:
    """Write everything but the composite as zarr.

    Args:
        scene: A predicted scene with `mask` and `valid`.
        out: The folder.
        places: Whether to add the latitude and longitude of each pixel.
    """
    dataset, encoding = cf_dataset(scene, places=places)
    levels = [(dataset, grid_of(scene))]
    while max(levels[-1][1].height, levels[-1][1].width) > CHUNK:
        levels.append(_halved(*levels[-1]))
    staged = partial_path(out)
    try:
        with reported_errors(str(out), "written"), warnings.catch_warnings():
            # about consolidated metadata, which all readers accept
            warnings.filterwarnings("ignore", category=UserWarning, module="zarr")
            for number, (level, grid) in enumerate(levels):
                _describe(level, grid)
                if number == 0:
                    level.attrs |= _conventions("multiscales", "proj", "spatial") | _layout(levels)
                chunks = _zarr_encoding(level, encoding)
                group = _group(number) or None
                level.to_zarr(staged, group=group, mode="a", encoding=chunks, zarr_format=3, consolidated=False)
            zarr.consolidate_metadata(str(staged), zarr_format=3)
            (staged / ".zmetadata").write_text(json.dumps(_version_2(json.loads((staged / "zarr.json").read_text()))))
            publish(staged, out)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _group(number: int) -> str:
    """Name of the group of a level, as GDAL names it; empty for the root."""
    return f"ovr_{2**number}x" if number else ""


def _halved(dataset: xr.Dataset, grid: FixedGrid) -> tuple[xr.Dataset, FixedGrid]:
    """A level at half the resolution. Of an odd number of rows or columns, the last one is repeated."""
    planes = {}
    for name in ("probability", "gate_score", "mask", "valid"):
        if name in dataset:
            values = dataset[name].values
            values = values.view(np.int8) if name == "mask" else values  # 255, a missing pixel, is below 0 and 1
            planes[name] = dataset[name].dims, _highest(values).astype(dataset[name].dtype), dict(dataset[name].attrs)
    half = replace(
        grid,
        x=grid.x + grid.dx / 2,
        y=grid.y + grid.dy / 2,
        dx=2 * grid.dx,
        dy=2 * grid.dy,
        height=-(-grid.height // 2),
        width=-(-grid.width // 2),
    )
    axes = dict(zip("xy", half.axes(), strict=True))
    coordinates = {name: (name, values * grid.projection.height, dataset[name].attrs) for name, values in axes.items()}
    mapping = grid_mapping_of(dataset)
    level = xr.Dataset(planes | {mapping: dataset[mapping]}, {"time": dataset["time"].drop_attrs()} | coordinates)
    return level.drop_vars("scan_time", errors="ignore"), half


def _highest(values_tyx: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The highest value of each 2 x 2 pixels; NaN only where all of them are."""
    _, height, width = values_tyx.shape
    even = np.pad(values_tyx, ((0, 0), (0, height % 2), (0, width % 2)), mode="edge")
    return np.asarray(reduce(np.fmax, [even[:, row::2, column::2] for row in (0, 1) for column in (0, 1)]))


def _describe(level: xr.Dataset, grid: FixedGrid) -> None:
    """Add the attributes of the conventions to a level and its arrays."""
    west, width, _, north, _, height = grid.geotransform.tolist()
    east, south = west + width * grid.width, north + height * grid.height
    level.attrs |= _conventions("proj", "spatial") | {
        "proj:wkt2": grid.projection.crs_wkt,
        "spatial:dimensions": ["y", "x"],
        "spatial:bbox": [west, south, east, north],
    }
    for name in level.data_vars:
        if {"y", "x"} <= set(level[name].dims):
            level[name].attrs |= _conventions("spatial") | {"spatial:dimensions": ["y", "x"]} | _placement(grid)


def _placement(grid: FixedGrid) -> dict[str, Any]:
    """Shape and affine transform of a level, in the order of rasterio."""
    west, width, _, north, _, height = grid.geotransform.tolist()
    return {
        "spatial:shape": [grid.height, grid.width],
        "spatial:transform": [width, 0.0, west, 0.0, height, north],
    }


def _layout(levels: Sequence[tuple[xr.Dataset, FixedGrid]]) -> dict[str, Any]:
    """The arrays of each level and what they are derived from."""
    layout: list[dict[str, Any]] = []
    for name in ("probability", "gate_score", "mask", "valid"):
        assets = ["/".join(filter(None, (_group(number), name))) for number in range(len(levels))]
        for number, (level, grid) in enumerate(levels):
            if name in level:
                origin = {"derived_from": assets[number - 1]} if number else {}
                scale = [1.0, 2.0, 2.0] if number else [1.0, 1.0, 1.0]
                layout.append({"asset": assets[number], **origin, "transform": {"scale": scale}, **_placement(grid)})
    return {"multiscales": {"layout": layout, "resampling_method": "max"}}


def _conventions(*names: str) -> dict[str, Any]:
    """The attribute that registers conventions."""
    return {
        "zarr_conventions": [
            {
                "uuid": _CONVENTIONS[name][0],
                "schema_url": f"https://raw.githubusercontent.com/zarr-conventions/{name}/refs/tags/v0.1/schema.json",
                "spec_url": f"https://github.com/zarr-conventions/{name}/blob/v0.1/README.md",
                "name": name,
                "description": _CONVENTIONS[name][1],
            }
            for name in names
        ]
    }


def _zarr_encoding(level: xr.Dataset, encoding: Encoding) -> Encoding:
    """The encoding of a level's variables, with chunks that version 2 can name and each build of GDAL unpack."""
    zarr_encoding: Encoding = {}
    for name in map(str, level.variables):
        one: dict[str, Any] = {**encoding.get(name, {}), "chunk_key_encoding": {"name": "v2", "separator": "."}}
        if chunks := chunks_of(level, name):
            one |= {"chunks": chunks, "compressors": [GzipCodec(level=1)]}
        else:
            one |= {"compressors": None}
        if (missing := one.get("_FillValue")) is not None:
            one["fill_value"] = missing  # what GDAL takes for missing
        zarr_encoding[name] = one
    return zarr_encoding


def _version_2(root: dict[str, Any]) -> dict[str, Any]:
    """Consolidated metadata of version 2, from a group of version 3 with consolidated metadata."""
    metadata: dict[str, Any] = {".zgroup": {"zarr_format": 2}, ".zattrs": root["attributes"]}
    for name, node in root["consolidated_metadata"]["metadata"].items():
        attributes = node["attributes"]
        if node["node_type"] == "group":
            metadata[f"{name}/.zgroup"] = {"zarr_format": 2}
        else:
            metadata[f"{name}/.zarray"] = {
                "zarr_format": 2,
                "shape": node["shape"],
                "chunks": node["chunk_grid"]["configuration"]["chunk_shape"],
                "dtype": np.dtype(node["data_type"]).newbyteorder("<").str,
                "fill_value": node["fill_value"],
                "order": "C",
                "filters": None,
                "compressor": {"id": "gzip", "level": 1} if node["codecs"][1:] else None,
                "dimension_separator": ".",
            }
            attributes = {key: value for key, value in attributes.items() if key != "_FillValue"}
            attributes["_ARRAY_DIMENSIONS"] = node.get("dimension_names", [])
        metadata[f"{name}/.zattrs"] = attributes
    return {"zarr_consolidated_format": 1, "metadata": metadata}
