"""Rebuild the damaged files of a store from the raw data that it was built from."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import xarray as xr

from contrail_data.build.build import build
from contrail_data.build.recipe import recipe_of
from contrail_data.build.shard import ShardTask
from contrail_data.errors import ContrailError
from contrail_data.sources.base import InputFormat, Source, SourceKind
from contrail_data.sources.open import open_source
from contrail_data.sources.select import settings_of
from contrail_data.sources.stores import fitting
from contrail_data.storage.place import Place
from contrail_data.store import journal
from contrail_data.store.manifest import FileChecksum, read_manifest, read_provenance
from contrail_data.store.reader import open_store, read_scalars
from contrail_data.store.schema import DIMS, GROUP, MANIFEST, PROVENANCE, SHARD, Kind, require_kind
from contrail_data.store.transfer import repair
from contrail_data.store.verify import Damage
from contrail_data.store.writer import create_arrays


def repair_from_raw(place: Place, damage: Sequence[Damage], raw: Path, workers: int) -> list[str]:
    """Restore damaged files of a store from its raw data.

    If only shards are damaged, only those are rebuilt; otherwise the store is rebuilt in a temporary folder.

    Args:
        place: The store.
        damage: Its damaged files.
        raw: Folder of the raw data.
        workers: Number of threads.

    Returns:
        Keys of the restored files.

    Raises:
        ContrailError: If the store cannot be rebuilt from raw data, or the raw data no longer gives the sealed bytes.
    """
    damaged = {item.path for item in damage}
    if essential := sorted(damaged & {MANIFEST, GROUP}):
        raise ContrailError(
            f"{place.file(essential[0])}: cannot be rebuilt from raw data; repair from a copy of the store"
        )
    store = open_store(place, times=False)
    require_kind(store, Kind.SAMPLES, remedy="repair from a copy of the store")
    checksums = read_manifest(place, store.attrs["manifest"])
    shard_of: dict[str, int] = {}
    for key in sorted(damaged & set(checksums)):
        name, _, rest = key.partition("/c.")
        if name in DIMS and rest:
            shard_of[key] = int(rest.split(".")[0])
    with tempfile.TemporaryDirectory(prefix="contrail-repair-") as folder:
        if len(shard_of) < len(damaged & {*checksums, PROVENANCE}):
            source = _open_raw(raw, read_provenance(place).get("split", "train"), store)
            built = build(source, settings_of(store), f"{folder}/s", workers=workers)
            if built.digest != store.attrs["digest"]:
                raise ContrailError(f"{raw}: does not give this store (any more); repair from a copy of the store")
            return repair(place, damage, built.place)
        for number in sorted(set(shard_of.values())):
            _rebuild_shard(store, raw, number, Place(folder))
        for key in shard_of:
            content = Place(folder).read(key)
            if FileChecksum.of(content) != checksums[key]:
                raise ContrailError(f"{raw}: no longer gives the sealed bytes of {key}; repair from a copy")
            place.write(key, [content])
    journal.clear_staging(place)
    return list(shard_of)


def _open_raw(raw: Path, split: str, store: xr.Dataset) -> Source:
    """Open raw data by the recipe of the store, or as its attributes say if it has none."""
    try:
        recipe = recipe_of(store)
    except ContrailError:  # an earlier version built it, or its provenance is damaged, too
        kinds = {SourceKind.FRAMES: InputFormat.FRAMES, SourceKind.TFRECORDS: InputFormat.TFRECORDS}
        input_format = kinds.get(store.attrs["source"], InputFormat.RECORDS)
        return fitting(open_source(raw, split, settings_of(store).composite, input_format), store)
    if len(recipe.sources) > 1:
        raise ContrailError(f"{store.attrs['path']}: was built from several sources; repair from a copy of the store")
    return recipe.sources[0].model_copy(update={"path": str(raw)}).open(recipe.settings)


def _rebuild_shard(store: xr.Dataset, raw: Path, number: int, place: Place) -> None:
    """Build one shard of a store again, in another place."""
    scalars = read_scalars(store).isel(sample=slice(number * SHARD, (number + 1) * SHARD))
    settings, split, record_ids = settings_of(store), str(scalars["split"].values[0]), scalars["record_id"].values
    task = ShardTask(
        source=_open_raw(raw, split, store).part([str(record_id) for record_id in record_ids]),
        settings=settings,
        place=place,
        layouts=create_arrays(
            place,
            settings.arrays(store.sizes["time"], "valid" in store.variables, store.sizes.get("instance", 0)),
            store.sizes["sample"],
        ),
        number=number,
        strict=True,
    )
    task()
