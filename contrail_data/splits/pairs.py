"""Find the pairs of records that share an id, raw data, or place and time, and links that join the same records.

There are as many pairs as the square of the records that share a site and day, so `related_links` lists none of them.
Records of one footprint form a series, sorted by time, in which those near a given time are neighbours.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.splits.keys import MINUTE, Pairs, RecordKeys, site_overlaps, unique_sites, unit_vectors
from contrail_data.store.samples import Floats, Ints

MAX_MINUTES = 70.0
"""Maximum time between the sequences of related records, in minutes: the length of a sequence of eight frames."""
MIN_OVERLAP = 0.001
"""Share of the smaller footprint. Taking curved edges as straight has an error of up to this."""


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
    keys_a: npt.NDArray[np.str_], owners_a: Ints, keys_b: npt.NDArray[np.str_], owners_b: Ints, *, within: bool
) -> Pairs:
    """Find the owners that have a key in common.

    Args:
        keys_a: Keys of A.
        owners_a: (key) who has it.
        keys_b: Keys of B.
        owners_b: (key) who has it.
        within: Whether B is A.

    Returns:
        Pairs of owners, each once and in order; within one set with the first before the second.
    """
    code = _codes(np.concatenate([keys_a, keys_b]))
    of_a, of_b = code[: len(keys_a)], code[len(keys_a) :]
    order = np.argsort(of_b, kind="stable")
    low, high = (np.searchsorted(of_b[order], of_a, side) for side in ("left", "right"))
    row, position = _expanded(low, high)
    i, j = owners_a[row], owners_b[order[position]]
    return _in_order(i[i < j], j[i < j]) if within else _in_order(i, j)


class FootprintPairs(NamedTuple):
    """Pairs of records whose footprints overlap at about the same time."""

    a: Ints
    b: Ints
    overlap: Floats
    """(pair) share of the smaller footprint."""


def footprint_pairs(
    a: RecordKeys, b: RecordKeys, minutes: float = MAX_MINUTES, overlap: float = MIN_OVERLAP
) -> FootprintPairs:
    """Find pairs whose footprints overlap, and whose sequences share time or are close to each other.

    Args:
        a: Keys of the one set.
        b: Keys of the other. If it is the same object, pairs within it are found.
        minutes: Maximum time between the two sequences.
        overlap: Share of the smaller footprint above which two footprints overlap.

    Returns:
        Pairs in order; within one set with the first before the second.
    """
    from scipy.sparse import coo_array

    near = _near(a, b, minutes, overlap)
    low = np.maximum(near.low, near.record + 1) if a is b else near.low
    row, position = _expanded(np.minimum(low, near.high), near.high)
    i, j = near.order_a[near.record[row]], near.order_b[position]
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
        equal_pairs(keys.record_id, rows, keys.record_id, rows, within=True),
        equal_pairs(keys.token, keys.token_of, keys.token, keys.token_of, within=True),
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
    near = _near(keys, keys, minutes, overlap, name)
    first_near = near.order_b[near.low]
    # Neighbours in a series are joined if a third record is near both.
    change = np.zeros(len(near.order_b) + 1, np.int64)
    np.add.at(change, near.low, 1)
    np.add.at(change, near.high - 1, -1)
    link = np.flatnonzero(np.cumsum(change)[:-1])
    return [
        (rows, _first_with(name)[name]),
        (rows, _first_with(code := _codes(keys.record_id))[code]),
        (keys.token_of, keys.token_of[_first_with(code := _codes(keys.token))[code]]),
        (near.order_a[near.record], first_near),
        (near.order_b[link], near.order_b[np.minimum(link + 1, len(near.order_b) - 1)]),
    ]


@dataclass(frozen=True)
class _Series:
    """Records with place and time, by footprint, length and window of time; by time within each such series."""

    record: Ints
    """(position) index of the record."""
    first: Ints
    """(position) time of the first frame in milliseconds."""
    start: Ints
    """(series + 1) first position of each series."""
    site: Ints
    """(series) index of the footprint."""
    length: Ints
    """(series) time from the first to the last frame of each of its records."""
    name: Ints
    """(series) what its records are joined with."""

    @classmethod
    def of(cls, keys: RecordKeys, rows: Ints, site: Ints, name: Ints, window: int) -> "_Series":
        first, last = (times[rows].astype(np.int64) for times in (keys.first, keys.last))
        cells = np.stack([site, last - first, name[rows], first // window])
        order = np.lexsort((first, *cells[::-1]))
        cells = cells[:, order]
        begins = np.append(True, (cells[:, 1:] != cells[:, :-1]).any(0))[: len(rows)]
        start = np.append(np.flatnonzero(begins), len(rows))
        return cls(rows[order], first[order], start, *(cell[start[:-1]] for cell in cells[:3]))

    @property
    def begin(self) -> Ints:
        """(series) time of its first frame."""
        return self.first[self.start[:-1]]

    @property
    def half(self) -> Floats:
        """(series) half of the time from its first frame to its last one."""
        return (self.first[self.start[1:] - 1] + self.length - self.begin) / 2

    def position_of(self, series: Ints, time: Ints, side: str, window: int) -> Ints:
        # (n) position in a series before (`left`) or behind (`right`) the records that begin at a time
        step = window + 3
        number = np.repeat(np.arange(len(self.length)), np.diff(self.start))
        keys = number * step + self.first - self.begin[number] + 1
        wanted = series * step + np.clip(time - self.begin[series], -1, window + 1) + 1
        return np.searchsorted(keys, wanted, side)  # type: ignore[call-overload]


class _Near(NamedTuple):
    """For records of A, the range of positions of a series of B that are near."""

    record: Ints
    """(range) position in `order_a`."""
    low: Ints
    high: Ints
    """(range) positions in `order_b`, the end excluded; none is empty."""
    overlap: Floats
    """(range) share of the smaller footprint."""
    order_a: Ints
    order_b: Ints


def _near(a: RecordKeys, b: RecordKeys, minutes: float, overlap: float, name: Ints | None = None) -> _Near:
    """Ranges of near records; if `b` is `a`, each pair of series once, and none that have one name.

    Candidates come from a tree in four dimensions, the unit sphere and time.
    """
    from scipy.spatial import KDTree

    empty = np.zeros(0, np.int64)
    rows_a, rows_b = (np.flatnonzero(keys.placed) for keys in (a, b))
    if not len(rows_a) or not len(rows_b):
        return _Near(empty, empty, empty, np.zeros(0), empty, empty)
    sites, site = unique_sites(np.concatenate([a.place[rows_a], b.place[rows_b]]))
    sphere = unit_vectors(sites)
    radius = np.linalg.norm(sphere[:, 1:] - sphere[:, :1], axis=-1).max(1)
    earliest, latest = (
        min(a.first[rows_a].min(), b.first[rows_b].min()),
        max(a.last[rows_a].max(), b.last[rows_b].max()),
    )
    longest = max((a.last - a.first)[rows_a].max(), (b.last - b.first)[rows_b].max())
    limit = int(min(np.floor(minutes * MINUTE + 1e-3), latest - earliest))
    window = int(limit + longest + 1)
    series_a = _Series.of(a, rows_a, site[: len(rows_a)], np.zeros(len(a), np.int64) if name is None else name, window)
    series_b = series_a if a is b else _Series.of(b, rows_b, site[len(rows_a) :], np.zeros(len(b), np.int64), window)
    reach = max(2 * radius.max(), 1e-9)
    span = limit + series_a.half.max() + series_b.half.max() + 1
    tree_a, tree_b = (
        KDTree(np.column_stack([sphere[s.site, 0] / reach, (s.begin + s.half - earliest) / span]))
        for s in (series_a, series_b)
    )
    if a is b:
        own = np.arange(len(series_a.site))
        p, q = np.concatenate(
            [tree_a.query_pairs(1 + 1e-9, p=np.inf, output_type="ndarray"), np.stack([own, own], 1)]
        ).T
        if name is not None:
            other = series_a.name[p] != series_a.name[q]
            p, q = p[other], q[other]
    else:
        distances = tree_a.sparse_distance_matrix(tree_b, 1 + 1e-9, p=np.inf, output_type="ndarray")
        p, q = distances["i"], distances["j"]
    s, t = series_a.site[p], series_b.site[q]
    close = np.linalg.norm(sphere[s, 0] - sphere[t, 0], axis=-1) <= radius[s] + radius[t]
    p, q = p[close].astype(np.int64), q[close].astype(np.int64)
    share = site_overlaps(sites, s[close], t[close])
    p, q, share = p[share > overlap], q[share > overlap], share[share > overlap]
    row, record = _expanded(series_a.start[p], series_a.start[p + 1])
    first, other = series_a.first[record], q[row]
    low = series_b.position_of(other, first - limit - series_b.length[other], "left", window)
    high = series_b.position_of(other, first + series_a.length[p[row]] + limit, "right", window)
    some = low < high
    return _Near(record[some], low[some], high[some], share[row[some]], series_a.record, series_b.record)


def _expanded(low: Ints, high: Ints) -> tuple[Ints, Ints]:
    """For ranges, the number of the range and the position of each element."""
    counts = high - low
    row = np.repeat(np.arange(len(low)), counts)
    return row, np.arange(len(row)) + np.repeat(low - np.cumsum(counts) + counts, counts)


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
