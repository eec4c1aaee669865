"""MISSING DOCSTRING."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import xxhash

from contrail_data.build.build import build, build_shard
from contrail_data.errors import ContrailError
from contrail_data.sources.base import InputFormat, SourceKind
from contrail_data.sources.open import open_source
from contrail_data.sources.select import settings_of
from contrail_data.storage.place import Place
from contrail_data.store import journal
from contrail_data.store.manifest import read_manifest, read_provenance
from contrail_data.store.reader import open_store, read_scalars
from contrail_data.store.schema import DIMS, MANIFEST, PROVENANCE, SHARD
from contrail_data.store.transfer import repair
from contrail_data.store.verify import Damage
from contrail_data.store.writer import create_arrays


def repair_from_raw(place: Place, damage: Sequence[Damage], raw: Path, workers: int) -> list[str]:
    """The same from the raw data that the store was built from: only damaged shards are built again, all of it where
    something else is damaged.

    Raises ContrailError when the raw data does not give the bytes that were sealed.
    """
    hurt = {d.path for d in damage}
    if lost := sorted(hurt & {MANIFEST, "zarr.json"}):
        raise ContrailError(f"{place.file(lost[0])}: cannot be made from raw data: repair from a copy of the store")
    store = open_store(place, times=False)
    if store.attrs["kind"] != "samples":
        raise ContrailError(f"{place}: {store.attrs['kind']} are not made from raw data: repair from a copy")
    settings = settings_of(store)
    input_format = InputFormat.FRAMES if store.attrs["source"] == SourceKind.FRAMES else InputFormat.RECORDS
    listed = read_manifest(place, store.attrs["manifest"])
    by_shard: dict[int, list[str]] = {}
    for key in hurt & set(listed):
        name, _, rest = key.partition("/c.")
        if name in DIMS and rest:
            by_shard.setdefault(int(rest.split(".")[0]), []).append(key)
    with tempfile.TemporaryDirectory(prefix="contrail-repair-") as folder:
        if sum(map(len, by_shard.values())) < len(hurt & {*listed, PROVENANCE}):
            split = read_provenance(place).get("split", "train")
            built = build(open_source(raw, split, settings.composite, input_format), settings, f"{folder}/s", workers=workers)
            if built.digest != store.attrs["digest"]:
                raise ContrailError(f"{raw}: does not give this store (any more): repair from a copy of it")
            return repair(place, damage, built.place)
        scalars = read_scalars(store)
        for number, keys in sorted(by_shard.items()):
            members = slice(number * SHARD, (number + 1) * SHARD)
            ids = [str(r) for r in scalars["record_id"].values[members]]
            source = open_source(raw, str(scalars["split"].values[members][0]), settings.composite, input_format)
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
