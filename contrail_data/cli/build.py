"""MISSING DOCSTRING."""

from __future__ import annotations

import sys
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from contrail_data.cli import common as command
from contrail_data.errors import ContrailError
from contrail_data.store.schema import Codec, PixelDtype

if TYPE_CHECKING:
    from numpy import datetime64

    from contrail_data.build.build import Built

from contrail_data.cli.common import CORES, Out, Overwrite, Store, Workers

SCENES = "Scans of a satellite"
Scheduler = Annotated[
    str, typer.Option(help="threads, processes, or tcp://host:8786 of a dask cluster that sees the same files.")
]


class Label(StrEnum):
    positive = "positive"
    negative = "negative"
    none = "none"


class SourceKind(StrEnum):
    auto = "auto"
    records = "records"
    frames = "frames"
    abi = "abi"


def synth(
    out: Annotated[Path, typer.Argument(help="Folder to write the records into.")],
    records: Annotated[int, typer.Option(min=2, help="How many, train and validation together.")] = 400,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    validation: Annotated[float, typer.Option(min=0.0, max=1.0, help="Fraction that becomes validation.")] = 0.2,
    size: Annotated[int, typer.Option(min=32, max=2048, help="Rows and columns.")] = 256,
    bands: Annotated[str, typer.Option(help="ABI bands, comma-separated: 8 to 16.")] = "11,14,15",
    label_shift: Annotated[
        tuple[float, float], typer.Option(help="Pixels (down, right) that labels lie off the image; as the dataset's.")
    ] = (0.5, 0.5),
    workers: Annotated[int, typer.Option(min=1)] = CORES,
) -> None:
    """Write synthetic records in the OpenContrails layout: the embedded default data.

    They are made up (physically sensible, deterministic by seed), for trying things out and for tests; a score
    reached on them says nothing about real contrails.
    """
    from contrail_data.progress import progress
    from contrail_data.synthetic.records import write_records

    wanted = _bands(bands)
    with progress("synth", records, unit="records") as advance:
        counts = write_records(
            out,
            records,
            seed=seed,
            validation_fraction=validation,
            size=size,
            bands=wanted,
            label_shift=label_shift,
            on_record=lambda _: advance(1),
            workers=workers,
        )
    print(f"{out}: synthetic records, {', '.join(f'{n} {split}' for split, n in counts.items())}")


def synth_scans(
    out: Annotated[Path, typer.Argument(help="Folder to write the files into.")],
    start: Annotated[datetime, typer.Option(formats=command.TIMES, help="Of the first scan, UTC.")] = datetime(
        2024, 3, 1, 12
    ),
    scans: Annotated[int, typer.Option(min=1, max=8, help="How many, 10 minutes apart.")] = 8,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    satellite: Annotated[int, typer.Option(min=16, max=19, help="GOES-16 to GOES-19.")] = 16,
    product: Annotated[str, typer.Option(help="L1b, CMIP or MCMIP.")] = "L1b",
    bands: Annotated[str, typer.Option(help="ABI bands, comma-separated: 8 to 16.")] = "11,14,15",
) -> None:
    """Write synthetic scans of a mesoscale sector, 500 x 500 pixels of 2 km, as the ABI files that NOAA publishes.

    Made up, deterministic by seed, for trying things out: for build-ash and for `contrail-train predict`.
    """
    from numpy import datetime64

    from contrail_data.synthetic.abi import write_abi

    wanted = _bands(bands)
    made = write_abi(out, datetime64(start), scans=scans, seed=seed, satellite=satellite, product=product, bands=wanted)
    print(f"{out}: {len(made)} synthetic files of {scans} scans")


def build_ash(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder of records (train/, validation/, test/), of ash frames, or of ABI files; a glob of these; an "
            "archive (s3://noaa-goes16) or goes-east, goes-west, goes16 ... by time."
        ),
    ],
    out: Out,
    split: Annotated[str, typer.Option(help="Which split of the records; what others are filed as.")] = "train",
    composite: Annotated[
        str, typer.Option(help="ash, ash_cira, ash_wide, bands, bands_diffs or a .yaml file.")
    ] = "ash",
    kind: Annotated[
        SourceKind, typer.Option("--source", help="auto: frames where *.npy, abi where OR_ABI-*.nc lie in the folder.")
    ] = SourceKind.auto,
    dtype: Annotated[
        PixelDtype, typer.Option(help="uint8 errs by at most 1/510 of a channel's range.")
    ] = PixelDtype.UINT8,
    codec: Annotated[Codec, typer.Option(help="Compression of the images.")] = Codec.NONE,
    size: Annotated[int, typer.Option(min=32, max=4096, help="Rows and columns; other sizes are resized.")] = 256,
    label_shift: Annotated[
        tuple[float, float],
        typer.Option(help="Pixels (down, right) that labels lie off the image; OpenContrails: 0.5 0.5."),
    ] = (0.5, 0.5),
    workers: Workers = CORES,
    scheduler: Scheduler = "threads",
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first bad record.")] = False,
    overwrite: Overwrite = False,
    time: Annotated[
        list[datetime] | None,
        typer.Option(formats=command.TIMES, help="UTC, of the frame in question.", rich_help_panel=SCENES),
    ] = None,
    since: Annotated[
        datetime | None, typer.Option(formats=command.TIMES, help="First scan.", rich_help_panel=SCENES)
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(formats=command.TIMES, help="Last scan.", rich_help_panel=SCENES)
    ] = None,
    every: Annotated[
        int, typer.Option(min=1, help="Minutes between samples where no --time is given.", rich_help_panel=SCENES)
    ] = 20,
    at: Annotated[
        list[str] | None,
        typer.Option(
            help="LATITUDE,LONGITUDE of a tile's centre; several times. None: the OpenContrails site lattice.",
            rich_help_panel=SCENES,
        ),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(help="train_metadata.json or such: tiles, times and ids of its entries.", rich_help_panel=SCENES),
    ] = None,
    pixel: Annotated[
        float | None,
        typer.Option(
            min=100.0, help="Metres of a tile's pixel; none: --size of them are 500 km.", rich_help_panel=SCENES
        ),
    ] = None,
    native: Annotated[
        bool, typer.Option("--native", help="Windows of the fixed grid, not resampled.", rich_help_panel=SCENES)
    ] = False,
    before: Annotated[
        int, typer.Option(min=0, max=7, help="Frames before, 10 minutes apart.", rich_help_panel=SCENES)
    ] = 4,
    after: Annotated[int, typer.Option(min=0, max=7, help="Frames after.", rich_help_panel=SCENES)] = 3,
    tolerance: Annotated[
        float, typer.Option(min=0.0, help="Minutes that a scan may start off its frame.", rich_help_panel=SCENES)
    ] = 5.0,
    product: Annotated[
        str, typer.Option(help="Of an archive: L1b-RadF, L1b-RadC, L2-CMIPF, L2-MCMIPC ...", rich_help_panel=SCENES)
    ] = "L1b-RadF",
    reader: Annotated[
        str | None,
        typer.Option(
            help="Read other imagers' files (Himawari, GK-2A) by this satpy reader, or auto; needs the extra satpy.",
            rich_help_panel=SCENES,
        ),
    ] = None,
    quality: Annotated[
        str, typer.Option(help="Data quality flags that are taken: 0 good ... 4.", rich_help_panel=SCENES)
    ] = "0,1",
) -> None:
    """Build a composite store from raw bands. Interrupted, the same command finishes it to the same bytes.

    Bad records are told one line each and set aside; the rest is built, and the exit code is 1.
    """
    from contrail_data.build.build import build
    from contrail_data.composites import get_composite
    from contrail_data.sources.open import is_abi, open_source
    from contrail_data.store.settings import StoreSettings

    recipe = get_composite(composite)
    if reader is not None or kind is SourceKind.abi or (kind is SourceKind.auto and is_abi(source)):
        from numpy import datetime64

        from contrail_data.sources.records import metadata_entries
        from contrail_data.sources.scans import Wanted, open_scan_source

        wanted = Wanted(
            [datetime64(t) for t in time or ()],
            every,
            [_place(text) for text in at or ()],
            metadata_entries(like) if like is not None else (),
            size,
            pixel,
            native,
            before,
            after,
            tolerance,
        )
        span = [None if t is None else datetime64(t) for t in (since, until)]
        records = open_scan_source(source, wanted, recipe, split, span[0], span[1], product, _flags(quality), reader)
    else:
        records = open_source(Path(source), split, recipe, kind.value)
    if records.note:
        print(f"note: {records.note}", file=sys.stderr)
    settings = StoreSettings(recipe, dtype, codec, size, label_shift)
    _tell(
        build(
            records,
            settings,
            out,
            workers=workers,
            scheduler=scheduler,
            strict=strict,
            overwrite=overwrite,
            command=command.line(),
        ),
        out,
    )


def _bands(text: str) -> list[int]:
    try:
        return [int(band) for band in text.split(",")]
    except ValueError:
        raise ContrailError(f"--bands {text!r}: not numbers: give for example 11,14,15") from None


def _place(text: str) -> tuple[float, float]:
    try:
        latitude, longitude = (float(part) for part in text.split(","))
    except ValueError:
        raise ContrailError(
            f"--at {text!r}: is no place: give LATITUDE,LONGITUDE in degrees, as in 33.6,-84.4"
        ) from None
    return latitude, longitude


def _flags(text: str) -> list[int]:
    flags = [int(part) if part.strip().isdecimal() else -1 for part in text.split(",")]
    if not set(flags) <= {0, 1, 2, 3, 4}:
        raise ContrailError(f"--quality {text!r}: give flags from 0 to 4, as in 0,1")
    return flags


def _tell(made: Built, out: str) -> None:
    for line in made.set_aside:
        print(f"set aside: {line}", file=sys.stderr)
    before = f", {made.resumed} of them found finished" if made.resumed else ""
    print(f"{out}: {made.samples} samples{before}, {len(made.set_aside)} set aside, {made.digest}")
    if made.was_there:
        print("note: the store was there already; --overwrite builds it anew, if records changed", file=sys.stderr)
    if made.set_aside:
        raise typer.Exit(1)


def append(
    store: Store,
    source: Annotated[Path, typer.Argument(help="Folder of records or ash frames, as for build-ash.")],
    out: Out,
    split: Annotated[str, typer.Option(help="Which split of the records.")] = "train",
    kind: Annotated[SourceKind, typer.Option("--source", help="auto: frames where *.npy lie in the folder.")] = (
        SourceKind.auto
    ),
    workers: Workers = CORES,
    scheduler: Scheduler = "threads",
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first bad record.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Make a new version of a store that holds new records too. The old one stays as it is.

    Settings are the old store's; records that it holds already are passed over. Whole old files are linked, not copied,
    where both stores lie on one disk, and copied within the service on object storage.
    """
    from contrail_data.build.build import build
    from contrail_data.catalog.catalog import open_named
    from contrail_data.sources.open import open_source
    from contrail_data.sources.select import settings_of
    from contrail_data.sources.stores import appended

    parent = open_named(store)
    settings = settings_of(parent)
    records = appended(parent, open_source(source, split, settings.composite, kind.value))
    _tell(
        build(
            records,
            settings,
            out,
            workers=workers,
            scheduler=scheduler,
            strict=strict,
            overwrite=overwrite,
            command=command.line(),
        ),
        out,
    )


def subset(
    store: Store,
    out: Out,
    records: Annotated[list[str] | None, typer.Option(help="Id, or a file with one a line; repeatable.")] = None,
    without: Annotated[list[str] | None, typer.Option(help="The same, of records to leave out.")] = None,
    since: Annotated[str | None, typer.Option(help="From this time on, UTC: 2019-06-01 or 2019-06-01T12:00.")] = None,
    until: Annotated[str | None, typer.Option(help="Before this time, UTC.")] = None,
    area: Annotated[
        tuple[float, float, float, float] | None, typer.Option(help="South, west, north, east of the centres, degrees.")
    ] = None,
    label: Annotated[Label | None, typer.Option(help="By what humans marked; none: without a human label.")] = None,
    split: Annotated[str | None, typer.Option(help="Samples of this split.")] = None,
    workers: Workers = CORES,
    overwrite: Overwrite = False,
) -> None:
    """Write chosen samples of a store as a store of their own. Conditions add up; statistics are taken anew."""
    from contrail_data.build.build import build
    from contrail_data.catalog.catalog import open_named
    from contrail_data.sources.select import choose, settings_of
    from contrail_data.sources.stores import from_stores

    parent = open_named(store)
    settings = settings_of(parent)
    chosen = choose(
        parent,
        record_ids=_ids(records) if records else None,
        without=_ids(without or []),
        since=_utc("--since", since),
        until=_utc("--until", until),
        area=area,
        label=None if label is None else label.value,
        split=split,
    )
    source = from_stores([(parent, chosen)])
    _tell(build(source, settings, out, workers=workers, overwrite=overwrite, command=command.line()), out)


def merge(
    stores: Annotated[list[str], typer.Argument(help="Stores: paths, URLs or catalog names.", metavar="STORE...")],
    out: Out,
    workers: Workers = CORES,
    overwrite: Overwrite = False,
) -> None:
    """Write the samples of several stores of one kind as one store. A record that comes twice must be the same."""
    from contrail_data.build.build import build
    from contrail_data.catalog.catalog import open_named
    from contrail_data.sources.select import settings_of, without_repeats
    from contrail_data.sources.stores import from_stores

    opened = [open_named(name) for name in stores]
    source = from_stores(without_repeats(opened))
    settings = settings_of(opened[0])
    _tell(build(source, settings, out, workers=workers, overwrite=overwrite, command=command.line()), out)


def _ids(given: list[str]) -> list[str]:
    found = []
    for item in given:
        if Path(item).is_file():
            found += [line.strip() for line in Path(item).read_text().splitlines() if line.strip()]
        else:
            found.append(item)
    return found


def _utc(option: str, text: str | None) -> datetime64 | None:
    import numpy as np

    try:
        return None if text is None else np.datetime64(text.removesuffix("Z"), "ns")
    except ValueError:
        raise ContrailError(f"{option} {text!r}: no time: write 2019-06-01 or 2019-06-01T12:00, UTC") from None
