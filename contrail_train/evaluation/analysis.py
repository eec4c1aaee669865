"""Where a model loses: by contrail and record, and what the gate costs. All from counts of pixels that add up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xarray as xr
from scipy import ndimage
from scipy.stats import mannwhitneyu

from contrail_data.store.samples import labelled_time
from contrail_train.evaluation.metrics import average_precision, bootstrap_interval, dice, histograms, share

Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
SIZES = (1, 16, 32, 64, 128, 256, 512)
"""Least pixels of the classes of contrails."""
LABELLED = (0, 1, 64, 256, 1024, 4096)
"""Least labelled pixels of the classes of records."""
FEW_GROUPS = 10
"""A class of records with fewer groups gets no interval."""
MOST_ROWS = 12
CELL = 15
"""Degrees of latitude and longitude of a place."""
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
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
    """Which of the predicted contrails share a pixel with a labelled one."""
    agreement: float
    """Mean, over the pixels that any annotator marked, of the share that did; 0 where none marked any, NaN without
    annotators."""
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
    if annotators_yx is not None and voters:
        marks = np.bitwise_count(annotators_yx[annotators_yx > 0])
        agreement = float(marks.mean()) / voters if marks.size else 0.0
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
    """Indices of `count` records, half of them those that miss most pixels, half those with most false ones, so that
    neither error hides the other; by lost pixels (fp + fn), the most first. Those that lose none are left out.
    """
    _, fp, fn = np.array([one.gated for one in found], np.int64).reshape(-1, 3).T
    first, second = ([int(i) for i in np.argsort(-lost, kind="stable") if lost[i]] for lost in (fn, fp))
    mixed = dict.fromkeys(i for i in chain.from_iterable(zip_longest(first, second)) if i is not None)
    return sorted(list(mixed)[:count], key=lambda i: -(fp[i] + fn[i]))


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
    if not found:
        raise ValueError("no record to look at")
    counts = np.array([one.gated for one in found], np.int64).T
    ungated = np.array([one.ungated for one in found], np.int64).T
    labelled = counts[0] + counts[2]
    agreement = np.array([one.agreement for one in found])
    time = labelled_time(records)
    month = np.where(np.isnat(time), np.nan, (time.astype("datetime64[M]").astype(np.int64) % 12).astype(float))
    latitude, longitude, hour, sun, view = (
        records[name].values.astype(np.float64)
        for name in ("latitude", "longitude", "local_solar_hour", "solar_zenith", "satellite_zenith")
    )

    def by(values: npt.NDArray[np.float64], told: Callable[[int], str]) -> list[dict[str, Any]]:
        return _by_class(values, told, counts, labelled, group)

    return {
        "contrails": _contrails(found),
        "records": {
            "labelled_pixels": by(_at_least(labelled, LABELLED), _from(LABELLED, "px")),
            "annotator_agreement": by(np.ceil(np.round(agreement * 5, 6)), _fifth),
            "place": by(_cell(latitude, longitude), _place),
            "solar_hour": by(np.floor(hour / 3) % 8, lambda v: f"{3 * v} to {3 * v + 3} h"),
            "light": by(np.where(np.isnan(sun), np.nan, sun >= 90), lambda v: "night" if v else "day"),
            "month": by(month, lambda v: MONTHS[v]),
            "satellite_zenith": by(np.floor(view / 10), lambda v: f"{10 * v} to {10 * v + 10} degrees"),
        },
        "gate": _gate(counts, ungated, score, gate),
    }


def _contrails(found: Sequence[Found]) -> dict[str, list[dict[str, Any]]]:
    """Labelled contrails by their size: how many were hit at all, what share of their pixels was found; and predicted
    ones: how many share no pixel with a label.
    """
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
                    "hit": float((hits[of] > 0).mean()),
                    "pixels_hit": float(hits[of].sum() / sizes[of].sum()),
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
                    "false": float(alone.sum() / of.sum()),
                    "pixels_false": float(drawn[alone].sum() / drawn[of].sum()),
                }
            )
    return {"labelled": labelled, "predicted": predicted}


def _at_least(values: npt.NDArray[Any], classes: Sequence[int]) -> npt.NDArray[np.float64]:
    """The class each value falls into, by its least value."""
    return np.asarray(classes, np.float64)[np.searchsorted(classes, values, side="right") - 1]


def _from(classes: Sequence[int], unit: str) -> Callable[[int], str]:
    ends = dict(zip(classes, [*classes[1:], 0], strict=True))

    def told(first: int) -> str:
        end = ends[first]
        if not end:
            return f"from {first:,} {unit}"
        return f"{first:,} {unit}" if end == first + 1 else f"{first:,} to {end - 1:,} {unit}"

    return told


def _fifth(number: int) -> str:
    """Fifths include their upper end, so that full agreement needs no class of its own."""
    return f"{(number - 1) / 5:.1f} to {number / 5:.1f}" if number else "no pixel marked"


def _cell(latitude: npt.NDArray[np.float64], longitude: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Number of a cell of the globe, by rows from the south-west; NaN where a place is unknown."""
    row = np.minimum(np.floor((latitude + 90) / CELL), 180 // CELL - 1)
    return row * (360 // CELL) + np.floor((longitude + 180) % 360 / CELL)


def _place(cell: int) -> str:
    """A cell by its south-western corner."""
    row, column = divmod(cell, 360 // CELL)
    latitude, longitude = row * CELL - 90, column * CELL - 180
    return f"{abs(latitude)}{'NS'[latitude < 0]} {abs(longitude)}{'EW'[longitude < 0]}"


def _by_class(
    values: npt.NDArray[np.float64],
    told: Callable[[int], str],
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
            "class": "unknown" if np.isnan(value) else told(int(value)),
            "records": int(of.sum()),
            "positive_records": int((labelled[of] > 0).sum()),
            "tp": tp,
            "fp": fp,
            "fn": fn,
            "lost": (fp + fn) / lost,
        }
        if row["positive_records"]:
            row |= {"dice": float(dice(tp, fp, fn)), "recall": tp / (tp + fn)}
            row |= {"precision": tp / (tp + fp)} if tp + fp else {}
            if len(np.unique(group[of])) >= FEW_GROUPS:
                low, high = bootstrap_interval(counts[0, of], counts[1, of], counts[2, of], group[of])
                row |= {"dice_low": low, "dice_high": high}
        rows.append(row)
    return rows


def _gate(counts: Ints, ungated: Ints, score: npt.NDArray[np.float64], gate: float) -> dict[str, Any]:
    """What deciding record by record costs: Dice with a perfect gate, a perfect segmenter, none; and what mending each
    kind of error alone would bring. A gate of 0 is none: every record is open.
    """
    tp, fp, fn = counts
    labelled, nothing = tp + fn, np.zeros_like(tp)
    positive, shut, drawn = labelled > 0, score < gate, tp + fp > 0
    perfect, emptied = np.stack([labelled, nothing, nothing]), np.stack([nothing, nothing, labelled])

    def of(changed: Ints) -> float:
        return float(dice(*changed.sum(1)))

    now = of(counts)
    opened = positive & ~shut
    errors = [
        ("positive records that the gate shuts", positive & shut, ungated, labelled),
        ("negative records with a mask", ~positive & drawn, emptied, fp),
        ("pixels missed in positive records that are open", opened, np.stack([labelled, fp, nothing]), fn),
        ("false pixels in positive records that are open", opened, np.stack([tp, nothing, fn]), fp),
    ]
    lost = max(int((fp + fn).sum()), 1)
    auc_pr, auc_roc = None, None
    if positive.any() and not positive.all():
        auc_pr = average_precision(histograms(np.clip(score, 0, 1), positive))
        pairs = int(positive.sum()) * int((~positive).sum())
        auc_roc = float(mannwhitneyu(score[positive], score[~positive]).statistic) / pairs
    curve = []
    for level in np.unique([0.0, gate, *np.quantile(score, np.linspace(0, 0.9, 10))]).tolist():
        closed = score < level
        curve.append(
            {
                "gate": level,
                "positives_shut": share(int((closed & positive).sum()), int(positive.sum())),
                "negatives_shut": share(int((closed & ~positive).sum()), int((~positive).sum())),
                "dice": of(np.where(closed, emptied, ungated)),
            }
        )
    return {
        "gate": gate,
        "dice": now,
        "dice_without_gate": of(ungated),
        "dice_perfect_gate": of(np.where(positive, ungated, emptied)),
        "dice_perfect_segmenter": of(np.where(positive & shut, emptied, perfect)),
        "record_auc_pr": auc_pr,
        "record_auc_roc": auc_roc,
        "record_precision": share(int((positive & drawn).sum()), int(drawn.sum())),
        "record_recall": share(int((positive & drawn).sum()), int(positive.sum())),
        "positives": int(positive.sum()),
        "positives_shut": int((positive & shut).sum()),
        "negatives": int((~positive).sum()),
        "negatives_open": int((~positive & ~shut).sum()),
        "negatives_drawn": int((~positive & drawn).sum()),
        "errors": [
            {
                "error": name,
                "records": int((where & (cost > 0)).sum()),
                "pixels": int(cost[where].sum()),
                "lost": float(cost[where].sum() / lost),
                "gain": of(np.where(where, mended, counts)) - now,
            }
            for name, where, mended, cost in errors
        ],
        "curve": curve,
    }


def gate_story(told: dict[str, Any]) -> list[str]:
    """The same in sentences."""
    positives, negatives, drawn = told["positives"], told["negatives"], told["negatives_drawn"]
    shut, alarms, *_ = told["errors"]
    if not positives:
        return [
            f"No record has a contrail: all there is to lose are {alarms['pixels']:,} false pixels, in {drawn:,} of "
            f"{negatives:,} records."
        ]
    lines, gated = [], told["gate"] > 0
    if told["record_auc_roc"] is not None:
        lines.append(
            f"Telling records apart: of a positive and a negative record, the positive one scores higher in "
            f"{told['record_auc_roc']:.1%} of cases (AUC-PR {told['record_auc_pr']:.3f}, by chance "
            f"{positives / (positives + negatives):.3f}). {told['record_recall']:.1%} of positive records have a mask"
            + (
                f"; {told['record_precision']:.1%} of records with a mask are positive."
                if told["record_precision"]
                else "."
            )
        )
    does = "There is no gate: the segmenter leaves"
    if gated:
        does = f"The gate ({told['gate']:.3f}) shuts {shut['records']:,} of {positives:,} positive records and leaves"
    lines.append(f"{does} {drawn:,} of {negatives:,} negative records with a mask.")
    price = [("a positive record that is shut", shut), ("a negative record with a mask", alarms)]
    costs = [f"{what} costs {one['pixels'] / one['records']:,.0f} pixels" for what, one in price if one["records"]]
    if costs:
        lines.append(f"On average {' and '.join(costs)}.")
    now = told["dice"]

    def other(name: str) -> str:
        return f"{told[name]:.3f} ({told[name] - now:+z.3f})"

    others = f"with a perfect gate it would be {other('dice_perfect_gate')}"
    if gated:
        others += f", without a gate {other('dice_without_gate')}"
        others += f", with a perfect segmenter under this gate {other('dice_perfect_segmenter')}"
    lines.append(f"Dice is {now:.3f}; {others}.")
    most = max(told["errors"], key=lambda error: error["gain"])
    if most["gain"] > 0:
        lines.append(
            f"Most would be won by mending {most['error']}: {most['gain']:+z.3f} ({most['lost']:.0%} of all lost "
            f"pixels, in {most['records']:,} records)."
        )
    best = max(told["curve"], key=lambda one: one["dice"])
    if best["dice"] > now:
        what = f"a gate of {best['gate']:.3f}" if best["gate"] > 0 else "no gate"
        lines.append(
            f"Of the gates tried below {what} does best, {best['dice']:.3f} ({best['dice'] - now:+z.3f}); found on "
            "these records, it need not do so on others."
        )
    return lines


Table = tuple[str, list[str], list[list[str]]]


class Shown(NamedTuple):
    """A table of text; `bars` are shares in [0, 1] to draw in cells, by column."""

    title: str
    header: list[str]
    rows: list[list[str]]
    bars: dict[int, list[float]]


def tables(told: dict[str, Any]) -> list[Table]:
    """(title, header, rows of text) of everything that `analysis` tells."""
    shown = [*gate_tables(told["gate"]), *contrail_tables(told["contrails"]), *record_tables(told["records"])]
    first, *others = ((one.title, one.header, one.rows) for one in shown)
    return [("\n".join([*gate_story(told["gate"]), "", first[0]]), *first[1:]), *others]


def gate_tables(told: dict[str, Any]) -> list[Shown]:
    """What each kind of error costs; what other gates would do."""
    errors, curve = told["errors"], told["curve"]
    costs = Shown(
        "What each error costs",
        ["error", "records", "pixels", "of all lost", "gain in Dice, mended alone"],
        [
            [e["error"], f"{e['records']:,}", f"{e['pixels']:,}", f"{e['lost']:.1%}", f"{e['gain']:+z.4f}"]
            for e in errors
        ],
        {3: [e["lost"] for e in errors], 4: [max(e["gain"], 0.0) for e in errors]},
    )

    def name(gate: float) -> str:
        return ("none" if gate == 0 else f"{gate:.4f}") + (", as it is" if gate == told["gate"] else "")

    gates = Shown(
        "What other gates would do here; to look at, not to choose by",
        ["gate", "positives shut", "negatives shut", "Dice"],
        [
            [name(c["gate"]), _percent(c["positives_shut"]), _percent(c["negatives_shut"]), f"{c['dice']:.4f}"]
            for c in curve
        ],
        {3: [c["dice"] for c in curve]},
    )
    return [costs, gates]


def contrail_tables(told: dict[str, Any]) -> list[Shown]:
    """Contrails by size: labelled ones, predicted ones. Left out where there are none."""
    made = []
    for kind, hit, pixels, names in (
        ("labelled", "hit", "pixels_hit", ["hit at all", "pixels hit"]),
        ("predicted", "false", "pixels_false", ["on no label", "their share of pixels"]),
    ):
        classes = told[kind]
        rows = [
            [c["class"], f"{c['contrails']:,}", f"{c['pixels']:,}", _percent(c[hit]), _percent(c[pixels])]
            for c in classes
        ]
        bars = {3: [c[hit] for c in classes], 4: [c[pixels] for c in classes]}
        header = ["size", "contrails", "pixels", *names]
        made += [Shown(f"{kind.capitalize()} contrails by size", header, rows, bars)] * bool(rows)
    return made


def record_tables(told: dict[str, Any]) -> list[Shown]:
    """Records by each of their properties that is known of some."""
    made = []
    header = ["records", "positive", "tp", "fp", "fn", "precision", "recall", "Dice", "95 %", "of all lost"]
    for key, classes in told.items():
        if [one["class"] for one in classes] == ["unknown"]:
            continue
        name = key.replace("_", " ")
        title = f"Records by {name}" + f", south-western corners of {CELL} degrees" * (key == "place")
        if len(classes) > MOST_ROWS:
            title += f", the {MOST_ROWS} of {len(classes)} that lose most"
            classes = sorted(classes, key=lambda one: -one["lost"])[:MOST_ROWS]
        bars = {8: [one.get("dice", 0.0) for one in classes], 10: [one["lost"] for one in classes]}
        made.append(Shown(title, [name, *header], [_row(one) for one in classes], bars))
    return made


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _row(one: dict[str, Any]) -> list[str]:
    interval = f"{one['dice_low']:.3f} to {one['dice_high']:.3f}" if "dice_low" in one else ""
    scores = [f"{one[key]:.3f}" if key in one else "" for key in ("precision", "recall", "dice")]
    counts = [f"{one[key]:,}" for key in ("records", "positive_records", "tp", "fp", "fn")]
    return [one["class"], *counts, *scores, interval, f"{one['lost']:.1%}"]
