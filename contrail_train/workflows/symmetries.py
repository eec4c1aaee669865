"""Threshold and gate of a model that averages over other symmetries than those it was calibrated with.

They are fitted on the model's held-out records when they are first needed, and kept beside its calibration, in
`calibration-SYMMETRIES.json`.
"""

from dataclasses import replace
from pathlib import Path
from typing import Literal, NotRequired

from typing_extensions import TypedDict  # pydantic does not take that of Python 3.11

from contrail_data.errors import ContrailError, UsageError
from contrail_data.labels.predictor import Decision, Symmetries
from contrail_data.settings.strict import Probability
from contrail_train.config.settings import read_config
from contrail_train.evaluation.calibrate import GRID_WHEN, Calibrated, GateWhen
from contrail_train.evaluation.held_out import calibrate_on_held_out, load_lenders
from contrail_train.evaluation.score import EvaluationOptions
from contrail_train.inference import load
from contrail_train.inference.predictor import Predictor
from contrail_train.runs.calibration import ConfidenceFit, LabelGrid, ScoreValues, read_calibration
from contrail_train.runs.distributed import ALONE
from contrail_train.runs.names import CONFIG, PIPELINE
from contrail_train.runs.sealed import read_json, write_json


class Fitted(TypedDict):
    """The contents of `calibration-SYMMETRIES.json`."""

    model: str
    """Digest of the model with these symmetries."""
    threshold: Probability
    gate: Probability
    min_pixels: int | None
    confidence: NotRequired[ConfidenceFit | None]
    label_grid: NotRequired[LabelGrid | None]
    holdout: ScoreValues | None
    """Cross-fitted scores of the held-out records."""


def load_predictor(
    address: str | Path,
    device: str = "auto",
    symmetries: Symmetries | Literal["none", "flips", "dihedral"] | None = None,
) -> Predictor:
    """Load a finished run, a pipeline, a model folder or an exported file as a predictor.

    If it averages over other symmetries than those it was calibrated with, threshold and gate are fitted for them on
    its held-out records.

    Args:
        address: Directory of a run or pipeline, `.pt2` or `.onnx` file, or a model folder by path, URL (`s3://...`),
            address of the hub (`hf://org/name@revision`) or catalog name.
        device: Device to load it on; `auto` selects CUDA if available, otherwise the CPU.
        symmetries: Transformed copies of an image to average over: `none`, `flips` or `dihedral`. None for the model's
            own setting.

    Returns:
        The predictor, for `contrail_train.predict`.

    Raises:
        ContrailError: If there is no such model, or its held-out records are needed and cannot be read.
        UsageError: If there are no such symmetries.

    Examples:
        >>> import contrail_train
        >>> predictor = contrail_train.load_predictor("runs/a", device="cpu")
        >>> predictor.offsets, predictor.composite["name"], 0 < predictor.decision.threshold < 1
        ((0,), 'ash', True)
    """
    if symmetries is not None:
        if symmetries not in [*Symmetries]:
            raise UsageError(f"symmetries={symmetries!r}: unknown; use one of {', '.join(Symmetries)}")
        symmetries = Symmetries(symmetries)
    model = load.load_model(address, device, symmetries)
    path = model.path
    own = load.read_pipeline(path).tta if (path / PIPELINE).is_file() else Symmetries.NONE
    if symmetries is None or symmetries == own:
        return model
    file = fitted_file(path, symmetries)
    if (fitted := _kept(file, model.decision)) is None:
        ALONE.say(f"{path}: fitting threshold and gate with --tta {symmetries} on its held-out records")
        fitted = _fit(model, symmetries)
        try:
            write_json(file, fitted)
        except ContrailError:
            ALONE.say(f"{file}: not kept, since the directory cannot be written; the next command fits them again")
    decision = replace(model.decision, threshold=fitted["threshold"], gate=fitted["gate"])
    adapted = replace(model, decision=decision, min_pixels=fitted["min_pixels"], label_grid=None)
    adapted = adapted.with_confidence(fitted.get("confidence"))
    return adapted.with_label_grid(fitted.get("label_grid"))


def fitted_file(path: Path, symmetries: Symmetries) -> Path:
    """Name the file in which threshold and gate with other symmetries are kept.

    Args:
        path: Directory of the model.
        symmetries: The symmetries.

    Returns:
        Its path.
    """
    return path / f"calibration-{symmetries}.json"


def fitted_of(model: Predictor, calibrated: Calibrated) -> Fitted:
    """Return what is kept of a calibration with other symmetries.

    Args:
        model: The model with these symmetries.
        calibrated: What was fitted.

    Returns:
        The contents of the file.
    """
    return {
        "model": model.decision.model,
        "threshold": calibrated.choice.threshold,
        "gate": calibrated.choice.gate,
        "min_pixels": calibrated.choice.min_pixels,
        "confidence": calibrated.holdout.get("confidence"),
        "label_grid": calibrated.choice.label_grid,
        "holdout": calibrated.holdout["holdout"],
    }


def _kept(file: Path, decision: Decision) -> Fitted | None:
    """What was fitted, from a file; None if it is missing, damaged or of another model."""
    try:
        kept = read_json(file, Fitted, "it is written again")
    except ContrailError:
        return None
    return kept if kept["model"] == decision.model else None


def _fit(model: Predictor, symmetries: Symmetries) -> Fitted:
    gate_when: GateWhen = "proven"
    models, taken_from = [model], read_calibration(model.path).get("taken_from")
    if (model.path / PIPELINE).is_file():
        config = load.read_pipeline(model.path)
        gate_when, label_grid = config.gate_when if config.gate else "never", config.label_grid
    else:
        label_grid = read_config(model.path / CONFIG).calibration.label_grid
    options = EvaluationOptions(model.device, title="fit threshold")
    try:
        if taken_from is not None:  # the run itself held nothing out
            models = load_lenders(taken_from, str(model.device), symmetries)
        calibrated = calibrate_on_held_out(models, options, gate_when, GRID_WHEN[label_grid])
    except ContrailError as error:
        raise ContrailError(
            f"{error} (held-out records are needed to fit threshold and gate with --tta {symmetries}; or omit --tta)"
        ) from None
    return fitted_of(model, calibrated)
