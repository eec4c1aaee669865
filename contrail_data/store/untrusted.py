"""What a store from somewhere else may not claim: said before anything is decoded or memory taken."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

from contrail_data.errors import ContrailError

_CODECS = {"bytes", "blosc", "zstd", "gzip", "crc32c", "sharding_indexed", "transpose", "vlen-utf8"}
_MOST_VALUES = 2**26  # of a per-sample variable
_MOST_BYTES_A_VALUE = 8192  # a projection's text is the longest


def check_metadata(group: Any, with_pixels: Collection[str], where: str) -> None:
    """Refuse what a store from somewhere else could do harm with, before anything is decoded or memory taken: codecs
    other than the plain ones (some run code), and arrays larger than any of ours.

    Raises ContrailError naming the array.
    """
    try:
        arrays = {str(k): v for k, v in group["consolidated_metadata"]["metadata"].items() if v["node_type"] == "array"}
        samples = int(group["attributes"]["samples"])
        if absent := {"record_id", "split"} - set(arrays):
            raise ContrailError(f"{where}: {absent.pop()} is missing: restore the store")
        for name, meta in arrays.items():
            known = _codec_names(meta["codecs"])
            if meta["zarr_format"] != 3:
                raise ContrailError(f"{where}/{name}: is not of zarr format 3: not opened, restore the store")
            if not known <= _CODECS:
                foreign = ", ".join(sorted(known - _CODECS))[:80]
                raise ContrailError(f"{where}/{name}: codec {foreign} is not one of ours: not opened")
            shape = [int(n) for n in meta["shape"]]
            chunk = [int(n) for n in meta["chunk_grid"]["configuration"]["chunk_shape"]]
            # Frames have a limit of their own where they are read.
            values = 0 if name in with_pixels else max(math.prod(shape), math.prod(chunk))
            if min(shape + chunk, default=0) < 0 or values > _MOST_VALUES:
                claimed = f"{max(values, math.prod(shape)):,}"[:30]
                raise ContrailError(f"{where}/{name}: claims {claimed} values: not opened, restore the store")
            if name in (*with_pixels, "record_id", "split") and shape[0] != samples:
                raise ContrailError(f"{where}/{name}: its samples are not those stated: restore the store")
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError):
        raise ContrailError(f"{where}/zarr.json: cannot be opened (malformed metadata): restore the store") from None


def _codec_names(codecs: list[dict[str, Any]]) -> set[str]:
    inner = [c.get("configuration", {}).get("codecs", []) for c in codecs if c["name"] == "sharding_indexed"]
    return {str(c["name"]) for c in codecs}.union(*(_codec_names(found) for found in inner))


def refuse_bomb(where: str, content: bytes, shape: Sequence[int]) -> None:
    """Raise ContrailError for a stored chunk that would decode to far more than its shape says."""
    try:
        claimed = _zstd_bytes(content[:18])
    except IndexError:
        return  # told when it is decoded
    if claimed > 2**20 + _MOST_BYTES_A_VALUE * math.prod(shape):
        raise ContrailError(f"{where}: claims {claimed:,} bytes for {math.prod(shape):,} values: not decoded")


def _zstd_bytes(head: bytes) -> int:
    """Decoded size that a zstd frame's header states (RFC 8878, 3.1.1), none being as bad as too much; 0 for others."""
    if head[:4] != b"\x28\xb5\x2f\xfd":
        return 0
    descriptor = head[4]
    single = descriptor >> 5 & 1
    width = (single, 2, 4, 8)[descriptor >> 6]
    at = 5 + (1 - single) + (0, 1, 2, 4)[descriptor & 3]
    if width == 0:
        return 2**63
    return int.from_bytes(head[at : at + width], "little") + (256 if width == 2 else 0)
