"""The rehearsal of a run: three steps and a scored batch, from which its time and memory are estimated."""

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
from torch.profiler import profile

from contrail_data.errors import ContrailError
from contrail_data.progress import duration
from contrail_data.storage.files import make_folder
from contrail_train.config.schema import RunConfig
from contrail_train.evaluation.score import score
from contrail_train.inference.detector import on_label_grid
from contrail_train.runs.checkpoint import TrainingState
from contrail_train.runs.directory import MetricsLog
from contrail_train.runs.distributed import is_first, leave
from contrail_train.runs.names import METRICS
from contrail_train.training.fit import CANDIDATES, train
from contrail_train.training.loggers import RunLog
from contrail_train.training.setup import Setup
from contrail_train.training.step import PARTS_OF_STEP
from contrail_train.training.teacher import seconds_per_frame

STEPS = 3  # the first warms up


def rehearse(config: RunConfig, trace: Path | None = None) -> dict[str, str]:
    """Take three steps of a run, score a batch twice and estimate from them what the whole run costs.

    The encoder is trained in these steps even if it is frozen at first.

    Args:
        config: Settings of the run.
        trace: File to write a trace of three more steps to, for chrome://tracing or Perfetto; None for none.

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
        log = RunLog(MetricsLog(out, 0, setup.ranks), {}, setup.ranks)
        train(setup, state, out, log, last_step=min(STEPS, setup.total_steps), checkpoint_seconds=math.inf)
        shares = {} if trace is None else _trace(setup, state, out, log, trace)
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
        "run": f"{steps} steps in {config.epochs} epochs: about {duration(seconds)}, including scoring of the hold-out"
        f"{frozen}",
        "memory": f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB",
    }
    if setup.device.type == "cuda":
        peak, all_of_it = torch.cuda.max_memory_allocated(), torch.cuda.get_device_properties(setup.device).total_memory
        measurements["GPU memory"] = f"peak {peak / 2**30:.1f} of {all_of_it / 2**30:.1f} GiB"
    if trace is not None:
        measurements["time"] = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
        measurements["trace"] = f"{trace}; open it at https://ui.perfetto.dev"
    if setup.teacher is not None:
        asked = f"{setup.data.human_labelled} frames before the first step"
        measurements["teacher"] = f"{asked}: about {duration(teacher_seconds)}"
    return measurements


def _trace(setup: Setup, state: TrainingState, out: Path, log: RunLog, trace: Path) -> dict[str, float]:
    """Trace steps after those that warm up; return the share of each part of a step in the time of all."""
    last_step = min(state.step + STEPS, setup.total_steps)
    if last_step == state.step:
        raise ContrailError(f"--profile: the run has only {setup.total_steps} steps, all of which warm up; add epochs")
    with profile() as profiler:
        train(setup, state, out, log, last_step=last_step, checkpoint_seconds=math.inf)
    if setup.ranks.first:
        make_folder(trace.parent)
        profiler.export_chrome_trace(str(trace))
    on_gpu = setup.device.type == "cuda"
    times = {
        event.key: event.device_time_total if on_gpu else event.cpu_time_total for event in profiler.key_averages()
    }
    total = sum(times.get(part, 0.0) for part in PARTS_OF_STEP) or 1.0
    return {part: times.get(part, 0.0) / total for part in PARTS_OF_STEP}


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
