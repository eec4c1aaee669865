"""Targets that lie between the human labels and the probabilities of a teacher, which are read from stores.

Both are on the grid of the labels, so augmentation moves their mixture as it moves labels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.errors import ContrailError
from contrail_data.storage.place import place_of
from contrail_data.store.reader import pixel_reader, read_scalars
from contrail_data.store.samples import as_text
from contrail_data.store.schema import Kind, require_kind
from contrail_train.config.data import DataConfig, PseudoConfig
from contrail_train.data.holdout import check_labellers
from contrail_train.data.items import Bools, Ints, Items, Labels, Targets, probability_table
from contrail_train.data.training_data import TrainingData


@dataclass(frozen=True, kw_only=True)
class TaughtLabels:
    """Labels of a store of samples, mixed with the answers of a teacher."""

    labels: Targets
    probability: Targets
    """Of the teacher's store."""
    weight: float
    """Share of the teacher."""
    row: Ints
    """(sample) row of the teacher's store; -1 for samples that no item has."""
    column: Ints
    """(sample) index among the frames of that row."""
    rejected: Bools
    """(sample) whether the teacher's gate rejects the frame."""

    def read_target(self, sample: int, frame: int, out_1hw: npt.NDArray[np.uint8]) -> None:
        """Read what is learnt from a frame.

        Args:
            sample: Index of the sample.
            frame: Index of the frame among those of the labels.
            out_1hw: Receives the target, 255 being certain contrail.
        """
        self.labels.read_target(sample, frame, out_1hw)
        answer_1hw = np.zeros_like(out_1hw)  # a frame that the gate rejects has no contrail
        if not self.rejected[sample]:
            self.probability.read_target(int(self.row[sample]), int(self.column[sample]), answer_1hw)
        mixture_1hw = (1 - self.weight) * out_1hw + self.weight * answer_1hw
        np.rint(mixture_1hw, out=out_1hw, casting="unsafe")


def with_teacher(data: TrainingData, stores: Mapping[str, xr.Dataset], config: DataConfig) -> TrainingData:
    """Mix the labels of the human-labelled frames to train on with a teacher's answers.

    Held-out records keep their labels, and so do pseudo-labelled frames and frames without an answer.

    Args:
        data: The data of a run.
        stores: Stores of the teacher's predictions by name.
        config: Share of the teacher, and what to do with leaks.

    Returns:
        The data with these targets.

    Raises:
        ContrailError: If a store does not belong to the data or has none of its frames, or leaks.
    """
    for name, store in stores.items():
        require_kind(
            store,
            Kind.PREDICTIONS,
            remedy="write its predictions with `contrail-train predict`; in pseudo-labels, labelled frames keep their "
            "human label",
        )
        trained = frozenset(map(str, store["trained_record"].values))
        check_labellers(data.holdout.record_id, {name: trained}, config)
        train, taught = _taught(data, store, config)
        if not taught:
            raise ContrailError(
                f"{name}: predicts none of the labelled frames of data.train; write it for one of these stores with "
                "`contrail-train predict`"
            )
        data = replace(
            data,
            train=train,
            taught=data.taught + taught,
            labellers_saw=data.labellers_saw | trained,
            digests=data.digests | {name: store.attrs["digest"]},
            places=data.places | {name: str(place_of(store.attrs["path"]).resolved())},
        )
    return data


def _taught(data: TrainingData, store: xr.Dataset, config: DataConfig) -> tuple[Items, int]:
    """The items with the teacher's answers from one store, and how many items have one."""
    train, scalars = data.train, read_scalars(store)
    # stores of samples come first among the digests, in the order in which items count them
    parents = [number for number, digest in enumerate(data.digests.values()) if digest == store.attrs["parent"]]
    own = np.flatnonzero(np.isin(train.store[: data.human_labelled], parents))
    row_of = {record_id: row for row, record_id in enumerate(as_text(scalars["record_id"].values).tolist())}
    row = np.array([row_of.get(record_id, -1) for record_id in train.record_id[own].tolist()], np.int64)
    is_frame = scalars["frame"].values[row] == train.frame[own, np.newaxis]
    answered = (row >= 0) & is_frame.any(1)
    items, row, column = own[answered], row[answered], is_frame.argmax(1)[answered]
    label, own_labels = train.label.copy(), np.unique(train.label[items])
    if any(isinstance(train.labels[number], TaughtLabels) for number in own_labels):
        raise ContrailError(f"{store.attrs['path']}: a second answer to the same frames; name one store of them")
    size = int(train.sample[items].max(initial=-1)) + 1
    by_sample = [np.full(size, -1), np.full(size, -1), np.zeros(size, bool)]
    rejected = scalars["frame_score"].values[row, column] < store.attrs["gate"]
    for array, values in zip(by_sample, (row, column, rejected), strict=True):
        array[train.sample[items]] = values
    labels = list(train.labels)
    logit = pixel_reader(store, "logit", check=config.check, keep=config.keep)
    for number in own_labels:
        taught = TaughtLabels(
            labels=train.labels[number],
            probability=Labels(logit, dtype=store["logit"].dtype, table=probability_table(PseudoConfig())),
            weight=config.teacher_weight,
            row=by_sample[0],
            column=by_sample[1],
            rejected=by_sample[2],
        )
        label[items] = np.where(train.label[items] == number, len(labels), label[items])
        labels.append(taught)
    return replace(train, labels=labels, label=label), len(items)
