"""Metrics: Dice, average precision and gates."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import distance_transform_edt
from sklearn.metrics import average_precision_score, f1_score, log_loss, precision_score, recall_score

from contrail_data.store import logits
from contrail_train.evaluation import metrics


def test_metrics_and_config_do_not_import_torch() -> None:
    code = (
        "import sys, contrail_train.evaluation.metrics, contrail_train.config.schema; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


probabilities = hnp.arrays(
    np.float32,
    st.integers(1, 40),
    # eighths and values at edges, so that ties and plateaus occur
    elements=st.one_of(
        st.integers(0, 8).map(lambda i: i / 8),
        st.sampled_from(logits.EDGES.astype(np.float32).tolist()),
        st.floats(0, 1, width=32),
    ),
)


@st.composite
def predictions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    prob = draw(probabilities)
    target = draw(hnp.arrays(bool, prob.shape))
    target[draw(st.integers(0, len(target) - 1))] = True
    return prob, target


def brute_dice(prob: np.ndarray, target: np.ndarray, threshold: float) -> float:
    predicted = prob.astype(np.float64) >= threshold
    return 2 * int((predicted & target).sum()) / (int(predicted.sum()) + int(target.sum()))


@pytest.mark.slow
@settings(max_examples=60)
@given(predictions())
def test_histograms_give_dice_at_every_threshold(case: tuple[np.ndarray, np.ndarray]) -> None:
    prob, target = case
    hist = metrics.histograms(prob, target)
    assert hist.dtype == np.int64
    half = len(prob) // 2
    assert np.array_equal(
        hist, metrics.histograms(prob[:half], target[:half]) + metrics.histograms(prob[half:], target[half:])
    )
    curve = metrics.dice_curve(hist)
    codes = np.unique(logits.encode(prob)).astype(int)
    for code in {logits.LOWEST, 0, 32767, *codes, *(codes[codes < 32767] + 1)}:
        threshold = logits.threshold_of(code)
        assert curve[code - logits.LOWEST] == brute_dice(prob, target, threshold)
        tp, fp, fn = metrics.counts_at(hist, threshold)
        assert (tp + fp, tp + fn) == ((prob >= threshold).sum(), target.sum())
    threshold, dice = metrics.best_threshold(hist)
    assert dice == max(brute_dice(prob, target, logits.threshold_of(code)) for code in {0, *codes})
    assert dice == brute_dice(prob, target, threshold)


@settings(max_examples=60)
@given(predictions())
def test_average_precision_is_the_sum_over_distinct_scores(case: tuple[np.ndarray, np.ndarray]) -> None:
    prob, target = case
    score = logits.encode(prob)
    expected = recall = 0.0
    for level in np.unique(score)[::-1]:
        chosen = score >= level
        new_recall = (chosen & target).sum() / target.sum()
        expected += (new_recall - recall) * (chosen & target).sum() / chosen.sum()
        recall = new_recall
    assert metrics.average_precision(metrics.histograms(prob, target)) == pytest.approx(expected)


@pytest.mark.parametrize("centre", [-13, -6, 0, 6, 13])
def test_average_precision_and_dice_match_scikit_learn_wherever_the_probabilities_lie(centre: float) -> None:
    """Bins that were even in the probability gave .846 for .873 where most lay below 1 / 65,536."""
    rng = np.random.default_rng(0)
    target = rng.random(50_000) < 0.02
    prob = (1 / (1 + np.exp(-rng.normal(centre + 3 * target, 1.5)))).astype(np.float32)
    hist = metrics.histograms(prob, target)
    assert metrics.average_precision(hist) == pytest.approx(average_precision_score(target, prob), abs=1e-3)
    ranks = metrics.rank_histograms(prob, target)
    assert metrics.average_precision(ranks) == pytest.approx(average_precision_score(target, prob), abs=1e-9)
    stored = logits.decode(logits.encode(prob))
    assert average_precision_score(target, stored) == pytest.approx(metrics.average_precision(hist), abs=1e-9)
    threshold, dice = metrics.best_threshold(hist)
    assert dice == pytest.approx(f1_score(target, prob >= threshold), abs=1e-9)
    best = max(f1_score(target, prob >= level) for level in np.quantile(prob, np.linspace(0.9, 0.999, 20)))
    assert dice >= best


def test_best_threshold_is_the_middle_of_the_plateau() -> None:
    hist = metrics.histograms(np.array([0.25, 0.75], np.float32), np.array([False, True]))
    threshold, dice = metrics.best_threshold(hist)
    assert dice == 1.0
    assert threshold == pytest.approx(0.5, abs=1 / logits.STEPS)


@pytest.mark.parametrize("value", [math.nan, -0.01, 1.01, math.inf])
def test_histograms_refuse_values_that_are_not_probabilities(value: float) -> None:
    with pytest.raises(ValueError, match="must lie in"):
        metrics.histograms(np.array([0.5, value, 0.5], np.float32), np.zeros(3, bool))


def test_histograms_count_valid_pixels_only() -> None:
    prob, target = np.array([[0.2, np.nan], [0.9, 0.9]], np.float32), np.array([[True, False], [True, False]])
    valid = ~np.isnan(prob)
    counted = metrics.histograms(prob, target, valid)
    assert np.array_equal(counted, metrics.histograms(prob[valid], target[valid]))
    assert counted.sum() == 3


def test_without_positive_pixels_only_the_dice_curve_is_defined() -> None:
    hist = metrics.histograms(np.array([0.0, 0.5]), np.zeros(2, bool))
    curve = metrics.dice_curve(hist)
    assert curve[-logits.LOWEST] == 0
    assert curve[-logits.LOWEST + 1] == 1  # nothing is predicted, so nothing is wrong
    for function in (metrics.best_threshold, metrics.average_precision):
        with pytest.raises(ValueError, match="no positive"):
            function(hist)


def test_tolerant_counts_match_an_example_counted_by_hand() -> None:
    target, predicted = np.zeros((9, 9), bool), np.zeros((9, 9), bool)
    target[4, :] = True
    predicted[6, 3] = predicted[7, 3] = predicted[2, 8] = True  # 2, 3 and 2 px off
    counts = metrics.tolerant_counts(predicted, target, tolerance=2)
    assert counts == (2, 3, 2, 9)
    assert metrics.tolerant_dice(*counts) == pytest.approx(2 * (2 / 3) * (2 / 9) / (2 / 3 + 2 / 9))
    assert metrics.tolerant_counts(np.zeros_like(target), target) == (0, 0, 0, 9)
    assert metrics.tolerant_dice(0, 0, 0, 9) == 0
    assert metrics.tolerant_dice(0, 0, 0, 0) == 1


@given(hnp.arrays(bool, (6, 7)), hnp.arrays(bool, (6, 7)))
@settings(max_examples=40)
def test_tolerant_dice_without_tolerance_equals_dice(predicted: np.ndarray, target: np.ndarray) -> None:
    exact = metrics.tolerant_dice(*metrics.tolerant_counts(predicted, target, tolerance=0))
    size = int(predicted.sum()) + int(target.sum())
    assert exact == pytest.approx(2 * int((predicted & target).sum()) / size if size else 1)


@given(hnp.arrays(bool, (9, 11)), hnp.arrays(bool, (9, 11)), st.sampled_from([0, 1, 1.5, 2.0, 2.3, 12]))
@settings(max_examples=60)
def test_pixels_near_others_are_those_within_the_euclidean_distance(
    predicted: np.ndarray, target: np.ndarray, tolerance: float
) -> None:
    near_true, near_predicted = (
        int((pixels & (distance_transform_edt(~others) <= tolerance)).sum()) if others.any() else 0
        for pixels, others in ((predicted, target), (target, predicted))
    )
    counts = metrics.tolerant_counts(predicted, target, tolerance)
    assert counts == (near_true, int(predicted.sum()), near_predicted, int(target.sum()))


def test_record_dice_matches_an_example_counted_by_hand() -> None:
    predicted, true = np.array([1, 1, 0, 0, 1], bool), np.array([1, 0, 1, 0, 1], bool)
    assert metrics.dice(*metrics.confusion_counts(predicted, true)) == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))


counts = st.integers(0, 20)


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 6), counts, counts, counts), min_size=1, max_size=12))
def test_best_gate_is_the_best_of_all_candidates(records: list[tuple[int, int, int, int]]) -> None:
    score, tp, fp, fn = np.array(records).T
    score = score / 8

    def gated(gate: float) -> float:
        kept = score >= gate
        t, p, n = (tp * kept).sum(), (fp * kept).sum(), (fn + tp * ~kept).sum()
        return float(2 * t / (2 * t + p + n)) if 2 * t + p + n else 1.0

    levels = np.unique(score)
    candidates = [0.0, *((levels[:-1] + levels[1:]) / 2)]
    gate, dice = metrics.best_gate(score, tp, fp, fn)
    assert dice == gated(gate) == max(gated(g) for g in candidates)
    assert gate == min(g for g in candidates if gated(g) == dice)


def test_a_gate_that_is_best_by_chance_is_not_kept() -> None:
    from contrail_train.evaluation.calibrate import choose_gate

    rng = np.random.default_rng(0)
    n = 60
    group = np.arange(n).astype(str)
    score, counts = rng.random(n), rng.integers(5, 50, (3, n))
    counts[0, score.argmin()] = 0  # one record decides
    assert choose_gate(score[np.newaxis], counts, group, "best")[1] > 0
    assert choose_gate(score[np.newaxis], counts, group, "proven")[1] == 0
    score = np.where(np.arange(n) < n // 2, 0.1, 0.9)  # every low score is a false alarm
    counts = np.array([np.where(score > 0.5, 30, 0), np.where(score > 0.5, 5, 40), np.full(n, 3)])
    assert choose_gate(np.stack([rng.random(n), score]), counts, group, "proven") == (1, 0.5)


def test_cross_fitted_dice_is_below_the_best_dice_for_random_probabilities() -> None:
    """For random probabilities the best threshold seems to help; one chosen on other parts shows that it does not."""
    rng = np.random.default_rng(0)
    parts = []
    for _ in range(5):
        target = rng.random(200) < 0.02
        parts.append(metrics.histograms(rng.random(200).astype(np.float32), target))
    hist = np.stack(parts)
    thresholds, counts = metrics.cross_fitted_counts(hist)
    assert metrics.dice(*counts) < metrics.best_threshold(hist.sum(0))[1]
    changed = hist.copy()
    changed[2] = hist[2][:, ::-1]  # the threshold of a part does not depend on the part
    assert metrics.cross_fitted_counts(changed)[0][2] == thresholds[2]
    assert metrics.counts_at(hist[0], 0.5)[0] + metrics.counts_at(hist[0], 0.5)[2] == hist[0][1].sum()


def test_curve_and_cross_entropy_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    target = rng.random(4000) < 0.2
    probability = 1 / (1 + np.exp(-(rng.normal(size=4000) + 3 * target - 2)))
    hist = metrics.histograms(probability, target)
    assert metrics.cross_entropy(hist) == pytest.approx(log_loss(target, probability), abs=1e-3)
    thresholds = np.array([0.0, 0.1, 0.5, 0.9, 1.0])
    curve = metrics.curve(hist, thresholds)
    for k, threshold in enumerate(thresholds):
        predicted = probability >= threshold
        assert curve.precision[k] == pytest.approx(precision_score(target, predicted, zero_division=1.0), abs=1e-2)
        assert curve.recall[k] == pytest.approx(recall_score(target, predicted), abs=1e-2)
    assert (curve.tp + curve.fp + curve.tn + curve.fn == 4000).all()
