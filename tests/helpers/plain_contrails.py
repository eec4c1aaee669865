"""Steps of the separation of contrails in numpy and scipy, without compiled loops."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

EIGHT = np.ones((3, 3))


def forks_of(skeleton: np.ndarray) -> np.ndarray:
    return skeleton & (ndimage.convolve(skeleton.astype(np.uint8), EIGHT.astype(np.uint8), mode="constant") > 3)


def spurs_of(skeleton: np.ndarray, forks: np.ndarray, radius: np.ndarray) -> np.ndarray:
    labels, _ = ndimage.label(skeleton & ~forks, EIGHT)
    joints, _ = ndimage.label(forks, EIGHT)
    touched = ndimage.maximum_filter(joints, 3)
    disc = ndimage.maximum(radius, joints, range(joints.max() + 1))
    shortest: dict[int, tuple[float, int]] = {}
    for number in range(1, labels.max() + 1):
        inside = labels == number
        beside = set(touched[inside].tolist()) - {0}
        if len(beside) != 1 or np.count_nonzero(touched[inside]) > 1 + inside.sum() // 2 > 2:
            continue
        y, x = np.nonzero(inside)
        length = float(np.hypot(np.ptp(y), np.ptp(x)) + 1)
        (fork,) = beside
        if length < disc[fork] + 3 and (fork not in shortest or length < shortest[fork][0]):
            shortest[fork] = (length, number)
    return np.isin(labels, [number for _, number in shortest.values()]) & (labels > 0)
