"""Writes and reads the bytes of zarr v3 chunks directly.

zarr-python spends its time per chunk (event loop, codec pipeline), not per byte, so the two hot paths, writing samples
and reading the frames of one sample, bypass it. What is supported is exact and small: little-endian arrays whose first
axis is the sample and whose chunks hold one sample and all of every axis after the second, in a file each or in a
shard of samples (https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/), without a compressor or
with blosc or zstd. Other arrays are read through zarr itself.

A unit is an inner chunk without its sample axis: a frame where the array has a time axis. The module is long because
layout, writer and reader share what they know about these bytes.
"""

from __future__ import annotations

import json
import math
import mmap
import os
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from contrail_data.storage.files import Part, Write
from contrail_data.storage.place import Place
from contrail_data.store.manifest import FileChecksum
from contrail_data.store.schema import Codec

# The callers have threads of their own, and threaded blosc orders its blocks by chance.
numcodecs.blosc.use_threads = False

CODECS: dict[Codec, dict[str, Any] | None] = {
    Codec.NONE: None,
    Codec.LZ4: {
        "name": "blosc",
        "configuration": {"cname": "lz4", "clevel": 5, "shuffle": "bitshuffle", "typesize": 1, "blocksize": 0},
    },
    Codec.ZSTD: {"name": "zstd", "configuration": {"level": 3, "checksum": False}},
}
"""Declaration of each compressor in zarr v3 metadata."""

_ABSENT = 2**64 - 1
_MAX_UNIT_BYTES = 2**30  # decoded; an array that claims more holds no frames


def compressor(declaration: dict[str, Any] | None) -> Any:
    """Create the codec of a zarr v3 declaration.

    Args:
        declaration: The declaration. None: no compressor.

    Returns:
        The numcodecs codec, or None.

    Raises:
        KeyError: If the codec is not supported.
    """
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


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the chunks of an array lie, parsed from its `zarr.json`."""

    place: Place
    """The store."""
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    separator: str
    samples_per_file: int
    unit_shape: tuple[int, ...]
    """Shape of an inner chunk without the sample axis."""
    codec: dict[str, Any] | None
    sharded: bool

    @cached_property
    def units(self) -> int:
        """Inner chunks per sample.

        Returns:
            Their number.
        """
        return self.shape[1] // self.unit_shape[0]

    @cached_property
    def unit_bytes(self) -> int:
        """Size of a decoded inner chunk.

        Returns:
            Bytes.
        """
        return math.prod(self.unit_shape) * self.dtype.itemsize

    @cached_property
    def compressor(self) -> Any:
        """The codec of the inner chunks.

        Returns:
            A numcodecs codec. None if they are not compressed.
        """
        return compressor(self.codec)

    def key(self, file: int) -> str:
        """Return the key of a chunk file.

        Args:
            file: Number of the file along the sample axis.

        Returns:
            Its key in the store.
        """
        return self.separator.join([f"{self.name}/c", str(file), *["0"] * (len(self.shape) - 1)])


def parse_layout(place: Place, name: str) -> Layout | None:
    """Parse the layout of an array.

    Args:
        place: The store.
        name: The array.

    Returns:
        The layout. None if only zarr itself can read the array.

    Raises:
        FileNotFoundError: If there is no `zarr.json`.
        ValueError: If it is not JSON.
    """
    metadata = json.loads(place.read(f"{name}/zarr.json"))
    try:
        shape = tuple(metadata["shape"])
        outer = inner = tuple(metadata["chunk_grid"]["configuration"]["chunk_shape"])
        key_encoding, codecs = metadata["chunk_key_encoding"], metadata["codecs"]
        sharded = codecs[0]["name"] == "sharding_indexed"
        if sharded:
            settings = codecs[0]["configuration"]
            index_codecs = [codec["name"] for codec in settings["index_codecs"]]
            at_end = settings.get("index_location", "end") == "end"
            if len(codecs) != 1 or index_codecs != ["bytes", "crc32c"] or not at_end:
                return None
            inner, codecs = tuple(settings["chunk_shape"]), settings["codecs"]
        layout = Layout(
            place=place,
            name=name,
            shape=shape,
            dtype=np.dtype(metadata["data_type"]).newbyteorder("<"),
            separator=key_encoding.get("configuration", {}).get("separator", "/"),
            samples_per_file=outer[0],
            unit_shape=inner[1:],
            codec=codecs[1] if len(codecs) == 2 else None,
            sharded=sharded,
        )
        supported = (
            metadata["chunk_grid"]["name"] == "regular"
            and key_encoding["name"] == "default"
            and layout.separator in (".", "/")
            and codecs[0]["name"] == "bytes"
            and codecs[0].get("configuration", {}).get("endian", "little") == "little"
            and len(codecs) <= 2
            and len(shape) >= 2
            and all(type(n) is int and n > 0 for n in (*shape, *outer, *inner))
            and inner[0] == 1
            and outer[1:] == shape[1:]
            and inner[2:] == shape[2:]
            and shape[1] % inner[1] == 0
            and (sharded or outer[0] == 1)
            and layout.dtype.kind in "uif"
            and layout.unit_bytes <= _MAX_UNIT_BYTES
            and layout.samples_per_file * layout.units <= _MAX_UNIT_BYTES // 16
        )
        compressor(layout.codec)
        return layout if supported else None
    except (KeyError, TypeError, IndexError, ValueError, AttributeError):
        return None


class ShardWriter:
    """Writes one file of an array: samples in the order of their position, the index at the end.

    Args:
        layout: Layout of the array.
        write: Appends bytes to the file.
    """

    def __init__(self, layout: Layout, write: Write) -> None:
        self._layout, self._write = layout, write
        self._index = np.full((layout.samples_per_file, layout.units, 2), _ABSENT, "<u8")
        self._checksum, self._bytes = xxhash.xxh3_64(), 0

    def add(self, position: int, data: npt.NDArray[Any]) -> list[int]:
        """Write one sample.

        Args:
            position: Position of the sample in the file.
            data: Its values, (units, *unit_shape), or without a leading 1.

        Returns:
            64-bit xxh3 of each decoded unit.
        """
        layout = self._layout
        units = np.ascontiguousarray(data, layout.dtype).reshape(layout.units, *layout.unit_shape)
        if layout.compressor is None:
            # In one piece: the kernel then keeps it in large pages, which read faster.
            starts = self._bytes + np.arange(layout.units, dtype=np.uint64) * np.uint64(layout.unit_bytes)
            self._index[position] = np.stack([starts, np.full_like(starts, layout.unit_bytes)], -1)
            self._append(units.data.cast("B"))
        else:
            self.add_stored(position, [layout.compressor.encode(unit) for unit in units])
        return [xxhash.xxh3_64_intdigest(unit.data) for unit in units]

    def add_stored(self, position: int, parts: Sequence[Part]) -> None:
        """Write one sample from units that are encoded already.

        Args:
            position: Position of the sample in the file.
            parts: Its units, as another file holds them.
        """
        for unit, part in enumerate(parts):
            self._index[position, unit] = self._bytes, len(part)
            self._append(part)

    def finish(self) -> FileChecksum:
        """Write the index.

        Returns:
            Checksum of the file.
        """
        if self._layout.sharded:
            index = self._index.tobytes()
            self._append(index)
            self._append(crc32c(index).to_bytes(4, "little"))
        return FileChecksum(self._checksum.hexdigest(), self._bytes)

    def _append(self, part: Part) -> None:
        self._write(part)
        self._checksum.update(part)
        self._bytes += len(part)


@contextmanager
def writing_shards(layouts: Mapping[str, Layout], number: int) -> Iterator[dict[str, ShardWriter]]:
    """Write one shard: a file of each array. The files appear when the block ends without an error.

    Args:
        layouts: Layout of each array.
        number: Number of the shard.

    Yields:
        The writer of each array's file.
    """
    with ExitStack() as stack:
        yield {
            name: ShardWriter(layout, stack.enter_context(layout.place.writing(layout.key(number))))
            for name, layout in layouts.items()
        }


@dataclass(slots=True)
class _File:
    """A file of an array that has been read from."""

    number: int
    key: str
    size: int
    index: array[int]
    """Offset and length of each unit."""
    starts: list[int]
    """Offset of each sample whose units lie in a row without compression, -1 for others: such a row is read at once."""
    touched: bytearray
    """1 for each unit that has been read before."""
    mapped: npt.NDArray[np.uint8] | None = None
    """The file as memory."""


class ShardReader:
    """Reads the units of one array. Safe to use from many threads, without locks: an entry is set whole or not at all.

    Files stay open, as far as the process may have them, and their indexes parsed, since a store never changes. A unit
    is read by a system call at first, which is fast from a disk, and from mapped pages from then on, which is as fast
    as memory however the kernel keeps the pages; an array that would not fit into half of the memory is never mapped.
    A file that has changed its size is an error, mapped or not; a disk that fails under mapped pages ends the process,
    as it does for np.memmap. A forked process can keep using what its parent opened.

    Args:
        layout: Layout of the array.
        fetch: For a store on object storage: returns the path of a local copy of a file, to read instead.
    """

    def __init__(self, layout: Layout, fetch: Callable[[str], str] | None = None) -> None:
        self.layout = layout
        self._fetch = fetch
        self._local = fetch is not None or not layout.place.remote
        self._files: dict[int, _File] = {}
        self._handles: dict[int, int] = {}
        self._keep = _files_to_keep() if self._local else 0
        array_bytes = math.prod(layout.shape) * layout.dtype.itemsize
        self._map = array_bytes < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2

    def __del__(self) -> None:
        for handle in self._handles.values():
            os.close(handle)

    def __call__(self, sample: int, units: Sequence[int], out: npt.NDArray[Any]) -> None:
        """Read units of one sample.

        Args:
            sample: Index of the sample.
            units: Indices of the units.
            out: Receives them: C-contiguous, (len(units), *unit_shape), of the layout's dtype.

        Raises:
            ContrailError: If the file is missing, cut short or does not decode.
            IndexError: If there is no such sample or unit.
            ValueError: If `out` does not fit.
        """
        layout = self.layout
        number, position = divmod(sample, layout.samples_per_file)
        if not 0 <= sample < layout.shape[0] or not units or min(units) < 0 or max(units) >= layout.units:
            raise IndexError(f"{layout.place}/{layout.name}: no sample {sample} with frames {list(units)}")
        if out.nbytes != len(units) * layout.unit_bytes or not out.flags.c_contiguous:
            raise ValueError(f"out is {out.shape}, frames are {layout.unit_shape}, C-contiguous")
        file = layout.place.file(layout.key(number))
        try:
            handle = self._open(number)
            try:
                self._read(self._files.get(number) or self._parse(number, handle), handle, position, units, out)
            finally:
                self._release(number, handle)
        except FileNotFoundError:
            raise ContrailError(f"{file}: cannot be read (missing); restore the store") from None
        except (ValueError, RuntimeError, OSError) as error:
            raise ContrailError(f"{file}: does not decode ({error}); restore the store") from None

    def stored(self, sample: int) -> list[bytes]:
        """Read all units of one sample as they are stored. Raises the same errors as reading them decoded.

        Args:
            sample: Index of the sample.

        Returns:
            The encoded units.
        """
        number, position = divmod(sample, self.layout.samples_per_file)
        handle = self._open(number)
        try:
            file = self._files.get(number) or self._parse(number, handle)
            slots = range(position * self.layout.units, (position + 1) * self.layout.units)
            return [bytes(self._pread(file.key, handle, *file.index[2 * slot : 2 * slot + 2])) for slot in slots]
        finally:
            self._release(number, handle)

    def _open(self, number: int) -> int:
        """Return a handle of a local file, -1 on object storage."""
        if (kept := self._handles.get(number)) is not None:
            return kept
        if not self._local:
            return -1
        key = self.layout.key(number)
        handle = os.open(self.layout.place.file(key) if self._fetch is None else self._fetch(key), os.O_RDONLY)
        if len(self._handles) < self._keep and self._handles.setdefault(number, handle) != handle:
            os.close(handle)  # another thread was faster
            return self._handles[number]
        return handle

    def _release(self, number: int, handle: int) -> None:
        if handle >= 0 and self._handles.get(number) != handle:
            os.close(handle)

    def _parse(self, number: int, handle: int) -> _File:
        """Read the index of a file.

        Raises:
            FileNotFoundError: If there is no file.
            ValueError: If its index is damaged.
        """
        layout = self.layout
        key = layout.key(number)
        size = os.fstat(handle).st_size if handle >= 0 else layout.place.size(key)
        if size is None:
            raise FileNotFoundError(key)
        index = array("Q", [0, size])
        entries = layout.samples_per_file * layout.units
        if layout.sharded:
            index_bytes = 16 * entries + 4
            tail = self._pread(key, handle, max(0, size - index_bytes), index_bytes)
            if len(tail) != index_bytes or crc32c(bytes(tail[:-4])) != int.from_bytes(tail[-4:], "little"):
                raise ValueError("the shard index fails its checksum")
            index = array("Q")
            index.frombytes(tail[:-4])
        starts = [-1] * layout.samples_per_file
        if layout.codec is None:
            table = np.array(index).reshape(layout.samples_per_file, layout.units, 2)
            row = table[:, :1, 0] + np.arange(layout.units, dtype=np.uint64) * np.uint64(layout.unit_bytes)
            in_a_row = (table[..., 0] == row).all(1) & (table[..., 1] == layout.unit_bytes).all(1)
            starts = np.where(in_a_row, table[:, 0, 0].astype(np.int64), -1).tolist()
        return self._files.setdefault(number, _File(number, key, size, index, starts, bytearray(entries)))

    def _read(self, file: _File, handle: int, position: int, units: Sequence[int], out: npt.NDArray[Any]) -> None:
        """Read units of the sample at a position of a file.

        Raises:
            ValueError: If one is absent or damaged.
        """
        layout, first, count = self.layout, units[0], len(units)
        slot = position * layout.units
        start = file.starts[position]
        if start >= 0 and (count == 1 or list(units) == list(range(first, first + count))):
            slots = slice(slot + first, slot + first + count)
            self._read_plain(file, handle, slots, start + first * layout.unit_bytes, out)
            return
        for i, unit in enumerate(units):
            slots = slice(slot + unit, slot + unit + 1)
            offset, length = file.index[2 * slots.start : 2 * slots.stop]
            if offset == _ABSENT:
                raise ValueError(f"frame {unit} is absent")
            if layout.codec is None:
                if length != layout.unit_bytes:
                    raise ValueError(f"a chunk of {length} bytes where {layout.unit_bytes} are expected")
                self._read_plain(file, handle, slots, offset, out[i])
            else:
                if offset + length > file.size:
                    raise ValueError("a chunk beyond the end")
                mapped = self._mapped(file, handle, slots)
                stored = self._pread(file.key, handle, offset, length) if mapped is None else mapped[offset:][:length]
                layout.compressor.decode(stored, out=out[i])
                file.touched[slots] = b"\1"

    def _read_plain(self, file: _File, handle: int, slots: slice, offset: int, out: npt.NDArray[Any]) -> None:
        """Read uncompressed units that lie in a row.

        Raises:
            ValueError: If the file ends before.
        """
        if (mapped := self._mapped(file, handle, slots)) is not None:
            np.copyto(out.reshape(-1).view(np.uint8), mapped[offset : offset + out.nbytes])
            return
        if handle >= 0:
            length = os.preadv(handle, [out.data], offset)
        else:
            content = self._pread(file.key, handle, offset, out.nbytes)
            length = len(content)
        if length != out.nbytes:
            raise ValueError("cut short")
        if handle < 0:
            out.reshape(-1).view(np.uint8)[...] = np.frombuffer(content, np.uint8)
        file.touched[slots] = b"\1" * (slots.stop - slots.start)

    def _mapped(self, file: _File, handle: int, slots: slice) -> npt.NDArray[np.uint8] | None:
        """Return the file as memory if these units were read before, and so are likely still in memory.

        Raises:
            ValueError: If the file has changed its size, since touching pages beyond its end would end the process.
        """
        if not self._map or file.number not in self._handles or file.touched.find(0, slots.start, slots.stop) >= 0:
            return None
        if os.fstat(handle).st_size != file.size:
            raise ValueError("its size has changed")
        if file.mapped is None:
            file.mapped = np.frombuffer(mmap.mmap(handle, 0, prot=mmap.PROT_READ), np.uint8)
        return file.mapped

    def _pread(self, key: str, handle: int, offset: int, length: int) -> Any:
        if handle >= 0:
            return os.pread(handle, length, offset)
        return self.layout.place.read_range(key, offset, length)


def _files_to_keep() -> int:
    """Return how many files one reader may hold open: with two handles each, an eighth of the process's limit."""
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(8, min(soft // 16, 4096))
