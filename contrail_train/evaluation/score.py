"""Exact global Dice and friends: one pass over labelled frames, integer counts, nothing averaged over batches.

Thresholds, gates and weights are fitted by `calibrate` alone, on held-out records, and are cross-fitted there: what a
record scores was fitted on other groups (site, day) of records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from contrail_data.errors import ContrailError
from contrail_data.progress import progress
from contrail_data.splits.folds import folds
from contrail_train.data.items import Items
from contrail_train.data.loader import load
from contrail_train.evaluation import metrics
from contrail_train.inference.detector import Detect
from contrail_train.inference.predictor import Predictor
from contrail_train.runs.directory import CALIBRATION
from contrail_train.runs.distributed import ALONE, Ranks, gather

FOLDS = 5
Look = Callable[[int, npt.NDArray[np.float32], npt.NDArray[np.bool_], float], None]
"""Gets each scored record: row of the items, probability (h, w), target (h, w), record score."""
T = TypeVar("T")


@dataclass(frozen=True)
class Reading:
    """How labelled frames are read and shown to a model."""

    device: torch.device
    batch: int = 16
    threads: int = 2
    name: str | None = "evaluate"
    """Titles the progress display; None shows none."""
    ranks: Ranks = ALONE
    """Every process of a run looks at its share, and gets the sums over all."""


@dataclass(frozen=True)
class Scores:
    """Counts over labelled frames; `n` is the number of records."""

    histogram: npt.NDArray[np.int64]
    """(folds, 2, BINS): pixels without and with a label by probability, before any gate."""
    counts: npt.NDArray[np.int64]
    """(3, n): tp, fp, fn of each record at its threshold, before any gate."""
    record_score: npt.NDArray[np.float64]
    """(n): what the gate compares."""
    tolerant: npt.NDArray[np.int64]
    """(4, n): counts of `metrics.tolerant_counts` of each record."""


def predicted_batches(
    ask: Callable[[Tensor, Tensor | None], T], items: Items, how: Reading
) -> Iterator[tuple[npt.NDArray[np.int64], T, npt.NDArray[np.bool_], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]]:
    """(rows, what `ask` made of their windows, target (b, h, w), where it has pixels (b, h, w), positive (b))."""
    own = np.arange(how.ranks.rank, len(items), how.ranks.world)
    steps = [own[i : i + how.batch] for i in range(0, len(own), how.batch)]
    shown = how.name is not None and how.ranks.first
    with progress(how.name or "", len(own)) if shown else nullcontext(lambda _: None) as advance:
        for rows, batch in zip(steps, load(items, steps, how.device, how.threads, prefetch=2), strict=True):
            valid_bhw = None if batch.valid_b1hw is None else batch.valid_b1hw[:, 0] > 0
            with torch.inference_mode():
                told = ask(batch.image_btchw, valid_bhw)
            target_bhw = batch.target_b1hw[:, 0].cpu().numpy() >= 128
            there_bhw = np.ones_like(target_bhw) if valid_bhw is None else valid_bhw.cpu().numpy()
            yield rows, told, target_bhw & there_bhw, there_bhw, batch.positive_b1[:, 0].cpu().numpy() > 0
            advance(len(rows))


def on_labels(
    probability_bhw: Tensor,
    target_bhw: npt.NDArray[np.bool_],
    there_bhw: npt.NDArray[np.bool_],
    positive_b: npt.NDArray[np.bool_],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """(probability, target, there): of a classifier all are (b, 1, 1), a mask of one pixel."""
    p_bhw = probability_bhw.float().cpu().numpy()
    if p_bhw.shape[1:] == (1, 1):
        target_bhw = positive_b[:, np.newaxis, np.newaxis]
        return p_bhw, target_bhw, np.ones_like(target_bhw)
    return np.where(there_bhw, p_bhw, np.float32(0)), target_bhw, there_bhw


def score(
    detect: Detect,
    items: Items,
    how: Reading,
    threshold: npt.ArrayLike,
    fold: npt.NDArray[np.int64] | None = None,
    look: Look | None = None,
) -> Scores:
    """Score human-labelled frames of a detector that answers on the labels' grid.

    threshold: of all, or (n) of each record. fold: (n) the part of each record, for the histograms; None: one part.
    """
    parts = 1 if fold is None else int(fold.max(initial=0)) + 1
    part = np.zeros(len(items), np.int64) if fold is None else fold
    limit = np.broadcast_to(np.asarray(threshold, np.float64), len(items))
    histogram = np.zeros((parts, 2, metrics.BINS), np.int64)
    counts, record_scores = np.zeros((3, len(items)), np.int64), np.zeros(len(items))
    tolerant = np.zeros((4, len(items)), np.int64)
    for rows, told, *labels in predicted_batches(detect, items, how):
        p_bhw, target_bhw, there_bhw = on_labels(told.probability_bhw, *labels)
        record_scores[rows] = told.score_b.cpu().numpy()
        for row, p_hw, target_hw, there_hw in zip(rows, p_bhw, target_bhw, there_bhw, strict=True):
            histogram[part[row]] += metrics.histograms(p_hw[there_hw], target_hw[there_hw])
            predicted_hw = p_hw >= limit[row]
            counts[:, row] = confusion_counts(predicted_hw, target_hw)
            tolerant[:, row] = metrics.tolerant_counts(predicted_hw, target_hw)
            if look is not None:
                look(int(row), p_hw, target_hw, float(record_scores[row]))
    return Scores(*summed_over_ranks((histogram, counts, record_scores, tolerant), how.ranks))


def confusion_counts(predicted_hw: npt.NDArray[np.bool_], target_hw: npt.NDArray[np.bool_]) -> tuple[int, int, int]:
    tp = int((predicted_hw & target_hw).sum())
    return tp, int(predicted_hw.sum()) - tp, int(target_hw.sum()) - tp


def summed_over_ranks(arrays: Sequence[npt.NDArray[Any]], ranks: Ranks) -> list[npt.NDArray[Any]]:
    """Over processes: each left zeros where the others counted."""
    return [sum(column) for column in zip(*gather(tuple(arrays), ranks), strict=True)]


def unseen(items: Items, models: Sequence[Predictor]) -> Items:
    """The records that no model was trained on or calibrated by: no other is ever scored.

    Raises ContrailError where none is left.
    """
    seen = frozenset().union(*(model.trained_records | model.calibrated_records for model in models))
    new = np.array([record_id not in seen for record_id in items.record_id.tolist()])
    if not new.any():
        where = f"{models[0].path / CALIBRATION}" if models[0].path.is_dir() else "its run's calibration.json"
        raise ContrailError(
            f"all {len(items)} labelled records were trained on or calibrated by: score others (what the held-out ones "
            f"scored at thresholds fitted on one another is in {where})"
        )
    return items[np.flatnonzero(new)]


def score_predictor(
    model: Predictor,
    items: Items,
    batch: int = 16,
    look: Look | None = None,
    fold: npt.NDArray[np.int64] | None = None,
) -> Scores:
    """Score a finished model at its own threshold, on items read at its own `offsets`; see `score`."""
    return score(model.on_labels, items, Reading(model.device, batch), model.decision.threshold, fold, look)


def report(
    scores: Scores, items: Items, threshold: float, gate: float, gates: npt.NDArray[np.float64] | None = None
) -> dict[str, Any]:
    """Scores, with a 95 % bootstrap interval over groups, None of a single one; a share of nothing is None.

    threshold, gate: of the model as it will be used, told with the scores; gates: (n) that each record meets here,
    where these were cross-fitted. Raises ValueError without a record.
    """
    limits = np.full(len(items), gate) if gates is None else gates
    tp, fp, fn = gated = gated_counts(scores, limits)
    shut = scores.record_score < limits
    tolerant = scores.tolerant.copy()
    tolerant[:3, shut] = 0  # nothing is predicted there any more
    total = {k: int(v) for k, v in zip(("tp", "fp", "fn"), gated.sum(1), strict=True)}
    groups = len(np.unique(items.group))
    low, high = metrics.bootstrap_interval(tp, fp, fn, groups=items.group) if groups > 1 else (None, None)
    ungated = scores.counts.sum(1)
    positive = scores.counts[0] + scores.counts[2] > 0
    return {
        "records": len(items),
        "positive_records": int(positive.sum()),
        "groups": groups,
        "threshold": threshold,
        "gate": gate,
        "dice": float(metrics.dice(*gated.sum(1))),
        "dice_low": low,
        "dice_high": high,
        "precision": metrics.share(total["tp"], total["tp"] + total["fp"]),
        "recall": metrics.share(total["tp"], total["tp"] + total["fn"]),
        "auc_pr": metrics.average_precision(scores.histogram.sum(0)) if positive.any() else None,
        "tolerant_dice": metrics.tolerant_dice(*(int(n) for n in tolerant.sum(1))),
        "record_dice": metrics.record_dice(tp + fp > 0, positive),
        "record_auc_pr": _record_auc(scores, positive),
        "dice_without_gate": float(metrics.dice(*ungated)),
        **total,
    }


def _record_auc(scores: Scores, positive: npt.NDArray[np.bool_]) -> float | None:
    """Area under precision-recall of records by their score; None without a positive one."""
    return metrics.average_precision(metrics.histograms(scores.record_score, positive)) if positive.any() else None


def gated_counts(scores: Scores, gate: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """(3, n) tp, fp, fn when records that score below the gate, one or (n), get an empty mask."""
    return gated(scores.counts, scores.record_score < np.asarray(gate))


def gated(counts: npt.NDArray[np.int64], shut: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    tp, fp, fn = counts
    return np.stack([np.where(shut, 0, tp), np.where(shut, 0, fp), np.where(shut, fn + tp, fn)])


def parts_of(items: Items) -> npt.NDArray[np.int64]:
    """(n) which of `FOLDS` parts, made of whole groups, a record is in; parts are fewer where groups are."""
    groups = len(np.unique(items.group))
    return folds(items.group, items.positive, min(FOLDS, groups)) if groups else np.zeros(0, np.int64)


def holdout_dice(scores: Scores) -> float | None:
    """Dice at thresholds cross-fitted between parts, what epochs are compared by; None without a positive pixel."""
    return metrics.cross_fitted(scores.histogram)[1] if scores.histogram[:, 1].any() else None
