"""Predictions of a store as CSV files: probabilities of records, and the submission file of the Kaggle competition.

The rules of "Google Research - Identify Contrails to Reduce Global Warming": pixels are numbered from 1, down each
column, columns from left to right. A mask is a list of pairs of start and length, sorted, positive and without overlap;
`-` is an empty mask. The columns are record_id and encoded_pixels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.errors import ContrailError
from contrail_data.labels.predictor import FrameSelection
from contrail_data.labels.write import frames_to_predict
from contrail_data.progress import progress
from contrail_data.storage.files import write_csv
from contrail_data.store.reader import pixel_reader, read_scalars
from contrail_data.store.schema import Kind, require_kind
from contrail_train.inference.predictor import Predictor

EMPTY = "-"


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
        batch: Windows that are predicted at once.

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
    selected = frames_to_predict(scalars, store, frames, model.offsets)
    read = model.window_reader(store)
    windows = [(sample, int(frame)) for sample, row in enumerate(selected) for frame in row]
    rows: list[tuple[object, ...]] = []
    with progress("records", len(windows), unit="frames") as advance:
        for start in range(0, len(windows), batch):
            part = windows[start : start + batch]
            for (sample, frame), p in zip(part, model.predict(read(part)).score, strict=True):
                contrail = int(p >= limit) if limit > 0 else ""
                name = str(scalars["record_id"].values[sample])
                rows.append((name, frame, f"{p:.6f}", contrail, model.decision.model, store.attrs["digest"]))
            advance(len(part))
    write_csv(out, ("record_id", "frame", "probability", "contrail", "model", "store"), rows)
    return len(windows)


def write_submission(predictions: xr.Dataset, out: Path) -> tuple[int, int]:
    """Write the masks of a store of predictions as a submission.

    Args:
        predictions: A store that `contrail-train predict` wrote.
        out: The CSV file to write.

    Returns:
        Number of records, and how many of them are empty.

    Raises:
        ContrailError: If the store is of another kind, or has several frames for a record.
    """
    path = predictions.attrs["path"]
    require_kind(predictions, Kind.PREDICTIONS, remedy="give a store that contrail-train predict wrote")
    if predictions.sizes["time"] != 1:
        raise ContrailError(
            f"{path}: has {predictions.sizes['time']} frames per record; predict with --frames labelled"
        )
    read = pixel_reader(predictions, "frame_mask")
    mask_1yx = np.empty((1, *predictions["frame_mask"].shape[2:]), np.uint8)
    rows = []
    for sample, record_id in enumerate(read_scalars(predictions)["record_id"].values):
        read(sample, [0], mask_1yx)
        rows.append((str(record_id), encode(mask_1yx[0] > 0)))
    write_csv(out, ("record_id", "encoded_pixels"), rows)
    return len(rows), sum(pixels == EMPTY for _, pixels in rows)


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
