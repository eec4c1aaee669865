"""Metadata of sealed stores.

A store may come from elsewhere, so what it claims is checked before anything is decoded or memory is allocated.
"""

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from contrail_data.errors import ContrailError
from contrail_data.storage.place import Place
from contrail_data.store.journal import PLAN
from contrail_data.store.manifest import (
    Damaged,
    FileChecksum,
    Manifest,
    read_manifest_once,
    read_verified,
    reread,
    store_digest,
)
from contrail_data.store.schema import DIMS, FORMAT, FORMAT_VERSIONS, GROUP, MANIFEST, Kind

_CODECS = {"bytes", "blosc", "zstd", "gzip", "crc32c", "sharding_indexed", "transpose", "vlen-utf8"}
_MAX_VALUES = 2**26  # of a per-sample variable
_MAX_BYTES_PER_VALUE = 8192  # the text of a projection is the longest


@reread
def read_metadata(place: Place) -> tuple[Any, Manifest]:
    """Read the metadata of the group and of its arrays, and the manifest.

    Args:
        place: The store.

    Returns:
        JSON of the group's `zarr.json`, which holds the metadata of all arrays, and the manifest.

    Raises:
        ContrailError: If it is not a sealed store of this format, or claims what no store of this package has.
        Damaged: If they are not what was sealed.
    """
    group = read_group(place)
    manifest = read_manifest_once(place, group["attributes"]["manifest"])
    _check_metadata(group, place.url)
    _check_attributes(group["attributes"], place.url)
    for name, metadata in group["consolidated_metadata"]["metadata"].items():
        key = f"{name}/{GROUP}"
        as_zarr_writes_it = json.dumps(metadata, indent=2).encode()
        if FileChecksum.of(as_zarr_writes_it) != manifest.get(key):
            with suppress(ValueError, RecursionError):
                if json.loads(read_verified(place, key, manifest)) == metadata:
                    continue
            raise Damaged(f"{place.file(GROUP)}: metadata of {name} is not what was sealed; verify the store")
    return group, manifest


@reread
def read_group(place: Place) -> Any:
    """Read the group's `zarr.json`, and verify its attributes.

    Args:
        place: The store.

    Returns:
        Its JSON.

    Raises:
        ContrailError: If it is not that of a sealed store of this format.
        Damaged: If it is not JSON, or not what was sealed.
    """
    try:
        content = place.read(GROUP)
    except FileNotFoundError:
        raise ContrailError(_instead_of_store(place)) from None
    try:
        group = json.loads(content)
        attributes = group["attributes"]
        version = attributes["format_version"]
        is_sealed = attributes["format"] == FORMAT and type(version) is int
        is_sealed &= all(isinstance(attributes[name], str) for name in ("digest", "manifest"))
    except (ValueError, RecursionError):
        raise Damaged(f"{place.file(GROUP)}: cannot be opened (not JSON); restore the store") from None
    except (KeyError, TypeError):
        is_sealed = False
    if not is_sealed:
        raise ContrailError(f"{place}: a zarr group, but not a sealed contrail store; build one with build-ash")
    kind = attributes.get("kind")
    known = FORMAT_VERSIONS[kind] if kind in [*Kind] else version  # an unknown kind is refused by the caller
    if version != known:
        again = "build it again" if kind == Kind.SAMPLES else "predict it again, as its provenance.json states"
        remedy = "upgrade contrail" if version > known else again
        raise ContrailError(f"{place}: has format version {str(version)[:20]}, not {known}; {remedy}")
    if store_digest(attributes) != attributes["digest"]:
        raise Damaged(f"{place.file(GROUP)}: attributes are not those that were sealed; verify the store")
    return group


def require_store(place: Place) -> None:
    """Refuse a place where no sealed store lies, neither an intact nor a damaged one.

    Args:
        place: The place.

    Raises:
        ContrailError: If it has neither the metadata of a group nor a manifest; the message says what it is instead.
    """
    if place.size(GROUP) is None and place.size(MANIFEST) is None:
        raise ContrailError(_instead_of_store(place))


def _instead_of_store(place: Place) -> str:
    """Describe a place that is not a store."""
    if place.size(PLAN) is not None:
        return f"{place}: an unfinished build; run its command again, which finishes it or reports why it cannot"
    if not place.remote and place.path.exists():
        remedy = 'build raw data into one with "contrail-data build-ash", or check the path'
        return f"{place}: not a store (it has no zarr.json); {remedy}"
    return f"{place}: no such store or catalog name; check the path"


def _check_attributes(attributes: Mapping[str, Any], address: str) -> None:
    """Refuse stores of an unknown kind, and those that lack what is read of every store of their kind.

    Raises:
        ContrailError: If it is one; the message names the attribute or the kind.
    """
    kind = attributes.get("kind")
    required = ("composite", "label_shift", "statistics") if kind == Kind.SAMPLES else ("parent", "model")
    if absent := [name for name in ("kind", *required) if name not in attributes]:
        raise ContrailError(f"{address}: attribute {absent[0]!r} is missing; restore the store")
    if kind not in set(Kind):
        raise ContrailError(f"{address}: stores of kind {str(kind)[:40]!r} are unknown; upgrade contrail")


def _check_metadata(group: Any, address: str) -> None:
    """Refuse codecs other than the usual ones (some run code), and arrays that are larger than any of this format.

    Raises:
        ContrailError: If there is one; the message names the array.
    """
    try:
        arrays = {str(k): v for k, v in group["consolidated_metadata"]["metadata"].items() if v["node_type"] == "array"}
        samples = int(group["attributes"]["samples"])
        if absent := {"record_id", "split"} - set(arrays):
            raise ContrailError(f"{address}: {absent.pop()} is missing; restore the store")
        for name, metadata in arrays.items():
            if reason := _implausible(name, metadata, samples):
                raise ContrailError(f"{address}/{name}: {reason}; restore the store")
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError):
        raise ContrailError(f"{address}/zarr.json: cannot be opened (malformed metadata); restore the store") from None


def _implausible(name: str, metadata: Any, samples: int) -> str:
    """Return what is implausible about an array; empty if nothing. The size of pixel arrays is checked elsewhere."""
    if metadata["zarr_format"] != 3:
        return "not opened, since it is not of zarr format 3"
    if unknown := _codec_names(metadata["codecs"]) - _CODECS:
        return f"not opened, since it has the codec {', '.join(sorted(unknown))[:80]}"
    shape = [int(n) for n in metadata["shape"]]
    chunk = [int(n) for n in metadata["chunk_grid"]["configuration"]["chunk_shape"]]
    values = 0 if name in DIMS else max(math.prod(shape), math.prod(chunk))
    if min(shape + chunk, default=0) < 0 or values > _MAX_VALUES:
        return f"not opened, since it claims {f'{max(values, math.prod(shape)):,}'[:30]} values"
    is_by_sample = name in (*DIMS, "record_id", "split")
    return "number of samples is not the stated one" if is_by_sample and shape[0] != samples else ""


def _codec_names(codecs: list[dict[str, Any]]) -> set[str]:
    inner = [c.get("configuration", {}).get("codecs", []) for c in codecs if c["name"] == "sharding_indexed"]
    return {str(c["name"]) for c in codecs}.union(*map(_codec_names, inner))


def check_decoded_size(file: str, content: bytes, shape: Sequence[int]) -> None:
    """Refuse a stored chunk that would decode to far more bytes than its shape implies, before memory is allocated.

    Args:
        file: Its address, for messages.
        content: Its bytes.
        shape: Shape of its array.

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
