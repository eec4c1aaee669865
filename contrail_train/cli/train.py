"""MISSING DOCSTRING."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from time import monotonic
from typing import Annotated

import typer

from contrail_data.cli import common as command
from contrail_train.cli.common import Device, interval_text, print_scores


class Retraining(StrEnum):
    mixed = "mixed"
    pretrain = "pretrain"


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
    several GPUs: torchrun --nproc-per-node N -m contrail_train run ...
    """
    from contrail_train.config.presets import get_config
    from contrail_train.config.settings import with_settings

    config = with_settings(get_config(preset), settings or [])
    if dry_run:
        from contrail_train.training.dry_run import rehearse

        if os.environ.get("RANK", "0") == "0":
            print("rehearsal: up to three steps are taken, nothing is kept", file=sys.stderr)
        if told := rehearse(config):
            command.facts(told)
        return
    if out is None:  # typer cannot say "unless"
        command.fail("--out is missing: name a run directory, or ask for a --dry-run", code=2)
    from contrail_train.training.fit import fit

    start = monotonic()
    calibration = fit(config, out, checkpoint_minutes, command.line())
    if os.environ.get("RANK", "0") != "0":
        return  # torchrun's first process speaks for all
    print(f"{out}: trained in {(monotonic() - start) / 60:.1f} min")
    if calibration["holdout"] is None:
        why = "no held-out record has a contrail" if config.data.holdout else "data.holdout=0"
        print(f"threshold {calibration['threshold']:.4f}, not calibrated: {why}")
    else:
        print_scores(
            f"{out}: held-out records, each at threshold and gate fitted on others of them",
            {**calibration["holdout"], "head": config.model.head},
        )


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
    from contrail_train.config.pipeline_presets import get_pipeline
    from contrail_train.config.pipelines import with_pipeline_settings
    from contrail_train.workflows.pipeline import train_pipeline

    config = with_pipeline_settings(get_pipeline(preset), settings or [])
    calibration = train_pipeline(config, out, device or ["auto"], command.line())
    for what in ("mask", "gate"):
        weights = ", ".join(f"{name} {weight:.2f}" for name, weight in calibration[f"{what}_weights"].items())
        print(f"{what}: {weights}" if what == "mask" or config.gate else "gate: none")
    if calibration["holdout"] is None:
        print(f"threshold {calibration['threshold']:.4f}, not calibrated: no positive record that all stages held out")
    else:
        title = f"{out}: records held out by all stages, each by weights, threshold and gate fitted on others of them"
        print_scores(title, calibration["holdout"])


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
    from contrail_train.workflows.soup import average_runs

    calibration = average_runs(runs, out, device, command.line())
    if calibration["holdout"] is None:
        print(f"threshold {calibration['threshold']:.4f}, not calibrated: no positive record that all runs held out")
    else:
        print_scores(f"{out}: records held out by all runs, each at a threshold fitted on others of them",
                      calibration["holdout"])  # fmt: skip


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
    from contrail_train.config.presets import get_config
    from contrail_train.config.settings import with_settings
    from contrail_train.workflows.rounds import run_rounds

    config = with_settings(get_config(preset), settings or [])
    told = run_rounds(config, out, count, folds, how.value, command.line())
    rows = []
    for one in told:
        report = one["holdout"]
        dice = f"{report['dice']:.4f} ({interval_text(report)})" if report else "none"
        gain = f"{one['gain']:+.4f} ({one['gain_low']:+.4f} to {one['gain_high']:+.4f})" if "gain" in one else ""
        rows.append([str(one["round"]), one["run"], dice, gain])
    title = "Dice on the records held out of everything, human labels, each at a threshold fitted on others of them"
    command.table(title, ["round", "run", "Dice (95 %)", "less round 0 (95 %)"], rows, text=(0, 1))
