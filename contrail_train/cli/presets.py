"""The commands of `contrail-train presets`: lists of families, presets and pipelines, and complete settings."""

from __future__ import annotations

import json
import textwrap
from dataclasses import asdict
from typing import Annotated

import typer

from contrail_data.cli.common import exit_with_error, print_table

app = typer.Typer(no_args_is_help=True, help="Named runs and pipelines.")

Filter = Annotated[str, typer.Argument(help="Only names that contain this text.", metavar="TEXT")]


@app.command(
    "ls",
    help="List the families of presets, or the presets of one family.\n\n"
    "Parameters and GFLOP (one forward pass per sample) are for stores of 3 channels and 256 px; those of a family are "
    "those of its first preset. Dice is the validation Dice in the notes, which do not say which stage it belongs to.",
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
    """Print a table of families, a table of presets, or presets as JSON."""
    from contrail_train.config.presets import FAMILIES, PRESETS, config_of, cost_key, shipped_costs
    from contrail_train.config.schema import plain

    if not matching and not as_json:
        rows = []
        for family in FAMILIES.values():
            config = config_of(family.presets[0].name)
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
    costs = [shipped_costs()[cost_key(config_of(preset.name))] for preset in chosen]
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


@app.command("pipelines", help="List the pipelines: what decides, what draws the mask, and the preset of each stage.")
def list_pipelines(matching: Filter = "unet2d") -> None:
    """Print a table of pipelines."""
    from contrail_train.config.pipelines import PIPELINES

    chosen = [preset for name, preset in PIPELINES.items() if matching in name]
    if not chosen:
        exit_with_error(f"{matching}: no pipeline has this in its name; give '' to see all")
    rows = []
    for preset in chosen:
        stages = ", ".join(f"{name}={run}" for name, run in preset.stages.items())
        gate, mask = (" + ".join(preset.settings.get(key, [])) or "none" for key in ("gate", "mask"))
        rows.append([preset.name, gate, mask, stages, preset.about])
    print_table("", ["pipeline", "gate", "mask", "stages", "what it is"], rows, text_columns=range(5))


@app.command(
    "show",
    help="Print all settings of a preset or a pipeline as YAML.\n\n"
    "`run` or `pipeline` accept the output as a file. Comments explain each setting of a run and the values it takes.",
)
def show_preset(preset: Annotated[str, typer.Argument(help="A preset, a pipeline or a .yaml file.")]) -> None:
    """Print the complete settings of a preset or a pipeline."""
    from contrail_train.config.pipelines import PIPELINES, get_pipeline
    from contrail_train.config.presets import PRESETS, get_config
    from contrail_train.config.settings import to_explained_yaml, to_yaml

    named = PIPELINES.get(preset) or PRESETS.get(preset)
    text = to_yaml(get_pipeline(preset)) if preset in PIPELINES else to_explained_yaml(get_config(preset))
    if named is not None:
        command = "pipeline" if preset in PIPELINES else "run"
        print(f"# contrail-train {command} {preset} --out runs/{preset} --set data.train=STORE")
        print(textwrap.fill(named.about, 110, initial_indent="# ", subsequent_indent="# "))
    print(text, end="")
