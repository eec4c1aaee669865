"""MISSING DOCSTRING."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.errors import ContrailError
from contrail_data.splits.leaks import leaking
from contrail_train.config.schema import DataConfig
from contrail_train.data.items import Items


def is_held_out(
    human: Items, trainable: npt.NDArray[np.bool_], config: DataConfig
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """(n) which human-labelled records are held out, and which neither held out nor trained on. Groups are chosen among
    all of them, so that stages of one pipeline hold out the same ones.
    """
    nothing = np.zeros(len(human), bool)
    if config.validation:
        return ~trainable, nothing
    if config.folds is None:
        return choose_holdout(human.group, human.positive, config.holdout, config.fold), nothing
    fold_of = read_folds(config.folds)
    if absent := [record_id for record_id in human.record_id.tolist() if record_id not in fold_of]:
        raise ContrailError(
            f"{config.folds}: lacks {len(absent)} of the records, such as {absent[0]}: write it anew with "
            "contrail-data splits of the stores in data.train"
        )
    fold = np.array([fold_of[record_id] for record_id in human.record_id.tolist()])
    for asked in (config.fold, *config.leave_out):
        if not (fold == asked).any():
            raise ContrailError(f"{config.folds}: holds no fold {asked}: choose among 0 to {fold.max()}")
    return fold == config.fold, np.isin(fold, config.leave_out)


def read_folds(path: str) -> dict[str, int]:
    """Fold by record id, from a file that `contrail-data splits` wrote. Raises ContrailError."""
    fold_of = {}
    remedy = "write it with contrail-data splits"
    try:
        with Path(path).open(newline="") as file:
            table = csv.DictReader(file)
            if not {"record_id", "fold"} <= set(table.fieldnames or ()):
                raise ContrailError(f"{path}: has no columns record_id and fold: {remedy}")
            for row in table:
                if not str(row["fold"]).isdecimal():
                    raise ContrailError(f"{path}: line {table.line_num}: {row['fold']!r} is no fold: {remedy}")
                fold_of[row["record_id"]] = int(row["fold"])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "no table"
        raise ContrailError(f"{path}: cannot be read ({reason}): {remedy}") from None
    return fold_of


def leaking_rows(
    items: Items, train: Sequence[xr.Dataset], validation: Sequence[xr.Dataset], config: DataConfig
) -> npt.NDArray[np.bool_]:
    """(n) items to train on that are to be left out, as they share id, raw data, or footprint and time with a record
    that is held out. Raises ContrailError where such are refused.
    """
    found = np.zeros(len(items), bool)
    told: dict[str, int] = {}
    example = ""
    for number, ours in enumerate(train):
        for theirs in validation:
            pairs = leaking(ours, theirs)
            rows = (items.store == number) & np.isin(items.sample, pairs.a)
            found |= rows
            for name in np.unique(pairs.kind):
                told[name] = told.get(name, 0) + len(np.unique(pairs.a[pairs.kind == name]))
            if len(pairs) and not example:
                ids = ours["record_id"].values[pairs.a[0]], theirs["record_id"].values[pairs.b[0]]
                example = f"{ids[0]} with {ids[1]}"
    count = len(np.unique(items.record_id[found]))
    if count and config.leaks == "refuse":
        why = ", ".join(f"{n} by {name}" for name, n in told.items())
        raise ContrailError(
            f"{count} records of data.train leak into data.validation ({why}; such as {example}): see contrail-data "
            "audit, and set data.leaks=drop to leave them out, or allow"
        )
    return found if config.leaks == "drop" else np.zeros(len(items), bool)


def check_labellers(
    held: npt.NDArray[np.str_], seen_by_labellers: dict[str, frozenset[str]], config: DataConfig
) -> None:
    """Raises ContrailError where a model that made pseudo-labels was trained on records that are held out: what it
    learnt of them would come back in its labels.
    """
    for name, seen in seen_by_labellers.items():
        shared = sorted(set(held.tolist()) & seen)
        if shared and config.leaks != "allow":
            raise ContrailError(
                f"{name}: the model that made these pseudo-labels was trained on {len(shared)} of {len(held)} held-out "
                f"records, such as {shared[0]}: label with one that holds out the same, or set data.leaks=allow"
            )


def choose_holdout(
    group: npt.NDArray[np.str_], positive: npt.NDArray[np.bool_], fraction: float, fold: int = 0
) -> npt.NDArray[np.bool_]:
    """(n) which records are held out: whole groups, in the order of the hashes of their names, so that the choice
    survives added records; positive and empty groups apart, so that a small hold-out holds some of each. Fold i is the
    i-th such part; folds share no record, and those of a fraction 1/k leave none out.
    """
    held = np.zeros(len(group), bool)
    names, inverse = np.unique(group, return_inverse=True)
    members = np.bincount(inverse, minlength=len(names))
    group_positive = np.bincount(inverse, positive, len(names)) > 0
    rank = np.array([int.from_bytes(hashlib.sha256(n.encode()).digest()[:6], "big") for n in names])
    for state in (True, False):
        groups = np.array(sorted(np.flatnonzero(group_positive == state), key=rank.__getitem__), np.int64)
        before = np.cumsum(members[groups]) - members[groups]
        low, high = (round(f * fraction * members[groups].sum()) for f in (fold, fold + 1))
        held |= np.isin(inverse, groups[(low <= before) & (before < high)])
    return held
