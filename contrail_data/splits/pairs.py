"""Find the pairs of records that share an id, raw data, or place and time, and links that join the same records.

There are as many pairs as the square of the records that share a site and day, so `related_links` lists none of them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.splits.copies import NO_COPY, Copies, LargeGroup, find_copies
from contrail_data.splits.keys import Pairs, RecordKeys, unique_sites
from contrail_data.splits.near import Near, Search, expanded
from contrail_data.store.samples import Floats, Ints

MAX_MINUTES = 70.0
"""Maximum time between the sequences of related records, in minutes: the length of a sequence of eight frames."""
MIN_OVERLAP = 0.001
"""Share of the smaller footprint. Taking curved edges as straight has an error of up to this."""
LISTED = 100
"""Most records with one id, raw data, place and time, or image of which all pairs are listed: n records are
n * (n - 1) / 2 pairs."""


def joined_keys(stores: Sequence[xr.Dataset]) -> RecordKeys:
    """Extract the keys of the records of several stores.

    Args:
        stores: Scalars of each store.

    Returns:
        The keys of all records, in order.
    """
    parts = [RecordKeys.of(records) for records in stores]
    starts = np.cumsum([0, *map(len, parts)])
    parts = [replace(part, token_of=part.token_of + start) for part, start in zip(parts, starts, strict=False)]
    return RecordKeys.concatenate(parts)


def equal_pairs(
    keys_a: npt.NDArray[np.str_],
    owners_a: Ints,
    keys_b: npt.NDArray[np.str_],
    owners_b: Ints,
    *,
    within: bool,
    listed: int | None = None,
) -> tuple[Pairs, list[LargeGroup]]:
    """Find the owners that have a key in common.

    Args:
        keys_a: Keys of A.
        owners_a: (key) who has it.
        keys_b: Keys of B.
        owners_b: (key) who has it.
        within: Whether B is A.
        listed: Where more owners than this have a key in common, list only pairs of each with the first one of the
            other set, or of the same one. None lists all.

    Returns:
        Pairs of owners, each once and in order, within one set with the first before the second; and the groups of
        which not all pairs are listed.
    """
    code = _codes(np.concatenate([keys_a, keys_b]))
    of_a, of_b = code[: len(keys_a)], code[len(keys_a) :]
    stars, groups = (np.zeros(0, np.int64), np.zeros(0, np.int64)), []
    if listed is not None:
        count_a, count_b = (np.bincount(codes, minlength=code.max(initial=-1) + 1) for codes in (of_a, of_b))
        is_large = (count_a + count_b > listed * (1 + within)) & (count_a > 0) & (count_b > 0)
        large_a, large_b = is_large[of_a], is_large[of_b]
        first_a, first_b = (
            _first_owner(codes, owners, len(is_large)) for codes, owners in ((of_a, owners_a), (of_b, owners_b))
        )
        stars = (  # each owner of A with the first of B, and the first of A with each of B
            np.append(owners_a[large_a], first_a[of_b[large_b]]),
            np.append(first_b[of_a[large_a]], owners_b[large_b]),
        )
        some = np.flatnonzero(is_large)
        counts_b = np.zeros_like(some) if within else count_b[some]
        groups = sorted({LargeGroup(*row) for row in np.stack([first_a[some], count_a[some], counts_b], 1).tolist()})
        of_a, owners_a, of_b, owners_b = of_a[~large_a], owners_a[~large_a], of_b[~large_b], owners_b[~large_b]
    order = np.argsort(of_b, kind="stable")
    low, high = (np.searchsorted(of_b[order], of_a, side) for side in ("left", "right"))
    row, position = expanded(low, high)
    i, j = (
        np.append(owners, ends) for owners, ends in zip((owners_a[row], owners_b[order[position]]), stars, strict=True)
    )
    return (_in_order(i[i < j], j[i < j]) if within else _in_order(i, j)), groups


def _first_owner(code: Ints, owners: Ints, count: int) -> Ints:
    """(code) the lowest owner; meaningless where there is none."""
    first = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(first, code, owners)
    return first


class FootprintPairs(NamedTuple):
    """Pairs of records whose footprints overlap at about the same time."""

    a: Ints
    b: Ints
    overlap: Floats
    """(pair) share of the smaller footprint."""


def footprint_pairs(
    a: RecordKeys,
    b: RecordKeys,
    minutes: float = MAX_MINUTES,
    overlap: float = MIN_OVERLAP,
    listed: int | None = None,
) -> FootprintPairs:
    """Find pairs whose footprints overlap, and whose sequences share time or are close to each other.

    Args:
        a: Keys of the one set.
        b: Keys of the other. If it is the same object, pairs within it are found.
        minutes: Maximum time between the two sequences.
        overlap: Share of the smaller footprint above which two footprints overlap.
        listed: Where more records than this have exactly one place and time, list only pairs of each with the first
            one of the other set, or of the same one. None lists all.

    Returns:
        Pairs in order; within one set with the first before the second.
    """
    copies = footprint_copies(a, b, listed)
    if copies.groups:
        chosen_a, chosen_b = (
            replace(keys, first=np.where(chosen, keys.first, np.nan))
            for keys, chosen in zip((a, b), copies.chosen, strict=True)
        )
        some = _all_footprint_pairs(chosen_a, chosen_a if a is b else chosen_b, minutes, overlap)
        i, j, row = copies.expand(some.a, some.b)
        return FootprintPairs(i, j, np.append(some.overlap, 1.0)[row])
    return _all_footprint_pairs(a, b, minutes, overlap)


def footprint_copies(a: RecordKeys, b: RecordKeys, listed: int | None) -> Copies:
    """Find large groups of records that have exactly one place and time.

    Args:
        a: Keys of the one set.
        b: Keys of the other, or the same object.
        listed: See `footprint_pairs`.

    Returns:
        The groups, and which record stands for others.
    """
    placed = np.append(a.placed, b.placed)
    place, first, last = (
        np.append(getattr(a, name), getattr(b, name), 0)[placed] for name in ("place", "first", "last")
    )
    code, scenes = np.full(len(placed), NO_COPY), np.column_stack([unique_sites(place)[1], first, last])
    code[placed] = np.unique(scenes, axis=0, return_inverse=True)[1].reshape(-1)
    none = [np.zeros(len(keys), bool) for keys in (a, b)]
    return find_copies(code[: len(a)], code[len(a) :], *none, within=a is b, listed=listed)


def _all_footprint_pairs(a: RecordKeys, b: RecordKeys, minutes: float, overlap: float) -> FootprintPairs:
    """All pairs, see `footprint_pairs`."""
    from scipy.sparse import coo_array

    search = Search.of(a, b, minutes, overlap)
    if search is None:
        return FootprintPairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    near = Near.concatenate([search.near(p, q) for p, q in search.candidates()])
    low = np.maximum(near.low, near.record + 1) if a is b else near.low
    row, position = expanded(np.minimum(low, near.high), near.high)
    i, j = search.a.record[near.record[row]], search.b.record[position]
    first, second = (np.minimum(i, j), np.maximum(i, j)) if a is b else (i, j)
    # A sparse matrix puts millions of pairs in order faster than sorting does.
    matrix = coo_array((near.overlap[row], (first, second)), shape=(len(a), len(b))).tocsr()
    first, second = matrix.tocoo().coords
    return FootprintPairs(first.astype(np.int64), second.astype(np.int64), matrix.data)


def related_pairs(keys: RecordKeys, minutes: float = MAX_MINUTES, overlap: float = MIN_OVERLAP) -> list[Pairs]:
    """Find all related pairs of a set of records.

    Args:
        keys: Keys of the records.
        minutes: Maximum time between two sequences of overlapping tiles for them to count as related.
        overlap: Share of the smaller footprint above which two footprints overlap.

    Returns:
        The pairs by what they share: id, raw data, footprint and time.
    """
    rows = np.arange(len(keys))
    return [
        equal_pairs(keys.record_id, rows, keys.record_id, rows, within=True)[0],
        equal_pairs(keys.token, keys.token_of, keys.token, keys.token_of, within=True)[0],
        footprint_pairs(keys, keys, minutes, overlap)[:2],
    ]


def related_links(keys: RecordKeys, joined: npt.NDArray[np.str_], minutes: float, overlap: float) -> list[Pairs]:
    """Find pairs that join the same records as all related pairs do, but are no more than a few for each record.

    Args:
        keys: Keys of the records.
        joined: (record) name of what the record is joined with in any case.
        minutes: Maximum time between two sequences of overlapping tiles for them to count as related.
        overlap: Share of the smaller footprint above which two footprints overlap.

    Returns:
        Pairs of records.
    """
    rows, name = np.arange(len(keys)), _codes(joined)
    search = Search.of(keys, keys, minutes, overlap, name)
    return [
        (rows, _first_with(name)[name]),
        (rows, _first_with(code := _codes(keys.record_id))[code]),
        (keys.token_of, keys.token_of[_first_with(code := _codes(keys.token))[code]]),
        *(_near_links(search, name) if search is not None else ()),
    ]


def _near_links(search: Search, name: Ints) -> Iterator[Pairs]:
    """Links between near records of different names, as many as join these; `name` is that of each record."""
    component = np.arange(name.max() + 1)
    for p, q in search.candidates():
        if (component == component[0]).all():
            return
        apart = component[search.a.name[p]] != component[search.b.name[q]]
        near = search.near(p[apart], q[apart])
        link = search.a.record[near.record], search.b.record[near.low]  # all records of a range have one name
        component = _components(component, name[link[0]], name[link[1]])
        yield link


def _components(component: Ints, first: Ints, second: Ints) -> Ints:
    """(name) number of the component after joining pairs of names."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends = np.append(np.arange(len(component)), first), np.append(component, second)
    graph = coo_array((np.ones(len(ends[0]), np.bool_), ends), shape=(len(component), len(component)))
    # as a component is numbered by one of its names, these edges hold it together
    labels = connected_components(graph, directed=False)[1]
    return _first_with(labels)[labels]


def _in_order(i: Ints, j: Ints) -> Pairs:
    """The different pairs, in order."""
    width = int(j.max(initial=0)) + 1
    first, second = np.divmod(np.unique(i * width + j), width)
    return first, second


def _codes(keys: npt.NDArray[np.str_]) -> Ints:
    """(key) number of each key; equal keys have one number."""
    import pandas as pd

    return pd.factorize(keys.astype(object))[0].astype(np.int64)


def _first_with(code: Ints) -> Ints:
    """(code) index of the first one with it."""
    return np.unique(code, return_index=True)[1]
