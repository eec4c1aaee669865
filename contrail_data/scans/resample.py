"""Where pixels of one grid lie on another, and interpolation between the grids."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import scipy  # which imports its submodules at their first use

from contrail_data.compiled import compiled

Array = npt.NDArray[np.float64]


def interpolated(
    exact: Callable[[Array, Array], tuple[Array, Array]],
    height: int,
    width: int,
    spline: Callable[[Array, Array, Array], Array],
) -> tuple[Array, Array]:
    """Evaluate `exact(rows, columns)` for all pixels, (height, width) each, by bicubic splines over every 16th pixel.

    Projections are so smooth that the error is below 1e-5 pixel from a tile to the satellite's grid, and below 1e-2
    pixel back from it at a view zenith angle of 60 degrees (see the tests); splines are several times faster. If one of
    the knots is not visible, every pixel is computed exactly.

    Args:
        exact: Two functions of fractional rows and columns in one; NaN where a place is not visible.
        height: Rows.
        width: Columns.
        spline: `spline_of_scipy` or `spline_of_weights`.

    Returns:
        Values of both functions.
    """
    rows, columns = _knots(height), _knots(width)
    if min(len(rows), len(columns)) > 3:
        at_knots = exact(*np.meshgrid(rows, columns, indexing="ij"))
        if all(np.isfinite(values).all() for values in at_knots):
            first, second = (spline(rows, columns, values) for values in at_knots)
            return first, second
    pixels = [np.arange(n, dtype=np.float64) for n in (height, width)]
    return exact(*np.meshgrid(*pixels, indexing="ij"))


@lru_cache(maxsize=1024)
def _knots(count: int) -> Array:
    """Every 16th pixel and the last one, not to be changed."""
    return np.unique(np.append(np.arange(0, count, 16), count - 1)).astype(np.float64)


def spline_of_scipy(rows: Array, columns: Array, values: Array) -> Array:
    """Evaluate a spline by scipy. Source digests of samples depend on its exact bits, so it must not change.

    Args:
        rows: Knots along the rows; the last one is the last row.
        columns: Knots along the columns, likewise.
        values: Values at the knots.

    Returns:
        Values at all pixels.
    """
    height, width = rows[-1] + 1, columns[-1] + 1
    evaluated = scipy.interpolate.RectBivariateSpline(rows, columns, values)(np.arange(height), np.arange(width))
    return np.asarray(evaluated)


def spline_of_weights(rows: Array, columns: Array, values: Array) -> Array:
    """Evaluate the same spline, except for rounding, in half of the time.

    Args:
        rows: As for `spline_of_scipy`.
        columns: Likewise.
        values: Likewise.

    Returns:
        Values at all pixels.
    """
    down, across = (_spline_weights(int(knots[-1]) + 1) for knots in (rows, columns))
    return np.asarray(np.einsum("hk,kw->hw", down, np.einsum("kl,wl->kw", values, across)))


@lru_cache(maxsize=1024)
def _spline_weights(count: int) -> Array:
    """Weight of each knot in each pixel of a cubic spline, (pixel, knot)."""
    knots = _knots(count)
    return np.asarray(scipy.interpolate.make_interp_spline(knots, np.eye(len(knots)))(np.arange(count)))


@compiled
def interpolate(
    source_tbyx: npt.NDArray[np.float32],
    rows_hw: Array,
    columns_hw: Array,
    corner: tuple[int, int],
    size: tuple[int, int],
    out_bhwt: npt.NDArray[np.float32],
) -> None:
    """Interpolate bilinearly at the pixels that lie on a grid, of which the source is the window at a corner.

    Neighbours without weight do not count, even if they are missing.

    Args:
        source_tbyx: Pixels of the window, contiguous.
        rows_hw: Fractional rows on the grid; NaN where not visible.
        columns_hw: Fractional columns, likewise.
        corner: First row and column of the window.
        size: Rows and columns of the grid.
        out_bhwt: Where to put the result; pixels off the grid stay as they are.
    """
    times, bands, height, width = source_tbyx.shape
    one, least = np.float32(1), np.float32(1e-6)
    places = np.empty((rows_hw.shape[1], 4), np.int64)  # of the four neighbours within a plane
    weights = np.empty((rows_hw.shape[1], 4), np.float32)
    for h in range(rows_hw.shape[0]):
        for w in range(rows_hw.shape[1]):
            row, column = rows_hw[h, w], columns_hw[h, w]
            if not (row > -0.5 and row < size[0] - 0.5 and column > -0.5 and column < size[1] - 0.5):
                places[w, 0] = -1
                continue
            row = min(max(row, 0.0), size[0] - 1.0) - corner[0]
            column = min(max(column, 0.0), size[1] - 1.0) - corner[1]
            i, j = int(row), int(column)
            down, across = np.float32(row - i), np.float32(column - j)
            below, right = min(i + 1, height - 1), min(j + 1, width - 1)
            places[w, 0], places[w, 1] = i * width + j, i * width + right
            places[w, 2], places[w, 3] = below * width + j, below * width + right
            weights[w, 0], weights[w, 1] = (one - down) * (one - across), (one - down) * across
            weights[w, 2], weights[w, 3] = down * (one - across), down * across
        for t in range(times):
            for b in range(bands):
                plane = source_tbyx[t, b].reshape(-1)
                for w in range(rows_hw.shape[1]):
                    if places[w, 0] < 0:
                        continue
                    total = np.float32(0)
                    for n in range(4):
                        if weights[w, n] > least:
                            total += weights[w, n] * plane[places[w, n]]
                    out_bhwt[b, h, w, t] = total
