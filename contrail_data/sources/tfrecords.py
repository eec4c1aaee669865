"""OpenContrails records in TFRecord files, the form in which the data set is published.

A record is a `tf.train.Example`: each band a tensor (y, x, time) of brightness temperature in kelvin, the masks of the
annotators, which frame is labelled, and time and place. Neither the number of frames nor the labelled one is taken for
granted. Features of other names are reported and left out, except for masks of single contrails.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from typing_extensions import override

from contrail_data.composites import Composite
from contrail_data.errors import BadRecord
from contrail_data.sample import (
    BAND_FEATURES,
    RECORD_FRAMES,
    Labels,
    annotator_bits,
    check_record_id,
    majority_label,
    make_sample,
)
from contrail_data.sources.base import Source, SourceKind
from contrail_data.sources.instance_masks import instance_axes, instance_bits
from contrail_data.sources.metadata import GRID, RecordMetadata, parse_entry
from contrail_data.sources.npy import as_label, band_digests
from contrail_data.sources.tfrecord_index import (
    KNOWN,
    MASK,
    RECORD_ID,
    SCAN_STARTS,
    VOTES,
    IndexedRecord,
    Kinds,
    frames_of,
    index_shards,
)
from contrail_data.sources.tfrecord_shards import find_shards
from contrail_data.storage.example import (
    Feature,
    FeatureKind,
    decode_tensor,
    find_features,
    read_numbers,
    read_text,
    text_span,
)
from contrail_data.storage.files import Unreachable
from contrail_data.storage.place import Place
from contrail_data.storage.tfrecord import read_record

_LAST_SECOND = 4e9
"""Times are seconds since 1970; anything later is in other units."""


class _Example:
    """The features of one record.

    Args:
        payload: The record.

    Raises:
        ValueError: If it is not a `tf.train.Example`.
    """

    def __init__(self, payload: memoryview) -> None:
        self._payload = payload
        self.features: dict[str, Feature] = find_features(self.read, 0, len(payload))
        if not self.features:
            raise ValueError("not a tf.train.Example with features")

    def read(self, start: int, length: int) -> memoryview:
        """Return a part of the record.

        Args:
            start: First byte.
            length: Number of bytes.

        Returns:
            The bytes.
        """
        return self._payload[start : start + length]

    def tensor(self, name: str) -> npt.NDArray[Any] | None:
        """Decode a tensor.

        Args:
            name: Name of the feature.

        Returns:
            The array. None if there is no such feature.

        Raises:
            ValueError: If it is something else.
        """
        if name not in self.features:
            return None
        try:
            start, stop = text_span(self.read, self.features[name])
            return decode_tensor(self._payload[start:stop])
        except ValueError as error:
            raise ValueError(f"feature {name}: {error}") from None

    def plain(self, name: str) -> Any:
        """Read a feature that is not a tensor.

        Args:
            name: Name of the feature.

        Returns:
            Text, a number or an array of several. None if there is no such feature.
        """
        if (feature := self.features.get(name)) is None:
            return None
        if feature.kind is FeatureKind.BYTES:
            return read_text(self.read, feature).decode(errors="replace")
        values = read_numbers(self.read, feature)
        return values.item() if values.size == 1 else values


@dataclass(frozen=True, kw_only=True)
class TfRecordSource(Source):
    """Records of one split in TFRecord files, read one by one and verified against their checksums."""

    kind: SourceKind = SourceKind.TFRECORDS
    place: Place
    bands: tuple[int, ...]
    entries: Mapping[str, IndexedRecord]

    @override
    def files(self, record_id: str) -> list[Path]:
        return [] if self.place.remote else [self.place.path / self.entries[record_id].key]

    @override
    def read_sample(self, record_id: str) -> xr.Dataset:
        entry = self.entries[record_id]
        where = f"{entry.key}: offset {entry.offset}: record {record_id}"
        try:
            return self._sample(record_id, _Example(self._read_payload(entry)))
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

    def _sample(self, record_id: str, example: _Example) -> xr.Dataset:
        if (stated := example.plain(RECORD_ID)) is not None and check_record_id(str(stated)) != record_id:
            raise ValueError(f"states the id {stated}")
        labelled, frames = frames_of(example.read, example.features)
        if frames != self.frames:
            raise ValueError(f"{frames} frames, but the other records have {self.frames}")
        temperature_byxt = self._read_bands(example, frames)
        height, width = temperature_byxt.shape[1:3]
        labels = _read_labels(example, (height, width))
        if labels.mask is None and self.split != "test":
            raise BadRecord(f"has no feature {MASK}; build it with --split test, as a record without a label")
        metadata = _metadata(record_id, example)
        footprint = metadata.footprint(height, width, "its place")
        digests = band_digests(self.bands, temperature_byxt)
        attributes = self._attributes(record_id, footprint, digests, labelled)
        times = _scan_starts(example, frames)
        time = metadata.frame_times(frames, labelled) if times is None else times
        return make_sample(temperature_byxt, self.bands, time, labels, attributes)

    def _read_bands(self, example: _Example, frames: int) -> npt.NDArray[np.float32]:
        """Read the bands as float32, (band, y, x, time), kelvin."""
        names = [BAND_FEATURES[band] for band in self.bands]
        if missing := [name for name in names if name not in example.features]:
            remedy = "choose a composite without these bands"
            raise BadRecord(f"has no feature {' or '.join(missing)}; {remedy}")
        bands = [band for name in names if (band := example.tensor(name)) is not None]
        for name, band in zip(names, bands, strict=True):
            if band.dtype.kind != "f" or band.ndim != 3 or band.shape[2] != frames or not band.size:
                raise ValueError(f"feature {name}: {band.dtype} {band.shape}, expected kelvin of {frames} frames")
            if band.shape != bands[0].shape:
                raise ValueError(f"feature {name}: shape {band.shape}, but {names[0]} has {bands[0].shape}")
        temperature_byxt = np.empty((len(bands), *bands[0].shape), np.float32)
        with np.errstate(over="ignore"):  # infinite values are reported as impossible
            for plane, band in zip(temperature_byxt, bands, strict=True):
                plane[...] = band
        return temperature_byxt


def _read_labels(example: _Example, plane: tuple[int, int]) -> Labels:
    """Read the masks of a record; if there is no majority mask, it is computed from the individual ones."""
    votes = _read_mask(example, VOTES, plane, 4)
    mask = _read_mask(example, MASK, plane, 3)
    if votes is None:
        return Labels(None if mask is None else mask[..., 0])
    marked_yxr = votes[:, :, 0]
    annotators, count = annotator_bits(marked_yxr), marked_yxr.shape[-1]
    majority = majority_label(marked_yxr) if mask is None else mask[..., 0]
    return Labels(majority, annotators, count, _read_instances(example, plane, count))


def _read_mask(example: _Example, name: str, plane: tuple[int, int], axes: int) -> npt.NDArray[np.uint8] | None:
    if (array := example.tensor(name)) is None:
        return None
    fits = array.ndim == axes and array.shape[:3] == (*plane, 1) and array.size and array.dtype.kind in "iub"
    if not fits:
        raise ValueError(f"feature {name}: {array.dtype} {array.shape}, but bands have {plane}")
    return as_label(array, f"feature {name}")


def _read_instances(example: _Example, plane: tuple[int, int], annotators: int) -> npt.NDArray[np.uint8] | None:
    """Read the masks of single contrails, if a feature of another name is of their shape."""
    for name in example.features:
        if name in KNOWN or example.features[name].kind is not FeatureKind.BYTES:
            continue
        try:
            array = example.tensor(name)
        except ValueError:
            continue  # some other kind of feature
        if array is not None and (axes := instance_axes(str(array.dtype), array.shape, plane, annotators)) is not None:
            return instance_bits(array, axes)
    return None


def _metadata(record_id: str, example: _Example) -> RecordMetadata:
    values = {name: example.plain(name) for name in (*GRID, "timestamp")}
    return parse_entry({"record_id": record_id, **values})


def _scan_starts(example: _Example, frames: int) -> npt.NDArray[np.datetime64] | None:
    """Return the true time of each frame, (time) datetime64[ns]; None if it is not stated for each."""
    if SCAN_STARTS not in example.features:
        return None
    seconds = read_numbers(example.read, example.features[SCAN_STARTS])
    if seconds.shape != (frames,) or seconds.dtype.kind != "i" or not ((seconds > 0) & (seconds < _LAST_SECOND)).all():
        return None
    return seconds.astype("datetime64[s]").astype("datetime64[ns]")


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
    notes = [lacking, f"{unnamed} records state no id; they are named by file and position" if unnamed else ""]
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
