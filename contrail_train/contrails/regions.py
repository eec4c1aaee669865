"""The pixels of the regions of a label image, as lists of rows and columns."""

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from contrail_data.compiled import compiled
from contrail_train.contrails.pixel_graph import Indices
from contrail_train.contrails.polyline import Points


def pixels_of(labels_yx: npt.NDArray[np.integer]) -> list[Indices]:
    """List the pixels of each region.

    Args:
        labels_yx: Number of the region that each pixel belongs to, (y, x); 0 is the background.

    Returns:
        Rows and columns of the pixels of each region from number 1 on, by rows, (pixel, 2); empty for missing numbers.
    """
    flat = np.flatnonzero(labels_yx > 0)
    numbers = labels_yx.ravel()[flat]
    pixels = np.stack(np.divmod(flat[np.argsort(numbers, kind="stable")], labels_yx.shape[1]), -1)
    ends = np.cumsum(np.bincount(numbers)).tolist()
    return [pixels[start:end] for start, end in pairwise(ends)]


@compiled
def region_around(pixels: Indices, line: Points) -> tuple[Indices, Indices]:
    """Find the pixels that a line joins.

    Args:
        pixels: Rows and columns (pixel, 2).
        line: Points along a line (point, 2).

    Returns:
        Rows and columns, by rows, (pixel, 2), of the pixels given and those along the line that are connected with its
        middle; counted from the first row and column of all of these pixels, which is the second value (2).
    """
    joined = np.empty((len(pixels) + len(line), 2), np.intp)
    top, left, bottom, right = pixels[0, 0], pixels[0, 1], pixels[0, 0], pixels[0, 1]
    for i in range(len(joined)):
        for axis in range(2):
            joined[i, axis] = np.rint(line[i, axis]) if i < len(line) else pixels[i - len(line), axis]
        top, bottom = min(top, joined[i, 0]), max(bottom, joined[i, 0])
        left, right = min(left, joined[i, 1]), max(right, joined[i, 1])
    # 1 where there is a pixel, 2 where it is connected; with a margin of one
    state = np.zeros((bottom - top + 3, right - left + 3), np.uint8)
    for i in range(len(joined)):
        joined[i, 0], joined[i, 1] = joined[i, 0] - top, joined[i, 1] - left
        state[joined[i, 0] + 1, joined[i, 1] + 1] = 1
    middle = len(line) // 2
    joined[0, 0], joined[0, 1] = joined[middle, 0], joined[middle, 1]
    state[joined[0, 0] + 1, joined[0, 1] + 1] = 2
    done, count = 0, 1
    while done < count:
        y, x = joined[done, 0], joined[done, 1]
        done += 1
        for dy in range(3):
            for dx in range(3):
                if state[y + dy, x + dx] == 1:
                    state[y + dy, x + dx] = 2
                    joined[count, 0], joined[count, 1] = y + dy - 1, x + dx - 1
                    count += 1
    region, count = joined[:count], 0
    for y in range(1, state.shape[0] - 1):
        for x in range(1, state.shape[1] - 1):
            if state[y, x] == 2:
                region[count, 0], region[count, 1] = y - 1, x - 1
                count += 1
    return region, np.array([top, left])
