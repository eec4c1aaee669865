"""Intervals of Dice and of differences contain the truth as often as they claim."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import expit

from contrail_train.evaluation import intervals
from contrail_train.evaluation.metrics import dice

REPEATS = 4000
Counts = npt.NDArray[np.float64]


def draw_counts(rng: np.random.Generator, repeats: int, groups: int, heavy: bool) -> tuple[Counts, Counts]:
    """Draw tp, fp and fn (3, repeats, group) of two related models; every other group has no contrails.

    The amount of contrails, the share that is detected and the false pixels vary from group to group.
    """
    shape, spread = (repeats, groups), 1.5 if heavy else 1.0
    contrail = np.rint(rng.lognormal(5, spread, shape)) * (np.arange(groups) % 2)
    difficulty = rng.normal(0, 0.9 if heavy else 0.6, shape)
    models = []
    for advantage in (0.0, 0.1):
        tp = np.rint(contrail * expit(difficulty + advantage + rng.normal(0, 0.3, shape)))
        near = contrail * rng.lognormal(-1, 0.7, shape)
        elsewhere = rng.lognormal(2, spread, shape) * (rng.random(shape) < 0.6)
        models.append(np.stack([tp, np.rint(near + elsewhere), contrail - tp]))
    return models[0], models[1]


@pytest.mark.parametrize("heavy", [False, True], ids=["light", "heavy-tailed"])
@pytest.mark.parametrize("with_contrails", [6, 8, 12, 20, 50])
def test_95_of_100_intervals_contain_the_truth(with_contrails: int, heavy: bool) -> None:
    rng = np.random.default_rng(with_contrails)
    true_a, true_b = (float(dice(*c.sum((1, 2)))) for c in draw_counts(rng, 1, 400_000, heavy))
    a, b = draw_counts(rng, REPEATS, 2 * with_contrails, heavy)
    for (low, high), truth in (
        (intervals.dice_bounds(a), true_a),
        (intervals.difference_bounds(a, b), true_b - true_a),
    ):
        assert 0.92 <= ((low <= truth) & (truth <= high)).mean() <= 0.985


def test_records_of_a_group_count_once() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 100, (3, 20))
    groups = np.arange(20)
    once = intervals.dice_interval(counts, groups)
    split = np.concatenate([counts // 2, counts - counts // 2], axis=1)
    assert intervals.dice_interval(split, np.tile(groups, 2)) == once
    assert intervals.dice_interval(split, np.arange(40)) != once


def test_an_interval_needs_six_groups_with_contrails() -> None:
    counts = np.array([[5] * 6 + [0] * 9, [2] * 15, [1, 2, 3, 4, 5, 6] + [0] * 9])
    few = counts.copy()
    few[:, 5] = 0, 2, 0
    groups = np.arange(15)
    assert intervals.dice_interval(counts, groups) is not None
    assert intervals.difference_interval(counts, counts, groups) == (0.0, 0.0)
    assert intervals.has_too_few_groups(few, groups)
    assert intervals.dice_interval(few, groups) is None
    assert intervals.difference_interval(few, few, groups) is None
    assert intervals.dice_interval(counts[:, :0], groups[:0]) is None


def test_a_difference_without_an_interval_says_why() -> None:
    a, b = np.array([[5] * 6, [2] * 6, [1] * 6]), np.array([[6] * 6, [2] * 6, [0] * 6])
    assert intervals.difference_text(a, b, np.arange(6)) == "+0.088 (+0.088 to +0.088)"
    text = intervals.difference_text(a, b, np.zeros(6), digits=2)
    assert text == f"+0.09 ({intervals.NO_INTERVAL})"


@pytest.mark.parametrize(("tp", "errors"), [(0, 3), (3, 0)])
def test_dice_of_0_or_1_has_no_interval(tp: int, errors: int) -> None:
    counts = np.array([[tp] * 8, [errors] * 8, [errors] * 8])
    counts[2] += tp == 0
    assert intervals.dice_interval(counts, np.arange(8)) is None
    assert intervals.difference_interval(counts, counts, np.arange(8)) == ((0.0, 0.0) if tp else None)


def test_all_hits_in_one_group_make_a_wide_interval() -> None:
    counts = np.array([[300] + [0] * 7, [10] * 8, [10] * 8])
    low, high = intervals.dice_interval(counts, np.arange(8)) or (0, 0)
    assert low < 0.01 < 0.99 < high


def test_the_interval_of_a_difference_is_paired() -> None:
    rng = np.random.default_rng(0)
    a, _ = draw_counts(rng, 1, 40, heavy=False)
    b = np.stack([a[0], 0.5 * a[1], a[2]])
    groups = np.arange(40)
    low, high = intervals.difference_interval(a[:, 0], b[:, 0], groups) or (0, 0)
    assert 0 < low < high
    assert high - low < np.diff(intervals.dice_interval(a[:, 0], groups) or (0, 0))[0]


@pytest.mark.parametrize("worst", [-1, 1])
def test_a_difference_stays_within_1(worst: int) -> None:
    hits, misses = np.array([[9] * 8, [0] * 8, [0] * 8]), np.array([[0] * 8, [0] * 8, [9] * 8])
    misses[:, 0] = 9, 0, 0
    pair = (hits, misses) if worst < 0 else (misses, hits)
    low, high = intervals.difference_interval(*pair, np.arange(8)) or (0, 0)
    assert -1 <= low <= high <= 1
    assert (low if worst < 0 else high) == worst
