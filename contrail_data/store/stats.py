"""Statistics per channel over samples: independent of order and of how the work was split.

Each sample contributes its `Moments`: count, mean, sum of squared deviations and so on. They are merged with exactly
rounded sums (`math.fsum`), so that neither the order of chunks nor the number of workers changes the result (Chan,
Golub and LeVeque 1979 for the merge).
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
