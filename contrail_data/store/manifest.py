"""MISSING DOCSTRING."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import xxhash

from contrail_data.errors import ContrailError
from contrail_data.storage.place import Place, check_key
from contrail_data.store.schema import MANIFEST, PROVENANCE


def group_file(attributes: Mapping[str, Any], files: Mapping[str, bytes]) -> bytes:
    """The group's `zarr.json`; `files` are the arrays' own, by key, among others."""
    arrays = {key.removesuffix("/zarr.json"): json.loads(files[key]) for key in sorted(files) if "/zarr.json" in key}
    consolidated = {"kind": "inline", "must_understand": False, "metadata": arrays}
    group = {"zarr_format": 3, "node_type": "group", "attributes": attributes, "consolidated_metadata": consolidated}
    return json.dumps(group, indent=1).encode()


def provenance_file(facts: Mapping[str, Any]) -> bytes:
    """`provenance.json`, which carries its own checksum, being outside of the manifest."""
    content = json.dumps(facts, sort_keys=True).encode()
    return json.dumps({**facts, "checksum": xxhash.xxh3_64_hexdigest(content)}, indent=1).encode()


def digest_of(attributes: Mapping[str, Any]) -> str:
    """What names a store: over its attributes, of which one is the manifest's digest, and that is over all the rest."""
    facts = {k: v for k, v in attributes.items() if k != "digest"}
    canonical = json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()
    return "sha256:" + hashlib.sha256(canonical).hexdigest()


def read_manifest(place: Place, stated: str) -> dict[str, tuple[str, int]]:
    """(xxh3 checksum, bytes) of every file by key; `stated` is the manifest's digest in the store's attributes.

    Raises ContrailError for a manifest that is not the one sealed, FileNotFoundError where there is none.
    """
    content = place.read(MANIFEST, most=2**28)
    if "sha256:" + hashlib.sha256(content).hexdigest() != stated:
        raise ContrailError(f"{place.file(MANIFEST)}: checksum differs: verify the store, and repair it")
    found = {}
    for line in content.decode(errors="replace").splitlines():
        checksum, size, key = (*line.split(" ", 2), "", "")[:3]
        if not size.isdecimal() or len(size) > 15 or len(checksum) != 16:
            raise ContrailError(f"{place.file(MANIFEST)}: holds the line {line[:40]!r}: it is none of ours")
        found[check_key(key)] = (checksum, int(size))
    return found


cached_manifest = lru_cache(maxsize=16)(read_manifest)  # what was sealed once does not change


def sound(place: Place, key: str, listed: Mapping[str, tuple[str, int]]) -> bytes:
    """A file's bytes. Raises ContrailError when they are not those of the manifest."""
    if key not in listed:
        raise ContrailError(f"{place.file(key)}: is not in the manifest: verify the store")
    checksum, size = listed[key]
    try:
        content = bytes(place.read_range(key, 0, size + 1))  # one byte more would tell
    except FileNotFoundError:
        raise ContrailError(f"{place.file(key)}: missing: verify the store, and repair it") from None
    if len(content) != size or xxhash.xxh3_64_hexdigest(content) != checksum:
        raise ContrailError(f"{place.file(key)}: fails its checksum: verify the store, and repair it")
    return content


def read_provenance(place: Place) -> dict[str, Any]:
    """What `provenance.json` tells; nothing where it is missing or unreadable, being no part of the digest."""
    try:
        told = json.loads(place.read(PROVENANCE))
    except (FileNotFoundError, ContrailError, ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}
