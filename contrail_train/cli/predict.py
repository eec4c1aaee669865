"""Commands that predict, and that write a model as one file: `predict`, `predict-scans` and `export`."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from contrail_data.cli import options
from contrail_data.cli.common import (
    is_store,
    print_note,
    print_set_aside,
    print_written_store,
    refuse_options,
)
from contrail_data.errors import ContrailError, ExitCode, UsageError
from contrail_data.labels.predictor import FrameSelection
from contrail_data.process import share_cores
from contrail_data.reports.choices import Theme
from contrail_train.cli.common import Model, TrainedModel

SCENE_SUFFIXES = (".nc", ".tif", ".geojson", ".parquet", ".png", ".gif")


def _parent_address(text: str) -> str:
    """Parse the address of the store to predict; for scans, name the command that predicts them."""
    try:
        return options.samples_address(text)
    except ContrailError as error:
        from contrail_data.sources.base import InputFormat
        from contrail_data.sources.recognise import recognise

        holds_scans = False
        with suppress(ContrailError):  # nothing lies there
            holds_scans = "://" not in text and not is_store(text) and recognise(text, "train") is InputFormat.ABI
        if holds_scans:
            raise UsageError(f"{text}: holds satellite scans, not a store; use contrail-train predict-scans") from None
        raise ContrailError(f"{error}; for satellite scans, use contrail-train predict-scans") from None


def predict(
    context: typer.Context,
    run: Model,
    store: Annotated[str, typer.Argument(parser=_parent_address, help=options.STORE_HELP, metavar="STORE")],
    out: Annotated[
        str,
        options.output(
            "-o", "--out", help="The store of predictions to write: a path or a URL (s3://...); or a file NAME.csv."
        ),
    ],
    overwrite: Annotated[bool, options.output("--overwrite", help="Replace what exists at --out.")] = False,
    frames: options.Frames = "labelled",
    tta: options.Tta = None,
    batch: options.Batch = 8,
    device: options.Device = "auto",
    min_pixels: options.MinPixels = "1",
    hysteresis: options.Hysteresis = None,
    consistent: options.Consistent = None,
    fill_gaps: options.FillGaps = None,
    elongation: options.Elongation = None,
    instances: options.Instances = False,
) -> None:
    """Predict the samples of a store.

    Probabilities (as logits) and masks are written to a sealed store that names its parent. With --out NAME.csv, a run
    with model.record_head gives the probability that a record has any contrail.

    Neighbouring frames that --consistent and --fill-gaps look at are predicted as well.
    """
    from contrail_data.storage.files import check_new

    suffix = Path(out).suffix
    if suffix in SCENE_SUFFIXES:
        raise UsageError(f"{out}: {suffix} is for scans, see contrail-train predict-scans; write NAME.zarr or NAME.csv")
    if suffix == ".csv":
        refuse_options(context, (*options.CLEANING, "instances"), "on probabilities of records (.csv)")
    selection = FrameSelection.parse(frames)
    if suffix == ".csv":
        check_new(options.local_path(out), overwrite, ".csv")
    else:
        options.store_target(out)

    share_cores()

    from contrail_data.catalog.catalog import open_named
    from contrail_data.labels.write import write_labels
    from contrail_data.store.schema import Kind
    from contrail_train.config.model import Head
    from contrail_train.inference.tables import record_table
    from contrail_train.workflows.symmetries import load_predictor

    parent, model = open_named(store), load_predictor(run, device, tta)
    if suffix == ".csv":
        table = options.local_path(out)
        count = record_table(model.for_store(parent), parent, table, frames=selection, batch=batch)
        print(f"{table}: {count} frames")
        if model.head == Head.BOTH and not model.decision.gate:
            print_note("the column contrail is empty: this run has no gate, and its threshold is for pixels")
        return
    model = model.with_cleaning(min_pixels, hysteresis, consistent, fill_gaps, elongation)
    model = replace(model, instances=instances)
    labelled = write_labels(
        parent,
        model.labeller_for(parent),
        out,
        kind=Kind.PREDICTIONS,
        frames=selection,
        batch=batch,
        overwrite=overwrite,
    )
    print_written_store(out, labelled.samples, labelled.resumed, labelled.digest)


def predict_scans(
    context: typer.Context,
    run: Model,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SCANS",
            help="A folder or glob of ABI files, or of another imager with --reader, or an archive: goes-east, "
            "goes-west, goes16 to goes19, or a bucket (s3://noaa-goes16).",
        ),
    ],
    outs: Annotated[
        list[Path],
        options.local_output("-o", "--out", help="NAME.nc, .zarr, .tif, .geojson, .parquet, .png or .gif; repeatable."),
    ],
    overwrite: Annotated[bool, options.output("--overwrite", help="Replace what exists at --out.")] = False,
    tta: options.Tta = None,
    batch: options.Batch = 8,
    device: options.Device = "auto",
    time: Annotated[
        list[datetime] | None,
        options.scan_time(
            help="Time of a scan to predict, UTC; repeatable.",
            show_default="every scan that has the frames the model needs",
        ),
    ] = None,
    since: Annotated[
        datetime | None, options.scan_time(help="Start of the first scan to predict, UTC, if no --time is given.")
    ] = None,
    until: Annotated[datetime | None, options.scan_time(help="Start of the last scan to predict, UTC.")] = None,
    area: Annotated[
        tuple[float, float, float, float] | None,
        options.area(
            help="South, west, north and east limit in degrees; west above east across 180 degrees.",
            rich_help_panel="Scans",
            show_default="all",
        ),
    ] = None,
    product: options.Product = "L1b-RadF",
    reader: options.SatpyReader = None,
    max_zenith: Annotated[
        float, options.scans(min=1, max=89, help="Largest satellite zenith angle to predict, in degrees.")
    ] = 70.0,
    overlap: Annotated[
        float, options.scans(min=0, max=0.75, help="Share of its side that a tile has in common with each neighbour.")
    ] = 0.25,
    altitude: Annotated[
        float | None,
        options.scans(
            min=0,
            max=30_000,
            help="Altitude in metres for which shapes in .geojson and .parquet are corrected for parallax.",
            show_default="no correction",
        ),
    ] = None,
    places: Annotated[
        bool, options.output("--places", help="Also write the latitude and longitude of each pixel to .nc and .zarr.")
    ] = False,
    theme: options.PictureTheme = Theme.DARK,
    instances: Annotated[
        bool,
        options.contrails("--instances", help=f"{options.INSTANCES_HELP} Files of pixels (.nc, .zarr) number them."),
    ] = False,
    tracks: Annotated[
        bool,
        options.contrails(
            "--tracks",
            help="Follow each contrail through the scans: speed, heading, growth. Implies --instances.",
        ),
    ] = False,
    qgis_style: Annotated[
        bool, options.contrails("--qgis-style", help="Write a style for QGIS beside each .geojson.")
    ] = False,
    min_pixels: options.MinPixels = "1",
    hysteresis: options.Hysteresis = None,
    consistent: options.Consistent = None,
    fill_gaps: options.FillGaps = None,
    elongation: options.Elongation = None,
) -> None:
    """Predict whole satellite scans.

    Tiles like those that the model was trained on are predicted and blended back onto the satellite's grid. Files and
    times that cannot be used are reported, one line each, and set aside; the rest is predicted, and the exit code is 3.
    Scans on several grids (a mesoscale sector that moved) are written as one file per grid, named by time, except for
    .geojson and .parquet, which hold them all.
    """
    from contrail_data.scans.abi_files import is_archive
    from contrail_data.scans.find import check_scans

    archive = is_archive(source)
    if (not archive or "://" in source) and is_store(source):
        raise UsageError(f"{source}: is a store, not scans; use contrail-train predict")
    if reader is not None or not archive:
        refuse_options(context, ["product"], "beside --reader" if reader else "on local files; name them with a glob")
    if time:
        refuse_options(context, ["since", "until"], "beside --time")
    if since and until and since > until:
        raise UsageError(f"--since {since}, --until {until}: no time lies between them; correct one")
    _refuse_outputs(context, outs, overwrite, times=len(time or ()))
    check_scans(source, reader, product, timed=bool(time or (since and until)))

    from numpy import datetime64

    from contrail_train.contrails.cleaning import Cleaning
    from contrail_train.scenes.series import SceneRequest, predict_files
    from contrail_train.scenes.tiling import Tiling
    from contrail_train.workflows.symmetries import load_predictor

    model = load_predictor(run, device, tta).for_masks().with_fixed_shift()  # scans have no label grid
    model = model.with_cleaning(min_pixels, hysteresis, consistent, fill_gaps, elongation)
    request = SceneRequest(
        source=source,
        outs=outs,
        tiling=Tiling(model.size, overlap, max_zenith=max_zenith),
        cleaning=model.cleaning or Cleaning(model.decision.threshold),
        times=[datetime64(t) for t in time or ()],
        since=None if since is None else datetime64(since),
        until=None if until is None else datetime64(until),
        area=area,
        product=product,
        reader=reader,
        altitude=altitude,
        theme=theme,
        places=places,
        instances=instances,
        tracks=tracks,
        style=qgis_style,
        batch=batch,
        overwrite=overwrite,
    )
    outcome = predict_files(model, request)
    print_note(*outcome.notes)
    print_set_aside(*outcome.set_aside)
    for line in (*outcome.lines, *map(str, outcome.paths)):
        print(line)
    if outcome.set_aside:
        raise typer.Exit(ExitCode.SET_ASIDE)


def _refuse_outputs(context: typer.Context, outs: list[Path], overwrite: bool, times: int) -> None:
    """Refuse outputs of unknown formats or that cannot be written, and options that have no effect on any of them."""
    from contrail_data.storage.files import check_new, make_folder

    formats = (".zarr", *SCENE_SUFFIXES)
    for out in outs:
        if out.suffix not in formats:
            raise ContrailError(f"{out}: not a format of scenes; choose a name that ends in {', '.join(formats)}")
        # Several times may become several files, which have the time in their names.
        if times == 1 or out.suffix in (".geojson", ".parquet"):
            check_new(out, overwrite, out.suffix)
        else:
            make_folder(out.parent)
    suffixes = {out.suffix for out in outs}
    needed = {
        "altitude": (".geojson", ".parquet"),
        "theme": (".png", ".gif"),
        "places": (".nc", ".zarr"),
        "instances": (".nc", ".zarr", ".geojson", ".parquet"),
        "tracks": (".nc", ".zarr", ".geojson", ".parquet", ".png", ".gif"),
        "qgis_style": (".geojson",),
    }
    for option, own in needed.items():
        if not suffixes & set(own):
            refuse_options(context, [option], f"without an output {' or '.join(f'NAME{suffix}' for suffix in own)}")


def export(
    model: TrainedModel,
    out: Annotated[
        Path, options.local_output("--out", "-o", help="NAME.pt2 (torch) or NAME.onnx (needs the extra 'onnx').")
    ],
    tta: options.Tta = None,
    check: Annotated[
        str | None,
        typer.Option(
            "--check",
            parser=options.store_address,
            help="A store: also compare file and model on its first samples.",
            metavar="STORE",
        ),
    ] = None,
    overwrite: options.OverwriteFile = False,
) -> None:
    """Write a model as one file that needs neither this program nor the model's directory.

    It takes windows of frames as stored and returns masks. The file is read back and compared with the model before it
    appears under its name. It is used like the directory of a run: evaluate, predict, pseudo-label.
    """
    from contrail_train.inference.names import check_exported

    check_exported(out, overwrite)

    from contrail_data.catalog.catalog import open_named
    from contrail_train.inference import export as exporting
    from contrail_train.workflows.symmetries import load_predictor

    store = None if check is None else open_named(check)
    comparison = exporting.export(load_predictor(model, "cpu", tta), out, store=store, overwrite=overwrite)
    print(
        f"{out}: {out.stat().st_size / 1e6:.1f} MB; on {comparison.windows} windows probability differs by up to "
        f"{comparison.probability:.1e}, score by {comparison.score:.1e}, {comparison.differing} of "
        f"{comparison.pixels:,} pixels of masks ({comparison.marked:,} marked)"
    )
    if not comparison.marked and store is None:
        print_note("none of the synthetic windows has a contrail; --check STORE compares on real images")
