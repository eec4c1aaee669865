"""The small ABI sector that several tests read, and faults of its files as archives have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

START = np.datetime64("2024-03-01T12:00")
SIZE = (120, 140)


def flag_pixels(path: Path, flag: int, where: Any) -> None:
    """Flag pixels of an L1b file; `where` indexes (y, x). Pixels with flag 3 lose their value."""
    with h5py.File(path, "r+") as file:
        flags, counts = file["DQF"][:], file["Rad"][:]
        flags[where] = flag
        if flag == 3:
            counts[where] = file["Rad"].fillvalue
        file["DQF"][:], file["Rad"][:] = flags, counts


def add_wedge(path: Path, share: float) -> None:
    """Remove the values of a wedge, as in an eclipse: this share of the columns in the first row, none in the last."""
    with h5py.File(path) as file:
        rows, columns = file["Rad"].shape
    flag_pixels(path, 3, np.arange(columns) < share * columns * (1 - np.arange(rows) / (rows - 1))[:, None])
