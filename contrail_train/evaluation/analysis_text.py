"""The error analysis in words and tables, for the screen and for the page."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from contrail_data.reports.page import Table, render_page
from contrail_train.evaluation.analysis import CELL, Analysis, ContrailAnalysis, GateAnalysis, RecordClass
from contrail_train.evaluation.error_kinds import ErrorKind, kinds_table

_MOST_ROWS = 12
_RECORD_HEADER = ("records", "positive", "tp", "fp", "fn", "precision", "recall", "Dice", "95 %", "of all wrong pixels")
_RECORD_CELLS = dict.fromkeys(("records", "positive_records", "tp", "fp", "fn"), ",") | dict.fromkeys(
    ("precision", "recall", "dice"), ".3f"
)


def gate_sentences(gate: GateAnalysis) -> list[str]:
    """Describe what the gate and the segmenter cost.

    Args:
        gate: Part of an analysis.

    Returns:
        Sentences.
    """
    return render_page("gate.txt", package=__package__, gate=gate).splitlines()


def cost_table(gate: GateAnalysis) -> Table:
    """Tabulate what each kind of error costs.

    Args:
        gate: Part of an analysis.

    Returns:
        The table.
    """
    errors = gate["errors"]
    return Table(
        ["error", "records", "pixels", "of all wrong pixels", "gain in Dice if corrected"],
        [
            [e["error"], f"{e['records']:,}", f"{e['pixels']:,}", f"{e['lost']:.1%}", f"{e['gain']:+z.4f}"]
            for e in errors
        ],
        "What each kind of error costs",
        {3: [error["lost"] for error in errors], 4: [max(error["gain"], 0.0) for error in errors]},
    )


def contrail_tables(contrails: ContrailAnalysis, kinds: Sequence[ErrorKind]) -> list[Table]:
    """Tabulate kinds of errors, and contrails by size.

    Args:
        contrails: Part of an analysis.
        kinds: Likewise.

    Returns:
        A table of errors, one of labelled contrails and one of predicted contrails, if there are any.
    """
    tables = [kinds_table(kinds)] if contrails["labelled"] or contrails["predicted"] else []
    for kind, classes, names in (
        ("Labelled", contrails["labelled"], ("found in part or in full", "pixels found")),
        ("Predicted", contrails["predicted"], ("on no label", "their share of pixels")),
    ):
        values: list[list[Any]] = [list(one.values()) for one in classes]
        rows = [[name, f"{n:,}", f"{pixels:,}", f"{a:.1%}", f"{b:.1%}"] for name, n, pixels, a, b in values]
        bars = {3: [row[3] for row in values], 4: [row[4] for row in values]}
        tables.append(Table(["size", "contrails", "pixels", *names], rows, f"{kind} contrails by size", bars))
    return [table for table in tables if table.rows]


def record_tables(records: dict[str, list[RecordClass]]) -> list[Table]:
    """Tabulate records by each property that at least one record has.

    Args:
        records: Part of an analysis.

    Returns:
        One table for each property.
    """
    tables = []
    for key, classes in records.items():
        if [row["class"] for row in classes] == ["unknown"]:
            continue
        name = key.replace("_", " ")
        title = f"Records by {name}"
        if key == "place":
            title += f" (south-western corners of cells of {CELL} degrees)"
        if len(classes) > _MOST_ROWS:
            title += f", the {_MOST_ROWS} of {len(classes)} with most wrong pixels"
            classes = sorted(classes, key=lambda row: -row["lost"])[:_MOST_ROWS]
        bars = {8: [row.get("dice", 0.0) for row in classes], 10: [row["lost"] for row in classes]}
        tables.append(Table([name, *_RECORD_HEADER], [_record_cells(row) for row in classes], title, bars))
    return tables


def screen_tables(analysis: Analysis) -> list[Table]:
    """Tabulate a complete analysis for the screen.

    Args:
        analysis: The analysis.

    Returns:
        All tables; the sentences on the gate are part of the first title.
    """
    costs = cost_table(analysis["gate"])
    title = "\n".join([*gate_sentences(analysis["gate"]), "", costs.title])
    return [
        replace(costs, title=title),
        *contrail_tables(analysis["contrails"], analysis["kinds"]),
        *record_tables(analysis["records"]),
    ]


def _record_cells(row: Mapping[str, object]) -> list[str]:
    interval = f"{row['dice_low']:.3f} to {row['dice_high']:.3f}" if "dice_low" in row else ""
    cells = [format(row[key], spec) if key in row else "" for key, spec in _RECORD_CELLS.items()]
    return [str(row["class"]), *cells, interval, f"{row['lost']:.1%}"]
