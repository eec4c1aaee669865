"""Groups of records that no split may divide, weights for drawing records, and a summary of records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.errors import ContrailError
from contrail_data.splits.leaks import MAX_MINUTES, MIN_OVERLAP, pairs_within
from contrail_data.store.samples import Floats, as_text, label_of, labelled_time, site_of

SUMMARY_HEADER = ("records", "positives", "share positive", "period", "most in", "sites")
"""Columns of `summary_row`."""


def site_and_day(records: xr.Dataset) -> npt.NDArray[np.str_]:
    """Name the site and day of each record.

    Args:
        records: Scalars of a store.

    Returns:
        (sample) centre of the tile to a tenth of a degree and UTC day of the labelled frame, as in
        `-27.5 -63.2 2020-01-17`; the record id if either is unknown.
    """
    times, sites = labelled_time(records), site_of(records)
    names = np.array([f"{site} {day}" for site, day in zip(sites, times.astype("datetime64[D]"), strict=True)], np.str_)
    return np.where(~np.isnat(times) & (sites != ""), names, as_text(records["record_id"].values))


def group_records(
    stores: Sequence[xr.Dataset], minutes: float = MAX_MINUTES, overlap: float = MIN_OVERLAP
) -> list[npt.NDArray[np.str_]]:
    """Join related records of one or several stores into groups.

    Two records are in one group if they have the same site and day, id, or raw data; if their footprints overlap while
    their sequences share time or lie within `minutes`; or if both are related to a third record. A group is named by
    the smallest `site_and_day` in it, which seldom changes when records are added.

    Args:
        stores: Scalars of each store.
        minutes: Maximum time between two sequences of overlapping tiles for them to count as related.
        overlap: Share of the smaller footprint above which two footprints overlap.

    Returns:
        For each store, (sample) the name of each record's group.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    site_day = np.concatenate([site_and_day(records) for records in stores])
    count = len(site_day)
    names, first_of, name = np.unique(site_day, return_index=True, return_inverse=True)
    pairs = pairs_within(stores, minutes, overlap)
    rows = np.concatenate([np.arange(count), *(i for i, _ in pairs)])
    columns = np.concatenate([first_of[name], *(j for _, j in pairs)])
    graph = coo_array((np.ones(len(rows), np.bool_), (rows, columns)), shape=(count, count))
    components, component = connected_components(graph, directed=False)
    smallest = np.full(components, len(names))
    np.minimum.at(smallest, component, name)
    ends = np.cumsum([len(records["record_id"]) for records in stores])[:-1]
    return np.split(names[smallest[component]] if count else site_day, ends)


def sampling_weights(
    records: xr.Dataset, by: Sequence[Literal["positive", "place", "hour", "month"]], power: float = 1.0
) -> Floats:
    """Weight records so that classes become equally frequent.

    The weight of a record is the product, over the factors, of (share of the record's class) ** -power. Classes are,
    for `positive`, the human label; for `place`, cells of 10 degrees; for `hour`, 3 hours of true solar time; for
    `month`, the month of the year. Records without a value form a class of their own.

    Args:
        records: Scalars of a store.
        by: Factors to balance.
        power: 1 makes the classes of each factor equally frequent, less than 1 brings them closer to it.

    Returns:
        (sample) weights with mean 1.

    Raises:
        ContrailError: If a factor is unknown.
    """
    weight = np.ones(records.sizes["sample"])
    for factor in by:
        _, inverse, count = np.unique(_classes(records, factor), return_inverse=True, return_counts=True)
        weight *= (count[inverse] / len(weight)) ** -power
    return weight / weight.mean() if len(weight) else weight


def _classes(records: xr.Dataset, factor: str) -> npt.NDArray[Any]:
    """(sample) number of each record's class; unknown values are a class of their own."""
    if factor == "positive":
        return label_of(records)
    if factor == "place":
        latitude, longitude = (np.floor(records[name].values / 10) for name in ("latitude", "longitude"))
        return latitude * 36 + longitude % 36
    if factor == "hour":
        return records["local_solar_hour"].values // 3
    if factor == "month":
        months = labelled_time(records).astype("datetime64[M]")
        return np.where(np.isnat(months), -1, months.astype(np.int64) % 12)
    raise ContrailError(f"sampling by {factor!r}: unknown factor; give positive, place, hour or month")


def summary_row(stores: Sequence[xr.Dataset]) -> list[str]:
    """Summarise records for a table.

    Args:
        stores: Scalars of one or several stores, taken together.

    Returns:
        Cells in the order of `SUMMARY_HEADER`: number of records, of positive records, their share among the labelled
        ones, first and last day, the month with most records and its share, number of sites.
    """
    label, times, sites = (np.concatenate([of(s) for s in stores]) for of in (label_of, labelled_time, site_of))
    labelled, known_times = label[label >= 0], times[~np.isnat(times)]
    positives, share, period, busiest = "-", "-", "-", "-"
    if len(labelled):
        positives, share = f"{(labelled > 0).sum():,}", f"{(labelled > 0).mean():.1%}"
    if len(known_times):
        first, last = (t.astype("datetime64[D]") for t in (known_times.min(), known_times.max()))
        months, count = np.unique(known_times.astype("datetime64[M]"), return_counts=True)
        period = f"{first} to {last}"
        busiest = f"{months[count.argmax()]}, {count.max() / len(times):.1%}"
    return [f"{len(label):,}", positives, share, period, busiest, f"{len(set(sites) - {''}):,}"]
