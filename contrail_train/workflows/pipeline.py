"""The two-stage detector as one object: gates, segmenters, weights and thresholds, trained and shipped together.

A pipeline directory holds `pipeline.yaml`, a run directory a stage under `stages`, and `calibration.json`: thresholds,
gate and weights fitted on records that no stage was trained on. `load_predictor` takes it as it takes a run.
"""

from __future__ import annotations

import contextlib
import filecmp
import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from contrail_data.catalog.catalog import open_named
from contrail_data.errors import ContrailError
from contrail_data.storage.files import write_atomically
from contrail_data.store.schema import Kind, kind_of
from contrail_train.config.pipelines import PipelineConfig, parse_pipeline, pipeline_yaml, stage_config
from contrail_train.config.schema import RunConfig
from contrail_train.config.settings import read_config, read_tree, to_yaml
from contrail_train.data.items import Items, open_labelled
from contrail_train.data.training_data import open_training_data
from contrail_train.evaluation.calibrate import calibrate, known_of_holdout
from contrail_train.evaluation.score import Reading
from contrail_train.inference.pipeline import build_detector, load_stages
from contrail_train.inference.predictor import Predictor
from contrail_train.runs.calibration import check_run, read_calibration
from contrail_train.runs.device import choose_device
from contrail_train.runs.directory import (
    CALIBRATION,
    CONFIG,
    ENVIRONMENT,
    PIPELINE,
    STAGES,
    WEIGHTS,
    claim,
    finished,
    hold,
)
from contrail_train.training.fit import fit

STEPS = 4  # weights are fitted in quarters
MOST_WEIGHTS = 256


def train_pipeline(
    config: PipelineConfig, out: Path, devices: Sequence[str], command: Sequence[str] = ()
) -> dict[str, Any]:
    """Train the stages that are not there yet, calibrate, and return the calibration.

    devices: one: the stages are trained in this process, one after the other; several: as processes of their own,
    stage i on device i modulo their number. Resumable at any point; until it is finished it takes other settings, as
    far as the stages that have begun do. Raises ContrailError for an `out` that holds something else, or stages that do
    not fit together.
    """
    for device in devices:
        choose_device(device)
    claim(out, PIPELINE, "pipeline")
    with contextlib.closing(hold(out)):
        if (calibration := finished(out)) is not None:
            before = parse_pipeline(read_tree(out / PIPELINE), str(out / PIPELINE))
            theirs, ours = (_by_key(one.model_dump()) for one in (before, config))
            keys = dict.fromkeys([*theirs, *ours])
            if differs := [f"{k}={theirs.get(k)}, not {ours.get(k)}" for k in keys if theirs.get(k) != ours.get(k)]:
                raise ContrailError(f"{out}: holds a pipeline with {'; '.join(differs)}: choose another --out")
            for name in config.stages:
                read_calibration(out / STAGES / name)
            print(f"{out}: finished already", file=sys.stderr)
            return calibration
        for name, stage in config.stages.items():  # what cannot be is told before the first is trained
            if stage.run is not None:
                check_run(Path(stage.run))
                read_calibration(Path(stage.run))
                continue
            try:
                open_training_data(stage_config(config, name).data)
            except ContrailError as error:
                raise ContrailError(f"stage {name}: {error}") from None
        write_atomically(out / PIPELINE, [pipeline_yaml(config).encode()])
        (out / STAGES).mkdir(exist_ok=True)
        _train_stages(config, out, devices, command)
        print(f"calibrating on held-out records: {', '.join(config.mask)}", file=sys.stderr, flush=True)
        calibration = _calibrate(config, out, choose_device(devices[0]))
        write_atomically(out / CALIBRATION, [json.dumps(calibration, indent=1).encode()])
    return calibration


def _by_key(tree: dict[str, Any]) -> dict[str, Any]:
    """Values by dotted keys."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= {f"{key}.{k}": v for k, v in _by_key(value).items()} if isinstance(value, dict) else {key: value}
    return found


def _train_stages(config: PipelineConfig, out: Path, devices: Sequence[str], command: Sequence[str]) -> None:
    todo: list[list[tuple[str, Path, RunConfig]]] = [[] for _ in devices]
    for number, (name, stage) in enumerate(config.stages.items()):
        folder = out / STAGES / name
        if stage.run is not None:
            _take_over(Path(stage.run), folder)
            continue
        lane = number % len(devices)
        todo[lane].append((name, folder, stage_config(config, name).model_copy(update={"device": devices[lane]})))
    if len(devices) == 1:
        for name, folder, run in todo[0]:
            print(f"---- stage {name}: {run.preset}", file=sys.stderr, flush=True)
            fit(run, folder, command=command)
        return
    with ThreadPoolExecutor(len(devices)) as pool:
        list(pool.map(_train_as_processes, todo))


def _train_as_processes(runs: Iterable[tuple[str, Path, RunConfig]]) -> None:
    for name, folder, run in runs:
        settings, log = folder.with_suffix(".yaml"), folder.with_suffix(".log")
        write_atomically(settings, [to_yaml(run).encode()])
        print(f"stage {name}: on {run.device}, told in {log}", file=sys.stderr, flush=True)
        with log.open("a") as told:
            arguments = [sys.executable, "-m", "contrail_train", "run", str(settings), "--out", str(folder)]
            ended = subprocess.run(arguments, stdout=told, stderr=subprocess.STDOUT)
        if ended.returncode:
            lines = log.read_text().splitlines() or ["it left no word"]
            raise ContrailError(f"stage {name}: {lines[-1].removeprefix('error: ')} (see {log})")


def _take_over(run: Path, folder: Path) -> None:
    """A copy of what a finished run needs to be used. Raises ContrailError where the folder holds another run."""
    folder.mkdir(exist_ok=True)
    for name in (ENVIRONMENT, CONFIG, WEIGHTS, CALIBRATION):  # the last makes it a finished run
        if not (run / name).is_file():
            raise ContrailError(f"{run}: has no {name}: name the --out of a finished contrail-train run")
        if (folder / name).exists():
            if not filecmp.cmp(run / name, folder / name, shallow=False):
                raise ContrailError(f"{folder}: holds another run than {run}: choose another --out")
            continue
        staged = folder / f".{name}"
        shutil.copyfile(run / name, staged)
        staged.rename(folder / name)


def held_out_by_all(runs: Iterable[Predictor], items: Items, any_unseen: bool = False) -> Items:
    """The records that no run was trained on and that some run held out or, with `any_unseen`, no run has seen."""
    runs = list(runs)
    trained = frozenset().union(*(run.trained_records for run in runs))
    held = frozenset().union(*(run.calibrated_records for run in runs))
    wanted = [r not in trained and (any_unseen or r in held) for r in items.record_id.tolist()]
    return items[np.flatnonzero(wanted)]


def stores_of(folders: Iterable[Path]) -> list[str]:
    """The stores of samples that runs were trained and calibrated on, as they were named. Raises ContrailError where
    one is gone.
    """
    data = [read_config(folder / CONFIG).data for folder in folders]
    names = dict.fromkeys(name for one in data for name in (*one.train, *one.validation))
    try:
        return [name for name in names if kind_of(open_named(name)) is Kind.SAMPLES]
    except ContrailError as error:
        raise ContrailError(f"{error} (a stage was trained on it; or --set calibrate_on=STORE)") from None


def _calibrate(config: PipelineConfig, out: Path, device: torch.device) -> dict[str, Any]:
    runs = load_stages(config, out, device)
    first = next(iter(runs.values()))
    stores = {n: open_named(n) for n in config.calibrate_on or stores_of(out / STAGES / name for name in config.stages)}
    for name, store in stores.items():
        first.check_store(store)
        if (tuple(store.attrs["label_shift"]), store.sizes["y"]) != (first.label_shift, first.size):
            raise ContrailError(f"{name}: its label shift or size is not that of the stages' stores: name another")
    detector = build_detector(runs, config, _equal(config.mask), _equal(config.gate), config.tta)
    everything = open_labelled(list(stores.values()), detector.offsets)
    items = held_out_by_all(runs.values(), everything, bool(config.calibrate_on))
    fitted = None
    if len(items):
        fitted = calibrate(
            detector,
            (first.label_shift[0] - detector.off[0], first.label_shift[1] - detector.off[1]),
            items,
            Reading(device, name="calibrate"),
            _candidates(config.mask, config.weights),
            _candidates(config.gate, config.weights) if config.gate else [detector.gate],
            config.gate_when if config.gate else "never",
        )
    if fitted is None:
        print(
            "warning: no positive record that all stages hold out: weights are equal, the threshold is 0.5, no gate",
            file=sys.stderr,
        )
    seen = (run.trained_records | run.calibrated_records for run in runs.values())
    return {
        "threshold": fitted.choice.threshold if fitted else 0.5,
        "gate": fitted.choice.gate if fitted else 0.0,
        "mask_weights": dict(fitted.choice.mask) if fitted else _equal(config.mask),
        "gate_weights": dict(fitted.choice.gate_weights) if fitted else _equal(config.gate),
        "top_k": config.top_k,
        **known_of_holdout(fitted, items),
        "seen_records": sorted({*items.record_id.tolist()}.union(*seen)),
        "composite": first.composite,
        "label_shift": list(first.label_shift),
        "off": list(detector.off),
        "grid": {name: getattr(first, name) for name in ("native", "pixel", "size", "dtype")},
        "stores": {name: store.attrs["digest"] for name, store in stores.items()},
    }


def _equal(names: Sequence[str]) -> dict[str, float]:
    return {name: 1 / len(names) for name in names}


def _candidates(names: Sequence[str], weights: str) -> list[dict[str, float]]:
    """The weights to choose among: equal ones first, which win a tie. Raises ContrailError where they are too many."""
    equal = _equal(names)
    if weights == "equal" or len(names) == 1:
        return [equal]
    grid = [parts for parts in product(range(STEPS + 1), repeat=len(names)) if sum(parts) == STEPS]
    if len(grid) > MOST_WEIGHTS:
        raise ContrailError(
            f"weights=fitted: {len(names)} stages have {len(grid)} weightings to try: set weights=equal"
        )
    return [equal, *({n: p / STEPS for n, p in zip(names, parts, strict=True)} for parts in grid)]
