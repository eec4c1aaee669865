"""Copies among images: of many equal thumbnails one is compared with others, for all of them.

The pairs of a few copies are found like any others; n copies would be n * (n - 1) / 2 pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xxhash

from contrail_data.splits.leaks import Matches
from contrail_data.splits.near import expanded
from contrail_data.splits.pairs import LargeGroup
from contrail_data.store.samples import Ints

Bools = npt.NDArray[np.bool_]
Images = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Copies:
    """Which image stands for each one of two sets, or twice of one."""

    of_a: Ints
    """(image) the image of A that stands for it: itself, unless it is in a large group of copies."""
    of_b: Ints
    """(image) the same for B."""
    within: bool
    """Whether B is A."""
    groups: list[LargeGroup]
    """The large groups."""

    @property
    def chosen(self) -> tuple[Bools, Bools]:
        """(image) whether it stands for itself, of A and of B."""
        first, second = (leaders == np.arange(len(leaders)) for leaders in (self.of_a, self.of_b))
        return first, second

    def expand(self, matches: Matches, queried_a: Bools, queried_b: Bools) -> Matches:
        """Add the pairs of copies to those of the images that stand for them.

        Each copy is paired with what its image is paired with, and within a set with its image.

        Args:
            matches: Pairs of images that stand for themselves.
            queried_a: (image) whether pairs of it are wanted.
            queried_b: (image) the same for B. A pair is wanted if that holds for one of its images.

        Returns:
            All pairs, in order.
        """
        row_a, of_a = _members(self.of_a, matches.a)
        row_b, of_b = _members(self.of_b, matches.b)
        row = np.append(row_a, row_b)
        first, second = np.append(of_a, matches.a[row_b]), np.append(matches.b[row_a], of_b)
        score, moved = matches.correlation[row], matches.moved[row]
        if self.within:
            copies = np.flatnonzero(~self.chosen[0])
            first, second = np.append(first, self.of_a[copies]), np.append(second, copies)
            score, moved = np.append(score, np.ones(len(copies))), np.append(moved, np.zeros(len(copies), bool))
            first, second = np.minimum(first, second), np.maximum(first, second)
        wanted = np.flatnonzero(queried_a[first] | queried_b[second])
        once = wanted[np.unique(first[wanted] * len(self.of_b) + second[wanted], return_index=True)[1]]
        return Matches(first[once], second[once], score[once], moved[once])


def find_copies(
    a: Images, b: Images, queried_a: Bools, queried_b: Bools, *, within: bool, listed: int | None
) -> Copies:
    """Choose which images stand for their copies.

    Args:
        a: (image, channel, y, x) thumbnails; 0 for those that resemble nothing.
        b: The same for B.
        queried_a: (image) whether it is looked up; such an image is chosen if there is one.
        queried_b: (image) the same for B.
        within: Whether B is A.
        listed: Size of a group above which one stands for the others; None lets each stand for itself.

    Returns:
        The choice.
    """
    of_a, of_b = np.arange(len(a)), np.arange(len(b))
    if listed is None:
        return Copies(of_a, of_b, within, [])
    digests = [xxhash.xxh3_128_digest(np.ascontiguousarray(image).data) for images in (a, b) for image in images]
    code = np.unique(np.array(digests, "V16"), return_inverse=True)[1].reshape(-1)
    rows = np.flatnonzero(np.concatenate([images.any((1, 2, 3)) for images in (a, b)]))
    queried = np.concatenate([queried_a, queried_b])
    is_b = rows >= len(a)
    count_a, count_b = (np.bincount(code[rows[side]], minlength=len(digests)) for side in (~is_b, is_b))
    groups = []
    for group in np.flatnonzero((count_a + count_b > listed * (1 + within)) & (count_a > 0) & (count_b > 0)):
        members = rows[code[rows] == group]
        members = members[np.argsort(~queried[members], kind="stable")]
        own, other = members[members < len(a)], members[members >= len(a)] - len(a)
        of_a[own], of_b[other] = own[0], other[0]
        groups.append(LargeGroup(int(own[0]), len(own), 0 if within else len(other)))
    return Copies(of_a, of_b, within, groups)


def _members(leaders: Ints, chosen: Ints) -> tuple[Ints, Ints]:
    """For chosen images, the number of the choice and each image that it stands for."""
    order = np.argsort(leaders, kind="stable")
    low, high = (np.searchsorted(leaders[order], chosen, side) for side in ("left", "right"))
    row, position = expanded(low, high)
    return row, order[position]
