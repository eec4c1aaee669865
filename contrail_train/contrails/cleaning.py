"""From contrail probability to a mask: a threshold, followed by optional clean-up steps."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from contrail_data.errors import ContrailError, UsageError

Mask = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.int32]
EIGHT_CONNECTED = np.ones((3, 3), bool)
"""Structuring element by which pixels that touch at a corner belong to one region."""


@dataclass(frozen=True)
class Cleaning:
    """Clean-up steps in the order in which they are applied; all but the threshold are off by default."""

    threshold: float
    low: float | None = None
    """Hysteresis: a region above the threshold grows to all connected pixels of at least this probability."""
    fill: float | None = None
    """Requires `reach`: a pixel of at least this probability is added to the mask if the times before and after both
    have a contrail within reach of it."""
    min_pixels: int = 1
    """Regions of fewer pixels are removed."""
    elongation: float | None = None
    """Regions are removed whose ratio of length to width, from their second moments, is smaller than this."""
    reach: int | None = None
    """Regions are removed unless the time before or after has a contrail within this many rows and columns. The first
    and last time have only one neighbour, and times without valid pixels do not count. Without neighbours all regions
    are kept."""

    @property
    def steps(self) -> dict[str, float]:
        """The steps that are on, by name."""
        off = vars(Cleaning(self.threshold))
        return {name: value for name, value in vars(self).items() if value is not None and value != off[name]}

    @property
    def neighbours(self) -> int:
        """Number of times before and after on which the mask of a time depends."""
        return 0 if self.reach is None else 1 if self.fill is None else 2

    def check(self, times: int | None = None) -> None:
        """Check that the settings do not contradict each other, and that each has an effect.

        Args:
            times: Number of times that are cleaned together; None if it is not known yet.

        Raises:
            UsageError: If they do, or one has none.
        """
        for name, lower in (("--hysteresis", self.low), ("--fill-gaps", self.fill)):
            if lower is not None and lower > self.threshold:
                raise UsageError(f"{name}: {lower:g} is above the threshold {self.threshold:.4g}; lower it")
        if self.fill is not None and self.reach is None:
            raise UsageError("--fill-gaps: has no effect without --consistent; state how far contrails move")
        if self.reach is not None and self.reach < 0:
            raise UsageError(f"--consistent: {self.reach} is negative; give a number of pixels, 0 or more")
        if self.elongation is not None and self.elongation < 1:
            raise UsageError(f"--elongation: {self.elongation:g} is below 1, the least possible; give 1 or more")
        if times is not None and times <= self.neighbours:
            option = "--consistent" if times == 1 else "--fill-gaps"
            raise UsageError(f"{option}: has no effect on {times} time{'s' * (times > 1)}; omit it, or select more")


def clean(probability_tyx: npt.NDArray[np.float32], valid_tyx: Mask, cleaning: Cleaning) -> Mask:
    """Turn probabilities into a mask.

    Args:
        probability_tyx: Probabilities in [0, 1], shape (time, y, x), of any value where not valid, also NaN.
        valid_tyx: Where the probability is meaningful, same shape.
        cleaning: Threshold and clean-up steps.

    Returns:
        Mask of the same shape; False wherever the probability is not valid.

    Raises:
        ContrailError: If the settings contradict each other or the shapes differ.
    """
    cleaning.check()
    if probability_tyx.ndim != 3 or probability_tyx.shape != valid_tyx.shape:
        shapes = f"probability {probability_tyx.shape}, validity {valid_tyx.shape}"
        raise ContrailError(f"{shapes}: differ or are not (time, y, x); give both on one grid")
    masks = np.empty(probability_tyx.shape, bool)
    for t, (p_yx, valid_yx) in enumerate(zip(probability_tyx, valid_tyx, strict=True)):
        masks[t] = _threshold(p_yx, valid_yx, cleaning)
    if cleaning.fill is not None and cleaning.reach is not None and len(masks) > 2:
        near = [_dilate(mask, cleaning.reach) for mask in masks]  # of unfilled masks: gaps do not fill gaps
        for t in range(1, len(masks) - 1):
            masks[t] |= near[t - 1] & near[t + 1] & (probability_tyx[t] >= cleaning.fill) & valid_tyx[t]
    for mask in masks:
        mask[:] = _remove_misshapen(mask, cleaning)
    if cleaning.reach is not None and len(masks) > 1:
        near = [_dilate(mask, cleaning.reach) for mask in masks]
        for t, mask in enumerate(masks):
            neighbours = [near[n] for n in (t - 1, t + 1) if 0 <= n < len(near) and valid_tyx[n].any()]
            if neighbours:
                mask[:] = _regions_touching(mask, np.logical_or.reduce(neighbours))
    return masks


def counts_by_size(mask: Mask, target: Mask, sizes: Sequence[int]) -> npt.NDArray[np.int64]:
    """Count pixels of a mask without its regions of fewer pixels, for several sizes at once.

    Args:
        mask: Predicted mask (y, x).
        target: True mask (y, x).
        sizes: The sizes, as in `Cleaning.min_pixels`.

    Returns:
        tp, fp and fn for each size, int64 (sizes, 3).
    """
    labels, count = ndimage.label(mask, EIGHT_CONNECTED)
    pixels, hits = (np.bincount(labels[chosen], minlength=count + 1)[1:] for chosen in (mask, mask & target))
    kept = pixels >= np.asarray(sizes)[:, np.newaxis]
    tp = kept @ hits
    return np.stack([tp, kept @ pixels - tp, np.count_nonzero(target) - tp], axis=-1)


def elongations(labels: Labels, count: int) -> npt.NDArray[np.float64]:
    """Measure the elongation of each region as the side ratio of the rectangle with the same second moments.

    A pixel counts as a square, so a line of one pixel's width has a finite elongation.

    Args:
        labels: Region numbers (y, x) as of `scipy.ndimage.label`; 0 is background.
        count: Number of regions.

    Returns:
        Length over width of the regions 1 to `count`, float64 (count).
    """
    y, x = np.divmod(np.flatnonzero(labels > 0), labels.shape[1])
    region = labels[y, x] - 1
    size = np.bincount(region, minlength=count).astype(np.float64)

    def _mean(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(np.bincount(region, values, count) / size)

    dy, dx = y - _mean(y.astype(float))[region], x - _mean(x.astype(float))[region]
    yy, xx, xy = _mean(dy**2) + 1 / 12, _mean(dx**2) + 1 / 12, _mean(dx * dy)
    middle, half = (yy + xx) / 2, np.hypot((yy - xx) / 2, xy)
    return np.asarray(np.sqrt((middle + half) / np.maximum(middle - half, 1 / 12)))


def _threshold(p_yx: npt.NDArray[np.float32], valid_yx: Mask, cleaning: Cleaning) -> Mask:
    above = (p_yx >= cleaning.threshold) & valid_yx
    return above if cleaning.low is None else _regions_touching((p_yx >= cleaning.low) & valid_yx, above)


def _remove_misshapen(mask: Mask, cleaning: Cleaning) -> Mask:
    """Remove regions that are too small or not elongated enough."""
    if cleaning.min_pixels <= 1 and cleaning.elongation is None:
        return mask
    labels, count = ndimage.label(mask, EIGHT_CONNECTED)
    kept = np.bincount(labels[mask], minlength=count + 1)[1:] >= cleaning.min_pixels
    if cleaning.elongation is not None:
        kept &= elongations(labels, count) >= cleaning.elongation
    return _regions(labels, count, 1 + np.flatnonzero(kept))


def _dilate(mask: Mask, reach: int) -> Mask:
    """The pixels within `reach` rows and columns of the mask."""
    if reach == 0 or not mask.any():
        return mask.copy()
    return np.asarray(ndimage.maximum_filter(mask.view(np.uint8), 2 * reach + 1, mode="constant").view(bool))


def _regions_touching(mask: Mask, other: Mask) -> Mask:
    """The regions of `mask` that share a pixel with `other`."""
    labels, count = ndimage.label(mask, EIGHT_CONNECTED)
    return _regions(labels, count, np.unique(labels[other]))


def _regions(labels: Labels, count: int, numbers: npt.NDArray[np.integer]) -> Mask:
    """The mask of the regions of the given numbers; the background, 0, is never among them."""
    kept = np.zeros(count + 1, bool)
    kept[numbers] = True
    kept[0] = False
    return np.asarray(kept[labels])
