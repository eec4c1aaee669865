"""The two-stage detector as one object: gates, segmenters, weights and thresholds, trained and shipped together.

A pipeline directory holds `pipeline.yaml`, a run directory a stage under `stages`, and `calibration.json`: thresholds,
gate and weights fitted on records that no stage was trained on. `load_predictor` takes it as it takes a run.
"""

from __future__ import annotations

import contextlib
import difflib
import filecmp
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml
from pydantic import Field, ValidationError, model_validator

from contrail_data.catalog import open_named
from contrail_data.command import Symmetries
from contrail_data.errors import ContrailError
from contrail_data.places import write_atomically
from contrail_data.pseudo import Decision
from contrail_data.store import kind
from contrail_train.checkpoint import file_digest
from contrail_train.config import (
    RunConfig,
    Strict,
    read_config,
    read_tree,
    takes,
    to_yaml,
    with_settings,
)
from contrail_train.detector import Detector, Network
from contrail_train.evaluate import Reading, Weights, calibrate, known_of_holdout
from contrail_train.fit import fit
from contrail_train.predict import Predictor, check_run, choose_device, known_of, load_run, read_calibration
from contrail_train.presets import get_config
from contrail_train.rundir import CALIBRATION, CONFIG, ENVIRONMENT, PIPELINE, STAGES, WEIGHTS, claim, finished, hold
from contrail_train.training_data import Items, open_labelled, open_training_data

STEPS = 4  # weights are fitted in quarters
MOST_WEIGHTS = 256


class Stage(Strict):
    """A run: a preset to train, with settings of its own, or one that is finished."""

    preset: str | None = None
    """A preset or a .yaml file of settings."""
    run: str | None = None
    """A finished run directory, which is copied."""
    settings: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_of_both(self) -> Stage:
        if (self.preset is None) == (self.run is None):
            raise ValueError("a stage needs either preset or run: give one")
        if self.run is not None and self.settings:
            raise ValueError(f"run={self.run} is finished and takes no settings: leave them away, or name a preset")
        return self


class PipelineConfig(Strict):
    preset: str = "unet2d_v2"
    """The preset this came from, for the record."""
    stages: dict[str, Stage] = Field(min_length=1)
    """By name."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Of all stages that are trained, by dotted key; a stage's own come after."""
    gate: list[str] = Field(default_factory=list)
    """Stages that tell whether a record has any contrail: a classifier by its probability, a segmenter by the mean of
    its `top_k` highest pixels. None: every record's mask counts."""
    mask: list[str] = Field(min_length=1)
    """Segmenters whose probabilities are averaged."""
    weights: Literal["equal", "fitted"] = "equal"
    """Of the stages in gate and mask: all the same, or fitted in quarters with the thresholds."""
    gate_when: Literal["proven", "best"] = "proven"
    """Whether a gate is kept only where its gain holds in resamplings, or always the one that is best."""
    top_k: int = Field(100, ge=1)
    tta: Symmetries = "none"
    """Over which flips and turns of an image predictions are averaged."""
    calibrate_on: list[str] = Field(default_factory=list)
    """Stores whose records, as far as no stage was trained on them, weights and thresholds are fitted on. None: those
    that the stages hold out."""

    @model_validator(mode="after")
    def _names_are_known(self) -> PipelineConfig:
        for name in (*self.gate, *self.mask):
            if name not in self.stages:
                raise ValueError(f"{name!r} is no stage: the stages are {', '.join(self.stages)}")
        if idle := [name for name in self.stages if name not in (*self.gate, *self.mask)]:
            raise ValueError(f"stage {idle[0]!r} is neither in gate nor in mask: name it there, or leave it out")
        if self.settings and all(stage.run is not None for stage in self.stages.values()):
            raise ValueError(
                f"settings: {', '.join(self.settings)}: of stages that are trained, and all are finished runs"
            )
        if any("/" in name or name.startswith(".") for name in self.stages):
            raise ValueError("a stage's name becomes a folder: leave / and a leading . out of it")
        return self


def parse_pipeline(tree: Any, where: str) -> PipelineConfig:
    """A checked pipeline from plain data. Raises ContrailError naming the first key that does not fit."""
    try:
        return PipelineConfig.model_validate(tree)
    except ValidationError as error:
        errors = error.errors()
        first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = Stage.model_fields if key.startswith("stages.") else PipelineConfig.model_fields
            close = difflib.get_close_matches(str(first["loc"][-1]), known, 1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
            raise ContrailError(f"{where}: there is no setting {key!r}: {hint}") from None
        if first["type"] == "value_error":
            raise ContrailError(f"{where}: {f'{key}: ' if key else ''}{first['ctx']['error']}") from None
        if first["type"] == "missing":
            raise ContrailError(
                f"{where}: lacks {key}: give it, or name a preset of `contrail-train presets pipelines`"
            ) from None
        given, field = str(first["input"])[:60], PipelineConfig.model_fields.get(str(first["loc"][0])) if key else None
        if field is None or first["loc"][0] in ("stages", "settings"):
            raise ContrailError(
                f"{where}: {key or 'the file'}: {given!r}: {first['msg'].lower()}: correct it"
            ) from None
        raise ContrailError(f"{where}: {key} cannot be {given!r}: give {takes(field)}") from None


def with_pipeline_settings(config: PipelineConfig, settings: Sequence[str]) -> PipelineConfig:
    """A copy with single keys changed, each `key=value`, the value as YAML: a key of the pipeline, `STAGE.run`,
    `STAGE.preset`, `STAGE.` and a key of a run, or a key of a run for all stages. Raises ContrailError."""
    tree = config.model_dump(mode="json")
    own = set(PipelineConfig.model_fields) - {"stages", "settings", "preset"}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ContrailError(f"--set {setting!r}: write key=value, for example --set epochs=3")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ContrailError(f"--set {key}: {text!r} is no YAML value: quote it") from None
        first, _, rest = key.partition(".")
        if key in own:
            one_of_many = key in ("gate", "mask", "calibrate_on") and isinstance(value, str)
            tree[key] = [value] if one_of_many else value
        elif first in tree["stages"] and rest in ("run", "preset"):
            tree["stages"][first] = {rest: value}
        elif first in tree["stages"] and rest:
            tree["stages"][first].setdefault("settings", {})[rest] = value
        elif rest and first not in RunConfig.model_fields:
            close = difflib.get_close_matches(first, tree["stages"], 1)
            hint = f"did you mean {close[0]}.{rest}?" if close else f"the stages are {', '.join(tree['stages'])}"
            raise ContrailError(f"--set {key}: {first!r} is neither a stage nor a group of settings: {hint}")
        else:
            tree["settings"][key] = value
    made = parse_pipeline(tree, f"{config.preset} with --set {' --set '.join(settings)}" if settings else config.preset)
    for name, stage in made.stages.items():
        if stage.preset is not None:
            stage_config(made, name)  # told now, not after hours
    return made


def stage_config(config: PipelineConfig, name: str) -> RunConfig:
    """The run that a stage trains."""
    stage = config.stages[name]
    assert stage.preset is not None
    given = config.settings | stage.settings
    pairs = [f"{key}={yaml.safe_dump(value, default_flow_style=True).splitlines()[0]}" for key, value in given.items()]
    try:
        return with_settings(get_config(stage.preset), pairs)
    except ContrailError as error:
        raise ContrailError(f"stage {name}: {error}") from None


def pipeline_yaml(config: PipelineConfig) -> str:
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


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
            arguments = [sys.executable, "-m", "contrail_train.cli", "run", str(settings), "--out", str(folder)]
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


def _detector(
    runs: Mapping[str, Predictor], config: PipelineConfig, mask: Weights, gate: Weights, symmetries: Symmetries
) -> Detector:
    """Of the stages, those that have a weight."""
    asked = gate or dict.fromkeys(config.mask[:1], 1.0)  # a record's score is told without a gate as well
    used = [name for name in runs if mask.get(name) or asked.get(name)]
    networks: dict[str, Network] = {name: runs[name].detect.networks["run"] for name in used}  # type: ignore[attr-defined]
    classifiers = [name for name in used if runs[name].head != "mask"]
    made = Detector(networks, mask, asked, top_k=config.top_k, classifiers=classifiers, symmetries=symmetries)
    return made.eval()


def load_stages(config: PipelineConfig, out: Path, device: torch.device) -> dict[str, Predictor]:
    """The stages as trained, by name. Raises ContrailError for stages that do not fit together."""
    runs = {name: load_run(out / STAGES / name, device, "none") for name in config.stages}
    first_name, first = next(iter(runs.items()))
    for name, run in runs.items():
        if name in config.mask and run.head == "record":
            raise ContrailError(f"{out}: stage {name} tells records, not pixels: name it in gate, not in mask")
        for what in ("composite", "label_shift", "size", "native"):
            if getattr(run, what) != getattr(first, what):
                raise ContrailError(
                    f"{out}: stages {first_name} and {name} were trained on stores of another {what}: train them on "
                    "stores of one kind"
                )
    return runs


def held_out_by_all(runs: Iterable[Predictor], items: Items, any_unseen: bool = False) -> Items:
    """The records that no run was trained on and that some run held out or, with `any_unseen`, no run has seen."""
    runs = list(runs)
    trained = frozenset().union(*(run.trained_records for run in runs))
    held = frozenset().union(*(run.calibrated_records for run in runs))
    wanted = [r not in trained and (any_unseen or r in held) for r in items.record_id.tolist()]
    return items[np.flatnonzero(wanted)]


def stores_of(folders: Iterable[Path]) -> list[str]:
    """The stores of samples that runs were trained and calibrated on, as they were named. Raises ContrailError where
    one is gone."""
    data = [read_config(folder / CONFIG).data for folder in folders]
    names = dict.fromkeys(name for one in data for name in (*one.train, *one.validation))
    try:
        return [name for name in names if kind(open_named(name)) == "samples"]
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
    detector = _detector(runs, config, _equal(config.mask), _equal(config.gate), config.tta)
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


def load_pipeline(path: Path, device: torch.device, symmetries: Symmetries | None = None) -> Predictor:
    """A finished pipeline as a predictor. Raises ContrailError when it is not finished."""
    config = parse_pipeline(read_tree(path / PIPELINE), str(path / PIPELINE))
    calibration = read_calibration(path)
    runs = load_stages(config, path, device)
    mask, gate = calibration["mask_weights"], calibration["gate_weights"]
    detector = _detector(runs, config, mask, gate, symmetries or config.tta)
    digests = {name: file_digest(path / STAGES / name / WEIGHTS) for name in config.stages}
    facts = json.dumps([digests, mask, gate, config.top_k, detector.symmetries], sort_keys=True)
    digest = "sha256:" + hashlib.sha256(facts.encode()).hexdigest()
    decision = Decision(calibration["threshold"], calibration["gate"], config.top_k, digest)
    known = known_of(calibration) | {"off": detector.off}
    return Predictor(path, detector, detector.offsets, device=device, decision=decision, head="mask", **known)
