"""The rehearsal of a run: three steps and a scored batch, from which its time and memory are estimated."""

import contextlib
import json
import math
import os
import resource
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from contrail_train.config.schema import RunConfig
from contrail_train.evaluation.score import score
from contrail_train.inference.detector import on_label_grid
from contrail_train.runs.checkpoint import TrainingState
from contrail_train.runs.directory import METRICS, MetricsLog
from contrail_train.runs.distributed import is_first, leave
from contrail_train.training.fit import CANDIDATES, train
from contrail_train.training.setup import Setup
from contrail_train.training.teacher import seconds_per_frame

STEPS = 3  # the first warms up


def rehearse(config: RunConfig) -> dict[str, str]:
    """Take three steps of a run, score a batch twice and estimate from them what the whole run costs.

    The encoder is trained in these steps even if it is frozen at first.

    Args:
        config: Settings of the run.

    Returns:
        Measurements in words, by heading; of several processes only the first returns any.
    """
    # torchrun's processes share a run directory, and their parent
    owner = f"of-{os.getppid()}" if "RANK" in os.environ else f"{os.getpid()}"
    out = Path(tempfile.gettempdir()) / f"contrail-dry-run-{owner}"
    trained_throughout = config.model_copy(update={"model": config.model.model_copy(update={"freeze_epochs": 0})})
    try:
        (out / CANDIDATES).mkdir(parents=True, exist_ok=True)
        setup = Setup(trained_throughout)
        state = TrainingState(config.micro_batch or config.batch_size)
        with contextlib.closing(MetricsLog(out, 0, setup.ranks)) as log:
            train(setup, state, out, log, last_step=min(STEPS, setup.total_steps), checkpoint_seconds=math.inf)
        scoring = _seconds_to_score(setup)
        lines = (out / METRICS).read_text().splitlines() if setup.ranks.first else []
    finally:
        if is_first():
            shutil.rmtree(out, ignore_errors=True)
    leave(setup.ranks)
    if not setup.ranks.first:
        return {}
    rates = [values["samples_per_s"] for values in map(json.loads, lines) if "samples_per_s" in values]
    rate, count = max(rates[1:] or rates), len(setup.data.epochs)
    teacher_seconds = 0.0
    if setup.teacher is not None:
        teacher_seconds = setup.data.human_labelled * seconds_per_frame(setup.teacher, setup.data)
    batch, steps = min(config.batch_size, count), setup.total_steps
    seconds = config.epochs * count / rate + (config.epochs + 1) * scoring + teacher_seconds
    pace = f"{rate:.1f} samples/s" if rate >= 1 else f"{1 / rate:.1f} s per sample"
    frozen = ", as if the encoder were trained in all of them" if config.model.freeze_epochs else ""
    measurements = {
        "speed": f"{pace}, {batch / rate:.2f} s per step of {batch}",
        "run": f"{steps} steps in {config.epochs} epochs: about {_duration(seconds)}, including scoring of the hold-out"
        f"{frozen}",
        "memory": f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB",
    }
    if setup.device.type == "cuda":
        peak, all_of_it = torch.cuda.max_memory_allocated(), torch.cuda.get_device_properties(setup.device).total_memory
        measurements["GPU memory"] = f"peak {peak / 2**30:.1f} of {all_of_it / 2**30:.1f} GiB"
    if setup.teacher is not None:
        asked = f"{setup.data.human_labelled} frames before the first step"
        measurements["teacher"] = f"{asked}: about {_duration(teacher_seconds)}"
    return measurements


def _seconds_to_score(setup: Setup) -> float:
    """Estimate how long it takes to score the hold-out, whose images are whole whatever the training sees."""
    holdout = setup.data.holdout
    first_batch = holdout[np.arange(min(len(holdout), setup.config.batch_size * setup.ranks.world))]
    if not len(first_batch):
        return 0.0
    setup.average.module.eval()
    for _ in range(2):  # the first warms up
        start = time.monotonic()
        score(on_label_grid(setup.detector, setup.label_shift), first_batch, setup.evaluation, 0.5)
    return (time.monotonic() - start) * len(holdout) / len(first_batch)


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 5400 else f"{seconds / 60:.1f} min"
