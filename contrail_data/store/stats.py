"""Statistics per channel: streaming, exact for uint8, independent of order and of how the work was split.

Each sample contributes its count, mean and sum of squared deviations. They are merged with exactly rounded sums
(`math.fsum`), so that neither the order of chunks nor the number of workers changes the result (Chan, Golub and
LeVeque 1979 for the merge).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from contrail_data.errors import ContrailError

Moments = list[float]
"""Of one channel: count, mean, sum of squared deviations, minimum, maximum, pixels at 0, pixels at 1."""


_STATISTICS = ("mean", "std", "minimum", "maximum", "at_low", "at_high")


def moments(image_tchw: npt.NDArray[Any], valid_tyx: npt.NDArray[np.bool_] | None = None) -> list[Moments]:
    """Compute the moments of each channel of one stored sample.

    Args:
        image_tchw: Image (time, channel, y, x) as stored. uint8 counts as value / 255.
        valid_tyx: Which pixels to include. None: all.

    Returns:
        Moments by channel, in units of [0, 1].
    """
    channels = range(image_tchw.shape[1])
    if image_tchw.dtype == np.uint8 and valid_tyx is None:
        return [_moments_of_levels(image_tchw[:, c]) for c in channels]
    scale = 1 / 255 if image_tchw.dtype == np.uint8 else 1.0
    pixels = (image_tchw[:, c] if valid_tyx is None else image_tchw[:, c][valid_tyx] for c in channels)
    return [_moments(x.astype(np.float64).reshape(-1) * scale) for x in pixels]


def _moments_of_levels(frames: npt.NDArray[np.uint8]) -> Moments:
    """Exact: sums of 256 levels, and of their squares, are integers that float32 holds (255² · 256 < 2²⁴)."""
    total = squares = 0
    for frame in frames:
        level = frame.reshape(-1)
        blocks = np.zeros((-(-level.size // 256), 256), np.float32)
        blocks.reshape(-1)[: level.size] = level
        total += int(blocks.sum(1).sum(dtype=np.float64))
        squares += int(np.einsum("ij,ij->i", blocks, blocks).sum(dtype=np.float64))
    count = frames.size
    mean = total / count
    low, high = int(frames.min()), int(frames.max())
    below = count - int(np.count_nonzero(frames))
    above = int(np.count_nonzero(frames == 255)) if high == 255 else 0
    deviations = (squares * count - total * total) / count  # of integers, so that nothing cancels
    return [count, mean / 255, deviations / 255**2, low / 255, high / 255, below, above]


def _moments(x: npt.NDArray[np.float64]) -> Moments:
    mean = math.fsum(x.sum(keepdims=True)) / x.size
    squares = float(np.sum((x - mean) ** 2))
    return [x.size, mean, squares, float(x.min()), float(x.max()), int((x <= 0).sum()), int((x >= 1).sum())]


def merge(samples: Sequence[Sequence[Moments]], channels: Sequence[str]) -> dict[str, Any]:
    """Merge the moments of samples into statistics over all their pixels.

    Args:
        samples: Moments by sample and channel; at least one sample.
        channels: Names of the channels.

    Returns:
        The statistics, as a store's attribute `statistics` holds them: `channel`, `samples`, `count` (pixels per
        channel) and, per channel and in units of [0, 1], `mean`, `std` (of the population), `minimum`, `maximum`,
        `at_low` and `at_high`: the fractions of pixels stored exactly at 0 and at 1, which is where clipping puts them.
    """
    table = np.array(samples, np.float64)  # (sample, channel, moment)
    counts, *columns = zip(*(_merge_channel(table[:, c]) for c in range(len(channels))), strict=True)
    statistics = {"channel": list(channels), "samples": len(samples), "count": int(counts[-1])}
    return statistics | {name: list(map(float, column)) for name, column in zip(_STATISTICS, columns, strict=True)}


def _merge_channel(moments_sm: npt.NDArray[np.float64]) -> tuple[float, ...]:
    count, mean, squares, low, high, below, above = moments_sm.T
    n = math.fsum(count)
    centre = math.fsum(count * mean) / n
    spread = math.fsum(squares) + math.fsum(count * (mean - centre) ** 2)
    return n, centre, math.sqrt(spread / n), low.min(), high.max(), math.fsum(below) / n, math.fsum(above) / n


def combined(stores: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Compute the statistics of several stores taken together.

    Args:
        stores: Statistics of each store.

    Returns:
        The statistics over all their samples.

    Raises:
        ContrailError: If their channels differ.
    """
    channels = stores[0]["channel"]
    if any(store["channel"] != channels for store in stores):
        raise ContrailError("statistics of stores with different channels cannot be combined; use one composite")
    rows = [
        [
            [n := store["count"], mean, std**2 * n, low, high, below * n, above * n]
            for mean, std, low, high, below, above in zip(*map(store.__getitem__, _STATISTICS), strict=True)
        ]
        for store in stores
    ]
    return {**merge(rows, channels), "samples": sum(store["samples"] for store in stores)}
