"""Where a model makes errors: by size of contrails, by properties of records, and at the gate.

Everything is computed from counts of pixels, which add up over records.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NotRequired, TypedDict

import numpy as np
import numpy.typing as npt
import xarray as xr
from scipy.stats import mannwhitneyu

from contrail_data.store.samples import labelled_time
from contrail_train.contrails.cleaning import Mask
from contrail_train.evaluation.error_kinds import ErrorKind, count_kinds
from contrail_train.evaluation.intervals import dice_interval
from contrail_train.evaluation.metrics import average_precision, dice, empty_masks, rank_histograms, share
from contrail_train.evaluation.nearness import Near
from contrail_train.evaluation.outcomes import Ints, Outcome

Floats = npt.NDArray[np.float64]
CONTRAIL_SIZES = (1, 16, 32, 64, 128, 256, 512)
"""Least number of pixels in each class of contrails."""
LABELLED_PIXELS = (0, 1, 64, 256, 1024, 4096)
"""Least number of labelled pixels in each class of records."""
CELL = 15
"""Size of the cells that records are grouped in, in degrees of latitude and longitude."""
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

LabelledClass = TypedDict(
    "LabelledClass", {"class": str, "contrails": int, "pixels": int, "hit": float, "pixels_hit": float}
)
"""Labelled contrails of one size: shares of the contrails, and of their pixels, that were found."""
PredictedClass = TypedDict(
    "PredictedClass", {"class": str, "contrails": int, "pixels": int, "false": float, "pixels_false": float}
)
"""Predicted contrails of one size: shares of the contrails, and of their pixels, that touch no label."""
RecordClass = TypedDict(
    "RecordClass",
    {
        "class": str,
        "records": int,
        "positive_records": int,
        "tp": int,
        "fp": int,
        "fn": int,
        "lost": float,
        "dice": NotRequired[float],
        "recall": NotRequired[float],
        "precision": NotRequired[float],
        "dice_low": NotRequired[float],
        "dice_high": NotRequired[float],
    },
)
"""Records of one class. `lost` is their share of all wrong pixels; scores are left out where they are undefined."""


class ContrailAnalysis(TypedDict):
    """Contrails by size."""

    labelled: list[LabelledClass]
    predicted: list[PredictedClass]


class ErrorCost(TypedDict):
    """What one kind of error costs."""

    error: str
    records: int
    pixels: int
    lost: float
    """Share of all wrong pixels."""
    gain: float
    """Dice gained if only this kind of error were corrected."""


class GateAnalysis(TypedDict):
    """What deciding record by record costs. A gate of 0 rejects no record."""

    gate: float
    dice: float
    dice_without_gate: float
    dice_perfect_gate: float
    dice_perfect_segmenter: float
    """With perfect masks for all records that the gate accepts."""
    record_auc_pr: float | None
    record_auc_roc: float | None
    record_precision: float | None
    record_recall: float | None
    positives: int
    positives_shut: int
    negatives: int
    negatives_open: int
    negatives_drawn: int
    """Negative records with a mask that is not empty."""
    errors: list[ErrorCost]


class Analysis(TypedDict):
    """The error analysis, as `evaluation-*.json` holds it."""

    contrails: ContrailAnalysis
    kinds: list[ErrorKind]
    records: dict[str, list[RecordClass]]
    """Classes by property of the records."""
    gate: GateAnalysis


def analyse(
    outcomes: Sequence[Outcome],
    records: xr.Dataset,
    score: Floats,
    gate: float,
    group: npt.NDArray[np.str_],
    near: Floats | None = None,
) -> Analysis:
    """Analyse the errors of a model.

    Args:
        outcomes: What became of each record.
        records: Scalars of the store for the same records, in the same order.
        score: What the gate is compared with, (record).
        gate: Records that score lower get an empty mask.
        group: Group of each record, as in `dice_interval`.
        near: How near each record is to training records, values of `Near`; NaN if unknown, None for all.

    Returns:
        The analysis, which `json.dumps` accepts.

    Raises:
        ValueError: If there are no records.
    """
    if not outcomes:
        raise ValueError("no record to analyse")
    counts = np.array([outcome.gated for outcome in outcomes], np.int64).T
    ungated = np.array([outcome.ungated for outcome in outcomes], np.int64).T
    properties: dict[str, tuple[Floats, Callable[[int], str]]] = {
        "labelled_pixels": (
            _class_numbers(counts[0] + counts[2], LABELLED_PIXELS),
            _class_names(LABELLED_PIXELS).__getitem__,
        ),
        "annotator_agreement": (
            np.ceil(np.round(np.array([outcome.agreement for outcome in outcomes]) * 5, 6)),
            lambda n: f"{(n - 1) / 5:.1f} to {n / 5:.1f}" if n else "no pixel marked",
        ),
        "nearness_to_training": (
            np.full(len(outcomes), np.nan) if near is None else near,
            lambda number: Near(number).title,
        ),
        **_properties_of(records),
    }
    return {
        "contrails": _contrails(outcomes),
        "kinds": count_kinds(outcomes),
        "records": {
            name: list(_by_class(numbers, class_name, counts, group))
            for name, (numbers, class_name) in properties.items()
        },
        "gate": _gate(counts, ungated, score, gate),
    }


def _properties_of(records: xr.Dataset) -> dict[str, tuple[Floats, Callable[[int], str]]]:
    """Class number of each record (NaN: unknown), and the name of a class, by property."""
    latitude, longitude, hour, sun, view = (
        records[name].values.astype(np.float64)
        for name in ("latitude", "longitude", "local_solar_hour", "solar_zenith", "satellite_zenith")
    )
    row = np.minimum(np.floor((latitude + 90) / CELL), 180 // CELL - 1)
    column = np.floor((longitude + 180) % 360 / CELL)
    time = labelled_time(records)
    month = time.astype("datetime64[M]").astype(np.int64) % 12
    return {
        "place": (row * (360 // CELL) + column, _cell_name),
        "solar_hour": (np.floor(hour / 3) % 8, lambda n: f"{3 * n} to {3 * n + 3} h"),
        "light": (np.where(np.isnan(sun), np.nan, sun >= 90), ("day", "night").__getitem__),
        "month": (np.where(np.isnat(time), np.nan, month), _MONTHS.__getitem__),
        "satellite_zenith": (np.floor(view / 10), lambda n: f"{10 * n} to {10 * n + 10} degrees"),
    }


def _cell_name(number: int) -> str:
    """Name a cell by its south-western corner; cells are numbered by rows from the south-west."""
    row, column = divmod(number, 360 // CELL)
    latitude, longitude = row * CELL - 90, column * CELL - 180
    return f"{abs(latitude)}{'NS'[latitude < 0]} {abs(longitude)}{'EW'[longitude < 0]}"


def _class_numbers(values: npt.NDArray[Any], starts: Sequence[int]) -> Floats:
    return (np.searchsorted(starts, values, side="right") - 1).astype(np.float64)


def _class_names(starts: Sequence[int]) -> list[str]:
    names = [f"{a:,} px" if b == a + 1 else f"{a:,} to {b - 1:,} px" for a, b in pairwise(starts)]
    return [*names, f"from {starts[-1]:,} px"]


def _contrails(outcomes: Sequence[Outcome]) -> ContrailAnalysis:
    sizes, hits, predicted_sizes, joined = (
        np.concatenate([getattr(outcome, name) for outcome in outcomes])
        for name in ("sizes", "hits", "predicted_sizes", "joined")
    )
    return {
        "labelled": [
            {"class": name, "contrails": count, "pixels": pixels, "hit": hit, "pixels_hit": pixels_hit}
            for name, count, pixels, hit, pixels_hit in _by_size(sizes, hits)
        ],
        "predicted": [
            {"class": name, "contrails": count, "pixels": pixels, "false": false, "pixels_false": pixels_false}
            for name, count, pixels, false, pixels_false in _by_size(
                predicted_sizes, np.where(joined > 0, 0, predicted_sizes)
            )
        ],
    }


def _by_size(sizes: Ints, matching: Ints) -> Iterator[tuple[str, int, int, float, float]]:
    """Yield each class of contrails that has members, with their number, their pixels and the shares that match.

    `matching` holds the number of pixels of each contrail that match; a contrail matches if any of its pixels does.
    """
    numbers = _class_numbers(sizes, CONTRAIL_SIZES)
    for number, name in enumerate(_class_names(CONTRAIL_SIZES)):
        members = numbers == number
        if count := int(members.sum()):
            pixels, matches = int(sizes[members].sum()), matching[members]
            yield name, count, pixels, float((matches > 0).mean()), float(matches.sum() / pixels)


def _by_class(
    numbers: Floats, name: Callable[[int], str], counts: Ints, group: npt.NDArray[np.str_]
) -> Iterator[RecordClass]:
    """Score the records of each class, in the order of the class numbers; the class "unknown" comes last."""
    all_wrong = max(int(counts[1:].sum()), 1)
    for number in np.unique(numbers):
        members = np.isnan(numbers) if np.isnan(number) else numbers == number
        tp, fp, fn = (int(n) for n in counts[:, members].sum(1))
        row: RecordClass = {
            "class": "unknown" if np.isnan(number) else name(int(number)),
            "records": int(members.sum()),
            "positive_records": int((counts[0, members] + counts[2, members] > 0).sum()),
            "tp": tp,
            "fp": fp,
            "fn": fn,
            "lost": (fp + fn) / all_wrong,
        }
        if row["positive_records"]:
            row |= {"dice": float(dice(tp, fp, fn)), "recall": tp / (tp + fn)}
            if tp + fp:
                row["precision"] = tp / (tp + fp)
            if (interval := dice_interval(counts[:, members], group[members])) is not None:
                row["dice_low"], row["dice_high"] = interval
        yield row


def _gate(counts: Ints, ungated: Ints, score: Floats, gate: float) -> GateAnalysis:
    positive, shut, drawn = counts[0] + counts[2] > 0, score < gate, counts[0] + counts[1] > 0
    auc_pr, auc_roc = None, None
    if positive.any() and not positive.all():
        auc_pr = average_precision(rank_histograms(score, positive))
        pairs = int(positive.sum()) * int((~positive).sum())
        auc_roc = float(mannwhitneyu(score[positive], score[~positive]).statistic) / pairs
    perfect = np.stack([counts[0] + counts[2], *np.zeros_like(counts[1:])])
    return {
        "gate": gate,
        "dice": _dice(counts),
        "dice_without_gate": _dice(ungated),
        "dice_perfect_gate": _dice(empty_masks(ungated, ~positive)),
        "dice_perfect_segmenter": _dice(empty_masks(perfect, positive & shut)),
        "record_auc_pr": auc_pr,
        "record_auc_roc": auc_roc,
        "record_precision": share(int((positive & drawn).sum()), int(drawn.sum())),
        "record_recall": share(int((positive & drawn).sum()), int(positive.sum())),
        "positives": int(positive.sum()),
        "positives_shut": int((positive & shut).sum()),
        "negatives": int((~positive).sum()),
        "negatives_open": int((~positive & ~shut).sum()),
        "negatives_drawn": int((~positive & drawn).sum()),
        "errors": _error_costs(counts, ungated, shut),
    }


def _dice(counts: Ints) -> float:
    return float(dice(*counts.sum(1)))


def _error_costs(counts: Ints, ungated: Ints, shut: Mask) -> list[ErrorCost]:
    """Correct one kind of error at a time."""
    tp, fp, fn = counts
    zero, labelled = np.zeros_like(tp), tp + fn
    positive = labelled > 0
    opened = positive & ~shut
    kinds = [
        ("positive records that the gate rejects", positive & shut, ungated, labelled),
        ("negative records with a mask", ~positive & (fp > 0), np.stack([zero, zero, labelled]), fp),
        ("missed pixels in positive records that the gate accepts", opened, np.stack([labelled, fp, zero]), fn),
        ("false pixels in positive records that the gate accepts", opened, np.stack([tp, zero, fn]), fp),
    ]
    all_wrong = max(int((fp + fn).sum()), 1)
    return [
        {
            "error": name,
            "records": int((members & (wrong > 0)).sum()),
            "pixels": int(wrong[members].sum()),
            "lost": float(wrong[members].sum() / all_wrong),
            "gain": _dice(np.where(members, corrected, counts)) - _dice(counts),
        }
        for name, members, corrected, wrong in kinds
    ]
