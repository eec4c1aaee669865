"""Directions of points: the axis along which they extend most, of a whole region or of the end of a line.

The loops are compiled. Regions have few points, for which a call to a library takes longer than the arithmetic. The
operations and their order are those of `numpy.cov`, `numpy.linalg.eigh` and `@`, which the tests compare.
"""

import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from numba import types
from numba.extending import intrinsic

from contrail_data.compiled import compiled
from contrail_train.contrails.polyline import Points

_ROUNDING = 2.0**-53
"""Relative error of one operation."""


def _fused(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """The intrinsic of numba for a * b + c, rounded once, as BLAS computes it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return types.float64(types.float64, types.float64, types.float64), generate


_multiply_add: Callable[[float, float, float], float] = cast(Any, intrinsic(_fused))


@compiled
def major_axis(pixels: npt.NDArray[np.intp]) -> Points:
    """Draw a straight line through the mean of pixels, as long as they extend.

    Args:
        pixels: Rows and columns (pixel, 2).

    Returns:
        The ends of the line (2, 2).
    """
    points = pixels.astype(np.float64)
    centre_y, centre_x = _mean(points)
    dy, dx = _axis(points, centre_y, centre_x)
    sign = np.sign(dx if abs(dx) > abs(dy) else dy)  # the same sign on any machine
    dy, dx = dy * sign, dx * sign
    low, high = math.inf, -math.inf
    for i in range(len(points)):
        along = _multiply_add(points[i, 0] - centre_y, dy, (points[i, 1] - centre_x) * dx)
        low, high = min(low, along), max(high, along)
    low, high = low - _half_pixel(dy, dx), high + _half_pixel(dy, dx)
    return np.array([[centre_y + dy * low, centre_x + dx * low], [centre_y + dy * high, centre_x + dx * high]])


@compiled
def through_means(pixels: npt.NDArray[np.intp], bin_of: npt.NDArray[np.intp], bins: int) -> Points:
    """Draw a line through the means of bins of pixels, which is extended to the edge of the first and the last bin.

    Args:
        pixels: Rows and columns (pixel, 2).
        bin_of: Number of the bin of each pixel, of at least two bins; -1 for pixels before the first bin, and `bins`
            for those behind the last one.
        bins: Number of bins. Some may be empty.

    Returns:
        The line (vertex, 2). Means are smoothed: a slight slope is a staircase of pixels.
    """
    count, sums = np.zeros(bins), np.zeros((bins, 2))
    for i in range(len(pixels)):
        if 0 <= bin_of[i] < bins:
            count[bin_of[i]] += 1
            sums[bin_of[i], 0] += pixels[i, 0]
            sums[bin_of[i], 1] += pixels[i, 1]
    means, used = np.empty((bins, 2)), 0
    for k in range(bins):
        if count[k] > 0:
            means[used, 0], means[used, 1] = sums[k, 0] / count[k], sums[k, 1] / count[k]
            used += 1
    line = np.empty((used + 2, 2))
    for k in range(used):
        for axis in range(2):
            line[k + 1, axis] = means[k, axis]
            if 0 < k < used - 1:
                line[k + 1, axis] = (means[k - 1, axis] + 2 * means[k, axis] + means[k + 1, axis]) / 4
    _extend_to_edge(line[2], line[1], line[0], pixels, bin_of, -1, 0)
    _extend_to_edge(line[used - 1], line[used], line[used + 1], pixels, bin_of, bins - 1, bins)
    return line


@compiled
def _extend_to_edge(
    before: Points,
    last: Points,
    edge: Points,
    pixels: npt.NDArray[np.intp],
    bin_of: npt.NDArray[np.intp],
    lowest: int,
    highest: int,
) -> None:
    """Write where the line from `before` through `last` leaves the pixels of these bins."""
    dy, dx = last[0] - before[0], last[1] - before[1]
    length = math.hypot(dy, dx)
    dy, dx = dy / length, dx / length
    most = -np.inf
    for i in range(len(pixels)):
        if lowest <= bin_of[i] <= highest:
            most = max(most, _multiply_add(pixels[i, 0] - last[0], dy, (pixels[i, 1] - last[1]) * dx))
    most += _half_pixel(dy, dx)
    edge[0], edge[1] = last[0] + dy * most, last[1] + dx * most


@compiled
def fitted_ends(line: Points, sight: float) -> Points:
    """Fit a straight line to each end of a line.

    Args:
        line: Points along it (point, 2).
        sight: Distance from an end within which points are fitted.

    Returns:
        For the first end and the last: its place on the fitted line, and the unit vector out of the line, (2, 2, 2).
    """
    ends = np.empty((2, 2, 2))
    near = np.empty(line.shape)
    for end in range(2):
        outwards = line[::-1] if end == 0 else line
        last_y, last_x = outwards[-1]
        count = 0
        for i in range(len(outwards)):
            if math.hypot(outwards[i, 0] - last_y, outwards[i, 1] - last_x) <= sight:
                near[count] = outwards[i]
                count += 1
        centre_y, centre_x = _mean(near[:count])
        dy, dx = _axis(near[:count], centre_y, centre_x)
        if not _multiply_add(last_x - centre_x, dx, (last_y - centre_y) * dy) >= 0:
            dy, dx = -dy, -dx
        along = _multiply_add(last_x - centre_x, dx, (last_y - centre_y) * dy)
        ends[end, 0, 0], ends[end, 0, 1] = centre_y + dy * along, centre_x + dx * along
        ends[end, 1, 0], ends[end, 1, 1] = dy, dx
    return ends


@compiled
def _half_pixel(dy: float, dx: float) -> float:
    """How far a pixel's square extends from its centre in a direction, averaged over the cuts through it."""
    return 0.5 * max(abs(dy), abs(dx)) + 0.25 * min(abs(dy), abs(dx))


@compiled
def _mean(points: Points) -> tuple[float, float]:
    y, x = 0.0, 0.0
    for i in range(len(points)):
        y += points[i, 0]
        x += points[i, 1]
    return y / len(points), x / len(points)


@compiled
def _axis(points: Points, centre_y: float, centre_x: float) -> tuple[float, float]:
    """Unit vector of the largest variance of points with this mean; (0, 1) if it is the same in all directions."""
    # numpy.cov subtracts the mean once more, which is not quite 0
    mean_y, mean_x = 0.0, 0.0
    for i in range(len(points)):
        mean_y += points[i, 0] - centre_y
        mean_x += points[i, 1] - centre_x
    mean_y, mean_x = mean_y / len(points), mean_x / len(points)
    yy, yx, xx = 0.0, 0.0, 0.0
    for i in range(len(points)):
        y, x = points[i, 0] - centre_y - mean_y, points[i, 1] - centre_x - mean_x
        yy, yx, xx = _multiply_add(y, y, yy), _multiply_add(y, x, yx), _multiply_add(x, x, xx)
    share = 1.0 / len(points)
    return _eigenvector(yy * share, yx * share, xx * share)


@compiled
def _eigenvector(a: float, b: float, c: float) -> tuple[float, float]:
    """Unit eigenvector of the larger eigenvalue of [[a, b], [b, c]], a and c not negative, as of LAPACK's dlaev2."""
    if abs(b) <= math.sqrt(a) * math.sqrt(c) * _ROUNDING or b * b <= _ROUNDING * _ROUNDING * a * c:
        return (1.0, 0.0) if c < a else (0.0, 1.0)
    difference, twice = a - c, b + b
    if abs(difference) > abs(twice):
        root = abs(difference) * math.sqrt(1 + (abs(twice) / abs(difference)) ** 2)
    elif abs(difference) < abs(twice):
        root = abs(twice) * math.sqrt(1 + (abs(difference) / abs(twice)) ** 2)
    else:
        root = abs(twice) * math.sqrt(2.0)
    cosine = difference + root if difference >= 0 else difference - root
    if abs(cosine) > abs(twice):
        ratio = -twice / cosine
        sine = 1 / math.sqrt(1 + ratio * ratio)
        cosine = ratio * sine
    else:
        ratio = -cosine / twice
        cosine = 1 / math.sqrt(1 + ratio * ratio)
        sine = ratio * cosine
    return (-sine, cosine) if difference >= 0 else (cosine, sine)
