"""Pieces of centre lines that continue each other, over forks, crossings and gaps, as one line."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy  # which imports its submodules at their first use

from contrail_data.compiled import compiled
from contrail_train.contrails.axes import fitted_ends
from contrail_train.contrails.cleaning import Mask
from contrail_train.contrails.polyline import Points, densified, length_of

_SIGHT = 12.0
"""Pixels of a piece that its direction at an end is measured over."""


@dataclass(frozen=True, kw_only=True)
class Linking:
    """When two ends of pieces are taken as one line."""

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


def link(pieces: Sequence[Points], mask_yx: Mask, linking: Linking) -> list[list[Part]]:
    """Link the ends of pieces that continue each other, the best pairs first, each end once.

    Args:
        pieces: Points along each piece, about a pixel apart, (point, 2).
        mask_yx: The mask that they are from.
        linking: When ends are linked.

    Returns:
        The lines, each as its pieces in order. Each piece is part of one line.
    """
    lengths = np.array([length_of(piece) for piece in pieces])
    long = np.flatnonzero(lengths >= linking.shortest)
    partner: dict[tuple[int, bool], tuple[int, bool]] = {}
    if len(long) > 1:
        fitted = np.concatenate([fitted_ends(np.ascontiguousarray(pieces[number]), _SIGHT) for number in long.tolist()])
        ends = [(number, first) for number in long.tolist() for first in (True, False)]
        lines = scipy.cluster.hierarchy.DisjointSet(range(len(pieces)))
        for _, i, j in sorted(_candidates(fitted, np.repeat(long, 2), lengths, mask_yx, linking)):
            a, b = ends[i], ends[j]
            if a not in partner and b not in partner and lines.merge(a[0], b[0]):  # a ring stays open
                partner[a], partner[b] = b, a
    return _chains(pieces, partner)


def _candidates(
    ends: Points, piece: npt.NDArray[np.intp], lengths: Points, mask_yx: Mask, linking: Linking
) -> list[tuple[float, int, int]]:
    """Cost and indices of the pairs of ends, as of `fitted_ends`, of these pieces that may be linked."""
    point, direction = ends[:, 0], ends[:, 1]
    reach = max(linking.gap, linking.shared)
    a, b = _possible_pairs(ends, piece, reach, math.cos(math.radians(linking.turn))).T
    if not len(a):
        return []
    step = point[b] - point[a]
    distance = np.hypot(*step.T)
    mean_length = (lengths[piece[a]] + lengths[piece[b]]) / 2
    turn = np.degrees(np.arccos(np.clip(-(direction[a] * direction[b]).sum(1), -1, 1))) / linking.turn
    aside = np.maximum(*(np.abs(step[:, 0] * d[:, 1] - step[:, 1] * d[:, 0]) for d in (direction[a], direction[b])))
    aside /= linking.offset + 0.1 * distance
    ahead = np.minimum((step * direction[a]).sum(1), -(step * direction[b]).sum(1)) >= -linking.offset
    fits = ahead & (turn <= 1) & (aside <= 1) & (distance <= 2 * mean_length)
    cost = turn**2 + aside**2 + distance / linking.shared
    candidates = []
    for k in np.flatnonzero(fits):
        gap = _gap(point[a[k]], point[b[k]], mask_yx)
        if gap <= min(linking.gap, mean_length[k]):
            i, j = sorted((int(a[k]), int(b[k])))
            candidates.append((float(cost[k] + gap / linking.gap), i, j))
    return candidates


@compiled
def _possible_pairs(ends: Points, piece: npt.NDArray[np.intp], reach: float, cosine: float) -> npt.NDArray[np.intp]:
    """Indices (pair, 2) of the ends of different pieces within reach whose directions differ by no more than this."""
    pairs, count = np.empty((0, 2), np.intp), 0
    for turn in range(2):  # counts the pairs, then writes them
        if turn == 1:
            pairs, count = np.empty((count, 2), np.intp), 0
        for i in range(len(ends)):
            for j in range(i + 1, len(ends)):
                dy, dx = ends[i, 0, 0] - ends[j, 0, 0], ends[i, 0, 1] - ends[j, 0, 1]
                opposite = -(ends[i, 1, 0] * ends[j, 1, 0] + ends[i, 1, 1] * ends[j, 1, 1])
                if piece[i] != piece[j] and dy * dy + dx * dx <= reach * reach and opposite >= cosine - 1e-9:
                    if turn == 1:
                        pairs[count, 0], pairs[count, 1] = i, j
                    count += 1
    return pairs


def _gap(start: Points, end: Points, mask_yx: Mask) -> float:
    """Length of the part of the way from a point to another that lies outside a mask."""
    way = densified(np.stack([start, end]))
    return float(np.hypot(*(end - start)) * (1 - _share_inside(way, mask_yx)))


@compiled
def _share_inside(way: Points, mask_yx: Mask) -> float:
    """Share of points in a mask, which goes on at its edges."""
    count = 0
    for i in range(len(way)):
        y = min(max(int(np.rint(way[i, 0])), 0), mask_yx.shape[0] - 1)
        x = min(max(int(np.rint(way[i, 1])), 0), mask_yx.shape[1] - 1)
        count += mask_yx[y, x]
    return count / len(way)


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
