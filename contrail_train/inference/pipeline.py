"""MISSING DOCSTRING."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch

from contrail_data.errors import ContrailError
from contrail_data.labels.predictor import Decision, Symmetries
from contrail_train.config.pipelines import PipelineConfig, parse_pipeline
from contrail_train.config.settings import read_tree
from contrail_train.inference.detector import Detector, Network, Weights
from contrail_train.inference.predictor import Predictor
from contrail_train.inference.run import known_of, load_run
from contrail_train.runs.calibration import read_calibration
from contrail_train.runs.checkpoint import file_digest
from contrail_train.runs.directory import (
    PIPELINE,
    STAGES,
    WEIGHTS,
)


def build_detector(
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


def load_pipeline(path: Path, device: torch.device, symmetries: Symmetries | None = None) -> Predictor:
    """A finished pipeline as a predictor. Raises ContrailError when it is not finished."""
    config = parse_pipeline(read_tree(path / PIPELINE), str(path / PIPELINE))
    calibration = read_calibration(path)
    runs = load_stages(config, path, device)
    mask, gate = calibration["mask_weights"], calibration["gate_weights"]
    detector = build_detector(runs, config, mask, gate, symmetries or config.tta)
    digests = {name: file_digest(path / STAGES / name / WEIGHTS) for name in config.stages}
    facts = json.dumps([digests, mask, gate, config.top_k, detector.symmetries], sort_keys=True)
    digest = "sha256:" + hashlib.sha256(facts.encode()).hexdigest()
    decision = Decision(calibration["threshold"], calibration["gate"], config.top_k, digest)
    known = known_of(calibration) | {"off": detector.off}
    return Predictor(path, detector, detector.offsets, device=device, decision=decision, head="mask", **known)
