"""Lines as vertices: how long they are, and points along them. Loops over the few vertices of a line are compiled."""

import math

import numpy as np
import numpy.typing as npt

from contrail_data.compiled import compiled

Points = npt.NDArray[np.float64]


def length_of(line: Points) -> float:
    """Measure a line.

    Args:
        line: Its vertices (vertex, 2).

    Returns:
        Its length.
    """
    return float(np.add.reduce(_steps(np.ascontiguousarray(line))))


def distances(line: Points) -> Points:
    """Measure how far each vertex lies from the first one, along the line.

    Args:
        line: Its vertices (vertex, 2).

    Returns:
        Distances (vertex), from 0 to the length of the line.
    """
    return _distances(np.ascontiguousarray(line))


def points_at(line: Points, along: Points | np.float64) -> Points:
    """Find points on a line.

    Args:
        line: Its vertices (vertex, 2).
        along: Distances from its first vertex, of any shape.

    Returns:
        The points, of that shape and (2).
    """
    flat = np.ravel(along)
    return _points_at(np.ascontiguousarray(line), flat).reshape(*np.shape(along), 2)


def densified(line: Points) -> Points:
    """Sample a line at most half a pixel apart.

    Args:
        line: Its vertices (vertex, 2).

    Returns:
        Points (point, 2), at least two.
    """
    return _densified(np.ascontiguousarray(line))


@compiled
def _steps(line: Points) -> Points:
    """Distances from each vertex to the next one."""
    steps = np.empty(len(line) - 1)
    for i in range(len(steps)):
        steps[i] = math.hypot(line[i + 1, 0] - line[i, 0], line[i + 1, 1] - line[i, 1])
    return steps


@compiled
def _distances(line: Points) -> Points:
    distances, steps = np.zeros(len(line)), _steps(line)
    for i in range(len(steps)):
        distances[i + 1] = distances[i] + steps[i]
    return distances


@compiled
def _points_at(line: Points, along: Points) -> Points:
    """The points; the same values as of `numpy.interp`."""
    points, distances, at = np.empty((len(along), 2)), _distances(line), 0
    for i in range(len(along)):
        while at < len(line) - 1 and distances[at + 1] <= along[i]:
            at += 1
        while at > 0 and distances[at] > along[i]:
            at -= 1
        points[i] = line[at]
        if at < len(line) - 1 and distances[at] < along[i]:
            for axis in range(2):
                slope = (line[at + 1, axis] - line[at, axis]) / (distances[at + 1] - distances[at])
                points[i, axis] = slope * (along[i] - distances[at]) + line[at, axis]
    return points


@compiled
def _densified(line: Points) -> Points:
    """The points; the same values as with `numpy.linspace`."""
    length = _distances(line)[-1]
    count = max(2, math.ceil(2 * length) + 1)
    along, step = np.empty(count), length / (count - 1)
    for i in range(count):
        along[i] = step * i if i < count - 1 else length
    return _points_at(line, along)
