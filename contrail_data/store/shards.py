"""Writes and reads the bytes of zarr v3 chunks directly.

zarr-python spends its time per chunk (event loop, codec pipeline), not per byte, so the two hot paths, writing samples
and reading the frames of one sample, bypass it. `layout` says what these bytes are.
"""

import itertools
import math
import mmap
import os
import resource
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash
from google_crc32c import value as crc32c

from contrail_data.storage.files import Part, Write, input_output_error
from contrail_data.store.layout import Layout
from contrail_data.store.manifest import Damaged, FileChecksum
from contrail_data.store.schema import SHARD

_ABSENT = 2**64 - 1


class Packed(NamedTuple):
    """A sample as the file of an array holds it."""

    parts: Sequence[Part]
    """Its bytes, in pieces."""
    lengths: list[int]
    """Bytes of each unit."""
    checksums: list[int]
    """64-bit xxh3 of each decoded unit."""


def pack(layout: Layout, data: npt.NDArray[Any]) -> Packed:
    """Compress and checksum one sample. Many threads can do so at once.

    Args:
        layout: Layout of the array.
        data: Its values, (units, *unit_shape), or without a leading 1.

    Returns:
        The sample, for `ShardWriter.write`.
    """
    units = np.ascontiguousarray(data, layout.dtype).reshape(layout.units, *layout.unit_shape)
    checksums = [xxhash.xxh3_64_intdigest(unit.data) for unit in units]
    if layout.compressor is None:
        return Packed([units.data.cast("B")], [layout.unit_bytes] * layout.units, checksums)
    parts = [layout.compressor.encode(unit) for unit in units]
    return Packed(parts, list(map(len, parts)), checksums)


class ShardWriter:
    """Writes one file of an array: samples in the order of their position, the index at the end.

    Args:
        layout: Layout of the array.
        write: Appends bytes to the file.
    """

    def __init__(self, layout: Layout, write: Write) -> None:
        self.layout, self._write = layout, write
        self._index = np.full((SHARD, layout.units, 2), _ABSENT, "<u8")
        self._checksum, self._bytes = xxhash.xxh3_64(), 0

    def add(self, position: int, data: npt.NDArray[Any]) -> list[int]:
        """Pack and write one sample.

        Args:
            position: Position of the sample in the file.
            data: Its values, as for `pack`.

        Returns:
            64-bit xxh3 of each decoded unit.
        """
        packed = pack(self.layout, data)
        self.write(position, packed)
        return packed.checksums

    def write(self, position: int, packed: Packed) -> None:
        """Write one sample.

        Args:
            position: Position of the sample in the file.
            packed: The sample, as `pack` returns it.
        """
        self._index[position, :, 0] = list(itertools.accumulate(packed.lengths[:-1], initial=self._bytes))
        self._index[position, :, 1] = packed.lengths
        for part in packed.parts:
            self._append(part)

    def finish(self) -> FileChecksum:
        """Write the index.

        Returns:
            Checksum of the file.
        """
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
    keys = [layout.key(number) for layout in layouts.values()]
    with next(iter(layouts.values())).place.writing(keys) as writes:
        yield {name: ShardWriter(layout, write) for (name, layout), write in zip(layouts.items(), writes, strict=True)}


class _Request(NamedTuple):
    """Units of a sample."""

    units: tuple[int, ...]
    bits: int
    """A bit for each of them."""
    row: slice | None
    """The same as a slice, if they follow one another."""


@dataclass(slots=True)
class _File:
    """A file of an array that has been read from."""

    key: str
    size: int
    index: "array[int]"
    """Offset and length of each unit."""
    starts: list[int]
    """Offset of each sample whose units lie in a row without compression, -1 for others: such a row is read at once."""
    seen: list[int]
    """By sample, a bit for each unit that has been read before."""
    rows: list[npt.NDArray[Any] | None]
    """By sample, its units as memory, if it has units that lie in a row and have been read before."""
    handle: int = -1
    """The open file; -1 if it is not kept open."""
    mapped: npt.NDArray[np.uint8] | None = None
    """The file as memory, if it is local, kept open and of an array that fits."""


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
        self._path = fetch or layout.place.file
        self._local = fetch is not None or not layout.place.remote
        self._files: dict[int, _File] = {}
        self._requests: dict[tuple[int, ...], _Request] = {}
        self._handles: dict[int, int] = {}
        # With two handles for each file, one reader takes up to an eighth of what the process may hold open.
        soft_limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._keep = max(8, min(soft_limit // 16, 4096))
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
            ContrailError: If the file cannot be read.
            Damaged: If the file is missing, cut short or does not decode.
            IndexError: If there is no such sample or unit.
            ValueError: If `out` does not fit.
        """
        # Few steps precede the copy of what was read before; benchmarks/loader.py compares them with the copy.
        number, position = divmod(sample, SHARD)
        file, request = self._files.get(number), self._requests.get(tuple(units))
        if request is None:
            request = self._request(tuple(units))
        elif file is not None and (row := file.rows[position]) is not None and request.row is not None:
            source = row[request.row]
            is_seen = file.seen[position] & request.bits == request.bits
            fits = out.nbytes == source.nbytes and out.flags.c_contiguous
            if is_seen and fits and os.lseek(file.handle, 0, os.SEEK_END) == file.size:
                np.copyto(out.reshape(source.shape), source)
                return
        self._read_checked(sample, request, out)

    def _request(self, units: tuple[int, ...]) -> _Request:
        """Describe units.

        Raises:
            IndexError: If there is no such unit.
        """
        if not units or min(units) < 0 or max(units) >= self.layout.units:
            raise IndexError(f"{self.layout.place}/{self.layout.name}: no frames {list(units)}")
        end = units[0] + len(units)
        row = slice(units[0], end) if units == tuple(range(units[0], end)) else None
        return self._requests.setdefault(units, _Request(units, sum(1 << unit for unit in {*units}), row))

    def _read_checked(self, sample: int, request: _Request, out: npt.NDArray[Any]) -> None:
        """Read units of one sample, with every check; see `__call__`."""
        layout = self.layout
        number, position = divmod(sample, SHARD)
        if not 0 <= sample < layout.samples:
            raise IndexError(f"{layout.place}/{layout.name}: no sample {sample}")
        if out.nbytes != len(request.units) * layout.unit_bytes or not out.flags.c_contiguous:
            raise ValueError(f"out is {out.shape}, frames are {layout.unit_shape}, C-contiguous")
        path = layout.place.file(layout.key(number))
        try:
            handle = self._open(number)
            try:
                file = self._files.get(number) or self._parse(number, handle)
                self._read(file, handle, position, request, out)
            finally:
                if handle >= 0 and self._handles.get(number) != handle:
                    os.close(handle)
        except FileNotFoundError:
            raise Damaged(f"{path}: cannot be read (missing); restore the store") from None
        except OSError as error:
            one_line = input_output_error(path, "read", error)
            raise one_line from None
        except (ValueError, RuntimeError) as error:
            raise Damaged(f"{path}: does not decode ({error}); restore the store") from None

    def _open(self, number: int) -> int:
        """Return a handle of a local file, -1 on object storage."""
        if (kept := self._handles.get(number)) is not None:
            return kept
        if not self._local:
            return -1
        handle = os.open(self._path(self.layout.key(number)), os.O_RDONLY | os.O_NONBLOCK)  # never waits for a pipe
        if len(self._handles) < self._keep and self._handles.setdefault(number, handle) != handle:
            os.close(handle)  # another thread was faster
            return self._handles[number]
        return handle

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
        entries = SHARD * layout.units
        index_bytes = 16 * entries + 4
        tail = self._pread(key, handle, max(0, size - index_bytes), index_bytes)
        if len(tail) != index_bytes or crc32c(bytes(tail[:-4])) != int.from_bytes(tail[-4:], "little"):
            raise ValueError("the shard index fails its checksum")
        index = array("Q", bytes(tail[:-4]))
        table = np.array(index).reshape(SHARD, layout.units, 2)
        row = table[:, :1, 0] + np.arange(layout.units, dtype=np.uint64) * np.uint64(layout.unit_bytes)
        in_a_row = (table[..., 0] == row).all(1) & (table[..., 1] == layout.unit_bytes).all(1)
        starts = np.where(in_a_row & (layout.compressor is None), table[:, 0, 0].astype(np.int64), -1).tolist()
        kept = handle if self._handles.get(number) == handle else -1
        file = _File(key, size, index, starts, seen=[0] * SHARD, rows=[None] * SHARD, handle=kept)
        return self._files.setdefault(number, file)

    def _read(self, file: _File, handle: int, position: int, request: _Request, out: npt.NDArray[Any]) -> None:
        """Read units of the sample at a position of a file.

        Raises:
            ValueError: If one is absent or damaged, or the file has changed its size: touching mapped pages beyond its
                end would end the process.
        """
        layout, start = self.layout, file.starts[position]
        if handle >= 0 and os.lseek(handle, 0, os.SEEK_END) != file.size:
            raise ValueError("its size has changed")
        mapped = self._mapped(file)
        if start >= 0 and request.row is not None:
            self._read_plain(file, handle, start + request.row.start * layout.unit_bytes, out)
            if mapped is not None:
                row = mapped[start : start + layout.units * layout.unit_bytes].view(layout.dtype)
                file.rows[position] = row.reshape(layout.units, *layout.unit_shape)
        else:
            for unit, frame in zip(request.units, out, strict=True):
                slot = 2 * (position * layout.units + unit)
                offset, length = file.index[slot : slot + 2]
                if offset == _ABSENT:
                    raise ValueError(f"frame {unit} is absent")
                if layout.compressor is None and length != layout.unit_bytes:
                    raise ValueError(f"a chunk of {length} bytes where {layout.unit_bytes} are expected")
                if offset + length > file.size:
                    raise ValueError("a chunk beyond the end")
                stored: Any = None
                if mapped is not None and file.seen[position] >> unit & 1:
                    stored = mapped[offset : offset + length]
                if layout.compressor is not None:
                    stored = self._pread(file.key, handle, offset, length) if stored is None else stored
                    layout.compressor.decode(stored, out=frame)
                elif stored is not None:
                    np.copyto(frame.reshape(-1).view(np.uint8), stored)
                else:
                    self._read_plain(file, handle, offset, frame)
        file.seen[position] |= request.bits

    def _read_plain(self, file: _File, handle: int, offset: int, out: npt.NDArray[Any]) -> None:
        """Read uncompressed units that lie in a row.

        Raises:
            ValueError: If the file ends before.
        """
        flat = out.reshape(-1).view(np.uint8)
        if handle >= 0:
            length = os.preadv(handle, [flat.data], offset)
        else:
            content = self._pread(file.key, handle, offset, out.nbytes)
            length = len(content)
            flat[:length] = np.frombuffer(content, np.uint8)
        if length != out.nbytes:
            raise ValueError("cut short")

    def _mapped(self, file: _File) -> npt.NDArray[np.uint8] | None:
        """Return the file as memory; None if it is not to be mapped."""
        if file.mapped is None and self._map and file.handle >= 0:
            file.mapped = np.frombuffer(mmap.mmap(file.handle, 0, prot=mmap.PROT_READ), np.uint8)
        return file.mapped

    def _pread(self, key: str, handle: int, offset: int, length: int) -> Any:
        if handle >= 0:
            return os.pread(handle, length, offset)
        return self.layout.place.read_range(key, offset, length)
