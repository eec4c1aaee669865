"""Limits on what a store from elsewhere may claim, checked before anything is decoded or memory is allocated."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

from contrail_data.errors import ContrailError

_CODECS = {"bytes", "blosc", "zstd", "gzip", "crc32c", "sharding_indexed", "transpose", "vlen-utf8"}
_MAX_VALUES = 2**26  # of a per-sample variable
_MAX_BYTES_PER_VALUE = 8192  # the text of a projection is the longest


def check_metadata(group: Any, pixel_arrays: Collection[str], address: str) -> None:
    """Refuse codecs other than the usual ones (some run code), and arrays that are larger than any of this format.

    Args:
        group: The group's metadata, with the consolidated metadata of its arrays.
        pixel_arrays: Names of the arrays whose size is limited where they are read.
        address: Path or URL of the store, for messages.

    Raises:
        ContrailError: If there is one; the message names the array.
    """
    try:
        arrays = {str(k): v for k, v in group["consolidated_metadata"]["metadata"].items() if v["node_type"] == "array"}
        samples = int(group["attributes"]["samples"])
        if absent := {"record_id", "split"} - set(arrays):
            raise ContrailError(f"{address}: {absent.pop()} is missing; restore the store")
        for name, metadata in arrays.items():
            if metadata["zarr_format"] != 3:
                raise ContrailError(
                    f"{address}/{name}: not opened, since it is not of zarr format 3; restore the store"
                )
            if unknown := _codec_names(metadata["codecs"]) - _CODECS:
                codecs = ", ".join(sorted(unknown))[:80]
                raise ContrailError(f"{address}/{name}: not opened, since it has the codec {codecs}; restore the store")
            shape = [int(n) for n in metadata["shape"]]
            chunk = [int(n) for n in metadata["chunk_grid"]["configuration"]["chunk_shape"]]
            values = 0 if name in pixel_arrays else max(math.prod(shape), math.prod(chunk))
            if min(shape + chunk, default=0) < 0 or values > _MAX_VALUES:
                claimed = f"{max(values, math.prod(shape)):,}"[:30]
                raise ContrailError(
                    f"{address}/{name}: not opened, since it claims {claimed} values; restore the store"
                )
            if name in (*pixel_arrays, "record_id", "split") and shape[0] != samples:
                raise ContrailError(f"{address}/{name}: number of samples is not the stated one; restore the store")
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError):
        raise ContrailError(f"{address}/zarr.json: cannot be opened (malformed metadata); restore the store") from None


def _codec_names(codecs: list[dict[str, Any]]) -> set[str]:
    inner = [c.get("configuration", {}).get("codecs", []) for c in codecs if c["name"] == "sharding_indexed"]
    return {str(c["name"]) for c in codecs}.union(*map(_codec_names, inner))


def check_decoded_size(file: str, content: bytes, shape: Sequence[int]) -> None:
    """Refuse a stored chunk that would decode to far more bytes than its shape implies.

    Args:
        file: Path or URL of the chunk, for the message.
        content: Its stored bytes.
        shape: Shape of its values.

    Raises:
        ContrailError: If it would.
    """
    try:
        claimed = _zstd_size(content[:18])
    except IndexError:
        return  # the decoder reports it
    if claimed > 2**20 + _MAX_BYTES_PER_VALUE * math.prod(shape):
        raise ContrailError(
            f"{file}: not decoded, since it claims {claimed:,} bytes for {math.prod(shape):,} values; restore the store"
        )


def _zstd_size(header: bytes) -> int:
    """Return the decoded size that the header of a zstd frame states (RFC 8878, 3.1.1), or 0 for other data.

    A frame that does not state its size counts as unlimited.
    """
    if header[:4] != b"\x28\xb5\x2f\xfd":
        return 0
    descriptor = header[4]
    single = descriptor >> 5 & 1
    width = (single, 2, 4, 8)[descriptor >> 6]
    start = 5 + (1 - single) + (0, 1, 2, 4)[descriptor & 3]
    if width == 0:
        return 2**63
    return int.from_bytes(header[start : start + width], "little") + (256 if width == 2 else 0)
