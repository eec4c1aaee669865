"""GOES-R ABI files as NOAA publishes them: names, archives, and their contents as a lazy scene.

L1b radiances (RadF, RadC, RadM1, RadM2), L2 CMIP and MCMIP, scan modes 3, 4 and 6. Brightness temperature is computed
with the file's own Planck constants: T = (fk2 / ln(fk1 / L + 1) - bc1) / bc2 (product users' guide, volume 3, 5.1.3).
Pixels that the data quality flags refuse are NaN, and stay so.
"""

from __future__ import annotations

import io
import re
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
import numpy.typing as npt
import xarray as xr
from isal import isal_zlib
from isal.isal_zlib import IsalError
from xarray.backends import BackendArray
from xarray.core import indexing

from contrail_data.errors import ContrailError
from contrail_data.geo.fixed_grid import FixedGrid, Projection
from contrail_data.scans.abi_files import SAME_SCAN, AbiFile, Scan, find_files, parse_name, scans
from contrail_data.scans.scene import assemble, with_geometry
from contrail_data.storage.place import Place

GOOD = (0, 1)
"""Quality flags that are taken: good, conditionally usable. 2: out of range, 3: no value, 4: focal plane too hot."""
FLAGS = (0, 1, 2, 3, 4)
BLOCK_ROWS = 500
"""About so many rows are a task of `open_abi`."""
_EPOCH = np.datetime64("2000-01-01T12:00:00", "ns")


# --------------------------------------------------------------------------------------------------- what is in a file


@dataclass(frozen=True)
class Contents:
    """What is known of a file without its pixels."""

    grid: FixedGrid
    start: np.datetime64
    end: np.datetime64
    platform: str
    bands: tuple[int, ...]
    chunk: int
    """Rows of the chunks on disk."""


@lru_cache(maxsize=512)
def read_contents(url: str) -> Contents:
    """Raises ContrailError for a file that cannot be read, or is of another instrument."""
    with _opened(url) as file:
        instrument = _text(file.attrs.get("instrument_type", b""))
        if "Advanced Baseline Imager" not in instrument and "goes_imager_projection" not in file:
            raise ContrailError(f"{url}: is of {instrument or 'another instrument'}, not of GOES-R ABI: leave it out")
        mapping = file["goes_imager_projection"].attrs
        longitude, height, equator, pole = (float(np.ravel(mapping[key])[0]) for key in _PROJECTION_KEYS)
        projection = Projection(longitude, height, equator, pole, _text(mapping["sweep_angle_axis"]))
        (x, dx, width), (y, dy, height) = (_axis(file[name]) for name in ("x", "y"))
        parsed = parse_name(url)
        if "time_bounds" in file:
            start, end = (_seconds(float(t)) for t in file["time_bounds"][:2])
        elif parsed is not None:
            start, end = parsed.start, parsed.end
        else:
            raise ContrailError(f"{url}: tells no time: keep NOAA's own file name")
        if "CMI" in file or "Rad" in file:
            bands = [int(np.ravel(file["band_id"][()])[0]) if "band_id" in file else parsed.band if parsed else 0]
        else:
            bands = sorted(int(name[5:]) for name in file if re.fullmatch(r"CMI_C\d\d", name))
        if not bands or not all(7 <= b <= 16 for b in bands if len(bands) == 1):
            raise ContrailError(f"{url}: holds no infrared band (7 to 16): leave it out")
        if parsed is not None and (parsed.band not in (0, *bands) or abs(start - parsed.start) > SAME_SCAN):
            told = f"band {bands[0]} of {np.datetime_as_string(start, 's')}"
            raise ContrailError(f"{url}: holds {told}, which is not what its name says: fetch the file again")
        pixels = file["Rad" if "Rad" in file else "CMI" if "CMI" in file else f"CMI_C{bands[0]:02d}"]
        chunk = int(pixels.chunks[0]) if pixels.chunks else height
        platform = _text(file.attrs.get("platform_ID", b"")) or (f"G{parsed.satellite}" if parsed else "")
    return Contents(FixedGrid(projection, x, y, dx, dy, height, width), start, end, platform, tuple(bands), chunk)


_PROJECTION_KEYS = (
    *("longitude_of_projection_origin", "perspective_point_height"),
    *("semi_major_axis", "semi_minor_axis"),
)


def _seconds(since_2000: float) -> np.datetime64:
    elapsed: Any = np.timedelta64(round(since_2000 * 1e3), "ms")
    moment: np.datetime64 = _EPOCH + elapsed
    return moment


def _text(value: Any) -> str:
    value = np.ravel(value)[0] if np.size(value) else b""
    return value.decode() if isinstance(value, bytes) else str(value)


def _axis(variable: Any) -> tuple[float, float, int]:
    """First value, step and length of a packed coordinate. Its scale is a float32 that means a decimal: 5.6e-05."""
    step, offset = (float(str(np.ravel(variable.attrs[key])[0])) for key in ("scale_factor", "add_offset"))
    packed = variable[:].astype(np.float64)
    strides = np.unique(np.diff(packed)) if len(packed) > 1 else np.ones(1)
    if len(strides) != 1:
        raise ContrailError(f"{variable.file.filename}: {variable.name} is not evenly spaced: restore the file")
    return float(offset + step * packed[0]), float(step * strides[0]), len(packed)


def read_temperature(
    url: str,
    band: int,
    rows: slice,
    columns: slice,
    good: Sequence[int] = GOOD,
    out: npt.NDArray[np.float32] | None = None,
) -> npt.NDArray[np.float32]:
    """Brightness temperature of a window, (rows, columns) float32, kelvin, NaN where there is none; into `out` if
    given.

    Only the chunks of the file that the window touches are read and unpacked, one after the other, so that what they
    become on the way stays in the processor's cache. Raises ContrailError for a file that cannot be read.
    """
    if out is None:
        out = np.empty((rows.stop - rows.start, columns.stop - columns.start), np.float32)
    with _opened(url) as file:
        name, quality = "Rad" if "Rad" in file else "CMI", "DQF"
        if f"CMI_C{band:02d}" in file:
            name, quality = f"CMI_C{band:02d}", f"DQF_C{band:02d}"
        if name not in file:
            raise ContrailError(f"{url}: has no band {band}: choose another file")
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
    """(65536) kelvin by packed value: exact, and many times faster than a logarithm a pixel."""
    with _opened(url) as file:
        attributes = {key: np.ravel(value)[0] for key, value in file[name].attrs.items() if np.size(value)}
        packed = np.arange(65536, dtype=np.float64)
        if _text(attributes.get("_Unsigned", b"false")).lower() != "true":
            packed = packed.astype(np.uint16).view(np.int16).astype(np.float64)
        value = packed * float(attributes["scale_factor"]) + float(attributes["add_offset"])
        if name == "Rad":
            fk1, fk2, bc1, bc2 = (float(file[f"planck_{k}"][()]) for k in ("fk1", "fk2", "bc1", "bc2"))
            with np.errstate(invalid="ignore", divide="ignore"):
                value = (fk2 / np.log(fk1 / value + 1) - bc1) / bc2
            value[~(packed * float(attributes["scale_factor"]) + float(attributes["add_offset"]) > 0)] = np.nan
    value[int(attributes["_FillValue"]) & 0xFFFF] = np.nan
    return value.astype(np.float32)


def _parts(variable: Any, rows: slice, columns: slice) -> Iterator[tuple[tuple[slice, slice], npt.NDArray[Any]]]:
    """Packed pixels of a window, chunk by chunk, with where they belong in it; straight from the chunks' bytes where
    they are deflated in the usual way: outside of the HDF5 library's lock, so that other threads work meanwhile.
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
            if not usual or variable.id.get_chunk_info_by_coord((top, left)).byte_offset is None:  # never written
                yield part, np.ascontiguousarray(variable[r0:r1, c0:c1])
                continue
            mask, packed = variable.id.read_direct_chunk((top, left))
            if mask:  # stored without some filter
                yield part, np.ascontiguousarray(variable[r0:r1, c0:c1])
                continue
            content = np.frombuffer(isal_zlib.decompress(packed), np.uint8)
            if len(codes) == 2 and variable.dtype.itemsize == 2:  # shuffled: all low bytes, then all high ones
                low, high = content.reshape(2, -1)
                chunk = (high.astype(np.uint16) << 8 | low).view(variable.dtype)
            else:
                chunk = content.view(variable.dtype)
            yield part, np.ascontiguousarray(chunk.reshape(deep, wide)[r0 - top : r1 - top, c0 - left : c1 - left])


_files: OrderedDict[tuple[int, str], Any] = OrderedDict()
_lock = threading.Lock()
_MOST_OPEN = 64


@contextmanager
def _opened(url: str) -> Iterator[Any]:
    """The file, kept open for the next time: opening costs more than a window. Errors of the file as one line."""
    key = (threading.get_ident(), url)
    try:
        with _lock:
            file = _files.pop(key, None)
        file = file or h5py.File(_binary(url), "r")
        yield file
    except ContrailError:
        raise
    except (OSError, KeyError, RuntimeError, ValueError, IsalError) as error:  # type: ignore[misc]
        reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        raise ContrailError(f"{url}: cannot be read ({reason}): fetch the file again") from None
    with _lock:
        _files[key] = file
        oldest = _files.popitem(last=False)[1] if len(_files) > _MOST_OPEN else None
    if oldest is not None:
        oldest.close()


def _binary(url: str) -> str | BinaryIO:
    if "://" not in url:
        return url
    folder, _, name = url.rpartition("/")
    return io.BufferedReader(_Ranges(Place(folder), name), 2**18)


class _Ranges(io.RawIOBase):
    """A remote file by ranges, so that a window costs its own chunks and no more."""

    def __init__(self, place: Place, key: str):
        self.place, self.key, self.at = place, key, 0
        size = place.size(key)
        if size is None:
            raise ContrailError(f"{place.file(key)}: is not there: list the archive again")
        self.length = size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = offset + (0, self.at, self.length)[whence]
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, into: Any) -> int:
        wanted = min(len(into), max(self.length - self.at, 0))
        if wanted:
            into[:wanted] = self.place.read_range(self.key, self.at, wanted)
            self.at += wanted
        return wanted


# ----------------------------------------------------------------------------------------------------- as a lazy scene


class _Temperature(BackendArray):
    """(time, band, y, x) of files, read when and where it is indexed."""

    def __init__(self, files: Sequence[Sequence[str | None]], bands: Sequence[int], shape: Any, good: Sequence[int]):
        self.files, self.bands, self.good = files, bands, good
        self.shape = (len(files), len(bands), *shape)
        self.dtype = np.dtype(np.float32)

    def __getitem__(self, key: Any) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._read)

    def _read(self, key: tuple[Any, ...]) -> npt.NDArray[Any]:
        whole = [np.arange(n)[k] for k, n in zip(key, self.shape, strict=True)]
        times, bands, rows, columns = (np.atleast_1d(indexes) for indexes in whole)
        if not rows.size or not columns.size:
            return np.empty([indexes.size for indexes in whole if indexes.ndim], np.float32)
        across = slice(int(rows.min()), int(rows.max()) + 1), slice(int(columns.min()), int(columns.max()) + 1)
        shape = [axis.stop - axis.start for axis in across]
        out = np.empty((len(times), len(bands), *shape), np.float32)
        for i, time in enumerate(times):
            for j, band in enumerate(bands):
                if (url := self.files[time][band]) is not None:
                    read_temperature(url, self.bands[band], *across, self.good, out[i, j])
                else:
                    out[i, j] = np.nan
        if [len(rows), len(columns)] != shape or rows[0] > rows[-1] or columns[0] > columns[-1]:  # strided, reversed
            out = out[:, :, rows - across[0].start][:, :, :, columns - across[1].start]
        return out[tuple(0 if indexes.ndim == 0 else slice(None) for indexes in whole)]


def open_scans(chosen: Sequence[Scan], bands: Sequence[int] | None = None, good: Sequence[int] = GOOD) -> xr.Dataset:
    """Scans of one satellite and scene as a scene (see `contrail_data.scene`) whose pixels are read where they are
    asked for. bands: None for all that some scan has.

    Raises ContrailError for a band that no scan has, scans of different grids, or a file that cannot be read.
    """
    there = sorted({band for scan in chosen for band, file in scan.files.items() if band in bands_of(file)})
    wanted = sorted(bands) if bands is not None else [band for band in there if band >= 7]
    if absent := [band for band in wanted if band not in there]:
        names = ", ".join(f"{band:02d}" for band in there) or "none"
        raise ContrailError(
            f"{_where(chosen)}: no file of band {absent[0]} (there are {names}): fetch it, or take a composite without"
        )
    files = [
        [scan.files[b].url if b in scan.files and b in bands_of(scan.files[b]) else None for b in wanted]
        for scan in chosen
    ]
    contents = [read_contents(url) for row in files for url in row if url is not None]
    grid = contents[0].grid
    if other := [c for c in contents if c.grid != grid]:
        raise ContrailError(
            f"{_where(chosen)}: grids differ ({grid.height} x {grid.width}, {other[0].grid.height} x "
            f"{other[0].grid.width} pixels, or their place): choose files of one scene"
        )
    array = indexing.LazilyIndexedArray(_Temperature(files, wanted, (grid.height, grid.width), good))
    first = chosen[0].files[next(iter(chosen[0].files))]
    return assemble(
        array,
        wanted,
        grid,
        np.array([scan.start for scan in chosen]),
        np.array([scan.end for scan in chosen]),
        {
            "platform": f"GOES-{first.satellite}",
            "instrument": "ABI",
            "scene": first.scene,
            "product": first.product,
            "source": sorted({url.rpartition("/")[2] for row in files for url in row if url is not None}),
        },
    )


def bands_of(file: AbiFile) -> tuple[int, ...]:
    """Of one file: by its name, or, where that does not tell, from its contents."""
    return read_contents(file.url).bands if file.band == 0 else (file.band,)


def _where(chosen: Sequence[Scan]) -> str:
    return str(Path(next(iter(chosen[0].files.values())).url).parent)


def open_abi(
    paths: str | Path | Sequence[str | Path], bands: Sequence[int] | None = None, good: Sequence[int] = GOOD
) -> xr.Dataset:
    """ABI files as one lazy dataset: a folder, a glob, or files of one satellite and scene.

    `brightness_temperature` float32 (time, band, y, x), kelvin, NaN where missing or refused by quality (`good`: the
    flags that are taken), on dask; with the CF grid mapping and lazy `latitude`, `longitude`, `satellite_zenith`
    (y, x), `solar_zenith` (time, y, x), degrees, and `scan_time` (time, y). Nothing is read before it is asked for.
    Raises ContrailError as `find_files`, `scans` and `open_scans` do.
    """
    several = [paths] if isinstance(paths, (str, Path)) else paths
    files = [file for path in several for file in find_files(str(path))]
    if not files:
        raise ContrailError("open_abi: no file is named: give a folder, a glob or files")
    found, replaced = scans(files)
    for line in replaced:
        warnings.warn(line, stacklevel=2)
    scene = open_scans(found, bands, good)
    deep = next(iter({read_contents(file.url).chunk for scan in found for file in scan.files.values()}))
    blocks = {"time": 1, "band": 1, "y": deep * max(1, BLOCK_ROWS // deep), "x": -1}  # no chunk is unpacked twice
    return with_geometry(scene.assign(brightness_temperature=scene["brightness_temperature"].chunk(blocks)))
