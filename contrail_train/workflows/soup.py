"""The mean of several runs' weights as one run."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from contrail_data.catalog.catalog import open_named
from contrail_data.errors import ContrailError
from contrail_data.storage.files import write_atomically
from contrail_train.config.settings import read_config
from contrail_train.data.items import open_labelled
from contrail_train.data.loader import load
from contrail_train.data.training_data import TrainingData, open_training_data
from contrail_train.evaluation.calibrate import calibrate, known_of_holdout
from contrail_train.evaluation.score import Reading
from contrail_train.inference.detector import View, normalise, single, view_of
from contrail_train.inference.run import load_run
from contrail_train.models.segmenter import build
from contrail_train.runs.calibration import read_calibration
from contrail_train.runs.checkpoint import file_digest, load_weights, save_mean, save_weights
from contrail_train.runs.device import choose_device
from contrail_train.runs.directory import CALIBRATION, CONFIG, WEIGHTS, begin_run, finished, hold
from contrail_train.training.optim import BATCH_NORMS, train_mode
from contrail_train.workflows.pipeline import held_out_by_all, stores_of

BATCH_NORM_STEPS = 100


def average_runs(runs: Sequence[Path], out: Path, device: str, command: Sequence[str] = ()) -> dict[str, Any]:
    """Write the mean of runs' weights as a run of its own; returns its calibration.

    Statistics of batch norms that are not frozen, which a mean of weights does not have, are taken anew over images
    that the first run was trained on. Thresholds are fitted on records that every run held out. Raises ContrailError
    for runs of different models, or an `out` that holds something else.
    """
    if len(runs) < 2:
        raise ContrailError(f"{runs[0]}: one run alone: name two or more")
    where = choose_device(device)
    loaded = [load_run(run, where, "none") for run in runs]
    configs = [read_config(run / CONFIG) for run in runs]
    calibrations = [read_calibration(run) for run in runs]
    kinds = [
        {
            "model": config.model.model_copy(update={"pretrained": False}),
            "data.frames": config.data.frames,
            "data.normalise": config.data.normalise,
            "statistics": calibration["statistics"],
            "label shift": calibration["off"],
        }
        for config, calibration in zip(configs, calibrations, strict=True)
    ]
    for run, own in zip(runs, kinds, strict=True):
        if differs := [what for what, value in own.items() if value != kinds[0][what]]:
            raise ContrailError(f"{run}: its {differs[0]} is not that of {runs[0]}: average runs of one model and data")
    config = configs[0].model_copy(update={"preset": f"soup of {len(runs)}", "device": device})
    data = open_training_data(config.data)
    digests = data.digests | {f"run {i}": file_digest(run / WEIGHTS) for i, run in enumerate(runs)}
    begin_run(out, config, digests, where, command, 1)
    with contextlib.closing(hold(out)):
        if (known := finished(out)) is not None:
            print(f"{out}: finished already", file=sys.stderr)
            return known
        save_mean(out / WEIGHTS, [run / WEIGHTS for run in runs], {"soup": [str(run) for run in runs]})
        plain = config.model.model_copy(update={"pretrained": False})
        model = build(plain, len(data.composite["channels"]), config.data.frames)
        load_weights(out / WEIGHTS, model)
        model.to(where)
        view = view_of(config, calibrations[0]["statistics"], where)
        train_mode(model, config)
        if norms := [m for m in model.modules() if isinstance(m, BATCH_NORMS) and m.training]:
            for norm in norms:
                norm.reset_running_stats()  # type: ignore[operator]
                norm.momentum = None  # the mean over all that is shown
            with torch.no_grad():
                for x_btchw in _inputs(data, config.batch_size, where, view):
                    model(x_btchw)
            save_weights(out / WEIGHTS, model, {"soup": [str(run) for run in runs]})
        model.eval()
        off = tuple(calibrations[0]["off"])
        detector = single(model, view, config.model.head, top_k=config.top_k, off=off, symmetries="none")
        stores = [open_named(name) for name in stores_of(runs)]
        items = held_out_by_all(loaded, open_labelled(stores, detector.offsets))
        if not len(items):
            print("warning: no record that all runs hold out: the threshold is 0.5", file=sys.stderr)
        shift = data.label_shift[0] - off[0], data.label_shift[1] - off[1]
        fitted = calibrate(detector, shift, items, Reading(where, name="calibrate"), [detector.mask], [detector.gate])
        seen = {*items.record_id.tolist()}.union(*(c["seen_records"] for c in calibrations))
        calibration = calibrations[0] | {
            "threshold": fitted.choice.threshold if fitted else 0.5,
            "gate": fitted.choice.gate if fitted else 0.0,
            **known_of_holdout(fitted, items),
            "seen_records": sorted(seen),
            "weights": file_digest(out / WEIGHTS),
        }
        write_atomically(out / CALIBRATION, [json.dumps(calibration, indent=1).encode()])
    return calibration


def _inputs(data: TrainingData, batch: int, device: torch.device, view: View) -> Iterator[Tensor]:
    """Training images as the model sees them, without augmentation."""
    rows = np.random.default_rng(0).permutation(len(data.train))[: batch * BATCH_NORM_STEPS]
    steps = [rows[i : i + batch] for i in range(0, len(rows), batch) if len(rows[i : i + batch]) > 1]
    for loaded in load(data.train, steps, device, 2, 2):
        yield normalise(loaded.image_btchw, view)
