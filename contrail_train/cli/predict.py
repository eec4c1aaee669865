"""MISSING DOCSTRING."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from contrail_data.cli import common as command
from contrail_train.cli.common import Device, Model

SCANS = "Of scans"


def export(
    model: Annotated[Path, typer.Argument(help="Directory of a finished run or pipeline.", metavar="MODEL")],
    out: Annotated[Path, typer.Option("--out", "-o", help="NAME.pt2 (torch) or NAME.onnx (needs the extra onnx).")],
    tta: command.Tta = None,
    check: Annotated[
        str | None,
        typer.Option("--check", help="A store: compare file and model on its first samples as well.", metavar="STORE"),
    ] = None,
    overwrite: command.OverwriteFile = False,
) -> None:
    """Write a model as one file that needs neither contrail nor the directory: stored windows in, masks out.

    The file is read back and compared with the model before it appears. It is used like a run: evaluate, predict,
    pseudo-label.
    """
    from contrail_data.catalog.catalog import open_named
    from contrail_train.inference.export import export as write
    from contrail_train.inference.load import load_predictor

    store = None if check is None else open_named(check)
    told = write(load_predictor(model, "cpu", tta), out, store=store, overwrite=overwrite)
    print(
        f"{out}: {out.stat().st_size / 1e6:.1f} MB; on {told.windows} windows probability differs by up to "
        f"{told.probability:.1e}, score by {told.score:.1e}, {told.differ} of {told.pixels:,} pixels of masks "
        f"({told.marked:,} marked)"
    )
    if not told.marked and store is None:
        print("note: none of the made-up windows has a mask: --check STORE compares on images", file=sys.stderr)


def predict(
    run: Model,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A store: path, URL or name in data_catalog.yaml. Or scans, as for `contrail-data build-ash`: a "
            "folder or glob of ABI files, an archive such as goes-east.",
        ),
    ],
    outs: Annotated[
        list[Path],
        typer.Option(
            "-o",
            "--out",
            help="The store of predictions to write, or NAME.csv. Of scans, once or more: NAME.nc, .zarr, .tif, "
            ".geojson, .png, .gif.",
        ),
    ],
    frames: Annotated[str, typer.Option(help=command.FRAMES)] = "labelled",
    tta: command.Tta = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples predicted at once.")] = 8,
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is at -o.")] = False,
    time: Annotated[
        list[datetime] | None,
        typer.Option(
            formats=command.TIMES, help="UTC; several times. None: every scan that can be.", rich_help_panel=SCANS
        ),
    ] = None,
    area: Annotated[
        tuple[float, float, float, float] | None,
        typer.Option(help="South, west, north, east in degrees. None: all.", rich_help_panel=SCANS),
    ] = None,
    product: Annotated[
        str, typer.Option(help="Of an archive: L1b-RadF, L1b-RadC, L2-MCMIPC ...", rich_help_panel=SCANS)
    ] = "L1b-RadF",
    reader: Annotated[
        str | None,
        typer.Option(
            help="Read other imagers' files (Himawari, GK-2A) by this satpy reader, or auto; needs the extra satpy.",
            rich_help_panel=SCANS,
        ),
    ] = None,
    max_zenith: Annotated[
        float, typer.Option(min=1, max=89, help="Degrees of view zenith to go to.", rich_help_panel=SCANS)
    ] = 70.0,
    overlap: Annotated[
        float, typer.Option(min=0, max=0.75, help="Of a tile with each neighbour.", rich_help_panel=SCANS)
    ] = 0.25,
    altitude: Annotated[
        float | None,
        typer.Option(help="Metres; shapes in .geojson are then freed of parallax.", rich_help_panel=SCANS),
    ] = None,
    min_pixels: Annotated[int, typer.Option(min=1, help="Drop smaller regions.", rich_help_panel=SCANS)] = 1,
    hysteresis: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Regions grow down to this probability.", rich_help_panel=SCANS),
    ] = None,
    consistent: Annotated[
        int | None,
        typer.Option(min=1, help="Drop what no neighbouring time has within so many pixels.", rich_help_panel=SCANS),
    ] = None,
    fill_gaps: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="With --consistent: fill in down to this probability between two times with a contrail.",
            rich_help_panel=SCANS,
        ),
    ] = None,
    elongation: Annotated[
        float | None,
        typer.Option(min=1, help="Drop regions that are less long than so many widths.", rich_help_panel=SCANS),
    ] = None,
) -> None:
    """Predict the records of a store, or whole scans.

    Of a store: probability (in steps of 1/255) and mask into a sealed store that names its parent; with -o NAME.csv, of
    a run with model.head=record or both, the probability that a record has any contrail. Of scans: tiles of the kind
    the run was trained on, blended back onto the satellite's grid.
    """
    from contrail_data.catalog.catalog import open_named
    from contrail_data.sources.open import is_abi
    from contrail_data.storage.files import check_new
    from contrail_train.inference.load import load_predictor
    from contrail_train.inference.records import record_table

    if reader is not None or is_abi(source):
        from numpy import datetime64

        from contrail_train.contrails.cleaning import Cleaning
        from contrail_train.scenes.predict import Tiling, predict_files

        model = load_predictor(run, device, tta).for_masks()
        cleaning = Cleaning(
            threshold=model.decision.threshold,
            low=hysteresis,
            fill=fill_gaps,
            min_pixels=min_pixels,
            reach=consistent,
            elongation=elongation,
        )
        cleaning.check()
        tiling = Tiling(model.size, overlap, max_zenith=max_zenith)
        moments = [datetime64(t) for t in time or ()]
        for line in predict_files(
            model, source, moments, outs, tiling, cleaning, area, product, reader, altitude, batch, overwrite
        ):
            print(line)
        return
    if len(outs) > 1:
        command.fail("-o: records of a store go into one place: give it once", code=2)
    store, out = source, outs[0]
    if out.suffix in (".nc", ".tif", ".geojson", ".png", ".gif"):
        command.fail(
            f"{out}: {out.suffix} is for scans, and {source} holds no ABI files (OR_ABI-*.nc): check the path, read "
            "other imagers' files with --reader, or write the records of a store into NAME.zarr or NAME.csv"
        )
    parent = open_named(store)
    model = load_predictor(run, device, tta)
    wanted = command.frames(frames)
    if out.suffix == ".csv":
        check_new(out, overwrite)
        count = record_table(model.for_store(parent), parent, out, frames=wanted, batch=batch)
        print(f"{out}: {count} frames")
        if model.head == "both" and not model.decision.gate:
            print("note: contrail is left empty: this run has no gate, its threshold is one of pixels", file=sys.stderr)
        return
    digest, resumed = model.label(
        parent, out, "predictions", frames=wanted, batch=batch, overwrite=overwrite, command=command.line()
    )
    before = f", {resumed} of them found finished" if resumed else ""
    print(f"{out}: {parent.sizes['sample']} samples{before}, {digest}")
