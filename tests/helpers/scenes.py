"""Predicted scenes without a predictor."""

from __future__ import annotations

import numpy as np
import xarray as xr
from scipy import ndimage

from contrail_data.scans.scene import assemble
from contrail_data.synthetic.abi import abi_grid
from contrail_train.contrails.cleaning import Cleaning, clean

START = np.datetime64("2024-03-01T12:00", "ns")


def scene_of(probability: np.ndarray, cleaning: Cleaning, gate_score: np.ndarray | None = None) -> xr.Dataset:
    """Return a predicted scene of one time, (y, x)."""
    grid = abi_grid(16, (40.0, -60.0), probability.shape)
    blank = np.zeros((1, 1, *probability.shape), np.float32)
    scene = assemble(blank, [14], grid, [(START, START)], {"platform": "GOES-16", "instrument": "ABI"}).drop_vars(
        "brightness_temperature"
    )
    valid = ~np.isnan(probability)
    mask = clean(np.nan_to_num(probability)[None], valid[None], cleaning)[0]
    planes = {"probability": probability, "mask": mask.astype(np.uint8), "valid": valid.astype(np.uint8)}
    if gate_score is not None:
        planes["gate_score"] = gate_score
        planes["mask"] &= gate_score >= 0.3
    scene = scene.assign({name: (("time", "y", "x"), plane[None]) for name, plane in planes.items()})
    scene["image"] = (("time", "channel", "y", "x"), np.zeros((1, 3, *probability.shape), np.uint8))
    scene["scan_time"] = (("time", "y"), np.full((1, len(probability)), START))
    attributes = {"model": "m", "instrument": "ABI", "threshold": cleaning.threshold, "gate": 0.3, "composite": "ash"}
    return scene.assign_attrs(**attributes, software="s", inputs=["a.nc"])


def smooth(rng: np.random.Generator, shape: tuple[int, int] = (90, 110)) -> np.ndarray:
    """Return probabilities of blobs, with single pixels and a rectangle missing."""
    field = ndimage.gaussian_filter(rng.normal(size=shape), 1.5)
    probability = (1 / (1 + np.exp(-8 * field / field.std() + 4))).astype(np.float32)
    probability[rng.random(probability.shape) < 0.05] = np.nan
    probability[20:40, 30:60] = np.nan
    return probability
