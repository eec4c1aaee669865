"""A small convolution from the frame of a detector's masks onto the grid of the labels, learned from labelled records.

It takes the place of resampling by the fixed shift between the two, and of averages over symmetries as well, which are
taken before. The label of a pixel is estimated as the weighted sum of the probabilities around it, plus a bias. The
weights are those of least squares with a penalty on what departs from bilinear resampling by the fixed shift. Least
squares need only sums over pixels, which add up over batches, folds and processes, and have a single solution.
"""

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from contrail_train.inference.detector import Detect, Prediction, Shift
from contrail_train.runs.calibration import LabelGrid

RADIUS = 2
"""Pixels on each side of the centre of the convolution."""
SIDE = 2 * RADIUS + 1
PENALTY = 1000.0
"""Weight of a squared departure from the start, in units of the squared error of a pixel."""
Moments = npt.NDArray[np.float64]
"""Sums over pixels of the products of all inputs (the probabilities around the pixel, row by row, and 1) with one
another and, in the last column, with the label: (inputs, inputs + 1)."""
NO_MOMENTS = (SIDE * SIDE + 1, SIDE * SIDE + 2)
"""Shape of the moments."""


def to_learned_grid(probability_bhw: Tensor, grid: LabelGrid) -> Tensor:
    """Map probabilities onto the grid of the labels.

    Args:
        probability_bhw: Probabilities (b, h, w) in the frame of the detector's masks.
        grid: The learned map.

    Returns:
        Probabilities of the same shape, in [0, 1].
    """
    around = _around(probability_bhw, (grid["shift"][0], grid["shift"][1]))
    weights = [weight for row in grid["kernel"] for weight in row]
    total_bhw = torch.full_like(probability_bhw, grid["bias"])
    for p_bhw, weight in zip(around, weights, strict=True):  # a convolution may run in TF32
        total_bhw = total_bhw + weight * p_bhw
    return total_bhw.clamp(0, 1)


def on_learned_grid(detect: Detect, grid: LabelGrid) -> Detect:
    """Map a detector's probabilities onto the grid of the labels.

    Args:
        detect: A detector of masks.
        grid: The learned map.

    Returns:
        A detector that answers on the label grid.
    """

    def _mapped(window_btchw: Tensor, valid_bhw: Tensor | None = None) -> Prediction:
        prediction = detect(window_btchw, valid_bhw)
        return prediction._replace(probability_bhw=to_learned_grid(prediction.probability_bhw, grid))

    return _mapped


def moments(
    probability_hw: Tensor, shift: Shift, target_hw: npt.NDArray[np.bool_], valid_hw: npt.NDArray[np.bool_]
) -> Moments:
    """Sum over the pixels of a record what least squares need.

    Args:
        probability_hw: Probabilities in the frame of the detector's masks.
        shift: Offset of the label grid from that frame.
        target_hw: Label.
        valid_hw: Where there are pixels; the others do not count.

    Returns:
        The moments.
    """
    around = [p_1hw[0].cpu().numpy()[valid_hw] for p_1hw in _around(probability_hw[None], shift)]
    inputs_in = np.stack([*around, np.ones_like(around[0])]).astype(np.float64)
    return np.concatenate([inputs_in @ inputs_in.T, inputs_in @ target_hw[valid_hw, np.newaxis]], axis=1)


def solve(summed: Moments, shift: Shift, fixed_threshold: float) -> LabelGrid:
    """Find the map with the least squared error and penalty.

    Args:
        summed: Moments, summed over records; all 0 gives the fixed shift.
        shift: Offset of the label grid from the frame of the detector's masks.
        fixed_threshold: Threshold of masks that are resampled by the fixed shift.

    Returns:
        The map.
    """
    start = np.append(_bilinear(shift), 0.0)
    penalised = summed[:, :-1] + PENALTY * np.eye(len(start))
    *kernel, bias = np.linalg.solve(penalised, summed[:, -1] + PENALTY * start)
    return {
        "shift": list(shift),
        "kernel": np.reshape(kernel, (SIDE, SIDE)).tolist(),
        "bias": float(bias),
        "fixed_threshold": fixed_threshold,
    }


def centre_of_mass(grid: LabelGrid) -> Shift:
    """Return the shift that a map amounts to: where its weights have their centre.

    Args:
        grid: The map.

    Returns:
        (down, right) offset of the label grid from the frame of the detector's masks, pixels.
    """
    kernel = np.array(grid["kernel"])
    offset = RADIUS - np.arange(SIDE)
    down, right = (float(kernel.sum(axis) @ offset / kernel.sum()) for axis in (1, 0))
    return math.floor(grid["shift"][0]) + down, math.floor(grid["shift"][1]) + right


def _around(probability_bhw: Tensor, shift: Shift) -> list[Tensor]:
    """The probabilities (b, h, w) at each place of the convolution, moved by whole pixels; the border is repeated."""
    down, right = math.floor(shift[0]), math.floor(shift[1])
    reach = RADIUS + max(abs(down), abs(right))
    padded_bhw = functional.pad(probability_bhw[:, None], [reach] * 4, mode="replicate")[:, 0]
    height, width = probability_bhw.shape[1:]
    offsets = range(reach - RADIUS, reach + RADIUS + 1)
    return [
        padded_bhw[:, y - down : y - down + height, x - right : x - right + width] for y in offsets for x in offsets
    ]


def _bilinear(shift: Shift) -> npt.NDArray[np.float64]:
    """The weights, row by row, that resample by the fraction of a shift."""
    weights = np.zeros((2, SIDE))
    for axis, pixels in enumerate(shift):
        part = pixels - math.floor(pixels)
        weights[axis, RADIUS - 1 : RADIUS + 1] = part, 1 - part
    return np.outer(*weights).ravel()
