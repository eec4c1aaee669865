"""What lies where in shards of TFRecords, kept in the user's cache.

A shard may have many gigabytes. Its index is made by small reads that pass over bands and masks, so it says what a
record is called and how many frames it has, but not whether it is intact; that is verified when the record is read.
"""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from contrail_data.errors import BadRecord, ContrailError
from contrail_data.progress import progress
from contrail_data.sample import BAND_FEATURES, check_record_id
from contrail_data.sources.instance_masks import instance_axes
from contrail_data.sources.metadata import GRID
from contrail_data.sources.tfrecord_shards import THREADS, ShardFile
from contrail_data.storage.cache import cache_folder
from contrail_data.storage.example import (
    Feature,
    FeatureKind,
    find_features,
    read_numbers,
    read_text,
    tensor_header,
    text_span,
)
from contrail_data.storage.files import Unreachable, write_atomically
from contrail_data.storage.protobuf import Read
from contrail_data.storage.tfrecord import Span, Window, find_records

MASK, VOTES = "human_pixel_masks", "human_individual_masks"
BEFORE, AFTER, SCAN_STARTS, RECORD_ID = "n_times_before", "n_times_after", "satellite_scan_starts", "record_id"
KNOWN = {
    *BAND_FEATURES.values(),
    *(MASK, VOTES, BEFORE, AFTER, SCAN_STARTS, RECORD_ID, *GRID, "timestamp", "brightness_temperature_difference"),
}
"""Names of the features that are understood; the difference follows from the bands."""
_VERSION = 2
_MAX_FRAMES, _MAX_VARIANTS = 1000, 64


@dataclass(frozen=True, kw_only=True)
class IndexedRecord:
    """Where a record lies, and what its index says about it."""

    record_id: str
    key: str
    """The file."""
    offset: int
    length: int
    named: bool
    """Whether the record states its id; otherwise it is named by its file and position."""
    frames: int = 0
    """Number of frames; 0 if the record does not say."""
    labelled: int = 0
    """Index of the labelled frame."""
    instances: int = 0
    """Contrails that were marked one by one."""
    located: bool = False
    """Whether the record states its time and place."""

    @property
    def span(self) -> Span:
        """Where it lies in its file."""
        return Span(self.offset, self.length)


Kinds = dict[str, list[tuple[str, list[int]]]]
"""Distinct types and shapes of features by name; the shape of what is not a tensor is empty."""


@dataclass
class ShardIndex:
    """The records of one shard."""

    records: list[IndexedRecord] = field(default_factory=list)
    others: Kinds = field(default_factory=dict)
    """Features of unknown names."""
    instances: Kinds = field(default_factory=dict)
    """Those that are masks of single contrails."""
    problem: str = ""
    """Why the rest of the file cannot be used; empty if all of it can."""


def index_shards(shards: Sequence[ShardFile]) -> list[ShardIndex]:
    """Find the records of shards, several at once; what is in the cache is not read again.

    Args:
        shards: The shards.

    Returns:
        The index of each.

    Raises:
        Unreachable: If object storage does not answer.
    """
    cached = {shard: _load(shard) for shard in shards}
    missing = [shard for shard, index in cached.items() if index is None]
    if missing:
        done = len(shards) - len(missing)
        with (
            progress("index", len(shards), done, unit="shards") as advance,
            ThreadPoolExecutor(THREADS if missing[0].place.remote else 4) as pool,
        ):
            for shard, index in zip(missing, pool.map(_make_index, missing), strict=True):
                cached[shard] = index
                advance()
    return [index for index in cached.values() if index is not None]


def _make_index(shard: ShardFile) -> ShardIndex:
    """Read what lies where in a shard, and keep it."""
    index = _read_index(shard)
    if index.problem and shard.place.remote:
        index = _read_index(shard)  # the network may have damaged it
    if not index.problem or index.records:
        _keep(shard, index)
    return index


def _read_index(shard: ShardFile) -> ShardIndex:
    if not shard.state.size:
        return ShardIndex(problem=f"{shard.key}: 0 bytes, so it has no records; restore the file, or remove it")
    index, window = ShardIndex(), Window(shard.place, shard.key, shard.state.size)
    try:
        for number, span in enumerate(find_records(window, shard.state.size)):
            named = re.sub(r"[^A-Za-z0-9_.-]", "_", Path(shard.key).name)[-80:].lstrip(".-") or "shard"
            record = IndexedRecord(
                record_id=f"{named}-{number:05d}", key=shard.key, offset=span.offset, length=span.length, named=False
            )
            index.records.append(_described(window, record, index))
    except ValueError as error:
        index.problem = f"{shard.key}: {error}; restore the file"
    except FileNotFoundError:
        return ShardIndex(problem=f"{shard.key}: missing; restore the file")
    except Unreachable as error:
        if shard.place.remote:
            raise
        return ShardIndex(problem=str(error))
    return index


def _described(read: Read, record: IndexedRecord, index: ShardIndex) -> IndexedRecord:
    """Add to a record what it says about itself, and the types of its unknown features to the index of its shard.

    What is wrong with it is left out here, and reported when the record is read.
    """
    with suppress(ValueError, BadRecord):
        features = find_features(read, record.span.start, record.span.stop)
        if RECORD_ID in features:
            record_id = check_record_id(read_text(read, features[RECORD_ID]).decode(errors="replace"))
            record = replace(record, record_id=record_id, named=True)
        kinds = {name: _kind_of(read, feature) for name, feature in features.items()}
        plane = next((shape[:2] for name, (_, shape) in kinds.items() if name in BAND_FEATURES.values()), [])
        annotators = kinds[VOTES][1][-1] if VOTES in kinds and kinds[VOTES][1] else 0
        for name, (dtype, shape) in kinds.items():
            if name in KNOWN:
                continue
            axes = instance_axes(dtype, shape, plane, annotators)
            if axes is not None and not record.instances:
                record = replace(record, instances=shape[axes.instance])
            variants = (index.others if axes is None else index.instances).setdefault(name, [])
            if (dtype, shape) not in variants and len(variants) < _MAX_VARIANTS:
                variants.append((dtype, shape))
        labelled, frames = frames_of(read, features)
        located = features.keys() >= {*GRID, "timestamp"}
        record = replace(record, frames=frames, labelled=labelled, located=located)
    return record


def frames_of(read: Read, features: dict[str, Feature]) -> tuple[int, int]:
    """Read which frame of a record is labelled.

    Args:
        read: Reads the record.
        features: Its features.

    Returns:
        Index of the labelled frame, and the number of frames.

    Raises:
        ValueError: If the record does not say, or nothing possible.
    """
    counts = []
    for name in (BEFORE, AFTER):
        if name not in features:
            raise ValueError(f"has no feature {name}")
        values = read_numbers(read, features[name])
        if values.size != 1 or values.dtype.kind != "i" or not 0 <= values[0] < _MAX_FRAMES:
            raise ValueError(f"{name} is {values[:3].tolist()}, not a number of frames")
        counts.append(int(values[0]))
    return counts[0], sum(counts) + 1


def _kind_of(read: Read, feature: Feature) -> tuple[str, list[int]]:
    """Return type and shape of a feature; the shape of what is not a tensor is empty."""
    if feature.kind is not FeatureKind.BYTES:
        return f"list of {feature.kind.name.lower()}", []
    try:
        dtype, shape = tensor_header(read, *text_span(read, feature))
    except ValueError:
        return "bytes", []
    return str(dtype), list(shape)


def _cache_file(shard: ShardFile) -> Path:
    file = shard.file if shard.place.remote else os.path.realpath(shard.file)
    identity = json.dumps([_VERSION, file, *shard.state])
    return cache_folder("tfrecords") / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.json"


def _load(shard: ShardFile) -> ShardIndex | None:
    """Return the index of a shard that was made before; None if there is none, or none that can be read."""
    try:
        content: dict[str, Any] = json.loads(_cache_file(shard).read_bytes())
        records = [IndexedRecord(key=shard.key, **record) for record in content["records"]]
        others, instances = (
            {name: [(str(dtype), list(shape)) for dtype, shape in variants] for name, variants in content[key].items()}
            for key in ("others", "instances")
        )
        return ShardIndex(records, others, instances, content["problem"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _keep(shard: ShardFile, index: ShardIndex) -> None:
    content = asdict(index)
    for record in content["records"]:
        del record["key"]
    path = _cache_file(shard)
    with suppress(OSError, ContrailError):  # a cache that cannot be written costs time, and nothing else
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, [json.dumps(content).encode()])
