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
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window

from contrail_data.errors import ContrailError
from contrail_data.geo.fixed_grid import Projection
from contrail_data.sources.drawn_shapes import parse_time
from contrail_data.sources.recognise import check_mask_file
from contrail_data.storage.files import first_line

MISSING = 255
"""Value of pixels that were not seen or not labelled, in masks that are stored as integers."""
Times = npt.NDArray[np.datetime64]
Read = Callable[[int, slice, slice], npt.NDArray[np.float32]]
"""Returns a window of the values at one time, NaN where missing: number of the time, rows, columns."""


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
    crs: CRS
    """Projection of the axes, as the file states it; if it is geostationary, the axes are scan angles."""
    view: CRS
    """What two files of the same pixels share: `crs`, with nominal height and ellipsoid if it is geostationary."""
    view_text: str
    x: Axis
    y: Axis
    times: Times | None
    """Start of the scan at each time, UTC; None for a single mask whose time the file does not state."""
    binary: bool
    """Whether values are stored as integers, so that they are no probabilities, and `MISSING` is missing."""
    read: Read


def open_mask_file(path: Path) -> MaskFile:
    """Open a file with masks. Values are read later, one time after the other.

    Args:
        path: The file, or the folder of a zarr.

    Returns:
        Its grid and times.

    Raises:
        ContrailError: If the file cannot be read, or does not hold masks on a regular grid.
    """
    check_mask_file(path)
    suffix = path.suffix.lower()
    try:
        if suffix in (".tif", ".tiff"):
            return _with_checked_values(_open_geotiff(path))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what xarray makes of others' metadata
            dataset = xr.open_dataset(path, engine="zarr" if suffix == ".zarr" else "netcdf4")
        return _with_checked_values(_of_dataset(path, dataset))
    except ContrailError:
        raise
    except Exception as error:
        raise ContrailError(_unreadable(path, error)) from None


def _with_checked_values(file: MaskFile) -> MaskFile:
    """The file with pixels that are damaged reported like metadata that are, and missing ones as NaN."""

    def read(number: int, rows: slice, columns: slice) -> npt.NDArray[np.float32]:
        try:
            values = file.read(number, rows, columns)
        except Exception as error:
            raise ContrailError(_unreadable(file.path, error)) from None
        return np.where(values == MISSING, np.float32(np.nan), values) if file.binary else values

    return replace(file, read=read)


def _unreadable(path: Path, error: Exception) -> str:
    kind = {".nc": "NetCDF", ".zarr": "zarr"}.get(path.suffix.lower(), "GeoTIFF")
    if path.is_file() and not path.stat().st_size:
        return f"{path}: cannot be read as {kind} (0 bytes); fetch it again"
    reason = getattr(error, "strerror", None) or first_line(error, path)
    return f"{path}: cannot be read as {kind} ({reason.rstrip('.')}); check it, or fetch it again"


def _of_dataset(path: Path, dataset: xr.Dataset) -> MaskFile:
    if "mask" not in dataset:
        names = ", ".join(map(str, dataset.data_vars)) or "none"
        raise ContrailError(f"{path}: has no variable 'mask' (variables: {names}); choose a file of masks")
    mask = dataset["mask"]
    axes = set(map(str, mask.dims))
    if not {"y", "x"} <= axes <= {"time", "y", "x"} or not {"y", "x"} <= set(dataset.variables):
        remedy = "compare stores with contrail-data compare-labels" if "sample" in axes else "choose another file"
        raise ContrailError(f"{path}: its mask has no axes time, y and x ({', '.join(map(str, mask.dims))}); {remedy}")
    crs = _crs_of(path, dataset)
    values = {name: dataset[name].values for name in ("y", "x")}
    times = _times_of(path, dataset)
    pixels = (mask if "time" in axes else mask.expand_dims("time")).transpose("time", "y", "x")

    def read(number: int, rows: slice, columns: slice) -> npt.NDArray[np.float32]:
        return np.asarray(pixels[number, rows, columns].values, np.float32)

    x, y = _axis(path, "x", values["x"], values["y"]), _axis(path, "y", values["y"], values["x"])
    binary = bool(np.issubdtype(mask.encoding.get("dtype", mask.dtype), np.integer)) or mask.dtype == bool
    return _on_grid(path, crs, x, y, times=times, binary=binary, read=read)


def _open_geotiff(path: Path) -> MaskFile:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # refused below, with the reason
        file = rasterio.open(path)
    with file:
        named = [band for band, text in enumerate(file.descriptions, 1) if (text or "").startswith("contrail")]
        band = named[0] if named else 1
        if not named and file.count > 1:
            raise ContrailError(f"{path}: has {file.count} bands, none described as contrail; keep the one of the mask")
        if file.crs is None:
            raise ContrailError(f"{path}: has no coordinate system; save it on the scan's grid or in EPSG:4326")
        transform = file.transform
        if transform.b or transform.d or transform.is_identity:
            raise ContrailError(f"{path}: has no regular grid on a projection; georeference it first")
        tags = file.tags()
        dtype, (height, width) = file.dtypes[band - 1], file.shape
        crs = CRS.from_user_input(file.crs.to_wkt())
        binary = bool(np.issubdtype(dtype, np.integer))
        masked = not (binary and file.nodatavals[band - 1] == 0)  # clear pixels may be declared transparent

    def read(number: int, rows: slice, columns: slice) -> npt.NDArray[np.float32]:
        window = Window.from_slices(rows, columns, height=height, width=width)
        with rasterio.open(path) as file:
            values = file.read(band, window=window, masked=masked, out_dtype=np.float32)
        return np.asarray(values.filled(np.nan) if isinstance(values, np.ma.MaskedArray) else values)

    x = Axis(transform.c + transform.a / 2, transform.a, width)
    y = Axis(transform.f + transform.e / 2, transform.e, height)
    text = tags.get("scan_start") or tags.get("time") or tags.get("TIFFTAG_DATETIME", "").replace(":", "-", 2)
    try:
        time = parse_time(text or None)
    except ValueError as error:
        raise ContrailError(f"{path}: {error}") from None
    times = None if time is None else np.array([time])
    return _on_grid(path, crs, x, y, times=times, binary=binary, read=read)


def _on_grid(path: Path, crs: CRS, x: Axis, y: Axis, *, times: Times | None, binary: bool, read: Read) -> MaskFile:
    """The file with columns from west to east and rows from north to south, on scan angles if it is geostationary."""
    view, view_text, scale = _view(crs, x)
    west_first, north_first = x.step > 0, y.step < 0

    def turned(number: int, rows: slice, columns: slice) -> npt.NDArray[np.float32]:
        rows = rows if north_first else _reversed(rows, y.size)
        columns = columns if west_first else _reversed(columns, x.size)
        return read(number, rows, columns)[:: 1 if north_first else -1, :: 1 if west_first else -1]

    return MaskFile(
        path=path,
        crs=crs,
        view=view,
        view_text=view_text,
        x=_turned(x, scale, west_first, 1),
        y=_turned(y, scale, north_first, -1),
        times=times,
        binary=binary,
        read=turned,
    )


def _reversed(part: slice, size: int) -> slice:
    """The part of an axis that is read in the other direction."""
    first, stop, _ = part.indices(size)
    return slice(size - stop, size - first)


def _turned(axis: Axis, scale: float, in_order: bool, sign: int) -> Axis:
    """The axis in the other direction unless it is in order, divided by the scale."""
    first = axis.first if in_order else axis.first + axis.step * (axis.size - 1)
    return Axis(first / scale, sign * abs(axis.step) / scale, axis.size)


def _times_of(path: Path, dataset: xr.Dataset) -> Times | None:
    """When the scan of each time starts."""
    if "time" not in dataset.variables:
        if dataset.sizes.get("time", 1) > 1:
            raise ContrailError(f"{path}: has several masks, but no times; add a coordinate time")
        return None
    bounds = dataset.get(str(dataset["time"].attrs.get("bounds") or dataset["time"].encoding.get("bounds")))
    times = np.atleast_1d(dataset["time"].values if bounds is None else bounds.values[:, 0])
    if not np.issubdtype(times.dtype, np.datetime64):
        raise ContrailError(
            f"{path}: its times are not dates (units: {dataset['time'].attrs.get('units')}); state them"
        )
    if np.isnat(times).any():
        raise ContrailError(f"{path}: a mask has no time; state it in the coordinate time")
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
        raise ContrailError(f"{path}: its projection is unknown to PROJ ({text[:80]}); correct it") from None


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


def _axis(path: Path, name: str, values: npt.NDArray[Any], others: npt.NDArray[Any]) -> Axis:
    """An axis, from the centres of its pixels; the side of a single one is that of the other axis, as of a square."""
    if values.ndim != 1 or max(values.size, others.size) < 2:
        raise ContrailError(f"{path}: {name} is not an axis of at least 2 pixels; choose another file")
    if values.size == 1:
        side = abs(_axis(path, "the other axis", others, values).step)
        return Axis(float(values[0]), side if name == "x" else -side, 1)
    values = values.astype(np.float64)
    step = float(values[-1] - values[0]) / (len(values) - 1)
    off = np.abs(values - values[0] - step * np.arange(len(values))).max()
    if not off < 0.1 * abs(step):  # float32 leaves less; also refuses NaN
        raise ContrailError(f"{path}: {name} is not evenly spaced; choose a file on a regular grid")
    return Axis(float(values[0]), step, len(values))
