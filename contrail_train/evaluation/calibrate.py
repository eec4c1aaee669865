"""Threshold, gate and weights of a detector, fitted on held-out records."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from threading import Lock
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from contrail_data.splits.folds import make_folds
from contrail_data.store.logits import CODES
from contrail_train.contrails.cleaning import Mask, counts_by_size
from contrail_train.data.items import Items, Rows
from contrail_train.evaluation import metrics
from contrail_train.evaluation.confidence import MOST_RECORDS, Observed, calibrate_confidence, observe
from contrail_train.evaluation.counting import CountingThreads
from contrail_train.evaluation.intervals import difference_interval, difference_text
from contrail_train.evaluation.score import (
    FOLDS,
    EvaluationOptions,
    LabelledBatch,
    Probability,
    Scores,
    assign_folds,
    gated_counts,
    labelled_batches,
    score_values,
    sum_over_ranks,
)
from contrail_train.inference.detector import Detector, Shift, Weights, move_masks, weighted_mean
from contrail_train.inference.label_grid import NO_MOMENTS, moments, solve, to_learned_grid
from contrail_train.runs.calibration import HoldoutScores, LabelGrid
from contrail_train.runs.distributed import Ranks, gather

Counts = npt.NDArray[np.int64]
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Minimum sizes of a region to choose among, pixels."""
GateWhen = Literal["proven", "best", "never"]
"""Whether a gate is kept: if the 95 % interval of its cross-fitted gain is above 0, always, or never."""
GridWhen = Literal["proven", "always", "never"]
"""Likewise, whether a learned map onto the label grid is used."""
GRID_WHEN: dict[str, GridWhen] = {"fixed": "never", "learned": "proven"}
"""The same by the values of the setting `calibration.label_grid`."""


class Choice(NamedTuple):
    """What is fitted on held-out records."""

    mask: Weights
    threshold: float
    gate_weights: Weights
    gate: float
    min_pixels: int | None = None
    """Size below which regions of masks are removed, if that is asked for; None without contrails or masks."""
    label_grid: LabelGrid | None = None
    """The learned map onto the label grid, to which the threshold belongs; None for the fixed shift."""


@dataclass(frozen=True)
class Calibrated:
    """The outcome of a calibration."""

    choice: Choice
    """Fitted on all held-out records: what the model is used with."""
    holdout: HoldoutScores
    """Scores of the held-out records, each by the fit to the other folds, as they are stored."""


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


class _Way(NamedTuple):
    """How masks are drawn."""

    mask: int
    """Index of the weights."""
    threshold: float
    grid: LabelGrid | None = None


@dataclass(frozen=True)
class _Drawn:
    """Ways to draw masks, fitted on the other folds of each fold and, at last, on all records; and what they draw."""

    fitted: Sequence[_Way]
    histogram: Counts
    """(folds, 2, CODES), each fold's in its own way."""
    sized: Counts
    """(ways, SIZES, 3, n): tp, fp and fn of each record with each minimum size of a region."""
    tolerant: Counts
    """(4, n), each record's in the way of its fold."""
    observed: Sequence[Observed]
    """Single contrails of some of the records, each in the way of its fold."""


def calibrate(
    parts: Sequence[HeldOut],
    options: EvaluationOptions,
    *,
    masks: Sequence[Weights] | None = None,
    gates: Sequence[Weights] | None = None,
    gate_when: GateWhen = "proven",
    grid_when: GridWhen = "never",
) -> Calibrated:
    """Choose threshold, gate, weights and the map onto the label grid by global Dice.

    Several detectors are calibrated together, each on the records that it held out. Frames are predicted twice, and
    three times more if a map is learned.

    On few records the best gate is often best by chance and costs Dice elsewhere, which is why it has to be proven.

    Args:
        parts: A detector with its records, or those of several folds, all with the same shift.
        options: How to read the records.
        masks: Weights of the masks to choose among, of networks of the first detector, which the others have too; None
            for its own.
        gates: Weights of the record scores to choose among; None for those of the first detector.
        gate_when: When to keep a gate.
        grid_when: When to map masks onto the label grid by a learned convolution instead of a fixed shift.

    Returns:
        The choice. Without a positive pixel the first weights, threshold 0.5 and no gate.
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
        "confidence": None,
    }
    if not histogram[0, :, 1].any():
        return Calibrated(Choice(candidates.masks[0], 0.5, candidates.gates[0], 0.0), holdout)
    in_all = histogram.sum(1)
    fitted = [*(_best_mask(in_all - histogram[:, k]) for k in range(folds)), _best_mask(in_all)]
    own_histogram = np.stack([histogram[way.mask, k] for k, way in enumerate(fitted[:-1])])
    drawn = _Drawn(fitted, own_histogram, *_counts(candidates, fold, fitted))
    if grid_when != "never":
        learned = _learn_grid(candidates, fold, fitted)
        if grid_when == "always" or _is_gain_proven(drawn, learned, fold, items.group, options.ranks):
            drawn = learned
    return _choose(candidates, fold, drawn, scores_gn, holdout, gate_when)


def _choose(
    candidates: _Candidates,
    fold: npt.NDArray[np.int64],
    drawn: _Drawn,
    scores_gn: npt.NDArray[np.float64],
    holdout: HoldoutScores,
    gate_when: GateWhen,
) -> Calibrated:
    """Choose gate and minimum size for masks, on all records, and on the other folds for each fold's scores."""
    items, sized, folds = candidates.rows, drawn.sized, len(drawn.fitted) - 1
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
    scores = Scores(drawn.histogram, counts[fold, :, rows].T, own_score, drawn.tolerant)
    way, (gate_weights, gate) = drawn.fitted[-1], chosen[-1]
    mask = candidates.masks[way.mask]
    min_pixels = SIZES[size[-1]] if mask else None
    choice = Choice(mask, way.threshold, candidates.gates[gate_weights], gate, min_pixels, way.grid)
    holdout["holdout"] = score_values(scores, items, way.threshold, gate, own_gate)
    holdout["holdout_counts"] = gated_counts(scores, own_gate).tolist()
    if min_pixels is not None:
        own_sized = sized[fold, np.array(size)[fold] if folds > 1 else 0 * fold, :, rows].T
        cleaned = metrics.empty_masks(own_sized, own_score < own_gate)
        holdout["min_pixels"], holdout["min_pixels_dice"] = min_pixels, float(metrics.dice(*cleaned.sum(1)))
        accepted = [one for one in drawn.observed if own_score[one.row] >= own_gate[one.row]]
        holdout["confidence"] = calibrate_confidence(accepted, fold)
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


def _combine(candidates: _Candidates, way: _Way, masks: dict[str, Tensor], scores: dict[str, Tensor]) -> Tensor:
    """The probability (b, h, w) in some way; without weights of masks, the record score as a mask of one pixel."""
    if not (weights := candidates.masks[way.mask]):
        return weighted_mean(scores, candidates.gates[0])[:, None, None]
    probability_bhw = weighted_mean(masks, weights)
    return probability_bhw if way.grid is None else to_learned_grid(probability_bhw, way.grid)


def _each_record(
    candidates: _Candidates,
    ways: Sequence[_Way],
    count: Callable[[int, int, Probability, Mask, Mask], None],
    record_scores: Mapping[str, npt.NDArray[np.float64]] | None = None,
) -> None:
    """Predict all records, and count each in each way, several at a time.

    `count` gets the index of the way and what `LabelledBatch.paired` gives. The record scores (n) of some networks are
    written to arrays.
    """

    def _count_part(batch: LabelledBatch, by_way: Sequence[Tensor], scores: dict[str, Tensor], part: slice) -> None:
        for name, score_n in (record_scores or {}).items():
            score_n[batch.rows[part]] = scores[name][part].cpu().numpy()
        for k, probability_bhw in enumerate(by_way):
            for record in batch.paired(probability_bhw, part):
                count(k, *record)

    with CountingThreads() as counting:
        for batch, masks, scores in _outputs(candidates):
            by_way = [_combine(candidates, way, masks, scores) for way in ways]
            counting.submit(partial(_count_part, batch, by_way, scores), len(batch.rows))


def _histograms(
    candidates: _Candidates,
    fold: npt.NDArray[np.int64],
    folds: int,
    ways: Sequence[_Way],
    record_scores: Mapping[str, npt.NDArray[np.float64]] | None = None,
) -> Counts:
    """A pass: histograms (ways, folds, 2, CODES) of this process's records; see `_each_record`."""
    histogram, adding = np.zeros((len(ways), folds, 2, CODES), np.int64), Lock()

    def _add(k: int, row: int, p: Probability, target: Mask, valid: Mask) -> None:
        of_record = metrics.histograms(p, target, valid)
        with adding:
            histogram[k, fold[row]] += of_record

    _each_record(candidates, ways, _add, record_scores)
    return histogram


def _histograms_and_scores(
    candidates: _Candidates, fold: npt.NDArray[np.int64], folds: int
) -> tuple[Counts, npt.NDArray[np.float64]]:
    """First pass: histograms (masks, folds, 2, CODES), and record scores (gates, n)."""
    names = sorted({name for weights in candidates.gates for name, weight in weights.items() if weight > 0})
    by_name = np.zeros((len(names), len(candidates.rows)))
    ways = [_Way(mask, 0.5) for mask in range(len(candidates.masks))]
    histogram = _histograms(candidates, fold, folds, ways, dict(zip(names, by_name, strict=True)))
    histogram, by_name = sum_over_ranks((histogram, by_name), candidates.options.ranks)
    if len(names) == 1:
        return histogram, np.repeat(by_name, len(candidates.gates), axis=0)
    shares = np.array([[weights.get(name, 0.0) for name in names] for weights in candidates.gates])
    return histogram, np.stack([share @ by_name / share.sum() for share in shares])


def _counts(
    candidates: _Candidates, fold: npt.NDArray[np.int64], fitted: Sequence[_Way]
) -> tuple[Counts, Counts, list[Observed]]:
    """Another pass: counts (ways, SIZES, 3, n) in each way; in that of its fold, tolerant (4, n) and contrails."""
    size, ranks = len(candidates.rows), candidates.options.ranks
    chosen = set(np.linspace(0, size - 1, min(size, MOST_RECORDS)).astype(int).tolist())
    observed: list[Observed] = []
    counts, tolerant = np.zeros((len(fitted), len(SIZES), 3, size), np.int64), np.zeros((4, size), np.int64)

    def _add(k: int, row: int, p: Probability, target: Mask, _: Mask) -> None:
        mask = p >= fitted[k].threshold
        counts[k, :, :, row] = counts_by_size(mask, target, SIZES)
        if fold[row] == k:
            tolerant[:, row] = metrics.tolerant_counts(mask, target)
            if row in chosen and p.size > 1 and (one := observe(row, mask, p, target)) is not None:
                observed.append(one)

    _each_record(candidates, fitted, _add)
    counts, tolerant = sum_over_ranks((counts, tolerant), ranks)
    everyone = sorted((one for part in gather(observed, ranks) for one in part), key=lambda one: one.row)
    return counts, tolerant, everyone


def _best_mask(histogram: Counts) -> _Way:
    """The weights and the threshold of the best Dice, from histograms (masks, 2, CODES)."""
    if not histogram[0, 1].any():
        return _Way(0, 0.5)
    thresholds, dices = zip(*map(metrics.best_threshold, histogram), strict=True)
    best = int(np.argmax(dices))
    return _Way(best, thresholds[best])


def _learn_grid(candidates: _Candidates, fold: npt.NDArray[np.int64], fixed: Sequence[_Way]) -> _Drawn:
    """Three more passes: learn a map and a threshold in place of the shift and the threshold of each of the ways."""
    shift, folds, ranks = candidates.parts[0].shift, len(fixed) - 1, candidates.options.ranks
    unmoved = replace(candidates, parts=[replace(part, shift=(0.0, 0.0)) for part in candidates.parts])
    summed = {way.mask: np.zeros((folds, *NO_MOMENTS)) for way in fixed}
    for batch, masks, scores in _outputs(unmoved):
        for mask, moments_kij in summed.items():
            probability_bhw = _combine(unmoved, _Way(mask, 0.5), masks, scores).cpu()
            for p_hw, (row, _, target, valid) in zip(probability_bhw, batch.paired(probability_bhw), strict=True):
                moments_kij[fold[row]] += moments(p_hw, shift, target, valid)
    summed = dict(zip(summed, sum_over_ranks([*summed.values()], ranks), strict=True))
    grids = [solve(summed[way.mask][np.arange(folds) != k].sum(0), shift, way.threshold) for k, way in enumerate(fixed)]
    ways = [way._replace(grid=grid) for way, grid in zip(fixed, grids, strict=True)]
    (histogram,) = sum_over_ranks([_histograms(unmoved, fold, folds, ways)], ranks)
    learned = []
    for k, (way, grid) in enumerate(zip(fixed, grids, strict=True)):
        best = _best_mask(histogram[k, np.arange(folds) != k].sum(0)[None])
        learned.append(_Way(way.mask, best.threshold, grid))
    own = np.stack([histogram[k, k] for k in range(folds)])
    return _Drawn(learned, own, *_counts(unmoved, fold, learned))


def _is_gain_proven(
    fixed: _Drawn, learned: _Drawn, fold: npt.NDArray[np.int64], group: npt.NDArray[np.str_], ranks: Ranks
) -> bool:
    """Whether the 95 % interval of the Dice that maps gain, each on the fold it was not learned from, is above 0."""
    before, after = (drawn.sized[fold, 0, :, np.arange(len(fold))].T for drawn in (fixed, learned))
    interval = difference_interval(before, after, group)
    proven = len(learned.fitted) > 2 and interval is not None and interval[0] > 0
    outcome = "it is used" if proven else "not proven, the fixed shift is used"
    ranks.say(f"gain in Dice by the learned label grid: {difference_text(before, after, group)}; {outcome}")
    return proven


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
