"""MISSING DOCSTRING."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.errors import ContrailError
from contrail_data.splits.leaks import LEAST_OVERLAP, WINDOW, pairs_within
from contrail_data.store.samples import Floats, Ints, as_text, label_of


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
    which those under 0 are none.
    """
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
