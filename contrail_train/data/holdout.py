"""The hold-out: which records are never trained on, and which others leak into them."""

import hashlib
from collections import Counter

import numpy as np
import numpy.typing as npt

from contrail_data.errors import ContrailError
from contrail_data.splits.leaks import LeakKind, find_leaks
from contrail_data.splits.pairs import LISTED
from contrail_train.config.data import DataConfig
from contrail_train.data.items import Bools, Items, SampleStores
from contrail_train.data.named import read_folds


def split_records(human: Items, trainable: Bools, config: DataConfig) -> tuple[Bools, Bools]:
    """Decide which human-labelled records are held out.

    Groups are chosen among all records, so that the stages of a pipeline hold out the same ones.

    Args:
        human: n human-labelled items.
        trainable: (n) whether the item is from `data.train` rather than `data.validation`.
        config: Hold-out, folds and validation.

    Returns:
        (n) items that are held out, and (n) items that are neither held out nor trained on.

    Raises:
        ContrailError: If the file of folds is not valid or does not cover the records.
    """
    none = np.zeros(len(human), bool)
    if config.validation:
        return ~trainable, none
    if config.folds is None:
        return choose_holdout(human.group, human.positive, config.holdout, config.fold), none
    fold_of = read_folds(config.folds)
    record_ids = human.record_id.tolist()
    if absent := [record_id for record_id in record_ids if record_id not in fold_of]:
        raise ContrailError(
            f"{config.folds}: lacks {len(absent)} of the records, such as {absent[0]}; write it again with "
            "contrail-data splits for the stores in data.train"
        )
    fold = np.array([fold_of[record_id] for record_id in record_ids])
    for number in (config.fold, *config.leave_out):
        if not (fold == number).any():
            raise ContrailError(f"{config.folds}: has no fold {number}; choose from 0 to {fold.max()}")
    return fold == config.fold, np.isin(fold, config.leave_out)


def leaking_items(items: Items, stores: SampleStores, count: int, config: DataConfig) -> Bools:
    """Find the items that share id, raw data, footprint and time, or scene with a record of the validation stores.

    Args:
        items: n items.
        stores: The stores to train on, followed by those that are held out.
        count: Number of stores to train on.
        config: What to do with leaks.

    Returns:
        (n) items to leave out; none with `data.leaks=allow`.

    Raises:
        ContrailError: If there are any with `data.leaks=refuse`.
    """
    leaking = np.zeros(len(items), bool)
    records_by_kind: Counter[str] = Counter()
    example = ""
    for number, ours in enumerate(stores.scalars[:count]):
        for other, theirs in enumerate(stores.scalars[count:], count):
            pairs = find_leaks(ours, theirs, images=stores.similar.between(number, other), listed=LISTED)
            leaking |= (items.store == number) & np.isin(items.sample, pairs.a)
            for kind in sorted(LeakKind):
                records_by_kind[kind] += len(np.unique(pairs.a[pairs.of(kind)]))
            if len(pairs) and not example:
                example = f"{ours['record_id'].values[pairs.a[0]]} with {theirs['record_id'].values[pairs.b[0]]}"
    count = len(np.unique(items.record_id[leaking]))
    if count and config.leaks == "refuse":
        kinds = ", ".join(f"{n} by {kind}" for kind, n in records_by_kind.items() if n)
        raise ContrailError(
            f"{count} records of data.train leak into data.validation ({kinds}; such as {example}); see contrail-data "
            "audit, and set data.leaks=drop to leave them out, or allow"
        )
    return leaking & (config.leaks == "drop")


def check_labellers(
    held: npt.NDArray[np.str_], seen_by_labellers: dict[str, frozenset[str]], config: DataConfig
) -> None:
    """Refuse labels of a model that was trained on held-out records.

    What the model learnt from those records would return in its labels.

    Args:
        held: Ids of the held-out records.
        seen_by_labellers: By store of labels, or by model, the records that the model was trained on.
        config: What to do with leaks.

    Raises:
        ContrailError: If there are such labels, except with `data.leaks=allow`.
    """
    for name, seen in seen_by_labellers.items():
        shared = sorted(set(held.tolist()) & seen)
        if shared and config.leaks != "allow":
            raise ContrailError(
                f"{name}: this model, or the one that made these labels, was trained on {len(shared)} of {len(held)} "
                f"held-out records, such as {shared[0]}; use one that holds out the same, or set data.leaks=allow"
            )


def choose_holdout(group: npt.NDArray[np.str_], positive: Bools, fraction: float, fold: int = 0) -> Bools:
    """Choose which records are held out.

    Whole groups are taken in the order of the hashes of their names, so that the choice changes little when records are
    added. Groups with and without contrails are chosen separately, so that a small hold-out has some of each. Fold i is
    the i-th such part: folds are disjoint, and those of a fraction 1/k cover all records.

    Args:
        group: (n) group of each record.
        positive: (n) whether the record has a contrail.
        fraction: Share of the records in a fold.
        fold: Number of the fold.

    Returns:
        (n) whether the record is held out.
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
