"""Synthetic scenes written as TFRecords, the form in which OpenContrails is published."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from contrail_data.sample import BAND_FEATURES, RECORD_FRAMES, RECORD_LABELLED_FRAME
from contrail_data.storage.example import Value, encode_example
from contrail_data.storage.files import atomic_file, partial_path, reported_errors
from contrail_data.storage.tfrecord import frame
from contrail_data.synthetic.lines import SCENERIES
from contrail_data.synthetic.metadata import metadata
from contrail_data.synthetic.records import VERSION, check_shift, claim, split_of
from contrail_data.synthetic.scene import LABEL_SHIFT, Record, checked_bands, synthesize

INSTANCE_MASKS = "synthetic_instance_masks"
"""Feature with the masks of single contrails; what the published records call theirs is not known."""
_SHARD_RECORDS = 16
_SCAN_DELAY_S = 20
"""Seconds from the nominal time of a frame to the start of its full-disk scan."""


def write_tfrecords(
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
    """Write the records that `write_records` writes for the same arguments as TFRecords.

    The files are `{train,validation}.tfrecords-NNNNN-of-NNNNN`, of up to 16 records each. Bands are tensors of float64,
    masks of int32, both with their content as bytes; `synthetic_instance_masks` (instance, y, x, annotator) holds the
    contrails one by one, -1 for an annotator who did not mark that one. Finished files are skipped, so the same call
    resumes.

    Args:
        root: Folder to write into.
        records: Number of records.
        seed: Seed of the data.
        validation_fraction: Share of the records that is filed as validation.
        size: Rows and columns of a record.
        bands: ABI bands, 8 to 16.
        label_shift: Pixels (down, right) by which labels lie off the image.
        scenery: A key of `SCENERIES`.
        advance: Called with the number of records after each finished file, from the calling thread.
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
        "format": "tfrecord",
        "records": records,
        "seed": seed,
        "validation_fraction": validation_fraction,
        "size": size,
        "bands": list(bands),
        "label_shift": [float(d) for d in label_shift],
        "scenery": scenery,
    }
    make = partial(synthesize, seed, size=size, bands=bands, label_shift=label_shift, scenery=SCENERIES[scenery])
    shards: list[tuple[Path, list[int]]] = []
    counts = {}
    for split in ("train", "validation"):
        indices = [i for i in range(records) if split_of(i, validation_fraction) == split]
        counts[split] = len(indices)
        number = -(-len(indices) // _SHARD_RECORDS)
        for shard in range(number):
            path = root / f"{split}.tfrecords-{shard:05d}-of-{number:05d}"
            shards.append((path, indices[shard * _SHARD_RECORDS :][:_SHARD_RECORDS]))

    def write(shard: tuple[Path, list[int]]) -> int:
        path, indices = shard
        if not path.is_file():
            with atomic_file(path, partial_path(path)) as append:
                for i in indices:
                    features = _features(make(i), metadata(seed, i, size), validation="validation" in path.name)
                    for part in frame(encode_example(features)):
                        append(part)
        return len(indices)

    with reported_errors(str(root), "written"):
        claim(root, settings)
        with ThreadPoolExecutor(workers) as pool:
            for count in pool.map(write, shards):
                if advance is not None:
                    advance(count)
    return counts


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
