"""The page of a store of predictions or pseudo-labels: scores, probabilities and masks by frame."""

from __future__ import annotations

import numpy as np
import xarray as xr

from contrail_data.composites import dequantise
from contrail_data.progress import progress
from contrail_data.reports.charts import Colour, bars, histogram
from contrail_data.reports.page import Table, render_page
from contrail_data.reports.pictures import read_frames
from contrail_data.reports.summary import PredictionSummary, as_text
from contrail_data.storage.place import place_of
from contrail_data.store.reader import read_scalars

SAMPLED = 300
"""Largest number of samples whose predictions are read."""
_SEED = 0


def prediction_page(store: xr.Dataset, summary: PredictionSummary) -> str:
    """Render the page of a store of predictions or pseudo-labels. Reads at most `SAMPLED` samples.

    Args:
        store: The store.
        summary: Its summary.

    Returns:
        The HTML text.
    """
    records = read_scalars(store)
    frame, score = records["frame"].values, records["frame_score"].values.astype(np.float64)
    predicted = records["frame_source"].values != "human"
    chosen = np.sort(np.random.default_rng(_SEED).permutation(summary.samples)[:SAMPLED]).tolist()
    columns = list(range(frame.shape[1]))
    pixels = np.zeros(32, np.int64)  # by probability
    mask_sizes: dict[int, list[int]] = {}
    with progress("predictions", len(chosen)) as advance:
        for sample in chosen:
            masks = read_frames(store, "frame_mask", sample, columns)
            probability = dequantise(read_frames(store, "probability", sample, columns))
            for column in np.flatnonzero(predicted[sample]).tolist():
                mask_sizes.setdefault(int(frame[sample, column]), []).append(int(masks[column].sum(dtype=np.int64)))
                pixels += np.histogram(probability[column], 32, (0, 1))[0]
            advance(1)
    frame_pixels = store.sizes["y"] * store.sizes["x"]
    by_frame = {index: np.array(mask_sizes[index]) for index in sorted(mask_sizes)}
    positive = np.array([(sizes > 0).mean() for sizes in by_frame.values()])
    names = [str(index) for index in by_frame]
    charts, table, contrail_share = {}, None, None
    if by_frame:
        contrail_share = np.concatenate(list(by_frame.values())).mean() / frame_pixels
        counts = np.histogram(np.clip(score[predicted], 0, 1), 40, (0, 1))[0]
        charts = {
            "scores": histogram(counts, (summary.gate, "gate"), "frames by score"),
            "frames": bars(
                names, [(positive, Colour.POSITIVE)], "share of positive frames by frame index", percent=True
            ),
            "probabilities": histogram(
                pixels, (summary.threshold, "threshold"), "pixels by probability", logarithmic=True
            ),
        }
        table = Table(
            ["frame", "predicted", "with a contrail", "contrail pixels"],
            [
                [name, f"{len(sizes):,}", f"{share:.1%}", f"{sizes.mean() / frame_pixels:.3%}"]
                for name, sizes, share in zip(names, by_frame.values(), positive, strict=True)
            ],
        )
    return render_page(
        "predictions.html",
        title=f"{place_of(summary.path).name}: {summary.kind}",
        summary=summary,
        facts=as_text(summary),
        frames=frame.shape[1],
        predicted=int(predicted.sum()),
        sampled=len(chosen),
        contrail_share=contrail_share,
        charts=charts,
        table=table,
    )
