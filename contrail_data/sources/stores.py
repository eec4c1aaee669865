"""Samples out of sealed stores: what subsets, merges and appended stores are built from.

A sample keeps its pixels and values to the bit, and is held to its checksums as it is read, so that no damage is
handed on. Nothing of the new store refers to the old one but the digests in its attribute `parents`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.composites import dequantise
from contrail_data.errors import ContrailError
from contrail_data.geo.geometry import GOES_EAST_LONGITUDE
from contrail_data.sample import GOES_EAST, check_record_id, make_sample
from contrail_data.sources.base import Source
from contrail_data.sources.select import settings_of
from contrail_data.storage.place import place_of
from contrail_data.store.journal import Files, Shard
from contrail_data.store.manifest import read_manifest, sound
from contrail_data.store.reader import open_store, pixel_reader, read_scalars
from contrail_data.store.samples import stored_values
from contrail_data.store.schema import MANIFEST, SHARD, checksum_name
from contrail_data.store.shards import Layout, writing_shards

_GEOMETRY = ("latitude", "longitude", "corner_latitude", "corner_longitude", "geotransform", "crs_wkt")
_KEPT = ("height", "width", "positive_pixels", "label_source")


def from_stores(taken: Sequence[tuple[xr.Dataset, npt.NDArray[np.int64]]]) -> Source:
    """A source of chosen samples (indices) of stores, in the order given.

    Raises ContrailError when a record comes twice, or stores differ in settings or number of frames.
    """
    first = taken[0][0]
    settings = settings_of(first)
    entries: dict[str, Any] = {}
    for store, samples in taken:
        if settings_of(store) != settings or store.sizes["time"] != first.sizes["time"]:
            raise ContrailError(
                f"{store.attrs['path']}: composite, dtype, codec, size, frames or label shift differ from those of "
                f"{first.attrs['path']} (contrail-data diff tells): build one of them anew"
            )
        for record_id, entry in _entries(store, samples):
            if record_id in entries:
                raise ContrailError(f"record {record_id}: is in {entries[record_id]['path']} and {entry['path']}")
            entries[record_id] = entry
    if not entries:
        raise ContrailError(f"{first.attrs['path']}: none of its samples is asked for: nothing to build")
    paths = [str(store.attrs["path"]) for store, _ in taken]
    return Source(
        kind="stores",
        reads=paths,
        root=", ".join(paths),
        where=", ".join(p if "://" in p else str(Path(p).resolve()) for p in paths),
        split="",
        record_ids=list(entries),
        frames=first.sizes["time"],
        read=read,
        files=partial(_files, {record_id: entry["path"] for record_id, entry in entries.items()}),
        entries=entries,
        parents=[str(store.attrs["digest"]) for store, _ in taken],
        gaps=any("valid" in store.variables for store, _ in taken),
    )


def appended(parent: xr.Dataset, new: Source) -> Source:
    """All samples of a store, and after them the records of a source that it does not hold yet.

    Raises ContrailError when there are none, or they have another number of frames.
    """
    old = from_stores([(parent, np.arange(parent.sizes["sample"]))])
    added = [record_id for record_id in new.record_ids if record_id not in old.entries]
    if not added:
        raise ContrailError(f"{new.root}: holds no record that is not in {old.root} already: nothing to append")
    if new.frames != old.frames:
        raise ContrailError(f"{new.root}: records of {new.frames} frames, {old.root} has {old.frames}: cannot append")
    return replace(
        new,
        record_ids=[*old.record_ids, *added],
        read=partial(_read_either, new.read),
        files=partial(_files_of_either, set(old.record_ids), old.files, new.files),
        entries={**new.entries, **old.entries},
        parents=old.parents,
        reads=old.reads,
        gaps=old.gaps or new.gaps,
        adopt=partial(_adopt, parent, old),
    )


def _read_either(read_new: Callable[..., xr.Dataset], record_id: str, entry: Mapping[str, Any], empty: Any) -> Any:
    return (read if "sample" in entry else read_new)(record_id, entry, empty)


def _files_of_either(
    old_ids: set[str], old: Callable[[str], list[Path]], new: Callable[[str], list[Path]], record_id: str
) -> list[Path]:
    return (old if record_id in old_ids else new)(record_id)


def _files(paths: Mapping[str, str], record_id: str) -> list[Path]:
    path = paths[record_id]
    return [] if "://" in path else [Path(path) / MANIFEST]


def _entries(store: xr.Dataset, samples: npt.NDArray[np.int64]) -> Iterator[tuple[str, dict[str, Any]]]:
    path = str(store.attrs["path"])
    where = path if "://" in path else str(Path(path).absolute())
    scalars = read_scalars(store)
    columns = {str(name): variable.values for name, variable in scalars.variables.items()}
    counts = ("labelled_frame", "annotator_count", "height", "width", "positive_pixels")
    texts = ("split", "label_source", "source_digest", "crs_wkt")
    columns.setdefault("satellite", np.full(store.sizes["sample"], GOES_EAST, object))  # stores of before
    columns.setdefault("satellite_longitude", np.full(store.sizes["sample"], GOES_EAST_LONGITUDE))
    for sample in samples.tolist():
        attributes: dict[str, Any] = {name: int(columns[name][sample]) for name in counts}
        attributes |= {name: str(columns[name][sample]) for name in texts}
        attributes |= {name: columns[name][sample] for name in _GEOMETRY if name != "crs_wkt"}
        attributes["satellite"] = str(columns["satellite"][sample])
        attributes["satellite_longitude"] = float(columns["satellite_longitude"][sample])
        yield (
            check_record_id(str(columns["record_id"][sample])),
            {"path": where, "sample": sample, "attributes": attributes, "time": columns["time"][sample]},
        )


def read(record_id: str, entry: Mapping[str, Any], empty: Callable[..., npt.NDArray[Any]] = np.empty) -> xr.Dataset:
    """One sample of a store as a Sample, its pixels in memory from `empty`. Raises ContrailError for a damaged one."""
    store, readers = _opened(entry["path"])
    attributes, sample = entry["attributes"], entry["sample"]
    stored = empty(store["image"].shape[1:], store["image"].dtype)
    readers["image"](sample, list(range(len(stored))), stored)
    labels = {}
    for name in ("mask", "annotators"):
        if name in readers:
            labels[name] = np.empty((1, *stored.shape[2:]), np.uint8)
            readers[name](sample, [0], labels[name])
    labelled, annotated = attributes["label_source"] != "none", attributes["annotator_count"] > 0
    valid_yxt = None
    if "valid" in readers:
        valid_tyx = np.empty((len(stored), *stored.shape[2:]), np.uint8)
        readers["valid"](sample, list(range(len(stored))), valid_tyx)
        valid_yxt = np.moveaxis(valid_tyx, 0, -1) > 0
    made = make_sample(
        "image",
        np.moveaxis(dequantise(stored), 0, -1),
        [str(name) for name in store["channel"].values],
        record_id=record_id,
        split=attributes["split"],
        time=entry["time"],
        mask=labels["mask"][0] if labelled else None,
        annotators=labels["annotators"][0] if annotated else None,
        annotator_count=attributes["annotator_count"],
        labelled_frame=attributes["labelled_frame"],
        source_digest=attributes["source_digest"],
        geometry={name: attributes[name] for name in _GEOMETRY},
        valid=valid_yxt,
        satellite=attributes["satellite"],
        satellite_longitude=attributes["satellite_longitude"],
    )
    return made.assign_attrs({name: attributes[name] for name in _KEPT})


@lru_cache(maxsize=8)
def _opened(path: str) -> tuple[xr.Dataset, dict[str, Any]]:
    store = open_store(path)
    names = [name for name in ("image", "mask", "annotators", "valid") if name in store.variables]
    return store, {name: pixel_reader(store, name, check=True) for name in names}


def _adopt(parent: xr.Dataset, old: Source, layouts: dict[str, Layout], done: set[int]) -> Iterator[Shard]:
    """Whole shards of the parent by reference, with what their journal rows would have said."""
    place = place_of(parent.attrs["path"])
    listed = read_manifest(place, parent.attrs["manifest"])
    scalars = read_scalars(parent)
    checksums = {name: scalars[checksum_name(name)].values for name in layouts if checksum_name(name) in scalars}
    moments = scalars["moments"].values
    missing = scalars["missing_pixels"].values if "missing_pixels" in scalars else np.zeros(len(moments))
    for number in range(len(old.record_ids) // SHARD):
        if number in done:
            continue
        files: Files = {}
        blank: dict[str, list[int]] = {}
        for name, layout in layouts.items():
            key = layout.key(number)
            if key in listed:
                sound(place, key, listed)
                layout.place.take(key, place)
                files[name] = listed[key]
            else:  # a parent without annotators, or without gaps
                with writing_shards({name: layout}, number) as writers:
                    plane = np.full(layout.shape[1:], name == "valid", layout.dtype)
                    for position in range(SHARD):
                        blank[name] = writers[name].add(position, plane)
                    files[name] = writers[name].finish()
        rows = []
        for index in range(number * SHARD, (number + 1) * SHARD):
            record_id = old.record_ids[index]
            entry = old.entries[record_id]
            held = {name: np.atleast_1d(values[index]).tolist() for name, values in checksums.items()}
            values = stored_values(entry["attributes"], entry["time"])
            values["missing_pixels"] = int(missing[index])
            rows.append(
                {
                    "index": index,
                    "record_id": record_id,
                    "checksums": {**held, **blank},
                    "moments": moments[index].tolist(),
                    "values": values,
                }
            )
        yield Shard(number, files, rows)
