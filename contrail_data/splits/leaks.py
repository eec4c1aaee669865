"""Find pairs of records that leak into each other, from metadata only: ids, raw data, footprint and time.

Where place or time is unknown, `images` finds pairs whose images show one scene.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.store.samples import Floats, Ints, as_text, labelled_time

MAX_MINUTES = 70.0
"""Maximum time between the sequences of related records, in minutes: the length of a sequence of eight frames."""
MIN_OVERLAP = 0.001
"""Share of the smaller footprint. Taking curved edges as straight has an error of up to this."""
Pairs = tuple[Ints, Ints]
"""Pairs of records, as indices into two sets of records (or twice into the same one)."""
_EPOCH = np.datetime64("1970-01-01", "ns")


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


class _Columns:
    """A dataclass of arrays of equal length."""

    def __getitem__(self, rows: npt.NDArray[Any]) -> Self:
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))  # type: ignore[arg-type]

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Join the rows of several instances.

        Args:
            parts: The instances, in order.

        Returns:
            All rows.
        """
        return cls(*(np.concatenate([getattr(p, field.name) for p in parts]) for field in fields(cls)))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Leaks(_Columns):
    """Pairs of records, one of A and one of B, that leak into each other. One row per pair and kind."""

    kind: npt.NDArray[np.str_]
    """(pair) values of `LeakKind`."""
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


@dataclass(frozen=True)
class RecordKeys(_Columns):
    """What decides which records are related."""

    record_id: npt.NDArray[np.str_]
    token: npt.NDArray[np.str_]
    """(token) digest of the raw data of a band; a record has one for each band."""
    token_of: Ints
    """(token) index of the record."""
    first: Floats
    """(record) time of the first frame in minutes; NaN if unknown."""
    last: Floats
    """(record) time of the last frame in minutes; NaN if unknown."""
    labelled: Floats
    """(record) time of the labelled frame in minutes; NaN if unknown."""
    place: Floats
    """(record, 5, 2) latitude and longitude of the centre and the four corners, in degrees; NaN if unknown."""

    def __len__(self) -> int:
        return len(self.first)

    @property
    def placed(self) -> npt.NDArray[np.bool_]:
        """(record) whether place and time are known."""
        return np.isfinite(self.first) & np.isfinite(self.place).all((1, 2))

    @classmethod
    def of(cls, records: xr.Dataset) -> RecordKeys:
        """Extract the keys of some records.

        Args:
            records: Scalars of a store.

        Returns:
            The keys.
        """
        tokens = [str(digest).split() for digest in records["source_digest"].values]
        minutes = _minutes(records["time"].values)
        centre = np.stack([records["latitude"].values, records["longitude"].values], -1)
        corners = np.stack([records["corner_latitude"].values, records["corner_longitude"].values], -1)
        return cls(
            record_id=as_text(records["record_id"].values),
            token=np.array([token for own in tokens for token in own], np.str_),
            token_of=np.repeat(np.arange(len(tokens)), [len(own) for own in tokens]).astype(np.int64),
            first=np.fmin.reduce(minutes, 1, initial=np.nan),
            last=np.fmax.reduce(minutes, 1, initial=np.nan),
            labelled=_minutes(labelled_time(records)),
            place=np.concatenate([centre[:, np.newaxis], corners], 1).astype(np.float64),
        )


def find_leaks(
    records_a: xr.Dataset,
    records_b: xr.Dataset | None = None,
    minutes: float = MAX_MINUTES,
    overlap: float = MIN_OVERLAP,
    images: Matches = NO_MATCHES,
) -> Leaks:
    """Find pairs of records that share an id, raw data, or footprint and time, and describe those that share a scene.

    Args:
        records_a: Scalars of store A, or records of a metadata file.
        records_b: The same for B. None finds pairs within A.
        minutes: Maximum time between two sequences of overlapping tiles for them to count as related.
        overlap: Share of the smaller footprint above which two footprints overlap.
        images: Pairs of similar images.

    Returns:
        The pairs, of all kinds but `LABEL`.
    """
    a = RecordKeys.of(records_a)
    b = a if records_b is None else RecordKeys.of(records_b)
    pairs = _related_pairs(a, b, minutes, overlap)
    by_image = replace(_described(a, b, LeakKind.IMAGE, (images.a, images.b)), similarity=images.correlation)
    return Leaks.concatenate([*(_described(a, b, kind, some) for kind, some in pairs.items()), by_image])


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


def pairs_within(stores: Sequence[xr.Dataset], minutes: float, overlap: float) -> list[Pairs]:
    """Find related pairs among the records of several stores; see `find_leaks`.

    Args:
        stores: Scalars of each store.
        minutes: Maximum time between two sequences of overlapping tiles for them to count as related.
        overlap: Share of the smaller footprint above which two footprints overlap.

    Returns:
        The pairs for each kind of relation, as indices into the records of all stores in order.
    """
    parts = [RecordKeys.of(records) for records in stores]
    starts = np.cumsum([0, *map(len, parts)])
    parts = [replace(part, token_of=part.token_of + start) for part, start in zip(parts, starts, strict=False)]
    keys = RecordKeys.concatenate(parts)
    return list(_related_pairs(keys, keys, minutes, overlap).values())


def _described(a: RecordKeys, b: RecordKeys, kind: LeakKind, pairs: Pairs) -> Leaks:
    """Pairs of a kind with overlap and times, and neither `similarity` nor `dice`."""
    i, j = pairs
    unknown = np.full(len(i), np.nan)
    return Leaks(
        kind=np.full(len(i), kind.value, "<U9"),
        a=i,
        b=j,
        overlap=_overlaps(a, b, pairs),
        minutes=np.abs(a.labelled[i] - b.labelled[j]),
        gap=_gaps(a, b, pairs),
        similarity=unknown,
        dice=unknown,
    )


def _minutes(times: npt.NDArray[np.datetime64]) -> Floats:
    """Minutes since 1970; NaN for NaT."""
    return np.asarray((times - _EPOCH) / np.timedelta64(1, "m"), np.float64)


def _gaps(a: RecordKeys, b: RecordKeys, pairs: Pairs) -> Floats:
    i, j = pairs
    return np.maximum(np.maximum(a.first[i], b.first[j]) - np.minimum(a.last[i], b.last[j]), 0)


def _related_pairs(a: RecordKeys, b: RecordKeys, minutes: float, overlap: float) -> dict[LeakKind, Pairs]:
    """Pairs by what they share; if `b` is `a`, pairs within it, the first record before the second."""
    rows_a, rows_b = np.arange(len(a)), np.arange(len(b))
    return {
        LeakKind.ID: _equal(a.record_id, rows_a, b.record_id, rows_b, within=a is b),
        LeakKind.DATA: _equal(a.token, a.token_of, b.token, b.token_of, within=a is b),
        LeakKind.FOOTPRINT: _footprint_pairs(a, b, minutes, overlap),
    }


def _equal(
    keys_a: npt.NDArray[np.str_], owners_a: Ints, keys_b: npt.NDArray[np.str_], owners_b: Ints, *, within: bool
) -> Pairs:
    """Pairs of owners that have a key in common, each once; `within` one set, with the first before the second."""
    owners_of: dict[str, list[int]] = {}
    for key, owner in zip(keys_b.tolist(), owners_b.tolist(), strict=True):
        owners_of.setdefault(key, []).append(owner)
    owned = zip(keys_a.tolist(), owners_a.tolist(), strict=True)
    pairs = {(i, j) for key, i in owned for j in owners_of.get(key, ()) if i < j or not within}
    first, second = np.array(sorted(pairs), np.int64).reshape(-1, 2).T
    return first, second


def _footprint_pairs(a: RecordKeys, b: RecordKeys, minutes: float, overlap: float) -> Pairs:
    """Pairs whose footprints overlap by more than `overlap`, and whose sequences share time or lie within `minutes`.

    Candidates come from a tree in four dimensions, the unit sphere and time.
    """
    from scipy.spatial import KDTree

    rows_a, rows_b = (np.flatnonzero(keys.placed) for keys in (a, b))
    if not len(rows_a) or not len(rows_b):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    sphere_a, sphere_b = _unit_vectors(a.place[rows_a]), _unit_vectors(b.place[rows_b])
    radius_a, radius_b = (np.linalg.norm(s[:, 1:] - s[:, :1], axis=-1).max(1) for s in (sphere_a, sphere_b))
    half_a, half_b = ((keys.last - keys.first)[rows] / 2 for keys, rows in ((a, rows_a), (b, rows_b)))
    reach = max(radius_a.max() + radius_b.max(), 1e-9)
    window = max(minutes + half_a.max() + half_b.max(), 1e-3)
    tree_a, tree_b = (
        KDTree(np.column_stack([sphere[:, 0] / reach, (keys.first + keys.last)[rows] / 2 / window]))
        for keys, rows, sphere in ((a, rows_a, sphere_a), (b, rows_b, sphere_b))
    )
    if a is b:
        near = tree_a.query_pairs(1 + 1e-9, p=np.inf, output_type="ndarray").reshape(-1, 2)
    else:
        distances = tree_a.sparse_distance_matrix(tree_b, 1 + 1e-9, p=np.inf, output_type="ndarray")
        near = np.stack([distances["i"], distances["j"]], 1)
    p, q = near.astype(np.int64).T
    apart = np.linalg.norm(sphere_a[p, 0] - sphere_b[q, 0], axis=-1)
    i, j = rows_a[p], rows_b[q]
    close = (apart <= radius_a[p] + radius_b[q]) & (_gaps(a, b, (i, j)) <= minutes)
    i, j = i[close], j[close]
    pairs = np.unique(np.stack([i, j], 1)[_overlaps(a, b, (i, j)) > overlap], axis=0)
    return pairs[:, 0], pairs[:, 1]


def _overlaps(a: RecordKeys, b: RecordKeys, pairs: Pairs) -> Floats:
    """(pair) share of the smaller footprint that lies in the other; NaN if one is unknown.

    Computed in Lambert's azimuthal equal-area projection about the centre of the first, on the sphere (Snyder, Map
    Projections, 24-2 to 24-4), with straight edges between corners. For tiles of 500 km the error is below 0.0006.
    """
    import shapely

    i, j = pairs
    share = np.full(len(i), np.nan)
    known = np.isfinite(a.place[i]).all((1, 2)) & np.isfinite(b.place[j]).all((1, 2))
    if not known.any():
        return share
    # Sites repeat: there are far fewer pairs of footprints than pairs of records.
    sites, number = np.unique(np.concatenate([a.place, b.place]).reshape(-1, 10), axis=0, return_inverse=True)
    site_pairs = np.stack([number[i[known]], number[j[known] + len(a)]], 1)
    site_pairs, inverse = np.unique(site_pairs, axis=0, return_inverse=True)
    one, two = (sites[site_pairs[:, side]].reshape(-1, 5, 2) for side in (0, 1))
    shapes = [shapely.convex_hull(shapely.multipoints(_equal_area(f[:, 1:], one[:, :1]))) for f in (one, two)]
    smaller = np.minimum(*map(shapely.area, shapes))
    common = shapely.area(shapely.intersection(*shapes))
    share[known] = np.divide(common, smaller, out=np.zeros(len(common)), where=smaller > 0)[inverse]
    return np.minimum(share, 1)


def _unit_vectors(place: Floats) -> Floats:
    """(..., 2) degrees as unit vectors (..., 3)."""
    phi, theta = np.radians(place[..., 0]), np.radians(place[..., 1])
    return np.stack([np.cos(phi) * np.cos(theta), np.cos(phi) * np.sin(theta), np.sin(phi)], -1)


def _equal_area(place: Floats, centre: Floats) -> Floats:
    """(..., 2) degrees as x, y (..., 2) in radii of the Earth."""
    phi, phi0 = np.radians(place[..., 0]), np.radians(centre[..., 0])
    delta = np.radians(place[..., 1] - centre[..., 1])
    cosine = np.sin(phi0) * np.sin(phi) + np.cos(phi0) * np.cos(phi) * np.cos(delta)
    scale = np.sqrt(2 / np.maximum(1 + cosine, 1e-12))
    x = np.cos(phi) * np.sin(delta)
    y = np.cos(phi0) * np.sin(phi) - np.sin(phi0) * np.cos(phi) * np.cos(delta)
    return np.stack([scale * x, scale * y], -1)
