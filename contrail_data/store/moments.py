"""Moments of the channels of a stored sample, which `stats` merges; exact for uint8."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from contrail_data.store.frames import sum_levels
from contrail_data.store.stats import Moments


def moments(image_tchw: npt.NDArray[Any], valid_tyx: npt.NDArray[np.bool_] | None = None) -> list[Moments]:
    """Compute the moments of each channel of one stored sample.

    Args:
        image_tchw: Image (time, channel, y, x) as stored. uint8 counts as value / 255.
        valid_tyx: Which pixels to include. None: all.

    Returns:
        Moments by channel, in units of [0, 1].
    """
    if image_tchw.dtype == np.uint8 and valid_tyx is None:
        pixels = image_tchw[:, 0].size
        return [_moments_of_levels(sums, pixels) for sums in sum_levels(image_tchw)]
    channels = range(image_tchw.shape[1])
    scale = 1 / 255 if image_tchw.dtype == np.uint8 else 1.0
    values = (image_tchw[:, c] if valid_tyx is None else image_tchw[:, c][valid_tyx] for c in channels)
    return [_moments(x.astype(np.float64).reshape(-1) * scale) for x in values]


def _moments_of_levels(sums: npt.NDArray[np.int64], count: int) -> Moments:
    """Compute the moments of a channel from the sums of its levels, see `sum_levels`."""
    total, squares, lowest, highest, at_low, at_high = (int(value) for value in sums)
    deviations = (squares * count - total * total) / count  # of integers, so that nothing cancels
    return [count, total / count / 255, deviations / 255**2, lowest / 255, highest / 255, at_low, at_high]


def _moments(x: npt.NDArray[np.float64]) -> Moments:
    mean = math.fsum(x.sum(keepdims=True)) / x.size
    squares = float(np.sum((x - mean) ** 2))
    return [x.size, mean, squares, float(x.min()), float(x.max()), int((x <= 0).sum()), int((x >= 1).sum())]
