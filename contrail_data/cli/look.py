"""MISSING DOCSTRING."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from contrail_data.cli import common as command
from contrail_data.cli.common import Store
from contrail_data.errors import ContrailError


class Sheet(StrEnum):
    positives = "positives"
    disagreed = "disagreed"
    brightest = "brightest"
    random = "random"


def diff(
    a: Annotated[str, typer.Argument(help="A store.", metavar="A")],
    b: Annotated[str, typer.Argument(help="Another.", metavar="B")],
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Tell what differs between two stores as sealed: settings, records, pixels, labels, statistics; exit code 1."""
    import json

    from contrail_data.catalog.catalog import open_named
    from contrail_data.reports.diff import diff as compare
    from contrail_data.reports.diff import lines

    found = compare(open_named(a), open_named(b))
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        for line in lines(found, a, b):
            print(line)
    if any(found.values()):
        raise typer.Exit(1)


def stats(
    stores: Annotated[list[str], typer.Argument(help="Stores: paths, URLs or catalog names.", metavar="STORE...")],
) -> None:
    """Print the statistics per channel stored with train data; of several stores, also taken together."""
    from contrail_data.catalog.catalog import open_named
    from contrail_data.store.stats import combined

    found = []
    for name in stores:
        statistics = open_named(name).attrs.get("statistics")
        if statistics is None:
            raise ContrailError(f"{name}: has no statistics: they are taken from train samples only, and it holds none")
        found.append((name, statistics))
    if len(found) > 1:
        found.append(("together", combined([s for _, s in found])))
    header = ["channel", "mean", "std", "minimum", "maximum", "at 0", "at 1", "mean x 255", "std x 255"]
    for name, s in found:
        rows = [
            [
                channel,
                *(f"{s[k][c]:.6f}" for k in ("mean", "std", "minimum", "maximum")),
                *(f"{s[k][c]:.2%}" for k in ("at_low", "at_high")),
                *(f"{s[k][c] * 255:.3f}" for k in ("mean", "std")),
            ]
            for c, channel in enumerate(s["channel"])
        ]
        command.table(f"{name}: {s['samples']} train samples, {s['count']:,} pixels a channel", header, rows)


def inspect(
    store: Store,
    as_json: Annotated[bool, typer.Option("--json", help="The same facts for machines.")] = False,
) -> None:
    """Tell what is in a store: samples, labels, when, where, from what."""
    from contrail_data.catalog.catalog import open_named
    from contrail_data.reports.summary import facts, summary

    found = facts(open_named(store))
    if as_json:
        import json

        print(json.dumps(found, indent=1, allow_nan=False))
    else:
        command.facts(summary(found))


def preview(
    store: Store,
    record: Annotated[list[str] | None, typer.Option(help="Record id; can be given several times.")] = None,
    sheet: Annotated[
        list[Sheet] | None,
        typer.Option(help="Contact sheet; several times. Without --record or --sheet: positives and random."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=500, help="Records on a contact sheet.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Of the random sheet.")] = 0,
    prediction: Annotated[str | None, typer.Option(help="Predictions or pseudo-labels to outline in cyan.")] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the pictures.")] = Path("preview"),
) -> None:
    """Write contact sheets, or a sheet and an animated GIF of single records: label outlined in yellow.

    Pictures go into a folder of the store's name and digest, so that stores do not overwrite each other's.
    """
    from contrail_data.catalog.catalog import open_named
    from contrail_data.reports import preview as pictures

    opened = open_named(store)
    predicted = None if prediction is None else open_named(prediction)
    for record_id in record or []:
        for path in pictures.preview(opened, record_id, out, predicted):
            print(path)
    for name in sheet or ([] if record else pictures.default_sheets(opened)):
        print(pictures.contact_sheet(opened, str(name), out, count=count, seed=seed, prediction=predicted))


def report(
    store: Store,
    out: Annotated[Path, typer.Option("-o", "--out", help="The HTML file to write.")] = Path("report.html"),
    overwrite: command.OverwriteFile = False,
) -> None:
    """Write one self-contained HTML page on a store: labels, places, times, channels, agreement, examples."""
    from contrail_data.catalog.catalog import open_named
    from contrail_data.reports.store_page import write_report
    from contrail_data.storage.files import check_new

    check_new(out, overwrite)
    write_report(open_named(store), out)
    print(out)
