"""The line along the middle of one region of a mask.

The longest path through a region runs between the two pixels that are farthest apart within it. Pixels equally far from
its start lie across the region, so their mean is on the middle. This gives what the longest path of a skeleton gives,
to fractions of a pixel and without spurs.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array, csgraph
from shapely import LineString

from contrail_train.contrails.polyline import Points

Indices = npt.NDArray[np.intp]

_STEP = 3.0
"""Pixels along a region that one vertex of its centre line averages over."""
_TOLERANCE = 0.75
"""Pixels that a simplified centre line may deviate."""
_LARGEST = 200_000
"""Pixels. Anything larger is not a contrail, and gets a straight line, which takes bounded memory."""


def centre_line(y: Indices, x: Indices) -> Points:
    """Find the centre line of one 8-connected region, from its outer edge to its outer edge.

    Args:
        y: Rows of the region's pixels (pixel).
        x: Their columns (pixel).

    Returns:
        Fractional rows and columns, shape (vertex, 2), at least two vertices.
    """
    points = np.stack([y, x], -1).astype(np.float64)
    if len(points) < 2 * _STEP or len(points) > _LARGEST:
        return _major_axis(points)
    distance, previous, end = _longest_path(y, x)
    length = distance[end]
    width = len(points) / (length + 1)
    bins = int((length - width) // _STEP)
    if bins < 2:  # hardly longer than wide
        return _major_axis(points)
    # The first and last half width of the path lead from a corner to the middle: bins -1 and `bins`.
    bin_of = np.clip(((distance - width / 2) / (length - width) * bins).astype(int), 0, bins - 1)
    bin_of[distance < width / 2] = -1
    bin_of[distance > length - width / 2] = bins
    used = _same_branch(_neighbours(y, x), bin_of, _path_to(end, previous))
    number = bin_of[used] + 1
    count = np.bincount(number, minlength=bins + 2)[1:-1]
    sums = [np.bincount(number, values[used], bins + 2)[1:-1] for values in points.T]
    middles = (np.stack(sums, -1) / np.maximum(count, 1)[:, np.newaxis])[count > 0]
    middles[1:-1] = (middles[:-2] + 2 * middles[1:-1] + middles[2:]) / 4  # a slight slope is a staircase of pixels
    first = _extend_to_edge(points[used & (bin_of <= 0)], middles[1], middles[0])
    last = _extend_to_edge(points[used & (bin_of >= bins - 1)], middles[-2], middles[-1])
    return np.array(LineString([first, *middles, last]).simplify(_TOLERANCE).coords)


def _same_branch(pairs: Indices, bin_of: npt.NDArray[np.int_], path: list[int]) -> npt.NDArray[np.bool_]:
    """The pixels whose bin is connected to the path within that bin.

    The other arm of a fork and the other side of a ring are equally far from the start, but apart from the path.
    """
    within_bin = pairs[:, bin_of[pairs[0]] == bin_of[pairs[1]]]
    graph = _graph(within_bin, np.ones(within_bin.shape[1]), len(bin_of))
    part = csgraph.connected_components(graph, directed=False)[1]
    return np.isin(part, part[path])


def _extend_to_edge(points: Points, before: Points, last: Points) -> Points:
    """Where the line from `before` through `last` leaves the pixels."""
    direction = (last - before) / np.hypot(*(last - before))
    return np.asarray(last + direction * (((points - last) @ direction).max() + _half_pixel(direction)))


def _half_pixel(direction: Points) -> float:
    """How far a pixel's square extends from its centre in a direction, averaged over the cuts through it."""
    return float(0.5 * np.abs(direction).max() + 0.25 * np.abs(direction).min())


def _major_axis(points: Points) -> Points:
    """A straight line (2, 2) through the mean of the pixels, as long as they extend."""
    centre = points.mean(0)
    _, axes = np.linalg.eigh(np.cov((points - centre).T, bias=True) if len(points) > 1 else np.eye(2))
    direction = axes[:, -1] * np.sign(axes[np.argmax(np.abs(axes[:, -1])), -1])  # the same sign on any machine
    along = (points - centre) @ direction
    margin = _half_pixel(direction)
    return np.stack([centre + direction * (along.min() - margin), centre + direction * (along.max() + margin)])


def _longest_path(y: Indices, x: Indices) -> tuple[Points, npt.NDArray[np.int32], int]:
    """(distance in pixels from one end, predecessor of each pixel on the way from there, index of the other end).

    The pixel farthest from any pixel is one end, the pixel farthest from that the other: exact in a tree, and nearly
    exact in long and thin regions.
    """
    graph = pixel_graph(y, x)
    start = int(np.argmax(csgraph.dijkstra(graph, directed=False, indices=0)))
    distance, previous = csgraph.dijkstra(graph, directed=False, indices=start, return_predecessors=True)
    return distance, previous, int(np.argmax(distance))


def pixel_graph(y: Indices, x: Indices) -> Any:
    """Connect pixels that touch.

    Args:
        y: Rows of the pixels.
        x: Their columns.

    Returns:
        Sparse array with the distance (pixel) of each pair of neighbours, each pair once.
    """
    pairs = _neighbours(y, x)
    return _graph(pairs, np.hypot(y[pairs[0]] - y[pairs[1]], x[pairs[0]] - x[pairs[1]]), len(y))


def _path_to(end: int, previous: npt.NDArray[np.int32]) -> list[int]:
    path = [end]
    while previous[path[-1]] >= 0:
        path.append(int(previous[path[-1]]))
    return path


def _neighbours(y: Indices, x: Indices) -> Indices:
    """Pairs (2, n) of the indices of pixels that touch, each pair once."""
    index = np.full((y.max() + 2, x.max() + 3), -1, np.intp)
    index[y, x + 1] = np.arange(len(y))
    pairs = []
    for dy, dx in ((0, 1), (1, -1), (1, 0), (1, 1)):
        other = index[y + dy, x + 1 + dx]
        pairs.append(np.stack([np.flatnonzero(other >= 0), other[other >= 0]]))
    return np.concatenate(pairs, axis=1)


def _graph(pairs: Indices, weights: Points, size: int) -> Any:
    return coo_array((weights, (pairs[0], pairs[1])), (size, size)).tocsr()
