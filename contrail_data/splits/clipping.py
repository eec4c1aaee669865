"""How far footprints overlap. Records near each other may be millions of pairs, so many are clipped at once."""

import numpy as np
import numpy.typing as npt

from contrail_data.store.samples import Floats, Ints

_TOGETHER = 2048
"""Pairs whose arrays fit together in the cache of a processor's core."""
_ON_EDGE = 1e-12
"""Distance from an edge, times its length and in radii of the sphere, up to which a corner lies on it."""
_Points = npt.NDArray[np.complex128]
"""(pair, point) places in a plane, x + iy."""


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
    for start in range(0, len(p), _TOGETHER):
        part = slice(start, start + _TOGETHER)
        one, other = (_hull(_project(axes[p[part]], corners[site[part]])) for site in (p, q))
        smaller = np.minimum(*(_area(hull, np.roll(hull, -1, 1)) for hull in (one, other)))
        np.divide(_common_area(one, other), smaller, out=shares[part], where=smaller > 0)
    return np.minimum(shares, 1)


def _project(axes: Floats, corners: Floats) -> _Points:
    """Project corners (pair, 4, 3) about centres, in radii of the sphere."""
    x, y, z = np.moveaxis((axes[:, np.newaxis] * corners[:, :, np.newaxis]).sum(-1), -1, 0)
    return (x + 1j * y) * np.sqrt(2 / np.maximum(1 + z, 1e-12))


def _hull(points: _Points) -> _Points:
    """Convex hulls of four points, turning to the left; a point that lies within stands where another one does."""
    away = points - points.mean(1, keepdims=True)
    size = np.abs(away.real) + np.abs(away.imag)
    angle = np.copysign(1 - np.divide(away.real, size, out=np.zeros_like(size), where=size > 0), away.imag)
    ordered = np.take_along_axis(points, np.argsort(angle, 1), 1)
    before, after = np.roll(ordered, 1, 1), np.roll(ordered, -1, 1)
    return np.where(_cross(ordered - before, after - ordered) > 0, ordered, before)


def _cross(a: _Points, b: _Points) -> Floats:
    """Cross products of vectors in a plane."""
    return a.real * b.imag - a.imag * b.real


def _area(starts: _Points, ends: _Points) -> Floats:
    """(pair) area within edges that turn to the left."""
    return _cross(starts, ends).sum(1) / 2


def _common_area(one: _Points, other: _Points) -> Floats:
    """(pair) area of the intersection of two convex polygons.

    What is left of the one is kept as its edges, in no order. Those that lie beyond an edge of the other become empty,
    and a new one leads from where the outline goes beyond to where it comes back.
    """
    starts, ends = one, np.roll(one, -1, 1)
    for edge in range(4):
        first, second = other[:, [edge]], other[:, [(edge + 1) % 4]]
        inwards = [_cross(second - first, points - first) for points in (starts, ends)]
        starts_in, ends_in = (distance >= -_ON_EDGE for distance in inwards)
        leaves, returns = starts_in & ~ends_in, ~starts_in & ends_in
        share = np.divide(inwards[0], inwards[0] - inwards[1], out=np.zeros_like(inwards[0]), where=leaves | returns)
        crossing = starts + np.clip(share, 0, 1) * (ends - starts)
        new = ((crossing * passes).sum(1, keepdims=True) for passes in (leaves, returns))
        kept = (
            np.where(starts_in, starts, crossing * returns),
            np.where(ends_in, ends, crossing * leaves),
        )
        starts, ends = (np.append(points, place, axis=1) for points, place in zip(kept, new, strict=True))
    return _area(starts, ends)
