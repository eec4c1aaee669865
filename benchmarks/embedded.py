"""Experiments on the embedded data at a fixed budget: stores, settings, and tables of Dice over seeds."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.build.build import build
from contrail_data.cli.common import print_table
from contrail_data.composites import COMPOSITES
from contrail_data.sources.open import open_source
from contrail_data.store.reader import open_store
from contrail_data.store.settings import StoreSettings
from contrail_data.synthetic.records import write_records
from contrail_train.data.items import Items, open_labelled
from contrail_train.evaluation.intervals import difference_text
from contrail_train.evaluation.metrics import dice

Counts = npt.NDArray[np.int64]
BASE = [
    *("model.decoder.channels=[128,64,32,32,16]", "loss.pos_weight=3", "optim.lr=2e-3", "batch_size=8"),
    *("augment.affine=null", "data.threads=1"),
]
"""2D, hard labels, all flips and quarter turns with the label shift. Only cross-entropy: from random weights, global
Dice leaves some seeds on a plateau for longer than this budget."""


@dataclass(frozen=True)
class Experiment:
    """Stores in a folder that keeps all runs, and the settings that all runs share."""

    out: Path
    records: int
    side: int
    epochs: int
    seeds: int
    settings: Sequence[str]
    scenery: str = "faint"

    @cached_property
    def unseen(self) -> xr.Dataset:
        """The store that everything is scored on."""
        return open_store(self.out / "validation.zarr")

    @cached_property
    def items(self) -> Items:
        """Its labelled frames."""
        return open_labelled([self.unseen])

    def settings_of(self, seed: int) -> list[str]:
        """Return the settings of the runs of a seed."""
        train = f"data.train={self.out / 'train.zarr'}"
        return [*BASE, f"epochs={self.epochs}", train, *self.settings, f"seed={seed}"]

    def write_stores(self) -> None:
        """Write records, and a store of each split, unless they exist."""
        raw = self.out / "raw"
        write_records(raw, self.records, validation_fraction=0.4, size=self.side, scenery=self.scenery)
        for split in ("train", "validation"):
            settings = StoreSettings(COMPOSITES["ash"], size=self.side)
            source = open_source(raw, split, settings.composite)
            build(source, settings, self.out / f"{split}.zarr", workers=2)

    def print_dice(self, table: str, counts: Mapping[str, Sequence[Counts]]) -> None:
        """Print global Dice by seed and of all seeds together, and the difference to the first row.

        Args:
            table: Name of the table.
            counts: True positives, false positives and false negatives of each record, (3, n), by row and seed.
        """
        reference = np.sum(next(iter(counts.values())), axis=0)
        rows: list[list[str]] = []
        for name, by_seed in counts.items():
            together = np.sum(by_seed, axis=0)
            each = ", ".join(f"{float(dice(*c.sum(1))):.3f}" for c in by_seed)
            difference = difference_text(reference, together, self.items.group) if rows else ""
            rows.append([name, each, f"{float(dice(*together.sum(1))):.3f}", difference])
        header = ["variant", "by seed", "together", "less first (95 %)"]
        print_table(f"{table}: global Dice {self.title}", header, rows, text_columns=(0, 1))

    @property
    def title(self) -> str:
        """What was scored, after how much training."""
        return (
            f"on {len(self.items)} unseen synthetic records of {self.side} px, {self.epochs} epochs, {self.seeds} seeds"
        )


def add_experiment_options(parser: argparse.ArgumentParser, records: int, epochs: int) -> None:
    """Add the options of an experiment, with the defaults of a quick one.

    Args:
        parser: The parser of the benchmark.
        records: Default number of records, of which 40 % are scored.
        epochs: Default number of epochs.
    """
    parser.add_argument("out", type=Path, help="folder for stores and runs, which are used again")
    parser.add_argument("--records", type=int, default=records, help="number of records (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=epochs, help="epochs of each run (default %(default)s)")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each variant (default %(default)s)")
    parser.add_argument("--side", type=int, default=128, help="rows and columns of the images (default %(default)s)")
    parser.add_argument(
        "--set", action="append", default=[], help="a setting of every run (%(default)s)", metavar="KEY=VALUE"
    )


def experiment_of(options: argparse.Namespace, scenery: str = "faint") -> Experiment:
    """Write the stores of an experiment and return it.

    Args:
        options: The parsed options of `add_experiment_options`.
        scenery: Scenery of the records.

    Returns:
        The experiment.
    """
    experiment = Experiment(
        options.out, options.records, options.side, options.epochs, options.seeds, options.set, scenery
    )
    experiment.write_stores()
    return experiment
