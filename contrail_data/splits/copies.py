"""Records that are copies of each other: of many, one is compared with others, for all of them.

The pairs of a few copies are found like any others; n copies would be n * (n - 1) / 2 pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from contrail_data.splits.near import expanded
from contrail_data.store.samples import Ints

Bools = npt.NDArray[np.bool_]
NO_COPY = -1
"""Code of what is no copy of anything."""


class LargeGroup(NamedTuple):
    """More records than are listed pair by pair, with something in common: only pairs with a first one are listed."""

    first: int
    """Index into A of the first one."""
    of_a: int
    """Number of records of A."""
    of_b: int
    """Number of records of B; 0 within one set."""


@dataclass(frozen=True)
class Copies:
    """Which record stands for each one of two sets, or twice of one."""

    of_a: Ints
    """(record) the record of A that stands for it: itself, unless it is in a large group of copies."""
    of_b: Ints
    """(record) the same for B."""
    within: bool
    """Whether B is A."""
    groups: list[LargeGroup]
    """The large groups."""

    @property
    def chosen(self) -> tuple[Bools, Bools]:
        """(record) whether it stands for itself, of A and of B."""
        first, second = (leaders == np.arange(len(leaders)) for leaders in (self.of_a, self.of_b))
        return first, second

    def expand(self, a: Ints, b: Ints) -> tuple[Ints, Ints, Ints]:
        """Add the pairs of copies to those of the records that stand for them.

        Each copy is paired with what its record is paired with, and within a set with its record.

        Args:
            a: (pair) record of A that stands for itself.
            b: (pair) the same of B; within one set, another record.

        Returns:
            All pairs, each once and in order, within one set with the first before the second; and the number of the
            pair from which each comes, -1 for that of a copy with its record.
        """
        row_a, of_a = _members(self.of_a, a)
        row_b, of_b = _members(self.of_b, b)
        row = np.append(row_a, row_b)
        first, second = np.append(of_a, a[row_b]), np.append(b[row_a], of_b)
        if self.within:
            copies = np.flatnonzero(~self.chosen[0])
            row = np.append(row, np.full(len(copies), -1))
            first, second = np.append(first, self.of_a[copies]), np.append(second, copies)
            first, second = np.minimum(first, second), np.maximum(first, second)
        once = np.unique(first * len(self.of_b) + second, return_index=True)[1]
        return first[once], second[once], row[once]


def find_copies(
    code_a: Ints, code_b: Ints, preferred_a: Bools, preferred_b: Bools, *, within: bool, listed: int | None
) -> Copies:
    """Choose which records stand for their copies.

    Args:
        code_a: (record) number that copies have in common; `NO_COPY` for one that is no copy.
        code_b: The same for B.
        preferred_a: (record) whether it is chosen before others.
        preferred_b: The same for B.
        within: Whether B is A.
        listed: Size of a group above which one stands for the others; None lets each stand for itself.

    Returns:
        The choice.
    """
    of_a, of_b = np.arange(len(code_a)), np.arange(len(code_b))
    if listed is None:
        return Copies(of_a, of_b, within, [])
    count_a, count_b = (
        np.bincount(code[code != NO_COPY], minlength=max(code_a.max(initial=0), code_b.max(initial=0)) + 1)
        for code in (code_a, code_b)
    )
    groups = []
    for group in np.flatnonzero((count_a + count_b > listed * (1 + within)) & (count_a > 0) & (count_b > 0)):
        own, other = (
            members[np.argsort(~preferred[members], kind="stable")]
            for members, preferred in (
                (np.flatnonzero(code_a == group), preferred_a),
                (np.flatnonzero(code_b == group), preferred_b),
            )
        )
        of_a[own], of_b[other] = own[0], other[0]
        groups.append(LargeGroup(int(own[0]), len(own), 0 if within else len(other)))
    return Copies(of_a, of_b, within, groups)


def _members(leaders: Ints, chosen: Ints) -> tuple[Ints, Ints]:
    """For chosen records, the number of the choice and each record that it stands for."""
    order = np.argsort(leaders, kind="stable")
    low, high = (np.searchsorted(leaders[order], chosen, side) for side in ("left", "right"))
    row, position = expanded(low, high)
    return row, order[position]
