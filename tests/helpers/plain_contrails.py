"""Steps of the separation of contrails in numpy and scipy, without compiled loops."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

EIGHT = np.ones((3, 3))


def half_pixel(direction: np.ndarray) -> float:
    return float(0.5 * np.abs(direction).max() + 0.25 * np.abs(direction).min())


def major_axis(pixels: np.ndarray) -> np.ndarray:
    points = pixels.astype(np.float64)
    centre = points.mean(0)
    _, axes = np.linalg.eigh(np.cov((points - centre).T, bias=True) if len(points) > 1 else np.eye(2))
    direction = axes[:, -1] * np.sign(axes[np.argmax(np.abs(axes[:, -1])), -1])
    along = (points - centre) @ direction
    margin = half_pixel(direction)
    return np.stack([centre + direction * (along.min() - margin), centre + direction * (along.max() + margin)])


def fitted_ends(line: np.ndarray, sight: float) -> np.ndarray:
    ends = []
    for outwards in (line[::-1], line):
        near = outwards[np.hypot(*(outwards - outwards[-1]).T) <= sight]
        centre = near.mean(0)
        _, axes = np.linalg.eigh(np.cov((near - centre).T, bias=True))
        direction = axes[:, -1] * (1 if (outwards[-1] - centre) @ axes[:, -1] >= 0 else -1)
        ends.append([centre + direction * ((outwards[-1] - centre) @ direction), direction])
    return np.array(ends)


def through_means(pixels: np.ndarray, bin_of: np.ndarray, bins: int) -> np.ndarray:
    middles = np.array([pixels[bin_of == number].mean(0) for number in range(bins) if (bin_of == number).any()])
    middles[1:-1] = (middles[:-2] + 2 * middles[1:-1] + middles[2:]) / 4
    edges = []
    for before, last, nearby in (
        (middles[1], middles[0], pixels[bin_of <= 0]),
        (middles[-2], middles[-1], pixels[bin_of >= bins - 1]),
    ):
        direction = (last - before) / np.hypot(*(last - before))
        edges.append(last + direction * (((nearby - last) @ direction).max() + half_pixel(direction)))
    return np.array([edges[0], *middles, edges[1]])


def valleys(p: np.ndarray, inside: np.ndarray) -> np.ndarray:
    smooth = ndimage.gaussian_filter(p, 0.6)
    filled = ndimage.grey_closing(smooth, (5, 5))
    labels, count = ndimage.label(inside & (filled - smooth > 0.15 * filled), EIGHT)
    long = np.bincount(labels.ravel(), minlength=count + 1) >= 4
    long[0] = False
    return long[labels]


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
