"""GOES-R ABI files as NOAA publishes them, read as brightness temperature: single windows or a lazy scene.

Supported are L1b radiances (RadF, RadC, RadM1, RadM2), L2 CMIP and MCMIP in scan modes 3, 4 and 6. Brightness
temperature is computed with the Planck constants in the file: T = (fk2 / ln(fk1 / L + 1) - bc1) / bc2 (GOES-R product
users' guide, volume 3, section 5.1.3). Pixels whose data quality flag is not accepted are NaN. Numbers may be stored in
any way that netCDF allows (byte order, width, sign, packing, chunks, filters) and mean what the netCDF4 library reads.
"""

import atexit
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import deflate
import h5py
import numpy as np
import numpy.typing as npt
import xarray as xr
from fsspec.spec import AbstractBufferedFile
from xarray.backends import BackendArray
from xarray.core import indexing

from contrail_data.errors import ContrailError
from contrail_data.geo.fixed_grid import FixedGrid, Projection
from contrail_data.scans.abi_chunks import look_up, stored_parts
from contrail_data.scans.abi_files import (
    SAME_SCAN,
    AbiFile,
    AbiScan,
    attribute_text,
    find_files,
    group_scans,
    require_one_kind,
)
from contrail_data.scans.scene import assemble, remove_impossible, require_bands, with_geometry
from contrail_data.storage.files import first_line, open_regular, reported_errors
from contrail_data.storage.place import Place

GOOD = (0, 1)
"""Accepted data quality flags: 0 good, 1 conditionally usable."""
FLAGS = (0, 1, 2, 3, 4)
"""All flags; 2 is out of range, 3 no value, 4 focal plane too hot."""
FIRE_BAND = 7
"""The band whose radiance is zero on cold clouds at night, and saturates above fires."""
BLOCK_ROWS = 500
"""Approximate number of rows per dask task of `open_abi`."""
# Values that stand for none if a variable states no other, as in netCDF4.default_fillvals.
_NO_VALUE: dict[str, float] = {"i1": -127, "u1": 255, "i2": -32767, "u2": 65535, "i4": -2147483647, "u4": 4294967295}
_NO_VALUE |= {"f4": 9.969209968386869e36, "f8": 9.969209968386869e36}
_TRUNCATED = re.compile(r"truncated file: eof = (\d+),.* stored_eof = (\d+)")
"""What HDF5 says of a file that was not copied in full: the bytes that are there, and that should be."""
_MISSING = ("_FillValue", "missing_value", "valid_range", "valid_min", "valid_max")
_EPOCH: np.datetime64 = np.datetime64("2000-01-01T12:00:00", "ns")


@dataclass(frozen=True)
class Contents:
    """What a file holds, except for its pixels."""

    grid: FixedGrid
    bands: tuple[int, ...]
    chunk: int
    """Rows per chunk on disk."""


@lru_cache(maxsize=512)
def read_contents(file: AbiFile) -> Contents:
    """Read the description of a file.

    Args:
        file: The file.

    Returns:
        The description.

    Raises:
        ContrailError: If the file cannot be read, comes from another instrument, has no infrared band, or holds
            something else than its name says.
    """
    url = file.url
    with _opened(url) as content:
        instrument = attribute_text(content.attrs.get("instrument_type", b""))
        if "Advanced Baseline Imager" not in instrument and "goes_imager_projection" not in content:
            raise ContrailError(f"{url}: comes from {instrument or 'another instrument'}, not GOES-R ABI; leave it out")
        grid = _grid_of(content)
        start, end = file.start, file.end
        if "time_bounds" in content:
            start, end = _EPOCH + np.rint(content["time_bounds"][:] * 1e3).astype("timedelta64[ms]")
        if not start < end or not file.start < file.end:  # NaT too
            raise ContrailError(f"{url}: ends before it starts; fetch the file again")
        if "CMI" in content or "Rad" in content:
            bands = [int(np.ravel(content["band_id"][()])[0]) if "band_id" in content else file.band]
        else:
            bands = sorted(int(name[5:]) for name in content if re.fullmatch(r"CMI_C\d\d", name))
        if not bands or not all(7 <= b <= 16 for b in bands if len(bands) == 1):
            raise ContrailError(f"{url}: contains no infrared band (7 to 16); leave it out")
        if file.band not in (0, *bands) or abs(start - file.start) > SAME_SCAN:
            contents = f"band {bands[0]} at {np.datetime_as_string(start, 's')}"
            raise ContrailError(f"{url}: contains {contents}, contrary to its name; fetch the file again")
        pixels = content["Rad" if "Rad" in content else "CMI" if "CMI" in content else f"CMI_C{bands[0]:02d}"]
        if pixels.shape != (grid.height, grid.width):
            shapes = f"{pixels.shape} pixels on a grid of {grid.height, grid.width}"
            raise ContrailError(f"{url}: contains {shapes}; fetch the file again")
        chunk = int(pixels.chunks[0]) if pixels.chunks else grid.height
    return Contents(grid, tuple(bands), chunk)


def _grid_of(content: Any) -> FixedGrid:
    projection = Projection.from_cf(content["goes_imager_projection"].attrs)
    (x, dx, width), (y, dy, height) = (_axis(content[name]) for name in ("x", "y"))
    return FixedGrid(projection, x, y, dx, dy, height, width)


def _axis(variable: Any) -> tuple[float, float, int]:
    """Read first value, step and length of a coordinate; the float32 scale of a packed one stands for a decimal."""
    scale, offset = (
        float(str(np.ravel(variable.attrs[key])[0])) if key in variable.attrs else default
        for key, default in (("scale_factor", 1.0), ("add_offset", 0.0))
    )
    stored = _unsigned(variable[:], variable.attrs).astype(np.float64)
    step = (stored[-1] - stored[0]) / (len(stored) - 1) if len(stored) > 1 else 1.0
    # Whole numbers are even exactly, and float32 angles to a few thousandths of a pixel.
    tolerance = 0.0 if variable.dtype.kind in "iu" else 0.01
    if step == 0 or not (np.abs(np.diff(stored) - step) <= tolerance * abs(step)).all():
        raise ContrailError(f"{variable.file.filename}: {variable.name} is not evenly spaced; fetch the file again")
    return float(offset + scale * stored[0]), float(scale * step), len(stored)


def read_temperature(
    url: str,
    band: int,
    rows: slice,
    columns: slice,
    good: Sequence[int] = GOOD,
    out: npt.NDArray[np.float32] | None = None,
) -> npt.NDArray[np.float32]:
    """Read brightness temperature of a window.

    Only the chunks that the window touches are read. They are unpacked one after the other, so that intermediate
    results stay in the processor's cache.

    Args:
        url: Path or URL of the file.
        band: ABI band.
        rows: Rows of the window, with start and stop.
        columns: Columns of the window.
        good: Accepted data quality flags.
        out: Where to put the result; None allocates it.

    Returns:
        (rows, columns) float32, kelvin, NaN where missing.

    Raises:
        ContrailError: If the file cannot be read, lacks the band, or holds something else than temperatures.
    """
    if out is None:
        out = np.empty((rows.stop - rows.start, columns.stop - columns.start), np.float32)
    with _opened(url) as file:
        name, quality = "Rad" if "Rad" in file else "CMI", "DQF"
        if f"CMI_C{band:02d}" in file:
            name, quality = f"CMI_C{band:02d}", f"DQF_C{band:02d}"
        if name not in file:
            raise ContrailError(f"{url}: has no band {band}; choose another file")
        table = _table(url, name) if file[name].dtype.kind in "iu" and file[name].dtype.itemsize <= 2 else None
        for part, stored in stored_parts(file[name], rows, columns):
            if table is None:
                out[part] = _kelvin(file, name, stored)
            else:
                look_up(table, stored.view(f"u{stored.itemsize}"), out[part])
        refused = np.array([flag not in good for flag in range(256)])
        if quality in file and refused[: len(FLAGS)].any():
            for part, flags in stored_parts(file[quality], rows, columns):
                if flags.any() or refused[0]:
                    indices = flags.view(np.uint8) if flags.itemsize == 1 else np.clip(flags, -1, 255).astype(np.uint8)
                    np.copyto(out[part], np.nan, where=refused[indices])
        if band != FIRE_BAND:
            remove_impossible(out, lambda: _grid_of(file), rows, columns, url)
    return out


@lru_cache(maxsize=64)
def _table(url: str, name: str) -> npt.NDArray[np.float32]:
    """Return kelvin by stored value, seen as unsigned: exact, and many times faster than a logarithm per pixel."""
    with _opened(url) as file:
        dtype = file[name].dtype.newbyteorder("=")
        return _kelvin(file, name, np.arange(256**dtype.itemsize, dtype=f"u{dtype.itemsize}").view(dtype))


def _kelvin(file: Any, name: str, stored: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Convert stored values, in native byte order, to float32 kelvin; radiances that no temperature has become 0 K."""
    attributes = file[name].attrs
    stated = {key: _as_stored(attributes[key], stored.dtype) for key in _MISSING if key in attributes}
    limits: Sequence[Any] = list(stated.get("valid_range", ()))
    if len(limits) != 2:
        limits = [[*stated.get(f"valid_{end}", ()), None][0] for end in ("min", "max")]
    missing = np.zeros(stored.shape, bool)
    for fill in (*stated.get("_FillValue", ()), *stated.get("missing_value", ())):
        missing |= stored == fill
    stored = _unsigned(stored, attributes)
    if "_FillValue" not in attributes:
        missing |= stored == _NO_VALUE.get(file[name].dtype.str[1:], np.nan)
    for limit, beyond in zip(limits, (np.less, np.greater), strict=True):
        if limit is not None:
            missing |= beyond(stored, _unsigned(limit, attributes))
    scale, offset = (
        float(np.ravel(attributes[key])[0]) if key in attributes else default
        for key, default in (("scale_factor", 1.0), ("add_offset", 0.0))
    )
    value = stored.astype(np.float64) * scale + offset
    if name == "Rad":
        fk1, fk2, bc1, bc2 = (float(np.ravel(file[f"planck_{k}"][()])[0]) for k in ("fk1", "fk2", "bc1", "bc2"))
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            value = np.where(value <= 0, 0, (fk2 / np.log(fk1 / value + 1) - bc1) / bc2)
    return np.where(missing, np.nan, value).astype(np.float32)


def _as_stored(attribute: Any, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return the values of an attribute that a variable of some type can hold, signed or unsigned, in that type."""
    values = np.ravel(attribute)
    if dtype.kind == "f":
        return values.astype(dtype)
    count = 256**dtype.itemsize
    whole = [int(v) for v in values if np.isfinite(v) and v == int(v) and -count // 2 <= v < count]
    return np.array([v % count for v in whole], f"u{dtype.itemsize}").view(dtype)


def _unsigned(stored: Any, attributes: Any) -> Any:
    """Return values as unsigned ones in native byte order, if the attribute `_Unsigned` says so."""
    stored = np.asarray(stored, stored.dtype.newbyteorder("="))
    if stored.dtype.kind == "i" and attribute_text(attributes.get("_Unsigned", b"")).lower() == "true":
        return stored.view(f"u{stored.itemsize}")
    return stored


@lru_cache(maxsize=64)
def _file(url: str) -> Any:
    """Open a file and keep it open for the next call, as opening takes longer than reading a window."""
    if "://" in url:
        return h5py.File(_RemoteFile(url), "r")
    with reported_errors(url, "read"):
        open_regular(url).close()
    return h5py.File(url, "r")


@atexit.register
def _close_remote_files() -> None:
    """Close every remote file, whoever still holds it: HDF5 crashes where it does so after the end of Python."""
    in_files = h5py.h5f.OBJ_ALL & ~h5py.h5f.OBJ_DATATYPE
    for identifier in h5py.h5f.get_obj_ids(types=in_files):
        if identifier.valid and (file := h5py.File(h5py.h5i.get_file_id(identifier))).driver == "fileobj":
            file.close()


@contextmanager
def _opened(url: str) -> Iterator[Any]:
    """Yield an open file, and report what goes wrong with it."""
    try:
        yield _file(url)
    except ContrailError:
        _file.cache_clear()  # a file that is fetched again is opened again
        raise
    except (OSError, KeyError, RuntimeError, TypeError, ValueError, deflate.DeflateError) as error:
        _file.cache_clear()
        reason = "missing" if isinstance(error, FileNotFoundError) else first_line(error)[:100]
        if sizes := _TRUNCATED.search(str(error)):
            reason = "truncated: {:,} of {:,} bytes".format(*map(int, sizes.groups()))
        raise ContrailError(f"{url}: cannot be read ({reason}); fetch the file again") from None


class _RemoteFile(AbstractBufferedFile):
    """A file on object storage that is read in ranges, so that only the chunks of a window are transferred.

    Args:
        url: URL of the file.

    Raises:
        ContrailError: If the file does not exist.
    """

    def __init__(self, url: str):
        folder, _, self.key = url.rpartition("/")
        self.place = Place(folder)
        size = self.place.size(self.key)
        if size is None:
            raise ContrailError(f"{url}: does not exist any more; list the archive again")
        super().__init__(None, url, block_size=2**18, size=size)

    def _fetch_range(self, start: int, end: int) -> bytes:
        return bytes(self.place.read_range(self.key, start, end - start))


class _Temperature(BackendArray):
    """Array (time, band, y, x) backed by files; indexing it reads the window.

    Args:
        files: File of each band at each time; None if there is none.
        bands: ABI band numbers.
        shape: Rows and columns.
        good: Accepted data quality flags.
    """

    def __init__(self, files: Sequence[list[AbiFile | None]], bands: Sequence[int], shape: Any, good: Sequence[int]):
        self.files, self.bands, self.good = files, bands, good
        self.shape = (len(files), len(bands), *shape)
        self.dtype = np.dtype(np.float32)

    def __getitem__(self, key: Any) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._read)

    def _read(self, key: tuple[Any, ...]) -> npt.NDArray[Any]:
        positions = [np.arange(n)[k] for k, n in zip(key, self.shape, strict=True)]
        times, bands, rows, columns = (np.atleast_1d(indices) for indices in positions)
        if not rows.size or not columns.size:
            return np.empty([indices.size for indices in positions if indices.ndim], np.float32)
        window = slice(int(rows.min()), int(rows.max()) + 1), slice(int(columns.min()), int(columns.max()) + 1)
        shape = [axis.stop - axis.start for axis in window]
        out = np.empty((len(times), len(bands), *shape), np.float32)
        for i, time in enumerate(times):
            for j, band in enumerate(bands):
                if (file := self.files[time][band]) is not None:
                    read_temperature(file.url, self.bands[band], *window, self.good, out[i, j])
                else:
                    out[i, j] = np.nan
        if [rows.size, columns.size] != shape or rows[0] > rows[-1] or columns[0] > columns[-1]:
            out = out[:, :, rows - window[0].start][:, :, :, columns - window[1].start]
        return out[tuple(slice(None) if indices.ndim else 0 for indices in positions)]


def open_abi_scans(
    scans: Sequence[AbiScan], bands: Sequence[int] | None = None, good: Sequence[int] = GOOD
) -> xr.Dataset:
    """Open scans of one satellite and scene as a scene (see `contrail_data.scans.scene`) that is read on demand.

    Args:
        scans: The scans.
        bands: ABI bands; None opens all infrared bands that some scan has.
        good: Accepted data quality flags.

    Returns:
        The scene.

    Raises:
        ContrailError: If no scan has a band, grids differ, or a file cannot be read.
    """
    first = next(iter(scans[0].files.values()))
    folder = str(Path(first.url).parent)
    available = sorted({band for scan in scans for band, file in scan.files.items() if band in bands_of(file)})
    bands = sorted(bands) if bands is not None else [band for band in available if band >= 7]
    require_bands(folder, bands, available)
    rows = [[f if (f := scan.files.get(b)) and b in bands_of(f) else None for b in bands] for scan in scans]
    files = [file for row in rows for file in row if file is not None]
    grid = read_contents(files[0]).grid
    if other := [differing for file in files if (differing := read_contents(file).grid) != grid]:
        sizes = f"{grid.height} x {grid.width}, {other[0].height} x {other[0].width} pixels"
        raise ContrailError(f"{folder}: grids differ ({sizes}, or their position); choose files of one scene")
    array = indexing.LazilyIndexedArray(_Temperature(rows, bands, (grid.height, grid.width), good))
    attributes = {
        "platform": f"GOES-{first.satellite}",
        "instrument": "ABI",
        "scene": first.scene,
        "product": first.product,
        "source": sorted({file.name for file in files}),
    }
    return assemble(array, bands, grid, [(scan.start, scan.end) for scan in scans], attributes)


def bands_of(file: AbiFile) -> tuple[int, ...]:
    """Return the bands of a file, from its name if that states one, otherwise from its contents.

    Args:
        file: The file.

    Returns:
        ABI band numbers.
    """
    return read_contents(file).bands if file.band == 0 else (file.band,)


def open_abi(
    paths: str | Path | Sequence[str | Path],
    bands: Sequence[int] | None = None,
    good: Sequence[int] = GOOD,
    *,
    dask: bool = True,
) -> xr.Dataset:
    """Open ABI files of one satellite and scene as a lazy dataset.

    Args:
        paths: A folder, a glob or files.
        bands: ABI bands; None opens all infrared bands.
        good: Accepted data quality flags.
        dask: Whether brightness temperature is a dask array. Otherwise it is read from the files where it is used, and
            `composite_of` computes at once, in less time and memory.

    Returns:
        A scene (see `contrail_data.scans.scene`) with the coordinates that `with_geometry` adds.

    Raises:
        ContrailError: If there are no files, they do not belong together, or one cannot be read.

    Examples:
        >>> import contrail_data
        >>> scans = contrail_data.open_abi("data/abi")
        >>> coldest = scans.brightness_temperature.sel(band=14).min()
        >>> scans.brightness_temperature.dims, bool(180 < coldest < 300)
        (('time', 'band', 'y', 'x'), True)
    """
    patterns = [paths] if isinstance(paths, (str, Path)) else paths
    files = [file for pattern in patterns for file in find_files(str(pattern))]
    if not files:
        raise ContrailError("open_abi: no file is named; give a folder, a glob or files")
    require_one_kind(files)
    scans, notes = group_scans(files)
    for note in notes:
        warnings.warn(note, stacklevel=2)
    scene = open_abi_scans(scans, bands, good)
    chunk_rows = read_contents(files[0]).chunk
    # Blocks are multiples of chunks, so that no chunk is unpacked twice.
    block_rows = chunk_rows * max(1, BLOCK_ROWS // chunk_rows)
    kelvin = scene["brightness_temperature"]
    if dask:
        kelvin = kelvin.chunk(time=1, band=1, y=block_rows, x=-1)
    kelvin.encoding["preferred_chunks"] = {"y": chunk_rows}
    return with_geometry(scene.assign(brightness_temperature=kelvin), block_rows)
