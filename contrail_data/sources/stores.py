"""Samples of sealed stores: the source of subsets, merges and appended stores.

Samples keep their pixels and values bit by bit, and are verified against their checksums as they are read, so that
damage is not passed on. The new store refers to its parents only by the digests in its attribute `parents`.
"""

import os
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import xarray as xr
from typing_extensions import override

from contrail_data.composites import dequantise
from contrail_data.errors import ContrailError
from contrail_data.geo.geometry import GOES_EAST_LONGITUDE
from contrail_data.sample import GOES_EAST, Attributes, Labels, Sample, check_record_id, make_sample
from contrail_data.sources.base import Source, SourceKind
from contrail_data.sources.joined import JoinedSource
from contrail_data.sources.kept_frames import keep_frames
from contrail_data.sources.select import StoreSelection, frames_of, settings_of
from contrail_data.storage.place import place_of
from contrail_data.store.journal import Files, Shard
from contrail_data.store.layout import Layout
from contrail_data.store.manifest import read_manifest, read_verified
from contrail_data.store.reader import PixelReader, open_store, pixel_reader, read_scalars
from contrail_data.store.samples import SampleRow, stored_values
from contrail_data.store.schema import MANIFEST, SHARD, checksum_name
from contrail_data.store.shards import writing_shards


@dataclass(frozen=True)
class StoredSample:
    """Where a sample is stored, and its per-sample values."""

    path: str
    index: int
    attributes: Attributes
    time: npt.NDArray[np.datetime64]


@dataclass(frozen=True, kw_only=True)
class StoreSource(Source):
    """Selected samples of sealed stores."""

    kind: SourceKind = SourceKind.STORES
    entries: Mapping[str, StoredSample]

    @override
    def files(self, record_id: str) -> list[str]:
        path = self.entries[record_id].path
        return [] if "://" in path else [os.path.join(path, MANIFEST)]

    @override
    def read_sample(self, record_id: str) -> Sample:
        entry = self.entries[record_id]
        store, readers = _opened(entry.path)
        pixels: dict[str, npt.NDArray[Any]] = {}
        for name, read in readers.items():
            shape = store[name].shape[1:]
            planes = shape if "time" in store[name].dims else (1, *shape)
            pixels[name] = np.empty(planes, store[name].dtype)
            read(entry.index, list(range(planes[0])), pixels[name])
        mask = pixels["mask"][0] if entry.attributes["label_source"] != "none" else None
        annotators = pixels["annotators"][0] if entry.attributes["annotator_count"] else None
        count = entry.attributes["instance_count"]
        instance_masks = pixels["instance_masks"][0][:count] if count else None
        return make_sample(
            np.moveaxis(dequantise(pixels["image"]), 0, -1),
            [str(name) for name in store["channel"].values],
            entry.time,
            Labels(mask, annotators, instance_masks=instance_masks),
            entry.attributes,
            valid=np.moveaxis(pixels["valid"], 0, -1) > 0 if "valid" in pixels else None,
        )


@lru_cache(maxsize=8)
def _opened(path: str) -> tuple[xr.Dataset, dict[str, PixelReader]]:
    store = open_store(path)
    arrays = ("image", "mask", "annotators", "instance_masks", "valid")
    names = [name for name in arrays if name in store.variables]
    return store, {name: pixel_reader(store, name, check=True) for name in names}


def from_stores(selections: Sequence[StoreSelection]) -> StoreSource:
    """Take samples from stores, in the given order.

    Args:
        selections: Open stores and the indices of the samples to take.

    Returns:
        A source of these samples.

    Raises:
        ContrailError: If a record occurs twice, nothing is selected, or the stores differ in settings or frames.
    """
    first = selections[0][0]
    settings = settings_of(first)
    entries: dict[str, StoredSample] = {}
    for store, samples in selections:
        if settings_of(store) != settings or store.sizes["time"] != first.sizes["time"]:
            what = f"composite, dtype, codec, size, frames or label shift differ from those of {first.attrs['path']}"
            raise ContrailError(f"{store.attrs['path']}: {what} (see contrail-data diff); rebuild one of them")
        for record_id, entry in _stored_samples(store, samples):
            if record_id in entries:
                raise ContrailError(f"record {record_id}: occurs in {entries[record_id].path} and {entry.path}")
            entries[record_id] = entry
    if not entries:
        raise ContrailError(f"{first.attrs['path']}: no sample is selected; relax the conditions")
    paths = [str(store.attrs["path"]) for store, _ in selections]
    return StoreSource(
        root=", ".join(paths),
        location=", ".join(path if "://" in path else str(Path(path).resolve()) for path in paths),
        split="",
        record_ids=list(entries),
        frames=first.sizes["time"],
        entries=entries,
        has_gaps=any("valid" in store.variables for store, _ in selections),
        instances=max(store.sizes.get("instance", 0) for store, _ in selections),
        parent_paths=paths,
        parent_digests=[str(store.attrs["digest"]) for store, _ in selections],
    )


def _stored_samples(store: xr.Dataset, samples: npt.NDArray[np.int64]) -> Iterator[tuple[str, StoredSample]]:
    path = str(store.attrs["path"])
    absolute = path if "://" in path else str(Path(path).absolute())
    scalars = read_scalars(store)
    columns = {name: scalars[name].values.tolist() for name in Attributes.__annotations__ if name in scalars}
    # Stores written by earlier versions do not name the satellite.
    columns.setdefault("satellite", [GOES_EAST] * store.sizes["sample"])
    columns.setdefault("instance_count", [0] * store.sizes["sample"])
    columns.setdefault("satellite_longitude", [GOES_EAST_LONGITUDE] * store.sizes["sample"])
    times = scalars["time"].values
    for index in samples.tolist():
        attributes = cast(Attributes, {name: column[index] for name, column in columns.items()})
        yield check_record_id(attributes["record_id"]), StoredSample(absolute, index, attributes, times[index])


@dataclass(frozen=True, kw_only=True)
class AppendedSource(JoinedSource):
    """All samples of one store, followed by records of another source."""

    def adopt_shards(self, layouts: Mapping[str, Layout], finished: Set[int]) -> Iterator[Shard]:
        """Put all full shards of the store in place; arrays that it lacks are filled.

        A store of fewer instance masks is copied sample by sample, as their number is the shape of a chunk.

        Args:
            layouts: Layout of each pixel array of the new store.
            finished: Numbers of the shards that are in place already.

        Yields:
            Each shard that was put in place.
        """
        old = cast(StoreSource, self.sources[0])
        parent = open_store(self.parent_paths[0])
        if "instance" in parent.sizes and parent.sizes["instance"] != self.instances:
            return
        place = place_of(parent.attrs["path"])
        manifest = read_manifest(place, parent.attrs["manifest"])
        scalars = read_scalars(parent)
        checksums = {name: scalars[checksum_name(name)].values for name in layouts if checksum_name(name) in scalars}
        moments = scalars["moments"].values
        missing = scalars["missing_pixels"].values if "missing_pixels" in scalars else np.zeros(len(moments))
        for number in range(len(old.record_ids) // SHARD):
            if number in finished:
                continue
            files: Files = {}
            constant_checksums: dict[str, list[int]] = {}
            for name, layout in layouts.items():
                key = layout.key(number)
                if key in manifest:
                    content = read_verified(place, key, manifest)
                    if not layout.place.link(key, place):
                        layout.place.write(key, [content])
                    files[name] = manifest[key]
                else:  # the parent has no annotators, or no gaps
                    with writing_shards({name: layout}, number) as writers:
                        plane = np.full(layout.shape[1:], name == "valid", layout.dtype)
                        for position in range(SHARD):
                            constant_checksums[name] = writers[name].add(position, plane)
                        files[name] = writers[name].finish()
            rows: list[SampleRow] = []
            for index in range(number * SHARD, (number + 1) * SHARD):
                entry = old.entries[old.record_ids[index]]
                kept_checksums = {name: np.atleast_1d(values[index]).tolist() for name, values in checksums.items()}
                rows.append(
                    {
                        "index": index,
                        "record_id": entry.attributes["record_id"],
                        "checksums": {**kept_checksums, **constant_checksums},
                        "moments": moments[index].tolist(),
                        "values": stored_values(entry.attributes, entry.time, int(missing[index])),
                    }
                )
            yield Shard(number, files, rows)


def fitting(source: Source, store: xr.Dataset) -> Source:
    """Keep those frames of raw data that a store keeps of its samples.

    Args:
        source: Raw data of the kind that the store was built from.
        store: The open store.

    Returns:
        The source, or one with fewer frames.
    """
    return source if source.frames <= store.sizes["time"] else keep_frames(source, frames_of(store))


def appended(parent: xr.Dataset, new: Source) -> AppendedSource:
    """Take all samples of a store, followed by the records of a source that it does not hold yet.

    Of the records, those frames are kept that the store keeps of its samples.

    Args:
        parent: The open store.
        new: Source of the new records.

    Returns:
        A source of the old and the new records.

    Raises:
        ContrailError: If there are no new records, or their number of frames differs.
    """
    old = from_stores([(parent, np.arange(parent.sizes["sample"]))])
    new = fitting(new, parent)
    added = [record_id for record_id in new.record_ids if record_id not in old.entries]
    if not added:
        raise ContrailError(f"{new.root}: all its records are in {old.root} already; nothing to append")
    if new.frames != old.frames:
        frames = f"records have {new.frames} frames, those of {old.root} {old.frames}"
        raise ContrailError(f"{new.root}: {frames}; append to another store")
    inherited: dict[str, Any] = {field.name: getattr(new, field.name) for field in fields(Source)}
    changed: dict[str, Any] = {
        "record_ids": [*old.record_ids, *added],
        "entries": dict.fromkeys(old.record_ids, 0) | dict.fromkeys(added, 1),
        "has_gaps": old.has_gaps or new.has_gaps,
        "instances": max(old.instances, new.instances),
        "parent_paths": old.parent_paths,
        "parent_digests": old.parent_digests,
    }
    return AppendedSource(**inherited | changed, sources=(old, new))
