"""Stored values of ABI files, chunk by chunk, so that intermediate results stay in the processor's cache."""

from collections.abc import Iterator
from typing import Any

import deflate
import h5py
import numpy as np
import numpy.typing as npt

from contrail_data.compiled import compiled


def stored_parts(variable: Any, rows: slice, columns: slice) -> Iterator[tuple[tuple[slice, slice], npt.NDArray[Any]]]:
    """Yield the stored values of a window chunk by chunk, in native byte order, each with its place in the window.

    Chunks that are compressed in the usual way are decompressed here, outside of the HDF5 library's global lock, so
    that other threads can work meanwhile.

    Args:
        variable: A variable of an open file.
        rows: Rows of the window, with start and stop.
        columns: Columns of the window.

    Yields:
        Rows and columns within the window, and their values.
    """
    pipeline = variable.id.get_create_plist()
    codes = [pipeline.get_filter(i)[0] for i in range(pipeline.get_nfilters())]
    size, native = variable.dtype.itemsize, variable.dtype.newbyteorder("=")
    shuffled = [h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE]
    usual = codes == [h5py.h5z.FILTER_DEFLATE] or (codes == shuffled and size <= 2)
    deep, wide = variable.chunks or (rows.stop - rows.start, columns.stop - columns.start)
    for top in range(rows.start // deep * deep, rows.stop, deep):
        for left in range(columns.start // wide * wide, columns.stop, wide):
            r0, r1 = max(rows.start, top), min(rows.stop, top + deep)
            c0, c1 = max(columns.start, left), min(columns.stop, left + wide)
            part = slice(r0 - rows.start, r1 - rows.start), slice(c0 - columns.start, c1 - columns.start)
            filter_mask, packed = 1, b""
            if usual and variable.id.get_chunk_info_by_coord((top, left)).byte_offset is not None:
                filter_mask, packed = variable.id.read_direct_chunk((top, left))
            if filter_mask:  # a chunk with other filters, or one that was never written
                yield part, np.ascontiguousarray(variable[r0:r1, c0:c1], native)
                continue
            content: npt.NDArray[Any] = np.frombuffer(deflate.zlib_decompress(packed, deep * wide * size), np.uint8)
            if codes == shuffled and size == 2:
                content = _in_pairs(content)
            chunk = content.view(variable.dtype).reshape(deep, wide)
            yield part, np.ascontiguousarray(chunk[r0 - top : r1 - top, c0 - left : c1 - left], native)


@compiled
def _in_pairs(content: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Undo the shuffling of values of two bytes, of which all first bytes came first."""
    count = content.size // 2
    pairs = np.empty(2 * count, np.uint8)
    for i in range(count):
        pairs[2 * i], pairs[2 * i + 1] = content[i], content[count + i]
    return pairs


@compiled
def look_up(
    table: npt.NDArray[np.float32], stored_yx: npt.NDArray[np.unsignedinteger[Any]], out_yx: npt.NDArray[np.float32]
) -> None:
    """Look up stored values in a table.

    Args:
        table: What each stored value stands for.
        stored_yx: Stored values, unsigned.
        out_yx: Where to put the result, of the same shape.
    """
    for y in range(stored_yx.shape[0]):
        for x in range(stored_yx.shape[1]):
            out_yx[y, x] = table[stored_yx[y, x]]
