"""The line along the middle of one region of a mask.

The longest path through a region runs between the two pixels that are farthest apart within it. Pixels equally far from
its start lie across the region, so their mean is on the middle. This gives what the longest path of a skeleton gives,
to fractions of a pixel and without spurs.
"""

import numpy as np
import shapely
from scipy.sparse import csgraph, csr_array

from contrail_data.compiled import compiled
from contrail_train.contrails.axes import major_axis, through_means
from contrail_train.contrails.pixel_graph import Indices, indices_yx, longest_path, parts_of, steps_between
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
        return major_axis(pixels)
    image = indices_yx(pixels)
    # The pixel farthest from any pixel is one end, the pixel farthest from that the other: exact in a tree, and nearly
    # exact in long and thin regions.
    start, end, distance = longest_path(pixels, image)
    length = distance[end]
    width = len(pixels) / (length + 1)
    bins = int((length - width) // _STEP)
    if bins < 2:  # hardly longer than wide
        return major_axis(pixels)
    bin_of = _bins(distance, width, length, bins)
    # The other arm of a fork and the other side of a ring are equally far from the start, but apart from the path.
    part, parts = parts_of(pixels, image, bin_of)
    if parts > bins + 2:  # not every bin is in one part
        used = np.isin(part, part[_shortest_path(pixels, image, start, end)])
        pixels, bin_of = pixels[used], bin_of[used]
    line = shapely.linestrings(through_means(pixels, bin_of, bins))
    return shapely.get_coordinates(shapely.simplify(line, _TOLERANCE))


@compiled
def _bins(distance: Points, width: float, length: float, bins: int) -> Indices:
    """The part of the path that each pixel belongs to.

    The first and last half width of the path lead from a corner to the middle: bins -1 and `bins`.
    """
    bin_of = np.empty(len(distance), np.intp)
    for i in range(len(distance)):
        if distance[i] > length - width / 2:
            bin_of[i] = bins
        elif distance[i] < width / 2:
            bin_of[i] = -1
        else:
            bin_of[i] = min(max(int((distance[i] - width / 2) / (length - width) * bins), 0), bins - 1)
    return bin_of


def _shortest_path(pixels: Indices, image: Indices, start: int, end: int) -> list[int]:
    """Indices of the pixels on the shortest path, from the end on."""
    graph = csr_array(steps_between(pixels, image), (len(pixels), len(pixels)))
    _, previous = csgraph.dijkstra(graph, directed=False, indices=start, return_predecessors=True)
    path = [end]
    while previous[path[-1]] >= 0:
        path.append(int(previous[path[-1]]))
    return path
