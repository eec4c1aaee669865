"""Lines as vertices: how long they are, and points along them."""

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]


def length_of(line: Points) -> float:
    """Measure a line.

    Args:
        line: Its vertices (vertex, 2).

    Returns:
        Its length.
    """
    return float(_steps(line).sum())


def distances(line: Points) -> Points:
    """Measure how far each vertex lies from the first one, along the line.

    Args:
        line: Its vertices (vertex, 2).

    Returns:
        Distances (vertex), from 0 to the length of the line.
    """
    along = np.zeros(len(line))
    np.cumsum(_steps(line), out=along[1:])
    return along


def _steps(line: Points) -> Points:
    """Distances from each vertex to the next one."""
    step = line[1:] - line[:-1]  # numpy.diff takes five times as long for so few
    return np.hypot(step[:, 0], step[:, 1])


def points_at(line: Points, along: Points | np.float64) -> Points:
    """Find points on a line.

    Args:
        line: Its vertices (vertex, 2).
        along: Distances from its first vertex, of any shape.

    Returns:
        The points, of that shape and (2).
    """
    distance, points = distances(line), np.empty((*np.shape(along), 2))
    for axis in range(2):
        points[..., axis] = np.interp(along, distance, line[:, axis])
    return points


def densified(line: Points) -> Points:
    """Sample a line at most half a pixel apart.

    Args:
        line: Its vertices (vertex, 2).

    Returns:
        Points (point, 2), at least two.
    """
    length = distances(line)[-1]
    return points_at(line, np.linspace(0, length, max(2, int(np.ceil(2 * length)) + 1)))
