"""Close the gaps that records set aside leave among the samples of an unfinished store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from contrail_data.storage.place import Place
from contrail_data.store import journal
from contrail_data.store.journal import Files
from contrail_data.store.samples import SampleRow
from contrail_data.store.schema import SHARD
from contrail_data.store.shards import Layout, ShardReader, writing_shards


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
    row_at = {(row["index"] if row["index"] < count else next(gaps)): row for row in rows}
    ordered = [row_at[slot] for slot in range(count)]
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
