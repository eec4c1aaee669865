"""Deal groups of records out into folds of equal size, with equally many positive records."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.errors import ContrailError
from contrail_data.splits.groups import group_records
from contrail_data.splits.keys import Pairs
from contrail_data.splits.pairs import MAX_MINUTES, MIN_OVERLAP, joined_keys, related_pairs
from contrail_data.storage.files import write_csv
from contrail_data.store.samples import Floats, Ints, label_of


def make_folds(group: npt.NDArray[np.str_], positive: npt.NDArray[np.bool_], k: int) -> Ints:
    """Assign whole groups to folds that are as equal in size, and in positive records, as the groups allow.

    Groups larger than a quarter of a fold are assigned first, the largest first, each to the fold that has least. The
    other groups are ordered by the hash of their name. Those with a positive record are cut into k parts that make the
    positives equal, then those without one so that the folds become equally large. As the order depends on the names
    only, added records move only the groups near a cut.

    Args:
        group: (record) name of each record's group.
        positive: (record) whether the record has a contrail.
        k: Number of folds.

    Returns:
        (record) fold of each record, 0 to k - 1.

    Raises:
        ContrailError: If there are fewer groups than folds.
    """
    names, inverse = np.unique(group, return_inverse=True)
    if not 1 <= k <= len(names):
        raise ContrailError(f"{len(names)} groups cannot be {k} folds; ask for fewer folds, or give more records")
    members = np.bincount(inverse, minlength=len(names))
    positives = np.bincount(inverse, positive, len(names))
    rank = np.argsort([hashlib.sha256(name.encode()).hexdigest() for name in names], kind="stable")
    fold_of_group = np.zeros(len(names), np.int64)
    fold_members, fold_positives = np.zeros(k), np.zeros(k)
    large = members > len(group) / k / 4
    for number in sorted(rank[large[rank]], key=lambda g: -members[g]):
        fold = np.lexsort((fold_members, fold_positives))[0] if positives[number] else np.argmin(fold_members)
        fold_of_group[number] = fold
        fold_members[fold] += members[number]
        fold_positives[fold] += positives[number]
    with_positives, without = (rank[(~large & chosen)[rank]] for chosen in (positives > 0, positives == 0))
    fold_of_group[with_positives] = _cut(positives[with_positives], positives.sum() / k - fold_positives)
    fold_members += np.bincount(fold_of_group[with_positives], members[with_positives], k)
    fold_of_group[without] = _cut(members[without], len(group) / k - fold_members)
    return fold_of_group[inverse]


def _cut(amounts: npt.NDArray[Any], shares: Floats) -> Ints:
    """(n) the successive part that each amount falls into, by its middle. Parts add up in proportion to `shares`."""
    shares = np.maximum(shares, 0)
    if not shares.sum():
        shares = np.ones(len(shares))
    ends = np.cumsum(shares)[:-1] / shares.sum() * amounts.sum()
    return np.searchsorted(ends, np.cumsum(amounts) - amounts / 2, side="right")


def pairs_between_folds(
    stores: Sequence[xr.Dataset],
    fold: Ints,
    minutes: float = MAX_MINUTES,
    overlap: float = MIN_OVERLAP,
    images: Sequence[Pairs] = (),
) -> int:
    """Count the related pairs of records (see `group_records`) that are in different folds.

    Args:
        stores: Scalars of each store.
        fold: (record) fold of each record of all stores in order.
        minutes: Maximum time between two sequences of overlapping tiles for them to count as related.
        overlap: Share of the smaller footprint above which two footprints overlap.
        images: Pairs whose images show one scene.

    Returns:
        Number of pairs.
    """
    number = np.unique(np.concatenate(group_records(stores, minutes, overlap, images)), return_inverse=True)[1]
    lowest, highest = (np.full(len(number), start) for start in (fold.max(initial=0), 0))
    np.minimum.at(lowest, number, fold)
    np.maximum.at(highest, number, fold)
    if (lowest[number] == highest[number]).all():
        return 0  # listing the pairs would take far longer
    related = [*related_pairs(joined_keys(stores), minutes, overlap), *images]
    pairs = [np.stack([i, j], 1)[fold[i] != fold[j]] for i, j in related]
    return len(np.unique(np.concatenate(pairs), axis=0))


def write_folds(
    out: Path, names: Sequence[str], stores: Sequence[xr.Dataset], group: npt.NDArray[np.str_], fold: Ints
) -> None:
    """Write folds as CSV.

    One line per record: record_id, store, group, fold, positive (0, 1, or empty without a human label).

    Args:
        out: The file.
        names: Name of each store.
        stores: Scalars of each store.
        group: (record) group of each record of all stores in order.
        fold: (record) fold of each record of all stores in order.
    """
    record_ids = np.concatenate([records["record_id"].values for records in stores])
    store = np.repeat(names, [records.sizes["sample"] for records in stores])
    positive = ["" if label < 0 else label for records in stores for label in label_of(records)]
    rows = zip(record_ids, store, group, fold, positive, strict=True)
    write_csv(out, ["record_id", "store", "group", "fold", "positive"], rows)
