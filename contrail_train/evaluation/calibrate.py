"""Threshold, gate and weights of a detector, fitted on held-out records."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from contrail_data.logits import CODES
from contrail_data.splits.folds import make_folds
from contrail_train.contrails.cleaning import counts_by_size
from contrail_train.data.items import Items, Rows
from contrail_train.evaluation import metrics
from contrail_train.evaluation.intervals import difference_interval
from contrail_train.evaluation.score import (
    FOLDS,
    EvaluationOptions,
    LabelledBatch,
    Scores,
    assign_folds,
    gated_counts,
    labelled_batches,
    score_values,
    sum_over_ranks,
)
from contrail_train.inference.detector import Detector, Shift, Weights, move_masks, weighted_mean
from contrail_train.runs.calibration import HoldoutScores

Counts = npt.NDArray[np.int64]
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Minimum sizes of a region to choose among, pixels."""
GateWhen = Literal["proven", "best", "never"]
"""Whether a gate is kept: if the 95 % interval of its cross-fitted gain is above 0, always, or never."""


class Choice(NamedTuple):
    """What is fitted on held-out records."""

    mask: Weights
    threshold: float
    gate_weights: Weights
    gate: float
    min_pixels: int | None = None
    """Size below which regions of masks are removed, if that is asked for; None without contrails or masks."""


@dataclass(frozen=True)
class Calibrated:
    """The outcome of a calibration."""

    choice: Choice
    """Fitted on all held-out records: what the model is used with."""
    holdout: HoldoutScores
    """Scores of the held-out records, each by what was fitted on the other folds, as they are stored."""


@dataclass(frozen=True)
class HeldOut:
    """A detector with the records that it held out."""

    detector: Detector
    items: Items
    shift: Shift
    """Offset of the label grid from the grid of the detector's masks."""


@dataclass(frozen=True)
class _Candidates:
    """Detectors on held-out records, and the weights to choose among."""

    parts: Sequence[HeldOut]
    rows: Rows
    """The records of all parts in order."""
    options: EvaluationOptions
    masks: Sequence[Weights]
    gates: Sequence[Weights]


def calibrate(
    detector: Detector,
    items: Items,
    options: EvaluationOptions,
    *,
    shift: Shift,
    masks: Sequence[Weights] | None = None,
    gates: Sequence[Weights] | None = None,
    gate_when: GateWhen = "proven",
) -> Calibrated:
    """Choose threshold, gate and weights by global Dice. Frames are predicted twice.

    On few records the best gate is often best by chance and costs Dice elsewhere, which is why it has to be proven.

    Args:
        detector: The networks.
        items: Held-out records.
        options: How to read them.
        shift: Offset of the label grid from the grid of the detector's masks.
        masks: Weights of the masks to choose among; None for the detector's own.
        gates: Weights of the record scores to choose among; None for the detector's own.
        gate_when: When to keep a gate.

    Returns:
        The choice. Without a positive pixel the first weights, threshold 0.5 and no gate.
    """
    return calibrate_together([HeldOut(detector, items, shift)], options, masks=masks, gates=gates, gate_when=gate_when)


def calibrate_together(
    parts: Sequence[HeldOut],
    options: EvaluationOptions,
    *,
    masks: Sequence[Weights] | None = None,
    gates: Sequence[Weights] | None = None,
    gate_when: GateWhen = "proven",
) -> Calibrated:
    """Choose threshold, gate and weights for several detectors at once, each on the records that it held out.

    Args:
        parts: The detectors with their records, such as those of several folds.
        options: How to read the records.
        masks: As in `calibrate`; the weights are of networks of the first detector, which the others have too.
        gates: Likewise.
        gate_when: When to keep a gate.

    Returns:
        As of `calibrate`.
    """
    first = parts[0].detector
    items = Rows.concatenate([part.items for part in parts])
    candidates = _Candidates(parts, items, options, masks or [first.mask], gates or [first.gate])
    fold = assign_folds(items)
    folds = int(fold.max(initial=0)) + 1
    histogram, scores_gn = _histograms_and_scores(candidates, fold, folds)
    holdout: HoldoutScores = {
        "holdout": None,
        "holdout_records": items.record_id.tolist(),
        "holdout_groups": items.group.tolist(),
        "holdout_counts": None,
        "min_pixels": None,
        "min_pixels_dice": None,
    }
    if not histogram[0, :, 1].any():
        return Calibrated(Choice(candidates.masks[0], 0.5, candidates.gates[0], 0.0), holdout)
    in_all = histogram.sum(1)
    fitted = [*(_best_mask(in_all - histogram[:, k]) for k in range(folds)), _best_mask(in_all)]
    sized, tolerant = _counts(candidates, fold, fitted)
    counts, chosen, size = sized[:, 0], [], []
    for k in range(folds + 1):
        others = fold != k if k < folds and folds > 1 else np.ones(len(items), bool)
        chosen.append(choose_gate(scores_gn[:, others], counts[k][:, others], items.group[others], gate_when))
        emptied = scores_gn[chosen[k][0], others] < chosen[k][1]
        dices = [metrics.dice(*metrics.empty_masks(c, emptied).sum(1)) for c in sized[k][:, :, others]]
        size.append(int(np.argmax(dices)))

    rows = np.arange(len(items))
    own_gate = np.array([chosen[k][1] for k in fold]) if folds > 1 else np.zeros(len(items))
    own_score = scores_gn[[chosen[k][0] for k in fold], rows]
    own_histogram = np.stack([histogram[fitted[k][0], k] for k in range(folds)])
    scores = Scores(own_histogram, counts[fold, :, rows].T, own_score, tolerant)
    (mask, threshold), (gate_weights, gate) = fitted[-1], chosen[-1]
    min_pixels = SIZES[size[-1]] if candidates.masks[mask] else None
    choice = Choice(candidates.masks[mask], threshold, candidates.gates[gate_weights], gate, min_pixels)
    holdout["holdout"] = score_values(scores, items, threshold, gate, own_gate)
    holdout["holdout_counts"] = gated_counts(scores, own_gate).tolist()
    if min_pixels is not None:
        own_sized = sized[fold, np.array(size)[fold] if folds > 1 else 0 * fold, :, rows].T
        cleaned = metrics.empty_masks(own_sized, own_score < own_gate)
        holdout["min_pixels"], holdout["min_pixels_dice"] = min_pixels, float(metrics.dice(*cleaned.sum(1)))
    return Calibrated(choice, holdout)


def _outputs(candidates: _Candidates) -> Iterator[tuple[LabelledBatch, dict[str, Tensor], dict[str, Tensor]]]:
    """Each batch, with the masks (b, h, w) on the label grid and the record scores (b) of each network."""
    start = 0
    for part in candidates.parts:
        for batch in labelled_batches(part.items, candidates.options):
            with torch.inference_mode():
                masks, scores = part.detector.network_outputs(batch.window_btchw, batch.valid_bhw)
                masks = {name: move_masks(p_bhw, part.shift) for name, p_bhw in masks.items()}
            yield replace(batch, rows=batch.rows + start), masks, scores
        start += len(part.items)


def _combine(candidates: _Candidates, index: int, masks: dict[str, Tensor], scores: dict[str, Tensor]) -> Tensor:
    """The probability (b, h, w) with some weights; if there are none, the record score as a mask of one pixel."""
    if weights := candidates.masks[index]:
        return weighted_mean(masks, weights)
    return weighted_mean(scores, candidates.gates[0])[:, None, None]


def _histograms_and_scores(
    candidates: _Candidates, fold: npt.NDArray[np.int64], folds: int
) -> tuple[Counts, npt.NDArray[np.float64]]:
    """First pass: histograms (masks, folds, 2, CODES), and record scores (gates, n)."""
    items = candidates.rows
    histogram = np.zeros((len(candidates.masks), folds, 2, CODES), np.int64)
    names = sorted({name for weights in candidates.gates for name, weight in weights.items() if weight > 0})
    by_name = np.zeros((len(names), len(items)))
    for batch, masks, scores in _outputs(candidates):
        by_name[:, batch.rows] = [scores[name].cpu().numpy() for name in names]
        for c in range(len(candidates.masks)):
            for row, p, target, valid in batch.paired(_combine(candidates, c, masks, scores)):
                histogram[c, fold[row]] += metrics.histograms(p[valid], target[valid])
    histogram, by_name = sum_over_ranks((histogram, by_name), candidates.options.ranks)
    if len(names) == 1:
        return histogram, np.repeat(by_name, len(candidates.gates), axis=0)
    shares = np.array([[weights.get(name, 0.0) for name in names] for weights in candidates.gates])
    return histogram, np.stack([share @ by_name / share.sum() for share in shares])


def _counts(
    candidates: _Candidates, fold: npt.NDArray[np.int64], fitted: Sequence[tuple[int, float]]
) -> tuple[Counts, Counts]:
    """Second pass: counts (choices, SIZES, 3, n) with each choice, and tolerant ones (4, n) with the fold's choice."""
    size = len(candidates.rows)
    counts, tolerant = np.zeros((len(fitted), len(SIZES), 3, size), np.int64), np.zeros((4, size), np.int64)
    for batch, masks, scores in _outputs(candidates):
        for k, (c, threshold) in enumerate(fitted):
            for row, p, target, _ in batch.paired(_combine(candidates, c, masks, scores)):
                counts[k, :, :, row] = counts_by_size(p >= threshold, target, SIZES)
                if fold[row] == k:
                    tolerant[:, row] = metrics.tolerant_counts(p >= threshold, target)
    counts, tolerant = sum_over_ranks((counts, tolerant), candidates.options.ranks)
    return counts, tolerant


def _best_mask(histogram: Counts) -> tuple[int, float]:
    """Index of the weights, and threshold, of the best Dice; from histograms (masks, 2, CODES)."""
    if not histogram[0, 1].any():
        return 0, 0.5
    thresholds, dices = zip(*map(metrics.best_threshold, histogram), strict=True)
    best = int(np.argmax(dices))
    return best, thresholds[best]


def choose_gate(
    scores_gn: npt.NDArray[np.float64], counts_3n: Counts, group: npt.NDArray[np.str_], when: GateWhen
) -> tuple[int, float]:
    """Choose the weights and the gate of the best global Dice.

    The best of many gates gains something by chance on the records by which it was chosen. It is proven by the gain of
    gates that are chosen in the same way on the other folds of groups, of which chance takes as much as it gives.

    Args:
        scores_gn: Record scores with each of the weights, (weights, n).
        counts_3n: tp, fp, fn of each record without a gate.
        group: Group (n) of each record, for folds and the interval.
        when: When to keep a gate.

    Returns:
        Index of the weights, and the gate; 0 if none is kept.
    """
    if when == "never" or not counts_3n.any():
        return 0, 0.0
    best, gate = _best_gate(scores_gn, counts_3n)
    if when == "proven" and not _is_proven(scores_gn, counts_3n, group):
        return best, 0.0
    return best, gate


def _best_gate(scores_gn: npt.NDArray[np.float64], counts_3n: Counts) -> tuple[int, float]:
    gates, dices = zip(*(metrics.best_gate(score_n, *counts_3n) for score_n in scores_gn), strict=True)
    best = int(np.argmax(dices))
    return best, gates[best]


def _is_proven(scores_gn: npt.NDArray[np.float64], counts_3n: Counts, group: npt.NDArray[np.str_]) -> bool:
    """Whether the 95 % interval of the Dice that cross-fitted gates gain is above 0."""
    folds = min(FOLDS, len(np.unique(group)))
    if folds < 2:
        return False
    fold = make_folds(group, counts_3n[0] + counts_3n[2] > 0, folds)
    emptied = np.zeros(len(group), bool)
    for k in range(folds):
        own = fold == k
        best, gate = _best_gate(scores_gn[:, ~own], counts_3n[:, ~own])
        emptied[own] = scores_gn[best, own] < gate
    interval = difference_interval(counts_3n, metrics.empty_masks(counts_3n, emptied), group)
    return interval is not None and interval[0] > 0
