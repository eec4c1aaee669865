"""Synthetic scenes written as records in the OpenContrails layout."""

import io
import json
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from contrail_data.errors import ContrailError
from contrail_data.storage.files import write_atomically
from contrail_data.synthetic.lines import SCENERIES
from contrail_data.synthetic.metadata import metadata
from contrail_data.synthetic.scene import LABEL_SHIFT, Record, checked_bands, synthesize

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
    advance: Callable[[int], object] | None = None,
    workers: int = 2,
) -> dict[str, int]:
    """Write the first records of a seed in the OpenContrails layout.

    The files are `{train,validation}/<record_id>/band_XX.npy`, float32 (y, x, time); `human_pixel_masks.npy`, int32
    (y, x, 1); `human_individual_masks.npy`, int32 (y, x, 1, annotator), only in train; and
    `{train,validation}_metadata.json`.
    Complete records are skipped, so the same call resumes, and a larger number of records extends the data.

    Args:
        root: Folder to write into.
        records: Number of records.
        seed: Seed of the data.
        validation_fraction: Share of the records that is filed as validation.
        size: Rows and columns of a record.
        bands: ABI bands, 8 to 16.
        label_shift: Pixels (down, right) by which labels lie off the image.
        scenery: A key of `SCENERIES`.
        advance: Called with 1 after each finished record, from the calling thread.
        workers: Number of threads.

    Returns:
        Number of records by split.

    Raises:
        ContrailError: If the bands or the shift are out of range, or the folder holds other data or cannot be written.
    """
    bands = checked_bands(bands)
    check_shift(label_shift)
    settings = {
        "synthetic": VERSION,
        "seed": seed,
        "validation_fraction": validation_fraction,
        "size": size,
        "label_shift": [float(d) for d in label_shift],
        "scenery": scenery,
    }
    splits = [split_of(i, validation_fraction) for i in range(records)]
    entries = [metadata(seed, i, size) for i in range(records)]
    folders = [root / split / entry["record_id"] for split, entry in zip(splits, entries, strict=True)]
    make = partial(synthesize, seed, size=size, bands=bands, label_shift=label_shift, scenery=SCENERIES[scenery])
    try:
        claim(root, settings)
        with ThreadPoolExecutor(workers) as pool:
            for _ in pool.map(_write_record, folders, [partial(make, i) for i in range(records)], repeat(bands)):
                if advance is not None:
                    advance(1)
        for split in ("train", "validation"):
            of_split = [entry for entry, own in zip(entries, splits, strict=True) if own == split]
            _write_metadata(root / f"{split}_metadata.json", of_split)
    except OSError as error:
        raise ContrailError(f"{root}: cannot be written ({error.strerror}); check space and permissions") from None
    return {split: splits.count(split) for split in ("train", "validation")}


def check_shift(label_shift: tuple[float, float]) -> None:
    """Check that labels can be shifted so far.

    Args:
        label_shift: Pixels down and right.

    Raises:
        ContrailError: If it is more than 8 pixels.
    """
    if not all(abs(d) <= 8 for d in label_shift):  # NaN fails too
        raise ContrailError(f"label shift {label_shift}: out of range; give at most 8 pixels down and right")


def _write_record(folder: Path, make: Callable[[], Record], bands: Sequence[int]) -> None:
    """Write the files of a record, unless all of them exist."""
    names = [*(f"band_{band:02d}.npy" for band in bands), "human_pixel_masks.npy"]
    if folder.parent.name == "train":
        names.append("human_individual_masks.npy")
    if all((folder / name).is_file() for name in names):
        return
    record = make()
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in zip(names, (*record.bands.values(), record.mask, record.individual), strict=False):
        buffer = io.BytesIO()
        np.save(buffer, array)
        write_atomically(folder / name, [buffer.getbuffer()])


def _write_metadata(path: Path, entries: Sequence[dict[str, Any]]) -> None:
    """Write the metadata of a split; entries of an earlier, larger call stay."""
    earlier = json.loads(path.read_bytes()) if path.is_file() else []
    merged = {entry["record_id"]: entry for entry in (*earlier, *entries)}
    write_atomically(path, [json.dumps([merged[key] for key in sorted(merged)], indent=1).encode()])


_SETTINGS = {"synthetic": "version of contrail", "records": "number of records"}


def claim(root: Path, settings: dict[str, Any]) -> None:
    """Mark a folder as synthetic data with these settings.

    Args:
        root: The folder.
        settings: What determines the data.

    Raises:
        ContrailError: If it holds data of other settings, or anything else.
    """
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


def split_of(index: int, validation_fraction: float) -> str:
    """Spread validation records evenly: the first n records hold n * validation_fraction of them, rounded.

    Args:
        index: Index of a record.
        validation_fraction: Share of the records that is filed as validation.

    Returns:
        Its split.
    """
    before, after = (math.floor(i * validation_fraction + 0.5) for i in (index, index + 1))
    return "validation" if after > before else "train"
