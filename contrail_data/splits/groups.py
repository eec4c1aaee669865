"""Groups of records that no split may divide, weights for drawing records, and a summary of records."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.splits.keys import Pairs
from contrail_data.splits.pairs import MAX_MINUTES, MIN_OVERLAP, joined_keys, related_links
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
    stores: Sequence[xr.Dataset],
    minutes: float = MAX_MINUTES,
    overlap: float = MIN_OVERLAP,
    images: Sequence[Pairs] = (),
) -> list[npt.NDArray[np.str_]]:
    """Join related records of one or several stores into groups.

    Two records are in one group if they have the same site and day, id, or raw data; if their footprints overlap while
    their sequences share time or lie within `minutes`; if they are a pair of `images`; or if both are related to a
    third record. A group is named by the smallest `site_and_day` in it, which seldom changes when records are added.

    Args:
        stores: Scalars of each store.
        minutes: Maximum time between two sequences of overlapping tiles for them to count as related.
        overlap: Share of the smaller footprint above which two footprints overlap.
        images: Pairs whose images show one scene, see `images.Similar.joined`.

    Returns:
        For each store, (sample) the name of each record's group.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    site_day = np.concatenate([site_and_day(records) for records in stores])
    count = len(site_day)
    names, name = np.unique(site_day, return_inverse=True)
    links = [*related_links(joined_keys(stores), site_day, minutes, overlap), *images]
    rows, columns = (np.concatenate(ends) for ends in zip(*links, strict=True))
    graph = coo_array((np.ones(len(rows), np.bool_), (rows, columns)), shape=(count, count))
    components, component = connected_components(graph, directed=False)
    smallest = np.full(components, len(names))
    np.minimum.at(smallest, component, name)
    ends = np.cumsum([len(records["record_id"]) for records in stores])[:-1]
    return np.split(names[smallest[component]] if count else site_day, ends)


def sampling_weights(classes: Sequence[npt.NDArray[Any]], power: float = 1.0) -> Floats:
    """Weight items so that classes become equally frequent.

    The weight of an item is the product, over the factors, of (share of the item's class) ** -power.

    Args:
        classes: One or several factors, (item) class of each item, see `record_classes`.
        power: 1 makes the classes of each factor equally frequent, less than 1 brings them closer to it.

    Returns:
        (item) weights with mean 1.
    """
    weight = np.ones(len(classes[0]))
    for factor in classes:
        _, inverse, count = np.unique(factor, return_inverse=True, return_counts=True)
        weight *= (count[inverse] / len(weight)) ** -power
    return weight / weight.mean() if len(weight) else weight


def record_classes(records: xr.Dataset, factor: Literal["positive", "place", "hour", "month"]) -> npt.NDArray[Any]:
    """Put records into classes.

    Args:
        records: Scalars of a store.
        factor: `positive`, the human label; `place`, cells of 10 degrees; `hour`, 3 hours of true solar time; `month`,
            the month of the year.

    Returns:
        (sample) number of each record's class, the same in every store; unknown values are a class of their own.
    """
    if factor == "positive":
        return label_of(records)
    if factor == "place":
        latitude, longitude = (np.floor(records[name].values / 10) for name in ("latitude", "longitude"))
        return latitude * 36 + longitude % 36
    if factor == "hour":
        return records["local_solar_hour"].values // 3
    months = labelled_time(records).astype("datetime64[M]")
    return np.where(np.isnat(months), -1, months.astype(np.int64) % 12)


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
