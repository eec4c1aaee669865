"""Reading `.npy` files that came from elsewhere: nothing is trusted, nothing is unpickled."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash
from numpy.lib import format as npy_format

from contrail_data.errors import BadRecord

_MAX_HEADER = 4096


def read_npy(
    path: Path,
    *,
    kinds: str,
    shape: tuple[int | None, ...],
    allocate: Callable[[tuple[int, ...]], npt.NDArray[Any]] | None = None,
) -> npt.NDArray[Any]:
    """The array in a file, as stored. The header is checked against the file's size before memory is taken.

    `allocate(shape)` may hand out the C-ordered array to read into, of the file's own dtype. `kinds` are the
    accepted `dtype.str` values or one-letter kinds, separated by spaces; `shape` has None where any length from 1
    will do. Raises BadRecord naming the file and the reason.
    """
    where = f"{path.parent.name}/{path.name}"
    try:
        with path.open("rb") as file:
            begin = file.read(12)
            if len(begin) < 12:
                raise ValueError("cut within its header")
            first_version = begin[6] == 1
            length = 10 + int.from_bytes(begin[8:10], "little")
            if not first_version:
                length = 12 + int.from_bytes(begin[8:12], "little")
            if length > _MAX_HEADER:
                raise ValueError(f"a header of {length} bytes")
            file.seek(0)
            found, fortran, dtype = _header(file.read(length), first_version)
            if dtype.hasobject:
                raise BadRecord(f"{where}: holds pickled objects, which are never loaded: save a plain array")
            if dtype.str not in kinds.split() and dtype.kind not in kinds.split():
                raise BadRecord(f"{where}: dtype is {dtype}, expected {kinds}: restore the file")
            fits = len(found) == len(shape) and all(
                n >= 1 and want in (None, n) for n, want in zip(found, shape, strict=True)
            )
            if not fits:
                expected = "(" + ", ".join("any" if n is None else str(n) for n in shape) + ")"
                raise BadRecord(f"{where}: shape is {tuple(found)}, expected {expected}: restore the file")
            want = dtype.itemsize * int(np.prod([int(n) for n in found], dtype=object))
            have = os.fstat(file.fileno()).st_size - file.tell()
            if have != want:
                state = "truncated" if have < want else "too long"
                raise BadRecord(f"{where}: {state}: {have} bytes of data, expected {want}: restore the file")
            if fortran:
                turned = np.empty(found[::-1], dtype)
                file.readinto(turned.reshape(-1).view(np.uint8).data)
                turned = turned.T
                if allocate is None:
                    return turned
                array = allocate(found)
                array[...] = turned
                return array
            array = np.empty(found, dtype) if allocate is None else allocate(found)
            file.readinto(array.reshape(-1).view(np.uint8).data)
            return array
    except FileNotFoundError:
        raise BadRecord(f"{where}: missing: restore the file") from None
    except (ValueError, MemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadRecord(f"{where}: not a readable .npy file ({reason[:90]}): restore the file") from None
    except OSError as error:
        raise BadRecord(f"{where}: cannot be read ({error.strerror}): check the disk and permissions") from None


@lru_cache(maxsize=64)  # files of one kind begin alike, and reading a header costs as much as reading a mask
def _header(begin: bytes, first_version: bool) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """(shape, Fortran order, dtype) that a file's magic and header tell."""
    file = io.BytesIO(begin)
    try:
        npy_format.read_magic(file)
        read = npy_format.read_array_header_1_0 if first_version else npy_format.read_array_header_2_0
        return read(file, max_header_size=_MAX_HEADER)
    except Exception as error:  # numpy parses it as Python, which fails in many ways
        raise ValueError(str(error) or type(error).__name__) from None


def read_label(path: Path, shape: tuple[int | None, ...]) -> npt.NDArray[np.uint8]:
    """A 0/1 mask of any integer or boolean dtype as uint8. Raises BadRecord, also for other values."""
    array = read_npy(path, kinds="i u b", shape=shape)
    if array.dtype != np.bool_ and (array.min() < 0 or array.max() > 1):
        raise BadRecord(f"{path.parent.name}/{path.name}: values other than 0 and 1: restore the file")
    return array.astype(np.uint8)


def digest(array: npt.NDArray[Any]) -> str:
    """xxh3 (128 bits) of an array's bytes in C order, hexadecimal: equal for equal data, whoever holds it."""
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(array).data)
