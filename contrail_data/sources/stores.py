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

from contrail_data.build import Settings, stored_values
from contrail_data.composites import dequantise, from_dict
from contrail_data.errors import ContrailError
from contrail_data.geometry import GOES_EAST_LONGITUDE
from contrail_data.journal import Files, Shard
from contrail_data.places import place_of
from contrail_data.sample import GOES_EAST, check_record_id, make_sample
from contrail_data.shards import CODECS, Layout, parse_layout, writing_shards
from contrail_data.sources import Source
from contrail_data.store import (
    MANIFEST,
    SHARD,
    checksum_name,
    kind,
    open_store,
    pixel_reader,
    read_manifest,
    read_scalars,
    sound,
)

_GEOMETRY = ("latitude", "longitude", "corner_latitude", "corner_longitude", "geotransform", "crs_wkt")
_KEPT = ("height", "width", "positive_pixels", "label_source")


def settings_of(store: xr.Dataset) -> Settings:
    """The settings that a store of samples was built with. Raises ContrailError for another kind or a layout that is
    not ours."""
    path = store.attrs["path"]
    if kind(store) != "samples":
        raise ContrailError(f"{path}: holds {kind(store)}, no samples: name a store of samples")
    layout = parse_layout(place_of(path), "image")
    codecs = [name for name, codec in CODECS.items() if layout is not None and _same_codec(codec, layout.codec)]
    if not codecs or store.sizes["y"] != store.sizes["x"]:
        raise ContrailError(f"{path}: is not laid out as our stores are: build it with build-ash")
    return Settings(
        from_dict(store.attrs["composite"]),
        str(store["image"].dtype),
        codecs[0],
        store.sizes["y"],
        tuple(store.attrs["label_shift"]),
    )


def _same_codec(ours: dict[str, Any] | None, theirs: dict[str, Any] | None) -> bool:
    return (ours is None) == (theirs is None) and (ours is None or theirs is None or ours["name"] == theirs["name"])


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


def choose(
    store: xr.Dataset,
    *,
    record_ids: Sequence[str] | None = None,
    without: Sequence[str] = (),
    since: np.datetime64 | None = None,
    until: np.datetime64 | None = None,
    area: tuple[float, float, float, float] | None = None,
    label: str | None = None,
    split: str | None = None,
) -> npt.NDArray[np.int64]:
    """Indices of the samples that fit everything asked for, in the store's order; none of `without`.

    `since` <= time of the labelled frame < `until`; `area` is (south, west, north, east) in degrees around the
    centres, west > east across the date line; `label` is positive, negative or none. A sample of unknown time or place
    fits no time or area. Raises ContrailError for a record that is not there.
    """
    scalars = read_scalars(store)
    ids = np.array([str(r) for r in scalars["record_id"].values])
    fits = ~np.isin(ids, list(without))
    if absent := sorted({*(record_ids or ()), *without} - set(ids)):
        more = f" (nor {len(absent) - 1} others of the list)" if len(absent) > 1 else ""
        raise ContrailError(f"{store.attrs['path']}: holds no record {absent[0]!r}{more}: correct the list")
    if area is not None and not (-90 <= area[0] <= area[2] <= 90 and all(abs(d) <= 360 for d in area)):  # NaN fails
        raise ContrailError(f"--area {area}: give south, west, north, east in degrees, south below north")
    if since is not None and until is not None and not since < until:
        raise ContrailError(f"--since {since}, --until {until}: no time lies between them: correct one")
    if record_ids is not None:
        fits &= np.isin(ids, list(record_ids))
    frame = np.maximum(scalars["labelled_frame"].values, 0)
    times = scalars["time"].values[np.arange(len(ids)), frame]
    if since is not None:
        fits &= times >= since  # NaT fails
    if until is not None:
        fits &= times < until
    if area is not None:
        south, west, north, east = area
        latitude, longitude = scalars["latitude"].values, scalars["longitude"].values
        fits &= (latitude >= south) & (latitude <= north)
        within = (longitude >= west) & (longitude <= east)
        across = (longitude >= west) | (longitude <= east)
        fits &= within if west <= east else across & ~np.isnan(longitude)
    labelled = scalars["label_source"].values != "none"
    positive = scalars["positive_pixels"].values > 0
    if label is not None:
        fits &= {"positive": labelled & positive, "negative": labelled & ~positive, "none": ~labelled}[label]
    if split is not None:
        fits &= scalars["split"].values == split
    return np.flatnonzero(fits)


def without_repeats(stores: Sequence[xr.Dataset]) -> list[tuple[xr.Dataset, npt.NDArray[np.int64]]]:
    """All samples of stores, one that several hold with the same bytes once, for `from_stores`.

    Raises ContrailError naming a record that they hold with different pixels or labels.
    """
    seen: dict[str, tuple[Any, str]] = {}
    taken = []
    for store in stores:
        settings_of(store)  # no samples: told before anything is compared
        scalars = read_scalars(store)
        names = [str(name) for name in scalars.variables if str(name).endswith("_checksum")]
        new = []
        for sample, record_id in enumerate(str(r) for r in scalars["record_id"].values):
            content = {name: np.atleast_1d(scalars[name].values[sample]).tolist() for name in names}
            if record_id not in seen:
                seen[record_id] = content, store.attrs["path"]
                new.append(sample)
            elif seen[record_id][0] != content:
                raise ContrailError(
                    f"record {record_id}: differs between {seen[record_id][1]} and {store.attrs['path']}: take one of "
                    "them out with subset --without"
                )
        taken.append((store, np.array(new, np.int64)))
    return taken
