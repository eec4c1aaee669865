"""Whole stores from place to place: verified copies that resume, a local cache of remote ones, repair from a copy."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import xarray as xr
import xxhash

from contrail_data import journal
from contrail_data.build import build, build_shard
from contrail_data.errors import ContrailError
from contrail_data.places import Place, cache_place, place_of, sync_folders
from contrail_data.progress import progress
from contrail_data.sources import open_source
from contrail_data.sources.stores import settings_of
from contrail_data.store import (
    DIMS,
    MANIFEST,
    PROVENANCE,
    SHARD,
    create_arrays,
    digest_of,
    open_store,
    read_provenance,
    read_scalars,
)
from contrail_data.verify import Damage, read_manifest, verify

_THREADS = 8  # requests under way to an object store


def copy_store(source: Place, target: Place, digest: str, threads: int = _THREADS) -> int:
    """Copy a sealed store, every file held to the manifest and that to the digest; returns how many files were there
    already. Interrupted, it goes on; while another process copies to the same place, it waits for that one.

    Raises ContrailError when the source is not the store of this digest, or a file of it is damaged.
    """
    manifest, group = source.read(MANIFEST), source.read("zarr.json")
    listed = read_manifest(manifest)
    attributes = json.loads(group)["attributes"]
    if digest_of(manifest, attributes) != digest or attributes["digest"] != digest:
        raise ContrailError(f"{source}: is not the store {digest[:15]}…, or damaged: verify it")
    plan = journal.plan_of(["copy", digest])
    while True:
        try:
            if _is_store(target, digest):
                return len(listed)
            with journal.building(target, plan):
                return _copy(source, target, listed, {MANIFEST: manifest, "zarr.json": group}, threads)
        except journal.Busy:
            time.sleep(0.5)


def _is_store(target: Place, digest: str) -> bool:
    if target.size("zarr.json") is None:
        return False
    if (found := open_store(target).attrs["digest"]) != digest:
        raise ContrailError(f"{target}: holds another store ({found[:15]}…): choose another place")
    return True


def _copy(
    source: Place, target: Place, listed: dict[str, tuple[str, int]], last: dict[str, bytes], threads: int
) -> int:
    there = target.sizes()

    def one(key: str) -> bool:
        """Whether the file had been there."""
        checksum, size = listed[key]
        if there.get(key) == size and xxhash.xxh3_64_hexdigest(target.read(key)) == checksum:
            return True
        target.write(key, [sound(source, key, checksum)])
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
    target.write(PROVENANCE, [source.read(PROVENANCE)])
    target.write(MANIFEST, [last[MANIFEST]])
    sync_folders(target)
    target.write("zarr.json", [last["zarr.json"]])
    return resumed


def sound(source: Place, key: str, checksum: str) -> bytes:
    """A file's bytes. Raises ContrailError when they are not those of the manifest."""
    try:
        content = source.read(key)
    except FileNotFoundError:
        raise ContrailError(f"{source.file(key)}: missing: verify {source}, and repair it") from None
    if xxhash.xxh3_64_hexdigest(content) != checksum:
        raise ContrailError(f"{source.file(key)}: fails its checksum: verify {source}, and repair it")
    return content


def fetcher(store: xr.Dataset) -> Callable[[str], str]:
    """`fetch(key)`: path of the local copy of a remote store's file, downloaded and checked at first use.

    What is fetched lies where `pull` would put it, so that a pull later does the rest.
    """
    source, target = place_of(store.attrs["path"]), cache_place(store.attrs["digest"])
    listed = read_manifest(source.read(MANIFEST))
    plan = journal.plan_of(["copy", store.attrs["digest"]])

    def fetch(key: str) -> str:
        if target.size(key) != listed[key][1]:
            if target.size("zarr.json") is None:
                target.write(journal.PLAN, [plan.encode()])
            target.write(key, [sound(source, key, listed[key][0])])
        return target.file(key)

    return fetch


def repair(place: Place, damage: Sequence[Damage], source: Place) -> list[str]:
    """Put back the damaged files of a store from a copy of it; returns their keys. Other files are left alone.

    Raises ContrailError when the other is not the same store, or itself damaged in what is needed.
    """
    theirs = open_store(source).attrs["digest"]
    manifest, group = source.read(MANIFEST), source.read("zarr.json")
    listed = read_manifest(manifest)
    if digest_of(manifest, json.loads(group)["attributes"]) != theirs:
        raise ContrailError(f"{source}: is damaged itself: verify it")
    try:
        ours = json.loads(place.read("zarr.json"))["attributes"]["digest"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        ours = theirs  # what is left of it is held to their manifest below
    hurt = {d.path for d in damage}
    if ours != theirs and "zarr.json" not in hurt:
        raise ContrailError(f"{source}: is another store ({theirs[:15]}…) than {place} ({ours[:15]}…): name a copy")
    if hurt & {MANIFEST, "zarr.json"}:  # without these nothing else could be judged
        place.write(MANIFEST, [manifest])
        place.write("zarr.json", [group])
        hurt |= {d.path for d in verify(place)}
    restored = sorted(hurt & {*listed, MANIFEST, "zarr.json", PROVENANCE})
    for key in restored:
        place.write(key, [sound(source, key, listed[key][0]) if key in listed else source.read(key)])
    journal.forget(place)
    return restored


def repair_from_raw(place: Place, damage: Sequence[Damage], raw: Path, workers: int) -> list[str]:
    """The same from the raw data that the store was built from: only damaged shards are built again, all of it where
    something else is damaged.

    Raises ContrailError when the raw data does not give the bytes that were sealed.
    """
    store = open_store(place)
    settings = settings_of(store)
    hurt = {d.path for d in damage}
    kind = "frames" if store.attrs["source"] == "frames" else "records"
    by_shard: dict[int, list[str]] = {}
    for key in hurt:
        name, _, rest = key.partition("/c.")
        if name in DIMS and rest:
            by_shard.setdefault(int(rest.split(".")[0]), []).append(key)
    with tempfile.TemporaryDirectory(prefix="contrail-repair-") as folder:
        if sum(map(len, by_shard.values())) < len(hurt & set(read_manifest(place.read(MANIFEST)))) or MANIFEST in hurt:
            split = read_provenance(place).get("split", "train")
            source = open_source(raw, split, settings.composite, kind)
            built = build(source, settings, Path(folder) / "store", workers=workers)
            return repair(place, damage, built.place)
        scalars = read_scalars(store)
        listed = read_manifest(place.read(MANIFEST))
        for number, keys in sorted(by_shard.items()):
            members = slice(number * SHARD, (number + 1) * SHARD)
            ids = [str(r) for r in scalars["record_id"].values[members]]
            split = str(scalars["split"].values[members][0])
            source = open_source(raw, split, settings.composite, kind)
            made = Place(folder)
            layouts = create_arrays(made, settings.arrays(store.sizes["time"]), store.sizes["sample"])
            build_shard(source.part(ids), settings, layouts, made, True, number)
            for key in keys:
                content = made.read(key)
                if xxhash.xxh3_64_hexdigest(content) != listed[key][0]:
                    raise ContrailError(f"{raw}: no longer gives what was sealed in {key}: repair from a copy instead")
                place.write(key, [content])
    journal.forget(place)
    return sorted(key for keys in by_shard.values() for key in keys)
