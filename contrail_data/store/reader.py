"""Opens sealed stores and reads their pixels, verified against what was sealed."""

import asyncio
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
import xxhash
import zarr.storage
from xarray.core import indexing

from contrail_data.errors import ContrailError
from contrail_data.lazy import recognise_dask_lazily
from contrail_data.sample import check_record_id
from contrail_data.storage.files import first_line
from contrail_data.storage.place import Place, place_of
from contrail_data.store.cache import fetcher
from contrail_data.store.layout import Layout, parse_layout
from contrail_data.store.manifest import (
    Damaged,
    Manifest,
    read_manifest_once,
    read_verified,
    reread,
)
from contrail_data.store.metadata import check_decoded_size, read_metadata
from contrail_data.store.schema import DIMS, GROUP, Kind, checksum_name
from contrail_data.store.shards import ShardReader

recognise_dask_lazily()

PixelReader = Callable[[int, Sequence[int], npt.NDArray[Any]], None]
"""`read(sample, frames, out)`: reads frames of one sample into `out`, see `pixel_reader`."""


def open_store(address: str | Path | Place, *, times: bool = True) -> xr.Dataset:
    """Open a sealed store.

    Args:
        address: Path or URL.
        times: Whether to read and decode `time`. Otherwise only metadata is read, and times stay as stored.

    Returns:
        Named axes of pixels, read lazily by `pixel_reader` and in their stored dtype, and of per-sample variables. The
        attributes hold the composite, the statistics, the digest and, as `path`, the address.

    Raises:
        ContrailError: If there is no store, if it is unfinished or damaged, or if it claims what no store of this
            package has.
    """
    place = address if isinstance(address, Place) else place_of(address)
    group, manifest = read_metadata(place)
    stored: Any = _VerifiedStore(place, group, manifest)
    dataset = _decoded(
        place,
        lambda: xr.open_dataset(
            stored, engine="zarr", chunks=None, consolidated=True, mask_and_scale=False, decode_times=False
        ),
    )
    for name, pixels in ((name, dataset.variables[name]) for name in DIMS if name in dataset.variables):
        reader = SharedReader(place.url, group["attributes"]["digest"], name)
        lazy = indexing.LazilyIndexedArray(_Pixels(reader, pixels))
        dataset[name] = xr.Variable(pixels.dims, lazy, pixels.attrs, pixels.encoding)
    dataset.attrs["path"] = place.url
    if times and "time" in dataset.variables:
        times_only = xr.Dataset({"time": dataset.variables["time"]})
        dataset = dataset.assign_coords(time=_decoded(place, lambda: xr.decode_cf(times_only).load())["time"])
    return dataset


def read_scalars(store: xr.Dataset) -> xr.Dataset:
    """Load the per-sample variables.

    Args:
        store: An open store.

    Returns:
        All variables without pixels, in memory, verified against the manifest.

    Raises:
        ContrailError: If a file is damaged, a record id is not a plain name, or an earlier version resized the samples
            but not their label shift.
    """
    scalars = _decoded(place_of(store.attrs["path"]), store.drop_vars(list(DIMS), errors="ignore").load)
    for record_id in scalars["record_id"].values:
        check_record_id(str(record_id))
    if store.attrs["kind"] == Kind.SAMPLES and any(store.attrs["label_shift"]) and "resized_from" not in store.attrs:
        side = store.sizes.get("y")
        if side is not None and "height" in scalars and (scalars["height"] != side).any():
            raise ContrailError(
                f"{store.attrs['path']}: resized by an earlier version, which kept the label shift of the original "
                "pixels; build it again"
            )
    return scalars


def _decoded(place: Place, read: Callable[[], xr.Dataset]) -> xr.Dataset:
    """Let xarray read from a store.

    Raises:
        ContrailError: If a file is missing or damaged.
    """
    try:
        return read()
    except ContrailError:
        raise
    except Exception as error:  # xarray, zarr and each codec have their own family
        raise ContrailError(f"{place}: not readable as a zarr store ({first_line(error)}); restore the store") from None


class _VerifiedStore(zarr.storage.WrapperStore[Any]):
    """The per-sample variables of a store, whose files are verified before zarr decodes them.

    Args:
        place: Where the store lies.
        group: Its verified `zarr.json`.
        manifest: Its manifest.
    """

    def __init__(self, place: Place, group: Any, manifest: Manifest) -> None:
        super().__init__(zarr.storage.MemoryStore(read_only=True))
        self._place, self._manifest = place, manifest
        self._group = json.dumps(group).encode()
        self._metadata = group["consolidated_metadata"]["metadata"]

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        if key == GROUP:
            return prototype.buffer.from_bytes(self._group)
        if byte_range is not None:
            raise ContrailError(f"{self._place.file(key)}: another layout; restore the store")
        if key not in self._manifest:
            return None  # a chunk of nothing but fill values is not stored
        content = await asyncio.to_thread(read_verified, self._place, key, self._manifest)
        check_decoded_size(self._place.file(key), content, self._metadata[key.partition("/")[0]]["shape"])
        return prototype.buffer.from_bytes(content)


@dataclass(frozen=True)
class SharedReader:
    """A `PixelReader` that can be sent to other processes: each opens the store itself, once for all readers of it."""

    address: str
    """Path or URL of the store."""
    digest: str
    name: str
    """The pixel array."""

    def __call__(self, sample: int, frames: Sequence[int], out: npt.NDArray[Any]) -> None:
        """Read frames of one sample.

        Args:
            sample: Index of the sample.
            frames: Indices of the frames.
            out: Receives them, see `pixel_reader`.
        """
        _reader_of(os.getpid(), self)(sample, frames, out)


@lru_cache(maxsize=32)
def _reader_of(process: int, shared: SharedReader) -> PixelReader:
    """Keep readers of a process, which hold files open, for stores as they are now."""
    return pixel_reader(open_store(shared.address, times=False), shared.name)


def shared_reader(store: xr.Dataset, name: str = "image") -> SharedReader:
    """Return a function that reads frames of one sample, and that other processes can use as well.

    Args:
        store: An open store.
        name: A pixel array.

    Returns:
        The function.
    """
    return SharedReader(store.attrs["path"], store.attrs["digest"], name)


class _Pixels(xr.backends.BackendArray):
    """A pixel array as xarray reads it, frame by frame.

    Args:
        reader: Reads frames of the array.
        variable: The array, with its shape and dtype.
    """

    def __init__(self, reader: SharedReader, variable: xr.Variable) -> None:
        self.shape, self.dtype, self._read_frames = variable.shape, variable.dtype, reader

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._read)

    def _read(self, key: tuple[int | slice, ...]) -> npt.NDArray[Any]:
        axes = 1 + ("time" in DIMS[self._read_frames.name])
        samples, *times = (np.atleast_1d(np.arange(n)[k]) for n, k in zip(self.shape[:axes], key, strict=False))
        frames = times[0].tolist() if times else [0]
        out = np.empty((len(samples), len(frames), *self.shape[axes:]), self.dtype)
        if frames:
            for sample, values in zip(samples.tolist(), out, strict=True):
                self._read_frames(sample, frames, values)
        selected = out if times else out[:, 0]
        within = (slice(None) if isinstance(k, slice) else 0 for k in key[:axes])
        return selected[(*within, *key[axes:])]


def read_layout(store: xr.Dataset, name: str) -> Layout:
    """Read how a pixel array is laid out.

    Args:
        store: An open store.
        name: The array.

    Returns:
        The layout.

    Raises:
        ContrailError: If the array's metadata is missing, damaged, or of a layout that this package does not write.
    """
    place, metadata = place_of(store.attrs["path"]), f"{name}/{GROUP}"
    try:
        content = read_verified(place, metadata, read_manifest_once(place, store.attrs["manifest"]))
        return parse_layout(place, name, content)
    except (Damaged, ValueError):
        raise ContrailError(f"{place.file(metadata)}: missing or damaged; restore the store") from None


def pixel_reader(store: xr.Dataset, name: str = "image", *, check: bool = False, keep: bool = False) -> PixelReader:
    """Return a function that reads frames of one sample.

    The function can be called from many threads. It raises ContrailError, naming the file that cannot be read or the
    sample that is damaged.

    Args:
        store: An open store.
        name: A pixel array. If it has no time axis, its only frame is 0.
        check: Whether to verify every frame against its checksum, as is done for object storage in any case.
        keep: Whether to keep a local copy of each file that is read from object storage.

    Returns:
        `read(sample, frames, out)`, where `out` is C-contiguous, of the stored dtype and of shape (frame, ...).

    Raises:
        ContrailError: If the array's metadata is missing, damaged, or of a layout that this package does not write.
    """
    layout = read_layout(store, name)
    place = layout.place
    read = ShardReader(layout, fetcher(store) if keep and place.remote else None)
    return _checked(read, store, name) if check or (place.remote and not keep) else read


def _checked(read: PixelReader, store: xr.Dataset, name: str) -> PixelReader:
    """Verify what `read` returns against the stored checksums."""
    place = place_of(store.attrs["path"])
    dataset = _decoded(place, store[[checksum_name(name)]].load)
    checksums = dataset[checksum_name(name)].values.reshape(store.sizes["sample"], -1)

    @reread
    def read_checked(place: Place, sample: int, frames: Sequence[int], out: npt.NDArray[Any]) -> None:
        read(sample, frames, out)
        for frame, pixels in zip(frames, out, strict=True):
            if xxhash.xxh3_64_intdigest(pixels.data) != checksums[sample, frame]:
                raise Damaged(f"{place}/{name}: sample {sample}, frame {frame} fails its checksum; verify the store")

    return partial(read_checked, place)
