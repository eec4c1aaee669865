"""OpenContrails/Kaggle records: `{split}/{record_id}/band_XX.npy`, masks, `{split}_metadata.json`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from contrail_data.composites import Composite
from contrail_data.errors import BadRecord, ContrailError
from contrail_data.geo.geometry import local_solar_hour, tile_geometry
from contrail_data.sample import (
    FRAME_STEP,
    RECORD_FRAMES,
    RECORD_LABELLED_FRAME,
    check_record_id,
    make_sample,
    unknown_geometry,
)
from contrail_data.sources.base import Source, missing
from contrail_data.sources.npy import digest, read_label, read_npy

MAX_ANNOTATORS = 8  # one bit each
_GEOMETRY_KEYS = {"projection_wkt", "row_min", "row_size", "col_min", "col_size"}


def scan(root: Path, split: str, composite: Composite) -> Source:
    """List the records of a split. Raises ContrailError when the split has no folder or no record."""
    folder = root / split
    if not folder.is_dir():
        there = [name for name in ("train", "validation", "test") if (root / name).is_dir()]
        hint = f"use --split {' or '.join(there)}" if there else "give the folder that holds train/, validation/, test/"
        raise ContrailError(f"{folder}: no such folder: {hint}")
    problems: list[str] = []
    ids: list[str] = []
    for entry in sorted(folder.iterdir()):
        if entry.is_symlink() and not entry.exists():
            problems.append(f"{split}/{entry.name}: a link that leads nowhere: restore or remove it")
        if not entry.is_dir() or entry.name.startswith("."):
            continue
        try:
            ids.append(check_record_id(entry.name))
        except BadRecord as error:
            problems.append(f"{split}: {error}")
    metadata = _read_metadata(root / f"{split}_metadata.json", problems)
    if not ids and not problems:
        raise ContrailError(f"{folder}: holds no record folders: check the path")
    whole = sum(metadata.get(record_id, {}).keys() >= _GEOMETRY_KEYS | {"timestamp"} for record_id in ids)
    note = ""
    if whole < len(ids):
        is_there = (root / f"{split}_metadata.json").is_file()
        state = "partial" if metadata else "unusable" if is_there else "absent"
        note = f"{split}_metadata.json is {state}: {len(ids) - whole} of {len(ids)} records lack time or place (NaN)"
    return Source(
        kind="records",
        root=str(root),
        where=str(root.resolve()),
        split=split,
        record_ids=ids,
        frames=RECORD_FRAMES,
        read=partial(read, folder.absolute(), composite.bands),
        files=partial(_files, folder.absolute(), composite.bands),
        entries=metadata,
        problems=problems,
        note=note,
    )


def _files(folder: Path, bands: tuple[int, ...], record_id: str) -> list[Path]:
    names = [f"band_{b:02d}.npy" for b in bands]
    labels = ("human_pixel_masks.npy", "human_individual_masks.npy")
    return [folder.parent / f"{folder.name}_metadata.json", *(folder / record_id / n for n in (*names, *labels))]


def read(
    folder: Path,
    bands: tuple[int, ...],
    record_id: str,
    entry: Mapping[str, Any],
    empty: Callable[..., np.ndarray[Any, Any]] = np.empty,
) -> xr.Dataset:
    """One record as a Sample in memory from `empty`, only the bands asked for; `entry` is its metadata.

    Raises BadRecord naming file and reason.
    """
    paths = [folder / record_id / f"band_{b:02d}.npy" for b in bands]
    if absent := missing(paths):
        raise BadRecord(f"{record_id}: missing {', '.join(absent)}: restore, or choose a composite without")
    temperature: np.ndarray[Any, Any] = np.empty((0, 0, 0, 0))
    planes: list[np.ndarray[Any, Any]] = []  # views of `temperature`, (band, y, x, time), filled in place

    def allocate(shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        nonlocal temperature
        if not planes:
            temperature = empty((len(bands), *shape), np.float32)
            planes.extend(temperature)
        return planes[i]

    for i, path in enumerate(paths):  # noqa: B007 - allocate reads i
        shape = planes[0].shape if planes else (None, None, RECORD_FRAMES)
        read_npy(path, kinds="<f4", shape=shape, allocate=allocate)
    height, width = temperature.shape[1:3]
    mask, annotators, count = _read_labels(folder / record_id, (height, width))
    if mask is None and folder.name != "test":
        raise BadRecord(f"{record_id}/human_pixel_masks.npy: missing: restore the file, or move it to test")
    geometry = unknown_geometry()
    start = np.datetime64("NaT", "ns")
    try:
        if entry.keys() >= _GEOMETRY_KEYS:
            geometry = tile_geometry(**{k: entry[k] for k in _GEOMETRY_KEYS}, height=height, width=width)
        if "timestamp" in entry:
            start = np.datetime64(round(entry["timestamp"] * 1e3), "ms").astype("datetime64[ns]")
    except (ValueError, OverflowError) as error:
        raise BadRecord(
            f"{folder.name}_metadata.json: record {record_id}: {str(error)[:120]}: correct the entry"
        ) from None
    return make_sample(
        "brightness_temperature",
        temperature,
        bands,
        record_id=record_id,
        split=folder.name,
        time=start + FRAME_STEP * (np.arange(RECORD_FRAMES) - RECORD_LABELLED_FRAME),
        mask=mask,
        annotators=annotators,
        annotator_count=count,
        labelled_frame=RECORD_LABELLED_FRAME,
        source_digest=" ".join(f"{b}:{digest(p)}" for b, p in zip(bands, planes, strict=True)),
        geometry=geometry,
    )


def _read_labels(folder: Path, shape: tuple[int, ...]) -> tuple[Any, Any, int]:
    """(mask or None, annotator bit field or None, annotator count)."""
    annotators, count = None, 0
    individual = folder / "human_individual_masks.npy"
    if individual.exists():
        votes = read_label(individual, (*shape, 1, None))[:, :, 0]
        count = votes.shape[-1]
        if count > MAX_ANNOTATORS:
            raise BadRecord(f"{folder.name}/{individual.name}: {count} annotators, at most {MAX_ANNOTATORS} fit")
        annotators = np.zeros(shape, np.uint8)
        for bit in range(count):
            annotators |= votes[..., bit] << np.uint8(bit)
    pixel = folder / "human_pixel_masks.npy"
    if pixel.exists():
        return read_label(pixel, (*shape, 1))[..., 0], annotators, count
    if annotators is None:
        return None, None, 0
    # The dataset's own rule, strict: with four annotators a 2-2 tie is no contrail.
    return (2 * votes.sum(-1, dtype=np.int32) > count).astype(np.uint8), annotators, count


def _read_metadata(path: Path, problems: list[str]) -> dict[str, dict[str, Any]]:
    """Entries by record id; what does not fit is told in `problems` and left out."""
    if not path.is_file():
        return {}
    try:
        entries = json.loads(path.read_bytes())
        if not isinstance(entries, list):
            raise ValueError("not a list of records")
    except (OSError, ValueError, RecursionError) as error:
        problems.append(f"{path.name}: cannot be used, records have no time and place: {str(error)[:100]}: restore it")
        return {}
    metadata: dict[str, dict[str, Any]] = {}
    for i, entry in enumerate(entries):
        try:
            record_id = check_record_id(str(entry["record_id"]))
            known = {k: v for k, v in entry.items() if v is not None}
            for key in _GEOMETRY_KEYS | {"timestamp"}:
                _check_value(key, known.get(key, "" if key == "projection_wkt" else 0))
            if record_id in metadata:
                raise ValueError(f"record_id {record_id} comes twice")
            metadata[record_id] = known
        except (AttributeError, TypeError, KeyError):
            problems.append(f"{path.name}: entry {i} is no record with a record_id: set aside")
        except (BadRecord, ValueError) as error:
            problems.append(f"{path.name}: entry {i}: {str(error)[:150]}: set aside, no time and place")
    return metadata


def metadata_entries(path: Path) -> list[dict[str, Any]]:
    """The entries of a metadata file that tell time and place. Raises ContrailError for a file without any."""
    problems: list[str] = []
    whole = [
        entry for entry in _read_metadata(path, problems).values() if entry.keys() >= _GEOMETRY_KEYS | {"timestamp"}
    ]
    if not whole:
        raise ContrailError(
            problems[0] if problems else f"{path}: tells no record's time and place: choose another file"
        )
    return whole


def _check_value(key: str, value: Any) -> None:
    if key == "projection_wkt":
        if not isinstance(value, str):
            raise ValueError(f"{key} is not text")
    elif type(value) not in (int, float) or not abs(value) < 1e9 * (4 if key == "timestamp" else 1):  # NaN fails too
        raise ValueError(f"{key} is {str(value)[:40]!r}, not a usable number")


def metadata_records(path: Path, size: int) -> xr.Dataset:
    """What `{split}_metadata.json` tells, as `records` without labels, raw data or images.

    Such a file does not tell how large tiles are: they are taken for `size` pixels a side.
    Raises ContrailError for a file without any record's time and place, or a tile outside of its projection.
    """
    entries = metadata_entries(path)
    tiles = []
    for entry in entries:
        numbers = {key: entry[key] for key in ("projection_wkt", "row_min", "row_size", "col_min", "col_size")}
        try:
            tiles.append(tile_geometry(**numbers, height=size, width=size))
        except ValueError as error:
            raise ContrailError(f"{path}: record {entry['record_id']}: {str(error)[:120]}: correct the entry") from None
    start = np.array([round(entry["timestamp"] * 1e3) for entry in entries]).astype("datetime64[ms]")
    start_ns = start.astype("datetime64[ns]")
    count = len(entries)
    longitude = np.array([tile["longitude"] for tile in tiles])
    return xr.Dataset(
        {
            "record_id": ("sample", np.array([str(entry["record_id"]) for entry in entries])),
            "label_source": ("sample", np.full(count, "none")),
            "source_digest": ("sample", np.full(count, "")),
            "labelled_frame": ("sample", np.full(count, RECORD_LABELLED_FRAME)),
            "positive_pixels": ("sample", np.zeros(count, np.int32)),
            "time": (
                ("sample", "time"),
                start_ns[:, np.newaxis] + FRAME_STEP * (np.arange(RECORD_FRAMES) - RECORD_LABELLED_FRAME),
            ),
            "latitude": ("sample", np.array([tile["latitude"] for tile in tiles])),
            "longitude": ("sample", longitude),
            "corner_latitude": (("sample", "corner"), np.array([tile["corner_latitude"] for tile in tiles])),
            "corner_longitude": (("sample", "corner"), np.array([tile["corner_longitude"] for tile in tiles])),
            "local_solar_hour": ("sample", local_solar_hour(longitude, start).astype(np.float32)),
        }
    )
