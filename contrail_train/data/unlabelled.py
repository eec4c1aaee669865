"""Frames that are learnt from without labels: all of some stores that say nothing about held-out records."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from contrail_data.errors import ContrailError
from contrail_data.store.samples import as_text
from contrail_train.config.data import DataConfig
from contrail_train.data.items import Ints, Items, Rows, SampleStores, has_all_frames, human_items

_STREAM: Final = 2
"""Jumps from the stream of the order of labelled items; `Epochs` uses the first one."""


class NoLabels:
    """Targets of frames without a label: no contrail. No loss of labels may be computed from them."""

    def read_target(self, sample: int, frame: int, out_1hw: npt.NDArray[np.uint8]) -> None:
        """Fill the target of a frame.

        Args:
            sample: Index of the sample.
            frame: Index of the frame.
            out_1hw: Receives zeros.
        """
        out_1hw[:] = 0


def unlabelled_items(
    stores: SampleStores, numbers: Sequence[int], held: Items, trained: Items, config: DataConfig
) -> Items:
    """Tabulate the frames of stores that are learnt from without labels.

    Frames of records in a group with a held-out one are left out, and those that are trained on with a label.

    Args:
        stores: The stores of labelled frames, followed by others without them.
        numbers: Which of them to take frames from.
        held: Items that are held out, or neither held out nor trained on.
        trained: Items that are trained on.
        config: The frames around a frame that the model sees.

    Returns:
        The items, with empty targets.

    Raises:
        ContrailError: If there are none.
    """
    barred = {str(stores.groups[i][sample]) for i, sample in zip(held.store, held.sample, strict=True)}
    parts = []
    for number in numbers:
        count, times = (stores.datasets[number].sizes[axis] for axis in ("sample", "time"))
        sample, frame = np.divmod(np.arange(count * times), times)
        is_own = trained.store == number
        is_trained = np.isin(sample * times + frame, trained.sample[is_own] * times + trained.frame[is_own])
        rows = Rows(
            store=np.full(len(sample), number),
            sample=sample,
            frame=frame,
            label=np.zeros((len(sample), 1), np.int64),
            label_sample=sample,
            label_frame=np.zeros(len(sample), np.int64),
            positive=np.zeros(len(sample), bool),
            weight=np.ones(len(sample), np.float32),
            group=stores.groups[number][sample],
            record_id=as_text(stores.scalars[number]["record_id"].values)[sample],
        )
        parts.append(rows[~is_trained & ~np.isin(rows.group, sorted(barred))])
    items = replace(human_items(stores, config), **vars(Rows.concatenate(parts)), labels=[NoLabels()])
    items = items[has_all_frames(items)]
    if not len(items):
        raise ContrailError(
            "data.unlabelled: no frame is left, as all are labelled, related to held-out records, or without"
            " the frames around them; name other stores"
        )
    return items


def unlabelled_rows(count: int, length: int, seed: int, epoch: int) -> Ints:
    """Draw the unlabelled frames of an epoch: a random order of all, again and again until there are enough.

    Args:
        count: Number of unlabelled frames.
        length: Number of rows to draw.
        seed: Seed of the run.
        epoch: Number of the epoch.

    Returns:
        Rows in the order in which they are learnt from, over all processes.
    """
    random = np.random.Generator(np.random.Philox(key=[seed, epoch]).jumped(_STREAM))
    return np.concatenate([random.permutation(count) for _ in range(-(-length // count))])[:length]
