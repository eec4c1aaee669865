"""Whole stores from place to place: verified copies that resume, a local cache of remote ones, repair from a copy."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import xxhash

from contrail_data.errors import ContrailError
from contrail_data.progress import progress
from contrail_data.storage.place import Place, sync_folders
from contrail_data.store import journal
from contrail_data.store.manifest import read_manifest, sound
from contrail_data.store.reader import open_store
from contrail_data.store.schema import MANIFEST, PROVENANCE
from contrail_data.store.verify import Damage, sound_provenance, verify

_THREADS = 8  # requests under way to an object store


def copy_store(source: Place, target: Place, threads: int = _THREADS) -> int:
    """Copy a sealed store, every file held to the manifest and that to the digest; returns how many files were there
    already. Interrupted, it goes on; while another process copies to the same place, it waits for that one; a copy that
    is there is verified, and repaired.

    Raises ContrailError when the source is damaged, or another store is in the target.
    """
    digest = open_store(source, times=False).attrs["digest"]
    plan = journal.plan_of(["copy", digest])
    while True:
        try:
            if _is_store(target, digest):
                if damage := verify(target):
                    repair(target, damage, source)
                return len(target.sizes()) - len(damage)
            with journal.building(target, plan):
                return _copy(source, target, threads)
        except journal.Busy:
            time.sleep(0.5)


def _is_store(target: Place, digest: str) -> bool:
    if target.size("zarr.json") is None:
        return False
    if digest not in (found := _digests(target)):
        raise ContrailError(f"{target}: holds another store ({', '.join(found)[:22]}…): choose another place")
    return True


def _copy(source: Place, target: Place, threads: int) -> int:
    group = source.read("zarr.json")
    listed = read_manifest(source, json.loads(group)["attributes"]["manifest"])
    there = target.sizes()

    def one(key: str) -> bool:
        """Whether the file had been there."""
        checksum, size = listed[key]
        if there.get(key) == size and xxhash.xxh3_64_hexdigest(target.read(key)) == checksum:
            return True
        target.write(key, [sound(source, key, listed)])
        return False

    done = resumed = 0
    with (
        progress("copy", max(1, sum(s for _, s in listed.values()) // 2**20), unit="MiB") as advance,
        ThreadPoolExecutor(threads) as pool,
    ):
        for key, had in zip(sorted(listed), pool.map(one, sorted(listed)), strict=True):
            before, done = done // 2**20, done + listed[key][1]
            advance(done // 2**20 - before)
            resumed += had
    target.write(PROVENANCE, [sound_provenance(source)])
    target.write(MANIFEST, [source.read(MANIFEST)])
    sync_folders(target)
    target.write("zarr.json", [group])
    return resumed


def _digests(place: Place) -> list[str]:
    """What still tells which store this was: its attributes, its provenance."""
    found = []
    for key, path in (("zarr.json", ("attributes", "digest")), (PROVENANCE, ("digest",))):
        try:
            told: Any = json.loads(place.read(key, most=2**26))
            for name in path:
                told = told[name]
            found.append(str(told))
        except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
            continue
    return found


def repair(place: Place, damage: Sequence[Damage], source: Place) -> list[str]:
    """Put back the damaged files of a store from a copy of it; returns their keys. Other files are left alone, and what
    the copy has not whole is left as it is.

    Raises ContrailError when the other is not a copy of the same store.
    """
    attributes = open_store(source, times=False).attrs
    theirs = attributes["digest"]
    if theirs not in (ours := _digests(place)):
        which = f"{ours[0][:15]}…" if ours else "what it was is no longer told"
        raise ContrailError(f"{source}: is another store ({theirs[:15]}…) than {place} ({which}): name a copy")
    listed = read_manifest(source, attributes["manifest"])
    hurt = {d.path for d in damage}
    restored = []
    if hurt & {MANIFEST, "zarr.json"}:  # without these nothing else could be judged
        place.write(MANIFEST, [source.read(MANIFEST)])
        place.write("zarr.json", [source.read("zarr.json")])
        restored = sorted(hurt & {MANIFEST, "zarr.json"})
        hurt = {d.path for d in verify(place)}
    for key in sorted(hurt & {*listed, PROVENANCE}):
        with suppress(ContrailError):  # told when the store is verified again
            place.write(key, [sound_provenance(source) if key == PROVENANCE else sound(source, key, listed)])
            restored.append(key)
    journal.forget(place)
    return restored
