"""MISSING DOCSTRING."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from contrail_data.cli import common as command
from contrail_train.cli.common import Device, Model, Store, print_scores


def evaluate(
    run: Model,
    store: Store,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder for JSON, HTML page and pictures; default: the model's.")
    ] = None,
    worst: Annotated[int, typer.Option(min=0, max=100, help="Records to show that lose most.")] = 8,
    tta: command.Tta = None,
    batch: Annotated[int, typer.Option(min=1)] = 16,
    device: Device = "auto",
) -> None:
    """Score a model on a labelled store at its own threshold and gate: tables, JSON and one HTML page.

    Records that the model was trained on, or that its threshold was fitted on, are left out.
    """
    from contrail_data.catalog.catalog import open_named
    from contrail_train.evaluation.report import evaluate_store
    from contrail_train.inference.load import load_predictor

    opened = open_named(store)
    model = load_predictor(run, device, tta).for_store(opened)
    result, tables, paths = evaluate_store(model, opened, store, out, worst, batch)
    print_scores(f"{run} on {store}", result)
    for title, header, rows in tables:
        command.table(title, header, rows)
    for path in paths:
        print(f"written to {path}")


def compare(
    a: Annotated[Path, typer.Argument(help="A run, pipeline or exported file.", metavar="A")],
    b: Annotated[Path, typer.Argument(help="Another.", metavar="B")],
    store: Store,
    tta: command.Tta = None,
    batch: Annotated[int, typer.Option(min=1)] = 16,
    device: Device = "auto",
) -> None:
    """Compare two models on a labelled store: global Dice of each at its own threshold and gate, and their difference.

    The interval is a paired bootstrap: both on the same resampled groups (site, day) of records.
    """
    from contrail_data.catalog.catalog import open_named
    from contrail_train.data.items import open_labelled
    from contrail_train.evaluation.metrics import bootstrap_difference, dice
    from contrail_train.evaluation.score import gated_counts, score_predictor, unseen
    from contrail_train.inference.load import load_predictor

    opened = open_named(store)
    models = [load_predictor(run, device, tta).for_masks().for_store(opened) for run in (a, b)]
    items = [unseen(open_labelled([opened], model.offsets), models) for model in models]
    counts = [
        gated_counts(score_predictor(model, new, batch), model.decision.gate)
        for model, new in zip(models, items, strict=True)
    ]
    groups = items[0].group
    interval = "none of one group"
    if len(set(groups)) > 1:
        low, high = bootstrap_difference(counts[0], counts[1], groups)
        interval = f"{low:+.4f} to {high:+.4f}"
    scores = [float(dice(*c.sum(1))) for c in counts]
    rows = [[f"A  {a}", f"{scores[0]:.4f}"], [f"B  {b}", f"{scores[1]:.4f}"]]
    rows.append(["B less A (95 %)", f"{scores[1] - scores[0]:+.4f} ({interval})"])
    command.table(f"global Dice on {len(groups)} records of {store}", ["run", ""], rows)


def submit(
    store: Annotated[str, typer.Argument(help="A store that predict wrote.", metavar="STORE")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The CSV file to write.")],
    overwrite: command.OverwriteFile = False,
) -> None:
    """Write predicted masks as the 2023 competition's submission: run lengths, column by column."""
    from contrail_data.catalog.catalog import open_named
    from contrail_data.storage.files import check_new
    from contrail_train.inference.submission import write_submission

    check_new(out, overwrite)
    records, empty = write_submission(open_named(store), out)
    print(f"{out}: {records} records, {empty} of them empty")
