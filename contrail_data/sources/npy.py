"""Read `.npy` files from unknown origin: every header is checked, and nothing is unpickled."""

import errno
import io
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from io import FileIO
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy_format

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


class _Unexpected(Exception):
    """The file holds another kind of array; the message says which, and what to do."""


class NpyFile(NamedTuple):
    """A `.npy` file that is open at the first byte of its data, see `opened_npy`."""

    file: FileIO
    header: _Header

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self.header.shape

    def read(self) -> npt.NDArray[Any]:
        """Read the array.

        Returns:
            The array, in the dtype of the file, but in native byte order.
        """
        shape, is_fortran, dtype = self.header
        array = np.empty(shape, dtype, order="F" if is_fortran else "C")
        _fill(self.file, array.ravel("K"))
        return array.astype(dtype.newbyteorder("="), copy=False)

    def read_blocks(self, out: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
        """Read the array block by block.

        Args:
            out: Where to put the array, of its shape, C-contiguous.

        Yields:
            The next values of `out`, see `blocks`.
        """
        if self.header.dtype == out.dtype and not self.header.is_fortran:
            for block in blocks(out):
                _fill(self.file, block)
                yield block
        else:
            out[...] = self.read()
            yield from blocks(out)


@contextmanager
def opened_npy(path: str | Path, *, kinds: str, shape: tuple[int | None, ...]) -> Iterator[NpyFile]:
    """Open a file. Its header is checked against its size before memory is allocated.

    Args:
        path: The file.
        kinds: Accepted `dtype.str` values or one-letter `dtype.kind` values, separated by spaces.
        shape: The expected shape; None accepts any length of at least 1.

    Yields:
        The file.

    Raises:
        BadRecord: If the file cannot be read or holds another kind of array; the message names it and the reason.
    """
    try:
        with open_regular(path, buffering=0) as file:
            content = _header_bytes(file)
            header = _expected_header(content, kinds, shape)
            _check_size(header, os.fstat(file.fileno()).st_size - len(content))
            yield NpyFile(file, header)
    except _Unexpected as error:
        raise BadRecord(f"{_name(path)}: {error}") from None
    except FileNotFoundError:
        raise BadRecord(f"{_name(path)}: missing; restore the file") from None
    except (ValueError, MemoryError) as error:
        reason = first_line(error)[:90]
        raise BadRecord(f"{_name(path)}: not a readable .npy file ({reason}); restore the file") from None
    except OSError as error:
        raise BadRecord(f"{_name(path)}: cannot be read ({error.strerror}); check the disk and permissions") from None


def read_npy(path: str | Path, *, kinds: str, shape: tuple[int | None, ...]) -> npt.NDArray[Any]:
    """Read the array in a file.

    Args:
        path: The file.
        kinds: As for `opened_npy`.
        shape: As for `opened_npy`.

    Returns:
        The array, in the dtype of the file, but in native byte order.

    Raises:
        BadRecord: As `opened_npy` does.
    """
    with opened_npy(path, kinds=kinds, shape=shape) as file:
        return file.read()


def _name(path: str | Path) -> str:
    return "/".join(str(path).split(os.sep)[-2:])


def _fill(file: FileIO, array: npt.NDArray[Any]) -> None:
    """Read the next bytes of a file into an array, (n)."""
    memory = array.view(np.uint8).data
    while memory and (count := file.readinto(memory)):
        memory = memory[count:]
    if memory:
        raise OSError(errno.EIO, "it became shorter while it was read")


def _check_size(header: _Header, data_bytes: int) -> None:
    expected_bytes = header.dtype.itemsize * math.prod(map(int, header.shape))
    if data_bytes != expected_bytes:
        state = "truncated" if data_bytes < expected_bytes else "too long"
        raise _Unexpected(f"{state}: {data_bytes} bytes of data, expected {expected_bytes}; restore the file")


def _shape_fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(n >= 1 and m in (None, n) for n, m in zip(shape, expected, strict=True))


def _header_bytes(file: FileIO) -> bytes:
    """Read the header, and leave the file at the first byte of data."""
    begin = file.read(12)
    if len(begin) < 12:
        raise ValueError("it ends within its header")
    length = 10 + int.from_bytes(begin[8:10], "little")
    if begin[6] != 1:
        length = 12 + int.from_bytes(begin[8:12], "little")
    if length > _MAX_HEADER:
        raise ValueError(f"a header of {length} bytes")
    return begin + file.read(length - 12)


@lru_cache(maxsize=64)  # files of one kind have equal headers, and parsing one takes as long as reading a mask
def _expected_header(content: bytes, kinds: str, shape: tuple[int | None, ...]) -> _Header:
    """Parse a header, and check that it is as expected."""
    header = _parse_header(content)
    dtype = header.dtype
    if dtype.hasobject:
        raise _Unexpected("contains pickled objects, which are never loaded; save a plain array")
    if dtype.str not in kinds.split() and dtype.kind not in kinds.split():
        raise _Unexpected(f"dtype is {dtype.name}, expected {_kinds_text(kinds)}; restore the file")
    if not _shape_fits(header.shape, shape):
        expected = "(" + ", ".join("any" if n is None else str(n) for n in shape) + ")"
        raise _Unexpected(f"shape is {tuple(header.shape)}, expected {expected}; restore the file")
    return header


def _kinds_text(kinds: str) -> str:
    """Name dtypes, whatever their byte order, and kinds of them."""
    of_kind = {"f": "floating point", "i": "integers", "u": "integers", "b": "booleans"}
    return " or ".join(dict.fromkeys(of_kind.get(kind) or np.dtype(kind).name for kind in kinds.split()))


def _parse_header(content: bytes) -> _Header:
    file = io.BytesIO(content)
    try:
        npy_format.read_magic(file)
        read = npy_format.read_array_header_1_0 if content[6] == 1 else npy_format.read_array_header_2_0
        with _PARSING:
            return _Header(*read(file, max_header_size=_MAX_HEADER))
    except Exception as error:  # numpy evaluates it as a Python literal, which fails in many ways
        raise ValueError(str(error) or type(error).__name__) from None


def read_label(path: str | Path, shape: tuple[int | None, ...]) -> npt.NDArray[np.uint8]:
    """Read a mask of any integer or boolean dtype.

    Args:
        path: The `.npy` file.
        shape: The expected shape, as for `read_npy`.

    Returns:
        The mask, uint8 0/1.

    Raises:
        BadRecord: If the file cannot be read or holds other values than 0 and 1.
    """
    return as_label(read_npy(path, kinds="i u b", shape=shape), _name(path))


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
    if np.bitwise_or.reduce(array, axis=None) not in (0, 1):  # any other value adds a bit, or the sign
        raise BadRecord(f"{where}: values other than 0 and 1; restore the file")
    return array.astype(np.uint8, order="C")
