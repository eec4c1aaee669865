"""Pieces of centre lines that continue each other, over forks, crossings and gaps, as one line."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy  # which imports its submodules at their first use

from contrail_train.contrails.axes import major_axis
from contrail_train.contrails.cleaning import Mask
from contrail_train.contrails.polyline import Points, densified, length_of

_SIGHT = 12.0
"""Length of a piece over which the direction of its end is measured (pixel)."""


@dataclass(frozen=True, kw_only=True)
class Linking:
    """Limits within which the ends of two pieces are joined to one line."""

    gap: float = 16.0
    """Largest gap in the mask between the ends (pixel), and at most the mean length of both pieces."""
    shared: float = 64.0
    """Largest distance between the ends (pixel), which includes the part that crossing lines share."""
    turn: float = 25.0
    """Largest change of direction (degree)."""
    offset: float = 2.0
    """Largest distance of an end from the line through the other piece (pixel); a tenth of the distance is added."""
    shortest: float = 4.0
    """Pieces below this length (pixel) have no direction, and are not linked."""


class Part(NamedTuple):
    """A piece as part of a line."""

    piece: int
    """Its index."""
    points: Points
    """Its points, in the direction of the line."""


@dataclass(frozen=True, kw_only=True)
class _End:
    """One end of a piece."""

    piece: int
    first: bool
    """Whether it is the first point of the piece or the last."""
    point: Points
    """Row and column, on the line fitted to the end."""
    direction: Points
    """Unit vector out of the piece."""


def link(pieces: Sequence[Points], mask_yx: Mask, linking: Linking) -> list[list[Part]]:
    """Link the ends of pieces that continue each other, the best pairs first, each end once.

    Args:
        pieces: Points along each piece, about a pixel apart, (point, 2).
        mask_yx: The mask that they are from.
        linking: When ends are linked.

    Returns:
        The lines, each as its pieces in order. Each piece is part of one line.
    """
    lengths = [length_of(piece) for piece in pieces]
    ends = [
        _end(piece, number, first)
        for number, piece in enumerate(pieces)
        if lengths[number] >= linking.shortest
        for first in (True, False)
    ]
    partner: dict[tuple[int, bool], tuple[int, bool]] = {}
    lines = scipy.cluster.hierarchy.DisjointSet(range(len(pieces)))
    for _, i, j in sorted(_candidates(ends, lengths, mask_yx, linking)):
        a, b = ends[i], ends[j]
        free = (a.piece, a.first) not in partner and (b.piece, b.first) not in partner
        if free and lines.merge(a.piece, b.piece):  # a ring stays open
            partner[a.piece, a.first], partner[b.piece, b.first] = (b.piece, b.first), (a.piece, a.first)
    return _chains(pieces, partner)


def _end(piece: Points, number: int, first: bool) -> _End:
    outwards = piece[::-1] if first else piece
    distance = np.hypot(*(outwards - outwards[-1]).T)
    centre, direction = major_axis(outwards[distance <= _SIGHT])
    along = float((outwards[-1] - centre) @ direction)
    outward = direction if along >= 0 else -direction
    return _End(piece=number, first=first, point=centre + direction * along, direction=outward)


def _candidates(
    ends: Sequence[_End], lengths: Sequence[float], mask_yx: Mask, linking: Linking
) -> list[tuple[float, int, int]]:
    """Cost and indices of the pairs of ends that may be linked."""
    if len(ends) < 2:
        return []
    point, direction = (np.stack([getattr(end, name) for end in ends]) for name in ("point", "direction"))
    piece = np.array([end.piece for end in ends])
    reach = max(linking.gap, linking.shared)
    a, b = scipy.spatial.cKDTree(point).query_pairs(reach, output_type="ndarray").T
    step = point[b] - point[a]
    distance = np.hypot(*step.T)
    mean_length = (np.array(lengths)[piece[a]] + np.array(lengths)[piece[b]]) / 2
    turn = np.degrees(np.arccos(np.clip(-(direction[a] * direction[b]).sum(1), -1, 1))) / linking.turn
    aside = np.maximum(*(np.abs(step[:, 0] * d[:, 1] - step[:, 1] * d[:, 0]) for d in (direction[a], direction[b])))
    aside /= linking.offset + 0.1 * distance
    ahead = np.minimum((step * direction[a]).sum(1), -(step * direction[b]).sum(1)) >= -linking.offset
    fits = (piece[a] != piece[b]) & ahead & (turn <= 1) & (aside <= 1) & (distance <= 2 * mean_length)
    cost = turn**2 + aside**2 + distance / linking.shared
    candidates = []
    for k in np.flatnonzero(fits):
        gap = _gap(point[a[k]], point[b[k]], mask_yx)
        if gap <= min(linking.gap, mean_length[k]):
            i, j = sorted((int(a[k]), int(b[k])))
            candidates.append((float(cost[k] + gap / linking.gap), i, j))
    return candidates


def _gap(start: Points, end: Points, mask_yx: Mask) -> float:
    """Length of the part of the way from a point to another that lies outside a mask."""
    way = densified(np.stack([start, end]))
    y, x = np.rint(way).astype(np.intp).T.clip(0, np.array([mask_yx.shape]).T - 1)
    return float(np.hypot(*(end - start)) * (1 - mask_yx[y, x].mean()))


def _chains(pieces: Sequence[Points], partner: dict[tuple[int, bool], tuple[int, bool]]) -> list[list[Part]]:
    """Follow the links from the free ends."""
    chains, done = [], set()
    for start in range(len(pieces)):
        at = (start, True) if (start, True) not in partner else (start, False)
        if start in done or at in partner:
            continue
        chain = []
        while True:
            piece, first = at
            done.add(piece)
            chain.append(Part(piece, pieces[piece] if first else pieces[piece][::-1]))
            if (piece, not first) not in partner:
                break
            at = partner[piece, not first]
        chains.append(chain)
    return chains
