"""Build a store from a source; an interrupted build is resumed from what is finished in the store itself.

A task (`shard`) takes one shard of records from raw bytes to stored bytes and then writes a journal entry that names
what it wrote. A killed build loses at most the shards that were in progress. The next build does only the rest, and the
sealed bytes are the same as those of an undisturbed build, whatever the number of workers.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contrail_data.build.scheduler import run_tasks
from contrail_data.build.shard import ShardTask, close_gaps, file_stamp
from contrail_data.errors import BadRecord, ContrailError
from contrail_data.progress import progress
from contrail_data.sources.base import Source, SourceKind
from contrail_data.storage.place import Place, place_of
from contrail_data.store import journal, stats
from contrail_data.store.journal import Files, Shard
from contrail_data.store.layout import Layout
from contrail_data.store.manifest import set_aside_lines
from contrail_data.store.samples import SampleRow, stack_scalars
from contrail_data.store.schema import SHARD, ArraySpec, Kind, checksum_name
from contrail_data.store.settings import StoreSettings
from contrail_data.store.writer import SealedContents, create_arrays, seal


@dataclass(frozen=True)
class Built:
    """The outcome of a build."""

    place: Place
    digest: str
    samples: int
    resumed: int
    """Samples that were finished before: by an interrupted build, or all of them if the store existed."""
    set_aside: list[str] = field(default_factory=list)
    """One line for each file or record that could not be used."""
    existed: bool = False
    """Whether the store existed, so that nothing was done."""
    note: str = ""
    """What the user should know about the samples; empty if nothing."""


def build(
    source: Source,
    settings: StoreSettings,
    out: str | Path,
    *,
    workers: int,
    scheduler: str = "threads",
    strict: bool = False,
    overwrite: bool = False,
    recipe: Mapping[str, Any] | None = None,
) -> Built:
    """Build and seal a store, or finish an interrupted build. Nothing is done if the same store exists.

    Args:
        source: Where the samples come from.
        settings: Composite, pixel type, size and so on of the store.
        out: Path or URL of the store.
        workers: Number of threads or processes.
        scheduler: `threads`, `processes`, or the address of a dask scheduler, whose workers must see the source and
            `out` under the same names.
        strict: Stop at the first bad record.
        overwrite: Replace the store, or the unfinished build, at `out`.
        recipe: JSON values that describe source and settings, for the provenance; None if no raw data is read.

    Returns:
        What was built.

    Raises:
        BadRecord: If a record is bad and `strict` is set.
        ContrailError: If `out` holds another store or another build, if the disk is full, or if no record is usable.
    """
    place = place_of(out).resolved()
    _check(source, settings, place, out)
    plan = journal.plan_of(
        [
            *(source.kind, source.split, source.record_ids, source.frames, settings.composite.to_dict()),
            *(settings.dtype, settings.codec, settings.size, settings.label_shift),
            *(source.parent_digests, *source.options),
        ]
    )
    if strict and source.problems:
        raise BadRecord(source.problems[0])
    if overwrite:
        journal.remove_store(place, Kind.SAMPLES)
    if (done := journal.finished_store(place, plan)) is not None:
        return Built(place, done["digest"], done["samples"], done["samples"], done["set_aside"], existed=True)
    with journal.building(place, plan):
        layouts = create_arrays(place, _arrays(source, settings), len(source.record_ids))
        shards = {shard.number: shard for shard in _finished_shards(source, place, layouts)}
        resumed = sum(len(shard.rows) for shard in shards.values())
        tasks = [
            ShardTask(
                source=source.part(source.record_ids[number * SHARD : (number + 1) * SHARD]),
                settings=settings,
                place=place,
                layouts=layouts,
                number=number,
                strict=strict,
            )
            for number in range(-(-len(source.record_ids) // SHARD))
            if number not in shards
        ]
        title = "copy" if source.kind is SourceKind.STORES else "build"
        with progress(title, len(source.record_ids), resumed) as advance:
            for shard in run_tasks(tasks, scheduler, workers):
                shards[shard.number] = shard
                advance(len(shard.rows))
        rows = [row for _, shard in sorted(shards.items()) for row in shard.rows]
        set_aside = source.problems + [row["error"] for row in rows if "error" in row]
        usable = [row for row in rows if "error" not in row]
        if not usable:
            place.clear()  # nothing is worth continuing, and another input may be built here
            count = f"none of {len(rows)} records is usable; the first" if rows else "there is no usable record"
            raise ContrailError(f"{source.root}: {count}: {rows[0]['error'] if rows else set_aside[0]}")
        files = {number: shard.files for number, shard in shards.items()}
        usable, files = close_gaps(place, layouts, files, usable)
        contents = _contents(source, settings, layouts, files, usable)
        for unused in layouts.keys() - contents.arrays.keys():
            place.remove([f"{unused}/{key}" for key in place.within(unused).sizes()])
        inherited = [line for path in source.parent_paths for line in set_aside_lines(place_of(path))]
        still = [line for line in inherited if re.split("[:/]", line)[0] not in source.record_ids]
        contents.provenance.update({"plan": plan, "set_aside": set_aside, "set_aside_before": still})
        if recipe is not None:
            contents.provenance["recipe"] = dict(recipe)
        digest = seal(place, contents)
    return Built(place, digest, len(usable), resumed, set_aside, note=_note(settings, usable))


def _check(source: Source, settings: StoreSettings, place: Place, out: str | Path) -> None:
    if not all(abs(d) <= 8 for d in settings.label_shift):  # NaN fails too
        raise ContrailError(f"label shift {settings.label_shift}: give pixels down and right, at most 8")
    if any(place == place_of(path).resolved() for path in source.parent_paths):
        raise ContrailError(f"{out}: is a store to read from; choose another -o")
    if not place.remote and source.surrounds(place.url):
        raise ContrailError(f"{out}: lies among the records; choose another -o")


def _finished_shards(source: Source, place: Place, layouts: Mapping[str, Layout]) -> Iterator[Shard[SampleRow]]:
    """Shards of an interrupted build whose records have not changed, then those adopted from a parent store."""
    finished = set()
    for shard in journal.read_entries(place, layouts):
        if all(row["stamp"] == file_stamp(source, row["record_id"]) for row in shard.rows):
            finished.add(shard.number)
            yield shard
    for shard in source.adopt_shards(layouts, finished):
        for row in shard.rows:
            row["stamp"] = file_stamp(source, row["record_id"])
        journal.write_entry(place, shard)
        yield shard


def _sizes(rows: Sequence[SampleRow]) -> list[tuple[tuple[int, int], int]]:
    """(Rows, columns) before resizing and how many samples had them, the most common first."""
    return Counter((row["values"]["height"], row["values"]["width"]) for row in rows).most_common()


def _note(settings: StoreSettings, rows: Sequence[SampleRow]) -> str:
    ((height, width), count), *others = _sizes(rows)
    if not others or not any(settings.label_shift):
        return ""
    return (
        f"{len(rows) - count} of {len(rows)} samples were not {height} x {width} pixels: their label shift at --size "
        f"{settings.size} is not the store's; build records of each size into a store of their own"
    )


_USED_BY = {"annotators": "annotator_count", "instance_masks": "instance_count", "valid": "missing_pixels"}
"""Optional pixel arrays, and the variable that is not 0 for a sample that needs one."""


def _arrays(source: Source, settings: StoreSettings) -> dict[str, ArraySpec]:
    return settings.arrays(source.frames, source.has_gaps, source.instances)


def _contents(
    source: Source,
    settings: StoreSettings,
    layouts: Mapping[str, Layout],
    files: Mapping[int, Files],
    rows: list[SampleRow],
) -> SealedContents:
    """What the store consists of, without the optional arrays that no sample needs."""
    scalars, size = stack_scalars(rows, settings), settings.size
    ((height, width), _), *others = _sizes(rows)
    down, right = settings.label_shift
    arrays = _arrays(source, settings)
    for optional, used_by in _USED_BY.items():
        if optional in arrays and not scalars[used_by].values.any():
            del arrays[optional]
            scalars = scalars.drop_vars(checksum_name(optional))
    if "instance_masks" not in arrays:
        scalars = scalars.drop_vars("instance_count")
    train = [row["moments"] for row in rows if row["values"]["split"] == "train"]
    return SealedContents(
        arrays=arrays,
        scalars=scalars,
        attributes={
            "kind": Kind.SAMPLES.value,
            "composite": settings.composite.to_dict(),
            "source": source.kind.value,
            "label_shift": [down * size / height, right * size / width],
            **({"resized_from": [height, width]} if others or (height, width) != (size, size) else {}),
            "statistics": stats.merge(train, settings.composite.channel_names) if train else None,
            **({"parents": source.parent_digests} if source.parent_digests else {}),
        },
        chunk_files={layouts[name].key(shard): written[name] for shard, written in files.items() for name in arrays},
        provenance={"source": source.location, "split": source.split},
    )
