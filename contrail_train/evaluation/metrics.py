"""Scores of predictions, from integer counts that add up over batches and ranks.

Global Dice is 2TP / (2TP + FP + FN) of counts summed over all pixels of all records. Two integer histograms
of probabilities give it at 65,536 thresholds at once. A ratio whose denominator is 0 is 1: where nothing is
there and nothing is claimed, nothing is wrong.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import distance_transform_edt

BINS = 65536
"""Probabilities are told apart to 1 / BINS; a power of two, so that scaling float32 by it is exact."""


RESAMPLES = 2000


def ratio(numerator: ArrayLike, denominator: ArrayLike) -> NDArray[np.float64]:
    """Elementwise quotient; 1 where the denominator is 0."""
    top, bottom = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    return np.where(bottom == 0, 1.0, top / np.where(bottom == 0, 1.0, bottom))


def share(part: int, whole: int) -> float | None:
    """None of nothing."""
    return part / whole if whole else None


def dice(tp: ArrayLike, fp: ArrayLike, fn: ArrayLike) -> NDArray[np.float64]:
    """2TP / (2TP + FP + FN), elementwise."""
    twice = 2 * np.asarray(tp)
    return ratio(twice, twice + np.asarray(fp) + np.asarray(fn))


def histograms(prob: NDArray[np.floating], target: NDArray[np.generic]) -> NDArray[np.int64]:
    """Pixels counted by bin of their probability: int64 (2, BINS), row 0 of negatives, row 1 of positives.

    prob: floats in [0, 1] of any shape; target: bool or 0/1, same shape. Bin = min(floor(p × BINS), BINS -
    1), so a pixel is at or above the threshold k / BINS exactly when its bin is >= k. Histograms of parts add
    up. Raises ValueError for a NaN, a probability outside [0, 1], or shapes that differ.
    """
    if prob.shape != target.shape:
        raise ValueError(f"probabilities {prob.shape} and target {target.shape} differ in shape")
    # written so that NaN, which compares false, is refused as well
    if prob.size and not (prob.min() >= 0 and prob.max() <= 1):
        raise ValueError(f"probabilities must lie in [0, 1] and not be NaN; found {prob.min()} to {prob.max()}")
    scaled = prob.astype(np.promote_types(prob.dtype, np.float32), copy=False).ravel() * BINS
    bins = np.minimum(scaled.astype(np.intp), BINS - 1)
    bins += BINS * target.ravel().astype(bool)
    return np.bincount(bins, minlength=2 * BINS).astype(np.int64).reshape(2, BINS)


def _at_or_above(hist: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(fp, tp), each int64 (BINS + 1,): pixels whose bin is >= k; the last entry is 0."""
    above = np.zeros((2, BINS + 1), np.int64)
    above[:, :BINS] = hist[:, ::-1].cumsum(axis=1)[:, ::-1]
    return above[0], above[1]


def dice_curve(hist: NDArray[np.int64]) -> NDArray[np.float64]:
    """Global Dice with every pixel of probability >= k / BINS called positive: float64 (BINS,), by k."""
    fp, tp = _at_or_above(hist)
    return dice(tp, fp, tp[0] - tp)[:BINS]


def best_threshold(hist: NDArray[np.int64]) -> tuple[float, float]:
    """(threshold, Dice there): the middle of the longest run of thresholds that all reach the best Dice.

    The middle keeps the largest distance from probabilities on either side. Raises ValueError without
    positives: every threshold that calls nothing positive would be equally right.
    """
    if not hist[1].any():
        raise ValueError("no positive pixel: a threshold cannot be chosen")
    curve = dice_curve(hist)
    edges = np.flatnonzero(np.diff(curve == curve.max(), prepend=False, append=False))
    starts, ends = edges[::2], edges[1::2]  # runs [start, end)
    longest = int(np.argmax(ends - starts))
    k = int(starts[longest] + ends[longest] - 1) // 2
    return k / BINS, float(curve[k])


def counts_at(hist: NDArray[np.int64], threshold: float) -> tuple[int, int, int]:
    """(tp, fp, fn) with every pixel of probability >= threshold called positive; the threshold is a k / BINS."""
    fp, tp = _at_or_above(hist)
    k = round(threshold * BINS)
    return int(tp[k]), int(fp[k]), int(tp[0] - tp[k])


def cross_fitted(hist_k2b: NDArray[np.int64]) -> tuple[NDArray[np.float64], float]:
    """(thresholds (k), Dice): each part of the records at the threshold that is best on the other parts.

    hist_k2b: histograms of parts, (k, 2, BINS). Where the other parts have no positive pixel the threshold is 1/2.
    """
    total = hist_k2b.sum(0)
    others = [total - own for own in hist_k2b]
    thresholds = [best_threshold(rest)[0] if rest[1].any() else 0.5 for rest in others]
    counts = [counts_at(own, t) for own, t in zip(hist_k2b, thresholds, strict=True)]
    return np.array(thresholds), float(dice(*np.sum(counts, axis=0)))


def average_precision(hist: NDArray[np.int64]) -> float:
    """Area under precision-recall in steps, Σ (R_n - R_{n-1}) P_n over bins from the highest down.

    The definition of scikit-learn's average_precision_score (no interpolation), on scores rounded to bins.
    Raises ValueError without positives.
    """
    if not hist[1].any():
        raise ValueError("no positive pixel: average precision is not defined")
    fp, tp = _at_or_above(hist)
    return float((hist[1] * ratio(tp, tp + fp)[:BINS]).sum() / tp[0])


def bootstrap_interval(
    tp: ArrayLike, fp: ArrayLike, fn: ArrayLike, groups: ArrayLike | None = None, *, level: float = 0.95
) -> tuple[float, float]:
    """(low, high): percentile interval of global Dice over resampled records.

    tp, fp, fn: (n,) integer pixel counts of each record; groups: (n,) labels of records that are drawn
    together, such as (site, day), for records of one group are not independent; None draws single records.
    Raises ValueError when there is no record or shapes differ.
    """
    return _interval(_resampled_dice(np.stack([np.asarray(c) for c in (tp, fp, fn)]), groups), level)


def bootstrap_difference(
    counts_a: NDArray[np.int64], counts_b: NDArray[np.int64], groups: ArrayLike | None = None, *, level: float = 0.95
) -> tuple[float, float]:
    """(low, high): percentile interval of Dice of B less Dice of A, both on the same resampled records.

    counts: (3, n) integer tp, fp, fn of the same n records; groups as in `bootstrap_interval`.
    """
    return _interval(_resampled_dice(counts_b, groups) - _resampled_dice(counts_a, groups), level)


def _interval(values: NDArray[np.float64], level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _resampled_dice(counts_3n: NDArray[np.generic], groups: ArrayLike | None) -> NDArray[np.float64]:
    """(RESAMPLES,) global Dice; the draws depend on the number of groups alone."""
    if counts_3n.ndim != 2 or not counts_3n.shape[1]:
        raise ValueError(f"counts must be (n,) with n >= 1, not {counts_3n.shape[1:]}")
    counts = counts_3n.T.astype(np.float64)
    if groups is not None:
        group = np.unique(np.asarray(groups), return_inverse=True)[1]
        counts = np.stack([np.bincount(group, weights=c) for c in counts.T], axis=-1)
    n, rng = len(counts), np.random.default_rng(0)
    block = max(1, 4_000_000 // n)  # keeps the table of draws, (block, n), at 32 MB
    sizes = [min(block, RESAMPLES - start) for start in range(0, RESAMPLES, block)]
    # times a group was drawn × its counts: float64 holds these integers exactly
    sums = np.concatenate([rng.multinomial(n, np.full(n, 1 / n), size=size) @ counts for size in sizes])
    return dice(*sums.T)


def tolerant_counts(
    predicted_hw: NDArray[np.bool_], target_hw: NDArray[np.bool_], tolerance: float = 2.0
) -> tuple[int, int, int, int]:
    """(tp_pred, n_pred, tp_true, n_true): predicted pixels within `tolerance` of a true one, and vice versa.

    Both masks are (h, w) bool; the distance is Euclidean, in pixels. Counts of records add up;
    `tolerant_dice` turns the sums into a score.
    """
    predicted, target = predicted_hw.astype(bool), target_hw.astype(bool)
    return (
        _near(predicted, target, tolerance),
        int(predicted.sum()),
        _near(target, predicted, tolerance),
        int(target.sum()),
    )


def _near(pixels_hw: NDArray[np.bool_], others_hw: NDArray[np.bool_], tolerance: float) -> int:
    if not others_hw.any():  # the distance transform of a mask without a target is not infinite but arbitrary
        return 0
    return int((pixels_hw & (distance_transform_edt(~others_hw) <= tolerance)).sum())


def tolerant_dice(tp_pred: int, n_pred: int, tp_true: int, n_true: int) -> float:
    """2PR / (P + R) of summed `tolerant_counts`, P = tp_pred / n_pred and R = tp_true / n_true."""
    precision, recall = float(ratio(tp_pred, n_pred)), float(ratio(tp_true, n_true))
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def record_dice(predicted_any: NDArray[np.bool_], true_any: NDArray[np.bool_]) -> float:
    """F1 over records of "has any contrail"; both (n,) bool."""
    tp = int((predicted_any & true_any).sum())
    return float(dice(tp, predicted_any.sum() - tp, true_any.sum() - tp))


def best_gate(score_n: ArrayLike, tp: ArrayLike, fp: ArrayLike, fn: ArrayLike) -> tuple[float, float]:
    """(gate, Dice): records with score < gate get an empty mask; the gate that gives the best global Dice.

    score_n: (n,) float scores >= 0; tp, fp, fn: (n,) integer pixel counts of each record's mask as it is
    without a gate. An emptied record loses its tp and fp, and its fn grows by tp. Tries no gate (0.0) and
    each midpoint between neighbouring distinct scores; of equals the lowest wins, no gate first. Raises
    ValueError for a negative or NaN score, which the gate 0.0 would not let through.
    """
    score = np.asarray(score_n, np.float64)
    if not (score >= 0).all():
        raise ValueError("record scores must be >= 0 and not NaN")
    distinct, rank = np.unique(score, return_inverse=True)
    # counts by distinct score; then what remains when the lowest k distinct scores are emptied
    by_score = np.stack([np.bincount(rank, weights=np.asarray(c), minlength=1) for c in (tp, fp, fn)])
    kept_tp, kept_fp, _ = by_score[:, ::-1].cumsum(axis=1)[:, ::-1]
    positives = by_score[0].sum() + by_score[2].sum()
    by_gate = dice(kept_tp, kept_fp, positives - kept_tp)
    gates = np.concatenate([[0.0], (distinct[:-1] + distinct[1:]) / 2])
    best = int(np.argmax(by_gate))
    return float(gates[best]), float(by_gate[best])
