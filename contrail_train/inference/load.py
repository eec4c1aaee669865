"""Runs, pipelines and exported files as predictors, by their path."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from contrail_data.composites import channel_indices, from_dict, stack
from contrail_data.errors import ContrailError, UsageError
from contrail_data.labels.predictor import Symmetries
from contrail_data.settings.parse import validated
from contrail_data.storage.documents import read_document
from contrail_train.config.pipelines import PipelineConfig
from contrail_train.config.settings import read_config
from contrail_train.inference.detector import Detector, Network, Weights, single_network_detector, view_of
from contrail_train.inference.exported import load_exported
from contrail_train.inference.predictor import Predictor
from contrail_train.models.folding import prepare_for_cpu
from contrail_train.models.segmenter import build
from contrail_train.runs.address import local_model
from contrail_train.runs.calibration import read_calibration
from contrail_train.runs.checkpoint import file_digest, load_weights
from contrail_train.runs.distributed import choose_device
from contrail_train.runs.finished import check_run
from contrail_train.runs.names import CONFIG, FLOW_WEIGHTS, PIPELINE, STAGES, WEIGHTS

_PROBE = (64, 64)
"""Height and width of an image that any network takes."""


def load_model(address: str | Path, device: str = "auto", symmetries: Symmetries | None = None) -> Predictor:
    """Load a finished run, a pipeline, a model folder or an exported file as a predictor.

    Threshold and gate are those fitted with its own symmetries; `workflows.symmetries.load_predictor` fits them with
    others.

    Args:
        address: Where the model lies, see `runs.address.local_model`.
        device: `auto` selects CUDA if available, otherwise the CPU.
        symmetries: Transformed copies of an image to average over. None for the pipeline's own setting, and none for a
            run.

    Returns:
        A predictor whose probabilities lie on the label grid.

    Raises:
        ContrailError: If there is no finished model, or it is damaged.
        UsageError: If symmetries are given for an exported file.
    """
    chosen, path = choose_device(device), local_model(address)
    if path.is_file():
        if symmetries is not None:
            raise UsageError(f"--tta: has no effect on {path}, an exported file with a setting of its own; omit it")
        return load_exported(path, chosen)
    if (path / PIPELINE).is_file():
        model = load_pipeline(path, chosen, symmetries)
    else:
        model = load_run(path, chosen, symmetries or Symmetries.NONE)
    if chosen.type == "cpu":
        _prepare_for_cpu(model.detect)  # type: ignore[arg-type]
    return model


def _prepare_for_cpu(detector: Detector) -> None:
    for network in detector.networks.values():
        frames, channels = len(network.offsets), len(network.mean_c)  # type: ignore[arg-type]
        flow = None if network.flow is None else torch.zeros(1, frames, 2, *_PROBE)
        prepare_for_cpu(network, torch.zeros(1, frames, channels, *_PROBE), flow)


def read_pipeline(path: Path) -> PipelineConfig:
    """Read the settings of a pipeline.

    Args:
        path: Its directory.

    Returns:
        The settings.
    """
    return validated(PipelineConfig, read_document(path / PIPELINE), str(path / PIPELINE))


def runs_of(model: Path) -> dict[str, Path]:
    """List the runs that a model consists of.

    Args:
        model: Directory of a run or a pipeline.

    Returns:
        Run directories: those of a pipeline by the names of its stages, that of a run under `run`.
    """
    if not (model / PIPELINE).is_file():
        return {"run": model}
    return {name: model / STAGES / name for name in read_pipeline(model).stages}


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
    for_inference = config.model.model_copy(update={"pretrained": False, "checkpoint_activations": False})
    if config.data.flow.method == "raft":
        config.data.flow.weights = str(path / FLOW_WEIGHTS)
    channels, data = len(calibration["composite"]["channels"]), config.data
    model = build(for_inference, channels, data.frames, len(data.targets))
    load_weights(path / WEIGHTS, model)
    model.eval().to(device)
    scores_masks = config.model.score_head is not None
    down, right = calibration["off"]
    detector = single_network_detector(
        model,
        view_of(config, calibration["statistics"], device),
        config.model.head,
        top_k=calibration["top_k"],
        mask_shift=(down, right),
        symmetries=symmetries,
        scores_masks=scores_masks,
    ).eval()
    digest = calibration["weights"]
    if symmetries != Symmetries.NONE:  # it predicts something else, so it is another model
        digest = "sha256:" + hashlib.sha256(f"{digest} {symmetries}".encode()).hexdigest()
    return Predictor.from_calibration(
        path,
        detector,
        calibration,
        digest=digest,
        head=config.model.head,
        repeats_edges=config.data.edges == "repeat",
        scores_masks=scores_masks,
    )


def pipeline_detector(
    runs: Mapping[str, Predictor], config: PipelineConfig, mask: Weights, gate: Weights, symmetries: Symmetries
) -> Detector:
    """Combine the stages of a pipeline that have a weight into one detector.

    Args:
        runs: The stages by name.
        config: Settings of the pipeline.
        mask: Weight of each stage's mask.
        gate: Weight of each stage's record score. Empty: the first stage of the mask gives the score, which is stored
            with predictions even if there is no gate.
        symmetries: Transformed copies of an image to average over.

    Returns:
        The detector, in evaluation mode.
    """
    gate = _score_weights(config, gate)
    used = [name for name in runs if mask.get(name) or gate.get(name)]
    networks: dict[str, Network] = {name: runs[name].detect.networks["run"] for name in used}  # type: ignore[attr-defined]
    composite = from_dict(pipeline_composite([run.composite for run in runs.values()]))
    for name, network in networks.items():
        own = channel_indices(from_dict(runs[name].composite), composite)
        network.channels = None if own == list(range(len(composite.channels))) else own
    classifiers = [name for name in used if runs[name].head != "mask" or runs[name].scores_masks]
    detector = Detector(networks, mask, gate, top_k=config.top_k, classifiers=classifiers, symmetries=symmetries).eval()
    if len({run.mask_shift for run in runs.values()}) > 1:  # the same for all weights, as they are calibrated together
        detector.mask_shift = (0.0, 0.0)
    return detector


def _score_weights(config: PipelineConfig, gate: Weights) -> Weights:
    return gate or dict.fromkeys(config.mask[:1], 1.0)


def pipeline_composite(composites: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Declare the composite that has the channels of all stages of a pipeline.

    Args:
        composites: Those of the stages, as stores declare them.

    Returns:
        The first one if all have its channels, and a stack otherwise.
    """
    first = composites[0]
    if all(composite["channels"] == first["channels"] for composite in composites):
        return first
    return stack([from_dict(composite) for composite in composites]).to_dict()


def load_stages(config: PipelineConfig, out: Path, device: torch.device) -> dict[str, Predictor]:
    """Load the trained stages of a pipeline.

    Args:
        config: Settings of the pipeline.
        out: Its directory.
        device: Device to load them on.

    Returns:
        The stages by name.

    Raises:
        ContrailError: If a stage is not finished, or stages do not fit together.
    """
    runs = {name: load_run(out / STAGES / name, device) for name in config.stages}
    first_name, first = next(iter(runs.items()))
    for name, run in runs.items():
        if name in config.mask and run.head == "record":
            raise ContrailError(f"{out}: stage {name} classifies records, not pixels; list it in gate, not in mask")
        for attribute in ("label_shift", "size", "native"):
            if getattr(run, attribute) != getattr(first, attribute):
                pair = f"stages {first_name} and {name}"
                raise ContrailError(f"{out}: {pair} differ in {attribute} of their data; train them on like stores")
    return runs


def repeat_edges(runs: Collection[Predictor]) -> bool:
    """Say whether a pipeline repeats the ends of samples: if all of its stages that see several frames do.

    Args:
        runs: The stages.

    Returns:
        Whether it does.
    """
    several = [run for run in runs if len(run.offsets) > 1]
    return bool(several) and all(run.repeats_edges for run in several)


def load_pipeline(path: Path, device: torch.device, symmetries: Symmetries | None = None) -> Predictor:
    """Load a finished pipeline.

    Args:
        path: Pipeline directory.
        device: Device to load it on.
        symmetries: Transformed copies of an image to average over; None for the pipeline's own setting.

    Returns:
        The predictor.

    Raises:
        ContrailError: If the pipeline is not finished.
    """
    config = read_pipeline(path)
    calibration = read_calibration(path)
    mask, gate = calibration["mask_weights"], calibration["gate_weights"]
    runs = load_stages(config, path, device)
    detector = pipeline_detector(runs, config, mask, gate, symmetries or config.tta)
    weights = {name: file_digest(path / STAGES / name / WEIGHTS) for name in config.stages}
    identity = json.dumps([weights, mask, gate, config.top_k, detector.symmetries], sort_keys=True)
    digest = "sha256:" + hashlib.sha256(identity.encode()).hexdigest()
    return Predictor.from_calibration(
        path,
        detector,
        calibration,
        digest=digest,
        head="mask",
        repeats_edges=repeat_edges(runs.values()),
        scores_masks=all(runs[name].scores_masks for name, weight in _score_weights(config, gate).items() if weight),
    )
