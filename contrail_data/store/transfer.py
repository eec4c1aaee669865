"""Copies whole stores, verified and resumable, and repairs a store from a copy of it."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from contrail_data.errors import ContrailError
from contrail_data.progress import progress
from contrail_data.storage.place import Place, sync_folders
from contrail_data.store import journal
from contrail_data.store.manifest import FileChecksum, read_manifest, read_verified, read_verified_provenance
from contrail_data.store.reader import open_store
from contrail_data.store.schema import GROUP, MANIFEST, PROVENANCE
from contrail_data.store.verify import Damage, verify

_THREADS = 8  # concurrent requests to an object store


def copy_store(source: Place, target: Place, threads: int = _THREADS) -> int:
    """Copy a sealed store, every file verified.

    An interrupted copy is continued. While another process copies to the same place, this one waits for it. A copy
    that exists already is verified, and repaired.

    Args:
        source: The store.
        target: Where the copy belongs.
        threads: Files copied at the same time.

    Returns:
        Number of files that were in place already.

    Raises:
        ContrailError: If the source is damaged, or another store is in the target.
    """
    digest = open_store(source, times=False).attrs["digest"]
    plan = journal.plan_of(["copy", digest])
    while True:
        try:
            if target.size(GROUP) is not None:
                if digest not in (digests := _digests(target)):
                    raise ContrailError(
                        f"{target}: holds another store ({', '.join(digests)[:22]}…); choose another place"
                    )
                if damage := verify(target):
                    repair(target, damage, source)
                return len(target.sizes()) - len(damage)
            with journal.building(target, plan):
                return _copy(source, target, threads)
        except journal.Busy:
            time.sleep(0.5)


def _copy(source: Place, target: Place, threads: int) -> int:
    group = source.read(GROUP)
    manifest = read_manifest(source, json.loads(group)["attributes"]["manifest"])
    sizes = target.sizes()

    def copy_file(key: str) -> bool:
        """Return whether the file was in place already."""
        if sizes.get(key) == manifest[key].size and FileChecksum.of(target.read(key)) == manifest[key]:
            return True
        target.write(key, [read_verified(source, key, manifest)])
        return False

    in_place = 0
    size = sum(file.size for file in manifest.values())
    with progress("copy", size, unit="MiB", scale=2**20) as advance, ThreadPoolExecutor(threads) as pool:
        for key, was_in_place in zip(sorted(manifest), pool.map(copy_file, sorted(manifest)), strict=True):
            advance(manifest[key].size)
            in_place += was_in_place
    target.write(PROVENANCE, [read_verified_provenance(source)])
    target.write(MANIFEST, [source.read(MANIFEST)])
    sync_folders(target)
    target.write(GROUP, [group])
    return in_place


def _digests(place: Place) -> list[str]:
    """Return the digests by which a damaged store can be recognised: those of its attributes and provenance."""
    digests = []
    for key, path in ((GROUP, ("attributes", "digest")), (PROVENANCE, ("digest",))):
        try:
            value: Any = json.loads(place.read(key, max_bytes=2**26))
            for name in path:
                value = value[name]
            digests.append(str(value))
        except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
            continue
    return digests


def repair(place: Place, damage: Sequence[Damage], source: Place) -> list[str]:
    """Replace the damaged files of a store by those of a copy.

    Other files are not touched. Files that are damaged in the copy, too, are left as they are.

    Args:
        place: The damaged store.
        damage: What `verify` has found.
        source: The copy.

    Returns:
        Keys of the files that were replaced.

    Raises:
        ContrailError: If the source is not a copy of the same store.
    """
    attributes = open_store(source, times=False).attrs
    digest = attributes["digest"]
    if digest not in (digests := _digests(place)):
        state = f"{digests[0][:15]}…" if digests else "which can no longer be recognised"
        raise ContrailError(f"{source}: is another store ({digest[:15]}…) than {place} ({state}); name a copy")
    manifest = read_manifest(source, attributes["manifest"])
    damaged = {item.path for item in damage}
    restored = sorted(damaged & {MANIFEST, GROUP})
    if restored:  # nothing else can be verified without these
        place.write(MANIFEST, [source.read(MANIFEST)])
        place.write(GROUP, [source.read(GROUP)])
        damaged = {item.path for item in verify(place)}
    for key in sorted(damaged & {*manifest, PROVENANCE}):
        with suppress(ContrailError):  # verifying the store again reports it
            is_provenance = key == PROVENANCE
            content = read_verified_provenance(source) if is_provenance else read_verified(source, key, manifest)
            place.write(key, [content])
            restored.append(key)
    journal.clear_staging(place)
    return restored
