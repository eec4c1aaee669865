"""Synthetic records in TFRecord files."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from contrail_data.sample import BAND_FEATURES, RECORD_FRAMES, RECORD_LABELLED_FRAME
from contrail_data.storage.example import Value, encode_example
from contrail_data.storage.files import atomic_files
from contrail_data.storage.tfrecord import frame
from contrail_data.synthetic.scene import Record

INSTANCE_MASKS = "synthetic_instance_masks"
"""Feature with the masks of single contrails; what the published records call theirs is not known."""
_SHARD_RECORDS = 16
_SCAN_DELAY_S = 20
"""Seconds from the nominal time of a frame to the start of its full-disk scan."""


def shard_writers(
    root: Path, splits: Sequence[str], entries: Sequence[dict[str, Any]], make: Callable[[int], Record]
) -> list[Callable[[], int]]:
    """Distribute records over files `{train,validation}.tfrecords-NNNNN-of-NNNNN`, of up to 16 records each.

    Bands are tensors of float64, masks of int32, both with their content as bytes; `synthetic_instance_masks`
    (instance, y, x, annotator) holds the contrails one by one, -1 for an annotator who did not mark that one.

    Args:
        root: Folder to write into.
        splits: Split of each record.
        entries: Metadata of each record.
        make: Makes a record by its index.

    Returns:
        For each file a function that writes it unless it exists, and returns the number of its records.
    """
    writers: list[Callable[[], int]] = []
    for split in ("train", "validation"):
        indices = [i for i, own in enumerate(splits) if own == split]
        number = -(-len(indices) // _SHARD_RECORDS)
        for shard in range(number):
            path = root / f"{split}.tfrecords-{shard:05d}-of-{number:05d}"
            own = indices[shard * _SHARD_RECORDS :][:_SHARD_RECORDS]
            writers.append(partial(_write_shard, path, {i: entries[i] for i in own}, make))
    return writers


def _write_shard(path: Path, entries: Mapping[int, dict[str, Any]], make: Callable[[int], Record]) -> int:
    """Write a file of records, given their metadata by index."""
    if not path.is_file():
        with atomic_files([path]) as (append,):
            for i, entry in entries.items():
                features = _features(make(i), entry, validation=path.name.startswith("validation"))
                for part in frame(encode_example(features)):
                    append(part)
    return len(entries)


def _features(record: Record, entry: dict[str, Any], *, validation: bool) -> dict[str, Value]:
    """Return the features of a record; only those of the train split have the masks of single annotators."""
    bands = {band: values.astype(np.float64) for band, values in record.bands.items()}
    start = int(entry["timestamp"])
    features: dict[str, Value] = {BAND_FEATURES[band]: values for band, values in bands.items()}
    if {14, 15} <= bands.keys():
        features["brightness_temperature_difference"] = bands[14] - bands[15]
    features["human_pixel_masks"] = record.mask
    if not validation:
        features["human_individual_masks"] = record.individual
        if record.marked:
            features[INSTANCE_MASKS] = _instances(record.marked)
    steps = range(-RECORD_LABELLED_FRAME, RECORD_FRAMES - RECORD_LABELLED_FRAME)
    return {
        **features,
        "n_times_before": [RECORD_LABELLED_FRAME],
        "n_times_after": [RECORD_FRAMES - RECORD_LABELLED_FRAME - 1],
        "projection_wkt": entry["projection_wkt"].encode(),
        **{name: [float(entry[name])] for name in ("row_min", "row_size", "col_min", "col_size")},
        "timestamp": [start],
        "satellite_scan_starts": [start + _SCAN_DELAY_S + 600 * step for step in steps],
        "record_id": entry["record_id"].encode(),
    }


def _instances(lines: Sequence[npt.NDArray[np.bool_]]) -> npt.NDArray[np.int32]:
    """Stack marks on single contrails, (instance, y, x, annotator), -1 for annotators who did not mark that one."""
    masks = np.stack(lines).astype(np.int32)
    return np.where(masks.any((1, 2), keepdims=True), masks, np.int32(-1))
