"""The teacher of a distillation: a detector whose probabilities a run learns beside the labels.

A detector is asked once, before the first step, about the frames as stored. Its answers are kept as stores of
predictions until the run is finished, so that an epoch costs what it would cost without a teacher, and a resumed run
learns from the same ones. Augmentation moves them with the labels.
"""

import hashlib
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from contrail_data.catalog.catalog import open_named
from contrail_data.errors import ContrailError
from contrail_data.labels.predictor import LABELLED_FRAME, Labeller
from contrail_data.labels.write import write_labels
from contrail_data.sample import predictable_frames
from contrail_data.store.schema import Kind, kind_of
from contrail_train.config.data import DataConfig
from contrail_train.data.holdout import check_labellers
from contrail_train.data.taught import with_teacher
from contrail_train.data.training_data import TrainingData
from contrail_train.inference.load import load_model
from contrail_train.runs.address import names_model, recorded_address
from contrail_train.runs.distributed import Ranks

TIMED_BATCH = 8  # as large as those in which it is asked
TEACHER = "teacher"
"""The folder of a detector's answers in a run directory."""


@dataclass(frozen=True)
class Teacher:
    """A detector that is asked about stores of samples."""

    labellers: dict[str, Labeller]
    """The detector, for each store of samples to train on by name."""
    offsets: tuple[int, ...]
    """Offsets of its input frames relative to the predicted frame."""


def open_teacher(
    config: DataConfig, data: TrainingData, device: torch.device, ranks: Ranks
) -> tuple[Teacher | None, TrainingData]:
    """Open what `data.teacher` names: stores of predictions, whose answers are mixed with the labels, or a detector.

    Args:
        config: Names the teacher, and the stores to train on.
        data: Their data.
        device: Where to run a detector.
        ranks: The processes of the run.

    Returns:
        The detector, which is still to be asked; None if there is none. The data, which name the teacher.

    Raises:
        ContrailError: If the teacher was trained on held-out records or does not fit the stores, or if it is a detector
            that is not finished, predicts no masks, or is to be asked by several processes.
    """
    detectors = [name for name in config.teacher if names_model(name)]
    if not detectors:
        return None, with_teacher(data, {name: open_named(name) for name in config.teacher}, config)
    name = detectors[0]
    if len(config.teacher) > 1:
        raise ContrailError(
            f"data.teacher: {name} is a detector, so it must be the only teacher; join several in a pipeline whose "
            "stages name their run"
        )
    if ranks.world > 1:
        raise ContrailError(
            f"data.teacher={name}: several processes cannot ask it; write its predictions with `contrail-train "
            "predict`, and name that store"
        )
    model = load_model(name, str(device))
    check_labellers(data.holdout.record_id, {name: model.trained_records}, config)
    stores = {store: open_named(store) for store in config.train}
    teacher = Teacher(
        {n: model.labeller_for(store) for n, store in stores.items() if kind_of(store) is Kind.SAMPLES}, model.offsets
    )
    return teacher, replace(
        data,
        digests=data.digests | {name: model.decision.model},
        places=data.places | {name: recorded_address(model.path)},
        labellers_saw=data.labellers_saw | model.trained_records,
    )


def ask(teacher: Teacher, data: TrainingData, config: DataConfig, folder: Path) -> TrainingData:
    """Mix the labels to train on with a detector's answers.

    The detector is asked about the human-labelled frames to train on that have all of its input frames, as far as
    an earlier call has not kept its answers.

    Args:
        teacher: The detector.
        data: The data of the run.
        config: The weight of the teacher.
        folder: Where the answers are kept.

    Returns:
        The data with these targets.

    Raises:
        ContrailError: If no frame has these neighbours.
    """
    answers = _answers(data, teacher, folder)
    if not answers:
        raise ContrailError(
            f"data.teacher: no labelled frame has the neighbours {list(teacher.offsets)} that it looks at; choose "
            "another teacher"
        )
    return replace(with_teacher(data, answers, config), digests=data.digests, places=data.places)


def _answers(data: TrainingData, teacher: Teacher, folder: Path) -> dict[str, xr.Dataset]:
    """The detector's answers by path."""
    answers = {}
    for number, (name, labeller) in enumerate(teacher.labellers.items()):
        store, human = open_named(name), data.train[np.arange(data.human_labelled)]
        has_frames = np.isin(
            human.frame, predictable_frames(teacher.offsets, store.sizes["time"], labeller.repeats_edges)
        )
        samples = np.unique(human.sample[(human.store == number) & has_frames])
        if not len(samples):
            continue
        folder.mkdir(exist_ok=True)
        identity = json.dumps([labeller.decision.model, store.attrs["digest"], samples.tolist()])
        out = folder / f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}.zarr"
        write_labels(store, labeller, out, kind=Kind.PREDICTIONS, frames=LABELLED_FRAME, samples=samples)
        answers[str(out)] = open_named(str(out))
    return answers


def seconds_per_frame(teacher: Teacher, data: TrainingData) -> float:
    """Measure how long a detector takes for a frame.

    Args:
        teacher: The detector.
        data: The data of the run.

    Returns:
        Seconds per frame.
    """
    labeller = next(iter(teacher.labellers.values()))
    window_btchw = np.zeros((TIMED_BATCH, len(teacher.offsets), *data.train.shape_tchw[1:]), data.train.dtype)
    for _ in range(2):  # the first warms up
        start = time.monotonic()
        labeller.predict([0] * TIMED_BATCH, window_btchw, None)
    return (time.monotonic() - start) / TIMED_BATCH
