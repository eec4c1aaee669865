"""Statistics per channel: streaming, exact for uint8, independent of order and of how the work was split.

Each sample gives count, mean and sum of squared deviations; they are merged with exactly rounded sums
(`math.fsum`), so that neither chunk order nor worker count can show (Chan, Golub, LeVeque 1979 for the merge).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from contrail_data.errors import ContrailError

Moments = list[float]
"""Of one channel: count, mean, sum of squared deviations, minimum, maximum, pixels at 0, pixels at 1."""


def moments(image_tchw: npt.NDArray[Any], valid_tyx: npt.NDArray[np.bool_] | None = None) -> list[Moments]:
    """Moments of each channel of one stored sample, in units of [0, 1]; uint8 counts as value / 255. Pixels that are
    not valid are left out.
    """
    if valid_tyx is not None:
        scale = 1 / 255 if image_tchw.dtype == np.uint8 else 1.0
        return [_moments(image_tchw[:, c][valid_tyx].astype(np.float64) * scale) for c in range(image_tchw.shape[1])]
    if image_tchw.dtype == np.uint8:
        return [_moments_of_levels(image_tchw[:, c]) for c in range(image_tchw.shape[1])]
    return [_moments(image_tchw[:, c].astype(np.float64).reshape(-1)) for c in range(image_tchw.shape[1])]


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
    # Of integers, so that nothing cancels.
    deviations = (squares * count - total * total) / count
    return [count, mean / 255, deviations / 255**2, low / 255, high / 255, below, above]


def _moments(x: npt.NDArray[np.float64]) -> Moments:
    mean = math.fsum(x.sum(keepdims=True)) / x.size
    squares = float(np.sum((x - mean) ** 2))
    return [x.size, mean, squares, float(x.min()), float(x.max()), int((x <= 0).sum()), int((x >= 1).sum())]


def merge(samples: Sequence[Sequence[Moments]], channels: Sequence[str]) -> dict[str, Any]:
    """Statistics over all pixels of all samples, as a store's attribute `statistics` holds them.

    mean, std (population), minimum and maximum in [0, 1]; `at_low` and `at_high` are the fractions of pixels
    stored exactly at 0 and at 1, which is where clipping puts them; `count` is pixels a channel.
    """
    table = np.array(samples, np.float64)  # (sample, channel, moment)
    out: dict[str, Any] = {"channel": list(channels), "samples": len(samples), "count": 0}
    columns: dict[str, list[float]] = {k: [] for k in ("mean", "std", "minimum", "maximum", "at_low", "at_high")}
    for c in range(len(channels)):
        count, mean, squares, low, high, below, above = table[:, c].T
        n = math.fsum(count)
        centre = math.fsum(count * mean) / n
        spread = math.fsum(squares) + math.fsum(count * (mean - centre) ** 2)
        out["count"] = int(n)
        row = (centre, math.sqrt(spread / n), low.min(), high.max(), math.fsum(below) / n, math.fsum(above) / n)
        for key, value in zip(columns, row, strict=True):
            columns[key].append(float(value))
    return {**out, **columns}


def combined(statistics: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Statistics of several stores taken together. Raises ContrailError when their channels differ."""
    channels = statistics[0]["channel"]
    if any(s["channel"] != channels for s in statistics):
        raise ContrailError("statistics of stores with different channels cannot be combined: use one composite")
    rows = [
        [
            [n, s["mean"][c], s["std"][c] ** 2 * n, s["minimum"][c], s["maximum"][c],
             s["at_low"][c] * n, s["at_high"][c] * n]
            for c in range(len(channels))
        ]
        for s in statistics
        for n in [s["count"]]
    ]  # fmt: skip
    return {**merge(rows, channels), "samples": sum(s["samples"] for s in statistics)}
