"""Commands that score models and write a submission: `evaluate`, `compare` and `submit`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from contrail_data.cli import options
from contrail_data.cli.common import print_note, print_table, refuse_options
from contrail_data.errors import ExitCode
from contrail_train.cli.common import MODEL_HELP, Model, model_argument, print_scores


def evaluate(
    context: typer.Context,
    run: Model,
    store: options.Store,
    out: Annotated[
        Path | None,
        options.local_output(
            "-o", "--out", help="Folder for JSON, HTML report and pictures.", show_default="the model's directory"
        ),
    ] = None,
    worst: Annotated[int, options.output(min=0, max=100, help="Number of worst records to show as pictures.")] = 8,
    tta: options.Tta = None,
    symmetries: Annotated[
        bool,
        typer.Option(
            "--symmetries",
            help="Also score images that are mirrored and turned, each of the eight: whether the model depends on "
            "orientation.",
        ),
    ] = False,
    batch: options.Batch = 16,
    device: options.Device = "auto",
    min_pixels: options.MinPixels = "1",
    hysteresis: options.Hysteresis = None,
    consistent: options.Consistent = None,
    fill_gaps: options.FillGaps = None,
    elongation: options.Elongation = None,
) -> None:
    """Score a model on a labelled store.

    The model's own threshold and gate are used. Records that the model was trained on, or that its threshold was fitted
    on, are left out. The scores are printed as tables and written as JSON and an HTML report.
    """
    from contrail_data.catalog.catalog import open_named
    from contrail_train.config.model import Head
    from contrail_train.evaluation.report import evaluate_store
    from contrail_train.workflows.symmetries import load_predictor

    opened = open_named(store)
    model = load_predictor(run, device, tta).for_store(opened)
    if model.head == Head.RECORD:
        refuse_options(context, ("worst", *options.CLEANING), "on a model that classifies records")
    model = model.with_cleaning(min_pixels, hysteresis, consistent, fill_gaps, elongation)
    evaluation = evaluate_store(
        model, opened, name=store, out=out, pictures=worst, batch=batch, orientations=symmetries
    )
    if left_out := evaluation.values["left_out"]:
        print_note(f"{left_out} records were left out because the model has seen them")
    for note in evaluation.values.get("nearness_notes", ()):
        print_note(note)
    print_scores(f"{run} on {store}", evaluation.values, of_records=model.head == Head.RECORD)
    for table in evaluation.tables:
        print_table(table.title, table.header, table.rows)
    for path in evaluation.files:
        print(f"written to {path}")


def compare(
    a: Annotated[Path, model_argument(help=MODEL_HELP, metavar="A")],
    b: Annotated[Path, model_argument(help="Another model.", metavar="B")],
    store: options.Store,
    tta: options.Tta = None,
    batch: options.Batch = 16,
    device: options.Device = "auto",
) -> None:
    """Compare the global Dice of two models on a labelled store.

    Each model uses its own threshold and gate. The interval of the difference is over groups (site and day) of
    records, a paired jackknife.
    """
    from contrail_data.catalog.catalog import open_named
    from contrail_train.data.items import open_labelled
    from contrail_train.evaluation.intervals import difference_text
    from contrail_train.evaluation.metrics import dice
    from contrail_train.evaluation.score import gated_counts, score_predictor, unseen
    from contrail_train.workflows.symmetries import load_predictor

    opened = open_named(store)
    models = [load_predictor(run, device, tta).for_masks().for_store(opened) for run in (a, b)]
    items = [
        unseen(open_labelled([opened], model.offsets, repeats_edges=model.repeats_edges), models) for model in models
    ]
    counts = [
        gated_counts(score_predictor(model, own, batch), model.decision.gate)
        for model, own in zip(models, items, strict=True)
    ]
    groups = items[0].group
    dice_a, dice_b = (float(dice(*c.sum(1))) for c in counts)
    rows = [
        [f"A  {a}", f"{dice_a:.4f}"],
        [f"B  {b}", f"{dice_b:.4f}"],
        ["B minus A (95 %)", difference_text(counts[0], counts[1], groups, digits=4)],
    ]
    print_table(f"global Dice on {len(groups)} records of {store}", ["model", ""], rows)


def submit(
    store: Annotated[str, typer.Argument(help="A store of predictions.", metavar="STORE")],
    out: Annotated[Path, options.local_output("-o", "--out", help="The CSV file to write.")],
    like: Annotated[
        Path | None,
        typer.Option(
            help="The competition's sample_submission.csv: write a row for each of its records, in its order.",
            show_default="the records of the store",
        ),
    ] = None,
    overwrite: options.OverwriteFile = False,
) -> None:
    """Write predicted masks in the format of the 2023 competition.

    Masks are run lengths, column by column, of 256 x 256 pixels. Records that have no prediction are reported, one line
    each, and the exit code is 3: those of --like, whose masks are written as empty, or without it those that were set
    aside when the store was built, which have no row.
    """
    from contrail_data.catalog.catalog import open_named
    from contrail_data.storage.files import check_new
    from contrail_train.inference.tables import write_submission

    check_new(out, overwrite, ".csv")
    written = write_submission(open_named(store), out, like)
    lacking = [f"no prediction: {record_id}, an empty mask is written" for record_id in written.missing]
    for line in lacking if like is not None else [f"set aside, no row: {line}" for line in written.set_aside]:
        print(line, file=sys.stderr)
    if written.others:
        print_note(
            f"{len(written.others)} predicted records are not in {like}, such as {written.others[0]}; they have no row"
        )
    print(f"{out}: {written.records} records, {written.empty} of them empty")
    if written.missing or (like is None and written.set_aside):
        raise typer.Exit(ExitCode.SET_ASIDE)
