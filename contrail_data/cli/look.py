"""Commands that show what is in a store: `inspect`, `stats`, `report`, `preview` and `diff`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from contrail_data.cli import options
from contrail_data.cli.common import print_fields, print_table, refuse_options
from contrail_data.errors import ContrailError, ExitCode
from contrail_data.reports.choices import Sheet, Theme


def inspect(store: options.Store, as_json: options.AsJson = False) -> None:
    """Print a summary of a store: samples, labels, times, places and origin."""
    from contrail_data.catalog.catalog import open_named
    from contrail_data.reports import summary

    summarised = summary.summarise(open_named(store))
    if as_json:
        print(json.dumps(summary.as_json(summarised), indent=1, allow_nan=False))
    else:
        print_fields(summary.as_text(summarised))


def stats(stores: options.Stores) -> None:
    """Print the channel statistics of the train split, as stored.

    For several stores, the statistics of all of them together are printed as well.
    """
    from contrail_data.catalog.catalog import open_named
    from contrail_data.store.stats import combined

    statistics = {}
    for name in stores:
        if (own := open_named(name).attrs.get("statistics")) is None:
            raise ContrailError(f"{name}: has no statistics; they are computed from train samples, and it holds none")
        statistics[name] = own
    if len(statistics) > 1:
        statistics["together"] = combined(list(statistics.values()))
    header = ["channel", "mean", "std", "minimum", "maximum", "at 0", "at 1", "mean x 255", "std x 255"]
    for name, s in statistics.items():
        rows = [
            [
                channel,
                *(f"{s[key][c]:.6f}" for key in ("mean", "std", "minimum", "maximum")),
                *(f"{s[key][c]:.2%}" for key in ("at_low", "at_high")),
                *(f"{s[key][c] * 255:.3f}" for key in ("mean", "std")),
            ]
            for c, channel in enumerate(s["channel"])
        ]
        print_table(f"{name}: {s['samples']} train samples, {s['count']:,} pixels per channel", header, rows)


def report(
    store: options.Store,
    out: Annotated[Path, options.local_output("-o", "--out", help="The HTML file to write.")] = Path("report.html"),
    overwrite: options.OverwriteFile = False,
) -> None:
    """Write an HTML report about a store.

    One self-contained page: labels, places, times, channels, agreement of the annotators, examples.
    """
    from contrail_data.storage.files import check_new, write_atomically

    check_new(out, overwrite, ".html")

    from contrail_data.catalog.catalog import open_named
    from contrail_data.reports.store_page import store_page

    write_atomically(out, [store_page(open_named(store)).encode()])
    print(out)


def preview(
    context: typer.Context,
    store: options.Store,
    record: Annotated[list[str] | None, options.selection(help="Record id; repeatable.")] = None,
    sheet: Annotated[
        list[Sheet] | None,
        options.selection(
            help="Contact sheet: positives, disagreed, brightest or random; repeatable.",
            metavar="SHEET",
            show_default="positives and random, unless --record is given",
        ),
    ] = None,
    count: Annotated[int, options.selection(min=1, max=500, help="Records on a contact sheet.")] = 24,
    seed: Annotated[int, options.selection(min=0, max=2**32 - 1, help="Seed of the random sheet.")] = 0,
    prediction: Annotated[
        str | None,
        typer.Option(
            help="Predictions or pseudo-labels of the store, to outline.", parser=options.store_address, metavar="STORE"
        ),
    ] = None,
    flow: Annotated[
        bool,
        typer.Option("--flow", help="With --record: draw how the imagery moves to and from the labelled frame."),
    ] = False,
    out: Annotated[Path, options.local_output("-o", "--out", help="Folder for the pictures.")] = Path("preview"),
    theme: options.PictureTheme = Theme.DARK,
) -> None:
    """Write pictures of a store: contact sheets, or a sheet and an animated GIF of single records.

    Labels are outlined in yellow, predictions in magenta. Pictures go into a subfolder named after the store and its
    digest, so that pictures of different stores do not overwrite each other.
    """
    from contrail_data.storage.files import check_folder

    if record and not sheet:
        refuse_options(context, ["count"], "beside --record without --sheet")
    if (record or sheet) and Sheet.RANDOM not in (sheet or []):
        refuse_options(context, ["seed"], "without --sheet random")
    if not record:
        refuse_options(context, ["flow"], "without --record")
    check_folder(out)

    from contrail_data.catalog.catalog import open_named
    from contrail_data.reports import preview as pictures

    opened = open_named(store)
    predicted = None if prediction is None else open_named(prediction)
    for record_id in record or []:
        for path in pictures.preview(opened, record_id, out, predicted, theme, flow=flow):
            print(path)
    for name in sheet or ([] if record else pictures.default_sheets(opened)):
        sheet_path = pictures.contact_sheet(
            opened, name, out, count=count, seed=seed, prediction=predicted, theme=theme
        )
        print(sheet_path)


def diff(
    a: Annotated[str, options.store_argument(help="A store.", metavar="A")],
    b: Annotated[str, options.store_argument(help="Another store.", metavar="B")],
    as_json: options.AsJson = False,
) -> None:
    """Print the differences between two stores.

    Settings, records, pixels, labels and statistics are compared as sealed. The exit code is 4 if they differ.
    """
    from dataclasses import asdict

    from contrail_data.catalog.catalog import open_named
    from contrail_data.reports.diff import diff as compare
    from contrail_data.reports.diff import diff_text

    differences = compare(open_named(a), open_named(b))
    if as_json:
        print(json.dumps(asdict(differences), indent=1))
    else:
        print(diff_text(differences, a, b), end="")
    if differences:
        raise typer.Exit(ExitCode.FOUND)
