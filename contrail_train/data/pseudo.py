"""Pseudo-labelled frames as items beside the human-labelled ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.errors import ContrailError
from contrail_data.store.reader import read_scalars
from contrail_data.store.samples import as_text
from contrail_train.config.schema import DataConfig, PseudoConfig
from contrail_train.data.items import Bools, Items, Labels, Rows, SampleStores, frequencies, join_rows


def add_pseudo_labels(
    human: Items, stores: SampleStores, pseudo: Mapping[str, xr.Dataset], config: DataConfig
) -> Items:
    """Append an item for each pseudo-labelled frame that meets the limits of `data.pseudo`.

    Such a frame counts as positive if its mask is not empty.

    Args:
        human: Items of the human-labelled frames.
        stores: The stores of their images.
        pseudo: Stores of pseudo-labels by name.
        config: Limits, weight and target of pseudo-labels, and balance.

    Returns:
        The human items, followed by the pseudo-labelled ones.

    Raises:
        ContrailError: If the parent of a store of pseudo-labels is not among the stores.
    """
    labels, parts = list(human.labels), [Rows(**{name: getattr(human, name) for name in Rows.__dataclass_fields__})]
    digests = [store.attrs["digest"] for store in stores.datasets]
    for name, store in pseudo.items():
        if store.attrs["parent"] not in digests:
            parent_digest = store.attrs["parent"][:15]
            raise ContrailError(f"{name}: its parent {parent_digest}… is not in data.train; add that store")
        parent = digests.index(store.attrs["parent"])
        if config.pseudo.target == "hard":
            labels.append(Labels(stores.open_reader(store, "frame_mask"), 255))
        else:
            labels.append(Labels(stores.open_reader(store, "probability"), table=_rounding(config.pseudo)))
        scalars, parents = read_scalars(store), stores.scalars[parent]
        sample_of = {record_id: i for i, record_id in enumerate(as_text(parents["record_id"].values).tolist())}
        sample = np.array([sample_of[record_id] for record_id in as_text(scalars["record_id"].values).tolist()])
        row, column = np.nonzero(_selected(scalars, config.pseudo))
        part = Rows(
            store=np.full(len(row), parent),
            sample=sample[row],
            frame=scalars["frame"].values[row, column].astype(np.int64),
            label=np.full(len(row), len(labels) - 1),
            label_sample=row,
            label_frame=column,
            positive=scalars["frame_pixels"].values[row, column] > 0,
            weight=np.full(len(row), config.pseudo.weight, np.float32),
            frequency=frequencies(parents.isel(sample=sample), config.balance)[row],
            group=stores.groups[parent][sample[row]],
            record_id=as_text(scalars["record_id"].values[row]),
        )
        parts.append(part)
    return replace(human, **vars(join_rows(parts)), labels=labels)


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


def _rounding(config: PseudoConfig) -> npt.NDArray[np.uint8] | None:
    """(1, 256) target by stored probability."""
    if config.target == "soft":
        return None
    steps = np.rint(np.arange(256) / (255 * config.step)) * (255 * config.step)
    return np.rint(np.minimum(steps, 255)).astype(np.uint8)[np.newaxis]
