"""Read `.npy` files from unknown origin: every header is checked, and nothing is unpickled."""

import io
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from io import BufferedReader
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy_format

from contrail_data.compiled import compiled
from contrail_data.errors import BadRecord
from contrail_data.sources.bands import blocks
from contrail_data.storage.files import first_line, open_regular

_MAX_HEADER = 4096
_PARSING = Lock()
"""numpy parses headers as Python literals. Python 3.11.7 cannot do that in two threads at once: now and then it raises
SystemError (https://github.com/python/cpython/issues/106905), and a sound file was taken for a damaged one."""


class _Header(NamedTuple):
    shape: tuple[int, ...]
    is_fortran: bool
    dtype: np.dtype[Any]


def read_npy(path: Path, *, kinds: str, shape: tuple[int | None, ...]) -> npt.NDArray[Any]:
    """Read the array in a file. The header is checked against the size of the file before memory is allocated.

    Args:
        path: The file.
        kinds: Accepted `dtype.str` values or one-letter `dtype.kind` values, separated by spaces.
        shape: The expected shape; None accepts any length of at least 1.

    Returns:
        The array, in the dtype of the file, but in native byte order.

    Raises:
        BadRecord: If the file cannot be read or holds another kind of array; the message names it and the reason.
    """
    with _opened(path, kinds, shape) as (file, header):
        array = _read_array(file, header)
        return array.astype(header.dtype.newbyteorder("="), copy=False)


def read_npy_blocks(path: Path, *, kinds: str, out: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """Read the array in a file block by block.

    Args:
        path: The file.
        kinds: As for `read_npy`.
        out: Where to put the array, of its shape, C-contiguous.

    Yields:
        The next values of `out`, see `blocks`.

    Raises:
        BadRecord: As `read_npy` does.
    """
    with _opened(path, kinds, out.shape) as (file, header):
        if header.dtype == out.dtype and not header.is_fortran:
            for block in blocks(out):
                file.readinto(block.view(np.uint8).data)
                yield block
        else:
            out[...] = _read_array(file, header)
            yield from blocks(out)


def npy_shape(path: Path, *, kinds: str, shape: tuple[int | None, ...]) -> tuple[int, ...]:
    """Read the shape of the array in a file.

    Args:
        path: The file.
        kinds: As for `read_npy`.
        shape: As for `read_npy`.

    Returns:
        The shape.

    Raises:
        BadRecord: As `read_npy` does.
    """
    with _opened(path, kinds, shape) as (_, header):
        return header.shape


@contextmanager
def _opened(path: Path, kinds: str, shape: tuple[int | None, ...]) -> Iterator[tuple[BufferedReader, _Header]]:
    """Open a file at the first byte of its data, once its header is found to be as expected."""
    name = "/".join(path.parts[-2:])
    try:
        with open_regular(path) as file:
            header = _read_header(file)
            dtype = header.dtype
            if dtype.hasobject:
                raise BadRecord(f"{name}: contains pickled objects, which are never loaded; save a plain array")
            if dtype.str not in kinds.split() and dtype.kind not in kinds.split():
                raise BadRecord(f"{name}: dtype is {dtype}, expected {kinds}; restore the file")
            if not _shape_fits(header.shape, shape):
                expected = "(" + ", ".join("any" if n is None else str(n) for n in shape) + ")"
                raise BadRecord(f"{name}: shape is {tuple(header.shape)}, expected {expected}; restore the file")
            expected_bytes = dtype.itemsize * math.prod(map(int, header.shape))
            data_bytes = os.fstat(file.fileno()).st_size - file.tell()
            if data_bytes != expected_bytes:
                state = "truncated" if data_bytes < expected_bytes else "too long"
                sizes = f"{data_bytes} bytes of data, expected {expected_bytes}"
                raise BadRecord(f"{name}: {state}: {sizes}; restore the file")
            yield file, header
    except FileNotFoundError:
        raise BadRecord(f"{name}: missing; restore the file") from None
    except (ValueError, MemoryError) as error:
        raise BadRecord(f"{name}: not a readable .npy file ({first_line(error)[:90]}); restore the file") from None
    except OSError as error:
        raise BadRecord(f"{name}: cannot be read ({error.strerror}); check the disk and permissions") from None


def _read_array(file: BufferedReader, header: _Header) -> npt.NDArray[Any]:
    array = np.empty(header.shape, header.dtype, order="F" if header.is_fortran else "C")
    file.readinto(array.ravel("K").view(np.uint8).data)
    return array


def _shape_fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(n >= 1 and m in (None, n) for n, m in zip(shape, expected, strict=True))


def _read_header(file: BinaryIO) -> _Header:
    """Read the header, and leave the file at the first byte of data."""
    begin = file.read(12)
    if len(begin) < 12:
        raise ValueError("it ends within its header")
    first_version = begin[6] == 1
    length = 10 + int.from_bytes(begin[8:10], "little") if first_version else 12 + int.from_bytes(begin[8:12], "little")
    if length > _MAX_HEADER:
        raise ValueError(f"a header of {length} bytes")
    file.seek(0)
    return _parse_header(file.read(length), first_version)


@lru_cache(maxsize=64)  # files of one kind have equal headers, and parsing one takes as long as reading a mask
def _parse_header(content: bytes, first_version: bool) -> _Header:
    file = io.BytesIO(content)
    try:
        npy_format.read_magic(file)
        read = npy_format.read_array_header_1_0 if first_version else npy_format.read_array_header_2_0
        with _PARSING:
            return _Header(*read(file, max_header_size=_MAX_HEADER))
    except Exception as error:  # numpy evaluates it as a Python literal, which fails in many ways
        raise ValueError(str(error) or type(error).__name__) from None


def read_label(path: Path, shape: tuple[int | None, ...]) -> npt.NDArray[np.uint8]:
    """Read a mask of any integer or boolean dtype.

    Args:
        path: The `.npy` file.
        shape: The expected shape, as for `read_npy`.

    Returns:
        The mask, uint8 0/1.

    Raises:
        BadRecord: If the file cannot be read or holds other values than 0 and 1.
    """
    return as_label(read_npy(path, kinds="i u b", shape=shape), f"{path.parent.name}/{path.name}")


def as_label(array: npt.NDArray[Any], where: str) -> npt.NDArray[np.uint8]:
    """Check that an array of integers or booleans is a mask.

    Args:
        array: The array.
        where: What it was read from, for the message.

    Returns:
        The mask, uint8 0/1.

    Raises:
        BadRecord: If it holds other values than 0 and 1.
    """
    if array.dtype == np.bool_:
        return array.astype(np.uint8)
    mask = np.empty(array.shape, np.uint8)
    if not _convert_label(array.reshape(-1), mask.reshape(-1)):
        raise BadRecord(f"{where}: values other than 0 and 1; restore the file")
    return mask


@compiled
def _convert_label(values: npt.NDArray[Any], out: npt.NDArray[np.uint8]) -> bool:
    """Convert integers to bytes; returns whether they are all 0 or 1."""
    is_label = True
    for i in range(values.size):
        out[i] = np.uint8(values[i])
        is_label &= (values[i] >= 0) & (values[i] <= 1)
    return is_label
