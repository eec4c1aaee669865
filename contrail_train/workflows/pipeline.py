"""A two-stage detector as one object: gates, segmenters, weights and thresholds, trained and shipped together.

A pipeline directory holds `pipeline.yaml`, a run directory per stage under `stages`, and `calibration.json`: threshold,
gate and weights fitted on records that no stage was trained on. `load_predictor` accepts it like a run.
"""

import filecmp
import os
import subprocess
import sys
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
import xarray as xr

from contrail_data.catalog.catalog import open_named
from contrail_data.composites import Dtype
from contrail_data.errors import ContrailError
from contrail_data.messages import Kind
from contrail_data.storage.files import write_atomically
from contrail_train.config.pipelines import PipelineConfig, stage_config
from contrail_train.config.schema import RunConfig
from contrail_train.config.settings import differences, read_config, to_yaml
from contrail_train.data.items import Items, open_labelled
from contrail_train.data.training_data import open_training_data
from contrail_train.evaluation.calibrate import GRID_WHEN, HeldOut, calibrate
from contrail_train.evaluation.held_out import sample_stores
from contrail_train.evaluation.score import EvaluationOptions
from contrail_train.inference.load import (
    load_stages,
    pipeline_composite,
    pipeline_detector,
    read_pipeline,
    repeat_edges,
)
from contrail_train.inference.predictor import Predictor
from contrail_train.runs.address import local_model
from contrail_train.runs.begun import locked_directory
from contrail_train.runs.calibration import Calibration, Grid, find_calibration, finish, read_calibration
from contrail_train.runs.checkpoint import file_digest
from contrail_train.runs.distributed import ALONE, choose_device
from contrail_train.runs.finished import check_run
from contrail_train.runs.names import CALIBRATION, CONFIG, ENVIRONMENT, FLOW_WEIGHTS, PIPELINE, STAGES, WEIGHTS
from contrail_train.runs.stores import open_run_stores
from contrail_train.training.fit import fit

STEPS = 4  # weights are fitted in quarters
MAX_WEIGHTINGS = 256


def train_pipeline(config: PipelineConfig, out: Path, devices: Sequence[str]) -> Calibration:
    """Train the unfinished stages of a pipeline and calibrate them together.

    An interrupted call can be repeated. Until the pipeline is finished it may be repeated with other settings, as far
    as the stages that have begun have the same ones.

    Args:
        config: The pipeline.
        out: Its directory.
        devices: With one device the stages are trained one after the other in this process; with several, stage i is
            trained by a process of its own on device i modulo their number.

    Returns:
        The calibration of the pipeline.

    Raises:
        ContrailError: If `out` holds something else, or the stages do not fit together.
    """
    first_device, *_ = [choose_device(device) for device in devices]
    with locked_directory(out, PIPELINE, "pipeline"):
        if (calibration := find_calibration(out)) is not None:
            _check_finished(config, out)
            ALONE.say(f"{out}: already finished")
            return calibration
        _check_stages(config)
        write_atomically(out / PIPELINE, [to_yaml(config).encode()])
        (out / STAGES).mkdir(exist_ok=True)
        _train_stages(config, out, devices)
        ALONE.say(f"calibrating on held-out records: {', '.join(config.mask)}")
        calibration = _calibrate(config, out, first_device)
        finish(out, calibration)
    return calibration


def _check_finished(config: PipelineConfig, out: Path) -> None:
    """Refuse to return a finished pipeline that has other settings or damaged stages."""
    if differing := differences(read_pipeline(out), config):
        raise ContrailError(f"{out}: holds a pipeline with {'; '.join(differing)}; choose another --out")
    for name in config.stages:
        read_calibration(out / STAGES / name)


def _check_stages(config: PipelineConfig) -> None:
    """Refuse stages that cannot be trained, copied or joined, before hours go into the first one."""
    inputs = {}
    for name, stage in config.stages.items():
        if stage.run is not None:
            run = local_model(stage.run)
            check_run(run)
            calibration = read_calibration(run)
            if not config.calibrate_on:
                _stores_of_stages([run])
            grid, (down, right) = calibration["grid"], calibration["label_shift"]
            inputs[name] = _Input(calibration["composite"], (down, right), grid["size"], grid["native"])
            continue
        try:
            data = open_training_data(stage_config(config, name).data)
        except ContrailError as error:
            raise ContrailError(f"stage {name}: {error}") from None
        inputs[name] = _Input(data.composite, data.label_shift, data.size, data.native)
    _check_inputs(inputs, config)


@dataclass(frozen=True)
class _Input:
    """What a stage sees, see `TrainingData`."""

    composite: dict[str, Any]
    label_shift: tuple[float, float]
    size: int
    native: bool


def _check_inputs(inputs: Mapping[str, _Input], config: PipelineConfig) -> None:
    """Refuse stages whose data do not fit together, or not the stores to calibrate on."""
    first_name, first = next(iter(inputs.items()))
    for name, own in inputs.items():
        for attribute in ("label_shift", "size", "native"):
            if getattr(own, attribute) != getattr(first, attribute):
                raise ContrailError(
                    f"stages {first_name} and {name} differ in {attribute} of their data; train them on like stores"
                )
    composite = pipeline_composite([own.composite for own in inputs.values()])
    several = any(own.composite["channels"] != first.composite["channels"] for own in inputs.values())
    if several and not config.calibrate_on:
        names = ", ".join(dict.fromkeys(own.composite["name"] for own in inputs.values()))
        raise ContrailError(
            f"calibrate_on: the stages have the composites {names}, so weights and thresholds are fitted on a store "
            f"with all of their channels; build one with --composite {composite['name']} and name it"
        )
    for store_name in config.calibrate_on:
        if open_named(store_name).attrs["composite"]["channels"] != composite["channels"]:
            raise ContrailError(
                f"{store_name}: does not have the channels of the stages; build it with --composite {composite['name']}"
            )


def _train_stages(config: PipelineConfig, out: Path, devices: Sequence[str]) -> None:
    lanes: list[dict[Path, RunConfig]] = [{} for _ in devices]
    for number, (name, stage) in enumerate(config.stages.items()):
        folder, lane = out / STAGES / name, number % len(devices)
        if stage.run is not None:
            _copy_run(local_model(stage.run), folder)
        else:
            lanes[lane][folder] = stage_config(config, name).model_copy(update={"device": devices[lane]})
    if len(devices) == 1:
        for folder, run in lanes[0].items():
            ALONE.say(f"---- stage {folder.name}: {run.preset}")
            fit(run, folder)
        return
    processes: list[subprocess.Popen[bytes]] = []
    stop = threading.Event()
    with ThreadPoolExecutor(len(devices)) as pool:
        try:
            list(pool.map(partial(_train_as_processes, processes=processes, stop=stop), lanes))
        except (KeyboardInterrupt, SystemExit):
            stop.set()
            for process in processes:
                process.terminate()  # each writes a checkpoint, which the pool waits for
            raise


def _train_as_processes(
    stages: dict[Path, RunConfig], processes: list[subprocess.Popen[bytes]], stop: threading.Event
) -> None:
    """Train stages one after the other, each by a process of its own that writes into a log file."""
    for folder, config in stages.items():
        settings, log = folder.with_suffix(".yaml"), folder.with_suffix(".log")
        write_atomically(settings, [to_yaml(config).encode()])
        ALONE.say(f"stage {folder.name}: on {config.device}, its messages are in {log}")
        stage = [sys.executable, "-m", "contrail_train.cli.stage", str(os.getpid())]
        with log.open("a+b") as file:
            start = file.seek(0, os.SEEK_END)
            process = subprocess.Popen([*stage, "run", settings, "--out", folder], stdout=file, stderr=file)
            processes.append(process)
            if stop.is_set():
                process.terminate()
            process.wait()
            file.seek(start)
            lines = file.read().decode(errors="replace").splitlines()
        if process.returncode:
            errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
            reason = errors[-1] if errors else f"it ended with exit code {process.returncode}"
            raise ContrailError(f"stage {folder.name}: {reason} (see {log})")


def _copy_run(run: Path, folder: Path) -> None:
    """Copy what a finished run needs for predictions, unless the folder holds it already."""
    folder.mkdir(exist_ok=True)
    flow_weights = [FLOW_WEIGHTS] if read_config(run / CONFIG).data.flow.method == "raft" else []
    for name in (ENVIRONMENT, CONFIG, *flow_weights, WEIGHTS, CALIBRATION):  # the last makes it a finished run
        if not (run / name).is_file():
            raise ContrailError(f"{run}: has no {name}; name the --out of a finished contrail-train run")
        if not (folder / name).exists():
            write_atomically(folder / name, [(run / name).read_bytes()])
        elif not filecmp.cmp(run / name, folder / name, shallow=False):
            raise ContrailError(f"{folder}: holds another run than {run}; choose another --out")


def held_out_by_all(runs: Collection[Predictor], items: Items, any_unseen: bool = False) -> Items:
    """Select the records that no run was trained on and that at least one run held out.

    Args:
        runs: Finished runs.
        items: Labelled frames.
        any_unseen: Also select records that no run held out or was trained on.

    Returns:
        The items of these records.
    """
    trained = frozenset().union(*(run.trained_records for run in runs))
    held = frozenset().union(*(run.calibrated_records for run in runs))
    selected = [r not in trained and (any_unseen or r in held) for r in items.record_id.tolist()]
    return items[np.flatnonzero(selected)]


def _stores_of_stages(runs: Iterable[Path]) -> dict[str, xr.Dataset]:
    try:
        return sample_stores(map(open_run_stores, runs))
    except ContrailError as error:
        raise ContrailError(f"{error} (or name other records with --set calibrate_on=STORE)") from None


def _calibrate(config: PipelineConfig, out: Path, device: torch.device) -> Calibration:
    """Fit weights, threshold and gate of the stages together."""
    runs = load_stages(config, out, device)
    composite = pipeline_composite([run.composite for run in runs.values()])
    dtype = max((run.dtype for run in runs.values()), key=get_args(Dtype).index)
    first = replace(next(iter(runs.values())), composite=composite, dtype=dtype)
    if config.calibrate_on:
        stores = {name: open_named(name) for name in config.calibrate_on}
    else:
        stores = _stores_of_stages(out / STAGES / name for name in config.stages)
    for name, store in stores.items():
        first.check_store(store)
        if (tuple(store.attrs["label_shift"]), store.sizes["y"]) != (first.label_shift, first.size):
            raise ContrailError(f"{name}: label shift or size differs from the stages' stores; name another store")
    masks, gates = _candidates(config.mask, config.weights), _candidates(config.gate, config.weights)
    detector = pipeline_detector(runs, config, masks[0], gates[0], config.tta)
    labelled = open_labelled(list(stores.values()), detector.offsets, repeats_edges=repeat_edges(runs.values()))
    items = held_out_by_all(runs.values(), labelled, bool(config.calibrate_on))
    shift = first.label_shift[0] - detector.mask_shift[0], first.label_shift[1] - detector.mask_shift[1]
    calibrated = calibrate(
        [HeldOut(detector, items, shift)],
        EvaluationOptions(device, title="calibrate"),
        masks=masks,
        gates=gates if config.gate else None,
        gate_when=config.gate_when if config.gate else "never",
        grid_when=GRID_WHEN[config.label_grid],
    )
    if calibrated.holdout["holdout"] is None:
        ALONE.say(
            "no positive record was held out by all stages: weights are equal, the threshold is 0.5, no gate",
            Kind.WARNING,
        )
    seen = (run.trained_records | run.calibrated_records for run in runs.values())
    return {
        "threshold": calibrated.choice.threshold,
        "gate": calibrated.choice.gate,
        "mask_weights": dict(calibrated.choice.mask),
        "gate_weights": dict(calibrated.choice.gate_weights),
        "top_k": config.top_k,
        **calibrated.holdout,
        "seen_records": sorted({*items.record_id.tolist()}.union(*seen)),
        "composite": first.composite,
        "label_shift": list(first.label_shift),
        "off": list(detector.mask_shift),
        "label_grid": calibrated.choice.label_grid,
        "grid": Grid(native=first.native, pixel=first.pixel, size=first.size, dtype=first.dtype),
        "stores": {name: store.attrs["digest"] for name, store in stores.items()},
        "stages": {name: file_digest(out / STAGES / name / WEIGHTS) for name in config.stages},
    }


def _candidates(names: Sequence[str], weights: str) -> list[dict[str, float]]:
    """The weightings to choose among; the equal one comes first and so wins a tie."""
    equal = {name: 1 / len(names) for name in names}
    if weights == "equal" or len(names) < 2:
        return [equal]
    grid = [parts for parts in product(range(STEPS + 1), repeat=len(names)) if sum(parts) == STEPS]
    if len(grid) > MAX_WEIGHTINGS:
        raise ContrailError(
            f"weights=fitted: {len(names)} stages have {len(grid)} weightings to try; set weights=equal"
        )
    return [equal, *({n: p / STEPS for n, p in zip(names, parts, strict=True)} for parts in grid)]
