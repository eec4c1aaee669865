"""MISSING DOCSTRING."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from contrail_data.cli import common as command

Model = Annotated[
    Path,
    typer.Argument(help="Directory of a finished run or pipeline, or a file that export wrote.", metavar="MODEL"),
]
Store = Annotated[str, typer.Argument(help="A store: path, URL or name in data_catalog.yaml.", metavar="STORE")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")]


def interval_text(result: dict[str, Any]) -> str:
    low, high = result["dice_low"], result["dice_high"]
    return "none of one group" if low is None else f"{low:.4f} to {high:.4f}"


def print_scores(title: str, result: dict[str, Any]) -> None:
    def or_none(value: float | None) -> str:
        return "none" if value is None else f"{value:.4f}"

    records = result.get("head") == "record"
    rows = [
        ["records (positive; groups)", f"{result['records']} ({result['positive_records']}; {result['groups']})"],
        ["Dice over records (any contrail)" if records else "global Dice", f"{result['dice']:.4f}"],
        ["  95 % interval over groups", interval_text(result)],
    ]
    if not records:
        rows += [["  without the gate", f"{result['dice_without_gate']:.4f}"]]
    rows += [["precision", or_none(result["precision"])], ["recall", or_none(result["recall"])]]
    if not records:
        rows += [
            ["AUC-PR of pixels", or_none(result["auc_pr"])],
            ["Dice within 2 pixels", f"{result['tolerant_dice']:.4f}"],
            ["Dice over records (any contrail)", f"{result['record_dice']:.4f}"],
        ]
    by = "" if records else ", by what the gate compares"
    rows += [[f"AUC-PR of records{by}", or_none(result["record_auc_pr"])], ["threshold", f"{result['threshold']:.4f}"]]
    if not records:
        rows += [["gate", f"{result['gate']:.4f}"]]
    what = "records" if records else "pixels"
    rows += [[f"{what} tp, fp, fn", f"{result['tp']:,}, {result['fp']:,}, {result['fn']:,}"]]
    command.table(title, ["score", ""], rows)
