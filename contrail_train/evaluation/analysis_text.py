"""The error analysis in words and tables, for the screen and for the page."""

from __future__ import annotations

from dataclasses import replace

from contrail_data.reports.page import Table, plural
from contrail_train.evaluation.analysis import CELL, Analysis, ContrailAnalysis, GateAnalysis, RecordClass

_MOST_ROWS = 12
_RECORD_HEADER = ("records", "positive", "tp", "fp", "fn", "precision", "recall", "Dice", "95 %", "of all wrong pixels")


def gate_sentences(gate: GateAnalysis) -> list[str]:
    """Describe what the gate and the segmenter cost.

    Args:
        gate: Part of an analysis.

    Returns:
        Sentences.
    """
    positives, negatives, drawn = gate["positives"], gate["negatives"], gate["negatives_drawn"]
    rejected, false_alarms, *_ = gate["errors"]
    if not positives:
        return [
            f"No record has a contrail. The only errors are {plural(false_alarms['pixels'], 'false pixel')}, in "
            f"{drawn:,} of {plural(negatives, 'record')}."
        ]
    sentences = []
    if gate["record_auc_roc"] is not None:
        sentences.append(
            "Of a positive and a negative record, the positive one has the higher score in "
            f"{gate['record_auc_roc']:.1%} of the cases (AUC-PR {gate['record_auc_pr']:.3f}; "
            f"{positives / (positives + negatives):.3f} by chance). {gate['record_recall']:.1%} of the positive "
            "records have a mask."
        )
        if gate["record_precision"]:
            sentences[-1] += f" {gate['record_precision']:.1%} of the records with a mask are positive."
    subject = "There is no gate; the segmenter"
    if gate["gate"] > 0:
        subject = f"The gate ({gate['gate']:.3f}) rejects {rejected['records']:,} of {positives:,} positive records and"
    sentences.append(f"{subject} leaves {drawn:,} of {negatives:,} negative records with a mask.")
    costs = [
        f"{what} costs {error['pixels'] / error['records']:,.0f} pixels"
        for what, error in (("a rejected positive record", rejected), ("a negative record with a mask", false_alarms))
        if error["records"]
    ]
    if costs:
        sentences.append(f"On average, {' and '.join(costs)}.")
    sentences.append(_alternatives(gate))
    worst = max(gate["errors"], key=lambda error: error["gain"])
    if worst["gain"] > 0:
        sentences.append(
            f"The most would be gained by correcting {worst['error']}: {worst['gain']:+z.3f} ({worst['lost']:.0%} of "
            f"all wrong pixels, in {plural(worst['records'], 'record')})."
        )
    best = max(gate["curve"], key=lambda point: point["dice"])
    if best["dice"] > gate["dice"]:
        name = f"a gate of {best['gate']:.3f}" if best["gate"] > 0 else "no gate"
        sentences.append(
            f"Of the gates in the table, {name} scores best, {best['dice']:.3f} ({best['dice'] - gate['dice']:+z.3f}). "
            "It was found on these records and may be worse on others."
        )
    return sentences


def _alternatives(gate: GateAnalysis) -> str:
    alternatives = {"a perfect gate": gate["dice_perfect_gate"]}
    if gate["gate"] > 0:
        alternatives["no gate"] = gate["dice_without_gate"]
        alternatives["perfect masks behind this gate"] = gate["dice_perfect_segmenter"]
    scores = (f"{dice:.3f} ({dice - gate['dice']:+z.3f}) with {name}" for name, dice in alternatives.items())
    return f"Dice is {gate['dice']:.3f}; it would be {', '.join(scores)}."


def gate_tables(gate: GateAnalysis) -> list[Table]:
    """Tabulate what each kind of error costs, and what other gates would do.

    Args:
        gate: Part of an analysis.

    Returns:
        Two tables.
    """
    errors, curve = gate["errors"], gate["curve"]
    costs = Table(
        ["error", "records", "pixels", "of all wrong pixels", "gain in Dice if corrected"],
        [
            [e["error"], f"{e['records']:,}", f"{e['pixels']:,}", f"{e['lost']:.1%}", f"{e['gain']:+z.4f}"]
            for e in errors
        ],
        "What each kind of error costs",
        {3: [error["lost"] for error in errors], 4: [max(error["gain"], 0.0) for error in errors]},
    )
    rows = []
    for point in curve:
        name = f"{point['gate']:.4f}" if point["gate"] else "none"
        current = " (current)" if point["gate"] == gate["gate"] else ""
        shares = (_percent(point["positives_shut"]), _percent(point["negatives_shut"]))
        rows.append([name + current, *shares, f"{point['dice']:.4f}"])
    gates = Table(
        ["gate", "positives rejected", "negatives rejected", "Dice"],
        rows,
        "What other gates would do on these records (for information, not to choose a gate by)",
        {3: [point["dice"] for point in curve]},
    )
    return [costs, gates]


def contrail_tables(contrails: ContrailAnalysis) -> list[Table]:
    """Tabulate contrails by size.

    Args:
        contrails: Part of an analysis.

    Returns:
        A table of labelled contrails and one of predicted contrails, if there are any.
    """
    labelled = [(c["class"], c["contrails"], c["pixels"], c["hit"], c["pixels_hit"]) for c in contrails["labelled"]]
    predicted = [
        (c["class"], c["contrails"], c["pixels"], c["false"], c["pixels_false"]) for c in contrails["predicted"]
    ]
    return [
        Table(
            ["size", "contrails", "pixels", *names],
            [[name, f"{count:,}", f"{pixels:,}", f"{a:.1%}", f"{b:.1%}"] for name, count, pixels, a, b in classes],
            f"{kind} contrails by size",
            {3: [row[3] for row in classes], 4: [row[4] for row in classes]},
        )
        for kind, classes, names in (
            ("Labelled", labelled, ("found in part or in full", "pixels found")),
            ("Predicted", predicted, ("on no label", "their share of pixels")),
        )
        if classes
    ]


def record_tables(records: dict[str, list[RecordClass]]) -> list[Table]:
    """Tabulate records by each property that is known of some of them.

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
    first, *others = gate_tables(analysis["gate"])
    title = "\n".join([*gate_sentences(analysis["gate"]), "", first.title])
    return [
        replace(first, title=title),
        *others,
        *contrail_tables(analysis["contrails"]),
        *record_tables(analysis["records"]),
    ]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _record_cells(row: RecordClass) -> list[str]:
    interval = f"{row['dice_low']:.3f} to {row['dice_high']:.3f}" if "dice_low" in row else ""
    counts = (f"{n:,}" for n in (row["records"], row["positive_records"], row["tp"], row["fp"], row["fn"]))
    scores = (row.get("precision"), row.get("recall"), row.get("dice"))
    return [
        row["class"],
        *counts,
        *("" if score is None else f"{score:.3f}" for score in scores),
        interval,
        f"{row['lost']:.1%}",
    ]
