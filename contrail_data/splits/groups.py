"""Splits that do not leak: groups of records that must stay together, folds of whole groups, how often each is drawn.

OpenContrails records overlap each other in space and time, and some come twice: a random split over-estimates. All
functions take `records`, the per-sample variables as `store.read_scalars` gives them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.errors import ContrailError
from contrail_data.splits.leaks import LEAST_OVERLAP, WINDOW, pairs_within
from contrail_data.store.samples import Floats, as_text, label_of, labelled_time, site_of


def site_and_day(records: xr.Dataset) -> npt.NDArray[np.str_]:
    """(sample) the tile's centre to a tenth of a degree and the UTC day of the labelled frame, as in
    `-27.5 -63.2 2020-01-17`; the record's id where either is unknown.
    """
    times = labelled_time(records)
    latitude, longitude = records["latitude"].values, records["longitude"].values
    known = ~np.isnat(times) & np.isfinite(latitude) & np.isfinite(longitude)
    where = zip(latitude, longitude, times.astype("datetime64[D]"), strict=True)
    names = np.array([f"{a:.1f} {o:.1f} {day}" for a, o, day in where], np.str_)
    return np.where(known, names, as_text(records["record_id"].values))


def groups(records: xr.Dataset, minutes: float = WINDOW, overlap: float = LEAST_OVERLAP) -> npt.NDArray[np.str_]:
    """(sample) name of the group of each record, which no split may cut; see `groups_together`."""
    return groups_together([records], minutes, overlap)[0]


def groups_together(
    stores: Sequence[xr.Dataset], minutes: float = WINDOW, overlap: float = LEAST_OVERLAP
) -> list[npt.NDArray[np.str_]]:
    """The groups of the records of several stores, in their order.

    Records of one (site, day), one id, or the same raw data are together, and so are those whose footprints overlap by
    more than `overlap` of the smaller one while their sequences share time or lie within `minutes`; and whatever these
    are together with. A group is named by the smallest `site_and_day` in it, which other records seldom change.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    site_day = np.concatenate([site_and_day(records) for records in stores])
    count = len(site_day)
    names, first_of, name = np.unique(site_day, return_index=True, return_inverse=True)
    edges = pairs_within(stores, minutes, overlap)
    rows = np.concatenate([np.arange(count), *(i for i, _ in edges)])
    columns = np.concatenate([first_of[name], *(j for _, j in edges)])
    graph = coo_array((np.ones(len(rows), np.bool_), (rows, columns)), shape=(count, count))
    components, component = connected_components(graph, directed=False)
    smallest = np.full(components, len(names))
    np.minimum.at(smallest, component, name)
    ends = np.cumsum([len(records["record_id"]) for records in stores])[:-1]
    return np.split(names[smallest[component]] if count else site_day, ends)


def sampling_weights(
    records: xr.Dataset, by: Sequence[Literal["positive", "place", "hour", "month"]], power: float = 1.0
) -> Floats:
    """(sample) weights of mean 1 that make the classes of each of `by` equally frequent (with `power` 1) or nearer to
    it (under 1): the product over `by` of the class's share to the power of -`power`.

    Classes: `positive` by the human label, `place` by cells of 10 degrees, `hour` by 3 hours of true solar time,
    `month` of the year; what is unknown is a class of its own. Raises ContrailError for another factor.
    """
    weight = np.ones(records.sizes["sample"])
    for factor in by:
        _, inverse, count = np.unique(_classes(records, factor), return_inverse=True, return_counts=True)
        weight *= (count[inverse] / len(weight)) ** -power
    return weight / weight.mean() if len(weight) else weight


def _classes(records: xr.Dataset, factor: str) -> npt.NDArray[np.int64]:
    """(sample) numbers of classes, -999 where unknown."""
    value: npt.NDArray[Any]
    if factor == "positive":
        known, value = records["label_source"].values == "human", records["positive_pixels"].values > 0
    elif factor == "place":
        cell = [np.floor(records[name].values / 10) for name in ("latitude", "longitude")]
        known, value = np.isfinite(cell[0] + cell[1]), cell[0] * 36 + cell[1] % 36
    elif factor == "hour":
        value = records["local_solar_hour"].values // 3
        known = np.isfinite(value)
    elif factor == "month":
        times = labelled_time(records)
        known, value = ~np.isnat(times), times.astype("datetime64[M]").astype(np.int64) % 12
    else:
        raise ContrailError(f"sampling by {factor!r}: no such factor: take positive, place, hour or month")
    return np.where(known, np.where(known, value, 0), -999).astype(np.int64)


def described(stores: Sequence[xr.Dataset]) -> dict[str, str]:
    """What records of some stores are, for a table: records, positives, their share of the labelled, first and last
    day, the month with most records and its share of all, sites.
    """
    label, times, sites = (np.concatenate([of(s) for s in stores]) for of in (label_of, labelled_time, site_of))
    labelled, known = label[label >= 0], times[~np.isnat(times)]
    period, busiest = "-", "-"
    if len(known):
        period = f"{known.min().astype('datetime64[D]')} to {known.max().astype('datetime64[D]')}"
        months, count = np.unique(known.astype("datetime64[M]"), return_counts=True)
        busiest = f"{months[count.argmax()]}, {count.max() / len(times):.1%}"
    return {
        "records": f"{len(label):,}",
        "positives": f"{(labelled > 0).sum():,}" if len(labelled) else "-",
        "share positive": f"{(labelled > 0).mean():.1%}" if len(labelled) else "-",
        "period": period,
        "most in": busiest,
        "sites": f"{len(set(sites) - {''}):,}",
    }
