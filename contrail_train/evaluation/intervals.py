"""Confidence intervals of global Dice and of differences, by the jackknife over groups of records.

A few groups hold most contrails, which makes the percentile bootstrap too narrow. Here each group is left out once.
Dice is taken on the logit scale, where its distribution is closer to symmetric and no interval leaves (0, 1); a
difference is taken as it is. Student's t has one degree of freedom fewer than the effective number of groups, or than
the number of groups with contrails if that is smaller, and at least one. The effective number is (Σ w)² / Σ w² (Kish
1965; for clusters Carter, Schnepel and Steigerwald 2017, https://doi.org/10.1162/REST_a_00639), with the denominator of
Dice as the weight w of a group, or the sum of both denominators for a difference. The tests simulate how often the
intervals contain the truth.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, stdtrit

from contrail_train.evaluation.metrics import dice

LEVEL = 0.95
"""Coverage of the intervals."""
FEWEST_GROUPS = 6
"""Groups with contrails below which there is no interval."""
NO_INTERVAL = f"no interval: fewer than {FEWEST_GROUPS} groups with contrails, or a Dice of 0 or 1"

Interval = tuple[float, float]
"""Lower and upper end."""


def dice_interval(counts_3n: NDArray[np.int64], groups: ArrayLike) -> Interval | None:
    """Compute the 95 % interval of global Dice.

    Args:
        counts_3n: tp, fp and fn of each record.
        groups: Label (n) of the group of each record, such as (site, day). Records of a group are not independent.

    Returns:
        The interval. None with fewer than `FEWEST_GROUPS` groups with contrails; and where Dice is 0 or 1, which says
        nothing of its spread.
    """
    counts_3g = _sum_by_group(counts_3n, groups)
    tp, fp, fn = counts_3g.sum(1)
    if has_too_few_groups(counts_3n, groups) or tp == 0 or fp + fn == 0:
        return None
    low, high = dice_bounds(counts_3g)
    return float(low), float(high)


def difference_interval(counts_a: NDArray[np.int64], counts_b: NDArray[np.int64], groups: ArrayLike) -> Interval | None:
    """Compute the 95 % interval of the Dice of B minus that of A, both on the same records.

    Args:
        counts_a: tp, fp and fn of each record, int (3, n).
        counts_b: Likewise, of the same records.
        groups: As in `dice_interval`.

    Returns:
        The interval. None with fewer than `FEWEST_GROUPS` groups with contrails; and where neither finds any of them.
    """
    if has_too_few_groups(counts_a, groups) or counts_a[0].sum() + counts_b[0].sum() == 0:
        return None
    low, high = difference_bounds(_sum_by_group(counts_a, groups), _sum_by_group(counts_b, groups))
    return float(low), float(high)


def difference_text(
    counts_a: NDArray[np.int64], counts_b: NDArray[np.int64], groups: ArrayLike, digits: int = 3
) -> str:
    """Format the Dice of B minus that of A with its interval.

    Args:
        counts_a: As in `difference_interval`.
        counts_b: Likewise.
        groups: Likewise.
        digits: Decimal places.

    Returns:
        Such as `+0.012 (-0.003 to +0.027)`.
    """
    difference = float(dice(*counts_b.sum(1)) - dice(*counts_a.sum(1)))
    interval = difference_interval(counts_a, counts_b, groups)
    bounds = NO_INTERVAL if interval is None else " to ".join(f"{end:+.{digits}f}" for end in interval)
    return f"{difference:+.{digits}f} ({bounds})"


def has_too_few_groups(counts_3n: NDArray[np.int64], groups: ArrayLike) -> bool:
    """Say whether fewer than `FEWEST_GROUPS` groups have contrails.

    Args:
        counts_3n: tp, fp and fn of each record.
        groups: Label (n) of the group of each record.

    Returns:
        True if there is no interval for this reason.
    """
    return len(np.unique(np.asarray(groups)[counts_3n[0] + counts_3n[2] > 0])) < FEWEST_GROUPS


def dice_bounds(counts_3xg: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the 95 % intervals of the global Dice of data sets.

    Args:
        counts_3xg: tp, fp and fn, summed over the records of each group; any number of axes x of data sets.

    Returns:
        Lower and upper ends (x).
    """
    total_3x = counts_3xg.sum(-1)
    middle_x = _logit_of_dice(total_3x)
    half_x = _half_width(_logit_of_dice(total_3x[..., None] - counts_3xg), counts_3xg)
    return expit(middle_x - half_x), expit(middle_x + half_x)


def difference_bounds(
    a_3xg: NDArray[np.float64], b_3xg: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the 95 % intervals of the Dice of B minus that of A.

    Args:
        a_3xg: As in `dice_bounds`.
        b_3xg: Likewise, of the same groups.

    Returns:
        Lower and upper ends (x).
    """
    total_a, total_b = a_3xg.sum(-1), b_3xg.sum(-1)
    middle_x = dice(*total_b) - dice(*total_a)
    without_xg = dice(*(total_b[..., None] - b_3xg)) - dice(*(total_a[..., None] - a_3xg))
    half_x = _half_width(without_xg, a_3xg + b_3xg)
    return np.maximum(middle_x - half_x, -1), np.minimum(middle_x + half_x, 1)


def _sum_by_group(counts_3n: NDArray[np.int64], groups: ArrayLike) -> NDArray[np.float64]:
    """(3, group), of which float64 holds every count exactly."""
    group = np.unique(np.asarray(groups), return_inverse=True)[1]
    return np.stack([np.bincount(group, weights=counts_n) for counts_n in counts_3n])


def _logit_of_dice(counts_3x: NDArray[np.float64]) -> NDArray[np.float64]:
    """log(2 tp / (fp + fn)), with one pixel added to both so that a group may hold all hits, or all errors."""
    tp, fp, fn = counts_3x
    return np.log((2 * tp + 1) / (fp + fn + 1))


def _half_width(without_xg: NDArray[np.float64], counts_3xg: NDArray[np.float64]) -> NDArray[np.float64]:
    """Half of the interval (x), from the estimates without each group and from the groups' counts."""
    tp, fp, fn = counts_3xg
    size, weight_xg = without_xg.shape[-1], 2 * tp + fp + fn
    variance_x = (size - 1) / size * np.square(without_xg - without_xg.mean(-1, keepdims=True)).sum(-1)
    effective_x = np.square(weight_xg.sum(-1)) / np.square(weight_xg).sum(-1)
    with_contrails_x = (tp + fn > 0).sum(-1)
    freedom_x = np.maximum(np.minimum(effective_x, with_contrails_x) - 1, 1)
    return stdtrit(freedom_x, (1 + LEVEL) / 2) * np.sqrt(variance_x)
