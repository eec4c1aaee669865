"""MISSING DOCSTRING."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from contrail_train.data.augment import to_label_frame
from contrail_train.data.items import Items
from contrail_train.evaluation import metrics
from contrail_train.evaluation.score import (
    Reading,
    Scores,
    confusion_counts,
    gated,
    gated_counts,
    on_labels,
    parts_of,
    predicted_batches,
    report,
    summed_over_ranks,
)
from contrail_train.inference.detector import Detector, Shift, Weights, weighted


class Choice(NamedTuple):
    """What is fitted on held-out records."""

    mask: Weights
    threshold: float
    gate_weights: Weights
    gate: float


@dataclass(frozen=True)
class Calibrated:
    choice: Choice
    """Fitted on all held-out records: what the model is used with."""
    holdout: dict[str, Any]
    """`report` on the held-out records, each scored by what was fitted on the other parts."""
    counts: npt.NDArray[np.int64]
    """(3, n) tp, fp, fn of the held-out records, likewise."""


def calibrate(
    detector: Detector,
    shift: Shift,
    items: Items,
    how: Reading,
    masks: Sequence[Weights],
    gates: Sequence[Weights],
    gate_when: Literal["proven", "best", "never"] = "proven",
) -> Calibrated | None:
    """Choose threshold and gate, and weights among `masks` and `gates`, by global Dice; None without a positive pixel.

    shift: how far the labels' grid lies off the detector's answers. On few records the best gate is often best by
    chance and costs Dice elsewhere: with `gate_when="proven"` it is kept only when its gain holds in 97.5 % of
    resamplings, else there is none; with "best" it is kept, with "never" there is none. Frames are looked at twice.
    """
    part = parts_of(items)
    count = int(part.max(initial=0)) + 1

    def ask(window_btchw: Tensor, valid_bhw: Tensor | None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        masks, scores = detector.parts(window_btchw, valid_bhw)
        return {n: to_label_frame(m[:, None], shift)[:, 0].clamp(0, 1) for n, m in masks.items()}, scores

    def mixed(told: tuple[dict[str, Tensor], dict[str, Tensor]], weights: Weights) -> Tensor:
        return weighted(told[0], weights) if weights else weighted(told[1], gates[0])[:, None, None]

    # ---- first look: probabilities by part and weights; what the gate may compare ------------------------------------
    histogram = np.zeros((len(masks), count, 2, metrics.BINS), np.int64)
    names = sorted({name for weights in gates for name, weight in weights.items() if weight > 0})
    scores_by_name = np.zeros((len(names), len(items)))
    for rows, told, *labels in predicted_batches(ask, items, how):
        scores_by_name[:, rows] = [told[1][name].cpu().numpy() for name in names]
        for c, weights in enumerate(masks):
            for row, p, target, there in zip(rows, *on_labels(mixed(told, weights), *labels), strict=True):
                histogram[c, part[row]] += metrics.histograms(p[there], target[there])
    histogram, scores_by_name = summed_over_ranks((histogram, scores_by_name), how.ranks)
    if not histogram[0, :, 1].any():
        return None
    fitted = [_best_mask(histogram.sum(1) - histogram[:, k]) for k in range(count)]  # on the other parts
    fitted.append(_best_mask(histogram.sum(1)))

    # ---- second look: counts of each record at each of these ---------------------------------------------------------
    counts, tolerant = np.zeros((count + 1, 3, len(items)), np.int64), np.zeros((4, len(items)), np.int64)
    for rows, told, *labels in predicted_batches(ask, items, how):
        for k, (c, threshold) in enumerate(fitted):
            for row, p, target, _ in zip(rows, *on_labels(mixed(told, masks[c]), *labels), strict=True):
                counts[k, :, row] = confusion_counts(p >= threshold, target)
                if part[row] == k:
                    tolerant[:, row] = metrics.tolerant_counts(p >= threshold, target)
    counts, tolerant = summed_over_ranks((counts, tolerant), how.ranks)

    # ---- the gates on top --------------------------------------------------------------------------------------------
    mixtures = np.stack([_mixture(scores_by_name, names, weights) for weights in gates])
    chosen = []
    for k in range(count + 1):
        others = part != k if k < count and count > 1 else np.ones(len(items), bool)
        chosen.append(_best_gate(mixtures[:, others], counts[k][:, others], items.group[others], gate_when))
    rows = np.arange(len(items))
    own_gate = np.array([chosen[k][1] for k in part]) if count > 1 else np.zeros(len(items))
    own_score = mixtures[[chosen[k][0] for k in part], rows]
    (c, threshold), (g, gate) = fitted[-1], chosen[-1]
    by_part = np.stack([histogram[fitted[k][0], k] for k in range(count)])
    scores = Scores(by_part, counts[part, :, rows].T, own_score, tolerant)
    told_of = report(scores, items, threshold, gate, own_gate)
    return Calibrated(Choice(masks[c], threshold, gates[g], gate), told_of, gated_counts(scores, own_gate))


def _best_mask(histogram: npt.NDArray[np.int64]) -> tuple[int, float]:
    """(which weights, threshold) of the best Dice; (weights, 2, BINS). The first, 1/2 where nothing is positive."""
    if not histogram[0, 1].any():
        return 0, 0.5
    found = [metrics.best_threshold(one) for one in histogram]
    best = int(np.argmax([dice for _, dice in found]))
    return best, found[best][0]


def _mixture(scores: npt.NDArray[np.float64], names: Sequence[str], weights: Weights) -> npt.NDArray[np.float64]:
    share = np.array([weights.get(name, 0.0) for name in names])
    return np.asarray(share @ scores / share.sum()) if len(names) > 1 else scores[0]


def _best_gate(
    scores: npt.NDArray[np.float64], counts: npt.NDArray[np.int64], group: npt.NDArray[np.str_], when: str
) -> tuple[int, float]:
    """(which weights, gate) of the best Dice; scores (weights, n), counts (3, n)."""
    if when == "never" or not counts.any():
        return 0, 0.0
    found = [metrics.best_gate(one, *counts) for one in scores]
    best = int(np.argmax([dice for _, dice in found]))
    gate = found[best][0]
    if when == "proven":
        low, _ = metrics.bootstrap_difference(counts, gated(counts, scores[best] < gate), group)
        gate = gate if low > 0 else 0.0
    return best, gate


def known_of_holdout(fitted: Calibrated | None, items: Items) -> dict[str, Any]:
    """What a calibration states of the records that were held out."""
    return {
        "holdout": fitted.holdout if fitted else None,
        "holdout_records": items.record_id.tolist(),
        "holdout_groups": items.group.tolist(),
        "holdout_counts": fitted.counts.tolist() if fitted else None,
    }
