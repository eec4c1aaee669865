"""Named runs: a preset is a function that returns a complete config; a variant says only what differs."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path

from contrail_data.errors import ContrailError
from contrail_train.config import RunConfig, read_config


def unet2d() -> RunConfig:
    """contrail-train run unet2d --out runs/a --set data.train=data/train.zarr

    UNet on one frame: the labelled one, or any pseudo-labelled one. All records, BCE, full flips and quarter turns
    in the frame that the label shift makes symmetric. Does not look at neighbouring frames, does not gate.
    """
    return RunConfig(preset="unet2d")


def unet2d_dice() -> RunConfig:
    """contrail-train run unet2d_dice --out runs/a --set data.train=data/train.zarr

    unet2d with the loss the notes used on positives: BCE + 0.25 · global Dice, here on all records.
    """
    config = unet2d()
    config.preset = "unet2d_dice"
    config.loss.dice = 0.25
    return config


PRESETS: dict[str, Callable[[], RunConfig]] = {"unet2d": unet2d, "unet2d_dice": unet2d_dice}


def get_config(preset_or_file: str) -> RunConfig:
    """A preset's config by name, or one read from a YAML file. Raises ContrailError for neither."""
    if preset_or_file in PRESETS:
        return PRESETS[preset_or_file]()
    if Path(preset_or_file).suffix in {".yaml", ".yml"}:
        return read_config(Path(preset_or_file))
    close = difflib.get_close_matches(preset_or_file, PRESETS, 1)
    hint = f"did you mean {close[0]}?" if close else f"use one of {', '.join(PRESETS)}, or a .yaml file"
    raise ContrailError(f"{preset_or_file}: no such preset: {hint}")
