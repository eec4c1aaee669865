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
    """Steps in the order in which they are taken; all but the threshold are off by default."""

    threshold: float
    low: float | None = None
    """Hysteresis: a region over the threshold grows to all connected pixels of at least this probability."""
    fill: float | None = None
    """With `reach`: pixels of at least this probability are filled in where the times before and after both have a
    contrail within reach."""
    min_pixels: int = 1
    """Smaller regions go."""
    elongation: float | None = None
    """Regions go whose length is less than so many widths, both from their second moments."""
    reach: int | None = None
    """Regions go that have none within so many pixels (the larger of rows and columns) in the time before or after; of
    the first and last time, which have one neighbour, in that. A single time is left alone."""

    def check(self) -> None:
        """Raises ContrailError for settings that contradict each other."""
        for name, lower in (("hysteresis", self.low), ("filling of gaps", self.fill)):
            if lower is not None and lower > self.threshold:
                raise ContrailError(
                    f"{name} {lower:g} is above the threshold {self.threshold:.4g}: give a lower one, or none"
                )
        if self.fill is not None and self.reach is None:
            raise ContrailError(f"filling of gaps {self.fill:g} has no reach: say how far contrails move between times")
        if self.reach is not None and self.reach < 0:
            raise ContrailError(f"reach {self.reach} is negative: give pixels, 0 or more")
        if self.elongation is not None and self.elongation < 1:
            raise ContrailError(f"elongation {self.elongation:g} is below 1, which nothing is: give 1 or more")


def clean(probability_tyx: npt.NDArray[np.float32], valid_tyx: Mask, cleaning: Cleaning) -> Mask:
    """Mask (t, y, x) of probabilities (t, y, x) in [0, 1]; nothing where it is not valid.

    Raises ContrailError for settings that contradict each other, and for validity of another shape.
    """
    cleaning.check()
    if probability_tyx.ndim != 3 or probability_tyx.shape != valid_tyx.shape:
        raise ContrailError(
            f"probability {probability_tyx.shape} and validity {valid_tyx.shape} differ or are not (time, y, x): give "
            "both on one grid"
        )
    masks = np.empty(probability_tyx.shape, bool)
    for t, (p, valid) in enumerate(zip(probability_tyx, valid_tyx, strict=True)):
        masks[t] = _over(p, valid, cleaning)
    if cleaning.fill is not None and cleaning.reach is not None and len(masks) > 2:
        near = [_dilated(mask, cleaning.reach) for mask in masks]  # before any is filled: gaps do not fill gaps
        for t in range(1, len(masks) - 1):
            masks[t] |= near[t - 1] & near[t + 1] & (probability_tyx[t] >= cleaning.fill) & valid_tyx[t]
    for mask in masks:
        mask[:] = _shaped(mask, cleaning)
    if cleaning.reach is not None and len(masks) > 1:
        near = [_dilated(mask, cleaning.reach) for mask in masks]
        for t, mask in enumerate(masks):
            beside = np.logical_or.reduce([near[n] for n in (t - 1, t + 1) if 0 <= n < len(near)])
            mask[:] = _regions_that(mask, partial(_touched, beside))
    return masks


def _over(p_yx: npt.NDArray[np.float32], valid_yx: Mask, cleaning: Cleaning) -> Mask:
    over = (p_yx >= cleaning.threshold) & valid_yx
    if cleaning.low is None:
        return over
    return _regions_that((p_yx >= cleaning.low) & valid_yx, partial(_touched, over))


def _shaped(mask: Mask, cleaning: Cleaning) -> Mask:
    """Without regions that are too small or not long and thin."""
    if cleaning.min_pixels > 1:
        mask = _regions_that(mask, lambda labels, count: np.flatnonzero(_sizes(labels, count) >= cleaning.min_pixels))
    if cleaning.elongation is not None:
        limit = cleaning.elongation
        mask = _regions_that(mask, lambda labels, count: 1 + np.flatnonzero(elongations(labels, count) >= limit))
    return mask


def _dilated(mask: Mask, reach: int) -> Mask:
    """Within `reach` rows and columns of the mask."""
    size = 2 * reach + 1  # a square, so one axis after the other; binary_dilation would take 0 as without end
    if reach == 0 or not mask.any():
        return mask.copy()
    rows = ndimage.maximum_filter1d(mask.view(np.uint8), size, axis=0, mode="constant")
    return np.asarray(ndimage.maximum_filter1d(rows, size, axis=1, mode="constant").view(bool))


def _regions_that(mask: Mask, choose: Choose) -> Mask:
    """The 8-connected regions whose numbers `choose(labels, count)` gives."""
    labels, count = ndimage.label(mask, EIGHT)
    kept = np.zeros(count + 1, bool)
    kept[choose(labels, count)] = True
    kept[0] = False
    return np.asarray(kept[labels])


def _touched(by: Mask, labels: Labels, count: int) -> npt.NDArray[np.intp]:
    return np.unique(labels[by]).astype(np.intp)


def _sizes(labels: Labels, count: int) -> npt.NDArray[np.intp]:
    """(count + 1) pixels of each region; the background counts as none, and is not copied on a full disk."""
    return np.bincount(labels[labels > 0], minlength=count + 1)


def elongations(labels: Labels, count: int) -> npt.NDArray[np.float64]:
    """(count) length over width of the regions 1 .. count: of the rectangle with their second moments. A pixel counts
    as a square, so that a line of one pixel's width has one.
    """
    y, x = np.nonzero(labels)
    region = labels[y, x] - 1
    size = np.bincount(region, minlength=count).astype(np.float64)

    def mean(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(np.bincount(region, values, count) / size)

    dy, dx = y - mean(y.astype(float))[region], x - mean(x.astype(float))[region]
    yy, xx, xy = mean(dy**2) + 1 / 12, mean(dx**2) + 1 / 12, mean(dx * dy)
    middle, half = (yy + xx) / 2, np.hypot((yy - xx) / 2, xy)
    return np.asarray(np.sqrt((middle + half) / np.maximum(middle - half, 1 / 12)))
