"""Commands that score models and masks, and write a submission: `evaluate`, `compare`, `compare-masks`, `submit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from contrail_data.cli import options
from contrail_data.cli.common import print_note, print_set_aside, print_table, refuse_options
from contrail_data.cli.labels import MODEL_HELP
from contrail_data.errors import ExitCode
from contrail_data.process import share_cores
from contrail_train.cli.common import Model, model_argument, path_argument, print_scores, print_summary

if TYPE_CHECKING:
    from contrail_train.scenes.compare import Counts


def evaluate(
    context: typer.Context,
    run: Model,
    store: options.Samples,
    out: Annotated[
        Path | None,
        options.local_output(
            "-o",
            "--out",
            help="Folder for JSON, HTML report and pictures.",
            show_default="the model's directory; the current folder for a model that was fetched",
        ),
    ] = None,
    worst: Annotated[int, options.output(min=0, max=100, help="Number of worst records to show as pictures.")] = 8,
    tta: options.Tta = None,
    details: Annotated[
        bool,
        options.output("--details", help="Print all scores and the analysis of errors, which are otherwise files."),
    ] = False,
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
    on, are left out. A summary is printed; all scores and an analysis of the errors are written as JSON and an HTML
    report, and printed with --details.
    """
    if out is not None:
        from contrail_data.storage.files import check_folder

        check_folder(out, in_run=True)

    share_cores()

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
    print_summary(f"{run} on {store}", evaluation.values, of_records=model.head == Head.RECORD)
    if details:
        print_scores("\nAll scores", evaluation.values, of_records=model.head == Head.RECORD)
    for table in [*evaluation.details * details, *evaluation.tables]:
        print_table(table.title, table.header, table.rows)
    for path in evaluation.files:
        print(f"written to {path}")


def compare(
    a: Annotated[str, model_argument(help=MODEL_HELP, metavar="A")],
    b: Annotated[str, model_argument(help="Another model.", metavar="B")],
    store: options.Samples,
    tta: options.Tta = None,
    batch: options.Batch = 16,
    device: options.Device = "auto",
) -> None:
    """Compare the global Dice of two models on a labelled store.

    Each model uses its own threshold and gate. The interval of the difference is over groups (site and day) of
    records, a paired jackknife.
    """
    share_cores()

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


def compare_masks(
    context: typer.Context,
    a: Annotated[Path, path_argument(help="A file of masks (.nc, .zarr, .tif), taken as the truth.", metavar="A")],
    b: Annotated[Path, path_argument(help="Another one, of the same satellite.", metavar="B")],
    tolerance: Annotated[
        float,
        options.selection(min=0.0, max=720.0, help="Maximum time between the starts of a scan in A and B, in minutes."),
    ] = 5.0,
    threshold: Annotated[
        float,
        options.selection(min=0.0, max=1.0, help="Value from which a pixel is contrail, in files of probabilities."),
    ] = 0.5,
    as_json: options.AsJson = False,
) -> None:
    """Compare the masks of two files pixel by pixel.

    Files of predict-scans and those of Google's Contrails API (v2) are read alike. Windows of a scan are compared where
    they overlap, scans by the time at which they start. Times that only one of the files has are reported, one line
    each, and the exit code is 3. Grids that differ are refused.
    """
    import json
    from functools import reduce
    from operator import add

    from contrail_data.sources.recognise import check_mask_file

    for path in (a, b):
        check_mask_file(path)

    from contrail_data.sources.mask_files import open_mask_file
    from contrail_train.scenes import compare as comparing

    files = open_mask_file(a), open_mask_file(b)
    if all(file.binary for file in files):
        refuse_options(context, ["threshold"], "on files of 0 and 1")
    compared = comparing.compare_masks(*files, tolerance=tolerance, threshold=threshold)
    print_note(*compared.notes)
    print_set_aside(*compared.unmatched)
    total = reduce(add, (pair.counts for pair in compared.pairs))
    if as_json:
        times = [{**pair.as_json(), **pair.counts.as_json()} for pair in compared.pairs]
        print(json.dumps({"a": str(a), "b": str(b), "times": times, "all": total.as_json()}, indent=1))
    else:
        rows = []
        for pair in compared.pairs:
            later = "" if pair.later_s is None else f"{pair.later_s:+.0f} s"
            rows.append([pair.as_json()["time"] or "not stated", later, *_cells(pair.counts)])
        if len(rows) > 1:
            rows.append(["all", "", *_cells(total)])
        header = ["start in A", "in B", "pixels", "both (tp)", "only B (fp)", "only A (fn)", "Dice", "agreement"]
        print_table(f"A {a}, B {b}", header, rows)
    if compared.unmatched:
        raise typer.Exit(ExitCode.SET_ASIDE)


def _cells(counts: Counts) -> list[str]:
    dice = "none" if counts.dice is None else f"{counts.dice:.4f}"
    agreement = "none" if counts.agreement is None else f"{counts.agreement:.4%}"
    return [*(f"{number:,}" for number in (counts.pixels, counts.tp, counts.fp, counts.fn)), dice, agreement]


def _predictions_address(text: str) -> str:
    """Parse the address of a store of predictions."""
    from contrail_data.catalog.stores import read_header
    from contrail_data.store.schema import require_predictions

    if (header := read_header(text)) is not None:
        require_predictions(header)
    return text


def submit(
    store: Annotated[str, typer.Argument(parser=_predictions_address, help="A store of predictions.", metavar="STORE")],
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
    from contrail_data.storage.files import check_new

    check_new(out, overwrite, ".csv")

    from contrail_data.catalog.catalog import open_named
    from contrail_train.inference.tables import write_submission

    written = write_submission(open_named(store), out, like)
    lacking = [f"no prediction: {record_id}, an empty mask is written" for record_id in written.missing]
    print_set_aside(*(lacking if like is not None else [f"no row: {line}" for line in written.set_aside]))
    if written.others:
        print_note(
            f"{len(written.others)} predicted records are not in {like}, such as {written.others[0]}; they have no row"
        )
    print(f"{out}: {written.records} records, {written.empty} of them empty")
    if written.missing or (like is None and written.set_aside):
        raise typer.Exit(ExitCode.SET_ASIDE)
