"""Masks and records for the error analysis."""

from __future__ import annotations

import numpy as np
import xarray as xr

SIDE = 32


def mask_of(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    for top, bottom, left, right in boxes:
        mask[top:bottom, left:right] = True
    return mask


def records_of(count: int, known: bool = True) -> xr.Dataset:
    """Return per-sample variables; without `known`, places, times and angles are missing."""
    missing = np.full(count, np.nan)
    rng = np.random.default_rng(0)
    time = np.datetime64("2019-04-04T00:00", "ns") + (np.arange(count) * 40).astype("timedelta64[D]")
    values = {
        "labelled_frame": np.zeros(count, int),
        "latitude": rng.uniform(-60, 60, count) if known else missing,
        "longitude": rng.uniform(-130, -20, count) if known else missing,
        "local_solar_hour": rng.uniform(0, 24, count) if known else missing,
        "solar_zenith": rng.uniform(0, 180, count) if known else missing,
        "satellite_zenith": rng.uniform(0, 70, count) if known else missing,
    }
    dataset = xr.Dataset({name: ("sample", value) for name, value in values.items()})
    return dataset.assign(time=(("sample", "time"), time[:, None] if known else np.full((count, 1), "NaT", "M8[ns]")))
