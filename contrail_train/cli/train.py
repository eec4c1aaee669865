"""Commands that train, `run`, `pipeline`, `rounds` and `soup`, and those that list what they take, `presets`."""

import json
import os
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from contrail_data.cli import options
from contrail_data.cli.common import (
    exit_with_error,
    print_fields,
    print_note,
    print_table,
    refuse_options,
)
from contrail_data.errors import UsageError
from contrail_data.labels.predictor import check_device
from contrail_data.process import garbage_kept
from contrail_train.cli.common import Preset, RunDirectory, interval_text, model_argument, print_holdout
from contrail_train.workflows.retraining import Retraining


def run(
    context: typer.Context,
    preset: Preset,
    out: Annotated[Path | None, options.local_output("--out", "-o", help="Run directory to write.")] = None,
    settings: options.Settings = None,
    checkpoint_minutes: Annotated[
        float,
        options.execution(
            min=0.0, max=10_080.0, help="Minutes between checkpoints; there is one at the end of each epoch as well."
        ),
    ] = 5.0,
    dry_run: Annotated[
        bool,
        options.execution(
            "--dry-run",
            help="Build everything, take three steps, print memory, speed and estimated run time, and keep nothing.",
        ),
    ] = False,
    profile: Annotated[
        Path | None,
        options.local_output("--profile", help="With --dry-run: write a trace of a few steps, NAME.json."),
    ] = None,
) -> None:
    """Train a model.

    A part of the records is held out (data.holdout); the best epoch, the threshold and the gate are chosen on it. An
    interrupted run continues from its last checkpoint when the same command is run again.

    On several GPUs: torchrun --nproc-per-node N -m contrail_train run ...
    """
    from contrail_train.config.presets import get_config
    from contrail_train.config.settings import with_settings
    from contrail_train.runs.begun import check_settings, locked_directory
    from contrail_train.runs.names import CONFIG
    from contrail_train.training.inputs import check_inputs

    config = with_settings(get_config(preset), settings or [], preset)
    is_first = os.environ.get("RANK", "0") == "0"  # torchrun's first process prints for all
    if dry_run:
        refuse_options(context, ("out", "checkpoint_minutes"), "beside --dry-run, which keeps nothing")
        if profile is not None and profile.exists():
            raise UsageError(f"--profile {profile}: exists; choose another name")
        check_inputs(config)
        if is_first:
            print_note("dry run: up to three steps are taken, and nothing is kept")

        from contrail_train.training.rehearsal import rehearse

        if measurements := rehearse(config, profile):
            print_fields(measurements)
        return
    refuse_options(context, ("profile",), "without --dry-run, which takes steps and keeps only their trace")
    if out is None:  # typer cannot express that one of two options is required
        raise UsageError("--out is missing; name a run directory, or use --dry-run")
    check_inputs(config)
    if is_first:
        with locked_directory(out, CONFIG, "run directory"):
            check_settings(out, config)
    with garbage_kept():
        from contrail_train.training.fit import fit

    calibration = fit(config, out, checkpoint_minutes)
    if calibration is None or not is_first:
        return
    print_holdout(
        f"{out}: held-out records, each at a threshold and gate fitted on others of them",
        calibration,
        reason="no held-out record has a contrail" if config.data.holdout else "data.holdout=0",
        of_records=config.model.decoder is None,
    )
    next_steps = {
        f"contrail-train runs show {out}": "losses and scores of each epoch",
        f"contrail-train evaluate {out} STORE": "scores and errors on records that it has not seen",
        f"contrail-train predict {out} STORE -o NAME.zarr": "masks and probabilities of a store",
    }
    if config.loggers.tensorboard:
        next_steps[f"tensorboard --logdir {out}"] = "curves and pictures"
    if config.loggers.wandb is not None and config.loggers.wandb.offline:
        next_steps[f"wandb sync {out}/wandb/offline-run-*"] = "upload what it logged"
    print("Next:")
    print_fields({f"  {command}": purpose for command, purpose in next_steps.items()})


def pipeline(
    preset: Annotated[
        str, typer.Argument(help="A pipeline (see `presets pipelines`), or a .yaml file.", metavar="PIPELINE|FILE")
    ],
    out: RunDirectory,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Change a setting of the pipeline or of all its runs (KEY=VALUE), or of one stage (STAGE.KEY=VALUE). "
            "STAGE.run=RUN uses a finished run. Repeatable.",
            metavar="KEY=VALUE",
        ),
    ] = None,
    device: Annotated[
        list[str] | None,
        options.execution(
            help="Device to train on. Repeatable: the stages are trained side by side, one process per device.",
            show_default="auto",
            parser=check_device,
            metavar="TEXT",
        ),
    ] = None,
) -> None:
    """Train the stages of a pipeline, gates and segmenters, and calibrate them together.

    Weights and thresholds are fitted on the records that all stages hold out. An interrupted pipeline continues when
    the same command is run again. The directory is used like that of a run: evaluate, predict, pseudo-label, export.
    """
    from contrail_train.config.pipelines import get_pipeline, with_pipeline_settings
    from contrail_train.runs.begun import check_directory
    from contrail_train.runs.names import PIPELINE
    from contrail_train.workflows.stages import check_stages

    config = with_pipeline_settings(get_pipeline(preset), settings or [], preset)
    check_stages(config)
    check_directory(out, PIPELINE, "pipeline")

    from contrail_train.workflows.pipeline import train_pipeline

    calibration = train_pipeline(config, out, device or ["auto"])
    for role, stage_weights in (("mask", calibration["mask_weights"]), ("gate", calibration["gate_weights"])):
        weights = ", ".join(f"{name} {weight:.2f}" for name, weight in stage_weights.items())
        print(f"{role}: {weights}" if role == "mask" or config.gate else "gate: none")
    print_holdout(
        f"{out}: records held out by all stages, each with weights, threshold and gate fitted on others of them",
        calibration,
        reason="all stages together hold out no positive record",
    )


def rounds(
    preset: Preset,
    out: RunDirectory,
    count: Annotated[
        int, typer.Option("--rounds", min=1, max=100, help="Rounds after the first, which uses human labels only.")
    ] = 2,
    folds: Annotated[
        int,
        typer.Option(
            min=2, max=100, help="Models per round. Each labels the part of the records that it has not seen."
        ),
    ] = 3,
    how: Annotated[
        Retraining,
        typer.Option(
            help="mixed: train on human and pseudo-labels at once. pretrain: train on both, then on human labels only."
        ),
    ] = Retraining.MIXED,
    settings: options.Settings = None,
) -> None:
    """Train, pseudo-label, and train again on both kinds of labels, for several rounds.

    Records are labelled only by models that have not seen them; samples without a human label are labelled by the round
    before. Each round is scored with human labels on records (data.holdout) that are held out of everything. An
    interrupted command continues when it is run again.
    """
    from contrail_data.catalog.stores import read_header
    from contrail_train.config.presets import get_config
    from contrail_train.config.settings import with_settings
    from contrail_train.runs.begun import check_directory
    from contrail_train.training.inputs import check_inputs
    from contrail_train.workflows.retraining import SETTINGS, check_rounds

    config = with_settings(get_config(preset), settings or [], preset)
    check_rounds(config, read_header)
    check_inputs(config)
    check_directory(out, SETTINGS, "folder of rounds")

    from contrail_train.evaluation.intervals import NO_INTERVAL
    from contrail_train.workflows.rounds import run_rounds

    rows = []
    for one in run_rounds(config, out, rounds=count, folds=folds, how=how):
        scores = one["holdout"]
        dice = f"{scores['dice']:.4f} ({interval_text(scores)})" if scores else "none"
        bounds = f"{one['gain_low']:+.4f} to {one['gain_high']:+.4f}" if "gain_low" in one else NO_INTERVAL
        gain = f"{one['gain']:+.4f} ({bounds})" if "gain" in one else ""
        rows.append([str(one["round"]), one["run"], dice, gain])
    title = "Dice on the held-out records with human labels, each at a threshold fitted on others of them"
    print_table(title, ["round", "run", "Dice (95 %)", "minus round 0 (95 %)"], rows, text_columns=(0, 1))


def soup(
    runs: Annotated[list[str], model_argument(help="Finished runs of one model.", metavar="RUN")],
    out: Annotated[Path, options.local_output("--out", "-o", help="Run directory to write.")],
    device: options.Device = "auto",
) -> None:
    """Average the weights of several runs into one run.

    The threshold and the gate are calibrated on records that all of the runs held out. Averaging helps for runs that
    started from the same weights, such as start=RUN with several seeds. Statistics of batch normalisation are
    recomputed from training images, so that even the average of a run with itself differs slightly from it.

    To average predictions instead, use the runs as stages: pipeline unet2d_no_gate --set all.run=RUN --set
    positive.run=RUN.
    """
    from contrail_train.runs.begun import check_directory
    from contrail_train.runs.names import CONFIG

    if len(runs) < 2:
        raise UsageError(f"{runs[0]}: a mean takes at least two runs; name another")
    check_directory(out, CONFIG, "run directory")

    from contrail_train.workflows.soup import average_runs

    calibration = average_runs(runs, out, device)
    print_holdout(
        f"{out}: records held out by all runs, each at a threshold fitted on others of them",
        calibration,
        reason="the runs together hold out no positive record",
    )


def list_presets(
    matching: Annotated[
        str,
        typer.Argument(
            help="A family, or a text: list its presets, or those with the text in their name.", metavar="FAMILY"
        ),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print presets as JSON.")] = False,
) -> None:
    """List the families of presets, or the presets of one family.

    Parameters and GFLOP (one forward pass per sample) are for stores of 3 channels and 256 px; those of a family are
    those of its first preset. Dice is the validation Dice in the notes, which do not say which stage it belongs to.
    """
    from contrail_data.settings.strict import plain
    from contrail_train.config.presets import FAMILIES, PRESETS, cost_key, get_config, shipped_costs

    if not matching and not as_json:
        rows = []
        for family in FAMILIES.values():
            config = get_config(family.presets[0].name)
            cost, frames, side = shipped_costs()[cost_key(config)], len(config.data.frames), config.model.image_size
            images = f"{frames} frame{'s' if frames > 1 else ''} {f'at {side} px' if side else 'as stored'}"
            figures = [f"{cost.parameters / 1e6:.1f}", f"{cost.flop / 1e9:.1f}", str(len(family.presets))]
            rows.append([family.name, family.about, config.model.encoder, images, *figures])
        header = ["family", "what it is", "encoder", "input", "M parameters", "GFLOP", "presets"]
        print_table("", header, rows, text_columns=range(4))
        return
    family_presets = FAMILIES[matching].presets if matching in FAMILIES else None
    chosen = family_presets or [preset for name, preset in PRESETS.items() if matching in name]
    if not chosen:
        exit_with_error(f"{matching}: no preset has this in its name; omit it to see all families")
    costs = [shipped_costs()[cost_key(get_config(preset.name))] for preset in chosen]
    if as_json:
        print(json.dumps([asdict(p) | asdict(cost) for p, cost in zip(chosen, costs, strict=True)], indent=1))
        return
    rows = []
    for preset, cost in zip(chosen, costs, strict=True):
        differences = ", ".join(f"{key}={plain(value)}" for key, value in preset.settings.items())
        dice = "" if preset.dice is None else f"{preset.dice:.4f}"
        figures = [f"{cost.parameters / 1e6:.1f}", f"{cost.flop / 1e9:.1f}", dice]
        rows.append([preset.name, preset.parent or "", *figures, differences])
    header = ["preset", "parent", "M parameters", "GFLOP", "Dice", "differs from its parent by"]
    print_table("", header, rows, text_columns=(0, 1, 5))


def list_pipelines(
    matching: Annotated[str, typer.Argument(help="Only names that contain this text.", metavar="TEXT")] = "unet2d",
) -> None:
    """List the pipelines: what decides, what draws the mask, the preset of each stage, and what the notes say."""
    from contrail_train.config.pipelines import PIPELINES

    chosen = {name: preset for name, preset in PIPELINES.items() if matching in name}
    if not chosen:
        exit_with_error(f"{matching}: no pipeline has this in its name; give '' to see all")
    rows = []
    for name, described in chosen.items():
        settings = described.settings
        stages = ", ".join(f"{stage}={run['preset']}" for stage, run in settings["stages"].items())
        gate, mask = (" + ".join(settings.get(key, [])) or "none" for key in ("gate", "mask"))
        rows.append([name, gate, mask, stages, "\n".join(described.remarks)])
    print_table("", ["pipeline", "gate", "mask", "stages", "what it is"], rows, text_columns=range(5))


def show_preset(
    preset: Annotated[
        str, typer.Argument(help="A preset, a pipeline or a .yaml file.", metavar="PRESET|PIPELINE|FILE")
    ],
) -> None:
    """Print all settings of a preset or a pipeline as YAML, with the verdict of the notes and what we measured.

    `run` or `pipeline` accept the output as a file. Comments explain each setting of a run and the values it takes.
    """
    from contrail_train.config.pipelines import PIPELINES, get_pipeline
    from contrail_train.config.presets import PRESETS, get_config
    from contrail_train.config.settings import to_explained_yaml, to_yaml

    named = PIPELINES.get(preset) or PRESETS.get(preset)
    text = to_yaml(get_pipeline(preset)) if preset in PIPELINES else to_explained_yaml(get_config(preset))
    if named is not None:
        command = "pipeline" if preset in PIPELINES else "run"
        print(f"# contrail-train {command} {preset} --out runs/{preset} --set data.train=STORE")
        for remark in named.remarks:
            print(textwrap.fill(remark, 110, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False))
    print(text, end="")
