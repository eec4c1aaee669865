"""`contrail-data`: raw bands to stores. Commands parse, call and print; nothing else."""

from __future__ import annotations

import os
import sys
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from contrail_data import catalog_cli, command, splits_cli
from contrail_data.errors import ContrailError

if TYPE_CHECKING:
    from numpy import datetime64

    from contrail_data.build import Built

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Raw GOES bands to ash-RGB zarr stores that a team shares.",
)
app.add_typer(catalog_cli.app, name="catalog")
app.command()(splits_cli.splits)
app.command()(splits_cli.audit)

CORES = os.cpu_count() or 1
SCENES = "Scans of a satellite"

Store = Annotated[str, typer.Argument(help="A store: path, URL or name in data_catalog.yaml.", metavar="STORE")]
Out = Annotated[str, typer.Option("-o", "--out", help="The store to write: path or URL (s3://...).")]
Workers = Annotated[int, typer.Option(min=1, help="How many, of threads or processes.")]
Scheduler = Annotated[
    str, typer.Option(help="threads, processes, or tcp://host:8786 of a dask cluster that sees the same files.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the store (or unfinished build) at -o.")]


class Dtype(StrEnum):
    uint8 = "uint8"
    float16 = "float16"
    float32 = "float32"


class Codec(StrEnum):
    none = "none"
    lz4 = "lz4"
    zstd = "zstd"


class Label(StrEnum):
    positive = "positive"
    negative = "negative"
    none = "none"


class SourceKind(StrEnum):
    auto = "auto"
    records = "records"
    frames = "frames"
    abi = "abi"


class Sheet(StrEnum):
    positives = "positives"
    disagreed = "disagreed"
    brightest = "brightest"
    random = "random"


@app.command()
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
    from contrail_data.sources.synthetic import write_records

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


@app.command()
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

    from contrail_data.sources.synthetic_abi import write_abi

    wanted = _bands(bands)
    made = write_abi(out, datetime64(start), scans=scans, seed=seed, satellite=satellite, product=product, bands=wanted)
    print(f"{out}: {len(made)} synthetic files of {scans} scans")


@app.command()
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
    dtype: Annotated[Dtype, typer.Option(help="uint8 errs by at most 1/510 of a channel's range.")] = Dtype.uint8,
    codec: Annotated[Codec, typer.Option(help="Compression of the images.")] = Codec.none,
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
    from contrail_data.build import Settings, build
    from contrail_data.composites import get_composite
    from contrail_data.sources import is_abi, open_source

    recipe = get_composite(composite)
    if reader is not None or kind is SourceKind.abi or (kind is SourceKind.auto and is_abi(source)):
        from numpy import datetime64

        from contrail_data.sources.records import metadata_entries
        from contrail_data.sources.scenes import Wanted, open_scan_source

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
    settings = Settings(recipe, dtype.value, codec.value, size, label_shift)
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


@app.command()
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
    from contrail_data.build import build
    from contrail_data.catalog import open_named
    from contrail_data.sources import open_source
    from contrail_data.sources.stores import appended, settings_of

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


@app.command()
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
    from contrail_data.build import build
    from contrail_data.catalog import open_named
    from contrail_data.sources.stores import choose, from_stores, settings_of

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


@app.command()
def merge(
    stores: Annotated[list[str], typer.Argument(help="Stores: paths, URLs or catalog names.", metavar="STORE...")],
    out: Out,
    workers: Workers = CORES,
    overwrite: Overwrite = False,
) -> None:
    """Write the samples of several stores of one kind as one store. A record that comes twice must be the same."""
    from contrail_data.build import build
    from contrail_data.catalog import open_named
    from contrail_data.sources.stores import from_stores, settings_of, without_repeats

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


@app.command()
def diff(
    a: Annotated[str, typer.Argument(help="A store.", metavar="A")],
    b: Annotated[str, typer.Argument(help="Another.", metavar="B")],
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Tell what differs between two stores as sealed: settings, records, pixels, labels, statistics; exit code 1."""
    import json

    from contrail_data.catalog import open_named
    from contrail_data.diff import diff as compare
    from contrail_data.diff import lines

    found = compare(open_named(a), open_named(b))
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        for line in lines(found, a, b):
            print(line)
    if any(found.values()):
        raise typer.Exit(1)


@app.command()
def stats(
    stores: Annotated[list[str], typer.Argument(help="Stores: paths, URLs or catalog names.", metavar="STORE...")],
) -> None:
    """Print the statistics per channel stored with train data; of several stores, also taken together."""
    from contrail_data.catalog import open_named
    from contrail_data.stats import combined

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


@app.command()
def inspect(
    store: Store,
    as_json: Annotated[bool, typer.Option("--json", help="The same facts for machines.")] = False,
) -> None:
    """Tell what is in a store: samples, labels, when, where, from what."""
    from contrail_data.catalog import open_named
    from contrail_data.inspect import facts, summary

    found = facts(open_named(store))
    if as_json:
        import json

        print(json.dumps(found, indent=1, allow_nan=False))
    else:
        command.facts(summary(found))


@app.command()
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
    from contrail_data import preview as pictures
    from contrail_data.catalog import open_named

    opened = open_named(store)
    predicted = None if prediction is None else open_named(prediction)
    for record_id in record or []:
        for path in pictures.preview(opened, record_id, out, predicted):
            print(path)
    for name in sheet or ([] if record else pictures.default_sheets(opened)):
        print(pictures.contact_sheet(opened, str(name), out, count=count, seed=seed, prediction=predicted))


@app.command()
def report(
    store: Store,
    out: Annotated[Path, typer.Option("-o", "--out", help="The HTML file to write.")] = Path("report.html"),
    overwrite: command.OverwriteFile = False,
) -> None:
    """Write one self-contained HTML page on a store: labels, places, times, channels, agreement, examples."""
    from contrail_data.catalog import open_named
    from contrail_data.places import check_new
    from contrail_data.report import write_report

    check_new(out, overwrite)
    write_report(open_named(store), out)
    print(out)


@app.command()
def verify(
    store: Annotated[str, typer.Argument(help="A store: path, URL or catalog name.", metavar="STORE")],
    repair_from: Annotated[
        str | None, typer.Option(help="Restore what is damaged from a copy of the store, or from the raw data.")
    ] = None,
    workers: Workers = CORES,
) -> None:
    """Check every file of a store against its checksum, the whole against its digest, statistics and counts."""
    from contrail_data.catalog import find_place
    from contrail_data.places import place_of
    from contrail_data.store import open_store
    from contrail_data.verify import verify as find_damage

    place = find_place(store)
    damage = find_damage(place)
    for item in damage:
        print(f"{place}/{item.path}: {item.reason}")
    if damage and repair_from is not None:
        from contrail_data import sharing

        raw = Path(repair_from)
        if "://" not in repair_from and raw.is_dir() and not (raw / "zarr.json").exists():
            restored = sharing.repair_from_raw(place, damage, raw, workers)
        else:
            restored = sharing.repair(place, damage, place_of(repair_from))
        print(f"{place}: restored {', '.join(restored) or 'nothing'}")
        damage = find_damage(place)
        for item in damage:
            print(f"{place}/{item.path}: {item.reason}, still")
    if damage:
        remedy = "" if repair_from else ": restore with --repair-from COPY or RAW"
        raise ContrailError(f"{place}: {len(damage)} of its files {'are' if len(damage) > 1 else 'is'} damaged{remedy}")
    print(f"{place}: whole, {open_store(place, times=False).attrs['digest']}")


@app.command()
def pull(
    store: Store,
    out: Annotated[str | None, typer.Option("-o", "--out", help="Where to; default: the cache, found by name.")] = None,
) -> None:
    """Copy a store here, verified. Interrupted, it goes on. Commands then use the copy in the cache by themselves."""
    from contrail_data.catalog import open_named
    from contrail_data.places import cache_place, place_of
    from contrail_data.sharing import copy_store

    opened = open_named(store, copies=False)
    source, digest = place_of(opened.attrs["path"]), opened.attrs["digest"]
    target = cache_place(digest) if out is None else place_of(out)
    before = copy_store(source, target)
    print(f"{target}: whole, {digest}" + (f", {before} files were there" if before else ""))


@app.command()
def push(
    store: Store,
    to: Annotated[str, typer.Argument(help="Where to: URL (s3://...) or folder of the new copy.", metavar="TO")],
    name: Annotated[str | None, typer.Option(help="Enter the copy under this name in the catalog.")] = None,
    text: Annotated[str | None, typer.Option(help="What the catalog should say of it.")] = None,
) -> None:
    """Copy a store to where the team finds it, verified, and enter it in the catalog. Interrupted, it goes on."""
    from contrail_data.catalog import CATALOG, add_entry, check_name, find_catalog, open_named
    from contrail_data.places import place_of
    from contrail_data.sharing import copy_store

    if name is not None:
        check_name(name)
    opened, target = open_named(store, copies=False), place_of(to)
    copy_store(place_of(opened.attrs["path"]), target)
    print(f"{target}: whole, {opened.attrs['digest']}")
    if name is not None:
        file = find_catalog() or Path(CATALOG)
        print(f"{file}: {name}@{add_entry(file, name, target.url, opened, text)}")


@app.command()
def pseudo_label(
    store: Store,
    model: Annotated[Path, typer.Option(help="Directory of a run or pipeline, or a file that export wrote.")],
    out: Out,
    frames: Annotated[str, typer.Option(help=command.FRAMES)] = "all",
    tta: command.Tta = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples predicted at once.")] = 4,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Label frames of a store with a model; a frame that a human labelled keeps that label.

    Writes probabilities and gated masks, so that a run can take them soft, in steps or as masks (data.pseudo.target),
    with confidence and agreement to choose by, into a store of its own that names its parent and the model by digest,
    and the records that the model was trained on.
    """
    from contrail_data.catalog import open_named
    from contrail_train.predict import load_predictor

    parent, wanted, line = open_named(store), command.frames(frames), command.line()
    label = load_predictor(model, device, tta).label
    digest, resumed = label(parent, out, "pseudo-labels", frames=wanted, batch=batch, overwrite=overwrite, command=line)
    before = f", {resumed} of them found finished" if resumed else ""
    print(f"{out}: {parent.sizes['sample']} samples{before}, {digest}")


@app.command()
def propagate(
    store: Store,
    out: Out,
    frames: Annotated[str, typer.Option(help="all, or offsets from the labelled one, such as -1,1.")] = "all",
    overwrite: Overwrite = False,
) -> None:
    """Carry the human label of each record to its other frames by optical flow: a second opinion on pseudo-labels.

    Writes a store of pseudo-labels that training takes as it takes a model's.
    """
    from contrail_data.catalog import open_named
    from contrail_data.flow import propagate as carry

    wanted = command.frames(frames)
    digest, resumed, count = carry(open_named(store), out, frames=wanted, overwrite=overwrite, command=command.line())
    before = f", {resumed} of them found finished" if resumed else ""
    print(f"{out}: {count} samples{before}, {digest}")


@app.command()
def compare_labels(
    a: Annotated[str, typer.Argument(help="Pseudo-labels or predictions.", metavar="A")],
    b: Annotated[str, typer.Argument(help="Others of the same store.", metavar="B")],
) -> None:
    """Tell how two stores of labels agree, by time from the labelled frame; frames that a human labelled are left out.

    `unmoved` is the agreement of B with the human label where it was drawn: what carrying it has to beat.
    """
    from contrail_data.catalog import open_named
    from contrail_data.flow import compared

    found = compared(open_named(a), open_named(b))
    rows = [
        [
            f"{one['offset']:+d}",
            *(f"{one[key]:,}" for key in ("frames", "a", "b")),
            *("" if one[key] is None else f"{one[key]:.3f}" for key in ("dice", "soft", "unmoved")),
        ]
        for one in found
    ]
    header = ["frame", "frames", "pixels of A", "pixels of B", "Dice", "soft Dice", "unmoved"]
    command.table(f"A {a}, B {b}", header, rows)


def main() -> None:
    command.run(app)
