"""Predicted contrails against labelled ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from sklearn.metrics import average_precision_score

from contrail_train.contrails.instances import Instances, measured
from contrail_train.evaluation.instance_scores import average_precision, join, match, score, tolerant_iou

LABELS = arrays(np.int32, (14, 15), elements=st.sampled_from([0, 0, 0, 1, 2, 3]))


def contrails(*rows: tuple[int, int, int], confidence: float = 0.8) -> Instances:
    """Draw horizontal contrails of three rows: first row, first column, length."""
    labels = np.zeros((80, 100), np.int32)
    for number, (top, left, length) in enumerate(rows, 1):
        labels[top : top + 3, left : left + length] = number
    return measured(labels, np.full(labels.shape, confidence))


@given(predicted=LABELS, labelled=LABELS)
def test_without_tolerance_the_overlap_is_the_usual_intersection_over_union(predicted, labelled) -> None:
    iou = tolerant_iou(predicted, labelled, 0)
    for p in range(1, predicted.max(initial=0) + 1):
        for t in range(1, labelled.max(initial=0) + 1):
            a, b = predicted == p, labelled == t
            assert iou[p - 1, t - 1] == pytest.approx((a & b).sum() / max((a | b).sum(), 1))


@given(predicted=LABELS, labelled=LABELS, tolerance=st.integers(0, 3))
def test_tolerance_never_lowers_the_overlap_and_is_the_same_both_ways(predicted, labelled, tolerance) -> None:
    iou = tolerant_iou(predicted, labelled, tolerance)
    np.testing.assert_allclose(iou, tolerant_iou(labelled, predicted, tolerance).T)
    assert (tolerant_iou(predicted, labelled, tolerance + 1) >= iou - 1e-12).all()
    assert ((iou >= 0) & (iou <= 1)).all()
    square = np.ones((2 * tolerance + 1,) * 2)
    for p in range(1, predicted.max(initial=0) + 1):
        for t in range(1, labelled.max(initial=0) + 1):
            a, b = predicted == p, labelled == t
            beyond = (a & ~ndimage.binary_dilation(b, square)).sum() + (b & ~ndimage.binary_dilation(a, square)).sum()
            shared = (a.sum() + b.sum() - beyond) / 2
            assert iou[p - 1, t - 1] == pytest.approx(shared / max(shared + beyond, 1))


@given(
    confidence=arrays(np.float64, 12, elements=st.sampled_from([0.1, 0.2, 0.5, 0.7, 0.9])),
    is_hit=arrays(np.bool_, 12).filter(np.any),
    missed=st.integers(0, 5),
)
def test_average_precision_is_that_of_scikit_learn_with_missed_contrails_at_the_end(confidence, is_hit, missed) -> None:
    found = is_hit.sum()
    expected = average_precision_score(is_hit, confidence) * found / (found + missed)
    assert average_precision(confidence, is_hit, int(found + missed)) == pytest.approx(expected)


def test_each_contrail_matches_at_most_once_and_only_where_the_overlap_suffices() -> None:
    labelled = contrails((10, 10, 60), (40, 10, 60), (60, 10, 30))
    predicted = contrails((11, 10, 60), (44, 10, 60), (60, 10, 9), (70, 80, 10))
    matched = match(predicted, labelled)
    assert matched.is_hit.tolist() == [True, False, False, False]  # a row, four rows and two thirds of the length off
    assert matched.is_found.tolist() == [True, False, False]
    assert match(predicted, labelled, tolerance=4).is_found.tolist() == [True, True, False]
    halves = match(contrails((10, 10, 40), (10, 50, 20)), labelled)
    assert halves.is_hit.tolist() == [True, False]


def test_scores_are_by_length_and_count_what_is_missing() -> None:
    labelled = contrails((10, 10, 60), (40, 10, 30), (60, 10, 15))
    found = match(contrails((10, 10, 60), (60, 10, 15), (70, 60, 15)), labelled)
    nothing = match(contrails(), contrails((10, 10, 15)))
    all_, short, medium, long_ = score(join([found, nothing]))
    assert (all_["labelled"], all_["predicted"], all_["precision"], all_["recall"]) == (4, 3, 2 / 3, 0.5)
    assert (short["labelled"], short["predicted"], short["precision"], short["recall"]) == (2, 2, 0.5, 0.5)
    assert (medium["labelled"], medium["predicted"], medium["precision"], medium["recall"]) == (1, 0, None, 0)
    assert (long_["precision"], long_["recall"], long_["average_precision"]) == (1, 1, 1)
    assert medium["average_precision"] == 0
    empty = score(match(contrails(), contrails()))[0]
    assert (empty["labelled"], empty["average_precision"], empty["recall"], empty["precision"]) == (0, None, None, None)
