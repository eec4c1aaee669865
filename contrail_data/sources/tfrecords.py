"""OpenContrails records in TFRecord files, the form in which the data set is published.

A record is a `tf.train.Example`: each band a tensor (y, x, time) of brightness temperature in kelvin, the masks of the
annotators, which frame is labelled, and time and place. Neither the number of frames nor the labelled one is taken for
granted. Features of other names are reported and left out, except for masks of single contrails.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import override

from contrail_data.composites import Composite
from contrail_data.errors import BadRecord
from contrail_data.sample import RECORD_FRAMES, Sample, check_record_id, make_sample
from contrail_data.sources.base import Source, SourceKind
from contrail_data.sources.tfrecord_features import Example, metadata_of, read_bands, read_labels, scan_starts
from contrail_data.sources.tfrecord_index import MASK, RECORD_ID, IndexedRecord, Kinds, frames_of, index_shards
from contrail_data.sources.tfrecord_shards import find_shards
from contrail_data.storage.files import Unreachable
from contrail_data.storage.place import Place
from contrail_data.storage.tfrecord import read_record


@dataclass(frozen=True, kw_only=True)
class TfRecordSource(Source):
    """Records of one split in TFRecord files, read one by one and verified against their checksums."""

    kind: SourceKind = SourceKind.TFRECORDS
    place: Place
    bands: tuple[int, ...]
    entries: Mapping[str, IndexedRecord]

    @override
    def files(self, record_id: str) -> list[str]:
        return [] if self.place.remote else [self.place.file(self.entries[record_id].key)]

    @override
    def read_sample(self, record_id: str) -> Sample:
        entry = self.entries[record_id]
        where = f"{entry.key}: offset {entry.offset}: record {record_id}"
        try:
            return self._sample(record_id, Example(self._read_payload(entry)))
        except ValueError as error:
            raise BadRecord(f"{where}: {error}; restore the file") from None
        except FileNotFoundError:
            raise BadRecord(f"{where}: the file is missing; restore it") from None
        except BadRecord as error:
            raise BadRecord(f"{where}: {error}") from None
        except Unreachable as error:
            if self.place.remote:
                raise
            raise BadRecord(f"{where}: {error}") from None

    def _read_payload(self, entry: IndexedRecord) -> memoryview:
        try:
            return read_record(self.place, entry.key, entry.span)
        except ValueError:
            if not self.place.remote:
                raise
        return read_record(self.place, entry.key, entry.span)  # the network may have damaged it

    def _sample(self, record_id: str, example: Example) -> Sample:
        if (stated := example.plain(RECORD_ID)) is not None and check_record_id(str(stated)) != record_id:
            raise ValueError(f"states the id {stated}")
        labelled, frames = frames_of(example.read, example.features)
        if frames != self.frames:
            raise ValueError(f"{frames} frames, but the other records have {self.frames}")
        temperature_byxt, digests = read_bands(example, self.bands, frames)
        height, width = temperature_byxt.shape[1:3]
        labels = read_labels(example, (height, width))
        if labels.mask is None and self.split != "test":
            raise BadRecord(f"has no feature {MASK}; build it with --split test, as a record without a label")
        metadata = metadata_of(record_id, example)
        footprint = metadata.footprint(height, width, "its place")
        attributes = self._attributes(record_id, footprint, digests, labelled)
        times = scan_starts(example, frames)
        time = metadata.frame_times(frames, labelled) if times is None else times
        return make_sample(temperature_byxt, self.bands, time, labels, attributes, is_checked=True)


def open_tfrecords(where: str, split: str, composite: Composite) -> TfRecordSource:
    """Open the TFRecords of one split.

    Args:
        where: A folder, file or glob, or the URL of a prefix or a file, see `find_shards`.
        split: Name of the split.
        composite: The composite to build, which decides which bands are read.

    Returns:
        A source of the split's records in the order of the shards.

    Raises:
        ContrailError: If there are no shards of the split, or object storage does not answer.
    """
    shards, lacking = find_shards(where, split)
    indexes = index_shards(shards)
    problems = [index.problem for index in indexes if index.problem]
    records: dict[str, IndexedRecord] = {}
    for record in (record for index in indexes for record in index.records):
        if record.record_id in records:
            twice = f"record {record.record_id}: occurs in {records[record.record_id].key} already"
            problems.append(f"{record.key}: offset {record.offset}: {twice}; ignored")
        else:
            records[record.record_id] = record
    counts = Counter(record.frames for record in records.values() if record.frames)
    frames = counts.most_common(1)[0][0] if counts else RECORD_FRAMES
    unnamed = sum(not record.named for record in records.values())
    lost = sum(not record.located for record in records.values())
    notes = [
        lacking,
        f"{unnamed} records state no id; they are named by file and position" if unnamed else "",
        f"{lost} of {len(records)} records have no time or place (NaN)" if lost else "",
    ]
    notes += [
        _features_note("unknown features", [index.others for index in indexes]),
        _features_note("masks of single contrails", [index.instances for index in indexes]),
    ]
    place = shards[0].place
    return TfRecordSource(
        root=where,
        location=place.url if place.remote else str(Path(where).absolute()),
        split=split,
        record_ids=list(records),
        frames=frames,
        place=place if place.remote else Place(str(place.path.absolute())),
        bands=composite.bands,
        entries=records,
        problems=problems,
        note="; ".join(filter(None, notes)),
        instances=max((record.instances for record in records.values()), default=0),
        options=[[shard.key, *shard.state] for shard in shards] if place.remote else [],
    )


def _features_note(title: str, kinds_of_shards: Sequence[Kinds]) -> str:
    """Name features of all shards, once each, with types and shapes."""
    kinds: dict[str, dict[str, list[list[int]]]] = {}
    for of_shard in kinds_of_shards:
        for name, variants in of_shard.items():
            for dtype, shape in variants:
                kinds.setdefault(name, {}).setdefault(f"{dtype}/{len(shape)}", []).append(shape)
    texts = []
    for name, shapes_by_type in sorted(kinds.items()):
        types = [f"{kind.partition('/')[0]}{_shape_text(shapes)}" for kind, shapes in shapes_by_type.items()]
        texts.append(f"{name} ({' or '.join(types)})")
    return f"{title}: {', '.join(texts)}" if texts else ""


def _shape_text(shapes: Sequence[Sequence[int]]) -> str:
    """Write shapes as one, with ranges where they differ."""
    sides = [
        f"{min(side)}" if min(side) == max(side) else f"{min(side)}-{max(side)}" for side in zip(*shapes, strict=True)
    ]
    return f" {' x '.join(sides)}" if sides else ""
