"""Tiny training runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from contrail_data.composites import COMPOSITES
from contrail_data.store.settings import StoreSettings
from helpers.records import write_record
from helpers.stores import build_small

TINY = [
    "model.encoder=test_resnet",
    "model.decoder.channels=[16,16,8,8,8]",
    "model.drop_path=0.1",
    "batch_size=4",
    "epochs=3",
    "optim.lr=3e-3",
    "data.holdout=0.3",
    "loggers.pictures=0",
]
"""Settings of a run of seconds. `test_resnet` is timm's own test network, of 0.4 million parameters."""
SHORT = [*TINY, "epochs=1"]
CONVNEXT = ("model.encoder=test_convnext", "model.norm=group", "model.drop_path=0", "optim.clip=1e9")
"""Without batch norms, the gradient of a sample does not depend on the other samples of its batch."""


def set_options(*pairs: str) -> list[str]:
    """Return `--set` before each pair of a key and a value."""
    return [part for pair in pairs for part in ("--set", pair)]


def streaked(root: Path, first: int) -> Path:
    """Build a store of sixteen 64-pixel records in which dark streaks in red are contrails."""
    rng = np.random.default_rng(first)
    for i in range(16):
        folder = write_record(root / "raw/train" / f"{first + i:02d}", rng, size=64)
        mask = np.load(folder / "human_pixel_masks.npy")[..., 0]
        if i % 4 == 0:  # empty records
            mask[:] = 0
            np.save(folder / "human_pixel_masks.npy", mask[..., np.newaxis])
        band = np.load(folder / "band_15.npy")
        band[mask > 0] -= 4
        np.save(folder / "band_15.npy", band)
    build_small(root / "raw", root / "train.zarr", settings=StoreSettings(COMPOSITES["ash"], size=64))
    return root / "train.zarr"


def run_steps(store: Path, out: Path, *pairs: str, steps: int | None = 2, preset: str = "unet2d") -> list[dict]:
    """Train for a few steps, or to the end, and return the log."""
    from contrail_train.config.presets import get_config
    from contrail_train.config.settings import with_settings
    from contrail_train.training.fit import fit

    fit(with_settings(get_config(preset), [*TINY, f"data.train={store}", *pairs]), out, stop_after=steps)
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
