"""Read `.npy` files from unknown origin: every header is checked, and nothing is unpickled."""

import io
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import xxhash
from numpy.lib import format as npy_format

from contrail_data.errors import BadRecord
from contrail_data.storage.files import first_line, open_regular

_MAX_HEADER = 4096
_PARSING = Lock()
"""numpy parses headers as Python literals. Python 3.11.7 cannot do that in two threads at once: now and then it raises
SystemError (https://github.com/python/cpython/issues/106905), and a sound file was taken for a damaged one."""


def read_npy(
    path: Path, *, kinds: str, shape: tuple[int | None, ...], out: npt.NDArray[Any] | None = None
) -> npt.NDArray[Any]:
    """Read the array in a file. The header is checked against the size of the file before memory is allocated.

    Args:
        path: The file.
        kinds: Accepted `dtype.str` values or one-letter `dtype.kind` values, separated by spaces.
        shape: The expected shape; None accepts any length of at least 1.
        out: C-ordered array of the file's shape to read into; None allocates one.

    Returns:
        The array, in the dtype of the file, but in native byte order.

    Raises:
        BadRecord: If the file cannot be read or holds another kind of array; the message names it and the reason.
    """
    name = f"{path.parent.name}/{path.name}"
    try:
        with open_regular(path) as file:
            file_shape, fortran_order, dtype = _read_header(file)
            if dtype.hasobject:
                raise BadRecord(f"{name}: contains pickled objects, which are never loaded; save a plain array")
            if dtype.str not in kinds.split() and dtype.kind not in kinds.split():
                raise BadRecord(f"{name}: dtype is {dtype}, expected {kinds}; restore the file")
            if not _shape_fits(file_shape, shape):
                expected = "(" + ", ".join("any" if n is None else str(n) for n in shape) + ")"
                raise BadRecord(f"{name}: shape is {tuple(file_shape)}, expected {expected}; restore the file")
            expected_bytes = dtype.itemsize * int(np.prod([int(n) for n in file_shape], dtype=object))
            data_bytes = os.fstat(file.fileno()).st_size - file.tell()
            if data_bytes != expected_bytes:
                state = "truncated" if data_bytes < expected_bytes else "too long"
                sizes = f"{data_bytes} bytes of data, expected {expected_bytes}"
                raise BadRecord(f"{name}: {state}: {sizes}; restore the file")
            array = out
            if array is None or array.dtype != dtype or fortran_order:
                array = np.empty(file_shape, dtype, order="F" if fortran_order else "C")
            file.readinto(array.ravel("K").view(np.uint8).data)
            if out is None:
                return array.astype(dtype.newbyteorder("="), copy=False)
            if out is not array:
                out[...] = array
            return out
    except FileNotFoundError:
        raise BadRecord(f"{name}: missing; restore the file") from None
    except (ValueError, MemoryError) as error:
        raise BadRecord(f"{name}: not a readable .npy file ({first_line(error)[:90]}); restore the file") from None
    except OSError as error:
        raise BadRecord(f"{name}: cannot be read ({error.strerror}); check the disk and permissions") from None


def _shape_fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(n >= 1 and m in (None, n) for n, m in zip(shape, expected, strict=True))


def _read_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read shape, Fortran order and dtype, and leave the file at the first byte of data."""
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
def _parse_header(content: bytes, first_version: bool) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    file = io.BytesIO(content)
    try:
        npy_format.read_magic(file)
        read = npy_format.read_array_header_1_0 if first_version else npy_format.read_array_header_2_0
        with _PARSING:
            return read(file, max_header_size=_MAX_HEADER)
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
    if array.dtype != np.bool_ and (array.min() < 0 or array.max() > 1):
        raise BadRecord(f"{where}: values other than 0 and 1; restore the file")
    return array.astype(np.uint8)


def digest(array: npt.NDArray[Any]) -> str:
    """Compute the 128-bit xxh3 hash of an array's bytes in C order.

    Args:
        array: Any array.

    Returns:
        The hash in hexadecimal; equal arrays have equal hashes, whatever their memory layout.
    """
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(array).data)


def band_digests(bands: Sequence[int], temperature_byxt: npt.NDArray[np.float32]) -> str:
    """Compute the digest of each band of a sample, which together identify its raw data.

    Args:
        bands: The bands.
        temperature_byxt: Their brightness temperatures, (band, y, x, time) float32 in kelvin.

    Returns:
        Numbers and digests of the bands.
    """
    return " ".join(f"{band}:{digest(plane)}" for band, plane in zip(bands, temperature_byxt, strict=True))
