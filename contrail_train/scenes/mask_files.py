"""Files with masks of contrails, ours and others': NetCDF and zarr on a satellite's grid, and GeoTIFF.

A file of Google's Contrails API, version 2, has `mask` (time, y, x) as float32, `x` and `y` in metres, and
`projection`, a PROJ string; ours have the same axes and a CF grid mapping.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import xarray as xr
from pyproj import CRS
from pyproj.exceptions import CRSError
from rasterio.windows import Window

from contrail_data.errors import ContrailError
from contrail_data.geo.fixed_grid import Projection
from contrail_data.storage.files import first_line

SUFFIXES = (".nc", ".zarr", ".tif", ".tiff")
Times = npt.NDArray[np.datetime64]


@dataclass(frozen=True)
class Axis:
    """Regularly spaced centres of pixels."""

    first: float
    """Scan angle in radians, or the unit of the projection if it is not geostationary."""
    step: float
    size: int


@dataclass(frozen=True, kw_only=True)
class MaskFile:
    """A file with masks at one or several times."""

    path: Path
    view: CRS
    """Projection of the axes. For a geostationary one, whose axes are angles, its height and ellipsoid are nominal."""
    view_text: str
    x: Axis
    y: Axis
    times: Times | None
    """Start of the scan at each time, UTC; None for a single mask whose time the file does not state."""
    binary: bool
    """Whether values are stored as integers, so that they are no probabilities."""
    read: Callable[[int, slice, slice], npt.NDArray[np.float32]]
    """Returns a window of the values at one time, NaN where missing."""


def open_mask_file(path: Path) -> MaskFile:
    """Open a file with masks. Values are read later, one time after the other.

    Args:
        path: The file, or the folder of a zarr.

    Returns:
        Its grid and times.

    Raises:
        ContrailError: If the file cannot be read, or does not hold masks on a regular grid.
    """
    if path.suffix not in SUFFIXES:
        raise ContrailError(f"{path}: not a file of masks; choose one that ends in {', '.join(SUFFIXES)}")
    if not path.exists():
        raise ContrailError(f"{path}: does not exist; correct the path")
    try:
        if path.suffix in (".tif", ".tiff"):
            return _with_reported_errors(_open_geotiff(path))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what xarray makes of others' metadata
            dataset = xr.open_dataset(path, engine="zarr" if path.suffix == ".zarr" else "netcdf4")
        return _with_reported_errors(_of_dataset(path, dataset))
    except ContrailError:
        raise
    except Exception as error:
        raise ContrailError(_unreadable(path, error)) from None


def _with_reported_errors(file: MaskFile) -> MaskFile:
    """The file with pixels that are damaged reported like metadata that are."""

    def read(number: int, rows: slice, columns: slice) -> npt.NDArray[np.float32]:
        try:
            return file.read(number, rows, columns)
        except Exception as error:
            raise ContrailError(_unreadable(file.path, error)) from None

    return replace(file, read=read)


def _unreadable(path: Path, error: Exception) -> str:
    return f"{path}: cannot be read ({first_line(error)}); check it, or fetch it again"


def _of_dataset(path: Path, dataset: xr.Dataset) -> MaskFile:
    if "mask" not in dataset:
        names = ", ".join(map(str, dataset.data_vars)) or "none"
        raise ContrailError(f"{path}: has no variable 'mask' (variables: {names}); choose a file of masks")
    mask = dataset["mask"]
    if mask.dims not in (("time", "y", "x"), ("y", "x")) or not {"y", "x"} <= set(dataset.variables):
        remedy = "compare stores with contrail-data compare-labels" if "sample" in mask.dims else "choose another file"
        raise ContrailError(f"{path}: its mask has no axes time, y and x ({', '.join(map(str, mask.dims))}); {remedy}")
    crs = _crs_of(path, dataset)
    x, y = (_axis(path, name, dataset[name].values) for name in ("x", "y"))
    view, view_text, scale = _view(crs, x)
    flips = {"x": slice(None, None, -1 if x.step < 0 else 1), "y": slice(None, None, -1 if y.step > 0 else 1)}
    pixels = (mask if "time" in mask.dims else mask.expand_dims("time")).isel(flips)

    def read(number: int, rows: slice, columns: slice) -> npt.NDArray[np.float32]:
        return np.asarray(pixels[number, rows, columns].values, np.float32)

    return MaskFile(
        path=path,
        view=view,
        view_text=view_text,
        x=_eastward(x, scale),
        y=_southward(y, scale),
        times=_times_of(path, dataset),
        binary=bool(np.issubdtype(mask.encoding.get("dtype", mask.dtype), np.integer)),
        read=read,
    )


def _open_geotiff(path: Path) -> MaskFile:
    with rasterio.open(path) as file:
        named = [band for band, text in enumerate(file.descriptions, 1) if (text or "").startswith("contrail")]
        band = named[0] if named else 1
        if not named and file.count > 1:
            raise ContrailError(f"{path}: has {file.count} bands, none described as contrail; keep the one of the mask")
        if file.crs is None or file.transform.b or file.transform.d:
            raise ContrailError(f"{path}: has no regular grid on a projection; georeference it first")
        tags = file.tags()
        dtype, (height, width), transform = file.dtypes[band - 1], file.shape, file.transform
        crs = CRS.from_user_input(file.crs.to_wkt())
    x = Axis(transform.c + transform.a / 2, transform.a, width)
    y = Axis(transform.f + transform.e / 2, transform.e, height)
    view, view_text, scale = _view(crs, x)
    if x.step < 0 or y.step > 0:
        raise ContrailError(f"{path}: its rows do not go from north to south, or its columns not east; turn it")
    text = tags.get("scan_start") or tags.get("time")

    def read(number: int, rows: slice, columns: slice) -> npt.NDArray[np.float32]:
        window = Window.from_slices(rows, columns)
        with rasterio.open(path) as file:
            return np.asarray(file.read(band, window=window, masked=True, out_dtype=np.float32).filled(np.nan))

    return MaskFile(
        path=path,
        view=view,
        view_text=view_text,
        x=_eastward(x, scale),
        y=_southward(y, scale),
        times=None if text is None else np.array([text], "datetime64[ns]"),
        binary=bool(np.issubdtype(dtype, np.integer)),
        read=read,
    )


def _times_of(path: Path, dataset: xr.Dataset) -> Times | None:
    """When the scan of each time starts."""
    if "time" not in dataset.variables:
        if dataset.sizes.get("time", 1) > 1:
            raise ContrailError(f"{path}: has several masks, but no times; add a coordinate time")
        return None
    bounds = dataset.get(str(dataset["time"].attrs.get("bounds") or dataset["time"].encoding.get("bounds")))
    times = np.atleast_1d(dataset["time"].values if bounds is None else bounds.values[:, 0])
    if not np.issubdtype(times.dtype, np.datetime64):
        raise ContrailError(f"{path}: its times are no dates (units: {dataset['time'].attrs.get('units')}); state them")
    return times.astype("datetime64[ns]")


def _crs_of(path: Path, dataset: xr.Dataset) -> CRS:
    """The projection, from a CF grid mapping or a PROJ string."""
    for variable in dataset.variables.values():
        if "grid_mapping_name" in variable.attrs and "crs_wkt" not in variable.attrs:
            return CRS.from_cf(variable.attrs)
        if "crs_wkt" in variable.attrs:
            return CRS.from_wkt(variable.attrs["crs_wkt"])
    if "projection" not in dataset.variables:
        raise ContrailError(f"{path}: does not state its projection; add a CF grid mapping, or `projection` (PROJ)")
    text = str(dataset["projection"].values)
    try:
        return CRS.from_user_input(text)
    except CRSError:
        raise ContrailError(f"{path}: its projection is none that PROJ knows ({text[:80]}); correct it") from None


def _view(crs: CRS, x: Axis) -> tuple[CRS, str, float]:
    """What two files must share, how to call it, and by what axes are divided.

    Metres of a geostationary projection become scan angles, since programs differ in the height that they state.
    """
    mapping = crs.to_cf()
    if mapping.get("grid_mapping_name") != "geostationary":
        return crs, crs.name, 1.0
    projection = Projection.from_cf(mapping)
    longitude, sweep = round(projection.longitude, 2), projection.sweep
    in_radians = max(abs(x.first), abs(x.first + x.step * (x.size - 1))) < 1  # the Earth is at most 0.16 wide
    text = f"geostationary, {longitude:g} degrees east, sweep {sweep}"
    return CRS(Projection(longitude, sweep=sweep).crs_wkt), text, 1.0 if in_radians else projection.height


def _axis(path: Path, name: str, values: npt.NDArray[Any]) -> Axis:
    if values.ndim != 1 or len(values) < 2:
        raise ContrailError(f"{path}: {name} is not an axis of at least 2 pixels; choose another file")
    values = values.astype(np.float64)
    step = float(values[-1] - values[0]) / (len(values) - 1)
    off = np.abs(values - values[0] - step * np.arange(len(values))).max()
    if not off < 0.1 * abs(step):  # float32 leaves less; also refuses NaN
        raise ContrailError(f"{path}: {name} is not evenly spaced; choose a file on a regular grid")
    return Axis(float(values[0]), step, len(values))


def _eastward(axis: Axis, scale: float) -> Axis:
    """The axis from west to east, divided by the scale."""
    first = axis.first if axis.step > 0 else axis.first + axis.step * (axis.size - 1)
    return Axis(first / scale, abs(axis.step) / scale, axis.size)


def _southward(axis: Axis, scale: float) -> Axis:
    """The axis from north to south, divided by the scale."""
    first = axis.first if axis.step < 0 else axis.first + axis.step * (axis.size - 1)
    return Axis(first / scale, -abs(axis.step) / scale, axis.size)
