"""The line along the middle of one region of a mask.

The longest path through a region runs between the two pixels that are farthest apart within it. Pixels equally far from
its start lie across the region, so their mean is on the middle. This gives what the longest path of a skeleton gives,
to fractions of a pixel and without spurs.
"""

import numpy as np
import shapely
from scipy.sparse import coo_array, csgraph

from contrail_train.contrails.axes import major_axis
from contrail_train.contrails.pixel_graph import Indices, indices_yx, parts_of, path_lengths
from contrail_train.contrails.polyline import Points

_STEP = 3.0
"""Pixels along a region that one vertex of its centre line averages over."""
_TOLERANCE = 0.75
"""Pixels that a simplified centre line may deviate."""
_LARGEST = 200_000
"""Pixels. Anything larger is not a contrail, and gets a straight line, which takes bounded memory."""


def centre_line(pixels: Indices) -> Points:
    """Find the centre line of one 8-connected region, from its outer edge to its outer edge.

    Args:
        pixels: Rows and columns of the region's pixels, 0 or more, (pixel, 2).

    Returns:
        Fractional rows and columns, shape (vertex, 2), at least two vertices.
    """
    if len(pixels) < 2 * _STEP or len(pixels) > _LARGEST:
        return _straight_line(pixels)
    image = indices_yx(pixels)
    # The pixel farthest from any pixel is one end, the pixel farthest from that the other: exact in a tree, and nearly
    # exact in long and thin regions.
    start = int(np.argmax(path_lengths(pixels, image, 0)))
    distance = path_lengths(pixels, image, start)
    end = int(np.argmax(distance))
    length = distance[end]
    width = len(pixels) / (length + 1)
    bins = int((length - width) // _STEP)
    if bins < 2:  # hardly longer than wide
        return _straight_line(pixels)
    # The first and last half width of the path lead from a corner to the middle: bins -1 and `bins`.
    bin_of = np.minimum(((distance - width / 2) / (length - width) * bins).astype(np.intp), bins - 1)
    bin_of[distance < width / 2] = -1
    bin_of[distance > length - width / 2] = bins
    # The other arm of a fork and the other side of a ring are equally far from the start, but apart from the path.
    part = parts_of(pixels, image, bin_of)
    if part.max() > bins + 1:  # not every bin is in one part
        used = np.isin(part, part[_shortest_path(pixels, image, start, end)])
        pixels, bin_of = pixels[used], bin_of[used]
    line = shapely.linestrings(_through_means(pixels, bin_of, bins))
    return shapely.get_coordinates(shapely.simplify(line, _TOLERANCE))


def _straight_line(pixels: Indices) -> Points:
    """A line (2, 2) through the mean of the pixels along their major axis, as long as they extend."""
    centre, direction = major_axis(pixels)
    along = (pixels - centre) @ direction
    margin = _half_pixel(direction)
    return np.stack([centre + direction * (along.min() - margin), centre + direction * (along.max() + margin)])


def _through_means(pixels: Indices, bin_of: Indices, bins: int) -> Points:
    """A line through the means of bins of pixels, from the edge of the first one to that of the last one."""
    count = np.bincount(bin_of + 1, minlength=bins + 2)[1:-1]
    sums = [np.bincount(bin_of + 1, values, bins + 2)[1:-1] for values in pixels.T]
    middles = (np.stack(sums, -1) / np.maximum(count, 1)[:, np.newaxis])[count > 0]
    middles[1:-1] = (middles[:-2] + 2 * middles[1:-1] + middles[2:]) / 4  # a slight slope is a staircase of pixels
    first = _extend_to_edge(pixels[bin_of <= 0], middles[1], middles[0])
    last = _extend_to_edge(pixels[bin_of >= bins - 1], middles[-2], middles[-1])
    return np.concatenate([[first], middles, [last]])


def _extend_to_edge(pixels: Indices, before: Points, last: Points) -> Points:
    """Where the line from `before` through `last` leaves the pixels."""
    direction = (last - before) / np.hypot(*(last - before))
    return np.asarray(last + direction * (((pixels - last) @ direction).max() + _half_pixel(direction)))


def _half_pixel(direction: Points) -> float:
    """How far a pixel's square extends from its centre in a direction, averaged over the cuts through it."""
    return float(0.5 * np.abs(direction).max() + 0.25 * np.abs(direction).min())


def _shortest_path(pixels: Indices, image: Indices, start: int, end: int) -> list[int]:
    """Indices of the pixels on the shortest path, from the end on."""
    pairs = []
    for dy, dx in ((0, 1), (1, -1), (1, 0), (1, 1)):  # each pair of neighbours once
        other = image[pixels[:, 0] + 1 + dy, pixels[:, 1] + 1 + dx]
        pairs.append(np.stack([np.flatnonzero(other >= 0), other[other >= 0]]))
    first, second = np.concatenate(pairs, axis=1)
    steps = np.hypot(*(pixels[first] - pixels[second]).T)
    graph = coo_array((steps, (first, second)), (len(pixels), len(pixels))).tocsr()
    _, previous = csgraph.dijkstra(graph, directed=False, indices=start, return_predecessors=True)
    path = [end]
    while previous[path[-1]] >= 0:
        path.append(int(previous[path[-1]]))
    return path
