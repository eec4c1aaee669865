"""The mean of several runs' weights as one run."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from contrail_data.errors import ContrailError
from contrail_data.messages import Kind
from contrail_train.config.schema import RunConfig
from contrail_train.config.settings import read_config
from contrail_train.data.items import open_labelled
from contrail_train.data.loader import load
from contrail_train.data.training_data import TrainingData, open_training_data
from contrail_train.evaluation.calibrate import GRID_WHEN, HeldOut, calibrate
from contrail_train.evaluation.held_out import load_lenders, sample_stores
from contrail_train.evaluation.score import EvaluationOptions
from contrail_train.inference.detector import Network
from contrail_train.inference.load import load_run
from contrail_train.inference.predictor import Predictor
from contrail_train.models.layers import batch_norms
from contrail_train.models.segmenter import Segmenter
from contrail_train.runs.address import local_model
from contrail_train.runs.begun import locked_directory
from contrail_train.runs.calibration import Calibration, find_calibration, finish, read_calibration
from contrail_train.runs.checkpoint import file_digest, load_weights, save_mean, save_tensors
from contrail_train.runs.directory import begin_run
from contrail_train.runs.distributed import ALONE, choose_device
from contrail_train.runs.names import CONFIG, FLOW_WEIGHTS, WEIGHTS
from contrail_train.runs.stores import find_folds, open_run_stores
from contrail_train.training.borrowed import with_borrowed_thresholds
from contrail_train.training.freezing import train_mode
from contrail_train.workflows.pipeline import held_out_by_all

BATCH_NORM_STEPS = 100


def average_runs(addresses: Sequence[str | Path], out: Path, device: str) -> Calibration:
    """Write the mean of several runs' weights as a run of its own.

    The statistics of batch norms are not those of the mean weights: unless frozen, they are recomputed from images
    that the first run was trained on. Thresholds are fitted on records that no run was trained on.

    Args:
        addresses: Finished runs of one model, see `runs.address.local_model`.
        out: Run directory to write.
        device: Where statistics and thresholds are computed, as in `choose_device`.

    Returns:
        The calibration of the new run.

    Raises:
        ContrailError: If the runs are of different models, or `out` holds something else.
    """
    runs = [local_model(address) for address in addresses]
    where = choose_device(device)
    *loaded, averaged = (load_run(run, where) for run in (*runs, runs[0]))  # the last receives the mean
    calibrations = [read_calibration(run) for run in runs]
    _check_same_model(runs, calibrations)
    config = read_config(runs[0] / CONFIG).model_copy(update={"preset": f"soup of {len(runs)}", "device": device})
    config.data.folds = find_folds(runs[0])
    stores = [open_run_stores(run) for run in runs]
    data = open_training_data(config.data, stores[0])
    digests = data.digests | {f"run {i}": file_digest(run / WEIGHTS) for i, run in enumerate(runs)}
    with locked_directory(out, CONFIG, "run directory"):
        begin_run(out, config, digests, where, places=data.places, checked=data.checked)
        if (calibration := find_calibration(out)) is not None:
            ALONE.say(f"{out}: already finished")
            return calibration
        if config.data.flow.method == "raft":
            shutil.copyfile(runs[0] / FLOW_WEIGHTS, out / FLOW_WEIGHTS)
        metadata = {"soup": [str(run) for run in runs]}
        save_mean(out / WEIGHTS, [run / WEIGHTS for run in runs], metadata)
        network = averaged.detect.networks["run"]  # type: ignore[attr-defined]
        load_weights(out / WEIGHTS, network.model)
        if _recompute_batch_norms(network, config, data):
            save_tensors(out / WEIGHTS, network.model.state_dict(), metadata)
        network.model.eval()
        samples = list(sample_stores(stores).values())
        items = held_out_by_all(loaded, open_labelled(samples, averaged.offsets, repeats_edges=averaged.repeats_edges))
        lenders = [] if len(items) else _lenders(calibrations, device)
        if not len(items) and not lenders:
            ALONE.say("no record was held out by all runs: the threshold is 0.5", Kind.WARNING)
        options = EvaluationOptions(where, title="calibrate")
        grid_when = GRID_WHEN[config.calibration.label_grid]
        held_out = HeldOut(averaged.detect, items, averaged.label_offset)  # type: ignore[arg-type]
        calibrated = calibrate([held_out], options, grid_when=grid_when)
        own = calibrations[0].copy()
        own.pop("taken_from", None)
        calibration = own | {
            "threshold": calibrated.choice.threshold,
            "gate": calibrated.choice.gate,
            "label_grid": calibrated.choice.label_grid,
            **calibrated.holdout,
            "seen_records": sorted({*items.record_id.tolist()}.union(*(c["seen_records"] for c in calibrations))),
            "stores": data.digests,
            "weights": file_digest(out / WEIGHTS),
        }
        if lenders:
            calibration = with_borrowed_thresholds(calibration, lenders, options, grid_when)
        finish(out, calibration)
    return calibration


def _lenders(calibrations: Sequence[Calibration], device: str) -> list[Predictor]:
    """The models that any of the runs took its thresholds from, each once."""
    loaded = [load_lenders(c["taken_from"], device) for c in calibrations if "taken_from" in c]
    return [*{model.path: model for models in loaded for model in models}.values()]


def _check_same_model(runs: Sequence[Path], calibrations: Sequence[Calibration]) -> None:
    """Refuse runs whose weights do not mean the same."""
    properties = []
    for run, calibration in zip(runs, calibrations, strict=True):
        config = read_config(run / CONFIG)
        own = {
            "model": config.model.model_dump(exclude={"pretrained", "freeze_epochs", "checkpoint_activations"}),
            "data.second_target": config.data.targets if config.data.second_target is not None else None,
            "data.frames": config.data.frames,
            "data.edges": config.data.edges,
            "data.normalise": config.data.normalise,
            "data.warp": config.data.warp,
            "optical flow": file_digest(run / FLOW_WEIGHTS) if config.data.flow.method == "raft" else "dis",
            "statistics": calibration["statistics"],
            "label shift": calibration["off"],
        }
        properties.append(own)
        if differing := [name for name, value in own.items() if value != properties[0][name]]:
            raise ContrailError(
                f"{run}: its {differing[0]} is not that of {runs[0]}; average runs of one model and data"
            )


def _recompute_batch_norms(network: Network, config: RunConfig, data: TrainingData) -> bool:
    """Recompute the statistics of the batch norms that are not frozen; return whether there are any."""
    model: Segmenter = network.model  # type: ignore[assignment]
    train_mode(model, config)
    norms = [norm for norm in batch_norms(model) if norm.training]
    for norm in norms:
        norm.reset_running_stats()  # type: ignore[operator]
        norm.momentum = None  # type: ignore[assignment] # the mean over all batches
    if norms:
        batch = config.batch_size
        rows = np.random.default_rng(0).permutation(len(data.train))[: batch * BATCH_NORM_STEPS]
        steps = [rows[i : i + batch] for i in range(0, len(rows), batch) if len(rows[i : i + batch]) > 1]
        torch.manual_seed(config.seed)  # layers that drop values at random
        with torch.no_grad():
            for loaded in load(data.train, steps, network.view.mean_c.device, 2, 2):
                network(loaded.image_btchw, network.flow_of(loaded.image_btchw))
    return bool(norms)
