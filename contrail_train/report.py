"""A model scored on a labelled store, and where it goes wrong: JSON, one HTML page, pictures of the worst records."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from PIL import Image

from contrail_data.errors import ContrailError
from contrail_data.places import write_atomically
from contrail_data.preview import LABEL_COLOUR, PREDICTION_COLOUR, outlined, png
from contrail_data.report import document, figure, headline, html_table, line_at, section, svg, text_at
from contrail_data.store import pixel_reader, read_scalars
from contrail_train import metrics
from contrail_train.analysis import Found, Table, analysis, gate_story, tables, worst
from contrail_train.analysis import look as look_at
from contrail_train.evaluate import parts_of, report, score_predictor, unseen
from contrail_train.loader import Items, open_labelled
from contrail_train.predict import Predictor

FOUND, FALSE, MISSED = (0, 158, 115), (230, 159, 0), (204, 121, 167)
"""Green, orange and purple of Okabe and Ito's palette, which colour-blind people tell apart."""
_GAP = 6
_CLASSES = 20


def evaluate_store(
    model: Predictor, store: xr.Dataset, name: str, out: Path | None, pictures: int, batch: int = 16
) -> tuple[dict[str, Any], list[Table], list[Path]]:
    """Score a model on the records of a store that it has not seen; returns scores, tables, and the files written.

    out: the folder for them; None: the model's own, or that of its file. pictures: of how many of the records that lose
    most. Raises ContrailError for a store without labels, or of whose records the model has seen all.
    """
    if out is not None and out.exists() and not out.is_dir():
        raise ContrailError(f"{out}: is no folder: name one for the files of the evaluation")
    everything = open_labelled([store], model.offsets)
    items = unseen(everything, [model])
    if seen := len(everything) - len(items):
        print(f"note: {seen} of {len(everything)} records left out: the model has seen them", file=sys.stderr)
    found: list[Found | None] = [None] * len(items)
    records = read_scalars(store)
    voters = records["annotator_count"].values
    read = pixel_reader(store, "annotators") if "annotators" in store.variables else None

    def look(row: int, p_yx: npt.NDArray[np.float32], target_yx: npt.NDArray[np.bool_], score: float) -> None:
        sample = int(items.sample[row])
        marks_1yx = None
        if read is not None and voters[sample]:
            marks_1yx = np.empty((1, *target_yx.shape), np.uint8)
            read(sample, [0], marks_1yx)
        predicted_yx = p_yx >= model.decision.threshold
        gated_yx = predicted_yx & (score >= model.decision.gate)
        marks_yx = None if marks_1yx is None else marks_1yx[0]
        found[row] = look_at(gated_yx, predicted_yx, target_yx, marks_yx, int(voters[sample]))

    masks = model.head != "record"
    scores = score_predictor(model, items, batch, look if masks else None, parts_of(items))
    threshold, gate = model.decision.threshold, model.decision.gate
    result: dict[str, Any] = {
        "store": {"name": name, "digest": store.attrs["digest"]},
        "model": model.decision.model,
        "head": model.head,
        "left_out": seen,
        **report(scores, items, threshold, gate),
    }
    told: list[Table] = []
    pages: list[Path] = []
    base = out or (model.path if model.path.is_dir() else model.path.parent)
    stem = "" if out is not None or model.path.is_dir() else f"{model.path.name}-"
    file = base / f"{stem}evaluation-{store.attrs['digest'].removeprefix('sha256:')[:12]}.json"
    if masks:
        looked = [one for one in found if one is not None]
        if result["positive_records"]:
            result["dice_fitted_here"] = metrics.cross_fitted(scores.histogram)[1]
        own = records.isel(sample=items.sample)
        result["analysis"] = analysis(looked, own, scores.record_score, gate, items.group)
        told = tables(result["analysis"])
        pages.append(file.with_suffix(".html"))
        title = f"{model.path} on {name}"
        shown = [_picture(store, items, looked, row) for row in worst(looked, pictures)]
        base.mkdir(parents=True, exist_ok=True)
        write_page(result, shown, title, pages[0], scores.histogram.sum(0))
    write_atomically(file, [json.dumps(result, indent=1, allow_nan=False).encode()])
    return result, told, [file, *pages]


def _picture(store: xr.Dataset, items: Items, found: list[Found], row: int) -> tuple[str, str, bytes]:
    """(record id, what happened, PNG)."""
    sample, frame, one = int(items.sample[row]), int(items.frame[row]), found[row]
    image_1cyx = np.empty((1, *store["image"].shape[2:]), store["image"].dtype)
    pixel_reader(store)(sample, [frame], image_1cyx)
    target_1yx = np.empty((1, *store["mask"].shape[1:]), np.uint8)
    pixel_reader(store, "mask")(sample, [0], target_1yx)
    if image_1cyx.dtype != np.uint8:
        image_1cyx = np.rint(np.clip(image_1cyx.astype(np.float32), 0, 1) * 255).astype(np.uint8)
    shape = target_1yx.shape[1:]
    predicted_yx = np.unpackbits(one.predicted, count=shape[0] * shape[1]).reshape(shape) > 0
    tp, fp, fn = one.gated
    caption = f"{tp:,} px found, {fn:,} missed, {fp:,} false"
    return str(items.record_id[row]), caption, error_picture(image_1cyx[0], target_1yx[0] > 0, predicted_yx)


def error_picture(
    image_cyx: npt.NDArray[np.uint8], target_yx: npt.NDArray[np.bool_], predicted_yx: npt.NDArray[np.bool_]
) -> bytes:
    """PNG, side by side: the image's first three channels; the label outlined; the prediction outlined; where they meet
    (green), what is false (orange), what was missed (purple)."""
    rgb = np.moveaxis(np.concatenate([image_cyx, *([image_cyx[-1:]] * 2)])[:3], 0, -1)
    grey = np.repeat((rgb.mean(-1, keepdims=True) * 0.5).astype(np.uint8), 3, -1)
    for mask, colour in (
        (target_yx & predicted_yx, FOUND),
        (predicted_yx & ~target_yx, FALSE),
        (target_yx & ~predicted_yx, MISSED),
    ):
        grey[mask] = colour
    panels = [rgb, outlined(rgb, (target_yx, LABEL_COLOUR)), outlined(rgb, (predicted_yx, PREDICTION_COLOUR)), grey]
    gap = np.full((rgb.shape[0], _GAP, 3), 255, np.uint8)
    row = np.concatenate([part for panel in panels for part in (gap, panel)][1:], axis=1)
    scale = max(1, round(256 / rgb.shape[0]))
    picture = Image.fromarray(row)
    return png(picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST))


def write_page(
    result: dict[str, Any],
    pictures: Sequence[tuple[str, str, bytes]],
    title: str,
    path: Path,
    histogram: npt.NDArray[np.int64],
) -> None:
    """result: what `evaluate.report` tells and, as `analysis`, what `analysis.analysis` does. pictures: (record id,
    what happened, PNG). histogram: (2, BINS) pixels without and with a label by probability, before any gate."""
    interval = f"{result['dice_low']:.3f} to {result['dice_high']:.3f}"
    tiles = [
        (f"{result['dice']:.3f}", f"global Dice, 95 %: {interval}"),
        (f"{result['tolerant_dice']:.3f}", "Dice within 2 pixels"),
        (f"{result['precision']:.3f}", f"precision at threshold {result['threshold']:.3f}"),
        (f"{result['recall']:.3f}", "recall"),
        (f"{result['record_dice']:.3f}", "Dice over records: any contrail"),
        (f"{result['records']:,}", f"records, {result['positive_records']:,} positive, {result['groups']:,} groups"),
    ]
    if result["auc_pr"] is not None:
        tiles.append((f"{result['auc_pr']:.3f}", "AUC-PR of pixels"))
    if "dice_fitted_here" in result:
        told = "Dice, no gate, at thresholds cross-fitted on these records"
        tiles.append((f"{result['dice_fitted_here']:.3f}", told))
    first, *others = tables(result["analysis"])
    story = "".join(f"<p>{escape(line)}</p>" for line in gate_story(result["analysis"]["gate"]))
    body = headline(tiles) + section("What the gate and the segmenter lose", story + html_table(*first[1:]))
    body += section("Records that lose most", _pictures(pictures)) if pictures else ""
    if histogram[1].any():
        body += section("Can the probabilities be trusted", _reliability(histogram))
    body += "".join(section(name[:1].upper() + name[1:] if name else "Predicted contrails", html_table(header, rows))
                    for name, header, rows in others)  # fmt: skip
    left = f"; {result['left_out']:,} records that the model had seen were left out" if result["left_out"] else ""
    write_atomically(path, [document(title, f"{result['store']['digest']}{left}", body).encode()])


def _pictures(pictures: Sequence[tuple[str, str, bytes]]) -> str:
    legend = "".join(
        f"<span class=key><i style='background:rgb{colour}'></i>{told}</span>"
        for colour, told in (
            (LABEL_COLOUR, "label"),
            (PREDICTION_COLOUR, "predicted"),
            (FOUND, "found"),
            (FALSE, "false"),
            (MISSED, "missed"),
        )
    )
    shown = "".join(
        f"<figure style='margin:0 0 1.2em'><img style='max-width:100%' alt='{escape(told, quote=True)}' "
        f"src='data:image/png;base64,{base64.b64encode(content).decode()}'>"
        f"<figcaption class=note>{escape(name)}: {escape(told)}</figcaption></figure>"
        for name, told, content in pictures
    )
    return f"<p class=legend>{legend}</p>{shown}"


def _reliability(histogram: npt.NDArray[np.int64]) -> str:
    """Share of pixels with a label by predicted probability; on the diagonal it is what was predicted."""
    edges = np.arange(_CLASSES) * histogram.shape[1] // _CLASSES
    negative, positive = np.add.reduceat(histogram, edges, axis=1)
    total = negative + positive
    side, left, top = 300, 40, 8

    def at(x: float, y: float) -> tuple[float, float]:
        return left + x * side, top + (1 - y) * side

    marks = [line_at(*at(0, 0), *at(1, 1), "grid")]
    for k in range(6):
        x, y = at(k / 5, 0)
        marks += [text_at(x, y + 16, f"{k / 5:.1f}"), text_at(left - 6, at(0, k / 5)[1] + 4, f"{k / 5:.1f}", "end")]
    for k in np.flatnonzero(total).tolist():
        share = positive[k] / total[k]
        x, y = at((k + 0.5) / _CLASSES, share)
        told = f"{k / _CLASSES:.2f} to {(k + 1) / _CLASSES:.2f}: {share:.3f} of {total[k]:,} pixels"
        marks.append(f"<circle class=pos cx={x:.1f} cy={y:.1f} r=5><title>{told}</title></circle>")
    chart = svg(left + side + 10, top + side + 24, "".join(marks), "reliability of probabilities")
    return figure("Share labelled by predicted probability", chart, "On the line a probability means what it says.")
