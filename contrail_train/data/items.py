"""MISSING DOCSTRING."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.errors import ContrailError
from contrail_data.splits.groups import groups_together, sampling_weights
from contrail_data.store.reader import PixelReader, pixel_reader, read_scalars
from contrail_data.store.samples import as_text
from contrail_train.config.schema import DataConfig


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
        columns: dict[str, Any] = {name: getattr(self, name)[rows] for name in COLUMNS}
        return replace(self, **columns)


COLUMNS = (
    *("store", "sample", "frame", "label", "label_sample", "label_frame"),
    *("positive", "weight", "frequency", "group", "record_id"),
)


def open_labelled(stores: Sequence[xr.Dataset], offsets: Sequence[int] = (0,)) -> Items:
    """The human-labelled frames of stores of one kind, for scoring, each with the frames at `offsets` from it.

    Raises ContrailError when there are none, or some have not these.
    """
    where = ", ".join(store.attrs["path"] for store in stores)
    config = DataConfig(frames=list(offsets))
    items = human_items(stores, [read_scalars(store) for store in stores], config, pixel_reader)
    if not len(items):
        raise ContrailError(f"{where}: no human labels to score against: choose a labelled store")
    usable = with_neighbours(items, stores)
    if not usable.all():
        raise ContrailError(
            f"{where}: {int((~usable).sum())} of {len(items)} labelled frames have not all the frames "
            f"{list(offsets)} around them that the model needs: choose a store of records, or a 2D model"
        )
    return items


def with_neighbours(items: Items, stores: Sequence[xr.Dataset]) -> npt.NDArray[np.bool_]:
    """(n) whether each item's sample has all the frames at the items' offsets."""
    frames = np.array([s.sizes["time"] for s in stores])[items.store]
    return (items.frame + min(items.offsets) >= 0) & (items.frame + max(items.offsets) < frames)


def human_items(
    stores: Sequence[xr.Dataset],
    scalars: Sequence[xr.Dataset],
    config: DataConfig,
    reader: Callable[..., PixelReader],
) -> Items:
    labels: list[Labels] = [Labels(reader(s, "mask"), 255) for s in stores]
    parts: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in COLUMNS}
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
        for name in COLUMNS:
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
