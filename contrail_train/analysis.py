"""Where a model loses: by contrail and record, and what the gate costs. All from counts of pixels that add up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from scipy import ndimage

from contrail_data.inspect import labelled_time
from contrail_train.metrics import average_precision, bootstrap_interval, dice, histograms, ratio

Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
SIZES = (1, 16, 32, 64, 128, 256, 512)
"""Least pixels of the classes of contrails."""
LABELLED = (0, 1, 64, 256, 1024, 4096)
"""Least labelled pixels of the classes of records."""
FEW_GROUPS = 10
MOST_ROWS = 12
EIGHT = np.ones((3, 3), int)


@dataclass(frozen=True)
class Found:
    """What became of one record."""

    gated: tuple[int, int, int]
    """tp, fp, fn of its mask, empty where the gate is shut."""
    ungated: tuple[int, int, int]
    sizes: Ints
    """Pixels of each labelled contrail: of each set of labelled pixels that touch, corners included."""
    hits: Ints
    """Of these, the pixels that were found."""
    predicted_sizes: Ints
    touching: Mask
    """Which of the predicted contrails touch a labelled one."""
    agreement: float
    """Mean, over the pixels that any annotator marked, of the share that did; NaN without annotators or marks."""
    predicted: npt.NDArray[np.uint8]
    """The mask's bits, by numpy's packbits."""


def look(
    predicted_yx: Mask, ungated_yx: Mask, target_yx: Mask, annotators_yx: npt.NDArray[np.uint8] | None, voters: int
) -> Found:
    """annotators_yx: bit field, as in the store; None where there are none."""
    labels, count = ndimage.label(target_yx, EIGHT)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    hits = np.bincount(labels[predicted_yx], minlength=count + 1)[1:]
    drawn, drawn_count = ndimage.label(predicted_yx, EIGHT)
    drawn_sizes = np.bincount(drawn.ravel(), minlength=drawn_count + 1)[1:]
    touching = np.bincount(drawn[target_yx], minlength=drawn_count + 1)[1:] > 0
    agreement = np.nan
    if annotators_yx is not None and voters and annotators_yx.any():
        agreement = float(np.bitwise_count(annotators_yx[annotators_yx > 0]).mean()) / voters
    return Found(
        _counts(predicted_yx, target_yx),
        _counts(ungated_yx, target_yx),
        sizes,
        hits,
        drawn_sizes,
        touching,
        agreement,
        np.packbits(predicted_yx),
    )


def _counts(predicted: Mask, target: Mask) -> tuple[int, int, int]:
    tp = int((predicted & target).sum())
    return tp, int(predicted.sum()) - tp, int(target.sum()) - tp


def worst(found: Sequence[Found], count: int) -> list[int]:
    """Indices of the records with most lost pixels (fp + fn), the most first; those that lose none are left out."""
    lost = np.array([fp + fn for _, fp, fn in (one.gated for one in found)])
    order = np.argsort(-lost, kind="stable")[:count]
    return [int(i) for i in order if lost[i]]


def analysis(
    found: Sequence[Found],
    records: xr.Dataset,
    score: npt.NDArray[np.float64],
    gate: float,
    group: npt.NDArray[np.str_],
) -> dict[str, Any]:
    """Tables by name, ready for JSON.

    records: the per-sample variables of the store, those of `found` in their order; score: (n) what the gate compares;
    group: (n) as in `bootstrap_interval`. Raises ValueError without a record.
    """
    counts = np.array([one.gated for one in found], np.int64).T
    ungated = np.array([one.ungated for one in found], np.int64).T
    labelled = counts[0] + counts[2]
    agreement = np.array([one.agreement for one in found])
    latitude, longitude = (records[name].values.astype(np.float64) for name in ("latitude", "longitude"))
    time = labelled_time(records)
    month = np.where(np.isnat(time), np.nan, (time.astype("datetime64[M]").astype(np.int64) % 12 + 1).astype(float))
    hour = records["local_solar_hour"].values.astype(np.float64)
    sun, view = (records[name].values.astype(np.float64) for name in ("solar_zenith", "satellite_zenith"))

    def by(values: npt.NDArray[np.float64], told: Callable[[float], str]) -> list[dict[str, Any]]:
        return _by_class(values, told, counts, labelled, group)

    return {
        "contrails": _contrails(found),
        "records": {
            "labelled pixels": by(_at_least(labelled, LABELLED), _from(LABELLED, "px")),
            "annotators' agreement": by(np.floor(agreement * 4.999) / 5, lambda v: f"{v:.1f} to {v + 0.2:.1f}"),
            "place": by(_cell(latitude) * 1000 + _cell(longitude), _place),
            "true solar hour": by(np.floor(hour / 3) * 3, lambda v: f"{v:.0f} to {v + 3:.0f} h"),
            "light": by(np.where(np.isnan(sun), np.nan, sun >= 90), lambda v: "night" if v else "day"),
            "month": by(month, lambda v: f"{v:.0f}"),
            "satellite zenith": by(np.floor(view / 10) * 10, lambda v: f"{v:.0f} to {v + 10:.0f} degrees"),
        },
        "gate": _gate(counts, ungated, labelled, score, gate),
    }


def _contrails(found: Sequence[Found]) -> dict[str, list[dict[str, Any]]]:
    """Labelled contrails by their size: how many were touched, what share of their pixels was found; and predicted
    ones: how many touch no label."""
    names = ("sizes", "hits", "predicted_sizes", "touching")
    sizes, hits, drawn, touching = (np.concatenate([getattr(one, name) for one in found]) for name in names)
    told = _from(SIZES, "px")
    labelled, predicted = [], []
    for least in SIZES:
        of = _at_least(sizes, SIZES) == least
        if of.any():
            labelled.append(
                {
                    "class": told(least),
                    "contrails": int(of.sum()),
                    "pixels": int(sizes[of].sum()),
                    "touched": float((hits[of] > 0).mean()),
                    "found": float(hits[of].sum() / sizes[of].sum()),
                }
            )
        of = _at_least(drawn, SIZES) == least
        if of.any():
            alone = of & ~touching
            predicted.append(
                {
                    "class": told(least),
                    "contrails": int(of.sum()),
                    "pixels": int(drawn[of].sum()),
                    "touching none": float(alone.sum() / of.sum()),
                    "their pixels": int(drawn[alone].sum()),
                }
            )
    return {"labelled": labelled, "predicted": predicted}


def _at_least(values: npt.NDArray[Any], classes: Sequence[int]) -> npt.NDArray[np.float64]:
    """The class each value falls into, by its least value."""
    return np.asarray(classes, np.float64)[np.searchsorted(classes, values, side="right") - 1]


def _from(classes: Sequence[int], unit: str) -> Callable[[float], str]:
    ends = dict(zip(classes, [*classes[1:], 0], strict=True))

    def told(least: float) -> str:
        first, end = int(least), ends[int(least)]
        if not end:
            return f"from {first:,} {unit}"
        return f"{first:,} {unit}" if end == first + 1 else f"{first:,} to {end - 1:,} {unit}"

    return told


def _cell(degrees: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.floor(degrees / 15) * 15


def _place(value: float) -> str:
    """A cell of 15 degrees by its south-western corner, told by both edges."""
    latitude = round(value / 1000 / 15) * 15
    longitude = value - latitude * 1000
    south, west = (f"{abs(d):.0f}{names[d < 0]}" for d, names in ((latitude, "NS"), (longitude, "EW")))
    return f"{south} {west} and 15 degrees on"


def _by_class(
    values: npt.NDArray[np.float64],
    told: Callable[[float], str],
    counts: Ints,
    labelled: Ints,
    group: npt.NDArray[np.str_],
) -> list[dict[str, Any]]:
    """Counts and scores of the records of each class, in the order of `values`; NaN is the last, "unknown"."""
    lost = max(int(counts[1:].sum()), 1)
    rows = []
    for value in np.unique(values):
        of = np.isnan(values) if np.isnan(value) else values == value
        tp, fp, fn = (int(n) for n in counts[:, of].sum(1))
        row: dict[str, Any] = {
            "class": "unknown" if np.isnan(value) else told(float(value)),
            "records": int(of.sum()),
            "positive_records": int((labelled[of] > 0).sum()),
            "tp": tp,
            "fp": fp,
            "fn": fn,
            "lost": (fp + fn) / lost,
        }
        if row["positive_records"]:
            scores = dice(tp, fp, fn), ratio(tp, tp + fp), ratio(tp, tp + fn)
            row |= dict(zip(("dice", "precision", "recall"), map(float, scores), strict=True))
            if len(np.unique(group[of])) >= FEW_GROUPS:
                low, high = bootstrap_interval(counts[0, of], counts[1, of], counts[2, of], group[of])
                row |= {"dice_low": low, "dice_high": high}
        rows.append(row)
    return rows


def _gate(counts: Ints, ungated: Ints, labelled: Ints, score: npt.NDArray[np.float64], gate: float) -> dict[str, Any]:
    """What deciding record by record costs: Dice with a perfect gate, a perfect segmenter, none; and what mending each
    kind of error alone would bring."""
    positive, shut = labelled > 0, score < gate
    drawn = counts[:2].sum(0) > 0

    def of(changed: Ints) -> float:
        return float(dice(*changed.sum(1)))

    def mended(where: Mask, what: Ints) -> float:
        return of(np.where(where, what, counts)) - now

    now, nothing = of(counts), np.zeros_like(counts)
    perfect = np.stack([labelled, 0 * labelled, 0 * labelled])
    tp, fp, fn = counts
    opened = positive & ~shut
    errors = [
        ("positives that the gate shuts", positive & shut, ungated, labelled),
        ("negatives with a mask", ~positive & drawn, nothing, fp),
        ("pixels missed in positives that are open", opened, np.stack([tp + fn, fp, 0 * fn]), fn),
        ("false pixels in positives that are open", opened, np.stack([tp, 0 * fp, fn]), fp),
    ]
    lost = max(int((fp + fn).sum()), 1)
    has_both = positive.any() and not positive.all()
    levels = np.unique(np.quantile(score, np.linspace(0, 0.9, 10)))
    curve = []
    for level in [0.0, *levels.tolist()]:
        closed = score < level
        kept = np.where(closed, np.stack([0 * tp, 0 * tp, labelled]), ungated)
        share = float((closed & positive).sum() / max(positive.sum(), 1))
        negatives = float((closed & ~positive).sum() / max((~positive).sum(), 1))
        curve.append({"gate": level, "positives shut": share, "negatives shut": negatives, "dice": of(kept)})
    return {
        "gate": gate,
        "dice": now,
        "no gate": of(ungated),
        "perfect gate, this segmenter": of(np.where(positive, ungated, nothing)),
        "this gate, perfect segmenter": of(np.where(opened | ~positive, perfect, np.stack([0 * tp, 0 * tp, labelled]))),
        "record_auc_pr": average_precision(histograms(np.clip(score, 0, 1), positive)) if has_both else None,
        "positives": int(positive.sum()),
        "positives_shut": int((positive & shut).sum()),
        "negatives": int((~positive).sum()),
        "negatives_drawn": int((~positive & drawn).sum()),
        "errors": [
            {
                "error": name,
                "records": int((where & (cost > 0)).sum()),
                "pixels": int(cost[where].sum()),
                "lost": float(cost[where].sum() / lost),
                "gain": mended(where, what),
            }
            for name, where, what, cost in errors
        ],
        "curve": curve,
    }


def gate_story(told: dict[str, Any]) -> list[str]:
    """The same in sentences."""
    positives, negatives = told["positives"], told["negatives"]
    lines = []
    if told["gate"] > 0:
        shut, drawn = told["positives_shut"], told["negatives_drawn"]
        lines.append(
            f"The gate ({told['gate']:.3f}) shuts {shut} of {positives} positive records and leaves {drawn} of "
            f"{negatives} negative ones with a mask."
        )
    else:
        lines.append(
            f"There is no gate: {told['negatives_drawn']} of {negatives} negative records have a mask all the same."
        )
    lines.append(
        f"Dice is {told['dice']:.3f}; without a gate it would be {told['no gate']:.3f}, with a perfect one "
        f"{told['perfect gate, this segmenter']:.3f}, and with a perfect segmenter under this gate "
        f"{told['this gate, perfect segmenter']:.3f}."
    )
    if told["errors"]:
        most = max(told["errors"], key=lambda error: error["gain"])
        lines.append(
            f"Most would be won by mending {most['error']}: {most['gain']:+.3f}, {most['lost']:.0%} of all lost pixels "
            f"in {most['records']} records."
        )
    return lines


Table = tuple[str, list[str], list[list[str]]]


def tables(told: dict[str, Any]) -> list[Table]:
    """(title, header, rows of text) of everything that `analysis` tells."""
    gate = told["gate"]
    header = ["error", "records", "pixels", "of all lost", "gain in Dice, mended alone"]
    rows = [
        [e["error"], f"{e['records']:,}", f"{e['pixels']:,}", f"{e['lost']:.1%}", f"{e['gain']:+.4f}"]
        for e in gate["errors"]
    ]
    made: list[Table] = [(" ".join(gate_story(gate)), header, rows)]
    header = ["gate", "positives shut", "negatives shut", "Dice"]
    rows = [
        [f"{c['gate']:.4f}", f"{c['positives shut']:.1%}", f"{c['negatives shut']:.1%}", f"{c['dice']:.4f}"]
        for c in gate["curve"]
    ]
    made.append(("what other gates would do; not fitted, to look at alone", header, rows))
    header = ["labelled contrails of", "contrails", "pixels", "touched", "pixels found"]
    rows = [
        [c["class"], f"{c['contrails']:,}", f"{c['pixels']:,}", f"{c['touched']:.1%}", f"{c['found']:.1%}"]
        for c in told["contrails"]["labelled"]
    ]
    made.append(("by size of contrail", header, rows))
    header = ["predicted contrails of", "contrails", "pixels", "touching no label", "their pixels"]
    rows = [
        [c["class"], f"{c['contrails']:,}", f"{c['pixels']:,}", f"{c['touching none']:.1%}", f"{c['their pixels']:,}"]
        for c in told["contrails"]["predicted"]
    ]
    made.append(("", header, rows))
    for name, classes in told["records"].items():
        if len(classes) == 1 and classes[0]["class"] == "unknown":
            continue
        header = [name, "records", "positive", "tp", "fp", "fn", "Dice", "95 %", "of all lost"]
        title = f"by {name}"
        if len(classes) > MOST_ROWS:
            classes = sorted(classes, key=lambda one: -one["lost"])[:MOST_ROWS]
            title += f", the {MOST_ROWS} that lose most"
        made.append((title, header, [_row(one) for one in classes]))
    return made


def _row(one: dict[str, Any]) -> list[str]:
    interval = f"{one['dice_low']:.3f} to {one['dice_high']:.3f}" if "dice_low" in one else ""
    score = f"{one['dice']:.3f}" if "dice" in one else ""
    counts = [f"{one[key]:,}" for key in ("records", "positive_records", "tp", "fp", "fn")]
    return [one["class"], *counts, score, interval, f"{one['lost']:.1%}"]
