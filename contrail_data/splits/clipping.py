"""How far footprints overlap, as a compiled loop: records near each other may be millions of pairs."""

import math

import numpy as np

from contrail_data.compiled import compiled
from contrail_data.store.samples import Floats, Ints

_MOST = 16  # vertices of an intersection of two quadrilaterals, with room


@compiled
def common_shares(axes: Floats, corners: Floats, p: Ints, q: Ints) -> Floats:
    """Compute how far quadrilaterals on the sphere overlap.

    Corners are projected by Lambert's azimuthal equal-area projection about the centre of the one quadrilateral
    (Snyder, Map Projections, 24-2 to 24-4). The convex hull of the one is clipped by each edge of that of the other
    (Sutherland and Hodgman 1974).

    Args:
        axes: (site, 3, 3) unit vectors to the east, to the north and to the zenith at each centre.
        corners: (site, 4, 3) unit vectors of the corners, in any order.
        p: (pair) index of the one.
        q: (pair) index of the other.

    Returns:
        (pair) common area as a share of the smaller one; 0 if that is empty.
    """
    shares = np.zeros(len(p))
    flat = np.empty((2, 4, 2))
    hulls = np.empty((2, _MOST, 2))
    clipped = np.empty((2, _MOST, 2))
    for k in range(len(p)):
        smaller = math.inf
        counts = (0, 0)
        for side in range(2):
            site = q[k] if side else p[k]
            _project(axes[p[k]], corners[site], flat[side])
            count = _hull(flat[side], hulls[side])
            counts = (counts[0], count) if side else (count, count)
            smaller = min(smaller, _area(hulls[side], count))
        if smaller > 0:
            shares[k] = min(_common_area(hulls, counts, clipped) / smaller, 1.0)
    return shares


@compiled
def _project(axes: Floats, corners: Floats, out: Floats) -> None:
    """Project corners about a centre, in radii of the sphere."""
    for corner in range(4):
        x, y, z = 0.0, 0.0, 0.0
        for i in range(3):
            x += axes[0, i] * corners[corner, i]
            y += axes[1, i] * corners[corner, i]
            z += axes[2, i] * corners[corner, i]
        scale = math.sqrt(2 / max(1 + z, 1e-12))
        out[corner, 0], out[corner, 1] = scale * x, scale * y


@compiled
def _turn(a: Floats, b: Floats, c: Floats) -> float:
    """Twice the area of a triangle; positive if it turns to the left."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


@compiled
def _hull(points: Floats, out: Floats) -> int:
    """Write the convex hull of four points, which are put in order, to the left; return how many points it has."""
    for i in range(1, 4):  # by x, then y
        j = i
        while j > 0 and (points[j, 0], points[j, 1]) < (points[j - 1, 0], points[j - 1, 1]):
            for axis in range(2):
                points[j, axis], points[j - 1, axis] = points[j - 1, axis], points[j, axis]
            j -= 1
    count, least = 0, 2
    for step in range(7):  # the lower chain, then the upper one (Andrew 1979)
        i = step if step < 4 else 6 - step
        while count >= least and _turn(out[count - 2], out[count - 1], points[i]) <= 0:
            count -= 1
        out[count] = points[i]
        count += 1
        if step == 3:
            least = count + 1
    return count - 1


@compiled
def _area(polygon: Floats, count: int) -> float:
    """Area of a polygon whose vertices turn to the left."""
    twice = 0.0
    for i in range(1, count - 1):
        twice += _turn(polygon[0], polygon[i], polygon[i + 1])
    return twice / 2


@compiled
def _common_area(hulls: Floats, counts: tuple[int, int], clipped: Floats) -> float:
    """Area of the intersection of two convex polygons; `clipped` is memory for it."""
    count, current = counts[0], 0
    clipped[0, :count] = hulls[0, :count]
    for edge in range(counts[1]):
        start, end = hulls[1, edge], hulls[1, (edge + 1) % counts[1]]
        old, new = clipped[current], clipped[1 - current]
        kept = 0
        for i in range(count):
            a, b = old[i], old[(i + 1) % count]
            side_a, side_b = _turn(start, end, a), _turn(start, end, b)
            if side_a >= 0:
                new[kept] = a
                kept += 1
            if (side_a > 0 and side_b < 0) or (side_a < 0 and side_b > 0):
                share = side_a / (side_a - side_b)
                for axis in range(2):
                    new[kept, axis] = a[axis] + share * (b[axis] - a[axis])
                kept += 1
        count, current = kept, 1 - current
    return _area(clipped[current], count)
