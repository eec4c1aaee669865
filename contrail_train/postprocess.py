"""From contrail probability to a mask: a threshold, and what cleans up after it, each step a switch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from contrail_data.errors import ContrailError

Mask = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.int32]
Choose = Callable[[Labels, int], npt.NDArray[np.intp]]
EIGHT = np.ones((3, 3), bool)
"""Pixels that touch by a corner are one region."""


@dataclass(frozen=True)
class Cleaning:
    threshold: float
    low: float | None = None
    """Hysteresis: a region over the threshold grows to all connected pixels of at least this probability."""
    min_pixels: int = 1
    """Smaller regions go."""
    elongation: float | None = None
    """Regions go whose length is less than so many widths, both from their second moments."""
    reach: int | None = None
    """Regions go that have none within so many pixels in the time before or after; of the first and last time, which
    have one neighbour, in that. A single time is left alone."""


def clean(probability_tyx: npt.NDArray[np.float32], valid_tyx: Mask, cleaning: Cleaning) -> Mask:
    """Mask (t, y, x) of probabilities (t, y, x) in [0, 1]; nothing where it is not valid.

    Raises ContrailError for a lower threshold above the threshold.
    """
    low = cleaning.threshold if cleaning.low is None else cleaning.low
    if low > cleaning.threshold:
        raise ContrailError(f"hysteresis {low:g} is above the threshold {cleaning.threshold:.4g}: give a lower one")
    masks = np.stack([_one_time(p, v, low, cleaning) for p, v in zip(probability_tyx, valid_tyx, strict=True)])
    if cleaning.reach is None or len(masks) == 1:
        return masks
    near = [ndimage.binary_dilation(mask, EIGHT, iterations=cleaning.reach) if mask.any() else mask for mask in masks]
    kept = np.empty_like(masks)
    for t, mask in enumerate(masks):
        beside = np.logical_or.reduce([near[n] for n in (t - 1, t + 1) if 0 <= n < len(near)])
        kept[t] = _regions_that(mask, partial(_touched, beside))
    return kept


def _one_time(p_yx: npt.NDArray[np.float32], valid_yx: Mask, low: float, cleaning: Cleaning) -> Mask:
    over = (p_yx >= cleaning.threshold) & valid_yx
    mask = over
    if low < cleaning.threshold:
        mask = _regions_that((p_yx >= low) & valid_yx, partial(_touched, over))
    if cleaning.min_pixels > 1:
        mask = _regions_that(
            mask, lambda labels, count: np.flatnonzero(np.bincount(labels.ravel()) >= cleaning.min_pixels)
        )
    if cleaning.elongation is not None:
        limit = cleaning.elongation
        mask = _regions_that(mask, lambda labels, count: 1 + np.flatnonzero(elongations(labels, count) >= limit))
    return mask


def _regions_that(mask: Mask, choose: Choose) -> Mask:
    """The 8-connected regions whose numbers `choose(labels, count)` gives."""
    labels, count = ndimage.label(mask, EIGHT)
    kept = np.zeros(count + 1, bool)
    kept[choose(labels, count)] = True
    kept[0] = False
    return np.asarray(kept[labels])


def _touched(by: Mask, labels: Labels, count: int) -> npt.NDArray[np.intp]:
    return np.unique(labels[by]).astype(np.intp)


def elongations(labels: Labels, count: int) -> npt.NDArray[np.float64]:
    """(count) length over width of the regions 1 .. count: of the rectangle with their second moments. A pixel counts
    as a square, so that a line of one pixel's width has one."""
    y, x = np.nonzero(labels)
    region = labels[y, x] - 1
    size = np.bincount(region, minlength=count).astype(np.float64)

    def mean(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(np.bincount(region, values, count) / size)

    dy, dx = y - mean(y.astype(float))[region], x - mean(x.astype(float))[region]
    yy, xx, xy = mean(dy**2) + 1 / 12, mean(dx**2) + 1 / 12, mean(dx * dy)
    middle, half = (yy + xx) / 2, np.hypot((yy - xx) / 2, xy)
    return np.asarray(np.sqrt((middle + half) / np.maximum(middle - half, 1 / 12)))
