"""Options and tables that several commands of `contrail-train` share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from contrail_data.cli import options
from contrail_data.cli.common import print_table

if TYPE_CHECKING:
    from contrail_train.runs.calibration import ScoreValues

MODEL_HELP = "Directory of a finished run or pipeline, or an exported file (.pt2, .onnx)."

Model = Annotated[Path, typer.Argument(help=MODEL_HELP, metavar="MODEL")]
Preset = Annotated[
    str, typer.Argument(help="A preset (see `presets ls`), or a .yaml file with settings.", metavar="PRESET|FILE")
]
RunDirectory = Annotated[
    Path, options.output("-o", "--out", help="Directory to write; the same command resumes in it.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a setting; the value is YAML. Repeatable.", metavar="KEY=VALUE"),
]


def interval_text(scores: ScoreValues) -> str:
    """Format the confidence interval of the Dice coefficient.

    Args:
        scores: Scores over labelled records.

    Returns:
        The interval, or that a single group has none.
    """
    low, high = scores["dice_low"], scores["dice_high"]
    return "none (a single group)" if low is None or high is None else f"{low:.4f} to {high:.4f}"


def print_scores(title: str, scores: ScoreValues, *, of_records: bool = False) -> None:
    """Print the scores of a model as a table.

    Args:
        title: Line above the table.
        scores: Scores over labelled records.
        of_records: Whether the model classifies records, so that scores count records instead of pixels.
    """

    def _number(value: float | None) -> str:
        return "none" if value is None else f"{value:.4f}"

    counts = f"{scores['records']} ({scores['positive_records']}; {scores['groups']})"
    confusion = f"{scores['tp']:,}, {scores['fp']:,}, {scores['fn']:,}"
    rows = [
        ("records (positive; groups)", counts),
        ("Dice of records (any contrail)" if of_records else "global Dice", _number(scores["dice"])),
        ("  95 % interval over groups", interval_text(scores)),
    ]
    if not of_records:
        rows.append(("  without the gate", _number(scores["dice_without_gate"])))
    rows += [("precision", _number(scores["precision"])), ("recall", _number(scores["recall"]))]
    if not of_records:
        rows += [
            ("AUC-PR of pixels", _number(scores["auc_pr"])),
            ("Dice within 2 pixels", _number(scores["tolerant_dice"])),
            ("Dice of records (any contrail)", _number(scores["record_dice"])),
        ]
    rows.append(
        ("AUC-PR of records" if of_records else "AUC-PR of records, by score", _number(scores["record_auc_pr"]))
    )
    rows.append(("threshold", _number(scores["threshold"])))
    if not of_records:
        rows.append(("gate", _number(scores["gate"])))
    rows.append((f"{'records' if of_records else 'pixels'} tp, fp, fn", confusion))
    print_table(title, ["score", ""], rows)


def print_holdout(
    title: str, scores: ScoreValues | None, threshold: float, *, reason: str, of_records: bool = False
) -> None:
    """Print the scores on held-out records, or that there are none.

    Args:
        title: Line above the table.
        scores: Scores on the held-out records; None if the threshold was not calibrated.
        threshold: The threshold.
        reason: Why the threshold was not calibrated, if so.
        of_records: As in `print_scores`.
    """
    if scores is None:
        print(f"threshold {threshold:.4f}, not calibrated: {reason}")
    else:
        print_scores(title, scores, of_records=of_records)
