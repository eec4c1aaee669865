"""Search for records whose footprints overlap at about the same time.

Records of one footprint form a series, sorted by time, in which those near a given time are neighbours. Candidates are
pairs of series; where many footprints lie near each other, there are as many as the square of these, so they are found
a part at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from contrail_data.splits.keys import MINUTE, Columns, Pairs, RecordKeys, site_overlaps, unique_sites, unit_vectors
from contrail_data.store.samples import Floats, Ints

CANDIDATES = 1 << 18
"""Pairs of series that are looked at together, roughly, which bounds memory."""
_SOME = 256
"""Series whose neighbours are counted, to estimate the number of pairs."""


@dataclass(frozen=True)
class Series:
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
    def of(cls, keys: RecordKeys, rows: Ints, site: Ints, name: Ints, window: int) -> Series:
        """Sort records into series.

        Args:
            keys: Keys of all records.
            rows: (n) records with place and time.
            site: (n) index of the footprint of each.
            name: (record) what each record is joined with.
            window: Longest time from the first to the last record of a series, in milliseconds.

        Returns:
            The series.
        """
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
        """Find positions in series by time.

        Args:
            series: (n) index of the series.
            time: (n) time in milliseconds.
            side: `left` for the position before the records that begin at that time, `right` for the one behind.
            window: See `of`.

        Returns:
            (n) positions.
        """
        step = window + 3
        number = np.repeat(np.arange(len(self.length)), np.diff(self.start))
        keys = number * step + self.first - self.begin[number] + 1
        sought = series * step + np.clip(time - self.begin[series], -1, window + 1) + 1
        return np.searchsorted(keys, sought, side)  # type: ignore[call-overload]


@dataclass(frozen=True)
class Near(Columns):
    """For records of A, the range of positions of a series of B that are near."""

    record: Ints
    """(range) position in the order of A."""
    low: Ints
    high: Ints
    """(range) positions in the order of B, the end excluded; none is empty."""
    overlap: Floats
    """(range) share of the smaller footprint."""


@dataclass(frozen=True)
class Search:
    """Two sets of records, or one twice, prepared for the search."""

    a: Series
    b: Series
    sites: Floats
    """(site, 5, 2) footprints of both."""
    limit: int
    """Longest time between two sequences, in milliseconds."""
    window: int
    """Longest time from the first to the last record of a series, in milliseconds."""
    overlap: float
    """Share of the smaller footprint above which two footprints overlap."""

    @classmethod
    def of(
        cls, a: RecordKeys, b: RecordKeys, minutes: float, overlap: float, name: Ints | None = None
    ) -> Search | None:
        """Prepare a search.

        Args:
            a: Keys of the one set.
            b: Keys of the other. If it is the same object, pairs within it are found.
            minutes: Longest time between two sequences.
            overlap: Share of the smaller footprint above which two footprints overlap.
            name: (record) what records of A are joined with in any case; the records of a series have one name.

        Returns:
            The search; None if no record of a set has place and time.
        """
        rows_a, rows_b = (np.flatnonzero(keys.placed) for keys in (a, b))
        if not len(rows_a) or not len(rows_b):
            return None
        sites, site = unique_sites(np.concatenate([a.place[rows_a], b.place[rows_b]]))
        earliest = min(a.first[rows_a].min(), b.first[rows_b].min())
        latest = max(a.last[rows_a].max(), b.last[rows_b].max())
        longest = max((a.last - a.first)[rows_a].max(), (b.last - b.first)[rows_b].max())
        limit = int(min(np.floor(minutes * MINUTE + 1e-3), latest - earliest))
        window = int(limit + longest + 1)
        names = np.zeros(len(a), np.int64) if name is None else name
        series_a = Series.of(a, rows_a, site[: len(rows_a)], names, window)
        series_b = series_a
        if a is not b:
            series_b = Series.of(b, rows_b, site[len(rows_a) :], np.zeros(len(b), np.int64), window)
        return cls(series_a, series_b, sites, limit, window, overlap)

    def candidates(self) -> Iterator[Pairs]:
        """Find pairs of series that may be near, a part at a time.

        They come from a tree in four dimensions, the unit sphere and time.

        Yields:
            Indices of series of A and of B; within one set each pair once, also each series with itself.
        """
        from scipy.spatial import KDTree

        a, b = self.a, self.b
        sphere = unit_vectors(self.sites)
        radius = np.linalg.norm(sphere[:, 1:] - sphere[:, :1], axis=-1).max(1)
        reach = max(2 * radius.max(), 1e-9)
        span = self.limit + a.half.max() + b.half.max() + 1
        start = a.begin.min()
        points_a, points_b = (
            np.column_stack([sphere[s.site, 0] / reach, (s.begin + s.half - start) / span]) for s in (a, b)
        )
        tree, near = KDTree(points_b), 1 + 1e-9
        some = points_a[:: 1 + len(points_a) // _SOME]
        count = tree.query_ball_point(some, near, np.inf, return_length=True).mean() * len(points_a)
        for rows in np.array_split(np.arange(len(points_a)), min(1 + int(count) // CANDIDATES, len(points_a))):
            distances = KDTree(points_a[rows]).sparse_distance_matrix(tree, near, np.inf, "ndarray")
            p, q = rows[distances["i"]], distances["j"].astype(np.int64)
            s, t = a.site[p], b.site[q]
            close = np.linalg.norm(sphere[s, 0] - sphere[t, 0], axis=-1) <= radius[s] + radius[t]
            if a is b:
                close &= p <= q
            yield p[close], q[close]

    def near(self, p: Ints, q: Ints) -> Near:
        """Compare pairs of series.

        Args:
            p: (pair) index of a series of A.
            q: (pair) index of a series of B.

        Returns:
            Ranges of near records.
        """
        a, b = self.a, self.b
        share = site_overlaps(self.sites, a.site[p], b.site[q])
        p, q, share = p[share > self.overlap], q[share > self.overlap], share[share > self.overlap]
        row, record = expanded(a.start[p], a.start[p + 1])
        first, other = a.first[record], q[row]
        low = b.position_of(other, first - self.limit - b.length[other], "left", self.window)
        high = b.position_of(other, first + a.length[p[row]] + self.limit, "right", self.window)
        some = low < high
        return Near(record[some], low[some], high[some], share[row[some]])


def expanded(low: Ints, high: Ints) -> tuple[Ints, Ints]:
    """List the elements of ranges.

    Args:
        low: (range) first elements.
        high: (range) ends, excluded.

    Returns:
        (element) number of its range, and its position.
    """
    counts = high - low
    row = np.repeat(np.arange(len(low)), counts)
    return row, np.arange(len(row)) + np.repeat(low - np.cumsum(counts) + counts, counts)
