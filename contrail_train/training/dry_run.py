"""A rehearsal of a run: three steps, from which its cost is estimated."""

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
SCORING_COST = 1 / 3  # of a step: a forward pass and no backward pass


def rehearse(config: RunConfig) -> dict[str, str]:
    """Take three steps of a run in a temporary directory and estimate what the whole run costs.

    Args:
        config: Settings of the run.

    Returns:
        Measurements in words, by heading; of several processes only the first returns any.
    """
    is_first = os.environ.get("RANK", "0") == "0"
    folder = Path(tempfile.gettempdir()) / f"contrail-dry-run-{os.getpid()}"
    if "RANK" in os.environ:  # torchrun's processes share a run directory, and their parent
        folder = folder.with_name(f"contrail-dry-run-of-{os.getppid()}")
    try:
        fit(config, folder / "run", stop_after=STEPS)
        if not is_first:
            return {}
        lines = [json.loads(line) for line in (folder / "run" / METRICS).read_text().splitlines()]
    finally:
        if is_first:
            shutil.rmtree(folder, ignore_errors=True)
    rates = [line["samples_per_s"] for line in lines if "samples_per_s" in line]
    rate = max(rates[1:] or rates)
    data = open_training_data(config.data)
    count, batch = len(data.train), min(config.batch_size, len(data.train))
    steps = config.epochs * steps_per_epoch(count, config.batch_size)
    seconds = config.epochs * (count + SCORING_COST * len(data.holdout)) / rate
    duration = f"{seconds / 3600:.1f} h" if seconds >= 5400 else f"{seconds / 60:.1f} min"
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    measurements = {
        "speed": f"{rate:.1f} samples/s, {batch / rate:.2f} s per step of {batch}",
        "run": f"{steps} steps in {config.epochs} epochs: about {duration}, including scoring of the hold-out",
        "memory": f"peak {memory:.1f} GiB",
    }
    if torch.cuda.is_available():
        measurements["GPU memory"] = f"peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
    return measurements
