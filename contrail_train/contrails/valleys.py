"""Valleys of the probability: pixels between two lines side by side that a mask joins.

The loops are compiled: a region is so small that scipy's filters take longer to be called than to work. The tests
compare with `scipy.ndimage`.
"""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from contrail_data.compiled import compiled
from contrail_train.contrails.cleaning import Mask

_DEPTH, _LONG = 0.15, 4
"""A valley is lower than both sides by this share, and has this many pixels."""
_BLUR = ndimage.gaussian_filter1d(np.eye(1, 5, 2)[0], 0.6, mode="constant")[2:]
"""Weights of a pixel and of its first and second neighbours, which suppress the noise of single pixels."""


def valleys(p_yx: npt.NDArray[np.floating], inside_yx: Mask) -> Mask:
    """Find the pixels between two lines, whose probability is lower than on both sides.

    Args:
        p_yx: Probability of a contrail, 0 outside of the region, (y, x).
        inside_yx: The region, same shape.

    Returns:
        The pixels, of the same shape.
    """
    low_yx = _low(p_yx, inside_yx, _BLUR, p_yx.dtype.type(_DEPTH))
    _remove_short(low_yx)
    return low_yx


@compiled
def _remove_short(low: Mask) -> None:
    """Remove the regions of a mask that have too few pixels."""
    pixels = np.empty((low.size, 2), np.intp)
    is_visited = np.zeros(low.shape, np.bool_)
    for top in range(low.shape[0]):
        for left in range(low.shape[1]):
            if is_visited[top, left] or not low[top, left]:
                continue
            pixels[0, 0], pixels[0, 1], is_visited[top, left] = top, left, True
            done, count = 0, 1
            while done < count:
                y, x = pixels[done, 0], pixels[done, 1]
                done += 1
                for other_y in range(max(y - 1, 0), min(y + 2, low.shape[0])):
                    for other_x in range(max(x - 1, 0), min(x + 2, low.shape[1])):
                        if low[other_y, other_x] and not is_visited[other_y, other_x]:
                            is_visited[other_y, other_x] = True
                            pixels[count, 0], pixels[count, 1] = other_y, other_x
                            count += 1
            if count < _LONG:
                for i in range(count):
                    low[pixels[i, 0], pixels[i, 1]] = False


@compiled
def _low(p: npt.NDArray[np.floating], inside: Mask, blur: npt.NDArray[np.float64], depth: np.floating) -> Mask:
    """The pixels of a region where a closing raises the blurred probability."""
    smooth = _blurred(p, blur)
    filled = _negative_of_largest(_negative_of_largest(smooth))
    low = np.empty(p.shape, np.bool_)
    for y in range(p.shape[0]):
        for x in range(p.shape[1]):
            low[y, x] = inside[y, x] and filled[y, x] - smooth[y, x] > depth * filled[y, x]
    return low


@compiled
def _blurred(p: npt.NDArray[np.floating], blur: npt.NDArray[np.float64]) -> npt.NDArray[np.floating]:
    """A blurred image, which mirrors extend beyond its edges."""
    rows, out = np.empty_like(p), np.empty_like(p)
    for y in range(p.shape[0]):
        a, b = _mirrored(y - 2, p.shape[0]), _mirrored(y - 1, p.shape[0])
        c, d = _mirrored(y + 1, p.shape[0]), _mirrored(y + 2, p.shape[0])
        for x in range(p.shape[1]):
            far, near = np.float64(p[a, x]) + p[d, x], np.float64(p[b, x]) + p[c, x]
            rows[y, x] = p[y, x] * blur[0] + far * blur[2] + near * blur[1]
    for x in range(p.shape[1]):
        a, b = _mirrored(x - 2, p.shape[1]), _mirrored(x - 1, p.shape[1])
        c, d = _mirrored(x + 1, p.shape[1]), _mirrored(x + 2, p.shape[1])
        for y in range(p.shape[0]):
            far, near = np.float64(rows[y, a]) + rows[y, d], np.float64(rows[y, b]) + rows[y, c]
            out[y, x] = rows[y, x] * blur[0] + far * blur[2] + near * blur[1]
    return out


@compiled
def _mirrored(i: int, size: int) -> int:
    """The pixel that a place beyond an edge shows."""
    i %= 2 * size
    return i if i < size else 2 * size - 1 - i


@compiled
def _negative_of_largest(p: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """The largest value near each pixel, with the other sign: applied twice, it closes."""
    rows, out = p.copy(), np.empty_like(p)
    for step in (-2, -1, 1, 2):
        for y in range(max(-step, 0), min(p.shape[0], p.shape[0] - step)):
            for x in range(p.shape[1]):
                rows[y, x] = max(rows[y, x], p[y + step, x])
    for y in range(p.shape[0]):
        for x in range(p.shape[1]):
            out[y, x] = -rows[y, x]
        for step in (-2, -1, 1, 2):
            for x in range(max(-step, 0), min(p.shape[1], p.shape[1] - step)):
                out[y, x] = min(out[y, x], -rows[y, x + step])
    return out
