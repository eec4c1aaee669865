"""Commands that predict, and that write a model as one file: `predict` and `export`."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from contrail_data.cli import options
from contrail_data.cli.common import ExitCode, command_line, exit_with_error, print_note, print_written_store
from contrail_data.labels.predictor import FrameSelection
from contrail_train.cli.common import Model

if TYPE_CHECKING:
    from contrail_train.inference.predictor import Predictor

cleaning_option = partial(typer.Option, rich_help_panel="Cleaning of masks of scans")
SCENE_SUFFIXES = (".nc", ".tif", ".geojson", ".png", ".gif")


def predict(
    run: Model,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A store (path, URL or name in data_catalog.yaml), or scans: a folder or glob of ABI files, or an "
            "archive such as goes-east (as for build-ash).",
        ),
    ],
    outs: Annotated[
        list[Path],
        options.output(
            "-o",
            "--out",
            help="For a store: the store of predictions to write, or NAME.csv. For scans: NAME.nc, .zarr, .tif, "
            ".geojson, .png or .gif; repeatable.",
        ),
    ],
    overwrite: Annotated[bool, options.output("--overwrite", help="Replace what exists at --out.")] = False,
    frames: options.Frames = "labelled",
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
    area: Annotated[
        tuple[float, float, float, float] | None,
        options.scans(help="South, west, north and east limit in degrees.", show_default="all"),
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
            help="Altitude in metres for which shapes in .geojson are corrected for parallax.",
            show_default="no correction",
        ),
    ] = None,
    min_pixels: Annotated[int, cleaning_option(min=1, max=2**24, help="Remove regions of fewer pixels.")] = 1,
    hysteresis: Annotated[
        float | None,
        cleaning_option(min=0, max=1, help="Let regions grow to connected pixels of at least this probability."),
    ] = None,
    consistent: Annotated[
        int | None,
        cleaning_option(
            min=1,
            max=1000,
            help="Remove regions without a contrail within this many pixels at the time before or after.",
        ),
    ] = None,
    fill_gaps: Annotated[
        float | None,
        cleaning_option(
            min=0,
            max=1,
            help="With --consistent: add pixels of at least this probability between two times with a contrail.",
        ),
    ] = None,
    elongation: Annotated[
        float | None, cleaning_option(min=1, max=1000, help="Remove regions with a smaller ratio of length to width.")
    ] = None,
) -> None:
    """Predict the samples of a store, or whole scans.

    For a store, probabilities (in steps of 1/255) and masks are written to a sealed store that names its parent. With
    --out NAME.csv, a run with model.record_head gives the probability that a record has any contrail.

    For scans, tiles like those that the model was trained on are predicted and blended back onto the satellite's grid.
    """
    from contrail_data.sources.open import is_abi
    from contrail_train.inference.load import load_predictor

    if reader is None and not is_abi(source):
        if len(outs) > 1:
            exit_with_error("--out: the predictions of a store go into one place; give it once", ExitCode.USAGE)
        if outs[0].suffix in SCENE_SUFFIXES:
            exit_with_error(
                f"{outs[0]}: {outs[0].suffix} is for scans, and {source} holds no ABI files (OR_ABI-*.nc); check the "
                "path, read the files of another imager with --reader, or write NAME.zarr or NAME.csv for a store"
            )
        selection = FrameSelection.parse(frames)
        _predict_store(load_predictor(run, device, tta), source, outs[0], selection, batch, overwrite)
        return
    from numpy import datetime64

    from contrail_train.contrails.cleaning import Cleaning
    from contrail_train.scenes.predict import SceneRequest, predict_files
    from contrail_train.scenes.tiling import Tiling

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
    request = SceneRequest(
        source=source,
        outs=outs,
        tiling=Tiling(model.size, overlap, max_zenith=max_zenith),
        cleaning=cleaning,
        times=[datetime64(t) for t in time or ()],
        area=area,
        product=product,
        reader=reader,
        altitude=altitude,
        batch=batch,
        overwrite=overwrite,
    )
    notes, lines, paths = predict_files(model, request)
    for note in notes:
        print_note(note)
    for line in (*lines, *paths):
        print(line)


def _predict_store(model: Predictor, name: str, out: Path, frames: FrameSelection, batch: int, overwrite: bool) -> None:
    """Predict the samples of a store into a store or a CSV file."""
    from contrail_data.catalog.catalog import open_named
    from contrail_data.labels.write import write_labels
    from contrail_data.storage.files import check_new
    from contrail_data.store.schema import Kind
    from contrail_train.config.schema import Head
    from contrail_train.inference.tables import record_table

    parent = open_named(name)
    if out.suffix == ".csv":
        check_new(out, overwrite)
        count = record_table(model.for_store(parent), parent, out, frames=frames, batch=batch)
        print(f"{out}: {count} frames")
        if model.head == Head.BOTH and not model.decision.gate:
            print_note("the column contrail is empty: this run has no gate, and its threshold is for pixels")
        return
    labelled = write_labels(
        parent,
        model.labeller_for(parent),
        out,
        kind=Kind.PREDICTIONS,
        frames=frames,
        batch=batch,
        overwrite=overwrite,
        command=command_line(),
    )
    print_written_store(out, labelled.samples, labelled.resumed, labelled.digest)


def export(
    model: Annotated[Path, typer.Argument(help="Directory of a finished run or pipeline.", metavar="MODEL")],
    out: Annotated[Path, options.output("--out", "-o", help="NAME.pt2 (torch) or NAME.onnx (needs the extra 'onnx').")],
    tta: options.Tta = None,
    check: Annotated[
        str | None,
        typer.Option("--check", help="A store: also compare file and model on its first samples.", metavar="STORE"),
    ] = None,
    overwrite: options.OverwriteFile = False,
) -> None:
    """Write a model as one file that needs neither this program nor the model's directory.

    It takes windows of frames as stored and returns masks. The file is read back and compared with the model before it
    appears under its name. It is used like the directory of a run: evaluate, predict, pseudo-label.
    """
    from contrail_data.catalog.catalog import open_named
    from contrail_train.inference import export as exporting
    from contrail_train.inference.load import load_predictor

    store = None if check is None else open_named(check)
    comparison = exporting.export(load_predictor(model, "cpu", tta), out, store=store, overwrite=overwrite)
    print(
        f"{out}: {out.stat().st_size / 1e6:.1f} MB; on {comparison.windows} windows probability differs by up to "
        f"{comparison.probability:.1e}, score by {comparison.score:.1e}, {comparison.differing} of "
        f"{comparison.pixels:,} pixels of masks ({comparison.marked:,} marked)"
    )
    if not comparison.marked and store is None:
        print_note("none of the synthetic windows has a contrail; --check STORE compares on real images")
