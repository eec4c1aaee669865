"""What is trained on, what is held out: stores and pseudo-labels as frames with labels, checked for leaks."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.catalog import open_named
from contrail_data.composites import COMPOSITES
from contrail_data.errors import ContrailError
from contrail_data.leaks import leaking
from contrail_data.splits import groups_together, sampling_weights
from contrail_data.stats import combined
from contrail_data.store import PixelReader, as_text, kind, pixel_reader, read_scalars
from contrail_data.tiles import SIDE_KM
from contrail_train.config import DataConfig, PseudoConfig


@dataclass(frozen=True)
class Labels:
    """Where the target of an item is read from, and what a stored value means."""

    read: PixelReader
    scale: int = 1
    """Multiplies what is stored, so that 255 is certain."""
    table: npt.NDArray[np.uint8] | None = None
    """(n, 256) target by stored value, in place of `scale`: row `row_of_table[sample]`, or the only one."""
    row_of_table: npt.NDArray[np.integer[Any]] | None = None


@dataclass(frozen=True)
class Items:
    """A table of samples: a row is one labelled frame of one record, with the frames around it that the model sees."""

    images: list[PixelReader]
    labels: list[Labels]
    valid: list[PixelReader | None]
    """By store: which pixels are there, where some are missing."""
    store: npt.NDArray[np.int64]
    sample: npt.NDArray[np.int64]
    frame: npt.NDArray[np.int64]
    """The labelled one."""
    label: npt.NDArray[np.int64]
    """Index into `labels`."""
    label_sample: npt.NDArray[np.int64]
    label_frame: npt.NDArray[np.int64]
    positive: npt.NDArray[np.bool_]
    """Whether the frame has any contrail."""
    weight: npt.NDArray[np.float32]
    """In the loss."""
    frequency: npt.NDArray[np.float64]
    """How often an item comes in an epoch, on average."""
    group: npt.NDArray[np.str_]
    """As `splits.groups` names them: never split across a hold-out."""
    record_id: npt.NDArray[np.str_]
    offsets: tuple[int, ...]
    """Frames that are read, from the labelled one."""
    shape_tchw: tuple[int, ...]
    dtype: np.dtype[Any]

    def __len__(self) -> int:
        return len(self.sample)

    def __getitem__(self, rows: npt.NDArray[Any]) -> Items:
        columns: dict[str, Any] = {name: getattr(self, name)[rows] for name in _COLUMNS}
        return replace(self, **columns)


_COLUMNS = (
    *("store", "sample", "frame", "label", "label_sample", "label_frame"),
    *("positive", "weight", "frequency", "group", "record_id"),
)


@dataclass(frozen=True)
class TrainingData:
    train: Items
    holdout: Items
    pseudo_labelled: int
    """How many of `train` are labelled by a model."""
    without_neighbours: int
    """Labelled frames left out, as the sample has not all the frames around them that the model sees."""
    labellers_saw: frozenset[str]
    """Records that the models which made its pseudo-labels were trained on."""
    leaking: int
    """Items left out, as they leak into what is held out."""
    statistics: dict[str, Any]
    composite: dict[str, Any]
    label_shift: tuple[float, float]
    grid: dict[str, Any]
    """What kind of tiles: `native` (windows of an imager's own grid), `pixel` (metres), `size`, `dtype` as stored."""
    digests: dict[str, str]
    """Store digests by the name they were asked for."""


def open_training_data(config: DataConfig) -> TrainingData:
    """Open the stores of a run and set the hold-out apart.

    Raises ContrailError when a store does not fit the others or the run, a pseudo-label store's parent is not among
    them, or no labelled sample is left to train on.
    """
    if not config.train:
        raise ContrailError("data.train is empty: name stores, --set data.train=[data/train.zarr]")
    if twice := [name for name in config.train if config.train.count(name) > 1]:
        raise ContrailError(f"data.train names {twice[0]} twice: name each store once")
    opened = {name: open_named(name) for name in (*config.train, *config.validation)}
    validation = {name: opened[name] for name in config.validation}
    parents = {name: opened[name] for name in config.train if kind(opened[name]) == "samples"}
    pseudo = {name: opened[name] for name in config.train if kind(opened[name]) == "pseudo-labels"}
    for name, store in opened.items():
        if name not in parents | pseudo and name not in config.validation:
            raise ContrailError(f"{name}: holds {kind(store)}: train on samples and pseudo-labels only")
        if name in config.validation and kind(store) != "samples":
            raise ContrailError(f"{name}: holds {kind(store)}: data.validation takes stores of samples")
    if not parents:
        raise ContrailError("data.train names no store with images: add the one the pseudo-labels were made from")
    if both := sorted(set(config.train) & set(config.validation)):
        raise ContrailError(f"{both[0]}: is in data.train and in data.validation: name it once")
    _check_kin(parents | validation, config, list(validation))
    reader = partial(pixel_reader, check=config.check, keep=config.keep)
    stores = [*parents.values(), *validation.values()]
    scalars = [read_scalars(s) for s in stores]
    human = _human_items(stores, scalars, config, reader)
    trainable = human.store < len(parents)
    if not trainable.any():
        raise ContrailError(f"{', '.join(parents)}: no human-labelled sample: nothing to train on")
    everywhere, seen_by_labellers = _with_pseudo(human, stores, scalars, pseudo, config, reader)
    usable = _with_neighbours(everywhere, stores)
    if not usable.any():
        raise ContrailError(
            f"{', '.join(parents)}: no labelled frame has the neighbours data.frames={config.frames} asks for "
            f"({stores[0].sizes['time']} frames a sample): choose other frames"
        )
    is_human = np.arange(len(everywhere)) < len(human)
    if config.records == "positive":
        wanted = usable & everywhere.positive
        if not wanted.any():
            raise ContrailError(f"{', '.join(parents)}: no positive record: data.records=positive leaves none")
    else:
        wanted = usable
    held, left_out = _held(human, trainable, config)
    if config.validation:  # other stores may lie over these in space and time; groups within one store cannot
        leaked = _leaking_rows(everywhere, scalars[: len(parents)], scalars[len(parents) :], config)
    else:
        leaked = np.zeros(len(everywhere), bool)
    _check_labellers(human.record_id[held], seen_by_labellers, config)
    kept_apart = np.unique(human.group[held | left_out])
    train = wanted & ~leaked & (everywhere.store < len(parents))
    if not config.validation:
        train &= ~np.isin(everywhere.group, kept_apart)
    if not (train & is_human).any():
        raise ContrailError(f"data.holdout={config.holdout} leaves none of {len(human)} samples: lower it")
    # Whatever is trained on, scores are against the majority: the first labels are the masks, one a store.
    scored = replace(human, label=human.store)
    return TrainingData(
        train=everywhere[train],
        holdout=scored[held & wanted[: len(human)]],
        pseudo_labelled=int((train & ~is_human).sum()),
        without_neighbours=int((~usable).sum()),
        labellers_saw=frozenset().union(*seen_by_labellers.values()),
        leaking=int((wanted & leaked).sum()),
        statistics=combined([s.attrs["statistics"] for s in parents.values() if s.attrs["statistics"] is not None]),
        composite=stores[0].attrs["composite"],
        label_shift=tuple(stores[0].attrs["label_shift"]),
        grid=_grid(stores, scalars),
        digests={name: store.attrs["digest"] for name, store in opened.items()},
    )


def _held(
    human: Items, trainable: npt.NDArray[np.bool_], config: DataConfig
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """(n) which human-labelled records are held out, and which neither held out nor trained on. Groups are chosen among
    all of them, so that stages of one pipeline hold out the same ones."""
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


def _leaking_rows(
    items: Items, train: Sequence[xr.Dataset], validation: Sequence[xr.Dataset], config: DataConfig
) -> npt.NDArray[np.bool_]:
    """(n) items to train on that are to be left out, as they share id, raw data, or footprint and time with a record
    that is held out. Raises ContrailError where such are refused."""
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


def _check_labellers(
    held: npt.NDArray[np.str_], seen_by_labellers: dict[str, frozenset[str]], config: DataConfig
) -> None:
    """Raises ContrailError where a model that made pseudo-labels was trained on records that are held out: what it
    learnt of them would come back in its labels."""
    for name, seen in seen_by_labellers.items():
        shared = sorted(set(held.tolist()) & seen)
        if shared and config.leaks != "allow":
            raise ContrailError(
                f"{name}: the model that made these pseudo-labels was trained on {len(shared)} of {len(held)} held-out "
                f"records, such as {shared[0]}: label with one that holds out the same, or set data.leaks=allow"
            )


def _grid(stores: Sequence[xr.Dataset], scalars: Sequence[xr.Dataset]) -> dict[str, Any]:
    wkt = [str(text) for s in scalars for text in s["crs_wkt"].values]
    steps = np.abs(np.concatenate([s["geotransform"].values[:, 1] for s in scalars]))
    return {
        "native": any("Geostationary" in text for text in wkt),
        # OpenContrails' own where nothing is known of places
        "pixel": round(float(np.nanmedian(steps)), 3) if np.isfinite(steps).any() else SIDE_KM * 1000 / 256,
        "size": int(stores[0].sizes["y"]),
        "dtype": str(stores[0]["image"].dtype),
    }


def _check_kin(parents: dict[str, xr.Dataset], config: DataConfig, only_scored: Sequence[str]) -> None:
    """Raises ContrailError unless the stores can be trained on together, as the run wants them."""
    first_name, first = next(iter(parents.items()))
    if all(store.attrs["statistics"] is None for name, store in parents.items() if name not in only_scored):
        raise ContrailError(f"{first_name}: holds no train samples, so it has no statistics: train on a train split")
    for name, store in parents.items():
        if config.composite not in (None, theirs := store.attrs["composite"]["name"]):
            known = config.composite in COMPOSITES
            remedy = f"build it with --composite {config.composite}, or set" if known else "correct"
            raise ContrailError(
                f"{name}: composite {theirs!r}, the run wants {config.composite!r}: {remedy} data.composite"
            )
        for key in ("composite", "label_shift"):
            if store.attrs[key] != first.attrs[key]:
                raise ContrailError(f"{name}: {key} differs from that of {first_name}: train on stores of one kind")
        if store["image"].shape[2:] != first["image"].shape[2:] or store["image"].dtype != first["image"].dtype:
            raise ContrailError(f"{name}: image size or dtype differs from that of {first_name}: rebuild one of them")


def open_labelled(stores: Sequence[xr.Dataset], offsets: Sequence[int] = (0,)) -> Items:
    """The human-labelled frames of stores of one kind, for scoring, each with the frames at `offsets` from it.

    Raises ContrailError when there are none, or some have not these.
    """
    where = ", ".join(store.attrs["path"] for store in stores)
    config = DataConfig(frames=list(offsets))
    items = _human_items(stores, [read_scalars(store) for store in stores], config, pixel_reader)
    if not len(items):
        raise ContrailError(f"{where}: no human labels to score against: choose a labelled store")
    usable = _with_neighbours(items, stores)
    if not usable.all():
        raise ContrailError(
            f"{where}: {int((~usable).sum())} of {len(items)} labelled frames have not all the frames "
            f"{list(offsets)} around them that the model needs: choose a store of records, or a 2D model"
        )
    return items


def _with_neighbours(items: Items, stores: Sequence[xr.Dataset]) -> npt.NDArray[np.bool_]:
    """(n) whether each item's sample has all the frames at the items' offsets."""
    frames = np.array([s.sizes["time"] for s in stores])[items.store]
    return (items.frame + min(items.offsets) >= 0) & (items.frame + max(items.offsets) < frames)


def _human_items(
    stores: Sequence[xr.Dataset],
    scalars: Sequence[xr.Dataset],
    config: DataConfig,
    reader: Callable[..., PixelReader],
) -> Items:
    labels: list[Labels] = [Labels(reader(s, "mask"), 255) for s in stores]
    parts: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in _COLUMNS}
    for i, (store, s, group) in enumerate(zip(stores, scalars, groups_together(scalars), strict=True)):
        rows = np.flatnonzero((s["label_source"].values == "human") & (s["labelled_frame"].values >= 0))
        label = np.full(len(rows), i)
        if config.target != "majority" and "annotators" in store.variables:
            voters = s["annotator_count"].values.astype(np.int64)
            labels.append(Labels(reader(store, "annotators"), table=_mean_of_votes(config.target), row_of_table=voters))
            label[voters[rows] > 0] = len(labels) - 1
        values = {
            "store": np.full(len(rows), i),
            "sample": rows,
            "frame": s["labelled_frame"].values[rows].astype(np.int64),
            "label": label,
            "label_sample": rows,
            "label_frame": np.zeros(len(rows), np.int64),
            "positive": s["positive_pixels"].values[rows] > 0,
            "weight": np.ones(len(rows), np.float32),
            "frequency": sampling_weights(s.isel(sample=rows), config.balance, config.balance_power),
            "group": group[rows],
            "record_id": as_text(s["record_id"].values[rows]),
        }
        for name in _COLUMNS:
            parts[name].append(values[name])
    return Items(
        [reader(s) for s in stores],
        labels,
        [reader(s, "valid") if "valid" in s.variables else None for s in stores],
        **{name: np.concatenate(columns) for name, columns in parts.items()},
        offsets=tuple(config.frames),
        shape_tchw=(len(config.frames), *stores[0]["image"].shape[2:]),
        dtype=stores[0]["image"].dtype,
    )


def _mean_of_votes(target: str) -> npt.NDArray[np.uint8]:
    """(9, 256) soft target by number of annotators and by the bit field of those who marked the pixel."""
    marked = np.bitwise_count(np.arange(256, dtype=np.uint8))
    voters = np.maximum(np.arange(9), 1)[:, np.newaxis]
    share = np.minimum(marked / voters * (2 if target == "clip2" else 1), 1)
    return np.rint(255 * share).astype(np.uint8)


def choose_holdout(
    group: npt.NDArray[np.str_], positive: npt.NDArray[np.bool_], fraction: float, fold: int = 0
) -> npt.NDArray[np.bool_]:
    """(n) which records are held out: whole groups, in the order of the hashes of their names, so that the choice
    survives added records; positive and empty groups apart, so that a small hold-out holds some of each. Fold i is the
    i-th such part; folds share no record, and those of a fraction 1/k leave none out."""
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


def _with_pseudo(
    human: Items,
    parents: list[xr.Dataset],
    scalars: list[xr.Dataset],
    pseudo: dict[str, xr.Dataset],
    config: DataConfig,
    reader: Callable[..., PixelReader],
) -> tuple[Items, dict[str, frozenset[str]]]:
    """The human rows, and one for each pseudo-labelled frame that is sure enough; and by store of pseudo-labels the
    records that the model which made them was trained on. Such a frame counts as positive when its mask is not empty.
    """
    labels = list(human.labels)
    columns = {name: [getattr(human, name)] for name in _COLUMNS}
    digests = [p.attrs["digest"] for p in parents]
    seen = {}
    group = groups_together(scalars) if pseudo else []
    for name, store in pseudo.items():
        if store.attrs["parent"] not in digests:
            raise ContrailError(
                f"{name}: its parent {store.attrs['parent'][:15]}… is not in data.train: add that store"
            )
        parent = digests.index(store.attrs["parent"])
        made = read_scalars(store)
        seen[name] = frozenset(str(r) for r in made["trained_record"].values)
        ids = {str(r): i for i, r in enumerate(scalars[parent]["record_id"].values)}
        at = np.array([ids[str(r)] for r in made["record_id"].values])
        row, column = np.nonzero((made["frame_source"].values == "pseudo") & _sure(made, config.pseudo))
        if config.pseudo.target == "hard":
            labels.append(Labels(reader(store, "frame_mask"), 255))
        else:
            labels.append(Labels(reader(store, "probability"), table=_rounded(config.pseudo)))
        records = scalars[parent].isel(sample=at)
        values = {
            "store": np.full(len(row), parent),
            "sample": at[row],
            "frame": made["frame"].values[row, column].astype(np.int64),
            "label": np.full(len(row), len(labels) - 1),
            "label_sample": row,
            "label_frame": column,
            "positive": made["frame_pixels"].values[row, column] > 0,
            "weight": np.full(len(row), config.pseudo.weight, np.float32),
            "frequency": sampling_weights(records, config.balance, config.balance_power)[row],
            "group": group[parent][at[row]],
            "record_id": as_text(made["record_id"].values[row]),
        }
        for key in _COLUMNS:
            columns[key].append(values[key])
    joined: dict[str, Any] = {name: np.concatenate(parts) for name, parts in columns.items()}
    return replace(human, labels=labels, **joined), seen


def _sure(made: xr.Dataset, config: PseudoConfig) -> npt.NDArray[np.bool_]:
    """(sample, time) which pseudo-labelled frames are sure enough to train on."""
    kept = np.ones(made["frame"].shape, bool)
    pseudo = made["frame_source"].values == "pseudo"
    for name, least in (("frame_confidence", config.min_confidence), ("frame_agreement", config.min_agreement)):
        value = made[name].values.astype(np.float64)
        if config.of == "record":
            mean = np.where(pseudo, value, 0).sum(1) / np.maximum(pseudo.sum(1), 1)
            value = np.broadcast_to(mean[:, np.newaxis], value.shape)
        kept &= value >= least
    return kept


def _rounded(config: PseudoConfig) -> npt.NDArray[np.uint8] | None:
    """(1, 256) target by stored probability."""
    if config.target == "soft":
        return None
    steps = np.rint(np.arange(256) / (255 * config.step)) * (255 * config.step)
    return np.rint(np.minimum(steps, 255)).astype(np.uint8)[np.newaxis]
