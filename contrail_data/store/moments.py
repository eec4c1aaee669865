"""Moments of the channels of a stored sample, which `stats` merges; exact for uint8."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from contrail_data.store.frames import count_levels
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
        return [_moments_of_levels(pixels_l) for pixels_l in count_levels(image_tchw)]
    channels = range(image_tchw.shape[1])
    scale = 1 / 255 if image_tchw.dtype == np.uint8 else 1.0
    pixels = (image_tchw[:, c] if valid_tyx is None else image_tchw[:, c][valid_tyx] for c in channels)
    return [_moments(x.astype(np.float64).reshape(-1) * scale) for x in pixels]


def _moments_of_levels(pixels_l: npt.NDArray[np.int64]) -> Moments:
    """Compute the moments from the number of pixels of each of 256 levels."""
    level = np.arange(256)
    count, total, squares = (int((pixels_l * level**power).sum()) for power in range(3))
    present = np.flatnonzero(pixels_l)
    deviations = (squares * count - total * total) / count  # of integers, so that nothing cancels
    low, high = int(present[0]) / 255, int(present[-1]) / 255
    return [count, total / count / 255, deviations / 255**2, low, high, int(pixels_l[0]), int(pixels_l[255])]


def _moments(x: npt.NDArray[np.float64]) -> Moments:
    mean = math.fsum(x.sum(keepdims=True)) / x.size
    squares = float(np.sum((x - mean) ** 2))
    return [x.size, mean, squares, float(x.min()), float(x.max()), int((x <= 0).sum()), int((x >= 1).sum())]
