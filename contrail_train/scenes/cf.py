"""A predicted scene after the CF conventions: the dataset that NetCDF and zarr files hold, and the NetCDF file.

Coordinates are in metres on the geostationary projection (scan angles times the satellite's height), as in the masks of
Google's Contrails API and as GDAL and cartopy expect them.
"""

from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
import yaml

from contrail_data.geo.fixed_grid import FixedGrid, Projection
from contrail_data.scans.scene import grid_mapping_of, grid_of
from contrail_data.storage.files import write_atomically
from contrail_train.scenes.rounding import codes

CHUNK = 512
"""Side of a chunk in pixels."""
_STEP = 2.0**-13
"""Step of stored probabilities. A power of two is exact as float32, and compresses well."""
_ROWS = 256
"""Rows whose places are computed at once, to bound memory."""

Encoding = dict[str, dict[str, Any]]


def cf_dataset(scene: xr.Dataset, *, places: bool = False) -> tuple[xr.Dataset, Encoding]:
    """Return a predicted scene after the CF conventions.

    Args:
        scene: A predicted scene with `mask` and `valid`.
        places: Whether to add the latitude and longitude of each pixel.

    Returns:
        Everything but the composite, and the encoding of each variable, as xarray takes it.
    """
    dataset = scene.drop_vars(["image", "channel", "scan_start", "scan_end"], errors="ignore")
    dataset["mask"] = dataset["mask"].where(dataset["valid"] > 0, np.uint8(255))
    for name, limit in (("probability", "threshold"), ("gate_score", "gate")):
        if name in dataset:
            rounded = np.empty(dataset[name].shape, np.float32)
            for values_yx, rounded_yx in zip(dataset[name].values, rounded, strict=True):  # one at a time, for memory
                np.multiply(codes(values_yx, scene.attrs[limit], _STEP), np.float32(_STEP), out=rounded_yx)
            dataset[name] = dataset[name].copy(data=rounded)
    bounds = np.stack([scene["scan_start"].values, scene["scan_end"].values], -1)
    dataset["time_bounds"] = (("time", "bound"), bounds)
    grid = grid_of(scene)
    height = grid.projection.height
    dataset = dataset.assign_coords({axis: (axis, dataset[axis].values * height) for axis in ("x", "y")})
    mapping = grid_mapping_of(scene)
    dataset = dataset.reset_coords(mapping)
    dataset[mapping].attrs["crs_wkt"] = grid.projection.crs_wkt
    if places:
        latitude, longitude = _places(grid)
        dataset = dataset.assign_coords(latitude=(("y", "x"), latitude), longitude=(("y", "x"), longitude))
    variables = yaml.safe_load(files(__package__).joinpath("cf.yaml").read_text())
    encoding: Encoding = {}
    for name, variable in variables.items():
        if name in dataset.variables:
            dataset[name].attrs = variable["attributes"]
            encoding[name] = dict(variable["encoding"])
            if {"y", "x"} <= set(dataset[name].dims):
                dataset[name].attrs["grid_mapping"] = mapping
    for name in ("mask", "valid"):
        dataset[name].attrs["flag_values"] = np.array([0, 1], np.uint8)
    if "track" in dataset:
        ids = ["none", *dataset["track_id"].values.tolist()]
        flags = {"flag_values": np.arange(len(ids), dtype=np.int32), "flag_meanings": " ".join(ids)}
        dataset["track"].attrs |= flags
        dataset = dataset.drop_vars(["track_id", "track_path"])
    return dataset, encoding


def chunks_of(dataset: xr.Dataset, name: str) -> tuple[int, ...] | None:
    """Choose the chunks of a variable, so that viewers read what they show.

    Args:
        dataset: A dataset of `cf_dataset`.
        name: The variable.

    Returns:
        The shape of a chunk: one time of `CHUNK` x `CHUNK` pixels; None for a variable that has no pixels.
    """
    sizes = {"time": 1, **{axis: min(CHUNK, dataset.sizes[axis]) for axis in ("y", "x")}}
    dims = dataset[name].dims
    return tuple(sizes[str(dim)] for dim in dims) if {"y", "x"} <= set(dims) else None


def write_netcdf(scene: xr.Dataset, out: Path, *, places: bool = False) -> None:
    """Write everything but the composite as NetCDF.

    Args:
        scene: A predicted scene with `mask` and `valid`.
        out: The file.
        places: Whether to add the latitude and longitude of each pixel.
    """
    dataset, encoding = cf_dataset(scene, places=places)
    for name in encoding:
        if chunks := chunks_of(dataset, name):
            encoding[name] |= {"zlib": True, "complevel": 1, "chunksizes": chunks}
    dataset["projection"] = proj_string(grid_of(scene).projection)
    dataset["projection"].attrs["long_name"] = "the projection of x and y, as PROJ writes it"
    dataset.attrs["inputs"] = "\n".join(scene.attrs["inputs"])
    # GDAL misses h5netcdf's units. In memory, since netCDF reports a full disk as an error without a reason.
    content = dataset.to_netcdf(engine="netcdf4", encoding=encoding)
    write_atomically(out, [content])


def proj_string(projection: Projection) -> str:
    """Write a projection as PROJ does.

    Args:
        projection: The projection.

    Returns:
        The definition, whose coordinates are in metres.
    """
    return (
        f"+proj=geos +lon_0={projection.longitude!r} +h={projection.height!r} +x_0=0 +y_0=0 "
        f"+a={projection.equator_radius!r} +b={projection.pole_radius!r} +sweep={projection.sweep} +units=m +no_defs"
    )


def _places(grid: FixedGrid) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Latitude and longitude of each pixel, float32 (y, x) in degrees, NaN off the Earth."""
    latitude, longitude = (np.empty((grid.height, grid.width), np.float32) for _ in range(2))
    for top in range(0, grid.height, _ROWS):
        rows = slice(top, min(top + _ROWS, grid.height))
        part = grid.window(top, 0, rows.stop - top, grid.width)
        latitude[rows], longitude[rows] = part.geodetic()
    return latitude, longitude
