"""The pixels of a region as a graph, in which pixels that touch at a side or corner are neighbours.

The loops are compiled: a region has so few pixels that sparse arrays take longer to make than to search.
"""

import numpy as np
import numpy.typing as npt

from contrail_data.compiled import compiled

Indices = npt.NDArray[np.intp]

_DIAGONAL = float(np.sqrt(2))


@compiled
def indices_yx(pixels: Indices) -> Indices:
    """Make an image of the indices of pixels.

    Args:
        pixels: Rows and columns, 0 or more, (pixel, 2).

    Returns:
        Index of the pixel in each row and column, from -1 on, so with a margin of one; -1 where there is none.
    """
    last_y, last_x = 0, 0
    for i in range(len(pixels)):
        last_y, last_x = max(last_y, pixels[i, 0]), max(last_x, pixels[i, 1])
    image = np.full((last_y + 3, last_x + 3), -1, np.intp)
    for i in range(len(pixels)):
        image[pixels[i, 0] + 1, pixels[i, 1] + 1] = i
    return image


@compiled
def path_lengths(pixels: Indices, image: Indices, start: int) -> npt.NDArray[np.float64]:
    """Measure the shortest path from a pixel to each pixel.

    Args:
        pixels: Rows and columns, (pixel, 2).
        image: As of `indices_yx`.
        start: Index of the pixel where the paths start.

    Returns:
        Lengths (pixel), infinite where there is no path.
    """
    lengths = np.full(len(pixels), np.inf)
    lengths[start] = 0.0
    queue, is_queued = np.empty(len(pixels), np.intp), np.zeros(len(pixels), np.bool_)
    queue[0], first, count = start, 0, 1
    while count > 0:
        at = queue[first]
        first, count, is_queued[at] = (first + 1) % len(queue), count - 1, False
        for dy in range(3):
            for dx in range(3):
                other = image[pixels[at, 0] + dy, pixels[at, 1] + dx]
                length = lengths[at] + (1.0 if dy == 1 or dx == 1 else _DIAGONAL)
                if other >= 0 and length < lengths[other]:
                    lengths[other] = length
                    if not is_queued[other]:
                        queue[(first + count) % len(queue)] = other
                        count, is_queued[other] = count + 1, True
    return lengths


@compiled
def parts_of(pixels: Indices, image: Indices, classes: Indices) -> Indices:
    """Number the connected parts of classes of pixels.

    Args:
        pixels: Rows and columns, (pixel, 2).
        image: As of `indices_yx`.
        classes: Class of each pixel.

    Returns:
        Number of the part of each pixel, from 0 without missing numbers.
    """
    parts = np.full(len(pixels), -1, np.intp)
    stack = np.empty(len(pixels), np.intp)
    number = 0
    for start in range(len(pixels)):
        if parts[start] >= 0:
            continue
        parts[start], stack[0], count = number, start, 1
        while count > 0:
            count -= 1
            at = stack[count]
            for dy in range(3):
                for dx in range(3):
                    other = image[pixels[at, 0] + dy, pixels[at, 1] + dx]
                    if other >= 0 and parts[other] < 0 and classes[other] == classes[at]:
                        parts[other], stack[count] = number, other
                        count += 1
        number += 1
    return parts


@compiled
def walk(pixels: Indices, image: Indices, start: int, is_visited: npt.NDArray[np.bool_]) -> Indices:
    """Walk from a pixel on, from each to its first neighbour that was not visited, until there is none.

    Args:
        pixels: Rows and columns, (pixel, 2).
        image: As of `indices_yx`.
        start: Index of the first pixel.
        is_visited: Whether each pixel was visited; is updated.

    Returns:
        Indices of the pixels on the way, in order.
    """
    way = np.empty(len(pixels), np.intp)
    way[0], count, is_visited[start] = start, 1, True
    at = -1
    while at != way[count - 1]:
        at = way[count - 1]
        for step in range(9):
            other = image[pixels[at, 0] + step // 3, pixels[at, 1] + step % 3]
            if other >= 0 and not is_visited[other]:
                way[count], is_visited[other] = other, True
                count += 1
                break
    return way[:count].copy()


@compiled
def paths_of(pixels: Indices, image: Indices) -> tuple[Indices, Indices]:
    """Put the pixels of lines without forks in order, each connected line from one end to the other.

    Args:
        pixels: Rows and columns, (pixel, 2).
        image: As of `indices_yx`.

    Returns:
        Indices of the pixels, line by line, each from its end with the smaller index; and where each line ends. A ring
        is cut open.
    """
    order, ends = np.empty(len(pixels), np.intp), np.empty(len(pixels), np.intp)
    is_visited, done, lines = np.zeros(len(pixels), np.bool_), 0, 0
    for start in range(len(pixels)):
        if is_visited[start]:
            continue
        back, forth = walk(pixels, image, start, is_visited), walk(pixels, image, start, is_visited)
        last = done + len(back) + len(forth) - 2
        is_turned = back[-1] > forth[-1]  # each has the start at least
        for i in range(len(back)):
            at = done + len(back) - 1 - i
            order[done + last - at if is_turned else at] = back[i]
        for i in range(1, len(forth)):
            at = done + len(back) - 1 + i
            order[done + last - at if is_turned else at] = forth[i]
        done, ends[lines] = last + 1, last + 1
        lines += 1
    return order, ends[:lines]
