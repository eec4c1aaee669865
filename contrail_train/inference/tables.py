"""Predictions of a store as CSV files: probabilities of records, and the submission file of the Kaggle competition.

The rules of "Google Research - Identify Contrails to Reduce Global Warming": pixels are numbered from 1, down each
column, columns from left to right. A mask is a list of pairs of start and length, sorted, positive and without overlap;
`-` is an empty mask. The columns are record_id and encoded_pixels.
"""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.ahead import map_ahead
from contrail_data.errors import ContrailError
from contrail_data.labels.frames import frames_to_predict
from contrail_data.labels.predictor import FrameSelection
from contrail_data.progress import progress
from contrail_data.storage.documents import read_table
from contrail_data.storage.files import write_csv
from contrail_data.storage.place import place_of
from contrail_data.store.manifest import set_aside_lines
from contrail_data.store.reader import pixel_reader, read_scalars
from contrail_data.store.schema import require_predictions
from contrail_train.inference.predictor import Predictor

EMPTY = "-"
SIDE = 256  # pixels of a mask of the competition


def record_table(model: Predictor, store: xr.Dataset, out: Path, *, frames: FrameSelection, batch: int) -> int:
    """Write the probability that a frame has any contrail, for frames of a store, as CSV.

    Columns: record_id, frame (index in the sample), probability, contrail (0 or 1: whether the probability reaches the
    run's threshold, or with `head=both` its gate; empty if it has none), model and store (digests). The file appears
    complete or not at all.

    Args:
        model: A predictor with a record head.
        store: Store of samples.
        out: The file to write.
        frames: Frames to predict in each sample.
        batch: Windows that are predicted at once. Those of the next two batches are read meanwhile.

    Returns:
        Number of frames.

    Raises:
        ContrailError: If the model has no record head, or the store lacks frames that the model needs.
    """
    if model.head == "mask":
        raise ContrailError(
            f"{model.path}: predicts pixels only (model.record_head=null); use its frame_score in -o NAME.zarr"
        )
    limit = model.decision.threshold if model.head == "record" else model.decision.gate
    scalars = read_scalars(store)
    selected = frames_to_predict(scalars, store, frames, model.offsets, model.repeats_edges)
    read = model.window_reader(store)
    windows = [(sample, int(frame)) for sample, row in enumerate(selected) for frame in row]
    rows: list[tuple[object, ...]] = []
    parts = [windows[start : start + batch] for start in range(0, len(windows), batch)]
    with progress("records", len(windows), unit="frames") as advance, ThreadPoolExecutor(1) as reader:
        for part, window_btchw in zip(parts, map_ahead(reader, read, parts, most=2), strict=True):
            for (sample, frame), p in zip(part, model.predict(window_btchw).score, strict=True):
                contrail = "" if model.head == "both" and not limit else int(p >= limit)
                name = str(scalars["record_id"].values[sample])
                rows.append((name, frame, f"{p:.9g}", contrail, model.decision.model, store.attrs["digest"]))
            advance(len(part))
    write_csv(out, ("record_id", "frame", "probability", "contrail", "model", "store"), rows)
    return len(windows)


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What a submission holds and lacks."""

    records: int
    empty: int
    """How many masks of them are empty."""
    missing: list[str]
    """Ids that were asked for but not predicted; their masks are empty."""
    others: list[str]
    """Ids that were predicted but not asked for; they have no row."""
    set_aside: list[str]
    """One line for each record that a build set aside, so that it was not predicted."""


def write_submission(predictions: xr.Dataset, out: Path, like: Path | None = None) -> Submission:
    """Write the masks of a store of predictions as a submission.

    Args:
        predictions: A store that `contrail-train predict` wrote.
        out: The CSV file to write.
        like: A CSV file with the column `record_id`, such as the competition's sample_submission.csv: its records are
            written in its order. None: the records of the store.

    Returns:
        What was written.

    Raises:
        ContrailError: If the masks are not those of the labelled frames on the competition's grid, or `like` is not
            such a file or has none of the records.
    """
    path = predictions.attrs["path"]
    require_predictions(predictions)
    scalars, (frames, *plane) = read_scalars(predictions), predictions["frame_mask"].shape[1:]
    labelled, frame = scalars["labelled_frame"].values, scalars["frame"].values[:, 0]
    if frames != 1 or ((labelled >= 0) & (frame != labelled)).any():
        raise ContrailError(f"{path}: has other frames than the labelled ones; predict with --frames labelled")
    if plane != [SIDE, SIDE]:
        raise ContrailError(
            f"{path}: masks have {' x '.join(map(str, plane))} pixels, the competition's {SIDE} x {SIDE}; build the "
            f"store with --size {SIDE} and predict it"
        )
    read = pixel_reader(predictions, "frame_mask")
    mask_1yx = np.empty((1, SIDE, SIDE), np.uint8)
    encoded = {}
    for sample, record_id in enumerate(scalars["record_id"].values):
        read(sample, [0], mask_1yx)
        encoded[str(record_id)] = encode(mask_1yx[0] > 0)
    ids = list(encoded) if like is None else _ids_of(like)
    if encoded.keys().isdisjoint(ids):
        raise ContrailError(f"{like}: has none of the records of {path}; predict the records of its split")
    rows = [(record_id, encoded.get(record_id, EMPTY)) for record_id in ids]
    write_csv(out, ("record_id", "encoded_pixels"), rows)
    requested = set(ids)
    return Submission(
        records=len(rows),
        empty=sum(pixels == EMPTY for _, pixels in rows),
        missing=[record_id for record_id in ids if record_id not in encoded],
        others=[record_id for record_id in encoded if record_id not in requested],
        set_aside=set_aside_lines(place_of(path)),
    )


def _ids_of(like: Path) -> list[str]:
    """The record ids of a CSV file, in its order."""
    ids = [record_id for (record_id,) in read_table(like, "record_id")]
    if not ids or "" in ids:
        raise ContrailError(f"{like}: has no record_id in each row; give the competition's sample_submission.csv")
    if len(set(ids)) < len(ids):
        raise ContrailError(f"{like}: record {Counter(ids).most_common(1)[0][0]} occurs twice; remove one of its rows")
    return ids


def encode(mask_yx: npt.NDArray[np.bool_]) -> str:
    """Encode a mask as run lengths.

    Args:
        mask_yx: Mask (y, x).

    Returns:
        Pairs of start and length, separated by spaces.
    """
    edges = np.flatnonzero(np.diff(mask_yx.T.ravel(), prepend=False, append=False))
    runs = np.stack([edges[::2] + 1, edges[1::2] - edges[::2]], -1)
    return " ".join(map(str, runs.ravel().tolist())) or EMPTY
