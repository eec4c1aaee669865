"""Plain zarr v3 chunk bytes, written and read where the format says they lie.

zarr-python spends its time per chunk (event loop, codec pipeline), not per byte, so the two hot paths, samples into
a store and one sample's frames out of it, go straight to the bytes. What is supported is exact and small:
little-endian arrays whose first axis is the sample and whose chunks hold one sample, all of every axis after the
second, as one chunk a file or as a shard of samples (https://zarr-specs.readthedocs.io/en/latest/v3/codecs/
sharding-indexed/), with no compressor, blosc or zstd. Anything else is read through zarr itself.
"""

from __future__ import annotations

import json
import math
import mmap
import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numcodecs
import numcodecs.blosc
import numpy as np
import numpy.typing as npt
import xxhash
from google_crc32c import value as crc32c

from contrail_data.errors import ContrailError
from contrail_data.storage.place import Part, Place, Write
from contrail_data.store.schema import Codec

# One thread per call: the caller has threads of its own, and threaded blosc orders its blocks by chance.
numcodecs.blosc.use_threads = False

CODECS: dict[Codec, dict[str, Any] | None] = {
    Codec.NONE: None,
    Codec.LZ4: {
        "name": "blosc",
        "configuration": {"cname": "lz4", "clevel": 5, "shuffle": "bitshuffle", "typesize": 1, "blocksize": 0},
    },
    Codec.ZSTD: {"name": "zstd", "configuration": {"level": 3, "checksum": False}},
}
"""Compressors a store may be written with, as zarr v3 codec declarations."""

_ABSENT = 2**64 - 1
MOST_BYTES = 2**30
"""Of one chunk, decoded: what claims more is no frame, and no memory is taken for it."""


def compressor(declaration: dict[str, Any] | None) -> Any:
    """The numcodecs codec of a zarr v3 declaration. Raises KeyError for one that is not supported."""
    if declaration is None:
        return None
    settings = declaration.get("configuration", {})
    if declaration["name"] == "zstd":
        return numcodecs.Zstd(level=settings["level"], checksum=settings.get("checksum", False))
    if declaration["name"] == "blosc":
        shuffle = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}[settings["shuffle"]]
        return numcodecs.Blosc(
            cname=settings["cname"],
            clevel=settings["clevel"],
            shuffle=shuffle,
            blocksize=settings.get("blocksize", 0),
            typesize=settings.get("typesize"),
        )
    raise KeyError(declaration["name"])


@dataclass(frozen=True)
class Layout:
    """Where an array's chunks lie: parsed from its `zarr.json`."""

    place: Place
    """The store's."""
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    separator: str
    samples_per_file: int
    unit_shape: tuple[int, ...]
    """One inner chunk without the sample axis."""
    codec: dict[str, Any] | None
    sharded: bool

    @cached_property
    def units(self) -> int:
        """Inner chunks a sample."""
        return self.shape[1] // self.unit_shape[0]

    @cached_property
    def unit_bytes(self) -> int:
        return int(np.prod(self.unit_shape)) * self.dtype.itemsize

    @cached_property
    def compressor(self) -> Any:
        return compressor(self.codec)

    @property
    def files(self) -> int:
        return -(-self.shape[0] // self.samples_per_file)

    def key(self, file: int) -> str:
        """A file's key in the store."""
        rest = f"{self.separator}0" * (len(self.shape) - 1)
        return f"{self.name}/c{self.separator}{file}{rest}"


def parse_layout(place: Place, name: str) -> Layout | None:
    """The layout of one of a store's zarr v3 arrays, or None when only zarr itself can read it.

    Raises FileNotFoundError when there is no `zarr.json`, ValueError when it is no JSON.
    """
    meta = json.loads(place.read(f"{name}/zarr.json"))
    try:
        shape = tuple(meta["shape"])
        outer = tuple(meta["chunk_grid"]["configuration"]["chunk_shape"])
        key_encoding = meta["chunk_key_encoding"]
        codecs = meta["codecs"]
        sharded = codecs[0]["name"] == "sharding_indexed"
        inner = outer
        if sharded:
            settings = codecs[0]["configuration"]
            index = [c["name"] for c in settings["index_codecs"]]
            if len(codecs) != 1 or index != ["bytes", "crc32c"] or settings.get("index_location", "end") != "end":
                return None
            inner, codecs = tuple(settings["chunk_shape"]), settings["codecs"]
        endian = codecs[0].get("configuration", {}).get("endian", "little")
        layout = Layout(
            place,
            name,
            shape,
            np.dtype(meta["data_type"]).newbyteorder("<"),
            key_encoding.get("configuration", {}).get("separator", "/"),
            outer[0],
            inner[1:],
            codecs[1] if len(codecs) == 2 else None,
            sharded,
        )
        known = (
            meta["chunk_grid"]["name"] == "regular"
            and key_encoding["name"] == "default"
            and layout.separator in (".", "/")
            and codecs[0]["name"] == "bytes"
            and endian == "little"
            and len(codecs) <= 2
            and len(shape) >= 2
            and all(type(n) is int and n > 0 for n in (*shape, *outer, *inner))
            and inner[0] == 1
            and outer[1:] == shape[1:]
            and inner[2:] == shape[2:]
            and shape[1] % inner[1] == 0
            and (sharded or outer[0] == 1)
            and layout.dtype.kind in "uif"
            and layout.unit_bytes <= MOST_BYTES
            and layout.samples_per_file * layout.units <= MOST_BYTES // 16
        )
        compressor(layout.codec)
        return layout if known else None
    except (KeyError, TypeError, IndexError, ValueError, AttributeError):
        return None


class ShardWriter:
    """One file of an array under way: samples in order of their position, the index at the end."""

    def __init__(self, layout: Layout, write: Write) -> None:
        self._layout, self._write = layout, write
        self._index = np.full((layout.samples_per_file, layout.units, 2), _ABSENT, "<u8")
        self._checksum, self._bytes = xxhash.xxh3_64(), 0

    def add(self, position: int, data: npt.NDArray[Any]) -> list[int]:
        """Write one sample, (units, *unit_shape) or that without a leading 1, at a position of the file.

        Returns xxh3 (64 bits) of each unit as it decodes.
        """
        layout = self._layout
        units = np.ascontiguousarray(data, layout.dtype).reshape(layout.units, *layout.unit_shape)
        codec = layout.compressor
        if codec is None:
            # In one piece: the kernel then keeps it in large pages, which read faster.
            starts = self._bytes + np.arange(layout.units, dtype=np.uint64) * np.uint64(layout.unit_bytes)
            self._index[position] = np.stack([starts, np.full_like(starts, layout.unit_bytes)], -1)
            self._out(units.data.cast("B"))
        else:
            self._put(position, [codec.encode(unit) for unit in units])
        return [xxhash.xxh3_64_intdigest(unit.data) for unit in units]

    def add_stored(self, position: int, parts: Sequence[Part]) -> None:
        """The same for a sample's units as another file holds them."""
        self._put(position, parts)

    def _put(self, position: int, parts: Sequence[Part]) -> None:
        for unit, part in enumerate(parts):
            self._index[position, unit] = self._bytes, len(part)
            self._out(part)

    def finish(self) -> tuple[str, int]:
        """(xxh3 checksum, bytes) of the whole file."""
        if self._layout.sharded:
            index = self._index.tobytes()
            self._out(index)
            self._out(crc32c(index).to_bytes(4, "little"))
        return self._checksum.hexdigest(), self._bytes

    def _out(self, part: Part) -> None:
        self._write(part)
        self._checksum.update(part)
        self._bytes += len(part)


@contextmanager
def writing_shards(layouts: dict[str, Layout], file: int) -> Iterator[dict[str, ShardWriter]]:
    """Writers of one file of each array; the files appear when the block ends without an error."""
    with ExitStack() as stack:
        yield {
            name: ShardWriter(layout, stack.enter_context(layout.place.writing(layout.key(file))))
            for name, layout in layouts.items()
        }


class _File:
    """An open file of an array: its parsed index, and its pages as memory once they are known to be there."""

    __slots__ = ("index", "key", "mapped", "size", "starts", "touched")

    def __init__(self, key: str, size: int, index: array[int], starts: list[int], units: int) -> None:
        self.key, self.size, self.index, self.starts = key, size, index, starts
        self.touched = bytearray(units)
        """By unit: 1 once it was read."""
        self.mapped: npt.NDArray[np.uint8] | None = None


class Reader:
    """Reads the frames of one array. Thread-safe without locks: a file's entry is set whole, or not at all.

    Files stay open, as far as the process may have them, and their indexes parsed, since a store never changes. A unit
    is read by a system call the first time, which is what is fast from a disk, and from mapped pages from then on,
    which is as fast as memory is however the kernel keeps the pages; an array that would not fit into half of the
    memory is never mapped. A file that has changed its size is an error, mapped or not; a disk that fails under mapped
    pages ends the process, as it does for np.memmap. A forked process may go on with what its parent opened.

    `fetch(key)`, for a store on object storage, gives the path of a local copy of a file to read instead.
    """

    def __init__(self, layout: Layout, fetch: Callable[[str], str] | None = None) -> None:
        self.layout = layout
        self._fetch = fetch
        self._local = fetch is not None or not layout.place.remote
        self._files: dict[int, _File] = {}
        self._handles: dict[int, int] = {}
        self._keep = _files_to_keep() if self._local else 0
        bytes_of_all = math.prod(layout.shape) * layout.dtype.itemsize
        self._map = bytes_of_all < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2

    def __del__(self) -> None:
        for handle in self._handles.values():
            os.close(handle)

    def __call__(self, sample: int, units: Sequence[int], out: npt.NDArray[Any]) -> None:
        """Read inner chunks (frames, where a chunk is a frame) of one sample into `out`.

        `out` is C-contiguous, (len(units), *unit_shape), of the layout's dtype. Raises ContrailError naming the file
        when it is missing, cut short or does not decode; IndexError for a sample or frame that is not there.
        """
        layout = self.layout
        number, position = divmod(sample, layout.samples_per_file)
        if not 0 <= sample < layout.shape[0] or not units or min(units) < 0 or max(units) >= layout.units:
            raise IndexError(f"{layout.place}/{layout.name}: no sample {sample} with frames {list(units)}")
        if out.nbytes != len(units) * layout.unit_bytes or not out.flags.c_contiguous:
            raise ValueError(f"out is {out.shape}, frames are {layout.unit_shape}, C-contiguous")
        try:
            handle = self._handles.get(number)
            if handle is None:
                handle = self._open(number)
            try:
                file = self._files.get(number) or self._parse(number, handle)
                self._read(file, handle, number in self._handles, position, units, out)
            finally:
                self._release(number, handle)
        except FileNotFoundError:
            raise ContrailError(
                f"{layout.place.file(layout.key(number))}: cannot be read (missing): restore the store"
            ) from None
        except (ValueError, RuntimeError, OSError) as error:
            raise ContrailError(
                f"{layout.place.file(layout.key(number))}: does not decode ({error}): restore the store"
            ) from None

    def _open(self, number: int) -> int:
        """A handle of a local file, -1 on object storage."""
        layout = self.layout
        if not self._local:
            return -1
        key = layout.key(number)
        handle = os.open(layout.place.file(key) if self._fetch is None else self._fetch(key), os.O_RDONLY)
        if len(self._handles) < self._keep and self._handles.setdefault(number, handle) != handle:
            os.close(handle)
            return self._handles[number]
        return handle

    def _release(self, number: int, handle: int) -> None:
        if handle >= 0 and self._handles.get(number) != handle:
            os.close(handle)

    def _parse(self, number: int, handle: int) -> _File:
        """The file's index, and where each sample's units lie in a row uncompressed: there reading is one copy."""
        layout = self.layout
        key = layout.key(number)
        size = os.fstat(handle).st_size if handle >= 0 else layout.place.size(key)
        if size is None:
            raise FileNotFoundError(key)
        index = array("Q", [0, size])
        entries = layout.samples_per_file * layout.units
        if layout.sharded:
            want = 16 * entries + 4
            tail = self._pread(key, handle, max(0, size - want), want)
            if len(tail) != want or crc32c(bytes(tail[:-4])) != int.from_bytes(tail[-4:], "little"):
                raise ValueError("the shard index fails its checksum")
            index = array("Q")
            index.frombytes(tail[:-4])
        starts = [-1] * layout.samples_per_file
        if layout.codec is None:
            table = np.array(index).reshape(layout.samples_per_file, layout.units, 2)
            row = table[:, :1, 0] + np.arange(layout.units, dtype=np.uint64) * np.uint64(layout.unit_bytes)
            plain = (table[..., 0] == row).all(1) & (table[..., 1] == layout.unit_bytes).all(1)
            starts = np.where(plain, table[:, 0, 0].astype(np.int64), -1).tolist()
        return self._files.setdefault(number, _File(key, size, index, starts, entries))

    def _read(
        self, file: _File, handle: int, kept: bool, position: int, units: Sequence[int], out: npt.NDArray[Any]
    ) -> None:
        layout, first, count = self.layout, units[0], len(units)
        slot = position * layout.units
        start = file.starts[position]
        if start >= 0 and (count == 1 or list(units) == list(range(first, first + count))):
            self._plain(file, handle, kept, slot + first, count, start + first * layout.unit_bytes, out)
            return
        for i, unit in enumerate(units):
            offset, length = file.index[2 * (slot + unit)], file.index[2 * (slot + unit) + 1]
            if offset == _ABSENT:
                raise ValueError(f"frame {unit} is absent")
            if layout.codec is None:
                if length != layout.unit_bytes:
                    raise ValueError(f"a chunk of {length} bytes where {layout.unit_bytes} are expected")
                self._plain(file, handle, kept, slot + unit, 1, offset, out[i])
            else:
                if offset + length > file.size:
                    raise ValueError("a chunk beyond the end")
                mapped = self._mapped(file, handle, slot + unit, 1) if kept else None
                stored = (
                    self._pread(file.key, handle, offset, length)
                    if mapped is None
                    else mapped[offset : offset + length]
                )
                layout.compressor.decode(stored, out=out[i])
                file.touched[slot + unit] = 1

    def _plain(
        self, file: _File, handle: int, kept: bool, slot: int, count: int, offset: int, out: npt.NDArray[Any]
    ) -> None:
        """Units that lie in a row, uncompressed."""
        if kept and (mapped := self._mapped(file, handle, slot, count)) is not None:
            np.copyto(out.reshape(-1).view(np.uint8), mapped[offset : offset + out.nbytes])
            return
        if handle >= 0:
            if os.preadv(handle, [out.data], offset) != out.nbytes:
                raise ValueError("cut short")
        else:
            found = self._pread(file.key, handle, offset, out.nbytes)
            if len(found) != out.nbytes:
                raise ValueError("cut short")
            out.reshape(-1).view(np.uint8)[...] = np.frombuffer(found, np.uint8)
        file.touched[slot : slot + count] = b"\1" * count

    def _mapped(self, file: _File, handle: int, slot: int, count: int) -> npt.NDArray[np.uint8] | None:
        """The file as memory, where units were read before and so are likely still in memory."""
        if not self._map or file.touched.find(0, slot, slot + count) >= 0:
            return None
        if os.fstat(handle).st_size != file.size:  # touching what is no longer there would end the process
            raise ValueError("its size has changed")
        if file.mapped is None:
            file.mapped = np.frombuffer(mmap.mmap(handle, 0, prot=mmap.PROT_READ), np.uint8)
        return file.mapped

    def _pread(self, key: str, handle: int, offset: int, length: int) -> Any:
        if handle >= 0:
            return os.pread(handle, length, offset)
        return self.layout.place.read_range(key, offset, length)

    def stored(self, sample: int) -> list[bytes]:
        """All units of one sample as they are stored, without the index. Raises as reading does."""
        number, position = divmod(sample, self.layout.samples_per_file)
        key, found = self.layout.key(number), []
        handle = self._open(number)
        try:
            file = self._files.get(number) or self._parse(number, handle)
            for unit in range(self.layout.units):
                at = 2 * (position * self.layout.units + unit)
                found.append(bytes(self._pread(key, handle, file.index[at], file.index[at + 1])))
        finally:
            self._release(number, handle)
        return found


def _files_to_keep() -> int:
    """Files one reader may hold open, each with two handles: together an eighth of what the process may have."""
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(8, min(soft // 16, 4096))
