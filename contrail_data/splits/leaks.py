"""Find pairs of records that leak into each other, from metadata only: ids, raw data, footprint and time.

Where place or time is unknown, `images` finds pairs whose images show one scene.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.splits.copies import LargeGroup
from contrail_data.splits.keys import MINUTE, Columns, Pairs, RecordKeys, gaps, overlaps
from contrail_data.splits.pairs import MAX_MINUTES, MIN_OVERLAP, equal_pairs, footprint_copies, footprint_pairs
from contrail_data.store.samples import Floats, Ints


class Matches(NamedTuple):
    """Pairs of samples of two stores, or twice of the same one, whose images show one scene (see `images`)."""

    a: Ints
    """(pair) sample of the one store."""
    b: Ints
    """(pair) sample of the other store; within one store, a later sample."""
    correlation: Floats
    """(pair) correlation of the images."""
    moved: npt.NDArray[np.bool_]
    """(pair) whether one image is shifted, mirrored or turned relative to the other."""


NO_MATCHES = Matches(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros(0, bool))


class LeakKind(StrEnum):
    """What the two records of a pair share."""

    ID = "id"
    """The record id."""
    DATA = "data"
    """The raw data of a band."""
    FOOTPRINT = "footprint"
    """Place and time: their tiles overlap at about the same time."""
    IMAGE = "image"
    """The scene in the image."""
    LABEL = "label"
    """The same image, with two different masks."""


_KINDS = tuple(LeakKind)


@dataclass(frozen=True)
class Leaks(Columns):
    """Pairs of records, one of A and one of B, that leak into each other. One row per pair and kind."""

    code: npt.NDArray[np.int8]
    """(pair) index into the kinds, see `of`."""
    a: Ints
    """(pair) index into the records of A."""
    b: Ints
    """(pair) index into the records of B. Without a B: index into those of A, above `a`."""
    overlap: Floats
    """(pair) share of the smaller footprint that the footprints have in common; NaN if unknown."""
    minutes: Floats
    """(pair) minutes between the labelled frames; NaN if unknown."""
    gap: Floats
    """(pair) minutes between the last frame of one sequence and the first of the other; 0 if they share time."""
    similarity: Floats
    """(pair) correlation of the images; NaN for pairs that share something else."""
    dice: Floats
    """(pair) Dice coefficient of the two masks; NaN if they were not compared or both are empty."""

    def __len__(self) -> int:
        return len(self.a)

    @property
    def kind(self) -> npt.NDArray[np.str_]:
        """(pair) values of `LeakKind`."""
        return np.array(_KINDS, np.str_)[self.code]

    def of(self, *kinds: LeakKind) -> npt.NDArray[np.bool_]:
        """Select pairs by kind.

        Args:
            *kinds: The kinds.

        Returns:
            (pair) whether it is of one of the kinds.
        """
        return np.isin(self.code, [_KINDS.index(kind) for kind in kinds])

    def as_kind(self, kind: LeakKind) -> Leaks:
        """Return the same pairs as pairs of another kind.

        Args:
            kind: The kind.

        Returns:
            The pairs.
        """
        return replace(self, code=np.full(len(self), _KINDS.index(kind), np.int8))


def find_leaks(
    records_a: xr.Dataset,
    records_b: xr.Dataset | None = None,
    minutes: float = MAX_MINUTES,
    overlap: float = MIN_OVERLAP,
    images: Matches = NO_MATCHES,
    listed: int | None = None,
) -> Leaks:
    """Find pairs of records that share an id, raw data, or footprint and time, and describe those that share a scene.

    Args:
        records_a: Scalars of store A, or records of a metadata file.
        records_b: The same for B. None finds pairs within A.
        minutes: Maximum time between two sequences of overlapping tiles for them to count as related.
        overlap: Share of the smaller footprint above which two footprints overlap.
        images: Pairs of similar images.
        listed: Where more records than this have one id, raw data of a band, or place and time, list only pairs of
            each with a first one, see `large_groups`. None lists all.

    Returns:
        The pairs, of all kinds but `LABEL`.
    """
    a = RecordKeys.of(records_a)
    b = a if records_b is None else RecordKeys.of(records_b)
    (same_id, _), (same_data, _) = _equal(a, b, listed).values()
    placed = footprint_pairs(a, b, minutes, overlap, listed)
    shared = [
        _described(a, b, kind, pairs, overlaps(a, b, pairs))
        for kind, pairs in ((LeakKind.ID, same_id), (LeakKind.DATA, same_data), (LeakKind.IMAGE, images[:2]))
    ]
    by_footprint = _described(a, b, LeakKind.FOOTPRINT, (placed.a, placed.b), placed.overlap)
    by_image = replace(shared.pop(), similarity=images.correlation)
    return Leaks.concatenate([*shared, by_footprint, by_image])


def large_groups(records_a: xr.Dataset, records_b: xr.Dataset | None, listed: int) -> dict[LeakKind, list[LargeGroup]]:
    """Find the groups of which `find_leaks` does not list all pairs.

    Args:
        records_a: Scalars of store A.
        records_b: The same for B. None finds groups within A.
        listed: See `find_leaks`.

    Returns:
        The groups by kind.
    """
    a = RecordKeys.of(records_a)
    b = a if records_b is None else RecordKeys.of(records_b)
    groups = {kind: groups for kind, (_, groups) in _equal(a, b, listed).items()}
    return groups | {LeakKind.FOOTPRINT: footprint_copies(a, b, listed).groups}


def _equal(a: RecordKeys, b: RecordKeys, listed: int | None) -> dict[LeakKind, tuple[Pairs, list[LargeGroup]]]:
    """Pairs that share an id, and raw data."""
    rows_a, rows_b, within = np.arange(len(a)), np.arange(len(b)), a is b
    return {
        LeakKind.ID: equal_pairs(a.record_id, rows_a, b.record_id, rows_b, within=within, listed=listed),
        LeakKind.DATA: equal_pairs(a.token, a.token_of, b.token, b.token_of, within=within, listed=listed),
    }


@dataclass(frozen=True)
class Checked:
    """How many records of a set can be compared with others, by what is compared."""

    records: int
    id: int
    data: int
    footprint: int
    image: int
    unchecked: int
    """Those without place or time whose image was not compared either: only id and raw data can reveal a relation."""

    @classmethod
    def of(cls, records: xr.Dataset, compared: npt.NDArray[np.bool_]) -> Checked:
        """Count the records of a set.

        Args:
            records: Scalars of a store.
            compared: (sample) whether the image was compared.

        Returns:
            The counts.
        """
        placed, count = RecordKeys.of(records).placed, len(compared)
        return cls(
            records=count,
            id=count,
            data=sum(bool(str(digest)) for digest in records["source_digest"].values),
            footprint=int(placed.sum()),
            image=int(compared.sum()),
            unchecked=int((~placed & ~compared).sum()),
        )

    def note(self, name: str) -> str:
        """Say how many records could hardly be compared.

        Args:
            name: Name of the set.

        Returns:
            The note; empty if there are none.
        """
        if not self.unchecked:
            return ""
        return (
            f"{name}: {self.unchecked:,} of {self.records:,} records lack place or time, and their images were not "
            "compared: only ids and raw data can show how they are related"
        )


def _described(a: RecordKeys, b: RecordKeys, kind: LeakKind, pairs: Pairs, overlap: Floats) -> Leaks:
    """Pairs of a kind with overlap and times, and neither `similarity` nor `dice`."""
    i, j = pairs
    unknown = np.full(len(i), np.nan)
    return Leaks(
        code=np.full(len(i), _KINDS.index(kind), np.int8),
        a=i,
        b=j,
        overlap=overlap,
        minutes=np.abs(a.labelled[i] - b.labelled[j]) / MINUTE,
        gap=gaps(a, b, pairs),
        similarity=unknown,
        dice=unknown,
    )
