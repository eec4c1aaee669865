"""Plain zarr v3 chunk bytes, written and read where the format says they lie.

zarr-python spends its time per chunk (event loop, codec pipeline), not per byte, so the two hot paths, one
sample into a store and one sample's frames out of it, go straight to the file. What is supported is exact and
small: little-endian arrays whose first axis is the sample and whose chunks hold one sample, all of every axis
after the second, as one chunk a file or as a shard (https://zarr-specs.readthedocs.io/en/latest/v3/codecs/
sharding-indexed/), with no compressor, blosc or zstd. Anything else is read through zarr itself.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numcodecs
import numcodecs.blosc
import numpy as np
import numpy.typing as npt
import xxhash
from google_crc32c import value as crc32c

from contrail_data.errors import ContrailError

# One thread per call: the caller has threads of its own, and threaded blosc orders its blocks by chance.
numcodecs.blosc.use_threads = False

CODECS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "lz4": {
        "name": "blosc",
        "configuration": {"cname": "lz4", "clevel": 5, "shuffle": "bitshuffle", "typesize": 1, "blocksize": 0},
    },
    "zstd": {"name": "zstd", "configuration": {"level": 3, "checksum": False}},
}
"""Compressors a store may be written with, as zarr v3 codec declarations."""

_ABSENT = 2**64 - 1


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

    folder: Path
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
        return -(-self.shape[1] // self.unit_shape[0])

    @cached_property
    def compressor(self) -> Any:
        return compressor(self.codec)

    @cached_property
    def _around_index(self) -> tuple[str, str, str]:
        """Folder, and what stands before and after a file's index in its name."""
        return str(self.folder), f"c{self.separator}", f"{self.separator}0" * (len(self.shape) - 1)

    def path(self, sample: int) -> str:
        """The file that holds a sample. Text, since a pathlib object costs as much as reading a frame."""
        folder, before, after = self._around_index
        return f"{folder}/{before}{sample // self.samples_per_file}{after}"

    def key(self, sample: int) -> str:
        """The same, relative to the array's folder."""
        _, before, after = self._around_index
        return f"{before}{sample // self.samples_per_file}{after}"


def parse_layout(folder: Path) -> Layout | None:
    """The layout of a local zarr v3 array, or None when only zarr itself can read it.

    Raises OSError when there is no `zarr.json`.
    """
    meta = json.loads((folder / "zarr.json").read_bytes())
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
        known = (
            meta["chunk_grid"]["name"] == "regular"
            and key_encoding["name"] == "default"
            and codecs[0]["name"] == "bytes"
            and endian == "little"
            and len(codecs) <= 2
            and len(shape) >= 2
            and inner[0] == 1
            and outer[1:] == shape[1:]
            and inner[2:] == shape[2:]
            and shape[1] % inner[1] == 0
            and (sharded or outer[0] == 1)
        )
        if not known:
            return None
        codec = codecs[1] if len(codecs) == 2 else None
        compressor(codec)
        return Layout(
            folder,
            shape,
            np.dtype(meta["data_type"]).newbyteorder("<"),
            key_encoding.get("configuration", {}).get("separator", "/"),
            outer[0],
            inner[1:],
            codec,
            sharded,
        )
    except (KeyError, TypeError, IndexError, ValueError):
        return None


def write_sample(layout: Layout, sample: int, array: npt.NDArray[Any]) -> tuple[str, int]:
    """Write one sample, (units, *unit_shape) or that without a leading 1. Returns (xxh3 checksum, bytes).

    The layout must hold one sample a file. Not atomic: in an unfinished store a chunk counts only once the journal
    names it. Raises ContrailError when the disk refuses.
    """
    data = np.ascontiguousarray(array, layout.dtype).reshape(layout.units, *layout.unit_shape)
    codec = layout.compressor
    parts = [data.data.cast("B")] if codec is None else [codec.encode(unit) for unit in data]
    if layout.sharded:
        sizes = np.array([len(p) for p in parts] if codec is not None else [data[0].nbytes] * len(data), "<u8")
        index = np.stack([np.cumsum(sizes) - sizes, sizes], -1).tobytes()
        parts += [index, crc32c(index).to_bytes(4, "little")]
    checksum = xxhash.xxh3_64()
    for part in parts:
        checksum.update(part)
    path = layout.path(sample)
    try:
        with open(path, "wb", buffering=0) as file:
            _write_all(file, parts)
    except OSError as error:
        raise ContrailError(f"{path}: cannot be written ({error.strerror}): make room or check permissions") from None
    return checksum.hexdigest(), sum(len(p) for p in parts)


def write_atomically(path: Path, parts: Sequence[bytes | memoryview]) -> None:
    """A file appears whole or not at all. Raises ContrailError when the disk refuses."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb", buffering=0) as file:
            _write_all(file, parts)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ContrailError(f"{path}: cannot be written ({error.strerror}): make room or check permissions") from None


def _write_all(file: io.FileIO, parts: Sequence[bytes | memoryview]) -> None:
    for part in parts:
        view = memoryview(part)
        while view.nbytes:
            view = view[file.write(view) :]


def read_sample(layout: Layout, sample: int, units: Sequence[int], out: npt.NDArray[Any]) -> None:
    """Read the named inner chunks (frames, where a chunk is a frame) of one sample into `out`.

    `out` is C-contiguous, (len(units), *unit_shape), of the layout's dtype. Raises ContrailError naming the file
    when it is missing, cut short or does not decode. Thread-safe; no state between calls.
    """
    path = layout.path(sample)
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise ContrailError(f"{path}: cannot be read ({error.strerror}): restore the store") from None
    try:
        size = os.fstat(fd).st_size
        spans = _spans(layout, fd, size, sample, units, path)
        if layout.codec is None:
            _read_plain(fd, spans, out)
        else:
            for (offset, length), unit in zip(spans, out, strict=True):
                layout.compressor.decode(os.pread(fd, length, offset), out=unit)
    except (ValueError, RuntimeError, OSError) as error:
        raise ContrailError(f"{path}: does not decode ({error}): restore the store") from None
    finally:
        os.close(fd)


def _spans(layout: Layout, fd: int, size: int, sample: int, units: Sequence[int], path: str) -> list[tuple[int, int]]:
    """(offset, length) in the file of each unit asked for."""
    if not layout.sharded:
        return [(0, size)] * len(units)
    entries = layout.samples_per_file * layout.units
    tail = os.pread(fd, 16 * entries + 4, max(0, size - 16 * entries - 4))
    if len(tail) != 16 * entries + 4 or crc32c(tail[:-4]) != int.from_bytes(tail[-4:], "little"):
        raise ValueError("the shard index fails its checksum")
    index = np.frombuffer(tail, "<u8", 2 * entries).tolist()  # Python integers: numpy's cost more than the frame
    first = sample % layout.samples_per_file * layout.units
    spans = []
    for unit in units:
        if not 0 <= unit < layout.units:
            raise IndexError(f"{path}: there is no frame {unit}, only 0..{layout.units - 1}")
        offset, length = index[2 * (first + unit)], index[2 * (first + unit) + 1]
        if offset == _ABSENT:
            raise ValueError(f"frame {unit} is absent")
        spans.append((offset, length))
    return spans


def _read_plain(fd: int, spans: list[tuple[int, int]], out: npt.NDArray[Any]) -> None:
    """Uncompressed units, neighbours in one system call."""
    flat = out.reshape(-1).view(np.uint8)
    unit_bytes = flat.nbytes // max(1, len(spans))
    start = 0
    while start < len(spans):
        offset, stop = spans[start][0], start
        while stop < len(spans) and spans[stop] == (offset + (stop - start) * unit_bytes, unit_bytes):
            stop += 1
        if stop == start:
            raise ValueError(f"a chunk of {spans[start][1]} bytes where {unit_bytes} are expected")
        want = flat[start * unit_bytes : stop * unit_bytes]
        if os.preadv(fd, [want.data], offset) != want.nbytes:
            raise ValueError("cut short")
        start = stop
