"""A model scored on a labelled store, and where it goes wrong: JSON, one HTML page, pictures of the worst records."""

from __future__ import annotations

import base64
import json
import math
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from PIL import Image

from contrail_data.reports.page import chart_grid, document, figure, headline, line_at, section, svg, text_at
from contrail_data.reports.pictures import LABEL_COLOUR, PREDICTION_COLOUR, Look, outlined, png
from contrail_data.storage.files import make_folder, write_atomically
from contrail_data.store.reader import pixel_reader, read_scalars
from contrail_train.data.items import Items, open_labelled
from contrail_train.evaluation import metrics
from contrail_train.evaluation.analysis import (
    Found,
    Shown,
    Table,
    analysis,
    contrail_tables,
    gate_story,
    gate_tables,
    record_tables,
    tables,
    worst,
)
from contrail_train.evaluation.analysis import look as look_at
from contrail_train.evaluation.score import parts_of, report, score_predictor, unseen
from contrail_train.inference.predictor import Predictor

FOUND, FALSE, MISSED = (0, 158, 115), (230, 159, 0), (204, 121, 167)
"""Green, orange and purple of Okabe and Ito's palette, which colour-blind people tell apart."""
_GAP = 6
_CLASSES = 20
_PANEL = 256  # pixels wide, about


def evaluate_store(
    model: Predictor, store: xr.Dataset, name: str, out: Path | None, pictures: int, batch: int = 16
) -> tuple[dict[str, Any], list[Table], list[Path]]:
    """Score a model on the records of a store that it has not seen; returns scores, tables, and the files written.

    out: the folder for them; None: the model's own, or that of its file. pictures: of how many of the records that lose
    most. Raises ContrailError for a store without labels, or of whose records the model has seen all.
    """
    base = out or (model.path if model.path.is_dir() else model.path.parent)
    make_folder(base)
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
        seen_as = Look(store, records)
        shown = [_picture(seen_as, items, looked, row) for row in worst(looked, pictures)]
        write_page(result, shown, title, pages[0], scores.histogram.sum(0))
    write_atomically(file, [json.dumps(result, indent=1, allow_nan=False).encode()])
    return result, told, [file, *pages]


def _picture(look: Look, items: Items, found: list[Found], row: int) -> tuple[str, str, bytes]:
    """(record id, when, where and what happened, PNG)."""
    sample, one = int(items.sample[row]), found[row]
    image_cyx = np.moveaxis(look.rgb(sample, int(items.frame[row])), -1, 0)
    target_yx = look.read("mask", sample, [0])[0] > 0
    predicted_yx = np.unpackbits(one.predicted, count=target_yx.size).reshape(target_yx.shape) > 0
    tp, fp, fn = one.gated
    told = f"{look.caption(sample, ', ')}; {tp:,} px found, {fn:,} missed, {fp:,} false"
    if one.gated != one.ungated:
        told += f"; the gate is shut, open it would be {one.ungated[0]:,}, {one.ungated[2]:,} and {one.ungated[1]:,}"
    scale = max(1, round(_PANEL / target_yx.shape[1]))
    return str(items.record_id[row]), told, error_picture(image_cyx, target_yx, predicted_yx, scale)


def error_picture(
    image_cyx: npt.NDArray[np.uint8],
    target_yx: npt.NDArray[np.bool_],
    predicted_yx: npt.NDArray[np.bool_],
    scale: int,
) -> bytes:
    """PNG, side by side: the image's first three channels, or its first as grey; the label outlined; the prediction
    outlined; where they meet (green), what is false (orange), what was missed (purple). A pixel becomes `scale` wide.
    """
    rgb = np.moveaxis(image_cyx[[0, 1, 2] if len(image_cyx) >= 3 else [0, 0, 0]], 0, -1)
    errors = np.repeat((rgb.mean(-1, keepdims=True) * 0.5).astype(np.uint8), 3, -1)
    for mask, colour in (
        (target_yx & predicted_yx, FOUND),
        (predicted_yx & ~target_yx, FALSE),
        (target_yx & ~predicted_yx, MISSED),
    ):
        errors[mask] = colour
    panels = [rgb, outlined(rgb, (target_yx, LABEL_COLOUR)), outlined(rgb, (predicted_yx, PREDICTION_COLOUR)), errors]
    width = predicted_yx.shape[1] * scale
    row = Image.new("RGBA", (len(panels) * (width + _GAP) - _GAP, predicted_yx.shape[0] * scale))
    for i, panel in enumerate(panels):
        enlarged = Image.fromarray(panel).resize((width, row.height), Image.Resampling.NEAREST)
        row.paste(enlarged, (i * (width + _GAP), 0))
    return png(row)


def write_page(
    result: dict[str, Any],
    pictures: Sequence[tuple[str, str, bytes]],
    title: str,
    path: Path,
    histogram: npt.NDArray[np.int64],
) -> None:
    """result: what `evaluate.report` tells and, as `analysis`, what `analysis.analysis` does. pictures: (record id,
    what happened, PNG). histogram: (2, BINS) pixels without and with a label by probability, before any gate.
    """

    def told_or_none(value: float | None) -> str:
        return "none" if value is None else f"{value:.3f}"

    interval = "one group, no interval"
    if result["dice_low"] is not None:
        interval = f"95 %: {result['dice_low']:.3f} to {result['dice_high']:.3f}"
    tiles = [
        (f"{result['dice']:.3f}", f"global Dice, {interval}"),
        (f"{result['tolerant_dice']:.3f}", "Dice within 2 pixels"),
        (told_or_none(result["precision"]), f"precision at threshold {result['threshold']:.3f}"),
        (told_or_none(result["recall"]), "recall"),
        (f"{result['record_dice']:.3f}", "Dice over records: any contrail"),
        (f"{result['records']:,}", f"records, {result['positive_records']:,} positive, {result['groups']:,} groups"),
    ]
    if result["auc_pr"] is not None:
        tiles.append((f"{result['auc_pr']:.3f}", "AUC-PR of pixels"))
    if "dice_fitted_here" in result:
        what = "Dice, no gate, at thresholds cross-fitted on these records"
        tiles.append((f"{result['dice_fitted_here']:.3f}", what))
    told = result["analysis"]
    story = "".join(f"<p>{escape(line)}</p>" for line in gate_story(told["gate"]))
    body = headline(tiles)
    body += section("What the gate and the segmenter lose", story + "".join(map(_table, gate_tables(told["gate"]))))
    if pictures:
        body += section("Records that lose most", _pictures(pictures))
    if histogram[1].any():
        body += section("Can the probabilities be trusted", chart_grid([_reliability(histogram)]))
    if contrails := contrail_tables(told["contrails"]):
        body += section("By contrail", "".join(map(_table, contrails)))
    body += section("By record", "".join(map(_table, record_tables(told["records"]))))
    left = f"; {result['left_out']:,} records that the model had seen were left out" if result["left_out"] else ""
    write_atomically(path, [document(title, f"{result['store']['digest']}{left}", body).encode()])


def _table(shown: Shown) -> str:
    """A table under its title, a bar at the foot of each cell that has one."""

    def cell(row: int, column: int, text: str) -> str:
        if column not in shown.bars:
            return f"<td>{escape(text)}</td>"
        bar = f"linear-gradient(90deg,var(--neg) {shown.bars[column][row]:.1%},transparent 0)"
        return f"<td style='background:{bar} 0 100%/100% 3px no-repeat'>{escape(text)}</td>"

    head = "".join(f"<th>{escape(name)}</th>" for name in shown.header)
    rows = "".join(
        f"<tr>{''.join(cell(i, k, text) for k, text in enumerate(row))}</tr>" for i, row in enumerate(shown.rows)
    )
    table = f"<div class=scroll><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    return f"<h3>{escape(shown.title)}</h3>{table}"


def _pictures(pictures: Sequence[tuple[str, str, bytes]]) -> str:
    """One below the other, under what their colours mean."""
    outlines = ((LABEL_COLOUR, "label"), (PREDICTION_COLOUR, "predicted"))
    areas = ((FOUND, "found"), (FALSE, "false"), (MISSED, "missed"))
    legend = "".join(f"<span class=key><i style='border:2px solid rgb{c}'></i>{told}</span>" for c, told in outlines)
    legend += "".join(f"<span class=key><i style='background:rgb{c}'></i>{told}</span>" for c, told in areas)
    shown = "".join(
        f"<figure style='margin:0 0 1.2em'><img style='max-width:100%' loading=lazy alt='{escape(told, quote=True)}' "
        f"src='data:image/png;base64,{base64.b64encode(content).decode()}'>"
        f"<figcaption>{escape(name)}: {escape(told)}</figcaption></figure>"
        for name, told, content in pictures
    )
    note = (
        "<p class=note>Half of them miss most pixels, half have most false ones. From the left: the image, the label, "
        "the prediction, and where it went wrong.</p>"
    )
    return f"{note}<p class='legend dark'>{legend}</p>{shown}"


def _reliability(histogram: npt.NDArray[np.int64]) -> str:
    """Share of pixels with a label by predicted probability, of classes of 1 / 20 at their mean probability."""
    bins = histogram.shape[1]
    edges = np.arange(_CLASSES) * bins // _CLASSES
    negative, positive = np.add.reduceat(histogram, edges, axis=1)
    total = negative + positive
    predicted = np.add.reduceat(histogram.sum(0) * ((np.arange(bins) + 0.5) / bins), edges)
    side, left, top = 300, 40, 8

    def at(x: float, y: float) -> tuple[float, float]:
        return left + x * side, top + (1 - y) * side

    marks = [line_at(*at(0, 0), *at(1, 1), "mark")]
    for k in range(6):
        x, y = at(k / 5, 0)
        marks += [text_at(x, y + 16, f"{k / 5:.1f}"), text_at(left - 6, at(0, k / 5)[1] + 4, f"{k / 5:.1f}", "end")]
    for k in np.flatnonzero(total).tolist():
        share = positive[k] / total[k]
        x, y = at(predicted[k] / total[k], share)
        told = f"{k / _CLASSES:.2f} to {(k + 1) / _CLASSES:.2f}: {share:.3f} of {total[k]:,} pixels"
        radius = 2 + 5 * math.log10(total[k]) / math.log10(total.max() + 1)
        marks.append(f"<circle class=pos cx={x:.1f} cy={y:.1f} r={radius:.1f}><title>{told}</title></circle>")
    marks += [line_at(*at(0, 0), *at(1, 0), "axis"), line_at(*at(0, 0), *at(0, 1), "axis")]
    marks.append(text_at(left + side / 2, top + side + 34, "predicted probability"))
    chart = svg(left + side + 10, top + side + 40, "".join(marks), "reliability of probabilities")
    told = "On the line a probability means what it says. A larger dot: more pixels. Before any gate."
    return figure("Share of pixels labelled contrail", chart, told)
