"""Splits that do not leak: groups of records that must stay together, folds of groups, what two sets share.

OpenContrails records overlap each other in space and time, and some come twice: a random split over-estimates. All
functions take `records`, the per-sample variables as `store.read_scalars` gives them.

What is known of a record decides: one without time or place can only be found again by its id, its raw data, or its
image.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.composites import dequantise
from contrail_data.errors import ContrailError
from contrail_data.geometry import local_solar_hour, tile_geometry
from contrail_data.inspect import labelled_time
from contrail_data.progress import progress
from contrail_data.sources.records import FRAME_STEP, FRAMES, LABELLED_FRAME, metadata_entries
from contrail_data.store import pixel_reader

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Pairs = tuple[Ints, Ints]

KINDS = ("id", "data", "footprint", "image", "label")
"""Of leaks, see `Leaks.kind`."""
WINDOW = 70.0
"""Minutes: a sequence of eight frames is as long."""
LEAST_OVERLAP = 0.001
"""Share of the smaller footprint: less is what edges err by that are taken for straight."""
SIMILAR = 0.2
"""Share of hash bits: of 11,935 pairs of real frames all but one differ in over 0.3 (that one, 0.13, is one scene at
two times), of synthetic records in over 0.31; the frame 10 minutes later in 0.06 (median), 20 minutes later in 0.13,
the image shifted by half a pixel in at most 0.06."""
SAME_IMAGE = 0.03
"""Share of hash bits: noise of 2 % of the channel's range changes no more."""

_EPOCH = np.datetime64("1970-01-01", "ns")
_THUMB, _BITS = 32, 63


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
class _Facts:
    """What of some records groups and leaks depend on; (sample, ...) each."""

    record_id: npt.NDArray[np.str_]
    site_day: npt.NDArray[np.str_]
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


def site_and_day(records: xr.Dataset) -> npt.NDArray[np.str_]:
    """(sample) the tile's centre to a tenth of a degree and the UTC day of the labelled frame, as in
    `-27.5 -63.2 2020-01-17`; the record's id where either is unknown."""
    times = labelled_time(records)
    latitude, longitude = records["latitude"].values, records["longitude"].values
    known = ~np.isnat(times) & np.isfinite(latitude) & np.isfinite(longitude)
    where = zip(latitude, longitude, times.astype("datetime64[D]"), strict=True)
    names = np.array([f"{a:.1f} {o:.1f} {day}" for a, o, day in where], np.str_)
    return np.where(known, names, _text(records["record_id"].values))


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

    facts = _together([_facts(records) for records in stores])
    count = len(facts)
    names, name = np.unique(facts.site_day, return_inverse=True)
    _, first_of = np.unique(facts.site_day, return_index=True)
    edges = [_footprint_pairs(facts, None, minutes, overlap), _same_id(facts, None), _same_data(facts, None)]
    rows = np.concatenate([np.arange(count), *(i for i, _ in edges)])
    columns = np.concatenate([first_of[name], *(j for _, j in edges)])
    graph = coo_array((np.ones(len(rows), np.bool_), (rows, columns)), shape=(count, count))
    components, component = connected_components(graph, directed=False)
    smallest = np.full(components, len(names))
    np.minimum.at(smallest, component, name)
    ends = np.cumsum([len(records["record_id"]) for records in stores])[:-1]
    return np.split(names[smallest[component]] if count else facts.site_day, ends)


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
    a, b = _facts(records_a), None if records_b is None else _facts(records_b)
    return _joined(
        [
            _leaks(a, b, "id", _same_id(a, b)),
            _leaks(a, b, "data", _same_data(a, b)),
            _leaks(a, b, "footprint", _footprint_pairs(a, b, minutes, overlap)),
        ]
    )


def between_folds(
    stores: Sequence[xr.Dataset], fold: Sequence[Ints], minutes: float = WINDOW, overlap: float = LEAST_OVERLAP
) -> int:
    """How many pairs `leaking` finds, of all the stores' records, with one record in one fold and one in another."""
    facts = _together([_facts(records) for records in stores])
    of = np.concatenate(fold)
    found = [_same_id(facts, None), _same_data(facts, None), _footprint_pairs(facts, None, minutes, overlap)]
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


# ---- pairs


def _facts(records: xr.Dataset) -> _Facts:
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
    return _Facts(
        _text(records["record_id"].values),
        site_and_day(records),
        np.array(token, np.str_),
        np.array(token_of, np.int64),
        np.where(known.any(1), first, np.nan),
        np.where(known.any(1), last, np.nan),
        np.where(np.isnat(labelled), np.nan, (labelled - _EPOCH) / np.timedelta64(1, "m")),
        np.concatenate([centre[:, np.newaxis], corners], 1).astype(np.float64),
    )


def _together(facts: Sequence[_Facts]) -> _Facts:
    before = np.cumsum([0, *map(len, facts)])
    shifted = [replace(f, token_of=f.token_of + n) for f, n in zip(facts, before, strict=False)]
    return _Facts(*(np.concatenate([getattr(f, name) for f in shifted]) for name in _Facts.__dataclass_fields__))


def _leaks(a: _Facts, b: _Facts | None, kind: str, pairs: Pairs) -> Leaks:
    other, (i, j) = a if b is None else b, pairs
    unknown = np.full(len(i), np.nan)
    apart = np.abs(a.labelled[i] - other.labelled[j])
    kinds = np.full(len(i), kind, "<U9")
    return Leaks(kinds, i, j, _overlaps(a, other, i, j), apart, _gaps(a, other, i, j), unknown, unknown)


def _joined(parts: Sequence[Leaks]) -> Leaks:
    return Leaks(*(np.concatenate([getattr(p, name) for p in parts]) for name in Leaks.__dataclass_fields__))


def _gaps(a: _Facts, b: _Facts, i: Ints, j: Ints) -> Floats:
    return np.maximum(np.maximum(a.first[i], b.first[j]) - np.minimum(a.last[i], b.last[j]), 0)


def _same_id(a: _Facts, b: _Facts | None) -> Pairs:
    other = a if b is None else b
    return _equal(a.record_id, np.arange(len(a)), other.record_id, np.arange(len(other)), b is None)


def _same_data(a: _Facts, b: _Facts | None) -> Pairs:
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


def _footprint_pairs(a: _Facts, b: _Facts | None, minutes: float, overlap: float) -> Pairs:
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

    def points(facts: _Facts, known: Ints, sphere: Floats) -> Floats:
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


def _overlaps(a: _Facts, b: _Facts, i: Ints, j: Ints) -> Floats:
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


def _text(values: npt.NDArray[Any]) -> npt.NDArray[np.str_]:
    return np.array([str(value) for value in values], np.str_)


# ---- images and labels


@dataclass(frozen=True)
class Hashes:
    """Perceptual hashes of labelled frames."""

    bits: npt.NDArray[np.uint64]
    """(sample, channel): 63 bits each."""
    told: npt.NDArray[np.bool_]
    """(sample) whether every channel has something to tell: flat images are like all flat ones."""


def image_hashes(store: xr.Dataset, records: xr.Dataset) -> Hashes:
    """Hash the labelled frame (the first where none is) of every sample: of each channel, shrunk to 32 x 32, the 63
    lowest frequencies of its cosine transform but the mean, by whether they are over their median."""
    from PIL import Image
    from scipy.fft import dctn

    read = pixel_reader(store)
    shape, dtype = store["image"].shape[2:], store["image"].dtype
    frames = np.maximum(records["labelled_frame"].values, 0)

    def thumb(sample: int) -> npt.NDArray[np.float32]:
        stored = np.empty((1, *shape), dtype)
        read(sample, [int(frames[sample])], stored)
        size = (_THUMB, _THUMB)
        planes = dequantise(stored[0])
        return np.stack([np.asarray(Image.fromarray(p).resize(size, Image.Resampling.BOX)) for p in planes])

    thumbs = np.empty((len(frames), shape[0], _THUMB, _THUMB), np.float32)
    with progress("images", len(frames)) as advance, ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for sample, found in enumerate(pool.map(thumb, range(len(frames)))):
            thumbs[sample] = found
            advance(1)
    waves = dctn(thumbs, axes=(-2, -1), norm="ortho")[..., :8, :8].reshape(*thumbs.shape[:2], _BITS + 1)[..., 1:]
    over = waves > np.median(waves, -1, keepdims=True)
    bits = (over.astype(np.uint64) << np.arange(_BITS, dtype=np.uint64)).sum(-1, dtype=np.uint64)
    return Hashes(bits, (thumbs.std((-2, -1)) > 1 / 255).all(1))


def similar(a: Hashes, b: Hashes | None = None, most: float = SIMILAR) -> tuple[Ints, Ints, Floats]:
    """The pairs whose hashes differ in at most `most` of their bits, and that share; without `b`, pairs within `a`."""
    other = a if b is None else b
    rows, columns = np.flatnonzero(a.told), np.flatnonzero(other.told)
    total = _BITS * a.bits.shape[1]
    left: list[Ints] = [np.zeros(0, np.int64)]
    right: list[Ints] = [np.zeros(0, np.int64)]
    apart: list[Floats] = [np.zeros(0)]
    theirs = other.bits[columns]
    for start in range(0, len(rows), 256):
        some = rows[start : start + 256]
        differ = np.zeros((len(some), len(columns)), np.uint16)
        for channel in range(theirs.shape[1]):
            differ += np.bitwise_count(a.bits[some, channel, np.newaxis] ^ theirs[np.newaxis, :, channel])
        i, j = np.nonzero(differ <= most * total)
        first, second, share = some[i], columns[j], differ[i, j] / total
        keep = first < second if b is None else np.ones(len(first), bool)
        left.append(first[keep])
        right.append(second[keep])
        apart.append(share[keep])
    return np.concatenate(left), np.concatenate(right), np.concatenate(apart)


def audit(
    store_a: xr.Dataset,
    records_a: xr.Dataset,
    store_b: xr.Dataset | None = None,
    records_b: xr.Dataset | None = None,
    *,
    minutes: float = WINDOW,
    overlap: float = LEAST_OVERLAP,
    images: bool = True,
) -> Leaks:
    """What `leaking` finds, and with `images` frames that look alike; then those of one image whose masks differ.

    Images are compared where both stores hold the same composite. One image: the same id, raw data, tile and time, or
    hashes that differ in at most SAME_IMAGE.
    """
    other, records = (store_a, records_a) if store_b is None or records_b is None else (store_b, records_b)
    within = store_b is None
    parts = [leaking(records_a, None if within else records, minutes, overlap)]
    if images and store_a.attrs["composite"]["channels"] == other.attrs["composite"]["channels"]:
        hashes = image_hashes(store_a, records_a)
        i, j, distance = similar(hashes, None if within else image_hashes(other, records))
        a, b = _facts(records_a), None if within else _facts(records)
        parts.append(replace(_leaks(a, b, "image", (i, j)), distance=distance))
    found = _joined(parts)
    same_tile = (found.overlap > 0.99) & (found.minutes == 0)
    one_image = np.isin(found.kind, ("id", "data")) | same_tile | (found.distance <= SAME_IMAGE)
    labelled_a, labelled_b = (r["label_source"].values == "human" for r in (records_a, records))
    one_image &= labelled_a[found.a] & labelled_b[found.b]
    _, once = np.unique(np.stack([found.a, found.b], 1)[one_image], axis=0, return_index=True)
    pairs = found[np.flatnonzero(one_image)[once]]
    if not len(pairs) or store_a["mask"].shape[1:] != other["mask"].shape[1:]:
        return found
    dice, differ = _masks_differ(store_a, other, pairs)
    found_dice = dict(zip(zip(pairs.a.tolist(), pairs.b.tolist(), strict=True), dice.tolist(), strict=True))
    keys = zip(found.a.tolist(), found.b.tolist(), strict=True)
    told = replace(found, dice=np.array([found_dice.get(key, np.nan) for key in keys]))
    labels = replace(pairs, kind=np.full(len(pairs), "label", "<U9"), dice=dice)[differ]
    return _joined([told, labels])


def _masks_differ(store_a: xr.Dataset, store_b: xr.Dataset, pairs: Leaks) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """(pair) Dice of the two masks, NaN where both are empty, and whether they differ in any pixel."""
    masks = [np.empty((1, *store_a["mask"].shape[1:]), np.uint8) for _ in range(2)]
    read = [pixel_reader(store, "mask") for store in (store_a, store_b)]
    dice, differ = np.full(len(pairs), np.nan), np.zeros(len(pairs), bool)
    for row, samples in enumerate(zip(pairs.a.tolist(), pairs.b.tolist(), strict=True)):
        for one, sample, mask in zip(read, samples, masks, strict=True):
            one(sample, [0], mask)
        marked = int(masks[0].sum(dtype=np.int64) + masks[1].sum(dtype=np.int64))
        if marked:
            dice[row] = 2 * int((masks[0] & masks[1]).sum(dtype=np.int64)) / marked
        differ[row] = bool((masks[0] != masks[1]).any())
    return dice, differ


# ---- told


def tally(leaks: Leaks, kinds: Collection[str] = KINDS) -> list[tuple[str, Leaks]]:
    """The leaks by kind and what is worth telling apart, with what each is called; of `kinds`, those that were looked
    for, empty ones too."""
    rows: list[tuple[str, str, npt.NDArray[np.bool_] | bool]] = [
        ("id", "same record id", True),
        ("data", "same raw data", True),
        ("footprint", "overlapping footprint and time", True),
        ("footprint", "  of these by over half of the area", leaks.overlap > 0.5),
        ("footprint", "  of these with sequences that share time", leaks.gap == 0),
        ("footprint", "  of these labelled at the same time", leaks.minutes == 0),
        ("image", "similar image", True),
        ("label", "labels that contradict", True),
        ("label", "  of these with one mask empty", leaks.dice == 0),
    ]
    return [(told, leaks[(leaks.kind == kind) & which]) for kind, told, which in rows if kind in kinds]


def tally_table(leaks: Leaks, within: bool, kinds: Collection[str] = KINDS) -> tuple[list[str], list[list[str]]]:
    """Header and rows of `tally`: pairs, and the records of A and B in them, or of the one set where `within`."""
    rows = []
    for name, some in tally(leaks, kinds):
        sides = [np.concatenate([some.a, some.b])] if within else [some.a, some.b]
        rows.append([name, f"{len(some):,}", *(f"{len(np.unique(side)):,}" for side in sides)])
    return ["leak", "pairs", *(["records"] if within else ["records of A", "records of B"])], rows


def leaks_csv(leaks: Leaks, records_a: xr.Dataset, records_b: xr.Dataset) -> bytes:
    """A line a pair and kind: kind, record_a, record_b, overlap (share of the smaller footprint), minutes (between the
    labelled frames), distance (share of hash bits), dice; what is not known is left empty."""
    a, b = _text(records_a["record_id"].values), _text(records_b["record_id"].values)
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(["kind", "record_a", "record_b", "overlap", "minutes", "distance", "dice"])
    for row in range(len(leaks)):
        numbers = (leaks.overlap[row], leaks.minutes[row], leaks.distance[row], leaks.dice[row])
        told = ["" if np.isnan(n) else f"{n:.{digits}f}" for n, digits in zip(numbers, (4, 1, 4, 4), strict=True)]
        rows.writerow([leaks.kind[row], a[leaks.a[row]], b[leaks.b[row]], *told])
    return out.getvalue().encode()


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
        ids = _text(records["record_id"].values)
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
