"""The skeleton of a region, cut into pieces where lines meet or bend sharply."""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from contrail_train.contrails.cleaning import EIGHT_CONNECTED, Mask
from contrail_train.contrails.pixel_graph import indices_yx, walk
from contrail_train.contrails.polyline import Points

_NEIGHBOURS = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))
"""Steps in rows and columns to the neighbours of a pixel, clockwise from above."""
_SPUR = 3.0
"""Pixels by which a branch has to leave the largest disc around its fork that fits into the region."""
_REACH = 6
"""Pixels along a piece before and after a point between which a bend is measured."""


def thin(mask_yx: Mask) -> Mask:
    """Thin a mask to lines of one pixel's width that are connected as the mask is.

    The algorithm is the parallel thinning of Guo and Hall (1989), with two subiterations.

    Args:
        mask_yx: Mask, bool (y, x).

    Returns:
        The lines, of the same shape.
    """
    padded = np.pad(mask_yx, 1)
    inner = padded[1:-1, 1:-1]
    while True:
        before = inner.copy()
        for turn in (0, 4):
            p = [_shifted(padded, *_NEIGHBOURS[(i + turn) % 8]) for i in range(8)]  # clockwise, from above or below
            crossings = sum((~p[i] & (p[i + 1] | p[(i + 2) % 8])).astype(np.uint8) for i in (0, 2, 4, 6))
            one = sum((p[i - 1] | p[i]).astype(np.uint8) for i in (0, 2, 4, 6))
            other = sum((p[i] | p[i + 1]).astype(np.uint8) for i in (0, 2, 4, 6))
            near = np.minimum(one, other)
            kept = (p[4] | p[5] | ~p[7]) & p[6]
            inner &= ~((crossings == 1) & (near >= 2) & (near <= 3) & ~kept)
        if np.array_equal(before, inner):
            return inner.copy()


def _shifted(padded: Mask, dy: int, dx: int) -> Mask:
    height, width = padded.shape
    return padded[1 + dy : height - 1 + dy, 1 + dx : width - 1 + dx]


def pieces_of(mask_yx: Mask, sharpest: float) -> list[Points]:
    """Cut the skeleton of a region into pieces without forks and sharp bends.

    Branches that do not leave the disc around their fork by a few pixels stem from a rough edge, and are left out.

    Args:
        mask_yx: One region, bool (y, x).
        sharpest: Bend in degrees above which a piece is cut.

    Returns:
        Rows and columns of the pixels of each piece, in order along it, float64 (pixel, 2); at least one piece.
    """
    radius = ndimage.distance_transform_edt(np.pad(mask_yx, 1))[1:-1, 1:-1]
    skeleton = thin(mask_yx)
    forks = _forks(skeleton)
    while forks.any() and (spurs := _spurs(skeleton, forks, radius)).any():
        skeleton = thin(skeleton & ~spurs)
        forks = _forks(skeleton)
    return [part for path in _paths(skeleton & ~forks) for part in _cut_at_bends(path, sharpest)]


def _forks(skeleton: Mask) -> Mask:
    """The pixels of a skeleton with at least three neighbours in it."""
    count = ndimage.convolve(skeleton.astype(np.uint8), EIGHT_CONNECTED.astype(np.uint8), mode="constant")
    return skeleton & (count > 3)


def _spurs(skeleton: Mask, forks: Mask, radius: npt.NDArray[np.float64]) -> Mask:
    """Branches that end freely and are short, only the shortest one of each fork."""
    labels, _ = ndimage.label(skeleton & ~forks, EIGHT_CONNECTED)
    joints, _ = ndimage.label(forks, EIGHT_CONNECTED)
    touched = ndimage.maximum_filter(joints, 3)  # number of the fork beside a pixel
    disc = ndimage.maximum(radius, joints, np.arange(joints.max() + 1))
    shortest: dict[int, tuple[float, int]] = {}
    for number, window in enumerate(ndimage.find_objects(labels), 1):
        inside = labels[window] == number
        beside = np.unique(touched[window][inside])
        beside = beside[beside > 0]
        if len(beside) != 1 or np.count_nonzero(touched[window] * inside) > 1 + inside.sum() // 2 > 2:
            continue  # between two forks, or a loop
        y, x = np.nonzero(inside)
        length = float(np.hypot(np.ptp(y), np.ptp(x)) + 1)
        fork = int(beside[0])
        if length < disc[fork] + _SPUR and (fork not in shortest or length < shortest[fork][0]):
            shortest[fork] = (length, number)
    return np.isin(labels, [number for _, number in shortest.values()]) & (labels > 0)


def _paths(lines: Mask) -> list[Points]:
    """The pixels of each connected line without forks, in order. A ring is cut open."""
    pixels = np.argwhere(lines)
    if not len(pixels):
        return []
    image, is_visited = indices_yx(pixels), np.zeros(len(pixels), bool)
    paths = []
    for start in range(len(pixels)):
        if not is_visited[start]:
            ways = [walk(pixels, image, start, is_visited) for _ in range(2)]
            path = np.concatenate([ways[0][::-1], ways[1][1:]])
            paths.append(pixels[path if path[0] < path[-1] else path[::-1]].astype(np.float64))
    return paths


def _cut_at_bends(path: Points, sharpest: float) -> list[Points]:
    """Cut a path at the sharpest of the bends above a limit, and its parts in the same way."""
    if len(path) < 2 * _REACH + 1:
        return [path]
    before, after = path[_REACH:-_REACH] - path[: -2 * _REACH], path[2 * _REACH :] - path[_REACH:-_REACH]
    cross = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    bend = np.degrees(np.abs(np.arctan2(cross, (before * after).sum(-1))))
    at = int(np.argmax(bend))
    if bend[at] <= sharpest:
        return [path]
    middle = at + _REACH
    return [part for side in (path[:middle], path[middle + 1 :]) for part in _cut_at_bends(side, sharpest)]
