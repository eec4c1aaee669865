"""Labelled frames, by humans or by a model, as a table: where image and label are read from, and how each counts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.errors import ContrailError
from contrail_data.sample import predictable_frames
from contrail_data.splits.groups import group_records, record_classes, sampling_weights
from contrail_data.splits.images import Similar, similar_records
from contrail_data.splits.pairs import LISTED
from contrail_data.store import logits
from contrail_data.store.reader import PixelReader, pixel_reader, read_scalars
from contrail_data.store.samples import as_text
from contrail_train.config.data import BalanceConfig, DataConfig, PseudoConfig
from contrail_train.data.flow import WindowFlow

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SampleStores:
    """Stores of samples with the same composite, size and type."""

    datasets: Sequence[xr.Dataset]
    open_reader: Callable[..., PixelReader] = pixel_reader
    """Opens a variable of a store, `image` by default."""

    @cached_property
    def scalars(self) -> list[xr.Dataset]:
        """The per-sample variables of each store.

        Returns:
            A dataset per store.
        """
        return [read_scalars(store) for store in self.datasets]

    @cached_property
    def groups(self) -> list[npt.NDArray[np.str_]]:
        """Group of each record, as named by `contrail_data.splits.groups`.

        Returns:
            (sample) names per store.
        """
        return group_records(self.scalars, images=[self.similar.joined()])

    @cached_property
    def similar(self) -> Similar:
        """Records that show one scene, where the place or time of one is unknown.

        Returns:
            Pairs within and between the stores.
        """
        return similar_records(self.datasets, self.scalars, listed=LISTED, open_reader=self.open_reader)


class Targets(Protocol):
    """Whatever reads what is learnt from a frame."""

    def read_target(self, sample: int, frame: int, out_1hw: npt.NDArray[np.uint8]) -> None:
        """Read the target of a frame.

        Args:
            sample: Index of the sample.
            frame: Index of the frame.
            out_1hw: Receives the target, 255 being certain contrail.
        """


@dataclass(frozen=True)
class Labels:
    """Where the targets of items are read from, and what a stored value means."""

    read: PixelReader
    """Reads the stored values."""
    scale: int = 1
    """Factor that maps the stored values to 0 to 255, where 255 is certain contrail."""
    dtype: npt.DTypeLike = np.uint8
    """Type of the stored values."""
    table: npt.NDArray[np.uint8] | None = None
    """(n, values) target by stored value instead of `scale`, negative values from the end: row `row_of_table[sample]`,
    or the only one."""
    row_of_table: npt.NDArray[np.integer[Any]] | None = None
    """(sample) row of `table`; None if it has one row."""

    def read_target(self, sample: int, frame: int, out_1hw: npt.NDArray[np.uint8]) -> None:
        """Read what is learnt from a frame.

        Args:
            sample: Index of the sample.
            frame: Index of the frame.
            out_1hw: Receives the target, 255 being certain contrail.
        """
        stored = out_1hw if self.dtype == np.uint8 else np.empty(out_1hw.shape, self.dtype)
        self.read(sample, [frame], stored)
        if self.table is not None:
            at = 0 if self.row_of_table is None else int(self.row_of_table[sample])
            np.take(self.table[at], stored, out=out_1hw, mode="wrap")
        elif self.scale != 1:
            np.multiply(out_1hw, self.scale, out=out_1hw)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Columns of a table of labelled frames, all of the same length n and, unless they say so, of one dimension."""

    store: Ints
    """Index into `Items.images`."""
    sample: Ints
    """Index into the samples of that store."""
    frame: Ints
    """Index of the labelled frame in the sample."""
    label: Ints
    """(n, targets) indices into `Items.labels`."""
    label_sample: Ints
    """Index into the samples of these labels."""
    label_frame: Ints
    """Index into the frames of these labels."""
    positive: Bools
    """Whether the frame has any contrail."""
    weight: npt.NDArray[np.float32]
    """Weight in the loss."""
    group: npt.NDArray[np.str_]
    """Group of the record, as named by `contrail_data.splits.groups`; no hold-out divides one."""
    record_id: npt.NDArray[np.str_]
    """Id of the record."""

    def __len__(self) -> int:
        return len(self.sample)

    def __getitem__(self, rows: npt.NDArray[Any]) -> Self:
        return replace(self, **{field.name: getattr(self, field.name)[rows] for field in fields(Rows)})

    @staticmethod
    def concatenate(parts: Sequence["Rows"]) -> "Rows":
        """Join tables.

        Args:
            parts: The tables, in order.

        Returns:
            All their rows. Indices stay those of each part.
        """
        return Rows(**_joined(parts))


def _joined(parts: Sequence[Rows]) -> dict[str, Any]:
    """The columns of tables one after the other."""
    return {field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Rows)}


@dataclass(frozen=True, kw_only=True)
class Items(Rows):
    """Labelled frames with what reads them and the frames around them."""

    images: list[PixelReader]
    """By store, reads `image`."""
    labels: list[Targets]
    valid: list[PixelReader | None]
    """By store, reads which pixels are valid; None if all are."""
    lengths: list[int]
    """By store, frames of a sample."""
    offsets: tuple[int, ...]
    """Frames to read, relative to the labelled one."""
    repeats_edges: bool = False
    """Whether the first and last frame of a sample stand for frames beyond its ends."""
    shape_tchw: tuple[int, ...]
    """Shape of an item's image."""
    dtype: np.dtype[Any]
    """Type of the stored images."""
    flow: WindowFlow | None = None
    """Computes the flow between the frames of an item; None if it is not needed with the images."""
    of_annotators: bool = False
    """Whether the labels after the first are masks of annotators, or the first one again where there are fewer."""


def open_labelled(stores: Sequence[xr.Dataset], offsets: Sequence[int] = (0,), *, repeats_edges: bool = False) -> Items:
    """Tabulate the human-labelled frames of stores, for scoring.

    Args:
        stores: Stores of samples, with the same composite, size and type.
        offsets: Frames to read, relative to the labelled one.
        repeats_edges: Whether the first and last frame of a sample stand for frames beyond its ends.

    Returns:
        The items, with the majority masks as labels.

    Raises:
        ContrailError: If there are none, or some samples lack a frame at these offsets.
    """
    paths = ", ".join(store.attrs["path"] for store in stores)
    items = human_items(SampleStores(stores), window_config(offsets, repeats_edges))
    if not len(items):
        raise ContrailError(f"{paths}: no human labels to score against; choose a labelled store")
    if lacking := int((~has_all_frames(items)).sum()):
        raise ContrailError(
            f"{paths}: {lacking} of {len(items)} labelled frames lack some of the frames {list(offsets)} around them "
            "that the model needs; choose a store of records, or a 2D model"
        )
    return items


def window_config(offsets: Sequence[int], repeats_edges: bool) -> DataConfig:
    """Express the input frames of a model as settings.

    Args:
        offsets: Frames to read, relative to the labelled one.
        repeats_edges: Whether the first and last frame of a sample stand for frames beyond its ends.

    Returns:
        The settings, without stores.
    """
    return DataConfig(frames=list(offsets), edges="repeat" if repeats_edges else "drop")


def has_all_frames(items: Items) -> Bools:
    """Say which items have all the frames around the labelled one that the model sees.

    Args:
        items: n items.

    Returns:
        (n) bool.
    """
    usable = [predictable_frames(items.offsets, length, items.repeats_edges) for length in items.lengths]
    first, end = (np.array([getattr(frames, name) for frames in usable])[items.store] for name in ("start", "stop"))
    return np.asarray((items.frame >= first) & (items.frame < end))


def human_items(stores: SampleStores, config: DataConfig, annotators: int = 0) -> Items:
    """Tabulate the human-labelled frames of stores.

    Args:
        stores: The stores.
        config: Frames and targets.
        annotators: Number of targets after the mask that are masks of annotators; 0: the targets are those of `config`.

    Returns:
        The items. The labels of store i are its masks, or with another target its annotators' mean where it has them.

    Raises:
        ContrailError: If a record has more annotators.
    """
    labels: list[Targets] = [Labels(stores.open_reader(store, "mask"), 255) for store in stores.datasets]
    parts = []
    for i, (store, s, group) in enumerate(zip(stores.datasets, stores.scalars, stores.groups, strict=True)):
        rows = np.flatnonzero((s["label_source"].values == "human") & (s["labelled_frame"].values >= 0))
        label = np.full((len(rows), 1 + annotators if annotators else len(config.targets)), i)
        if annotators and "annotators" in store.variables:
            voters = s["annotator_count"].values.astype(np.int64)[rows]
            if (most := voters.max(initial=0)) > annotators:
                raise ContrailError(
                    f"{store.attrs['path']}: has records with {most} annotators, more than model.annotator_maps="
                    f"{annotators}; set model.annotator_maps={most}"
                )
            for annotator in range(most):
                labels.append(Labels(stores.open_reader(store, "annotators"), table=_marked_by(annotator)))
                label[voters > annotator, 1 + annotator] = len(labels) - 1
        for k, target in enumerate(config.targets):
            if target != "majority" and "annotators" in store.variables:
                voters = s["annotator_count"].values.astype(np.int64)
                table = _mean_of_votes(2 if target == "clip2" else 1)
                labels.append(Labels(stores.open_reader(store, "annotators"), table=table, row_of_table=voters))
                label[voters[rows] > 0, k] = len(labels) - 1
        part = Rows(
            store=np.full(len(rows), i),
            sample=rows,
            frame=s["labelled_frame"].values[rows].astype(np.int64),
            label=label,
            label_sample=rows,
            label_frame=np.zeros(len(rows), np.int64),
            positive=s["positive_pixels"].values[rows] > 0,
            weight=np.ones(len(rows), np.float32),
            group=group[rows],
            record_id=as_text(s["record_id"].values[rows]),
        )
        parts.append(part)
    return Items(
        **_joined(parts),
        images=[stores.open_reader(store) for store in stores.datasets],
        labels=labels,
        valid=[stores.open_reader(s, "valid") if "valid" in s.variables else None for s in stores.datasets],
        lengths=[store.sizes["time"] for store in stores.datasets],
        offsets=tuple(config.frames),
        repeats_edges=config.edges == "repeat",
        shape_tchw=(len(config.frames), *stores.datasets[0]["image"].shape[2:]),
        dtype=stores.datasets[0]["image"].dtype,
        of_annotators=annotators > 0,
    )


def add_pseudo_labels(
    human: Items, stores: SampleStores, pseudo: Mapping[str, xr.Dataset], config: DataConfig
) -> Items:
    """Append an item for each pseudo-labelled frame that meets the limits of `data.pseudo`.

    Such a frame counts as positive if its mask is not empty.

    Args:
        human: Items of the human-labelled frames.
        stores: The stores of their images.
        pseudo: Stores of pseudo-labels by name.
        config: Limits, weight and target of pseudo-labels.

    Returns:
        The human items, followed by the pseudo-labelled ones.

    Raises:
        ContrailError: If the parent of a store of pseudo-labels is not among the stores.
    """
    labels, parts = list(human.labels), list[Rows]([human])
    digests = [store.attrs["digest"] for store in stores.datasets]
    for name, store in pseudo.items():
        if store.attrs["parent"] not in digests:
            parent_digest = store.attrs["parent"][:15]
            raise ContrailError(f"{name}: its parent {parent_digest}… is not in data.train; add that store")
        parent = digests.index(store.attrs["parent"])
        masks = len(labels)
        labels.append(Labels(stores.open_reader(store, "frame_mask"), 255))
        if config.pseudo.target != "hard":
            table = probability_table(config.pseudo)
            labels.append(Labels(stores.open_reader(store, "logit"), dtype=store["logit"].dtype, table=table))
        scalars, parents = read_scalars(store), stores.scalars[parent]
        sample_of = {record_id: i for i, record_id in enumerate(as_text(parents["record_id"].values).tolist())}
        sample = np.array([sample_of[record_id] for record_id in as_text(scalars["record_id"].values).tolist()])
        row, column = np.nonzero(_selected(scalars, config.pseudo))
        rejected = scalars["frame_score"].values[row, column] < store.attrs["gate"]
        part = Rows(
            store=np.full(len(row), parent),
            sample=sample[row],
            frame=scalars["frame"].values[row, column].astype(np.int64),
            # a frame that the gate rejects has an empty mask, whatever its probabilities
            label=np.repeat(np.where(rejected, masks, len(labels) - 1)[:, np.newaxis], human.label.shape[1], axis=1),
            label_sample=row,
            label_frame=column,
            positive=scalars["frame_pixels"].values[row, column] > 0,
            weight=np.full(len(row), config.pseudo.weight, np.float32),
            group=stores.groups[parent][sample[row]],
            record_id=as_text(scalars["record_id"].values[row]),
        )
        parts.append(part)
    return replace(human, **_joined(parts), labels=labels)


def balanced_frequency(items: Items, stores: SampleStores, config: BalanceConfig) -> npt.NDArray[np.float64]:
    """Compute how often items are drawn, so that classes become equally frequent over all of them.

    Args:
        items: The n items that are drawn.
        stores: The stores of their images.
        config: Which classes, and how far.

    Returns:
        (n) frequencies with mean 1.
    """
    starts = np.cumsum([0, *(scalars.sizes["sample"] for scalars in stores.scalars)])
    record = starts[items.store] + items.sample
    classes = [
        items.positive
        if factor == "positive"
        else np.concatenate([record_classes(scalars, factor) for scalars in stores.scalars])[record]
        for factor in config.by
    ]
    return sampling_weights(classes, config.power) if classes else np.ones(len(items))


def _mean_of_votes(factor: int) -> npt.NDArray[np.uint8]:
    """(9, 256) soft target by number of annotators and by the bit field of those who marked the pixel."""
    marked = np.bitwise_count(np.arange(256, dtype=np.uint8))
    voters = np.maximum(np.arange(9), 1)[:, np.newaxis]
    return np.rint(255 * np.minimum(marked / voters * factor, 1)).astype(np.uint8)


def _marked_by(annotator: int) -> npt.NDArray[np.uint8]:
    """(1, 256) mask of an annotator by the bit field of those who marked the pixel."""
    return (255 * (np.arange(256) >> annotator & 1)).astype(np.uint8)[np.newaxis]


def _selected(scalars: xr.Dataset, config: PseudoConfig) -> Bools:
    """(sample, time) pseudo-labelled frames that meet the limits of confidence and agreement."""
    pseudo = scalars["frame_source"].values == "pseudo"
    selected = pseudo.copy()
    for name, limit in (("frame_confidence", config.min_confidence), ("frame_agreement", config.min_agreement)):
        value = scalars[name].values.astype(np.float64)
        if config.of == "record":
            value = np.where(pseudo, value, 0).sum(1, keepdims=True) / np.maximum(pseudo.sum(1, keepdims=True), 1)
        selected &= value >= limit
    return selected


def probability_table(config: PseudoConfig) -> npt.NDArray[np.uint8]:
    """Tabulate the targets that stored probabilities stand for.

    Args:
        config: Whether and how probabilities are rounded.

    Returns:
        (1, CODES) target by the code of a probability, 255 being certain contrail.
    """
    probability = logits.decode(np.arange(logits.CODES).astype(np.uint16).view(np.int16))
    if config.target == "quantised":
        probability = np.minimum(np.rint(probability / config.step) * config.step, 1)
    return np.rint(255 * probability).astype(np.uint8)[np.newaxis]
