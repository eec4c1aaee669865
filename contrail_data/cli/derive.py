"""Commands that write stores of the samples of other stores: `append`, `subset` and `merge`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from contrail_data.cli import options
from contrail_data.cli.build import Format, Split
from contrail_data.cli.building import build_source, refuse_workers
from contrail_data.sources.base import InputFormat, LabelFilter


def append(
    context: typer.Context,
    store: options.Samples,
    source: Annotated[
        Path,
        typer.Argument(
            parser=options.local_path,
            help="Folder of records, TFRecords or ash frames, as for build-ash.",
            metavar="SOURCE",
        ),
    ],
    out: options.Out,
    split: Split = "train",
    input_format: Format = InputFormat.AUTO,
    overwrite: options.Overwrite = False,
    workers: options.Workers = options.CORES,
    scheduler: options.Scheduler = "threads",
    strict: options.Strict = False,
) -> None:
    """Write a new version of a store with further records. The old store stays as it is.

    The settings are those of the old store, and records that it already holds are skipped. Complete files of the old
    store are hard-linked if both stores are on one disk, and copied within the service on object storage.
    """
    from contrail_data.sources.recognise import find_format

    refuse_workers(context, scheduler)
    input_format = find_format(str(source), split, input_format)

    from contrail_data.catalog.catalog import open_named
    from contrail_data.sources.open import open_source
    from contrail_data.sources.select import settings_of
    from contrail_data.sources.stores import appended

    parent = open_named(store)
    settings = settings_of(parent)
    records = appended(parent, open_source(source, split, settings.composite, input_format))
    build_source(records, settings, out, workers=workers, scheduler=scheduler, strict=strict, overwrite=overwrite)


def subset(
    store: options.Samples,
    out: options.Out,
    records: Annotated[
        list[str] | None, options.selection(help="Record id to take, or a file with one id per line; repeatable.")
    ] = None,
    without: Annotated[
        list[str] | None, options.selection(help="Record id to leave out, or a file with one id per line; repeatable.")
    ] = None,
    since: Annotated[
        datetime | None, options.time(help="Earliest time of the labelled frame, UTC.", rich_help_panel="Selection")
    ] = None,
    until: Annotated[
        datetime | None,
        options.time(help="The labelled frame must be before this time, UTC.", rich_help_panel="Selection"),
    ] = None,
    area: Annotated[
        tuple[float, float, float, float] | None,
        options.area(
            help="South, west, north and east limit of the tiles' centres, in degrees; west above east across 180 "
            "degrees.",
            rich_help_panel="Selection",
        ),
    ] = None,
    label: Annotated[
        LabelFilter | None,
        options.selection(help="positive: with a contrail; negative: without one; none: not labelled by a human."),
    ] = None,
    split: Annotated[str | None, options.selection(help="Samples of this split.")] = None,
    overwrite: options.Overwrite = False,
    workers: options.Workers = options.CORES,
) -> None:
    """Write the selected samples of a store as a new store.

    A sample must meet all conditions. The statistics are recomputed.
    """
    from contrail_data.catalog.catalog import open_named
    from contrail_data.sources.select import select_samples, settings_of
    from contrail_data.sources.stores import from_stores

    parent = open_named(store)
    settings = settings_of(parent)
    chosen = select_samples(
        parent,
        record_ids=_read_ids(records) if records else None,
        without=_read_ids(without or []),
        since=since,
        until=until,
        area=area,
        label=label,
        split=split,
    )
    build_source(from_stores([(parent, chosen)]), settings, out, workers=workers, overwrite=overwrite)


def merge(
    stores: options.SamplesOfStores,
    out: options.Out,
    overwrite: options.Overwrite = False,
    workers: options.Workers = options.CORES,
) -> None:
    """Write the samples of several stores of one kind as one store.

    A record that is in several stores must be the same in all of them.
    """
    from contrail_data.catalog.catalog import open_named
    from contrail_data.sources.select import select_distinct, settings_of
    from contrail_data.sources.stores import from_stores

    opened = [open_named(name) for name in stores]
    source = from_stores(select_distinct(opened))
    build_source(source, settings_of(opened[0]), out, workers=workers, overwrite=overwrite)


def _read_ids(values: list[str]) -> list[str]:
    """Record ids, given one by one or in files."""
    from contrail_data.storage.documents import read_text

    ids = []
    for value in values:
        lines = read_text(Path(value)).splitlines() if Path(value).is_file() else [value]
        ids += [line.strip() for line in lines if line.strip()]
    return ids
