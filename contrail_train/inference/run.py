"""MISSING DOCSTRING."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from contrail_data.labels.predictor import Decision, Symmetries
from contrail_train.config.settings import read_config
from contrail_train.inference.detector import single, view_of
from contrail_train.inference.predictor import Predictor
from contrail_train.models.segmenter import build
from contrail_train.runs.calibration import check_run, read_calibration
from contrail_train.runs.checkpoint import load_weights
from contrail_train.runs.directory import CONFIG, WEIGHTS


def known_of(calibration: dict[str, Any]) -> dict[str, Any]:
    """The fields of a `Predictor` that a calibration states."""
    held, grid = frozenset(calibration["holdout_records"]), calibration["grid"]
    return {
        "composite": calibration["composite"],
        "label_shift": tuple(calibration["label_shift"]),
        "off": tuple(calibration["off"]),
        "trained_records": frozenset(calibration["seen_records"]) - held,
        "calibrated_records": held,
        "native": bool(grid["native"]),
        "pixel": float(grid["pixel"]),
        "size": int(grid["size"]),
        "dtype": str(grid["dtype"]),
    }


def load_run(path: Path, device: torch.device, symmetries: Symmetries) -> Predictor:
    """The best weights of a run directory with its statistics and thresholds. Raises ContrailError when the directory
    is no finished run.
    """
    check_run(path)
    calibration = read_calibration(path)
    config = read_config(path / CONFIG)
    # The run's own weights follow: what the encoder was begun with no longer matters.
    plain = config.model.model_copy(update={"pretrained": False})
    model = build(plain, len(calibration["composite"]["channels"]), config.data.frames)
    load_weights(path / WEIGHTS, model)
    model.eval().to(device)
    view = view_of(config, calibration["statistics"], device)
    known, head, top_k = known_of(calibration), config.model.head, calibration["top_k"]
    detector = single(model, view, head, top_k=top_k, off=known["off"], symmetries=symmetries).eval()
    digest = calibration["weights"]
    if symmetries != "none":  # other answers, another name
        digest = "sha256:" + hashlib.sha256(f"{digest} {symmetries}".encode()).hexdigest()
    decision = Decision(calibration["threshold"], calibration["gate"], top_k, digest)
    known["off"] = detector.off
    return Predictor(path, detector, detector.offsets, device=device, decision=decision, head=head, **known)
