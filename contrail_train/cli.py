"""`contrail-train`: stores to models and masks. Commands parse, call and print; nothing else."""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
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

Run = Annotated[Path, typer.Argument(help="Run directory of a finished run.", metavar="RUN")]
Store = Annotated[str, typer.Argument(help="A store: path, URL or name in data_catalog.yaml.", metavar="STORE")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")]


@app.command()
def run(
    preset: Annotated[str, typer.Argument(help="A preset (see `presets ls`) or a .yaml file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Run directory.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value, the value as YAML; can be given several times.", metavar="KEY=VALUE"),
    ] = None,
    checkpoint_minutes: Annotated[
        float, typer.Option(min=0.0, help="Minutes between checkpoints; one at each epoch's end besides.")
    ] = 5.0,
) -> None:
    """Train a model. Interrupted, the same command goes on from the last checkpoint.

    A part of the records is held out (data.holdout): the best epoch, the threshold and the gate are chosen there.
    """
    from contrail_train.config import with_settings
    from contrail_train.presets import get_config

    config = with_settings(get_config(preset), settings or [])
    from contrail_train.fit import fit

    start = time.monotonic()
    calibration = fit(config, out, checkpoint_minutes, command.line())
    print(f"{out}: trained in {(time.monotonic() - start) / 60:.1f} min")
    if calibration["holdout"] is None:
        print(f"threshold {calibration['threshold']:.4f}, not calibrated: nothing positive was held out")
    else:
        _print_report(f"{out}: held-out records; threshold and gate were fitted on them", calibration["holdout"])


@app.command()
def evaluate(
    run: Run,
    store: Store,
    batch: Annotated[int, typer.Option(min=1)] = 16,
    device: Device = "auto",
) -> None:
    """Score a run on a labelled store at its own threshold and gate; prints a table, writes it as JSON beside."""
    from contrail_data.catalog import open_named
    from contrail_data.places import write_atomically
    from contrail_train.evaluate import report, score
    from contrail_train.loader import open_labelled
    from contrail_train.predict import load_predictor, probabilities

    opened = open_named(store)
    model = load_predictor(run, device)
    model = model.for_store(opened)
    items = open_labelled(opened)
    decision = model.decision
    if shared := sorted(set(items.record_id.tolist()) & set(model.seen_records)):
        print(
            f"warning: {len(shared)} of {len(items)} records were in the run's training stores (such as {shared[0]}): "
            "this is no score on unseen records",
            file=sys.stderr,
        )
    scores = score(
        lambda x_btchw: probabilities(model.model, x_btchw, model.mean_c, model.std_c, model.label_shift),
        items,
        device=model.device,
        threshold=decision.threshold,
        top_k=decision.top_k,
        batch=batch,
    )
    result = {
        "store": {"name": store, "digest": opened.attrs["digest"]},
        "model": decision.model,
        **report(scores, items, decision.threshold, decision.gate),
    }
    path = run / f"evaluation-{opened.attrs['digest'].removeprefix('sha256:')[:12]}.json"
    write_atomically(path, [json.dumps(result, indent=1).encode()])
    _print_report(f"{run} on {store}", result)
    print(f"written to {path}")


@app.command()
def predict(
    run: Run,
    store: Store,
    out: Annotated[Path, typer.Option("-o", "--out", help="The store of predictions to write.")],
    all_frames: Annotated[bool, typer.Option("--all-frames", help="Not the labelled frame alone.")] = False,
    batch: Annotated[int, typer.Option(min=1, help="Samples predicted at once.")] = 8,
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the store at -o.")] = False,
) -> None:
    """Predict the records of a store: probability and mask into a sealed store that names its parent."""
    from contrail_data.catalog import open_named
    from contrail_data.pseudo import label_store
    from contrail_train.predict import load_predictor

    parent = open_named(store)
    model = load_predictor(run, device)
    model = model.for_store(parent)
    digest, resumed = label_store(
        parent,
        model.predict,
        model.decision,
        out,
        store_kind="predictions",
        all_frames=all_frames,
        keep_human=False,
        batch=batch,
        overwrite=overwrite,
        command=command.line(),
    )
    before = f", {resumed} of them found finished" if resumed else ""
    print(f"{out}: {parent.sizes['sample']} samples{before}, {digest}")


@presets_app.command("ls")
def presets_ls() -> None:
    """List the presets, a line each."""
    from contrail_train.presets import PRESETS

    for name, preset in PRESETS.items():
        about = " ".join((preset.__doc__ or "").split("\n\n")[1].split())
        print(f"{name}: {about}")


@presets_app.command("show")
def presets_show(preset: Annotated[str, typer.Argument()]) -> None:
    """Print a preset's complete settings as YAML, which `run` accepts as a file."""
    from contrail_train.config import to_yaml
    from contrail_train.presets import get_config

    print(to_yaml(get_config(preset)), end="")


def _print_report(title: str, result: dict[str, Any]) -> None:
    auc = "none" if result["auc_pr"] is None else f"{result['auc_pr']:.4f}"
    rows = [
        ["records (positive; groups)", f"{result['records']} ({result['positive_records']}; {result['groups']})"],
        ["global Dice", f"{result['dice']:.4f}"],
        ["  95 % interval over groups", f"{result['dice_low']:.4f} to {result['dice_high']:.4f}"],
        ["  without the gate", f"{result['dice_without_gate']:.4f}"],
        ["precision", f"{result['precision']:.4f}"],
        ["recall", f"{result['recall']:.4f}"],
        ["AUC-PR of pixels", auc],
        ["Dice within 2 pixels", f"{result['tolerant_dice']:.4f}"],
        ["Dice over records (any contrail)", f"{result['record_dice']:.4f}"],
        ["threshold", f"{result['threshold']:.4f}"],
        ["gate", f"{result['gate']:.4f}"],
        ["pixels tp, fp, fn", f"{result['tp']:,}, {result['fp']:,}, {result['fn']:,}"],
    ]
    command.table(title, ["score", ""], rows)


def main() -> None:
    log = logging.getLogger("contrail_train")
    log.setLevel(logging.INFO)
    log.handlers = [logging.StreamHandler()]  # to stderr
    command.run(app)
