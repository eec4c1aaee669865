"""The skeleton of a region, cut into pieces where lines meet or bend sharply."""

import math
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from contrail_data.compiled import compiled
from contrail_train.contrails.cleaning import EIGHT_CONNECTED, Labels, Mask
from contrail_train.contrails.pixel_graph import indices_yx, paths_of
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
        mask_yx: Mask, bool (y, x), with an empty border.

    Returns:
        The lines, of the same shape.
    """
    skeleton = mask_yx.copy()
    _peel(skeleton, _PEELED)
    return skeleton


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
def _pixels_of(mask: Mask) -> npt.NDArray[np.intp]:
    """Rows and columns of the pixels of a mask, by rows."""
    pixels, count = np.empty((mask.size, 2), np.intp), 0
    for y in range(mask.shape[0]):
        for x in range(mask.shape[1]):
            if mask[y, x]:
                pixels[count, 0], pixels[count, 1] = y, x
                count += 1
    return pixels[:count]


@compiled
def _peel(padded: Mask, peeled: Mask) -> None:
    """Remove pixels of a mask with an empty border, one subiteration after the other, until both leave it as it is."""
    pixels = _pixels_of(padded)
    codes, count = np.empty(len(pixels), np.intp), len(pixels)
    is_changed = True
    while is_changed:
        is_changed = False
        for turn in range(2):
            for i in range(count):
                codes[i] = 0
                for k in range(8):
                    if padded[pixels[i, 0] + _NEIGHBOURS[k][0], pixels[i, 1] + _NEIGHBOURS[k][1]]:
                        codes[i] += 1 << k
            left = 0
            for i in range(count):
                if peeled[turn, codes[i]]:
                    padded[pixels[i, 0], pixels[i, 1]] = False
                else:
                    pixels[left, 0], pixels[left, 1] = pixels[i, 0], pixels[i, 1]
                    left += 1
            is_changed = is_changed or left < count
            count = left


def pieces_of(mask_yx: Mask, sharpest: float) -> list[Points]:
    """Cut the skeleton of a region into pieces without forks and sharp bends.

    Branches that do not leave the disc around their fork by a few pixels stem from a rough edge, and are left out.

    Args:
        mask_yx: One region, bool (y, x).
        sharpest: Bend in degrees above which a piece is cut.

    Returns:
        Rows and columns of the pixels of each piece, in order along it, float64 (pixel, 2); at least one piece.
    """
    padded = np.pad(mask_yx, 1)
    skeleton = thin(padded)
    forks = _forks(skeleton)
    if forks.any():
        radius = ndimage.distance_transform_edt(padded)
        while forks.any() and _remove_spurs(skeleton, *_numbered(forks), *_numbered(skeleton & ~forks), radius):
            skeleton = thin(skeleton)
            forks = _forks(skeleton)
    pixels = _pixels_of(skeleton & ~forks)
    if not len(pixels):
        return []
    order, ends = paths_of(pixels, indices_yx(pixels))
    ordered = (pixels[order] - 1).astype(np.float64)
    paths = [ordered[start:end] for start, end in pairwise([0, *ends])]
    return [part for path in paths for part in _cut_at_bends(path, sharpest)]


def _numbered(mask_yx: Mask) -> tuple[Labels, int]:
    labels_yx, count = ndimage.label(mask_yx, EIGHT_CONNECTED)
    return labels_yx, count


@compiled
def _forks(skeleton: Mask) -> Mask:
    """The pixels of a padded skeleton with at least three neighbours in it."""
    forks = np.zeros(skeleton.shape, np.bool_)
    pixels = _pixels_of(skeleton)
    for i in range(len(pixels)):
        y, x, count = pixels[i, 0], pixels[i, 1], 0
        for k in range(8):
            count += skeleton[y + _NEIGHBOURS[k][0], x + _NEIGHBOURS[k][1]]
        forks[y, x] = count >= 3
    return forks


@compiled
def _remove_spurs(
    skeleton: Mask, fork_of: Labels, joints: int, branch_of: Labels, branches: int, radius: npt.NDArray[np.float64]
) -> bool:
    """Remove branches that end freely and are short, only the shortest one of each fork; say whether there are any.

    The pixels of the skeleton belong to numbered forks and branches; `radius` is the distance of pixels to the nearest
    one outside of the region. All images are padded.
    """
    pixels = _pixels_of(skeleton)
    disc, shortest, spur = np.zeros(joints + 1), np.full(joints + 1, np.inf), np.zeros(joints + 1, np.intp)
    # Of each branch: its pixels; the fork beside it, or -1 if there are several; its pixels beside one; and its ends.
    size, fork, beside, top, bottom, left, right = np.zeros((7, branches + 1), np.intp)
    for i in range(len(pixels)):
        y, x = pixels[i, 0], pixels[i, 1]
        if fork_of[y, x] > 0:
            disc[fork_of[y, x]] = max(disc[fork_of[y, x]], radius[y, x])
        number, touched = branch_of[y, x], fork_of[y, x]
        for k in range(8):
            touched = max(touched, fork_of[y + _NEIGHBOURS[k][0], x + _NEIGHBOURS[k][1]])
        if touched > 0:
            fork[number] = touched if fork[number] == 0 or fork[number] == touched else -1
            beside[number] += 1
        if size[number] == 0:
            top[number], left[number], right[number] = y, x, x
        size[number] += 1
        bottom[number], left[number], right[number] = y, min(left[number], x), max(right[number], x)
    for number in range(1, branches + 1):
        half = 1 + size[number] // 2
        if fork[number] <= 0 or beside[number] > half > 2:
            continue  # between two forks, or a loop
        length = math.hypot(bottom[number] - top[number], right[number] - left[number]) + 1
        if length < min(disc[fork[number]] + _SPUR, shortest[fork[number]]):
            shortest[fork[number]], spur[fork[number]] = length, number
    is_removed = False
    for i in range(len(pixels)):
        number = branch_of[pixels[i, 0], pixels[i, 1]]
        if number > 0 and fork[number] > 0 and spur[fork[number]] == number:
            skeleton[pixels[i, 0], pixels[i, 1]] = False
            is_removed = True
    return is_removed


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
