"""Store → batches: threads in this process read chunk bytes straight into preallocated batches.

No worker processes: reading a frame is one system call, so a few threads keep ahead of any step. Only the frames
that the model needs are read. Order is a pure function of (seed, epoch, step, rank, world size): nothing is
remembered, so a resumed run sees just what an undisturbed one would have.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from torch import Tensor

from contrail_data.catalog import open_named
from contrail_data.errors import ContrailError
from contrail_data.stats import combined
from contrail_data.store import PixelReader, kind, pixel_reader, read_scalars
from contrail_train.config import DataConfig, PseudoConfig


@dataclass(frozen=True)
class Labels:
    """Where the target of an item is read from."""

    read: PixelReader
    scale: int
    """Multiplies what is stored, so that 255 is certain."""
    step: float | None
    """Soft labels are rounded to multiples of this; None: as they are."""


@dataclass(frozen=True)
class Items:
    """A table of 2D samples: one row is one labelled frame of one record."""

    images: list[PixelReader]
    labels: list[Labels]
    store: npt.NDArray[np.int64]
    sample: npt.NDArray[np.int64]
    frame: npt.NDArray[np.int64]
    label: npt.NDArray[np.int64]
    """Index into `labels`."""
    label_sample: npt.NDArray[np.int64]
    label_frame: npt.NDArray[np.int64]
    weight: npt.NDArray[np.float32]
    group: npt.NDArray[np.str_]
    """(site, day) of the record, or the record itself where those are unknown: never split across a hold-out."""
    record_id: npt.NDArray[np.str_]
    shape_tchw: tuple[int, ...]
    dtype: np.dtype[Any]

    def __len__(self) -> int:
        return len(self.sample)

    def __getitem__(self, rows: npt.NDArray[Any]) -> Items:
        columns = {name: getattr(self, name)[rows] for name in _COLUMNS}
        return Items(self.images, self.labels, **columns, shape_tchw=self.shape_tchw, dtype=self.dtype)


_COLUMNS = ("store", "sample", "frame", "label", "label_sample", "label_frame", "weight", "group", "record_id")


@dataclass(frozen=True)
class Batch:
    """What a step gets: valid until the next but one is asked for."""

    image_btchw: Tensor
    """The store's dtype; uint8 counts 1/255."""
    target_b1hw: Tensor
    """uint8, 255 is certain contrail."""
    weight_b: Tensor
    """float32 weight in the loss."""


@dataclass(frozen=True)
class TrainingData:
    train: Items
    holdout: Items
    statistics: dict[str, Any]
    composite: dict[str, Any]
    label_shift: tuple[float, float]
    digests: dict[str, str]
    """Store digests by the name they were asked for."""


def open_training_data(config: DataConfig) -> TrainingData:
    """Open the stores of a run and set the hold-out apart.

    Raises ContrailError when a store does not fit the others, a pseudo-label store's parent is not among them, or
    no human-labelled sample is left to train on.
    """
    if not config.train:
        raise ContrailError("data.train is empty: name stores, --set data.train=[data/train.zarr]")
    opened = {name: open_named(name) for name in config.train}
    parents = {name: s for name, s in opened.items() if kind(s) == "samples"}
    pseudo = {name: s for name, s in opened.items() if kind(s) == "pseudo-labels"}
    for name, store in opened.items():
        if name not in parents and name not in pseudo:
            raise ContrailError(f"{name}: holds {kind(store)}: train on samples and pseudo-labels only")
    if not parents:
        raise ContrailError("data.train names no store with images: add the one the pseudo-labels were made from")
    first_name, first = next(iter(parents.items()))
    for name, store in parents.items():
        if store.attrs["statistics"] is None:
            raise ContrailError(f"{name}: holds no train samples, so it has no statistics: train on a train split")
        for key in ("composite", "label_shift"):
            if store.attrs[key] != first.attrs[key]:
                raise ContrailError(f"{name}: {key} differs from that of {first_name}: train on stores of one kind")
        if store["image"].shape[2:] != first["image"].shape[2:] or store["image"].dtype != first["image"].dtype:
            raise ContrailError(f"{name}: image size or dtype differs from that of {first_name}: rebuild one of them")
    reader = partial(pixel_reader, check=config.check, keep=config.keep)
    images = [reader(s) for s in parents.values()]
    masks = [Labels(reader(s, "mask"), 255, None) for s in parents.values()]
    scalars = [read_scalars(s) for s in parents.values()]
    shape = (1, *first["image"].shape[2:])
    human = Items(images, masks, **_human_rows(scalars), shape_tchw=shape, dtype=first["image"].dtype)
    if not len(human):
        raise ContrailError(f"{', '.join(parents)}: no human-labelled sample: nothing to train on")
    positive = np.concatenate([s["positive_pixels"].values[s["label_source"].values == "human"] for s in scalars]) > 0
    held = choose_holdout(human.group, positive, config.holdout)
    if held.all():
        raise ContrailError(f"data.holdout={config.holdout} leaves none of {len(human)} samples: lower it")
    holdout_groups = np.unique(human.group[held])
    train = _with_pseudo(human[~held], list(parents.values()), scalars, pseudo, config.pseudo, holdout_groups, reader)
    return TrainingData(
        train=train,
        holdout=human[held],
        statistics=combined([s.attrs["statistics"] for s in parents.values()]),
        composite=first.attrs["composite"],
        label_shift=tuple(first.attrs["label_shift"]),
        digests={name: store.attrs["digest"] for name, store in opened.items()},
    )


def open_labelled(store: xr.Dataset) -> Items:
    """The human-labelled frames of one store, for scoring. Raises ContrailError when there are none."""
    items = Items(
        [pixel_reader(store)],
        [Labels(pixel_reader(store, "mask"), 255, None)],
        **_human_rows([read_scalars(store)]),
        shape_tchw=(1, *store["image"].shape[2:]),
        dtype=store["image"].dtype,
    )
    if not len(items):
        raise ContrailError(f"{store.attrs['path']}: no human labels to score against: choose a labelled store")
    return items


def _human_rows(scalars: Sequence[xr.Dataset]) -> dict[str, Any]:
    parts: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in _COLUMNS}
    for i, s in enumerate(scalars):
        rows = np.flatnonzero((s["label_source"].values == "human") & (s["labelled_frame"].values >= 0))
        values = {
            "store": np.full(len(rows), i),
            "sample": rows,
            "frame": s["labelled_frame"].values[rows].astype(np.int64),
            "label": np.full(len(rows), i),
            "label_sample": rows,
            "label_frame": np.zeros(len(rows), np.int64),
            "weight": np.ones(len(rows), np.float32),
            "group": site_and_day(s)[rows],
            "record_id": _text(s["record_id"].values[rows]),
        }
        for name in _COLUMNS:
            parts[name].append(values[name])
    return {name: np.concatenate(columns) for name, columns in parts.items()}


def site_and_day(scalars: xr.Dataset) -> npt.NDArray[np.str_]:
    """(sample) names of groups that must not be split: tiles of one site on one day; else the record itself."""
    frame = np.maximum(scalars["labelled_frame"].values, 0)
    times = scalars["time"].values[np.arange(len(frame)), frame]
    known = ~np.isnat(times) & ~np.isnan(scalars["latitude"].values)
    where = zip(scalars["latitude"].values, scalars["longitude"].values, strict=True)
    groups = [f"{a:.1f} {o:.1f} {t}" for (a, o), t in zip(where, times.astype("datetime64[D]"), strict=True)]
    return np.where(known, np.array(groups, str), _text(scalars["record_id"].values))


def _text(values: npt.NDArray[Any]) -> npt.NDArray[np.str_]:
    """Strings of any numpy kind (zarr gives variable-length ones) as fixed-width ones."""
    return np.array([str(value) for value in values], np.str_)


def choose_holdout(
    group: npt.NDArray[np.str_], positive: npt.NDArray[np.bool_], fraction: float
) -> npt.NDArray[np.bool_]:
    """(n) which records are held out: whole groups, by the hash of their names, so that the choice survives added
    records; positive and empty groups apart, so that a small hold-out holds some of each."""
    held = np.zeros(len(group), bool)
    names, inverse = np.unique(group, return_inverse=True)
    group_positive = np.bincount(inverse, positive, len(names)) > 0
    rank = np.array([int.from_bytes(hashlib.sha256(n.encode()).digest()[:6], "big") for n in names])
    for state in (True, False):
        members = group_positive[inverse] == state
        want = round(fraction * members.sum())
        for g in sorted(np.flatnonzero(group_positive == state), key=rank.__getitem__):
            if held[members].sum() >= want:
                break
            held[inverse == g] = True
    return held


def _with_pseudo(
    human: Items,
    parents: list[xr.Dataset],
    scalars: list[xr.Dataset],
    pseudo: dict[str, xr.Dataset],
    config: PseudoConfig,
    holdout_groups: npt.NDArray[np.str_],
    reader: Callable[..., PixelReader],
) -> Items:
    """The human rows, and one for each pseudo-labelled frame of a record that is not held out."""
    labels = list(human.labels)
    columns = {name: [getattr(human, name)] for name in _COLUMNS}
    digests = [p.attrs["digest"] for p in parents]
    for name, store in pseudo.items():
        if store.attrs["parent"] not in digests:
            raise ContrailError(
                f"{name}: its parent {store.attrs['parent'][:15]}… is not in data.train: add that store"
            )
        parent = digests.index(store.attrs["parent"])
        ids = {str(r): i for i, r in enumerate(scalars[parent]["record_id"].values)}
        at = np.array([ids[str(r)] for r in store["record_id"].values])
        groups = site_and_day(scalars[parent])[at]
        usable = (store["frame_source"].values == "pseudo") & ~np.isin(groups, holdout_groups)[:, np.newaxis]
        row, column = np.nonzero(usable)
        hard = config.target == "hard"
        variable = "frame_mask" if hard else "probability"
        step = config.step if config.target == "quantised" else None
        labels.append(Labels(reader(store, variable), 255 if hard else 1, step))
        values = {
            "store": np.full(len(row), parent),
            "sample": at[row],
            "frame": store["frame"].values[row, column].astype(np.int64),
            "label": np.full(len(row), len(labels) - 1),
            "label_sample": row,
            "label_frame": column,
            "weight": np.full(len(row), config.weight, np.float32),
            "group": groups[row],
            "record_id": _text(store["record_id"].values[row]),
        }
        for key in _COLUMNS:
            columns[key].append(values[key])
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    return Items(human.images, labels, **joined, shape_tchw=human.shape_tchw, dtype=human.dtype)


def epoch_order(count: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """A permutation of the items, the same on every machine."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(count)


def steps_per_epoch(count: int, batch_size: int, world: int = 1) -> int:
    return -(-count // (batch_size * world))


def step_rows(
    order: npt.NDArray[np.int64], step: int, batch_size: int, rank: int = 0, world: int = 1
) -> npt.NDArray[np.int64]:
    """Rows of one rank's batch at a step of the epoch; over ranks and steps each item comes exactly once."""
    start = step * batch_size * world
    return order[start : start + batch_size * world][rank::world]


def load(
    items: Items, rows_by_step: Sequence[npt.NDArray[np.int64]], device: torch.device, threads: int, prefetch: int
) -> Iterator[Batch]:
    """Batches of the given rows, read ahead by threads; on a GPU copied on a side stream from pinned memory."""
    if not len(rows_by_step):
        return
    largest = max(len(rows) for rows in rows_by_step)
    slots = deque(_Slot(items, largest, device) for _ in range(min(prefetch, len(rows_by_step)) + 2))
    under_way: deque[tuple[_Slot, int, list[Future[None]]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="loader") as pool:
        todo = iter(rows_by_step)

        def start_next() -> None:
            rows = next(todo, None)
            if rows is not None:
                slot = slots.popleft()
                slot.wait_until_free()
                # One task a thread and batch: a task per frame would cost more than reading the frame.
                parts = np.array_split(np.arange(len(rows)), min(threads, len(rows)))
                tasks = [pool.submit(_fill, items, slot, rows, part) for part in parts]
                under_way.append((slot, len(rows), tasks))

        for _ in range(prefetch):
            start_next()
        try:
            while under_way:
                slot, size, tasks = under_way.popleft()
                for task in tasks:
                    task.result()
                slots.append(slot)
                start_next()
                yield slot.batch(size)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class _Slot:
    """Memory of one batch, filled again and again."""

    def __init__(self, items: Items, size: int, device: torch.device) -> None:
        self.device = device
        pin = device.type == "cuda"
        dtype = torch.from_numpy(np.empty(0, items.dtype)).dtype
        self.image = torch.empty((size, *items.shape_tchw), dtype=dtype, pin_memory=pin)
        self.target = torch.empty((size, 1, *items.shape_tchw[-2:]), dtype=torch.uint8, pin_memory=pin)
        self.weight = torch.empty(size, dtype=torch.float32, pin_memory=pin)
        self.stream = torch.cuda.Stream(device) if pin else None
        self.copied: torch.cuda.Event | None = None

    def wait_until_free(self) -> None:
        if self.copied is not None:
            self.copied.synchronize()

    def batch(self, size: int) -> Batch:
        parts = self.image[:size], self.target[:size], self.weight[:size]
        if self.stream is None:
            return Batch(*parts)
        with torch.cuda.stream(self.stream):
            moved = [part.to(self.device, non_blocking=True) for part in parts]
            self.copied = self.stream.record_event()
        compute = torch.cuda.current_stream(self.device)
        compute.wait_stream(self.stream)
        for tensor in moved:
            tensor.record_stream(compute)
        return Batch(*moved)


def _fill(items: Items, slot: _Slot, rows: npt.NDArray[np.int64], part: npt.NDArray[np.int64]) -> None:
    image, target, weight = slot.image.numpy(), slot.target.numpy(), slot.weight.numpy()
    for i in part:
        row = rows[i]
        items.images[items.store[row]](int(items.sample[row]), [int(items.frame[row])], image[i])
        labels = items.labels[items.label[row]]
        labels.read(int(items.label_sample[row]), [int(items.label_frame[row])], target[i])
        if labels.scale != 1:
            np.multiply(target[i], labels.scale, out=target[i])
        if labels.step is not None:
            steps = np.rint(target[i] / (255 * labels.step)) * (255 * labels.step)
            target[i] = np.rint(np.minimum(steps, 255))
        weight[i] = items.weight[row]
