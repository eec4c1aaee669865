"""Shards of an unfinished store.

A task builds one shard, from raw bytes to stored bytes. `close_gaps` rewrites the shards whose records were set aside.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from contrail_data.composites import quantise, whiten
from contrail_data.errors import BadRecord
from contrail_data.sample import Sample, resize
from contrail_data.sources.base import Source
from contrail_data.storage.place import Place
from contrail_data.store import journal
from contrail_data.store.frames import stored_frames
from contrail_data.store.journal import Files, Shard
from contrail_data.store.layout import Layout
from contrail_data.store.moments import moments
from contrail_data.store.samples import SampleRow, StoredSample, stored_values
from contrail_data.store.schema import SHARD
from contrail_data.store.settings import StoreSettings
from contrail_data.store.shards import ShardReader, ShardWriter, writing_shards


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """Builds one shard. It can be pickled, so that it runs in any process that sees the source and the store."""

    source: Source
    """Only the records of this shard."""
    settings: StoreSettings
    place: Place
    """The store."""
    layouts: Mapping[str, Layout]
    number: int
    """Number of the shard."""
    strict: bool
    """Raise an error for a bad record instead of setting it aside."""

    def __call__(self, turn: Callable[[], AbstractContextManager[None]] = nullcontext) -> Shard[SampleRow]:
        """Write the files of the shard, and then its journal entry.

        Args:
            turn: A context to compute the shard in; its files become durable, and finished, outside of it.

        Returns:
            The files, and a row for each record, including those set aside.

        Raises:
            BadRecord: If a record is bad and the task is strict.
        """
        with writing_shards(self.layouts, self.number) as writers, turn():
            rows = [self._store_record(position, writers) for position in range(len(self.source.record_ids))]
            files = {name: writer.finish() for name, writer in writers.items()}
        shard = Shard(self.number, files, rows)
        journal.write_entry(self.place, shard)
        return shard

    def _store_record(self, position: int, writers: Mapping[str, ShardWriter]) -> SampleRow:
        record_id = self.source.record_ids[position]
        index, stamp = self.number * SHARD + position, file_stamp(self.source, record_id)
        row: SampleRow = {"index": index, "record_id": record_id, "stamp": stamp}
        try:
            row.update(_store_sample(self.source.read_sample(record_id), self.settings, writers, position))
        except BadRecord as error:
            if self.strict:
                raise
            row["error"] = str(error) if record_id in str(error) else f"{record_id}: {error}"
        return row


def file_stamp(source: Source, record_id: str) -> list[int]:
    """Identify the state of a record's files, so that a record that has changed is built again.

    Args:
        source: The source of the record.
        record_id: Id of the record.

    Returns:
        Size in bytes and time of change in nanoseconds of each file; -1 if it does not exist.
    """
    return [value for path in source.files(record_id) for value in _state(path)]


def _state(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _store_sample(
    sample: Sample, settings: StoreSettings, writers: Mapping[str, ShardWriter], position: int
) -> StoredSample:
    """Write the chunks of one sample; returns their checksums, the moments of each channel and the scalars."""
    sample = resize(sample, settings.size)
    labels = sample.labels
    valid_tyx = None if sample.valid is None else np.moveaxis(sample.valid, -1, 0)
    if bands := sample.bands:
        image_tchw = stored_frames(settings.composite, bands, settings.dtype)
    else:
        unit_tchw = np.moveaxis(sample.pixels, -1, 0)
        image_tchw = np.empty(unit_tchw.shape, settings.dtype)
        quantise(unit_tchw, image_tchw)
    if valid_tyx is not None:
        whiten(image_tchw, valid_tyx)
    unmarked_yx = np.zeros((settings.size, settings.size), np.uint8)
    checksums = {"image": writers["image"].add(position, image_tchw)}
    for name, marks in (("mask", labels.mask), ("annotators", labels.annotators)):
        checksums[name] = writers[name].add(position, unmarked_yx if marks is None else marks)
    if "instance_masks" in writers:
        masks_nyx = np.zeros(writers["instance_masks"].layout.spec.shape, np.uint8)
        if labels.instance_masks is not None:
            masks_nyx[: len(labels.instance_masks)] = labels.instance_masks
        checksums["instance_masks"] = writers["instance_masks"].add(position, masks_nyx)
    if "valid" in writers:
        everywhere_tyx = np.ones((len(image_tchw), settings.size, settings.size), np.uint8)
        stored = everywhere_tyx if valid_tyx is None else np.ascontiguousarray(valid_tyx, np.uint8)
        checksums["valid"] = writers["valid"].add(position, stored)
    missing = 0 if valid_tyx is None else int(valid_tyx.size - valid_tyx.sum())
    return {
        "checksums": checksums,
        "moments": moments(image_tchw, valid_tyx),
        "values": stored_values(sample.attributes, sample.time, missing),
    }


def close_gaps(
    place: Place, layouts: Mapping[str, Layout], files: Mapping[int, Files], rows: Sequence[SampleRow]
) -> tuple[list[SampleRow], dict[int, Files]]:
    """Move samples from the end into the places of records that were set aside.

    There are few moves, the same ones in every build. They can be repeated after a kill, because the journal entry of a
    shard is dropped before the shard is rewritten, from bytes that no earlier move has touched.

    Args:
        place: The unfinished store.
        layouts: Layout of each pixel array.
        files: Files of each shard.
        rows: Journal rows of the usable samples, in the order of the build.

    Returns:
        The rows in the order of the store, and the files of each shard that remains.
    """
    count = len(rows)
    gaps = iter(sorted(set(range(count)) - {row["index"] for row in rows}))
    ordered = sorted(rows, key=lambda row: row["index"] if row["index"] < count else next(gaps))
    last = (count - 1) // SHARD
    last_is_cut = any(row["index"] >= count and row["index"] // SHARD == last for row in rows)
    readers = {name: ShardReader(layout) for name, layout in layouts.items()}
    remaining = {shard: files[shard] for shard in range(last + 1)}
    for shard in remaining:
        members = ordered[shard * SHARD : (shard + 1) * SHARD]
        as_built = all(row["index"] == shard * SHARD + position for position, row in enumerate(members))
        if as_built and not (shard == last and last_is_cut):
            continue
        samples = [{name: _read(reader, row["index"]) for name, reader in readers.items()} for row in members]
        journal.drop_entries(place, [shard])
        with writing_shards(layouts, shard) as writers:
            for position, sample in enumerate(samples):
                for name, pixels in sample.items():
                    writers[name].add(position, pixels)
            remaining[shard] = {name: writer.finish() for name, writer in writers.items()}
    superfluous = [shard for shard in files if shard > last]
    journal.drop_entries(place, superfluous)
    place.remove([layout.key(shard) for shard in superfluous for layout in layouts.values()])
    return ordered, remaining


def _read(reader: ShardReader, sample: int) -> npt.NDArray[Any]:
    pixels = np.empty((reader.layout.units, *reader.layout.unit_shape), reader.layout.dtype)
    reader(sample, range(reader.layout.units), pixels)
    return pixels
