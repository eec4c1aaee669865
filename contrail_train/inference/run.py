"""A finished run directory as a predictor."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from contrail_data.labels.predictor import Decision, Symmetries
from contrail_train.config.settings import read_config
from contrail_train.inference.detector import single_network_detector, view_of
from contrail_train.inference.predictor import Predictor
from contrail_train.models.segmenter import build
from contrail_train.runs.calibration import check_run, read_calibration
from contrail_train.runs.checkpoint import load_weights
from contrail_train.runs.directory import CONFIG, WEIGHTS


def load_run(path: Path, device: torch.device, symmetries: Symmetries = Symmetries.NONE) -> Predictor:
    """Load the best weights of a run with its statistics and thresholds.

    Args:
        path: Run directory.
        device: Device to load it on.
        symmetries: Transformed copies of an image to average over.

    Returns:
        The predictor.

    Raises:
        ContrailError: If the directory is not a finished run.
    """
    check_run(path)
    calibration = read_calibration(path)
    config = read_config(path / CONFIG)
    # The run's own weights are loaded below, so those that the encoder started from are not needed.
    without_download = config.model.model_copy(update={"pretrained": False})
    model = build(without_download, len(calibration["composite"]["channels"]), config.data.frames)
    load_weights(path / WEIGHTS, model)
    model.eval().to(device)
    down, right = calibration["off"]
    top_k, digest = calibration["top_k"], calibration["weights"]
    detector = single_network_detector(
        model,
        view_of(config, calibration["statistics"], device),
        config.model.head,
        top_k=top_k,
        mask_shift=(down, right),
        symmetries=symmetries,
    ).eval()
    if symmetries != Symmetries.NONE:  # it predicts something else, so it is another model
        digest = "sha256:" + hashlib.sha256(f"{digest} {symmetries}".encode()).hexdigest()
    decision = Decision(calibration["threshold"], calibration["gate"], top_k, digest)
    return Predictor.from_calibration(path, detector, calibration, decision=decision, head=config.model.head)
