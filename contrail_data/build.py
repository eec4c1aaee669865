"""Source → store on dask, resumable: what is finished is read from the unfinished store itself.

A task takes a run of records from raw bytes to stored bytes and then writes one journal file that names every
chunk it wrote. A killed build loses at most the runs that were under way; the next one does only the rest, and
the sealed bytes are those of an undisturbed build.
"""

from __future__ import annotations

import math
import os
import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data import stats
from contrail_data.composites import Composite, quantise, stored_frames
from contrail_data.errors import BadRecord, ContrailError
from contrail_data.geometry import local_solar_hour, satellite_zenith, solar_zenith
from contrail_data.journal import building, finished_store, plan_of, read_rows, remove_store, write_rows
from contrail_data.progress import progress
from contrail_data.sample import resize
from contrail_data.shards import Layout, write_sample
from contrail_data.sources import Source
from contrail_data.store import Array, create_arrays, seal

RUN = 16  # records a task: few journal files, little lost with a killed task


@dataclass(frozen=True)
class Settings:
    """What, beside the source, decides the bytes of a store."""

    composite: Composite
    dtype: str = "uint8"
    codec: str = "none"
    size: int = 256
    label_shift: tuple[float, float] = (0.5, 0.5)
    """(dy, dx): labels lie this many pixels down and right of the image; OpenContrails' own is (0.5, 0.5)."""

    def arrays(self, frames: int) -> dict[str, Array]:
        plane = (self.size, self.size)
        image = Array((frames, len(self.composite.channels), *plane), self.dtype, self.codec, True)
        label = Array(plane, "uint8", "zstd", False)
        return {"image": image, "mask": label, "annotators": label}


@dataclass(frozen=True)
class Built:
    """What a build did."""

    path: Path
    digest: str
    samples: int
    resumed: int
    """Samples found finished from an earlier, interrupted build; all of them where the store was there."""
    set_aside: list[str] = field(default_factory=list)


def build(
    source: Source,
    settings: Settings,
    out: Path,
    *,
    workers: int,
    strict: bool = False,
    overwrite: bool = False,
    command: Sequence[str] = (),
) -> Built:
    """Build and seal a store; finish an interrupted one; return at once where the same store is there already.

    Raises BadRecord for the first bad record when `strict`; ContrailError when `out` holds another store or
    another build, when the disk refuses, or when no record at all is usable.
    """
    if not all(abs(d) <= 8 for d in settings.label_shift):  # NaN fails too
        raise ContrailError(f"--label-shift {settings.label_shift}: give pixels down and right, at most 8")
    facts = [source.kind, source.split, source.record_ids, source.frames, settings.composite.to_dict()]
    plan = plan_of([*facts, settings.dtype, settings.codec, settings.size, settings.label_shift])
    if strict and source.problems:
        raise BadRecord(source.problems[0])
    if overwrite and out.exists():
        remove_store(out)
    if (done := finished_store(out, plan)) is not None:
        return Built(out, done["digest"], done["samples"], done["samples"], done["set_aside"])
    with building(out, plan) as journal:
        return _build(source, settings, out, journal, plan, workers, strict, command)


def _build(
    source: Source,
    settings: Settings,
    out: Path,
    journal: Path,
    plan: str,
    workers: int,
    strict: bool,
    command: Sequence[str],
) -> Built:
    import dask
    from dask.callbacks import Callback

    arrays = settings.arrays(source.frames)
    layouts = create_arrays(out, arrays, len(source.record_ids))
    rows = {r["index"]: r for r in read_rows(journal, layouts) if r["stamp"] == _stamp(source, r["record_id"])}
    todo = [i for i in range(len(source.record_ids)) if i not in rows]
    resumed = len(rows)
    runs = [todo[i : i + RUN] for i in range(0, len(todo), RUN)]
    # Bound beforehand: dask would walk through all record ids once a task.
    task = dask.delayed(partial(_build_run, source, settings, layouts, journal, strict))
    tasks = [task(run) for run in runs]
    with progress("build-ash", len(source.record_ids), resumed) as advance:

        class Advance(Callback):
            def _posttask(self, key: Any, value: Any, dsk: Any, state: Any, worker_id: Any) -> None:
                if isinstance(value, list):
                    advance(len(value))

        with Advance():
            results = dask.compute(*tasks, scheduler="threads", num_workers=workers)
    rows |= {row["index"]: row for result in results for row in result}
    good = [row for _, row in sorted(rows.items()) if "error" not in row]
    set_aside = source.problems + [row["error"] for _, row in sorted(rows.items()) if "error" in row]
    if not good:
        raise ContrailError(f"{source.root}: none of {len(rows)} records is usable; the first: {set_aside[0]}")
    digest = _seal(source, settings, out, plan, layouts, arrays, good, set_aside, command)
    return Built(out, digest, len(good), resumed, set_aside)


def _build_run(
    source: Source, settings: Settings, layouts: dict[str, Layout], journal: Path, strict: bool, run: list[int]
) -> list[dict[str, Any]]:
    """Raw bytes to stored bytes for a few records; one row each, also for one that had to be set aside."""
    rows = []
    for index in run:
        record_id = source.record_ids[index]
        row: dict[str, Any] = {"index": index, "record_id": record_id, "stamp": _stamp(source, record_id)}
        try:
            row |= store_sample(source.read(record_id, _own_memory), settings, layouts, index)
        except BadRecord as error:
            if strict:
                raise
            row["error"] = str(error) if f"{record_id}/" in str(error) else f"{record_id}: {error}"
        rows.append(row)
    write_rows(journal, rows)
    return rows


_memory = threading.local()


def _own_memory(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """An array in this thread's own memory, the same at every call for a shape: pages fresh from the kernel cost more
    time than what is read into them."""
    arrays = _memory.__dict__.setdefault("arrays", {})
    key = (shape, np.dtype(dtype))
    if key not in arrays:
        if len(arrays) >= 4:  # records of many sizes
            arrays.clear()
        arrays[key] = np.empty(shape, dtype)
    return arrays[key]


def store_sample(sample: xr.Dataset, settings: Settings, layouts: dict[str, Layout], index: int) -> dict[str, Any]:
    """Write one sample's chunks; returns chunk checksums, moments per channel and per-sample values."""
    positive = int(sample["mask"].sum()) if "mask" in sample else 0
    sample = resize(sample, settings.size)
    if "image" in sample:
        unit_tchw = sample["image"].transpose("time", "channel", "y", "x").values
        image_tchw = _own_memory(unit_tchw.shape, settings.dtype)
        quantise(unit_tchw, image_tchw)
    else:
        temperature = sample["brightness_temperature"]
        bands = dict(zip(temperature["band"].values.tolist(), temperature.values, strict=True))
        image_tchw = stored_frames(settings.composite, bands, settings.dtype, _own_memory)
    chunks = {"image": write_sample(layouts["image"], index, image_tchw)}
    plane = np.zeros((settings.size, settings.size), np.uint8)
    chunks["mask"] = write_sample(layouts["mask"], index, sample["mask"].values if "mask" in sample else plane)
    if "annotators" in sample:
        chunks["annotators"] = write_sample(layouts["annotators"], index, sample["annotators"].values)
    return {"chunks": chunks, "moments": stats.moments(image_tchw), "values": _values(sample, positive)}


def _values(sample: xr.Dataset, positive: int) -> dict[str, Any]:
    """Per-sample variables of the store as JSON keeps them: NaN and NaT as null."""
    a = sample.attrs
    return {
        **{k: a[k] for k in ("split", "label_source", "labelled_frame", "annotator_count", "source_digest")},
        **{k: a[k] for k in ("crs_wkt", "height", "width")},
        "time": [None if np.isnat(t) else int(t.astype("datetime64[ms]").astype(int)) for t in sample["time"].values],
        "latitude": _number(a["latitude"]),
        "longitude": _number(a["longitude"]),
        **{k: [_number(v) for v in a[k]] for k in ("corner_latitude", "corner_longitude", "geotransform")},
        "positive_pixels": positive,
    }


def _number(value: Any) -> float | None:
    return None if math.isnan(value) else float(value)


_VARIABLES: dict[str, tuple[tuple[str, ...], str, dict[str, str]]] = {
    "record_id": (("sample",), "str", {}),
    "split": (("sample",), "str", {}),
    "label_source": (("sample",), "str", {"long_name": "none, human or pseudo"}),
    "labelled_frame": (("sample",), "int8", {"long_name": "index of the frame the label belongs to, -1: none"}),
    "annotator_count": (("sample",), "uint8", {}),
    "latitude": (("sample",), "float64", {"units": "degrees_north", "long_name": "centre of the tile"}),
    "longitude": (("sample",), "float64", {"units": "degrees_east", "long_name": "centre of the tile"}),
    "corner_latitude": (("sample", "corner"), "float64", {"units": "degrees_north"}),
    "corner_longitude": (("sample", "corner"), "float64", {"units": "degrees_east"}),
    "crs_wkt": (("sample",), "str", {"long_name": "projection of the tile, well-known text"}),
    "geotransform": (("sample", "affine"), "float64", {"long_name": "GDAL order, of the stored grid", "units": "m"}),
    "positive_pixels": (("sample",), "int32", {"long_name": "mask pixels before resizing"}),
    "height": (("sample",), "int32", {"long_name": "rows before resizing"}),
    "width": (("sample",), "int32", {"long_name": "columns before resizing"}),
    "source_digest": (("sample",), "str", {"long_name": "xxh3 of the raw data by band"}),
}


def _scalars(rows: list[dict[str, Any]], settings: Settings) -> xr.Dataset:
    variables: dict[str, Any] = {"channel": ("channel", np.array(settings.composite.channel_names, object))}
    for name, (dims, dtype, attributes) in _VARIABLES.items():
        column = [row["record_id"] if name == "record_id" else row["values"][name] for row in rows]
        array = np.array(column, object)
        if dtype == "str":
            variables[name] = (dims, array, attributes)
        else:
            variables[name] = (dims, np.where(array == None, np.nan, array).astype(dtype), attributes)  # noqa: E711
    known = [[np.iinfo(np.int64).min if t is None else t for t in row["values"]["time"]] for row in rows]
    times = np.array(known).astype("datetime64[ms]").astype("datetime64[ns]")
    variables["time"] = (("sample", "time"), times, {"long_name": "nominal scan time, UTC"})
    latitude, longitude = variables["latitude"][1], variables["longitude"][1]
    moment = times[np.arange(len(rows)), np.maximum(variables["labelled_frame"][1], 0)]
    for name, angle, unit, about in (
        ("solar_zenith", solar_zenith(latitude, longitude, moment), "degree", "at the centre, labelled frame"),
        ("satellite_zenith", satellite_zenith(latitude, longitude), "degree", "at the centre, from GOES-East"),
        ("local_solar_hour", local_solar_hour(longitude, moment), "h", "true solar time at the centre"),
    ):
        variables[name] = (("sample",), angle.astype(np.float32), {"units": unit, "long_name": about})
    return xr.Dataset(variables)


def _seal(
    source: Source,
    settings: Settings,
    out: Path,
    plan: str,
    layouts: dict[str, Layout],
    arrays: dict[str, Array],
    good: list[dict[str, Any]],
    set_aside: list[str],
    command: Sequence[str],
) -> str:
    # Samples from the end take the places of records that were set aside: few moves, repeatable after a kill.
    count = len(good)
    slots = {row["index"] for row in good}
    holes = iter(sorted(set(range(count)) - slots))
    order = {(row["index"] if row["index"] < count else next(holes)): row for row in good}
    rows = [order[slot] for slot in range(count)]
    if not any("annotators" in row["chunks"] for row in rows):
        shutil.rmtree(out / "annotators", ignore_errors=True)
        arrays = {name: array for name, array in arrays.items() if name != "annotators"}
    checksums: dict[str, tuple[str, int]] = {}
    for slot, row in enumerate(rows):
        for name in arrays:
            layout, key = layouts[name], f"{name}/{layouts[name].key(slot)}"
            if name not in row["chunks"]:
                nobody = np.zeros((settings.size, settings.size), np.uint8)
                checksums[key] = write_sample(layout, slot, nobody)
                continue
            if slot != row["index"] and os.path.exists(layout.path(row["index"])):
                os.replace(layout.path(row["index"]), layout.path(slot))
            checksums[key] = tuple(row["chunks"][name])
    train = [row["moments"] for row in rows if row["values"]["split"] == "train"]
    attributes = {
        "kind": "samples",
        "composite": settings.composite.to_dict(),
        "source": source.kind,
        "label_shift": list(settings.label_shift),
        "statistics": stats.merge(train, settings.composite.channel_names) if train else None,
    }
    provenance = {"plan": plan, "samples": len(rows), "source": str(source.root.resolve()), "set_aside": set_aside}
    return seal(out, arrays, _scalars(rows, settings), attributes, checksums, command, provenance)


def _stamp(source: Source, record_id: str) -> list[int]:
    """Sizes and times of a record's files: a record that changed since is built again."""
    found = [path.stat() if path.exists() else None for path in source.files(record_id)]
    return [n for s in found for n in ((s.st_size, s.st_mtime_ns) if s else (-1, -1))]
