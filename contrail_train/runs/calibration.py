"""The file `calibration.json`, which marks a run or a pipeline as finished and states its thresholds.

It also states the digests of the settings and the weights that it belongs to.
"""

from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict  # pydantic does not take that of Python 3.11

from contrail_data.errors import ContrailError
from contrail_data.settings.strict import Probability
from contrail_train.runs.checkpoint import file_digest
from contrail_train.runs.finished import check_finished
from contrail_train.runs.names import CALIBRATION, CONFIG, PIPELINE, STAGES, WEIGHTS
from contrail_train.runs.sealed import read_json, write_json


class ScoreValues(TypedDict):
    """Scores over labelled records; None where there is nothing to divide by."""

    records: int
    positive_records: int
    groups: int
    """(site, day) groups of records."""
    threshold: float
    gate: float
    dice: float
    """Global Dice."""
    dice_low: float | None
    dice_high: float | None
    """95 % interval over groups; None if fewer than 6 groups have contrails, or Dice is 0 or 1."""
    precision: float | None
    recall: float | None
    auc_pr: float | None
    tolerant_dice: float | None
    record_dice: float | None
    record_auc_pr: float | None
    dice_without_gate: float
    tp: int
    fp: int
    fn: int
    """Pixels."""


class Grid(TypedDict):
    """The kind of tiles that a model was trained on."""

    native: bool
    """Whether they are windows of an imager's own grid rather than UTM tiles."""
    pixel: float
    """Side of a pixel in metres."""
    size: int
    """Side of a tile in pixels."""
    dtype: str
    """Type of the stored images."""


class LabelGrid(TypedDict):
    """A learned map from the frame of a detector's masks onto the grid of the labels, see `inference.label_grid`."""

    shift: list[float]
    """(down, right) offset of the labels that it was learned from, pixels."""
    kernel: list[list[float]]
    """Weights of the probabilities around a pixel that is moved by the whole pixels of the shift, by row."""
    bias: float
    fixed_threshold: Probability
    """Threshold where masks are resampled by a fixed shift instead."""


class ConfidenceFit(TypedDict):
    """The confidence of single contrails, fitted on the held-out records, see `contrails.confidence`."""

    weights: list[float]
    bias: float
    contrails: int
    """Predicted contrails that it was fitted on."""
    hits: int
    """How many of them match a labelled one."""
    brier: float
    """Mean squared difference of confidence and match, each contrail by the fit to the other groups."""
    brier_of_mean_probability: float
    """The same of the mean probability of its pixels, which is what a confidence is without a fit."""
    reliability: list[list[float]]
    """Cross-fitted: mean confidence, share that matches and number of contrails, by class of confidence."""


class HoldoutScores(TypedDict):
    """Scores of the records that were held out; n is their number."""

    holdout: ScoreValues | None
    """Scores at cross-fitted thresholds; None if no held-out record has a contrail."""
    holdout_records: list[str]
    """(n) record ids."""
    holdout_groups: list[str]
    """(n) group of each record, as named by `contrail_data.splits.groups`."""
    holdout_counts: list[list[int]] | None
    """(3, n) true positive, false positive and false negative pixels at cross-fitted thresholds."""
    min_pixels: NotRequired[int | None]
    """Minimum size of a region with the best Dice, used where `--min-pixels fit` is given. None if there are no masks
    or no contrails; missing in runs of earlier versions."""
    min_pixels_dice: NotRequired[float | None]
    """Dice at cross-fitted thresholds and minimum sizes."""
    confidence: NotRequired[ConfidenceFit | None]
    """Confidence of single contrails; None if there are too few contrails, missing in runs of earlier versions."""


class TakenFrom(TypedDict):
    """Where threshold, gate and minimum size of a run come from that held nothing out."""

    models: dict[str, str]
    """Digest by path of the models on whose held-out records they were fitted."""
    scores: ScoreValues
    """Scores of these records at cross-fitted thresholds, each predicted by the model that held it out."""


class _Required(HoldoutScores):
    """The part of a calibration that runs and pipelines have in common."""

    threshold: Probability
    """Probability from which a pixel is contrail."""
    gate: Probability
    """Record score below which a mask is empty."""
    top_k: int
    """Number of highest probabilities whose mean is a segmenter's record score."""
    seen_records: Annotated[list[str], Field(min_length=1)]
    """Records that influenced the model: for training, for calibration, or through pseudo-labels."""
    composite: dict[str, Any]
    """The composite of the training data, as stores declare it."""
    label_shift: list[float]
    """(down, right) offset of the training labels from the image, pixels."""
    off: list[float]
    """(down, right) offset of the predicted masks from the image, pixels."""
    grid: Grid
    """The kind of tiles of the training data."""
    stores: dict[str, str]
    """Digest by name of the stores that it was trained or calibrated on."""
    label_grid: NotRequired[LabelGrid | None]
    """Used in place of the fixed shift, and with it `threshold`, if it was asked for and its gain is proven."""
    config: NotRequired[str]
    """Digest of the file of settings; missing in runs of earlier versions."""


class Calibration(_Required, total=False):
    """The contents of `calibration.json`."""

    statistics: dict[str, Any]
    """Only runs: statistics of the training data, as stores hold them."""
    weights: str
    """Only runs: digest of the file of weights."""
    taken_from: TakenFrom
    """Only runs with `calibration.from`."""
    mask_weights: dict[str, float]
    """Only pipelines: weight of each stage's mask."""
    gate_weights: dict[str, float]
    """Only pipelines: weight of each stage's record score."""
    stages: dict[str, str]
    """Only pipelines: digest of each stage's weights; missing in those of earlier versions."""


def find_calibration(path: Path) -> Calibration | None:
    """Return the calibration of a run or pipeline if it is finished.

    Args:
        path: Run or pipeline directory.

    Returns:
        The calibration, or None if there is none yet.

    Raises:
        ContrailError: If the file is damaged, or belongs to other settings, weights or stages.
    """
    if not (path / CALIBRATION).is_file():
        return None
    calibration = read_json(path / CALIBRATION, Calibration, "remove it and repeat the command that wrote it")
    settings = _settings_file(path)
    digests = {path / STAGES / name / WEIGHTS: digest for name, digest in calibration.get("stages", {}).items()}
    if settings.name == CONFIG:
        digests[path / WEIGHTS] = calibration.get("weights", "")
    if "config" in calibration:
        digests[settings] = calibration["config"]
    for file, digest in digests.items():
        if not file.is_file() or file_digest(file) != digest:
            raise ContrailError(
                f"{file}: not the file that the run ended with; restore it, or remove {path} and train again"
            )
    return calibration


def read_calibration(path: Path) -> Calibration:
    """Return the calibration of a finished run or pipeline.

    Args:
        path: Run or pipeline directory.

    Returns:
        The calibration.

    Raises:
        ContrailError: If the run is not finished, or as for `find_calibration`.
    """
    check_finished(path)
    calibration = find_calibration(path)
    assert calibration is not None
    return calibration


def finish(path: Path, calibration: Calibration) -> None:
    """Mark a run or pipeline as finished.

    Args:
        path: Run or pipeline directory.
        calibration: Its calibration.
    """
    write_json(path / CALIBRATION, calibration | {"config": file_digest(_settings_file(path))})


def _settings_file(path: Path) -> Path:
    return path / (PIPELINE if (path / PIPELINE).is_file() else CONFIG)
