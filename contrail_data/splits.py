"""Splits that do not leak: groups of records that must stay together, folds of whole groups, how often each is drawn.

OpenContrails records overlap each other in space and time, and some come twice: a random split over-estimates. All
functions take `records`, the per-sample variables as `store.read_scalars` gives them.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.errors import ContrailError
from contrail_data.geometry import local_solar_hour, tile_geometry
from contrail_data.inspect import labelled_time
from contrail_data.leaks import LEAST_OVERLAP, WINDOW, Floats, Ints, pairs_within
from contrail_data.sources.records import FRAME_STEP, FRAMES, LABELLED_FRAME, metadata_entries
from contrail_data.store import as_text


def site_and_day(records: xr.Dataset) -> npt.NDArray[np.str_]:
    """(sample) the tile's centre to a tenth of a degree and the UTC day of the labelled frame, as in
    `-27.5 -63.2 2020-01-17`; the record's id where either is unknown."""
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


def folds(group: npt.NDArray[np.str_], positive: npt.NDArray[np.bool_], k: int) -> Ints:
    """(n) the fold of each record, 0 to k - 1: whole groups, alike in size and in positives as far as groups allow.

    Groups of over a quarter of a fold go first, the largest first, to where least is. Of the others those with a
    positive record are cut, in the order of their names' hashes, into k parts that make positives equal; then the empty
    ones so that folds become equally large. As that order is the names' own, records that are added move only groups
    near a cut.

    Raises ContrailError for fewer groups than folds.
    """
    names, inverse = np.unique(group, return_inverse=True)
    if not 1 <= k <= len(names):
        raise ContrailError(f"{len(names)} groups cannot be {k} folds: ask for fewer folds, or give more records")
    members = np.bincount(inverse, minlength=len(names))
    positives = np.bincount(inverse, positive, len(names))
    rank = np.argsort([hashlib.sha256(name.encode()).hexdigest() for name in names], kind="stable")
    of_group = np.zeros(len(names), np.int64)
    size, hits = np.zeros(k), np.zeros(k)
    large = members > len(group) / k / 4
    for one in sorted(rank[large[rank]], key=lambda g: -members[g]):
        fold = np.lexsort((size, hits))[0] if positives[one] else np.argmin(size)
        of_group[one] = fold
        size[fold] += members[one]
        hits[fold] += positives[one]
    with_any, empty = (rank[(~large & one)[rank]] for one in (positives > 0, positives == 0))
    of_group[with_any] = _cut(positives[with_any], positives.sum() / k - hits)
    size += np.bincount(of_group[with_any], members[with_any], k)
    of_group[empty] = _cut(members[empty], len(group) / k - size)
    return of_group[inverse]


def _cut(amounts: npt.NDArray[Any], shares: Floats) -> Ints:
    """(n) which of len(shares) successive parts each amount falls into, by its middle; parts add up as `shares` do, of
    which those under 0 are none."""
    shares = np.maximum(shares, 0)
    if not shares.sum():
        shares = np.ones(len(shares))
    ends = np.cumsum(shares)[:-1] / shares.sum() * amounts.sum()
    return np.searchsorted(ends, np.cumsum(amounts) - amounts / 2, side="right")


def between_folds(
    stores: Sequence[xr.Dataset], fold: Sequence[Ints], minutes: float = WINDOW, overlap: float = LEAST_OVERLAP
) -> int:
    """How many pairs `leaking` finds, of all the stores' records, with one record in one fold and one in another."""
    of = np.concatenate(fold)
    found = pairs_within(stores, minutes, overlap)
    across = np.concatenate([np.stack(pairs, 1)[of[pairs[0]] != of[pairs[1]]] for pairs in found])
    return len(np.unique(across, axis=0))


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


def metadata_records(path: Path, size: int) -> xr.Dataset:
    """What `{split}_metadata.json` tells, as `records` without labels, raw data or images.

    Such a file does not tell how large tiles are: they are taken for `size` pixels a side.
    Raises ContrailError for a file without any record's time and place, or a tile outside of its projection.
    """
    entries = metadata_entries(path)
    tiles = []
    for entry in entries:
        numbers = {key: entry[key] for key in ("projection_wkt", "row_min", "row_size", "col_min", "col_size")}
        try:
            tiles.append(tile_geometry(**numbers, height=size, width=size))
        except ValueError as error:
            raise ContrailError(f"{path}: record {entry['record_id']}: {str(error)[:120]}: correct the entry") from None
    start = np.array([round(entry["timestamp"] * 1e3) for entry in entries]).astype("datetime64[ms]")
    start_ns = start.astype("datetime64[ns]")
    count = len(entries)
    longitude = np.array([tile["longitude"] for tile in tiles])
    return xr.Dataset(
        {
            "record_id": ("sample", np.array([str(entry["record_id"]) for entry in entries])),
            "label_source": ("sample", np.full(count, "none")),
            "source_digest": ("sample", np.full(count, "")),
            "labelled_frame": ("sample", np.full(count, LABELLED_FRAME)),
            "positive_pixels": ("sample", np.zeros(count, np.int32)),
            "time": (("sample", "time"), start_ns[:, np.newaxis] + FRAME_STEP * (np.arange(FRAMES) - LABELLED_FRAME)),
            "latitude": ("sample", np.array([tile["latitude"] for tile in tiles])),
            "longitude": ("sample", longitude),
            "corner_latitude": (("sample", "corner"), np.array([tile["corner_latitude"] for tile in tiles])),
            "corner_longitude": (("sample", "corner"), np.array([tile["corner_longitude"] for tile in tiles])),
            "local_solar_hour": ("sample", local_solar_hour(longitude, start).astype(np.float32)),
        }
    )


def folds_csv(
    names: Sequence[str],
    stores: Sequence[xr.Dataset],
    group: Sequence[npt.NDArray[np.str_]],
    fold: Sequence[Ints],
) -> bytes:
    """A line a record: record_id, store, group, fold, positive (0, 1, or nothing without a human label)."""
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(["record_id", "store", "group", "fold", "positive"])
    for name, records, groups_of, folds_of in zip(names, stores, group, fold, strict=True):
        labels = ["" if label < 0 else str(label) for label in label_of(records).tolist()]
        ids = as_text(records["record_id"].values)
        rows.writerows(zip(ids, [name] * len(ids), groups_of, folds_of.tolist(), labels, strict=True))
    return out.getvalue().encode()


def label_of(records: xr.Dataset) -> Ints:
    """(sample) 1 where a human marked a contrail, 0 where none was found, -1 without a human's label."""
    human = records["label_source"].values == "human"
    return np.where(human, records["positive_pixels"].values > 0, -1).astype(np.int64)


def site_of(records: xr.Dataset) -> npt.NDArray[np.str_]:
    """(sample) the tile's centre to a tenth of a degree; empty where unknown."""
    where = zip(records["latitude"].values, records["longitude"].values, strict=True)
    return np.array([f"{a:.1f} {o:.1f}" if np.isfinite(a + o) else "" for a, o in where], np.str_)


def described(stores: Sequence[xr.Dataset]) -> dict[str, str]:
    """What records of some stores are, for a table: records, positives, their share of the labelled, first and last
    day, the month with most records and its share of all, sites."""
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
