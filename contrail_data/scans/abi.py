"""GOES-R ABI files as NOAA publishes them, read as brightness temperature: single windows or a lazy scene.

Supported are L1b radiances (RadF, RadC, RadM1, RadM2), L2 CMIP and MCMIP in scan modes 3, 4 and 6. Brightness
temperature is computed with the Planck constants in the file: T = (fk2 / ln(fk1 / L + 1) - bc1) / bc2 (GOES-R product
users' guide, volume 3, section 5.1.3). Pixels whose data quality flag is not accepted are NaN.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import xarray as xr
from fsspec.spec import AbstractBufferedFile
from isal import isal_zlib
from isal.isal_zlib import IsalError
from xarray.backends import BackendArray
from xarray.core import indexing

from contrail_data.errors import ContrailError
from contrail_data.geo.fixed_grid import FixedGrid, Projection
from contrail_data.scans.abi_files import SAME_SCAN, AbiFile, AbiScan, find_files, group_scans
from contrail_data.scans.scene import assemble, require_bands, with_geometry
from contrail_data.storage.files import first_line
from contrail_data.storage.place import Place

GOOD = (0, 1)
"""Accepted data quality flags: 0 good, 1 conditionally usable."""
FLAGS = (0, 1, 2, 3, 4)
"""All flags; 2 is out of range, 3 no value, 4 focal plane too hot."""
BLOCK_ROWS = 500
"""Approximate number of rows per dask task of `open_abi`."""
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
        instrument = _text(content.attrs.get("instrument_type", b""))
        if "Advanced Baseline Imager" not in instrument and "goes_imager_projection" not in content:
            raise ContrailError(f"{url}: comes from {instrument or 'another instrument'}, not GOES-R ABI; leave it out")
        projection = Projection.from_cf(content["goes_imager_projection"].attrs)
        (x, dx, width), (y, dy, height) = (_axis(content[name]) for name in ("x", "y"))
        start = file.start
        if "time_bounds" in content:
            start = _EPOCH + np.timedelta64(round(float(content["time_bounds"][0]) * 1e3), "ms")
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
        chunk = int(pixels.chunks[0]) if pixels.chunks else height
    return Contents(FixedGrid(projection, x, y, dx, dy, height, width), tuple(bands), chunk)


def _text(value: Any) -> str:
    value = np.ravel(value)[0] if np.size(value) else b""
    return value.decode() if isinstance(value, bytes) else str(value)


def _axis(variable: Any) -> tuple[float, float, int]:
    """Read first value, step and length of a packed coordinate, whose float32 scale stands for a decimal."""
    step, offset = (float(str(np.ravel(variable.attrs[key])[0])) for key in ("scale_factor", "add_offset"))
    packed = variable[:].astype(np.float64)
    strides = np.unique(np.diff(packed)) if len(packed) > 1 else np.ones(1)
    if len(strides) != 1:
        raise ContrailError(f"{variable.file.filename}: {variable.name} is not evenly spaced; fetch the file again")
    return float(offset + step * packed[0]), float(step * strides[0]), len(packed)


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
        ContrailError: If the file cannot be read or lacks the band.
    """
    if out is None:
        out = np.empty((rows.stop - rows.start, columns.stop - columns.start), np.float32)
    with _opened(url) as file:
        name, quality = "Rad" if "Rad" in file else "CMI", "DQF"
        if f"CMI_C{band:02d}" in file:
            name, quality = f"CMI_C{band:02d}", f"DQF_C{band:02d}"
        if name not in file:
            raise ContrailError(f"{url}: has no band {band}; choose another file")
        table = _table(url, name)
        for part, packed in _parts(file[name], rows, columns):
            np.take(table, packed.view(np.uint16), out=out[part], mode="clip")
        refused = [flag not in good for flag in range(256)]
        if quality in file and any(refused[: len(FLAGS)]):
            for part, flags in _parts(file[quality], rows, columns):
                if flags.any() or refused[0]:
                    np.copyto(out[part], np.nan, where=np.array(refused)[flags.view(np.uint8)])
    return out


@lru_cache(maxsize=64)
def _table(url: str, name: str) -> npt.NDArray[np.float32]:
    """Return kelvin by packed value, (65536): exact, and many times faster than a logarithm per pixel."""
    with _opened(url) as file:
        attributes = {key: np.ravel(value)[0] for key, value in file[name].attrs.items() if np.size(value)}
        packed = np.arange(65536, dtype=np.float64)
        if _text(attributes.get("_Unsigned", b"false")).lower() != "true":
            packed = packed.astype(np.uint16).view(np.int16).astype(np.float64)
        value = packed * float(attributes["scale_factor"]) + float(attributes["add_offset"])
        if name == "Rad":
            positive = value > 0
            fk1, fk2, bc1, bc2 = (float(file[f"planck_{k}"][()]) for k in ("fk1", "fk2", "bc1", "bc2"))
            with np.errstate(invalid="ignore", divide="ignore"):
                value = (fk2 / np.log(fk1 / value + 1) - bc1) / bc2
            value[~positive] = np.nan
    value[int(attributes["_FillValue"]) & 0xFFFF] = np.nan
    return value.astype(np.float32)


def _parts(variable: Any, rows: slice, columns: slice) -> Iterator[tuple[tuple[slice, slice], npt.NDArray[Any]]]:
    """Yield the packed pixels of a window chunk by chunk, each with its place in the window.

    Chunks that are compressed in the usual way are decompressed here, outside of the HDF5 library's global lock, so
    that other threads can work meanwhile.
    """
    pipeline = variable.id.get_create_plist()
    codes = [pipeline.get_filter(i)[0] for i in range(pipeline.get_nfilters())]
    usual = codes in ([h5py.h5z.FILTER_DEFLATE], [h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE])
    deep, wide = variable.chunks or (rows.stop - rows.start, columns.stop - columns.start)
    for top in range(rows.start // deep * deep, rows.stop, deep):
        for left in range(columns.start // wide * wide, columns.stop, wide):
            r0, r1 = max(rows.start, top), min(rows.stop, top + deep)
            c0, c1 = max(columns.start, left), min(columns.stop, left + wide)
            part = slice(r0 - rows.start, r1 - rows.start), slice(c0 - columns.start, c1 - columns.start)
            filter_mask, packed = 1, b""
            if usual and variable.id.get_chunk_info_by_coord((top, left)).byte_offset is not None:
                filter_mask, packed = variable.id.read_direct_chunk((top, left))
            if filter_mask:  # a chunk with other filters, or one that was never written
                yield part, np.ascontiguousarray(variable[r0:r1, c0:c1])
                continue
            content = np.frombuffer(isal_zlib.decompress(packed), np.uint8)
            if len(codes) == 2 and variable.dtype.itemsize == 2:  # shuffled: all low bytes come first
                low, high = content.reshape(2, -1)
                chunk = (high.astype(np.uint16) << 8 | low).view(variable.dtype)
            else:
                chunk = content.view(variable.dtype)
            yield part, np.ascontiguousarray(chunk.reshape(deep, wide)[r0 - top : r1 - top, c0 - left : c1 - left])


@lru_cache(maxsize=64)
def _file(url: str) -> Any:
    """Open a file and keep it open for the next call, as opening takes longer than reading a window."""
    return h5py.File(_RemoteFile(url) if "://" in url else url, "r")


@contextmanager
def _opened(url: str) -> Iterator[Any]:
    """Yield an open file, and report what goes wrong with it."""
    try:
        yield _file(url)
    except ContrailError:
        _file.cache_clear()  # a file that is fetched again is opened again
        raise
    except (OSError, KeyError, RuntimeError, ValueError, IsalError) as error:  # type: ignore[misc]
        _file.cache_clear()
        raise ContrailError(f"{url}: cannot be read ({first_line(error)[:100]}); fetch the file again") from None


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
        out = np.full((len(times), len(bands), *shape), np.nan, np.float32)
        for i, time in enumerate(times):
            for j, band in enumerate(bands):
                if (file := self.files[time][band]) is not None:
                    read_temperature(file.url, self.bands[band], *window, self.good, out[i, j])
        out = out[:, :, rows - window[0].start][:, :, :, columns - window[1].start]  # for strides and reversed axes
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
    paths: str | Path | Sequence[str | Path], bands: Sequence[int] | None = None, good: Sequence[int] = GOOD
) -> xr.Dataset:
    """Open ABI files of one satellite and scene as a lazy dataset.

    Args:
        paths: A folder, a glob or files.
        bands: ABI bands; None opens all infrared bands.
        good: Accepted data quality flags.

    Returns:
        A scene (see `contrail_data.scans.scene`) on dask arrays, with the coordinates that `with_geometry` adds.

    Raises:
        ContrailError: If there are no files, they do not belong together, or one cannot be read.
    """
    patterns = [paths] if isinstance(paths, (str, Path)) else paths
    files = [file for pattern in patterns for file in find_files(str(pattern))]
    if not files:
        raise ContrailError("open_abi: no file is named; give a folder, a glob or files")
    scans, notes = group_scans(files)
    for note in notes:
        warnings.warn(note, stacklevel=2)
    scene = open_abi_scans(scans, bands, good)
    chunk_rows = read_contents(files[0]).chunk
    # Blocks are multiples of chunks, so that no chunk is unpacked twice.
    blocks = {"time": 1, "band": 1, "y": chunk_rows * max(1, BLOCK_ROWS // chunk_rows), "x": -1}
    return with_geometry(scene.assign(brightness_temperature=scene["brightness_temperature"].chunk(blocks)))
