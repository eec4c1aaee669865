"""`contrail-train`: stores to models and masks. Commands parse, call and print; nothing else."""

from __future__ import annotations

import json
import logging
import os
import sys
import textwrap
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from time import monotonic
from typing import Annotated, Any

import typer

from contrail_data import command

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Contrail segmentation models, trained straight from contrail-data stores.",
)
presets_app = typer.Typer(no_args_is_help=True, help="Named runs.")
app.add_typer(presets_app, name="presets")


class Retraining(StrEnum):
    mixed = "mixed"
    pretrain = "pretrain"


Model = Annotated[
    Path,
    typer.Argument(help="Directory of a finished run or pipeline, or a file that export wrote.", metavar="MODEL"),
]
Store = Annotated[str, typer.Argument(help="A store: path, URL or name in data_catalog.yaml.", metavar="STORE")]
SCANS = "Of scans"
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")]


@app.command()
def run(
    preset: Annotated[str, typer.Argument(help="A preset (see `presets ls`) or a .yaml file.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run directory.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value, the value as YAML; can be given several times.", metavar="KEY=VALUE"),
    ] = None,
    checkpoint_minutes: Annotated[
        float, typer.Option(min=0.0, help="Minutes between checkpoints; one at each epoch's end besides.")
    ] = 5.0,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Build everything, take three steps, tell memory, speed and time; keep nothing."
        ),
    ] = False,
) -> None:
    """Train a model. Interrupted, the same command goes on from the last checkpoint.

    A part of the records is held out (data.holdout): the best epoch, the threshold and the gate are chosen there. On
    several GPUs: torchrun --nproc-per-node N -m contrail_train.cli run ...
    """
    from contrail_train.config import with_settings
    from contrail_train.presets import get_config

    config = with_settings(get_config(preset), settings or [])
    if dry_run:
        from contrail_train.dry_run import rehearse

        if os.environ.get("RANK", "0") == "0":
            print("rehearsal: up to three steps are taken, nothing is kept", file=sys.stderr)
        if told := rehearse(config):
            command.facts(told)
        return
    if out is None:  # typer cannot say "unless"
        command.fail("--out is missing: name a run directory, or ask for a --dry-run", code=2)
    from contrail_train.fit import fit

    start = monotonic()
    calibration = fit(config, out, checkpoint_minutes, command.line())
    if os.environ.get("RANK", "0") != "0":
        return  # torchrun's first process speaks for all
    print(f"{out}: trained in {(monotonic() - start) / 60:.1f} min")
    if calibration["holdout"] is None:
        why = "no held-out record has a contrail" if config.data.holdout else "data.holdout=0"
        print(f"threshold {calibration['threshold']:.4f}, not calibrated: {why}")
    else:
        _print_report(
            f"{out}: held-out records, each at threshold and gate fitted on others of them",
            {**calibration["holdout"], "head": config.model.head},
        )


@app.command()
def pipeline(
    preset: Annotated[str, typer.Argument(help="A pipeline (see `presets pipelines`) or a .yaml file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory of the pipeline.")],
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="KEY=VALUE of the pipeline or of all its runs; STAGE.KEY=VALUE of one; STAGE.run=RUN takes a finished "
            "run. Several times.",
            metavar="KEY=VALUE",
        ),
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(help="Several times: stages are trained side by side, one process a device. Default: auto."),
    ] = None,
) -> None:
    """Train gates and segmenters, and fit weights and thresholds on the records that all of them hold out.

    Interrupted, the same command goes on. The directory is used like a run: evaluate, predict, pseudo-label, export.
    """
    from contrail_train.pipeline import train_pipeline, with_pipeline_settings
    from contrail_train.pipeline_presets import get_pipeline

    config = with_pipeline_settings(get_pipeline(preset), settings or [])
    calibration = train_pipeline(config, out, device or ["auto"], command.line())
    for what in ("mask", "gate"):
        weights = ", ".join(f"{name} {weight:.2f}" for name, weight in calibration[f"{what}_weights"].items())
        print(f"{what}: {weights}" if what == "mask" or config.gate else "gate: none")
    if calibration["holdout"] is None:
        print(f"threshold {calibration['threshold']:.4f}, not calibrated: no positive record that all stages held out")
    else:
        title = f"{out}: records held out by all stages, each by weights, threshold and gate fitted on others of them"
        _print_report(title, calibration["holdout"])


@app.command()
def soup(
    runs: Annotated[list[Path], typer.Argument(help="Finished runs of one model.", metavar="RUN...")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Run directory to write.")],
    device: Device = "auto",
) -> None:
    """Average the weights of runs into one run, calibrated on records that all of them held out.

    Worth it for runs that began at the same weights, such as `start=RUN` with several seeds. Statistics of batch norms
    are taken anew from training images: even the soup of one run and itself differs a little from it. To average
    predictions instead, name runs as stages: `pipeline unet2d_no_gate --set all.run=RUN --set positive.run=RUN`.
    """
    from contrail_train.soup import average_runs

    calibration = average_runs(runs, out, device, command.line())
    if calibration["holdout"] is None:
        print(f"threshold {calibration['threshold']:.4f}, not calibrated: no positive record that all runs held out")
    else:
        _print_report(f"{out}: records held out by all runs, each at a threshold fitted on others of them",
                      calibration["holdout"])  # fmt: skip


@app.command()
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
    from contrail_data.catalog import open_named
    from contrail_train.export import export as write
    from contrail_train.predict import load_predictor

    store = None if check is None else open_named(check)
    told = write(load_predictor(model, "cpu", tta), out, store=store, overwrite=overwrite)
    print(
        f"{out}: {out.stat().st_size / 1e6:.1f} MB; on {told.windows} windows probability differs by up to "
        f"{told.probability:.1e}, score by {told.score:.1e}, {told.differ} of {told.pixels:,} pixels of masks "
        f"({told.marked:,} marked)"
    )
    if not told.marked and store is None:
        print("note: none of the made-up windows has a mask: --check STORE compares on images", file=sys.stderr)


@app.command()
def rounds(
    preset: Annotated[str, typer.Argument(help="A preset (see `presets ls`) or a .yaml file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory of the rounds.")],
    count: Annotated[int, typer.Option("--rounds", min=1, help="After the first one, on human labels alone.")] = 2,
    folds: Annotated[int, typer.Option(min=2, help="Models a round; each labels the part that it has not seen.")] = 3,
    how: Annotated[
        Retraining, typer.Option(help="mixed: on human and pseudo-labels at once; pretrain: then on human ones alone.")
    ] = Retraining.mixed,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="key=value of all runs; several times.", metavar="KEY=VALUE")
    ] = None,
) -> None:
    """Train, pseudo-label with models that have not seen a record, train again; each round scored on human labels.

    A part of the records (data.holdout) is held out of everything. Samples without a human label are labelled by the
    round before. Interrupted, the same command goes on.
    """
    from contrail_train.config import with_settings
    from contrail_train.presets import get_config
    from contrail_train.rounds import run_rounds

    config = with_settings(get_config(preset), settings or [])
    told = run_rounds(config, out, count, folds, how.value, command.line())
    rows = []
    for one in told:
        report = one["holdout"]
        dice = f"{report['dice']:.4f} ({_interval(report)})" if report else "none"
        gain = f"{one['gain']:+.4f} ({one['gain_low']:+.4f} to {one['gain_high']:+.4f})" if "gain" in one else ""
        rows.append([str(one["round"]), one["run"], dice, gain])
    title = "Dice on the records held out of everything, human labels, each at a threshold fitted on others of them"
    command.table(title, ["round", "run", "Dice (95 %)", "less round 0 (95 %)"], rows, text=(0, 1))


@app.command()
def evaluate(
    run: Model,
    store: Store,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder for JSON, HTML page and pictures; default: the model's.")
    ] = None,
    worst: Annotated[int, typer.Option(min=0, max=100, help="Records to show that lose most.")] = 8,
    tta: command.Tta = None,
    batch: Annotated[int, typer.Option(min=1)] = 16,
    device: Device = "auto",
) -> None:
    """Score a model on a labelled store at its own threshold and gate: tables, JSON and one HTML page.

    Records that the model was trained on, or that its threshold was fitted on, are left out.
    """
    from contrail_data.catalog import open_named
    from contrail_train.predict import load_predictor
    from contrail_train.report import evaluate_store

    opened = open_named(store)
    model = load_predictor(run, device, tta).for_store(opened)
    result, tables, paths = evaluate_store(model, opened, store, out, worst, batch)
    _print_report(f"{run} on {store}", result)
    for title, header, rows in tables:
        command.table(title, header, rows)
    for path in paths:
        print(f"written to {path}")


@app.command()
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
    from contrail_data.catalog import open_named
    from contrail_data.places import check_new
    from contrail_data.sources import is_abi
    from contrail_train.predict import load_predictor, record_table

    if reader is not None or is_abi(source):
        from numpy import datetime64

        from contrail_train.postprocess import Cleaning
        from contrail_train.scenes import Tiling, predict_files

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


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="A run, pipeline or exported file.", metavar="A")],
    b: Annotated[Path, typer.Argument(help="Another.", metavar="B")],
    store: Store,
    tta: command.Tta = None,
    batch: Annotated[int, typer.Option(min=1)] = 16,
    device: Device = "auto",
) -> None:
    """Compare two models on a labelled store: global Dice of each at its own threshold and gate, and their difference.

    The interval is a paired bootstrap: both on the same resampled groups (site, day) of records.
    """
    from contrail_data.catalog import open_named
    from contrail_train.evaluate import gated_counts, score_predictor, unseen
    from contrail_train.metrics import bootstrap_difference, dice
    from contrail_train.predict import load_predictor
    from contrail_train.training_data import open_labelled

    opened = open_named(store)
    models = [load_predictor(run, device, tta).for_masks().for_store(opened) for run in (a, b)]
    items = [unseen(open_labelled([opened], model.offsets), models) for model in models]
    counts = [
        gated_counts(score_predictor(model, new, batch), model.decision.gate)
        for model, new in zip(models, items, strict=True)
    ]
    groups = items[0].group
    interval = "none of one group"
    if len(set(groups)) > 1:
        low, high = bootstrap_difference(counts[0], counts[1], groups)
        interval = f"{low:+.4f} to {high:+.4f}"
    scores = [float(dice(*c.sum(1))) for c in counts]
    rows = [[f"A  {a}", f"{scores[0]:.4f}"], [f"B  {b}", f"{scores[1]:.4f}"]]
    rows.append(["B less A (95 %)", f"{scores[1] - scores[0]:+.4f} ({interval})"])
    command.table(f"global Dice on {len(groups)} records of {store}", ["run", ""], rows)


@app.command()
def submit(
    store: Annotated[str, typer.Argument(help="A store that predict wrote.", metavar="STORE")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The CSV file to write.")],
    overwrite: command.OverwriteFile = False,
) -> None:
    """Write predicted masks as the 2023 competition's submission: run lengths, column by column."""
    from contrail_data.catalog import open_named
    from contrail_data.places import check_new
    from contrail_train.submission import write_submission

    check_new(out, overwrite)
    records, empty = write_submission(open_named(store), out)
    print(f"{out}: {records} records, {empty} of them empty")


@presets_app.command("ls")
def presets_ls(
    matching: Annotated[str, typer.Argument(help="Only names that contain this.", metavar="[TEXT]")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List the presets: parent, what differs from it, parameters, GFLOP a sample forward, the notes' validation Dice.

    Costs are of a 3-channel store of 256 px. The notes do not tell of which stage their Dice are.
    """
    from contrail_train.cost import costs
    from contrail_train.presets import PRESETS, config_of

    chosen = [preset for name, preset in PRESETS.items() if matching in name]
    if not chosen:
        command.fail(f"no preset has {matching!r} in its name: leave the text away to see all")
    rows = []
    counted = costs([config_of(p.name) for p in chosen])
    if as_json:
        print(json.dumps([vars(p) | vars(cost) for p, cost in zip(chosen, counted, strict=True)], indent=1))
        return
    for preset, cost in zip(chosen, counted, strict=True):
        differs = ", ".join(f"{key}={_plain(value)}" for key, value in preset.settings.items())
        dice = "" if preset.published is None else f"{preset.published:.4f}"
        figures = [f"{cost.parameters / 1e6:.1f}", f"{cost.flop / 1e9:.1f}", dice]
        rows.append([preset.name, preset.parent or "", *figures, differs])
    command.table("", ["preset", "parent", "M parameters", "GFLOP", "Dice", "differs by"], rows, text=(0, 1, 5))


@presets_app.command("pipelines")
def presets_pipelines(
    matching: Annotated[str, typer.Argument(help="Only names that contain this.", metavar="[TEXT]")] = "unet2d",
) -> None:
    """List the pipelines: stages with their presets, what the gate asks, what draws the mask."""
    from contrail_train.pipeline_presets import PIPELINES

    chosen = [preset for name, preset in PIPELINES.items() if matching in name]
    if not chosen:
        command.fail(f"no pipeline has {matching!r} in its name: give '' to see all")
    rows = []
    for preset in chosen:
        stages = ", ".join(f"{name}={run}" for name, run in preset.stages.items())
        gate, mask = (" + ".join(preset.keys.get(key, [])) or "none" for key in ("gate", "mask"))
        rows.append([preset.name, gate, mask, stages, preset.about])
    command.table("", ["pipeline", "gate", "mask", "stages", ""], rows, text=range(5))


@presets_app.command("show")
def presets_show(preset: Annotated[str, typer.Argument()]) -> None:
    """Print the complete settings of a preset or a pipeline as YAML, which `run` or `pipeline` accept as a file;
    comments tell what each key of a run takes."""
    from contrail_train.config import to_explained_yaml
    from contrail_train.pipeline_presets import PIPELINES, get_pipeline
    from contrail_train.presets import PRESETS, get_config

    if preset in PIPELINES:
        from contrail_train.pipeline import pipeline_yaml

        print(f"# contrail-train pipeline {preset} --out runs/{preset} --set data.train=STORE")
        print(f"# {PIPELINES[preset].about}\n{pipeline_yaml(get_pipeline(preset))}", end="")
        return
    config = get_config(preset)
    if known := PRESETS.get(preset):
        for text in (known.command, *textwrap.wrap(known.about, 110)):
            print(f"# {text}")
    print(to_explained_yaml(config), end="")


def _plain(value: Any) -> str:
    return json.dumps(value, separators=(",", ":")).replace('"', "")


def _interval(result: dict[str, Any]) -> str:
    low, high = result["dice_low"], result["dice_high"]
    return "none of one group" if low is None else f"{low:.4f} to {high:.4f}"


def _print_report(title: str, result: dict[str, Any]) -> None:
    def or_none(value: float | None) -> str:
        return "none" if value is None else f"{value:.4f}"

    records = result.get("head") == "record"
    rows = [
        ["records (positive; groups)", f"{result['records']} ({result['positive_records']}; {result['groups']})"],
        ["Dice over records (any contrail)" if records else "global Dice", f"{result['dice']:.4f}"],
        ["  95 % interval over groups", _interval(result)],
    ]
    if not records:
        rows += [["  without the gate", f"{result['dice_without_gate']:.4f}"]]
    rows += [["precision", or_none(result["precision"])], ["recall", or_none(result["recall"])]]
    if not records:
        rows += [
            ["AUC-PR of pixels", or_none(result["auc_pr"])],
            ["Dice within 2 pixels", f"{result['tolerant_dice']:.4f}"],
            ["Dice over records (any contrail)", f"{result['record_dice']:.4f}"],
        ]
    by = "" if records else ", by what the gate compares"
    rows += [[f"AUC-PR of records{by}", or_none(result["record_auc_pr"])], ["threshold", f"{result['threshold']:.4f}"]]
    if not records:
        rows += [["gate", f"{result['gate']:.4f}"]]
    what = "records" if records else "pixels"
    rows += [[f"{what} tp, fp, fn", f"{result['tp']:,}, {result['fp']:,}, {result['fn']:,}"]]
    command.table(title, ["score", ""], rows)


def main() -> None:
    log = logging.getLogger("contrail_train")
    log.setLevel(logging.INFO)
    log.handlers = [logging.StreamHandler()]  # to stderr
    command.run(app)


if __name__ == "__main__":
    main()
