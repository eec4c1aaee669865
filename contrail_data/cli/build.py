"""The command `build-ash`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from contrail_data.cli import options
from contrail_data.cli.building import build_recipe
from contrail_data.cli.common import is_store, refuse_options
from contrail_data.errors import ContrailError, UsageError
from contrail_data.geo.areas import HOW_TO_STATE, Area, eastward
from contrail_data.sources.base import InputFormat
from contrail_data.store.schema import Codec, PixelDtype

Split = Annotated[
    str, typer.Option(help="Which split of the records to build. Other inputs are filed under this split.")
]
Format = Annotated[
    InputFormat,
    typer.Option(
        "--source",
        help="What lies there: ABI files, ash frames (*.npy), records, or TFRecords; auto takes what is found.",
    ),
]
SCAN_OPTIONS = ("time", "since", "until", "every", "at", "like", "pixel", "native", "before", "after", "tolerance")
ARCHIVE_OPTIONS = ("product", "quality")
LABEL_OPTIONS = ("labels", "label_area", "line_width")


def build_ash(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            help="A folder of records (train/, validation/, test/), ash frames or ABI files; a glob of ABI files; "
            "an archive by name (goes-east, goes-west, goes16 ...) or bucket (s3://noaa-goes16); TFRecords: a folder, "
            "a file, a glob or a URL (gs://goes_contrails_dataset/20250305/tfrecords).",
            metavar="SOURCE",
        ),
    ],
    out: options.Out,
    split: Split = "train",
    input_format: Format = InputFormat.AUTO,
    composite: Annotated[
        str,
        options.output(
            help="ash, ash_cira, ash_wide, bands, bands_diffs, or a .yaml file with a composite of your own; several "
            "joined by + give all of their channels."
        ),
    ] = "ash",
    dtype: Annotated[
        PixelDtype | None,
        options.output(
            help="Pixel type. uint8 is exact to 1/510 of a channel's range.",
            show_default="the composite's: float16 for ash_wide, else uint8",
        ),
    ] = None,
    codec: Annotated[Codec, options.output(help="Compression of the images.")] = Codec.NONE,
    size: Annotated[
        int,
        options.output(
            min=32, max=4096, help="Rows and columns of a sample, in pixels. Records of another size are resized."
        ),
    ] = 256,
    label_shift: Annotated[
        tuple[float, float] | None,
        options.output(
            help="Pixels (down, right) by which the labels are shifted against the image, in pixels of the source; "
            "--size scales them. OpenContrails: 0.5 0.5. Labels of --labels are drawn that far off the image.",
            show_default="0.5 0.5, with --labels 0 0",
        ),
    ] = None,
    frames: Annotated[
        str | None,
        options.output(
            help="Frames of each record to keep, relative to the labelled one, such as -2,-1,0,1: 0 and its "
            "neighbours, without a gap.",
            metavar="OFFSETS",
            show_default="all",
        ),
    ] = None,
    overwrite: options.Overwrite = False,
    workers: options.Workers = options.CORES,
    scheduler: options.Scheduler = "threads",
    strict: options.Strict = False,
    time: Annotated[
        list[datetime] | None,
        options.scan_time(
            help="Time of a sample's reference frame, UTC; repeatable.", show_default="every --every minutes"
        ),
    ] = None,
    since: Annotated[datetime | None, options.scan_time(help="Time of the first scan, UTC.")] = None,
    until: Annotated[datetime | None, options.scan_time(help="Time of the last scan, UTC.")] = None,
    every: Annotated[
        int, options.scans(min=1, max=10_080, help="Minutes between samples, if no --time is given.")
    ] = 20,
    at: Annotated[
        list[str] | None,
        options.scans(
            help="Centre of a tile in degrees; repeatable.",
            metavar="LATITUDE,LONGITUDE",
            show_default="the site lattice of OpenContrails",
        ),
    ] = None,
    like: Annotated[
        Path | None,
        options.scans(help="A metadata file such as train_metadata.json: cut the tiles, times and ids of its entries."),
    ] = None,
    pixel: Annotated[
        float | None,
        options.scans(
            min=100.0, max=20_000.0, help="Side of a tile's pixel in metres.", show_default="500 km / --size"
        ),
    ] = None,
    native: Annotated[
        bool, options.scans("--native", help="Cut windows of the satellite's own grid instead of resampling to UTM.")
    ] = False,
    before: Annotated[
        int, options.scans(min=0, max=7, help="Frames before the reference frame, 10 minutes apart.")
    ] = 4,
    after: Annotated[int, options.scans(min=0, max=7, help="Frames after the reference frame, 10 minutes apart.")] = 3,
    tolerance: Annotated[
        float,
        options.scans(min=0.0, max=720.0, help="Maximum time between a frame and the start of its scan, in minutes."),
    ] = 5.0,
    product: options.Product = "L1b-RadF",
    reader: options.SatpyReader = None,
    quality: Annotated[
        str, options.scans(help="ABI data quality flags of pixels to accept, from 0 (good) to 4, comma-separated.")
    ] = "0,1",
    labels: Annotated[
        list[Path] | None,
        options.labels(
            parser=options.local_path,
            metavar="FILE",
            help="Contrails drawn on the scans, each with a time: polygons or lines (.geojson, also as predict-scans "
            "writes it; .gpkg), or masks (.tif, .nc); repeatable.",
        ),
    ] = None,
    label_area: Annotated[
        str | None,
        options.labels(
            metavar="scan|AREA",
            help="What was looked at for labels: scan (all of each labelled scan), or SOUTH,WEST,NORTH,EAST in "
            "degrees, WEST above EAST across 180 degrees. Only there, a tile without labels has no contrail.",
            show_default="polygons with the property area=true, and where masks are not missing",
        ),
    ] = None,
    line_width: Annotated[
        str | None,
        options.labels(
            help="Width of lines without a property width_km: 4km, or 2px in pixels of a tile.", show_default="4km"
        ),
    ] = None,
) -> None:
    """Build a store from raw satellite bands.

    The options make a recipe, which the store holds: `recipe STORE` prints it, and `build` builds by it.

    Bad records are reported, one line each, and set aside; the rest is built, and the exit code is 3. An interrupted
    build continues when the same command is run again, to the same bytes.
    """
    from contrail_data.composites import get_composite
    from contrail_data.scans.abi_files import is_archive
    from contrail_data.scans.find import check_scans
    from contrail_data.sources.recognise import find_format
    from contrail_data.storage.place import place_of

    channels = get_composite(composite)
    if "://" in source or not is_archive(source):
        source = place_of(source).url
        if is_store(source):
            raise UsageError(f"{source}: is a store already; subset, merge and append make new stores of it")
    if reader is not None:
        refuse_options(context, ("input_format", "since", "until", *ARCHIVE_OPTIONS), "beside --reader")
    else:
        input_format = find_format(source, split, input_format)
    described: dict[str, Any] = {"path": source, "split": split}
    if reader is None and input_format is not InputFormat.ABI:
        refuse_options(context, (*SCAN_OPTIONS, *ARCHIVE_OPTIONS, *LABEL_OPTIONS), f"on {input_format.value}")
        described |= {"kind": input_format.value}
        if input_format is InputFormat.FRAMES:
            refuse_options(context, ["frames"], "on ash frames, each a sample of one frame")
        else:
            described |= {"frames": None if frames is None else _parse_frames(frames)}
    else:
        refuse_options(context, ["frames"], "on scans, of which --before and --after choose frames")
        if not is_archive(source):
            refuse_options(context, ["product"], "on local files; name them with a glob")
        if like is not None:
            refuse_options(context, ("time", "every", "at", "pixel", "native"), "beside --like")
        if time:
            refuse_options(context, ["every"], "beside --time")
        if native:
            refuse_options(context, ["pixel"], "beside --native")
        if labels:
            refuse_options(context, ["every"], "beside --labels, which has the times")
        else:
            refuse_options(context, LABEL_OPTIONS, "without --labels")
        described |= {
            "time": time or [],
            "every": every,
            "at": [_parse_place(text) for text in at or ()],
            "like": None if like is None else str(like),
            "pixel": pixel,
            "native": native,
            "before": before,
            "after": after,
            "tolerance": tolerance,
            "labels": [str(path) for path in labels or ()],
            "label_area": label_area if label_area in (None, "scan") else _parse_area(label_area),
            "line_width": line_width,
        }
        if reader is not None:
            described |= {"kind": "satpy", "reader": reader}
        else:
            described |= {"kind": "abi", "since": since, "until": until, "product": product}
            described |= {"quality": _parse_quality(quality)}
        check_scans(source, reader, product, timed=bool(time or since or until or like or labels))

    from contrail_data.build.recipe import Recipe
    from contrail_data.settings.parse import validated

    tree = {"sources": [described], "composite": channels, "dtype": dtype, "codec": codec, "size": size}
    recipe = validated(Recipe, {**tree, "label_shift": label_shift}, source)
    build_recipe(context, recipe, out, workers=workers, scheduler=scheduler, strict=strict, overwrite=overwrite)


def _parse_place(text: str) -> tuple[float, float]:
    try:
        latitude, longitude = (float(part) for part in text.split(","))
        if not (abs(latitude) <= 90 and abs(longitude) <= 360):  # NaN fails too
            raise ValueError
    except ValueError:
        raise ContrailError(
            f"--at {text!r}: not a place; give LATITUDE,LONGITUDE in degrees, as in 33.6,-84.4"
        ) from None
    return latitude, longitude


def _parse_area(text: str | None) -> Area:
    try:
        south, west, north, east = (float(part) for part in (text or "").split(","))
        eastward((south, west, north, east))
    except ValueError:
        remedy = f"give scan, or SOUTH,WEST,NORTH,EAST {HOW_TO_STATE}"
        raise UsageError(f"--label-area {text!r}: not an area; {remedy}") from None
    return south, west, north, east


def _parse_frames(text: str) -> list[int]:
    from contrail_data.sources.kept_frames import check_frames

    try:
        return list(check_frames([int(part) for part in text.split(",")]))
    except ValueError as error:
        reason = str(error).removeprefix("frames: ")
        reason = reason if "; " in reason else "not a list of offsets; give for example -2,-1,0,1"
        raise UsageError(f"--frames {text!r}: {reason}") from None


def _parse_quality(text: str) -> list[int]:
    flags = [part.strip() for part in text.split(",")]
    if not set(flags) <= set("01234"):
        raise ContrailError(f"--quality {text!r}: not a list of flags; give flags from 0 to 4, as in 0,1")
    return [int(flag) for flag in flags]
