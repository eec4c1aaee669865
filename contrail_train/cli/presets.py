"""MISSING DOCSTRING."""

from __future__ import annotations

import json
import textwrap
from typing import Annotated, Any

import typer

from contrail_data.cli.common import exit_with_error, print_table

app = typer.Typer(no_args_is_help=True, help="Named runs.")


@app.command("ls")
def list_presets(
    matching: Annotated[str, typer.Argument(help="Only names that contain this.", metavar="[TEXT]")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List the presets: parent, what differs from it, parameters, GFLOP a sample forward, the notes' validation Dice.

    Costs are of a 3-channel store of 256 px. The notes do not tell of which stage their Dice are.
    """
    from contrail_train.config.presets import PRESETS, config_of
    from contrail_train.models.cost import costs

    chosen = [preset for name, preset in PRESETS.items() if matching in name]
    if not chosen:
        exit_with_error(f"no preset has {matching!r} in its name: leave the text away to see all")
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
    print_table("", ["preset", "parent", "M parameters", "GFLOP", "Dice", "differs by"], rows, text_columns=(0, 1, 5))


@app.command("pipelines")
def list_pipelines(
    matching: Annotated[str, typer.Argument(help="Only names that contain this.", metavar="[TEXT]")] = "unet2d",
) -> None:
    """List the pipelines: stages with their presets, what the gate asks, what draws the mask."""
    from contrail_train.config.pipeline_presets import PIPELINES

    chosen = [preset for name, preset in PIPELINES.items() if matching in name]
    if not chosen:
        exit_with_error(f"no pipeline has {matching!r} in its name: give '' to see all")
    rows = []
    for preset in chosen:
        stages = ", ".join(f"{name}={run}" for name, run in preset.stages.items())
        gate, mask = (" + ".join(preset.keys.get(key, [])) or "none" for key in ("gate", "mask"))
        rows.append([preset.name, gate, mask, stages, preset.about])
    print_table("", ["pipeline", "gate", "mask", "stages", ""], rows, text_columns=range(5))


@app.command("show")
def show_preset(preset: Annotated[str, typer.Argument()]) -> None:
    """Print the complete settings of a preset or a pipeline as YAML, which `run` or `pipeline` accept as a file;
    comments tell what each key of a run takes.
    """
    from contrail_train.config.pipeline_presets import PIPELINES, get_pipeline
    from contrail_train.config.presets import PRESETS, get_config
    from contrail_train.config.settings import to_explained_yaml

    if preset in PIPELINES:
        from contrail_train.config.pipelines import pipeline_yaml

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
