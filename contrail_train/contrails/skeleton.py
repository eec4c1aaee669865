"""The skeleton of a region, cut into pieces where lines meet or bend sharply."""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from contrail_data.compiled import compiled
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
    _peel(padded, np.argwhere(padded), _PEELED)
    return padded[1:-1, 1:-1].copy()


def _peeled() -> Mask:
    """Whether each subiteration removes a pixel, by its neighbours: bit i of the index is neighbour i, (2, 256)."""
    codes = np.arange(256)
    p = [(codes >> i) % 2 == 1 for i in range(8)]
    crossings = sum((~p[i] & (p[i + 1] | p[(i + 2) % 8])).astype(np.uint8) for i in (0, 2, 4, 6))
    one = sum((p[i - 1] | p[i]).astype(np.uint8) for i in (0, 2, 4, 6))
    other = sum((p[i] | p[i + 1]).astype(np.uint8) for i in (0, 2, 4, 6))
    near = np.minimum(one, other)
    kept = (p[4] | p[5] | ~p[7]) & p[6]
    first = (crossings == 1) & (near >= 2) & (near <= 3) & ~kept
    return np.stack([first, first[codes // 16 + codes % 16 * 16]])  # the other one sees the image upside down


_PEELED = _peeled()


@compiled
def _peel(padded: Mask, pixels: npt.NDArray[np.intp], peeled: Mask) -> None:
    """Remove pixels of a padded mask, one subiteration after the other, until both leave it as it is."""
    codes = np.empty(len(pixels), np.intp)
    is_changed = True
    while is_changed:
        is_changed = False
        for turn in range(2):
            for i in range(len(pixels)):
                codes[i] = 0
                for k in range(8):
                    if padded[pixels[i, 0] + _NEIGHBOURS[k][0], pixels[i, 1] + _NEIGHBOURS[k][1]]:
                        codes[i] += 1 << k
            for i in range(len(pixels)):
                if padded[pixels[i, 0], pixels[i, 1]] and peeled[turn, codes[i]]:
                    padded[pixels[i, 0], pixels[i, 1]] = False
                    is_changed = True


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
    disc = np.zeros(joints.max() + 1)
    np.maximum.at(disc, joints[forks], radius[forks])
    shortest: dict[int, tuple[float, int]] = {}
    for number, window in enumerate(ndimage.find_objects(labels), 1):
        inside = labels[window] == number
        beside = set(touched[window][inside].tolist()) - {0}
        if len(beside) != 1 or np.count_nonzero(touched[window] * inside) > 1 + inside.sum() // 2 > 2:
            continue  # between two forks, or a loop
        y, x = np.nonzero(inside)
        length = float(np.hypot(np.ptp(y), np.ptp(x)) + 1)
        fork = beside.pop()
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
