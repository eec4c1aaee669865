"""Rounding of probabilities in files, which leaves the mask and the probability in agreement."""

import math

import numpy as np
import numpy.typing as npt


def codes(values: npt.NDArray[np.float32], threshold: float, step: float) -> npt.NDArray[np.float32]:
    """Round to multiples of a step, but never across the threshold, also when read as float32; NaN stays NaN.

    Args:
        values: Probabilities.
        threshold: Threshold of the mask.
        step: The step.

    Returns:
        How many steps each value is.
    """
    first = math.ceil(threshold / step)
    if np.float32(first * step) < threshold:
        first += 1
    rounded = np.rint(values / np.float32(step))
    return np.where(values >= np.float32(threshold), np.maximum(rounded, first), np.minimum(rounded, first - 1))
