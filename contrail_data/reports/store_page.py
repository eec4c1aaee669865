"""The page of a store.

Of samples: places, times, channels, labels, agreement of annotators, examples and origin. Of predictions and
pseudo-labels: scores, probabilities and masks by frame.
"""

from itertools import compress
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from markupsafe import Markup

from contrail_data.composites import dequantise
from contrail_data.progress import progress
from contrail_data.reports.charts import MONTHS, Colour, bars, distributions, histogram
from contrail_data.reports.choices import Sheet
from contrail_data.reports.figures import Mark, draw_picture, encode_png
from contrail_data.reports.globe import Layer, RecordMap, record_map
from contrail_data.reports.page import Picture, render_page
from contrail_data.reports.pictures import SampleViewer
from contrail_data.reports.selection import Votes, choose, count_votes, read_planes
from contrail_data.reports.summary import as_text, describe_channel, summarise
from contrail_data.reports.summary_types import PredictionSummary, SampleSummary
from contrail_data.storage.place import place_of
from contrail_data.store import logits
from contrail_data.store.reader import read_scalars
from contrail_data.store.samples import labelled_time

SAMPLED = 300
"""Largest number of samples whose images or predictions are read."""
_EXAMPLES = 6
_SEED = 0


def store_page(store: xr.Dataset) -> str:
    """Render the page of a store. Reads the labels of all samples, and the images or predictions of at most `SAMPLED`.

    Args:
        store: A store of any kind.

    Returns:
        The HTML text.
    """
    summary, records = summarise(store), read_scalars(store)
    if isinstance(summary, SampleSummary):
        template, values = "store.html", _samples(store, summary, records)
    else:
        template, values = "predictions.html", _predictions(store, summary, records)
    title = f"{place_of(summary.path).name}: {summary.kind}"
    return render_page(template, title=title, summary=summary, facts=as_text(summary), **values)


def _samples(store: xr.Dataset, summary: SampleSummary, records: xr.Dataset) -> dict[str, Any]:
    """Compute what the page of a store of samples shows in addition to the summary."""
    labelled = records["label_source"].values == "human"
    positive = labelled & (records["positive_pixels"].values > 0)
    votes = count_votes(store, records)
    return {
        "labelled": int(labelled.sum()),
        "positive": int(positive.sum()),
        "map": _map(records, labelled, positive),
        "time_charts": _time_charts(records, labelled, positive),
        "channels": _channels(store, summary, records),
        "contrails": _contrail_sizes(store, positive),
        "agreement": _agreement(votes),
        "examples": _examples(store, records, votes, positive),
        "marks": Mark,
    }


def _predictions(store: xr.Dataset, summary: PredictionSummary, records: xr.Dataset) -> dict[str, Any]:
    """Compute what the page of a store of predictions shows in addition to the summary."""
    frame, score = records["frame"].values, records["frame_score"].values.astype(np.float64)
    predicted = records["frame_source"].values != "human"
    chosen = _draw_samples(summary.samples)
    columns = list(range(frame.shape[1]))
    pixels = np.zeros(32, np.int64)  # by probability
    mask_sizes: dict[int, list[int]] = {}  # by frame
    with progress("predictions", len(chosen)) as advance:
        for sample in chosen:
            masks = store["frame_mask"].variable[sample, columns].values
            probability = logits.decode(store["logit"].variable[sample, columns].values)
            for column in np.flatnonzero(predicted[sample]).tolist():
                mask_sizes.setdefault(int(frame[sample, column]), []).append(int(masks[column].sum(dtype=np.int64)))
                pixels += np.histogram(probability[column], 32, (0, 1))[0]
            advance(1)
    values = {"frames": frame.shape[1], "predicted": int(predicted.sum()), "sampled": len(chosen), "rows": []}
    if mask_sizes:
        frame_pixels = store.sizes["y"] * store.sizes["x"]
        values["contrail_share"] = np.concatenate(list(mask_sizes.values())).mean() / frame_pixels
        values["rows"] = rows = [
            (index, len(sizes), np.mean(np.array(sizes) > 0), np.mean(sizes) / frame_pixels)
            for index, sizes in sorted(mask_sizes.items())
        ]
        names, positive = [str(row[0]) for row in rows], np.array([row[2] for row in rows])
        counts = np.histogram(np.clip(score[predicted], 0, 1), 40, (0, 1))[0]
        of_positive, of_pixels = "share of positive frames by frame index", "pixels by probability"
        frame_axes = ("index of the frame", "share of frames")
        values["charts"] = {
            "scores": histogram(counts, (summary.gate, "gate"), "frames by score", ("score", "frames")),
            "frames": bars(names, [(positive, Colour.POSITIVE)], of_positive, frame_axes, percent=True),
            "probabilities": histogram(
                pixels, (summary.threshold, "threshold"), of_pixels, ("probability", "pixels"), logarithmic=True
            ),
        }
    return values


def _draw_samples(count: int) -> list[int]:
    """Draw the samples whose pixels are read, in ascending order."""
    return sorted(np.random.default_rng(_SEED).permutation(count)[:SAMPLED].tolist())


def _map(records: xr.Dataset, labelled: npt.NDArray[np.bool_], positive: npt.NDArray[np.bool_]) -> RecordMap | None:
    layers = [Layer(np.ones_like(positive), Colour.NEGATIVE), Layer(positive, Colour.POSITIVE)]
    tooltip = "records: {}, positive: {}" if labelled.any() else "records: {}"
    return record_map(records["longitude"].values, records["latitude"].values, layers, tooltip)


def _time_charts(
    records: xr.Dataset, labelled: npt.NDArray[np.bool_], positive: npt.NDArray[np.bool_]
) -> dict[str, Markup]:
    """Draw the number of records by true solar hour, hour and month, in this order; nothing if no time is known."""
    times = labelled_time(records)
    dated = ~np.isnat(times)
    if not dated.any():
        return {}
    hours, mirrored = [str(hour) for hour in range(24)], bool(labelled.any())
    utc_hour, month = (times.astype(f"datetime64[{unit}]").astype(np.int64) % n for unit, n in (("h", 24), ("M", 12)))
    charts = {}
    for title, values, names in (
        ("True solar hour", records["local_solar_hour"].values, hours),
        ("Hour, UTC", np.where(dated, utc_hour, np.nan), hours),
        ("Month", np.where(dated, month, np.nan), MONTHS),
    ):
        series = [
            (np.histogram(values[members & np.isfinite(values)], np.arange(len(names) + 1))[0], colour)
            for members, colour in ((positive, Colour.POSITIVE), (~positive, Colour.NEGATIVE))
        ]
        description = f"positive records up, others down, by {title}" if mirrored else f"records by {title}"
        axis_names = (title[0].lower() + title[1:], "records")
        charts[title] = bars(names, series if mirrored else series[1:], description, axis_names, mirrored=mirrored)
    return charts


def _channels(store: xr.Dataset, summary: SampleSummary, records: xr.Dataset) -> dict[str, Any]:
    """Measure the channels of the reference frames of some samples."""
    viewer, channels = SampleViewer(store, records), summary.composite.channels
    chosen = _draw_samples(summary.samples)
    levels = np.zeros((2, len(channels), 256))  # of all pixels and of contrail pixels
    clipped = np.zeros((2, len(channels), 2))  # pixels at the low and at the high end
    sums = np.zeros((2, len(channels)))  # of values and of their squares
    with progress("images", len(chosen)) as advance:
        for sample in chosen:
            label = viewer.label(sample)
            for c, plane in enumerate(dequantise(viewer.image(sample, viewer.reference_frame(sample)))):
                sums[:, c] += plane.sum(dtype=np.float64), np.square(plane, dtype=np.float64).sum()
                for i, values in enumerate([plane.ravel()] if label is None else [plane.ravel(), plane[label]]):
                    levels[i, c] += np.bincount(np.rint(values * 255).astype(np.uint8), minlength=256)
                    clipped[i, c] += (values <= 0).sum(), (values >= 1).sum()
            advance(1)
    pixels, contrail_pixels = levels[:, 0].sum(1)
    shares = clipped / np.maximum(levels.sum(2, keepdims=True), 1)
    mean, square = sums / pixels
    deviation = np.sqrt(np.maximum(square - mean**2, 0))
    rows = []
    for c, channel in enumerate(channels):
        description = f"distribution of {channel.name} in kelvin"
        chart = distributions(levels[0, c], levels[1, c], (channel.low, channel.high), description)
        rows.append((channel, chart, mean[c], deviation[c], shares[: 2 if contrail_pixels else 1, c].ravel()))
    return {"samples": len(chosen), "rows": rows, "describe": describe_channel}


def _contrail_sizes(store: xr.Dataset, positive: npt.NDArray[np.bool_]) -> dict[str, Any] | None:
    """Measure the connected pieces of the labels; pixels that touch at a corner are connected."""
    from scipy.ndimage import label

    if not positive.any():
        return None
    sizes = [
        np.bincount(label(mask, np.ones((3, 3)))[0].ravel())[1:]
        for _, mask in read_planes(store, "mask", np.flatnonzero(positive), "labels")
    ]
    pieces, per_record = np.concatenate(sizes), np.array([pixels.sum() for pixels in sizes])
    return {
        "pieces": len(pieces),
        "median_size": np.median(pieces) if len(pieces) else 0,
        "median_record": np.median(per_record),
        "sizes_chart": _doubling_bins(pieces, "contrails"),
        "records_chart": _doubling_bins(per_record, "records"),
    }


def _doubling_bins(values: npt.NDArray[np.int64], noun: str) -> Markup:
    """Draw a histogram with the bins 1, 2 to 3, 4 to 7, ..."""
    exponents = np.log2(np.maximum(values, 1)).astype(np.int64)
    first = min(exponents.tolist(), default=0)
    counts = np.bincount(exponents - first)
    starts = [2 ** (first + i) for i in range(len(counts))]
    names = [f"{start}" if start < 1024 else f"{start // 1024}k" for start in starts]
    axis_names = ("labelled pixels", noun)
    return bars(names, [(counts, Colour.POSITIVE)], f"{noun} by number of labelled pixels", axis_names)


def _agreement(votes: dict[int, Votes]) -> dict[str, Any] | None:
    """Measure how often annotators agree, over all records with votes."""
    marked = [record for record in votes.values() if record.marked]
    if not marked:
        return None
    together = np.zeros((8, 8), np.int64)
    total = np.zeros((8, 8), np.int64)  # pixels of r plus pixels of s, on records that both looked at
    for record in votes.values():
        seen = slice(record.annotators)
        together[seen, seen] += record.together[seen, seen]
        pixels = np.diag(record.together)[seen]
        total[seen, seen] += pixels[:, np.newaxis] + pixels
    charts = []
    for n in sorted({record.annotators for record in marked}):
        of_n = [record for record in marked if record.annotators == n]
        counts = np.sum([record.marked_by for record in of_n], 0)[1 : n + 1]
        colours = [Colour.POSITIVE if 2 * k > n else Colour.NEGATIVE for k in range(1, n + 1)]
        names = [str(k) for k in range(1, n + 1)]
        axis_names = ("annotators that marked a pixel", "share of pixels")
        chart = bars(
            names, [(counts / counts.sum(), colours)], "share of the pixels by votes", axis_names, percent=True
        )
        charts.append((n, int(counts.sum()), len(of_n), chart))
    dice = np.divide(2.0 * together, total, out=np.full((8, 8), np.nan), where=total > 0)
    pairs = ~np.eye(8, dtype=bool)
    n = max(record.annotators for record in marked)
    return {
        "dice": 2 * together[pairs].sum() / max(total[pairs].sum(), 1),
        "disputed": sum(record.disputed for record in marked) / sum(record.marked for record in marked),
        "charts": charts,
        "pairs": dice[:n, :n],
    }


def _examples(
    store: xr.Dataset, records: xr.Dataset, votes: dict[int, Votes], positive: npt.NDArray[np.bool_]
) -> dict[Sheet, list[Picture]]:
    viewer = SampleViewer(store, records)
    disputed = any(record.disputed for record in votes.values())
    shown = {Sheet.POSITIVES: positive.any(), Sheet.DISAGREED: disputed, Sheet.RANDOM: True}
    examples = {}
    for sheet in compress(shown, shown.values()):
        ranks = choose(store, sheet, _EXAMPLES, _SEED, votes).ranks
        examples[sheet] = [
            Picture(
                encode_png(draw_picture([[viewer.tile(sample, votes=sheet == Sheet.DISAGREED)]])),
                [str(records["record_id"].values[sample]), *viewer.caption(sample), rank],
            )
            for sample, rank in ranks.items()
        ]
    return examples
