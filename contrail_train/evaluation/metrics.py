"""Scores of predictions, from integer counts that add up over batches and processes.

Global Dice is 2TP / (2TP + FP + FN) of counts summed over all pixels of all records. Two integer histograms of
probabilities by code (see `contrail_data.store.logits`) give it at 65,536 thresholds at once. A ratio whose denominator
is 0 is 1: where there is no contrail and none is predicted, nothing is wrong.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from contrail_data.store import logits


def ratio(numerator: ArrayLike, denominator: ArrayLike) -> NDArray[np.float64]:
    """Divide elementwise.

    Args:
        numerator: Any shape.
        denominator: A shape that broadcasts with it.

    Returns:
        The quotient; 1 where the denominator is 0.
    """
    top, bottom = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    return np.where(bottom == 0, 1.0, top / np.where(bottom == 0, 1.0, bottom))


def share(part: int, whole: int) -> float | None:
    """Divide a part by the whole.

    Args:
        part: Number of elements in the part.
        whole: Number of all elements.

    Returns:
        The quotient; None if the whole is empty.
    """
    return part / whole if whole else None


def dice(tp: ArrayLike, fp: ArrayLike, fn: ArrayLike) -> NDArray[np.float64]:
    """Compute Dice, 2TP / (2TP + FP + FN), elementwise.

    Args:
        tp: True positives.
        fp: False positives.
        fn: False negatives.

    Returns:
        Dice; 1 where all counts are 0.
    """
    twice = 2 * np.asarray(tp)
    return ratio(twice, twice + np.asarray(fp) + np.asarray(fn))


def histograms(
    prob: NDArray[np.floating], target: NDArray[np.generic], valid: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """Count pixels by the bin of their probability. Histograms of parts add up.

    Args:
        prob: Probabilities in [0, 1], any shape.
        target: Labels, bool or 0/1, same shape.
        valid: Which pixels count, same shape; None for all of them.

    Returns:
        int64 (2, CODES), from the lowest code; row 0 counts negatives, row 1 positives.

    Raises:
        ValueError: If a probability that counts is NaN or outside [0, 1], or shapes differ.
    """
    if prob.shape != target.shape:
        raise ValueError(f"probabilities {prob.shape} and target {target.shape}: shapes differ")
    if valid is not None and not valid.all():
        prob, target = prob[valid], target[valid]
    bins = logits.encode(prob).ravel().astype(np.intp)
    bins -= logits.LOWEST
    np.add(bins, logits.CODES, out=bins, where=target.ravel().astype(bool, copy=False))
    return np.bincount(bins, minlength=2 * logits.CODES).astype(np.int64, copy=False).reshape(2, logits.CODES)


def rank_histograms(score: NDArray[np.floating], target: NDArray[np.generic]) -> NDArray[np.int64]:
    """Count records by the rank of their score, which loses nothing; but histograms of parts do not add up.

    Args:
        score: Scores (n).
        target: Labels, bool or 0/1 (n).

    Returns:
        int64 (2, ranks), from the lowest score; row 0 counts negatives, row 1 positives.
    """
    rank = np.unique(score, return_inverse=True)[1]
    return np.stack([np.bincount(rank, np.asarray(target, bool) == row) for row in (0, 1)]).astype(np.int64)


def _at_or_above(hist: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(fp, tp), each int64 (bins): what lies in a bin or a higher one."""
    fp, tp = hist[:, ::-1].cumsum(axis=1)[:, ::-1]
    return fp, tp


def dice_curve(hist: NDArray[np.int64]) -> NDArray[np.float64]:
    """Compute global Dice at the threshold of every code.

    Args:
        hist: Histograms (2, CODES).

    Returns:
        float64 (CODES), from the lowest code.
    """
    fp, tp = _at_or_above(hist)
    return dice(tp, fp, tp[0] - tp)


def best_threshold(hist: NDArray[np.int64]) -> tuple[float, float]:
    """Find the threshold of the best global Dice.

    Of the thresholds that reach it, the middle of the longest run is farthest from probabilities on either side.

    Args:
        hist: Histograms (2, CODES).

    Returns:
        The threshold, and the Dice at it.

    Raises:
        ValueError: If there is no positive pixel: all thresholds that predict nothing would be equally good.
    """
    if not hist[1].any():
        raise ValueError("no positive pixel: a threshold cannot be chosen")
    curve = dice_curve(hist)
    edges = np.flatnonzero(np.diff(curve == curve.max(), prepend=False, append=False))
    starts, ends = edges[::2], edges[1::2]  # runs [start, end)
    longest = int(np.argmax(ends - starts))
    k = int(starts[longest] + ends[longest] - 1) // 2
    return logits.threshold_of(k + logits.LOWEST), float(curve[k])


def counts_at(hist: NDArray[np.int64], threshold: float) -> tuple[int, int, int]:
    """Count pixels at a threshold.

    Args:
        hist: Histograms (2, CODES).
        threshold: The threshold of a code.

    Returns:
        tp, fp and fn if every pixel that reaches the threshold is predicted positive.
    """
    fp, tp = _at_or_above(hist)
    k = int(logits.encode(np.array(threshold))) - logits.LOWEST
    return int(tp[k]), int(fp[k]), int(tp[0] - tp[k])


def cross_fitted_counts(hist_k2b: NDArray[np.int64]) -> tuple[NDArray[np.float64], tuple[int, int, int]]:
    """Count pixels with each part of the records at the threshold that is best on the other parts.

    Args:
        hist_k2b: Histograms of the parts, (k, 2, CODES).

    Returns:
        Thresholds (k), 1/2 where the other parts have no positive pixel; and tp, fp and fn of all parts.
    """
    total = hist_k2b.sum(0)
    others = [total - own for own in hist_k2b]
    thresholds = [best_threshold(rest)[0] if rest[1].any() else 0.5 for rest in others]
    tp, fp, fn = np.sum([counts_at(own, t) for own, t in zip(hist_k2b, thresholds, strict=True)], axis=0).tolist()
    return np.array(thresholds), (tp, fp, fn)


def cross_entropy(hist: NDArray[np.int64]) -> float:
    """Compute the mean binary cross-entropy of pixels, exact to a bin.

    Args:
        hist: Histograms (2, CODES) with at least one pixel.

    Returns:
        The mean over all pixels, in nats; a probability of 0 or 1 counts as a logit of 32.
    """
    logit = (np.arange(logits.LOWEST, logits.LOWEST + logits.CODES) + 0.5) / logits.STEPS
    costs = np.stack([np.logaddexp(0, logit), np.logaddexp(0, -logit)])
    return float((hist * costs).sum() / hist.sum())


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Pixels predicted and missed at several thresholds, n arrays in the order of the thresholds."""

    threshold: NDArray[np.float64]
    tp: NDArray[np.int64]
    fp: NDArray[np.int64]
    tn: NDArray[np.int64]
    fn: NDArray[np.int64]

    @property
    def precision(self) -> NDArray[np.float64]:
        """Share of the predicted pixels that are right; 1 where none is predicted."""
        return ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> NDArray[np.float64]:
        """Share of the labelled pixels that are predicted."""
        return ratio(self.tp, self.tp + self.fn)


def curve(hist: NDArray[np.int64], thresholds: NDArray[np.float64]) -> Curve:
    """Count pixels at several thresholds.

    Args:
        hist: Histograms (2, CODES).
        thresholds: The thresholds, rounded up to those of codes.

    Returns:
        The counts.
    """
    fp_b, tp_b = (np.append(counts, 0) for counts in _at_or_above(hist))
    k = np.searchsorted(logits.EDGES, thresholds)
    tp, fp = tp_b[k], fp_b[k]
    return Curve(threshold=thresholds, tp=tp, fp=fp, tn=fp_b[0] - fp, fn=tp_b[0] - tp)


def average_precision(hist: NDArray[np.int64]) -> float:
    """Compute the area under the precision-recall curve, Σ (R_n - R_{n-1}) P_n over bins from the highest down.

    This is the definition of scikit-learn's `average_precision_score` (no interpolation), on scores rounded to bins.

    Args:
        hist: Histograms (2, bins).

    Returns:
        The area.

    Raises:
        ValueError: If there is no positive pixel.
    """
    if not hist[1].any():
        raise ValueError("no positive pixel: average precision is not defined")
    fp, tp = _at_or_above(hist)
    return float((hist[1] * ratio(tp, tp + fp)).sum() / tp[0])


def tolerant_counts(
    predicted_hw: NDArray[np.bool_], target_hw: NDArray[np.bool_], tolerance: float = 2.0
) -> tuple[int, int, int, int]:
    """Count predicted pixels near true ones, and true pixels near predicted ones.

    Counts of records add up; `tolerant_dice` turns the sums into a score.

    Args:
        predicted_hw: Predicted mask, bool (h, w).
        target_hw: True mask, bool (h, w).
        tolerance: Euclidean distance in pixels that counts as near.

    Returns:
        Predicted pixels near a true one, predicted pixels, true pixels near a predicted one, true pixels.
    """
    near_true, near_predicted = (
        _count_near(*masks, tolerance) for masks in ((predicted_hw, target_hw), (target_hw, predicted_hw))
    )
    return near_true, int(np.count_nonzero(predicted_hw)), near_predicted, int(np.count_nonzero(target_hw))


def _count_near(pixels_hw: NDArray[np.bool_], others_hw: NDArray[np.bool_], tolerance: float) -> int:
    """Count pixels that have another one within the tolerance."""
    if not (pixels_hw.any() and others_hw.any()):
        return 0
    reach, (height, width) = int(tolerance), pixels_hw.shape
    offset = np.arange(-reach, reach + 1)
    disc = offset[:, np.newaxis] ** 2 + offset**2 <= tolerance**2
    padded_hw, near_hw = np.pad(others_hw, reach), np.zeros_like(pixels_hw)
    for y, x in np.argwhere(disc).tolist():  # a tenth of the time of scipy.ndimage.binary_dilation
        near_hw |= padded_hw[y : y + height, x : x + width]
    return int(np.count_nonzero(pixels_hw & near_hw))


def tolerant_dice(tp_pred: int, n_pred: int, tp_true: int, n_true: int) -> float:
    """Compute 2PR / (P + R) with P = tp_pred / n_pred and R = tp_true / n_true.

    Args:
        tp_pred: Predicted pixels near a true one.
        n_pred: Predicted pixels.
        tp_true: True pixels near a predicted one.
        n_true: True pixels.

    Returns:
        Dice with tolerance.
    """
    precision, recall = float(ratio(tp_pred, n_pred)), float(ratio(tp_true, n_true))
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def confusion_counts(predicted: NDArray[np.bool_], target: NDArray[np.bool_]) -> tuple[int, int, int]:
    """Count true positives, false positives and false negatives.

    Args:
        predicted: What is predicted, bool: the pixels of a mask, or which records have any contrail.
        target: What is true, bool, same shape.

    Returns:
        tp, fp and fn.
    """
    tp, positive, true = (int(np.count_nonzero(pixels)) for pixels in (predicted & target, predicted, target))
    return tp, positive - tp, true - tp


def empty_masks(counts_3n: NDArray[np.int64], emptied_n: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Change counts as if the masks of some records were empty.

    Args:
        counts_3n: tp, fp and fn of each record.
        emptied_n: Which records get an empty mask.

    Returns:
        tp, fp and fn of each record: what was tp is now fn.
    """
    tp, fp, fn = counts_3n
    return np.stack([np.where(emptied_n, 0, tp), np.where(emptied_n, 0, fp), np.where(emptied_n, fn + tp, fn)])


def best_gate(score_n: ArrayLike, tp: ArrayLike, fp: ArrayLike, fn: ArrayLike) -> tuple[float, float]:
    """Find the gate of the best global Dice; records with a lower score get an empty mask.

    No gate (0.0) and the midpoints between neighbouring distinct scores are tried; of equal ones the lowest wins.

    Args:
        score_n: Score of each record, >= 0, float (n).
        tp: True positive pixels of each record without a gate, int (n).
        fp: False positive pixels, likewise.
        fn: False negative pixels, likewise.

    Returns:
        The gate, and the Dice with it.

    Raises:
        ValueError: If a score is negative or NaN, which the gate 0.0 would not pass.
    """
    score = np.asarray(score_n, np.float64)
    if not (score >= 0).all():
        raise ValueError("record scores must be >= 0 and not NaN")
    distinct, rank = np.unique(score, return_inverse=True)
    # counts by distinct score, then what remains if the records of the lowest k distinct scores are emptied
    by_score = np.stack([np.bincount(rank, weights=np.asarray(c), minlength=1) for c in (tp, fp, fn)])
    kept_tp, kept_fp, _ = by_score[:, ::-1].cumsum(axis=1)[:, ::-1]
    positives = by_score[0].sum() + by_score[2].sum()
    by_gate = dice(kept_tp, kept_fp, positives - kept_tp)
    gates = np.concatenate([[0.0], (distinct[:-1] + distinct[1:]) / 2])
    best = int(np.argmax(by_gate))
    return float(gates[best]), float(by_gate[best])
