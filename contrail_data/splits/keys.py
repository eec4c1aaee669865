"""What decides which records are related: ids, raw data, times and footprints; and how far footprints overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.store.samples import Floats, Ints, as_text, labelled_time

MINUTE = 60_000.0
"""Milliseconds of a minute."""
Pairs = tuple[Ints, Ints]
"""Pairs of records, as indices into two sets of records (or twice into the same one)."""
_EPOCH = np.datetime64("1970-01-01", "ns")


class Columns:
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
class RecordKeys(Columns):
    """What decides which records are related."""

    record_id: npt.NDArray[np.str_]
    token: npt.NDArray[np.str_]
    """(token) digest of the raw data of a band; a record has one for each band."""
    token_of: Ints
    """(token) index of the record."""
    first: Floats
    """(record) time of the first frame in milliseconds since 1970; NaN if unknown."""
    last: Floats
    """(record) time of the last frame in milliseconds since 1970; NaN if unknown."""
    labelled: Floats
    """(record) time of the labelled frame in milliseconds since 1970; NaN if unknown."""
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
        times = _milliseconds(records["time"].values)
        centre = np.stack([records["latitude"].values, records["longitude"].values], -1)
        corners = np.stack([records["corner_latitude"].values, records["corner_longitude"].values], -1)
        return cls(
            record_id=as_text(records["record_id"].values),
            token=np.array([token for own in tokens for token in own], np.str_),
            token_of=np.repeat(np.arange(len(tokens)), [len(own) for own in tokens]).astype(np.int64),
            first=np.fmin.reduce(times, 1, initial=np.nan),
            last=np.fmax.reduce(times, 1, initial=np.nan),
            labelled=_milliseconds(labelled_time(records)),
            place=np.concatenate([centre[:, np.newaxis], corners], 1).astype(np.float64),
        )


def _milliseconds(times: npt.NDArray[np.datetime64]) -> Floats:
    """Whole milliseconds since 1970, which are exact; NaN for NaT."""
    return np.round((times - _EPOCH) / np.timedelta64(1, "ms"))


def gaps(a: RecordKeys, b: RecordKeys, pairs: Pairs) -> Floats:
    """Compute how far apart the sequences of two records are.

    Args:
        a: Keys of the one set.
        b: Keys of the other, or of the same one.
        pairs: Pairs of records.

    Returns:
        (pair) minutes between the last frame of one sequence and the first of the other; 0 if they share time.
    """
    i, j = pairs
    return np.maximum(np.maximum(a.first[i], b.first[j]) - np.minimum(a.last[i], b.last[j]), 0) / MINUTE


def overlaps(a: RecordKeys, b: RecordKeys, pairs: Pairs) -> Floats:
    """Compute how far footprints overlap.

    Args:
        a: Keys of the one set.
        b: Keys of the other, or of the same one.
        pairs: Pairs of records.

    Returns:
        (pair) share of the smaller footprint that lies in the other; NaN if one is unknown.
    """
    i, j = pairs
    place = np.concatenate([a.place, b.place])
    placed = np.flatnonzero(np.isfinite(place).all((1, 2)))
    site = np.full(len(place), -1)
    sites, site[placed] = unique_sites(place[placed])
    site_a, site_b = site[i], site[len(a) + j]
    share = np.full(len(i), np.nan)
    both = (site_a >= 0) & (site_b >= 0)
    share[both] = site_overlaps(sites, site_a[both], site_b[both])
    return share


def unique_sites(place: Floats) -> tuple[Floats, Ints]:
    """Find the different footprints among those of records, which repeat sites.

    Args:
        place: (record, 5, 2) as in `RecordKeys`.

    Returns:
        (site, 5, 2) footprints, in an order that depends only on the footprints, and (record) index of each one's site.
    """
    sites, number = np.unique(place.reshape(-1, 10), axis=0, return_inverse=True)
    return sites.reshape(-1, 5, 2), number.reshape(-1)


def site_overlaps(sites: Floats, p: Ints, q: Ints) -> Floats:
    """Compute how far sites overlap.

    Computed in an equal-area projection about the centre of one, on the sphere, with straight edges between corners.
    For tiles of 500 km the error is below 0.0006.

    Args:
        sites: (site, 5, 2) footprints, see `unique_sites`.
        p: (pair) index of the one site.
        q: (pair) index of the other.

    Returns:
        (pair) share of the smaller footprint that lies in the other; the same in either order.
    """
    from contrail_data.splits.clipping import common_shares

    pairs, inverse = np.unique(np.minimum(p, q) * len(sites) + np.maximum(p, q), return_inverse=True)
    one, two = np.divmod(pairs, max(len(sites), 1))
    return common_shares(_axes(sites[:, 0]), unit_vectors(sites[:, 1:]), one, two)[inverse]


def unit_vectors(place: Floats) -> Floats:
    """Convert places to positions on the unit sphere.

    Args:
        place: (..., 2) latitude and longitude in degrees.

    Returns:
        (..., 3) x, y, z.
    """
    phi, theta = np.radians(place[..., 0]), np.radians(place[..., 1])
    return np.stack([np.cos(phi) * np.cos(theta), np.cos(phi) * np.sin(theta), np.sin(phi)], -1)


def _axes(place: Floats) -> Floats:
    """(..., 2) latitude and longitude in degrees to unit vectors (..., 3, 3) to the east, to the north and up."""
    zenith = unit_vectors(place)
    theta = np.radians(place[..., 1])
    east = np.stack([-np.sin(theta), np.cos(theta), np.zeros_like(theta)], -1)
    return np.stack([east, np.cross(zenith, east), zenith], -2)
