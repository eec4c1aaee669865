"""Options and tables that several commands of `contrail-train` share."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from contrail_data.cli import options
from contrail_data.cli.common import print_fields, print_table
from contrail_data.cli.labels import MODEL_HELP, WHERE_MODELS_LIE, model_address

if TYPE_CHECKING:
    from contrail_train.evaluation.report import EvaluationValues
    from contrail_train.runs.calibration import Calibration, ScoreValues

path_argument = partial(typer.Argument, parser=options.local_path)
model_argument = partial(typer.Argument, parser=model_address)
TrainedModel = Annotated[
    str,
    model_argument(help=f"A finished run or pipeline, or a model folder: {WHERE_MODELS_LIE}", metavar="MODEL"),
]
"""A model that is not an exported file."""
Model = Annotated[str, model_argument(help=MODEL_HELP, metavar="MODEL")]


def preset_names(incomplete: str) -> list[str]:
    """Complete the name of a preset.

    Args:
        incomplete: How it begins.

    Returns:
        The names that begin so.
    """
    from contrail_train.config.presets import PRESETS

    return [name for name in PRESETS if name.startswith(incomplete)]


Preset = Annotated[
    str,
    typer.Argument(
        help="A preset (see `presets ls`), or a .yaml file with settings.",
        metavar="PRESET|FILE",
        autocompletion=preset_names,
    ),
]
RunDirectory = Annotated[
    Path, options.local_output("-o", "--out", help="Directory to write; the same command resumes in it.")
]

LABELS = {
    "records": "records (positive; groups)",
    "dice": "global Dice",
    "interval": "  95 % interval over groups",
    "dice_without_gate": "  without the gate",
    "precision": "precision",
    "recall": "recall",
    "auc_pr": "AUC-PR of pixels",
    "tolerant_dice": "Dice within 2 pixels",
    "record_dice": "Dice of records (any contrail)",
    "record_auc_pr": "AUC-PR of records, by score",
    "threshold": "threshold",
    "gate": "gate",
    "counts": "pixels tp, fp, fn",
}
"""The rows of a table of scores."""
LABELS_OF_RECORDS = dict.fromkeys(("dice_without_gate", "auc_pr", "tolerant_dice", "record_dice", "gate"), "") | {
    "dice": "Dice of records (any contrail)",
    "record_auc_pr": "AUC-PR of records",
    "counts": "records tp, fp, fn",
}
"""What differs for a classifier of records; rows without a label are left out."""


def interval_text(scores: ScoreValues) -> str:
    """Format the confidence interval of the Dice coefficient.

    Args:
        scores: Scores over labelled records.

    Returns:
        The interval, or why there is none.
    """
    from contrail_train.evaluation.intervals import NO_INTERVAL

    low, high = scores["dice_low"], scores["dice_high"]
    return NO_INTERVAL if low is None or high is None else f"{low:.4f} to {high:.4f}"


def print_scores(title: str, scores: ScoreValues, *, of_records: bool = False) -> None:
    """Print the scores of a model as a table.

    Args:
        title: Line above the table.
        scores: Scores over labelled records.
        of_records: Whether the model classifies records, so that scores count records instead of pixels.
    """
    texts = {
        "records": f"{scores['records']} ({scores['positive_records']}; {scores['groups']})",
        "interval": interval_text(scores),
        "counts": f"{scores['tp']:,}, {scores['fp']:,}, {scores['fn']:,}",
    }
    rows = []
    for key, label in (LABELS | (LABELS_OF_RECORDS if of_records else {})).items():
        value = scores.get(key)
        if label:
            digits = ".4g" if key in ("threshold", "gate") else ".4f"  # thresholds may be far below 0.0001
            rows.append((label, texts.get(key) or ("none" if value is None else f"{value:{digits}}")))
    print_table(title, ["score", ""], rows)


def print_summary(title: str, values: EvaluationValues, *, of_records: bool = False) -> None:
    """Print how good a model is, and what would improve it most, in a few lines.

    Args:
        title: Line above them.
        values: Scores and analysis of an evaluation.
        of_records: As in `print_scores`.
    """
    from contrail_data.reports.page import plural
    from contrail_train.evaluation.analysis_text import gate_sentences

    def percent(share: float | None) -> str:
        return "none" if share is None else f"{share:.1%}"

    unit = "records" if of_records else "pixels"
    found, right = percent(values["recall"]), percent(values["precision"])
    groups = plural(values["groups"], "group")
    fields = {
        "Dice of records" if of_records else "global Dice": f"{values['dice']:.4f} (95 %: {interval_text(values)})",
        "recall": f"{found} of the contrail {unit} are found",
        "precision": f"{right} of the predicted {unit} are right",
        "records": f"{values['records']:,}, {values['positive_records']:,} of them with contrails, in {groups}",
    }
    if "analysis" in values:
        fields["errors"] = gate_sentences(values["analysis"]["gate"])[-1]
    print(title)
    print_fields(fields)


def print_holdout(title: str, calibration: Calibration, *, reason: str, of_records: bool = False) -> None:
    """Print the scores on held-out records, or that there are none.

    Args:
        title: Line above the table.
        calibration: Calibration of the finished run or pipeline.
        reason: Why the threshold was not calibrated, if so.
        of_records: As in `print_scores`.
    """
    scores, taken_from = calibration["holdout"], calibration.get("taken_from")
    if taken_from is not None:
        title = f"held-out records of {', '.join(taken_from['models'])}, which decided on threshold and gate"
        scores = taken_from["scores"]
    if scores is None:
        print(f"threshold {calibration['threshold']:.4g}, not calibrated: {reason}")
    else:
        print_scores(title, scores, of_records=of_records)
        if size := calibration.get("min_pixels"):
            print(f"--min-pixels fit: {size}, with which Dice is {calibration['min_pixels_dice']:.4f}")
