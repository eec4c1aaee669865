"""Pairs of records that tell of each other, from what is known of them: ids, raw data, footprint and time.

What is known of a record decides: one without time or place can only be found again by its id, its raw data, or its
image (see `audit`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.store.samples import Floats, Ints, as_text, labelled_time

Pairs = tuple[Ints, Ints]
KINDS = ("id", "data", "footprint", "image", "label")
"""Of leaks, see `Leaks.kind`."""
WINDOW = 70.0
"""Minutes: a sequence of eight frames is as long."""
LEAST_OVERLAP = 0.001
"""Share of the smaller footprint: less is what edges err by that are taken for straight."""
_EPOCH = np.datetime64("1970-01-01", "ns")


@dataclass(frozen=True)
class Leaks:
    """Pairs of records, one of A and one of B, that tell of each other; a row is a pair in one of the `kind`s."""

    kind: npt.NDArray[np.str_]
    """(pair) `id`: one record id; `data`: the same raw data of some band; `footprint`: overlapping tiles at about the
    same time; `image`: labelled frames that look alike; `label`: one image with two different masks."""
    a: Ints
    """(pair) index into A's records."""
    b: Ints
    """(pair) index into B's; into A's, and over `a`, where there is no B."""
    overlap: Floats
    """(pair) share of the smaller footprint; NaN where unknown."""
    minutes: Floats
    """(pair) between the labelled frames; NaN where unknown."""
    gap: Floats
    """(pair) minutes between one sequence's last frame and the other's first, 0 where they share time."""
    distance: Floats
    """(pair) share of the hash bits that differ; NaN where images were not compared."""
    dice: Floats
    """(pair) of the two masks; NaN where they were not compared, or both are empty."""

    def __len__(self) -> int:
        return len(self.a)

    def __getitem__(self, rows: npt.NDArray[Any]) -> Leaks:
        return Leaks(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Facts:
    """What of some records groups and leaks depend on; (sample, ...) each."""

    record_id: npt.NDArray[np.str_]
    token: npt.NDArray[np.str_]
    """Digest of one band's raw data."""
    token_of: Ints
    """The record that `token` is of."""
    first: Floats
    """Minutes of the first frame; NaN where unknown."""
    last: Floats
    labelled: Floats
    place: Floats
    """Latitude, longitude of the centre and of the four corners, (sample, 5, 2) degrees; NaN where unknown."""

    def __len__(self) -> int:
        return len(self.first)


def leaking(
    records_a: xr.Dataset,
    records_b: xr.Dataset | None = None,
    minutes: float = WINDOW,
    overlap: float = LEAST_OVERLAP,
) -> Leaks:
    """Pairs of a record of A and one of B that share id, raw data, or footprint and time (see `Leaks.kind`), from
    metadata alone; without B, pairs within A.

    Footprints count when they overlap by more than `overlap` of the smaller one and the sequences share time or lie
    within `minutes`.
    """
    a, b = facts_of(records_a), None if records_b is None else facts_of(records_b)
    return joined(
        [
            leaks_of(a, b, "id", _same_id(a, b)),
            leaks_of(a, b, "data", _same_data(a, b)),
            leaks_of(a, b, "footprint", _footprint_pairs(a, b, minutes, overlap)),
        ]
    )


def pairs_within(stores: Sequence[xr.Dataset], minutes: float, overlap: float) -> list[Pairs]:
    """Pairs of records of some stores, as indices into all of them, by what they share: id, raw data, footprint and
    time; see `leaking`.
    """
    facts = _together([facts_of(records) for records in stores])
    return [_same_id(facts, None), _same_data(facts, None), _footprint_pairs(facts, None, minutes, overlap)]


def facts_of(records: xr.Dataset) -> Facts:
    """What `leaks_of` needs to know of records."""
    token, token_of = [], []
    for i, digest in enumerate(records["source_digest"].values):
        bands = str(digest).split()
        token += bands
        token_of += [i] * len(bands)
    minutes = np.where(
        np.isnat(records["time"].values), np.nan, (records["time"].values - _EPOCH) / np.timedelta64(1, "m")
    )
    known = np.isfinite(minutes)
    first = np.min(np.where(known, minutes, np.inf), 1, initial=np.inf)
    last = np.max(np.where(known, minutes, -np.inf), 1, initial=-np.inf)
    labelled = labelled_time(records)
    centre = np.stack([records["latitude"].values, records["longitude"].values], -1)
    corners = np.stack([records["corner_latitude"].values, records["corner_longitude"].values], -1)
    return Facts(
        as_text(records["record_id"].values),
        np.array(token, np.str_),
        np.array(token_of, np.int64),
        np.where(known.any(1), first, np.nan),
        np.where(known.any(1), last, np.nan),
        np.where(np.isnat(labelled), np.nan, (labelled - _EPOCH) / np.timedelta64(1, "m")),
        np.concatenate([centre[:, np.newaxis], corners], 1).astype(np.float64),
    )


def _together(facts: Sequence[Facts]) -> Facts:
    before = np.cumsum([0, *map(len, facts)])
    shifted = [replace(f, token_of=f.token_of + n) for f, n in zip(facts, before, strict=False)]
    return Facts(*(np.concatenate([getattr(f, name) for f in shifted]) for name in Facts.__dataclass_fields__))


def leaks_of(a: Facts, b: Facts | None, kind: str, pairs: Pairs) -> Leaks:
    """Pairs of a kind with what else is known of them; without `b`, pairs within `a`."""
    other, (i, j) = a if b is None else b, pairs
    unknown = np.full(len(i), np.nan)
    apart = np.abs(a.labelled[i] - other.labelled[j])
    kinds = np.full(len(i), kind, "<U9")
    return Leaks(kinds, i, j, _overlaps(a, other, i, j), apart, _gaps(a, other, i, j), unknown, unknown)


def joined(parts: Sequence[Leaks]) -> Leaks:
    """One after the other."""
    return Leaks(*(np.concatenate([getattr(p, name) for p in parts]) for name in Leaks.__dataclass_fields__))


def _gaps(a: Facts, b: Facts, i: Ints, j: Ints) -> Floats:
    return np.maximum(np.maximum(a.first[i], b.first[j]) - np.minimum(a.last[i], b.last[j]), 0)


def _same_id(a: Facts, b: Facts | None) -> Pairs:
    other = a if b is None else b
    return _equal(a.record_id, np.arange(len(a)), other.record_id, np.arange(len(other)), b is None)


def _same_data(a: Facts, b: Facts | None) -> Pairs:
    other = a if b is None else b
    return _equal(a.token, a.token_of, other.token, other.token_of, b is None)


def _equal(keys_a: npt.NDArray[np.str_], of_a: Ints, keys_b: npt.NDArray[np.str_], of_b: Ints, within: bool) -> Pairs:
    """The pairs of owners that share a key, each once; `within` one set those with the first before the second."""
    _, number = np.unique(np.concatenate([keys_a, keys_b]), return_inverse=True)
    mine, theirs = number[: len(keys_a)], number[len(keys_a) :]
    order = np.argsort(theirs, kind="stable")
    low = np.searchsorted(theirs, mine, "left", sorter=order)
    count = np.searchsorted(theirs, mine, "right", sorter=order) - low
    within_run = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    pairs = np.stack([np.repeat(of_a, count), of_b[order[np.repeat(low, count) + within_run]]], 1)
    if within:
        pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    pairs = np.unique(pairs, axis=0)
    return pairs[:, 0], pairs[:, 1]


def _footprint_pairs(a: Facts, b: Facts | None, minutes: float, overlap: float) -> Pairs:
    """Pairs whose footprints overlap by more than `overlap`, and whose sequences share time or lie within `minutes`.

    Candidates come from a tree in four dimensions, the unit sphere and time.
    """
    from scipy.spatial import KDTree

    other = a if b is None else b
    known_a, known_b = (np.flatnonzero(np.isfinite(f.first) & np.isfinite(f.place).all((1, 2))) for f in (a, other))
    if not len(known_a) or not len(known_b):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    sphere_a, sphere_b = (_unit(f.place[known]) for f, known in ((a, known_a), (other, known_b)))
    radius_a, radius_b = (np.linalg.norm(s[:, 1:] - s[:, :1], axis=-1).max(1) for s in (sphere_a, sphere_b))
    half_a, half_b = ((f.last - f.first)[known] / 2 for f, known in ((a, known_a), (other, known_b)))
    reach = max(radius_a.max() + radius_b.max(), 1e-9)
    window = max(minutes + half_a.max() + half_b.max(), 1e-3)

    def points(facts: Facts, known: Ints, sphere: Floats) -> Floats:
        return np.column_stack([sphere[:, 0] / reach, (facts.first + facts.last)[known] / 2 / window])

    tree = KDTree(points(a, known_a, sphere_a))
    if b is None:
        near = tree.query_pairs(1 + 1e-9, p=np.inf, output_type="ndarray").reshape(-1, 2)
    else:
        tree_b = KDTree(points(other, known_b, sphere_b))
        found = tree.sparse_distance_matrix(tree_b, 1 + 1e-9, p=np.inf, output_type="ndarray")
        near = np.stack([found["i"], found["j"]], 1)
    p, q = near.astype(np.int64).T
    apart = np.linalg.norm(sphere_a[p, 0] - sphere_b[q, 0], axis=-1)
    i, j = known_a[p], known_b[q]
    close = (apart <= radius_a[p] + radius_b[q]) & (_gaps(a, other, i, j) <= minutes)
    i, j = i[close], j[close]
    overlapping = _overlaps(a, other, i, j) > overlap
    order = np.lexsort((j[overlapping], i[overlapping]))
    return i[overlapping][order], j[overlapping][order]


def _overlaps(a: Facts, b: Facts, i: Ints, j: Ints) -> Floats:
    """(pair) share of the smaller footprint that lies in the other; NaN where one is unknown.

    In Lambert's azimuthal equal-area projection about the first one's centre, on the sphere (Snyder, Map Projections,
    24-2 to 24-4), with straight edges between corners: of tiles of 500 km within 0.0006 of the exact share.
    """
    import shapely

    share = np.full(len(i), np.nan)
    known = np.isfinite(a.place[i]).all((1, 2)) & np.isfinite(b.place[j]).all((1, 2))
    if not known.any():
        return share
    # Sites repeat: there are far fewer pairs of footprints than of records.
    sites, number = np.unique(np.concatenate([a.place, b.place]).reshape(-1, 10), axis=0, return_inverse=True)
    pairs, inverse = np.unique(np.stack([number[i[known]], number[j[known] + len(a)]], 1), axis=0, return_inverse=True)
    one, two = (sites[pairs[:, side]].reshape(-1, 5, 2) for side in (0, 1))
    shapes = [shapely.convex_hull(shapely.multipoints(_equal_area(f[:, 1:], one[:, :1]))) for f in (one, two)]
    smaller = np.minimum(shapely.area(shapes[0]), shapely.area(shapes[1]))
    common = shapely.area(shapely.intersection(*shapes))
    share[known] = np.divide(common, smaller, out=np.zeros(len(common)), where=smaller > 0)[inverse]
    return np.minimum(share, 1)


def _unit(place: Floats) -> Floats:
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
