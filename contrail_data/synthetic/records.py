"""Synthetic scenes written as records, in the forms in which OpenContrails is published."""

import io
import json
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from contrail_data.errors import ContrailError
from contrail_data.storage.files import reported_errors, write_atomically
from contrail_data.synthetic.lines import SCENERIES
from contrail_data.synthetic.metadata import metadata
from contrail_data.synthetic.scene import LABEL_SHIFT, Record, checked_bands, synthesize
from contrail_data.synthetic.tfrecords import shard_writers

VERSION = 3
"""To be raised when the same seed, index and settings give other data."""


def write_records(
    root: Path,
    records: int,
    *,
    seed: int = 0,
    validation_fraction: float = 0.2,
    size: int = 256,
    bands: Sequence[int] = (11, 14, 15),
    label_shift: tuple[float, float] = LABEL_SHIFT,
    scenery: str = "clear",
    as_tfrecords: bool = False,
    advance: Callable[[int], object] | None = None,
    workers: int = 2,
) -> dict[str, int]:
    """Write the first records of a seed, as folders of files or as TFRecords.

    The files are `{train,validation}/<record_id>/band_XX.npy`, float32 (y, x, time); `human_pixel_masks.npy`, int32
    (y, x, 1); `human_individual_masks.npy`, int32 (y, x, 1, annotator), only in train; and
    `{train,validation}_metadata.json`. A larger number of records extends the data. For TFRecords see
    `contrail_data.synthetic.tfrecords`.
    Complete files are skipped, so the same call resumes.

    Args:
        root: Folder to write into.
        records: Number of records.
        seed: Seed of the data.
        validation_fraction: Share of the records that is filed as validation.
        size: Rows and columns of a record.
        bands: ABI bands, 8 to 16.
        label_shift: Pixels (down, right) by which labels lie off the image.
        scenery: A key of `SCENERIES`.
        as_tfrecords: Write TFRecords.
        advance: Called with the number of records that are finished, from the calling thread.
        workers: Number of threads.

    Returns:
        Number of records by split.

    Raises:
        ContrailError: If the bands or the shift are out of range, or the folder holds other data or cannot be written.
    """
    bands = checked_bands(bands)
    if not all(abs(d) <= 8 for d in label_shift):  # NaN fails too
        raise ContrailError(f"label shift {label_shift}: out of range; give at most 8 pixels down and right")
    settings = {
        "synthetic": VERSION,
        "seed": seed,
        "validation_fraction": validation_fraction,
        "size": size,
        "label_shift": [float(d) for d in label_shift],
        "scenery": scenery,
    }
    splits = [_split(i, validation_fraction) for i in range(records)]
    entries = [metadata(seed, i, size) for i in range(records)]
    make = partial(synthesize, seed, size=size, bands=bands, label_shift=label_shift, scenery=SCENERIES[scenery])
    writers: list[Callable[[], int]]
    if as_tfrecords:
        settings |= {"format": "tfrecord", "records": records, "bands": list(bands)}
        writers = shard_writers(root, splits, entries, make)
    else:
        folders = [root / split / entry["record_id"] for split, entry in zip(splits, entries, strict=True)]
        writers = [partial(_write_record, folder, partial(make, i), bands) for i, folder in enumerate(folders)]
    with reported_errors(str(root), "written"):
        _claim(root, settings)
        with ThreadPoolExecutor(workers) as pool:
            for count in pool.map(lambda write: write(), writers):
                if advance is not None:
                    advance(count)
        if not as_tfrecords:
            for split in ("train", "validation"):
                of_split = [entry for entry, own in zip(entries, splits, strict=True) if own == split]
                _write_metadata(root / f"{split}_metadata.json", of_split)
    return {split: splits.count(split) for split in ("train", "validation")}


def _write_record(folder: Path, make: Callable[[], Record], bands: Sequence[int]) -> int:
    """Write the files of a record, unless all of them exist; returns 1."""
    names = [*(f"band_{band:02d}.npy" for band in bands), "human_pixel_masks.npy"]
    if folder.parent.name == "train":
        names.append("human_individual_masks.npy")
    if all((folder / name).is_file() for name in names):
        return 1
    record = make()
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in zip(names, (*record.bands.values(), record.mask, record.individual), strict=False):
        buffer = io.BytesIO()
        np.save(buffer, array)
        write_atomically(folder / name, [buffer.getbuffer()])
    return 1


def _write_metadata(path: Path, entries: Sequence[dict[str, Any]]) -> None:
    """Write the metadata of a split; entries of an earlier, larger call stay."""
    earlier = json.loads(path.read_bytes()) if path.is_file() else []
    merged = {entry["record_id"]: entry for entry in (*earlier, *entries)}
    write_atomically(path, [json.dumps([merged[key] for key in sorted(merged)], indent=1).encode()])


_SETTINGS = {"synthetic": "version of contrail", "records": "number of records"}


def _claim(root: Path, settings: dict[str, Any]) -> None:
    """Mark the folder as synthetic data with these settings, or refuse it if it holds anything else."""
    marker = root / "synthetic.json"
    if marker.is_file():
        try:
            stored = dict(json.loads(marker.read_bytes()))
        except ValueError:
            raise ContrailError(f"{marker}: not readable; choose another folder") from None
        if stored != settings:
            keys = [key for key in {**settings, **stored} if stored.get(key) != settings.get(key)]
            changed = ", ".join(_SETTINGS.get(key, key) for key in keys)
            raise ContrailError(f"{root}: holds synthetic records with another {changed}; choose another folder")
        return
    names = ["zarr.json", "train", "validation", "test", "train_metadata.json", "validation_metadata.json"]
    for path in (*(root / name for name in names), *root.glob("*.tfrecord*")):
        if path.exists():
            raise ContrailError(f"{root}: holds {path.name}, which is not synthetic; choose another folder")
    root.mkdir(parents=True, exist_ok=True)
    write_atomically(marker, [json.dumps(settings).encode()])


def _split(index: int, validation_fraction: float) -> str:
    """Spread validation records evenly: the first n records hold n * validation_fraction of them, rounded."""
    before, after = (math.floor(i * validation_fraction + 0.5) for i in (index, index + 1))
    return "validation" if after > before else "train"
