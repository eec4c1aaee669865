"""A rehearsal: everything is built, three steps are taken, and what a run would cost is told."""

from __future__ import annotations

import json
import os
import resource
import shutil
import tempfile
from pathlib import Path

import torch

from contrail_train.config.schema import RunConfig
from contrail_train.data.loader import steps_per_epoch
from contrail_train.data.training_data import open_training_data
from contrail_train.runs.directory import METRICS
from contrail_train.training.fit import fit

STEPS = 3  # the first warms up
SCORING = 1 / 3  # of the cost of a step: a forward pass and no backward one


def rehearse(config: RunConfig) -> dict[str, str]:
    """What was measured, by heading; of several processes only the first tells. Nothing is kept.

    Raises ContrailError where a run would.
    """
    folder = Path(tempfile.gettempdir()) / f"contrail-dry-run-{os.getpid()}"
    if "RANK" in os.environ:  # torchrun's processes share a run directory, and their parent
        folder = folder.with_name(f"contrail-dry-run-of-{os.getppid()}")
    try:
        fit(config, folder / "run", stop_after=STEPS)
        if os.environ.get("RANK", "0") != "0":
            return {}
        lines = [json.loads(line) for line in (folder / "run" / METRICS).read_text().splitlines()]
    finally:
        if os.environ.get("RANK", "0") == "0":
            shutil.rmtree(folder, ignore_errors=True)
    rates = [line["samples_per_s"] for line in lines if "samples_per_s" in line]
    rate = max(rates[1:] or rates)
    data = open_training_data(config.data)
    batch = min(config.batch_size, len(data.train))
    steps = config.epochs * steps_per_epoch(len(data.train), config.batch_size)
    seconds = (config.epochs * (len(data.train) + SCORING * len(data.holdout))) / rate
    told = {
        "speed": f"{rate:.1f} samples/s, {batch / rate:.2f} s a step of {batch}",
        "run": f"{steps} steps in {config.epochs} epochs: about {_duration(seconds)}, scoring the hold-out included",
        "memory": f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB of the machine's at most",
    }
    if torch.cuda.is_available():
        told["GPU memory"] = f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB at most"
    return told


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 5400 else f"{seconds / 60:.1f} min"
