"""Probabilities of records as a CSV file."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import xarray as xr

from contrail_data.errors import ContrailError
from contrail_data.labels.predictor import FrameSelection
from contrail_data.labels.write import frames_to_predict
from contrail_data.progress import progress
from contrail_data.storage.files import write_atomically
from contrail_data.store.reader import pixel_reader, read_scalars
from contrail_train.inference.predictor import Predictor


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
    read_image = pixel_reader(store)
    windows = [(sample, int(frame)) for sample, row in enumerate(selected) for frame in row]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["record_id", "frame", "probability", "contrail", "model", "store"])
    with progress("records", len(windows), unit="frames") as advance:
        for start in range(0, len(windows), batch):
            part = windows[start : start + batch]
            x_btchw = np.empty((len(part), len(model.offsets), *store["image"].shape[2:]), store["image"].dtype)
            for (sample, frame), x_tchw in zip(part, x_btchw, strict=True):
                read_image(sample, [frame + offset for offset in model.offsets], x_tchw)
            for (sample, frame), p in zip(part, model.predict(x_btchw).score, strict=True):
                contrail = int(p >= limit) if limit > 0 else ""
                name = str(scalars["record_id"].values[sample])
                table.writerow([name, frame, f"{p:.6f}", contrail, model.decision.model, store.attrs["digest"]])
            advance(len(part))
    write_atomically(out, [text.getvalue().encode()])
    return len(windows)
