"""Source → store on dask, resumable: what is finished is read from the unfinished store itself.

A task takes one shard of records from raw bytes to stored bytes and then writes a journal entry that names what it
wrote. A killed build loses at most the shards that were under way; the next one does only the rest, and the sealed
bytes are those of an undisturbed build, whoever and however many built it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from contrail_data.build.scheduler import run
from contrail_data.composites import quantise, stored_frames, whiten
from contrail_data.errors import BadRecord, ContrailError
from contrail_data.progress import progress
from contrail_data.sample import resize
from contrail_data.sources.base import Source, SourceKind
from contrail_data.storage.place import Place, place_of, same_place
from contrail_data.store import journal, stats
from contrail_data.store.journal import Files, Shard
from contrail_data.store.samples import SampleRow, StoredSample, stack_scalars, stored_values
from contrail_data.store.schema import SHARD, Kind, checksum_name
from contrail_data.store.settings import StoreSettings
from contrail_data.store.shards import Layout, Reader, ShardWriter, writing_shards
from contrail_data.store.writer import SealedContents, create_arrays, seal


@dataclass(frozen=True)
class Built:
    """What a build did."""

    place: Place
    digest: str
    samples: int
    resumed: int
    """Samples found finished from an earlier, interrupted build; all of them where the store was there."""
    set_aside: list[str] = field(default_factory=list)
    was_there: bool = False


def build(
    source: Source,
    settings: StoreSettings,
    out: str | Path,
    *,
    workers: int,
    scheduler: str = "threads",
    strict: bool = False,
    overwrite: bool = False,
    command: Sequence[str] = (),
) -> Built:
    """Build and seal a store at a path or URL; finish an interrupted one; return at once where the same store is
    there already.

    `scheduler` is `threads`, `processes` (both of this machine, `workers` of them) or the address of a
    dask.distributed scheduler, whose workers must see the source and `out` under the same names. Raises BadRecord for
    the first bad record when `strict`; ContrailError when `out` holds another store or another build, when the disk
    refuses, or when no record at all is usable.
    """
    if not all(abs(d) <= 8 for d in settings.label_shift):  # NaN fails too
        raise ContrailError(f"--label-shift {settings.label_shift}: give pixels down and right, at most 8")
    place = place_of(out).resolved()
    if any(same_place(place.url, read) for read in source.parent_paths):
        raise ContrailError(f"{out}: is a store to read from: choose another -o")
    if not place.remote and not source.parent_paths and f"{place.url}/".startswith(f"{source.location}/{source.split}/"):
        raise ContrailError(f"{out}: lies among the records: choose another -o")
    facts = [source.kind, source.split, source.record_ids, source.frames, settings.composite.to_dict()]
    plan = journal.plan_of(
        [*facts, settings.dtype, settings.codec, settings.size, settings.label_shift, source.parent_digests, *source.options]
    )
    if strict and source.problems:
        raise BadRecord(source.problems[0])
    if overwrite:
        journal.remove_store(place)
    if (done := journal.finished_store(place, plan)) is not None:
        return Built(place, done["digest"], done["samples"], done["samples"], done["set_aside"], was_there=True)
    with journal.building(place, plan):
        layouts = create_arrays(place, settings.arrays(source.frames, source.has_gaps), len(source.record_ids))
        files: dict[int, Files] = {}
        rows: dict[int, SampleRow] = {}

        def keep(shard: Shard) -> None:
            files[shard.number] = shard.files
            rows.update({row["index"]: row for row in shard.rows})

        for shard in journal.read_entries(place, layouts):
            # A record whose files have changed since is read again, with its shard.
            if all(row["stamp"] == _stamp(source, row["record_id"]) for row in shard.rows):
                keep(shard)
        for shard in source.adopt_shards(layouts, set(files)):
            for row in shard.rows:
                row["stamp"] = _stamp(source, row["record_id"])
            journal.write_entry(place, shard)
            keep(shard)
        resumed = len(rows)
        todo = [shard for shard in range(-(-len(source.record_ids) // SHARD)) if shard not in files]
        tasks = [
            partial(build_shard, source.part(_members(source, shard)), settings, layouts, place, strict, shard)
            for shard in todo
        ]
        with progress("copy" if source.kind is SourceKind.STORES else "build-ash", len(source.record_ids), resumed) as advance:

            def on_shard(shard: Shard) -> None:
                keep(shard)
                advance(len(shard.rows))

            run(tasks, scheduler, workers, on_shard)
        ordered = [row for _, row in sorted(rows.items())]
        good = [row for row in ordered if "error" not in row]
        set_aside = source.problems + [row["error"] for row in ordered if "error" in row]
        if not good:
            raise ContrailError(f"{source.root}: none of {len(rows)} records is usable; the first: {set_aside[0]}")
        good, files = _fill_holes(place, layouts, files, good)
        contents = _contents(source, settings, layouts, files, good)
        for unused in layouts.keys() - contents.arrays.keys():
            place.remove([f"{unused}/{key}" for key in place.within(unused).sizes()])
        contents.provenance.update({"plan": plan, "command": list(command), "set_aside": set_aside})
        digest = seal(place, contents)
    return Built(place, digest, len(good), resumed, set_aside)


def _members(source: Source, shard: int) -> Sequence[str]:
    return source.record_ids[shard * SHARD : (shard + 1) * SHARD]


def build_shard(
    source: Source, settings: StoreSettings, layouts: dict[str, Layout], place: Place, strict: bool, shard: int
) -> Shard:
    """Raw bytes to stored bytes for the records of one shard; a row each, also for one that had to be set aside."""
    rows = []
    with writing_shards(layouts, shard) as writers:
        for position, record_id in enumerate(source.record_ids):
            row: SampleRow = {
                "index": shard * SHARD + position,
                "record_id": record_id,
                "stamp": _stamp(source, record_id),
            }
            try:
                row.update(store_sample(source.read_sample(record_id), settings, writers, position))
            except BadRecord as error:
                if strict:
                    raise
                row["error"] = str(error) if record_id in str(error) else f"{record_id}: {error}"
            rows.append(row)
        files = {name: writer.finish() for name, writer in writers.items()}
    made = Shard(shard, files, rows)
    journal.write_entry(place, made)
    return made


def store_sample(
    sample: xr.Dataset, settings: StoreSettings, writers: dict[str, ShardWriter], position: int
) -> StoredSample:
    """Write one sample's chunks; returns their checksums, moments per channel and per-sample values."""
    sample = resize(sample, settings.size)
    found = sample.variables  # cheaper to reach than the Dataset's own items
    valid_tyx = np.moveaxis(found["valid"].values, -1, 0) if "valid" in found else None
    if "image" in found:
        unit_tchw = found["image"].transpose("time", "channel", "y", "x").values
        image_tchw = np.empty(unit_tchw.shape, settings.dtype)
        quantise(unit_tchw, image_tchw)
    else:
        bands = dict(zip(found["band"].values.tolist(), found["brightness_temperature"].values, strict=True))
        with np.errstate(invalid="ignore"):  # missing pixels are NaN so far
            image_tchw = stored_frames(settings.composite, bands, settings.dtype)
    if valid_tyx is not None:
        whiten(image_tchw, valid_tyx)
    nobody = np.zeros((settings.size, settings.size), np.uint8)
    checksums = {"image": writers["image"].add(position, image_tchw)}
    for name in ("mask", "annotators"):
        checksums[name] = writers[name].add(position, found[name].values if name in found else nobody)
    if "valid" in writers:
        everywhere = np.ones((len(image_tchw), settings.size, settings.size), np.uint8)
        stored = everywhere if valid_tyx is None else np.ascontiguousarray(valid_tyx, np.uint8)
        checksums["valid"] = writers["valid"].add(position, stored)
    moments = stats.moments(image_tchw, valid_tyx)
    missing = 0 if valid_tyx is None else int(valid_tyx.size - valid_tyx.sum())
    values = stored_values(sample.attrs, found["time"].values, missing)
    return {"checksums": checksums, "moments": moments, "values": values}


def _fill_holes(
    place: Place, layouts: dict[str, Layout], files: dict[int, Files], good: list[SampleRow]
) -> tuple[list[SampleRow], dict[int, Files]]:
    """Rows by slot, and the files that hold them: samples from the end take the places of records set aside.

    Few moves, the same in every build, and repeatable after a kill: a shard's entry is dropped before the shard is
    written anew, from bytes that no earlier move has touched.
    """
    count = len(good)
    holes = iter(sorted(set(range(count)) - {row["index"] for row in good}))
    order = {(row["index"] if row["index"] < count else next(holes)): row for row in good}
    rows = [order[slot] for slot in range(count)]
    last = (count - 1) // SHARD
    readers = {name: Reader(layout) for name, layout in layouts.items()}
    beyond = any(row["index"] >= count and row["index"] // SHARD == last for row in good)
    for shard in range(last + 1):
        here = rows[shard * SHARD : (shard + 1) * SHARD]
        as_built = all(row["index"] == shard * SHARD + at for at, row in enumerate(here))
        if as_built and not (shard == last and beyond):
            continue
        stored = [{name: read.stored(row["index"]) for name, read in readers.items()} for row in here]
        journal.drop_entries(place, [shard])
        with writing_shards(layouts, shard) as writers:
            for position, sample in enumerate(stored):
                for name, parts in sample.items():
                    writers[name].add_stored(position, parts)
            files[shard] = {name: writer.finish() for name, writer in writers.items()}
    superfluous = [shard for shard in files if shard > last]
    journal.drop_entries(place, superfluous)
    place.remove([layout.key(shard) for shard in superfluous for layout in layouts.values()])
    return rows, {shard: files[shard] for shard in range(last + 1)}


def _contents(
    source: Source, settings: StoreSettings, layouts: dict[str, Layout], files: dict[int, Files], rows: list[SampleRow]
) -> SealedContents:
    """What the store consists of, without the optional arrays that no sample needs."""
    scalars = stack_scalars(rows, settings)
    arrays = settings.arrays(source.frames, source.has_gaps)
    for optional, used_by in (("annotators", "annotator_count"), ("valid", "missing_pixels")):
        if optional in arrays and not scalars[used_by].values.any():
            del arrays[optional]
            scalars = scalars.drop_vars(checksum_name(optional))
    train = [row["moments"] for row in rows if row["values"]["split"] == "train"]
    return SealedContents(
        arrays=arrays,
        scalars=scalars,
        attributes={
            "kind": Kind.SAMPLES.value,
            "composite": settings.composite.to_dict(),
            "source": source.kind.value,
            "label_shift": list(settings.label_shift),
            "statistics": stats.merge(train, settings.composite.channel_names) if train else None,
            **({"parents": source.parent_digests} if source.parent_digests else {}),
        },
        chunk_files={layouts[name].key(shard): written[name] for shard, written in files.items() for name in arrays},
        provenance={"samples": len(rows), "source": source.location, "split": source.split},
    )


def _stamp(source: Source, record_id: str) -> list[int]:
    """Sizes and times of a record's files: a record that changed since is built again."""
    found = [path.stat() if path.exists() else None for path in source.files(record_id)]
    return [n for s in found for n in ((s.st_size, s.st_mtime_ns) if s else (-1, -1))]
