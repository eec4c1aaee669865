"""What single settings are worth: one row a setting, grouped folds, differences with paired intervals.

    python benchmarks/effects.py OUT [--row NAME ...] [--seeds 0,1,2]
    python benchmarks/effects.py OUT --only factors --row NAME --row NAME [...]
    python benchmarks/effects.py OUT --only grids [...]
    python benchmarks/effects.py OUT --mixed [...]
    python benchmarks/effects.py OUT --real DATA --weights FILE [...]

A run trains on all folds but one for a fixed number of epochs. It is scored on the fold that it did not see, at the
threshold that is best on the other folds; counts of all records and seeds are summed. The table `effects` has the base
and each row as the base with one change; it is printed again after each row. The table `factors` measures several
changes at once, each by all runs, which takes far fewer runs for the same precision. The table `grids` maps the masks
of the base onto the labels in several ways, fitted on the scored folds and cross-fitted there. OUT keeps data, runs and
scores: the same command continues where it stopped.

The records are synthetic by default: an effect that shows here need not show on real ones, and vice versa. DATA has
folders `ash_frames` and `opencontrails`, whose labelled frames are cut into quarters. As these are single frames, rows
that need several are left out. FILE is an encoder's ImageNet weights, see `model.pretrained`. With --mixed the base
mixes three frames of synthetic records in which only motion distinguishes contrails from half of the other lines; each
run starts from one of a single frame, trained for as long, of the same seed and fold.
"""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from scipy.linalg import hadamard

from contrail_data.cli.common import print_table
from contrail_data.errors import ContrailError
from contrail_data.labels.predictor import Symmetries
from contrail_data.process import end_with_parent
from contrail_train.config.presets import get_config
from contrail_train.config.settings import with_settings
from contrail_train.data.items import open_labelled
from contrail_train.evaluation import metrics
from contrail_train.evaluation.calibrate import GridWhen, HeldOut, calibrate
from contrail_train.evaluation.intervals import difference_text
from contrail_train.evaluation.score import EvaluationOptions, labelled_batches
from contrail_train.inference.detector import Detector, Shift
from contrail_train.inference.label_grid import centre_of_mass
from contrail_train.inference.load import load_model
from contrail_train.runs.names import CALIBRATION, CHECKPOINTS
from contrail_train.training.fit import fit
from effect_rows import BASE, MIXED, ROWS, Row
from folds import Folds, write_real_folds, write_synthetic_folds
from plain import train_plain
from timing import make_parser, run_main

PRESET = "unet2d_dice"
Counts = npt.NDArray[np.int64]
BINS = 1024
"""Bins of the stored histograms, even in the logit."""


@dataclass(frozen=True)
class CrossValidation:
    """Folds in a folder that keeps all runs and scores, and what all runs share."""

    out: Path
    folds_by_composite: Mapping[str, Folds]
    epochs: int
    batch: int
    weights: str | None
    settings: tuple[str, ...]
    mixed: bool

    @property
    def folds(self) -> Folds:
        """The folds of the base."""
        return self.folds_by_composite[ROWS[BASE].composite]

    def counts(self, row: Row, seed: int) -> tuple[Counts, float]:
        """Count pixels of all records, each by the run that did not see it.

        Args:
            row: What differs from the base.
            seed: Seed of the runs.

        Returns:
            tp, fp and fn (3, n) of each record of all folds in order; and AUC-PR over all records.
        """
        parts = [self.histograms(row, seed, fold) for fold in range(self.folds.count)]
        totals = np.stack([part.sum(0) for part in parts])
        counts = [_counts(part, totals.sum(0) - total) for part, total in zip(parts, totals, strict=True)]
        return np.concatenate(counts, axis=1), metrics.average_precision(totals.sum(0))

    def histograms(self, row: Row, seed: int, fold: int) -> Counts:
        """Count pixels of the records of a fold by probability; train and score the run if that is not done yet.

        Args:
            row: What differs from the base.
            seed: Seed of the run.
            fold: Fold that it does not see.

        Returns:
            (n, 2, BINS), see `metrics.histograms`.
        """
        settings = self._settings_of(row, seed, fold)
        file = self.out / "scores" / f"{_name(*settings, row.symmetries, 'plain' * row.plain)}.npz"
        if not file.exists():
            if row.plain:
                hist = self._score_plain(seed, fold)
            else:
                hist = self._score(
                    self.trained(row, seed, fold), self.folds_by_composite[row.composite].stores[fold], row
                )
            file.parent.mkdir(exist_ok=True)
            unfinished = file.with_suffix(".part.npz")
            np.savez_compressed(unfinished, hist=hist)
            unfinished.replace(file)
        return np.load(file)["hist"]

    def trained(self, row: Row, seed: int, fold: int) -> Path:
        """Train a run if that is not done yet.

        Args:
            row: What differs from the base.
            seed: Seed of the run.
            fold: Fold that it does not see.

        Returns:
            Its directory.
        """
        settings = self._settings_of(row, seed, fold)
        run = self.out / "runs" / _name(*settings)
        if not (run / CALIBRATION).exists():  # a finished run is not locked again: others may start from it
            fit(with_settings(get_config(PRESET), settings), run)
            shutil.rmtree(run / CHECKPOINTS, ignore_errors=True)
        return run

    def trained_before(self, seed: int, fold: int) -> Path:
        """Train the run that others start from if that is not done yet: the base, of one frame.

        Args:
            seed: Seed of the run.
            fold: Fold that it does not see.

        Returns:
            Its directory.
        """
        return replace(self, mixed=False).trained(ROWS[BASE], seed, fold)

    def check(self, row: Row) -> None:
        """Check that the settings of a row fit together, before any run is trained.

        Args:
            row: What differs from the base.

        Raises:
            ContrailError: If they do not.
        """
        start = [f"start={self.out}"] if self.starts(row) else []
        with_settings(get_config(PRESET), [*self._own_settings(row, seed=0, fold=0), *start])

    def _settings_of(self, row: Row, seed: int, fold: int) -> list[str]:
        start = [f"start={self.trained_before(seed, fold)}"] if self.starts(row) else []
        return [*self._own_settings(row, seed, fold), *start]

    def starts(self, row: Row) -> bool:
        """Tell whether its runs start from those of the base, of one frame.

        Args:
            row: What differs from the base.

        Returns:
            Whether they do.
        """
        return row.continued or self.mixed

    def _own_settings(self, row: Row, seed: int, fold: int) -> list[str]:
        train = self.folds_by_composite[row.composite].others(fold)
        return [
            *("data.holdout=0", "data.threads=1", f"epochs={self.epochs}", f"batch_size={self.batch}", f"seed={seed}"),
            *([f"model.pretrained={self.weights}"] if self.weights else []),
            *(*self.settings, *(MIXED if self.mixed else ()), *row.settings, f"data.train={train}"),
            *([f"data.unlabelled={train}"] if row.unlabelled else []),
        ]

    @property
    def title(self) -> str:
        """What was scored, after how much training."""
        groups = len(np.unique(self.folds.groups))
        return f"{len(self.folds.groups)} images in {groups} groups, {self.epochs} epochs in batches of {self.batch}"

    def _score(self, run: Path, store: xr.Dataset, row: Row) -> Counts:
        model = load_model(run, "cpu", row.symmetries).for_store(store)
        items = open_labelled([store], model.offsets)
        hist = np.zeros((len(items), 2, BINS), np.int64)
        for batch in labelled_batches(items, EvaluationOptions(model.device, title=None)):
            with torch.inference_mode():
                p_bhw = model.detect_on_label_grid(batch.window_btchw, None).probability_bhw
            for item, p_hw, target_hw, _ in batch.paired(p_bhw):
                hist[item] = _coarse(p_hw, target_hw)
        return hist

    def _score_plain(self, seed: int, fold: int) -> Counts:
        others = [self.folds.arrays(k) for k in range(self.folds.count) if k != fold]
        images, masks = (np.concatenate(parts) for parts in zip(*others, strict=True))
        steps = self.epochs * -(-len(images) // self.batch)
        model, mean, std = train_plain(images, masks, self.weights, steps=steps, batch=self.batch, seed=seed)
        hist = []
        for image, mask in zip(*self.folds.arrays(fold), strict=True):
            with torch.inference_mode():
                p = model(((torch.from_numpy(image).float() / 255 - mean) / std)[None]).sigmoid()[0, 0].numpy()
            hist.append(_coarse(p, mask))
        return np.stack(hist)


def _coarse(p_hw: npt.NDArray[np.float32], target_hw: npt.NDArray[np.generic]) -> Counts:
    """(2, BINS) pixels without and with a label by probability."""
    return metrics.histograms(p_hw, target_hw).reshape(2, BINS, -1).sum(-1)


def _counts(own_n2b: Counts, others_2b: Counts) -> Counts:
    """tp, fp and fn (3, n) at the threshold that is best on other records."""
    threshold = int(np.argmax(metrics.dice_curve(others_2b)))
    predicted, positive = own_n2b[..., threshold:].sum(-1), own_n2b[:, 1].sum(-1)
    return np.stack([predicted[:, 1], predicted[:, 0], positive - predicted[:, 1]])


def _name(*parts: str) -> str:
    return sha256("\n".join(parts).encode()).hexdigest()[:16]


def measure(experiment: CrossValidation, rows: Sequence[Row], seeds: Sequence[int], workers: int) -> Iterator[int]:
    """Train and score the runs of rows in several processes.

    Args:
        experiment: Folds and settings.
        rows: The rows.
        seeds: Seeds of their runs.
        workers: Number of processes.

    Yields:
        Index of each row when all its runs are finished.
    """
    for row in rows:
        experiment.check(row)
    runs = [(seed, fold) for seed in seeds for fold in range(experiment.folds.count)]
    if workers == 1:
        for number, row in enumerate(rows):
            for run in runs:
                experiment.histograms(row, *run)
            yield number
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), end_with_parent) as pool:
        if experiment.mixed or any(
            row.continued for row in rows
        ):  # no two processes train the run that they start from
            list(pool.map(experiment.trained_before, *zip(*runs, strict=True)))
        jobs = [[pool.submit(experiment.histograms, row, *run) for run in runs] for row in rows]
        for number, started in enumerate(jobs):
            for job in started:
                job.result()
            yield number


def compare_effects(experiment: CrossValidation, names: Sequence[str], seeds: Sequence[int], workers: int) -> None:
    """Print the table `effects` after each row: its difference to the base, with the counts of all seeds summed."""
    names = [BASE, *(name for name in names if name != BASE)]
    cells: list[list[str]] = []
    reference: Counts | None = None
    for number in measure(experiment, [ROWS[name] for name in names], seeds, workers):
        by_seed, areas = zip(*(experiment.counts(ROWS[names[number]], seed) for seed in seeds), strict=True)
        together = np.sum(by_seed, axis=0)
        each = ", ".join(f"{float(metrics.dice(*counts.sum(1))):.3f}" for counts in by_seed)
        compared = "" if reference is None else difference_text(reference, together, experiment.folds.groups)
        reference = together if reference is None else reference
        cells.append([names[number], each, f"{np.mean(areas):.3f}", *_scores(together), compared])
        header = ["row", "Dice by seed", "AUC-PR", "precision", "recall", "together", "less base (95 %)"]
        print_table(f"effects: {experiment.title}", header, cells, text_columns=(0, 1))


def compare_factors(experiment: CrossValidation, names: Sequence[str], seeds: Sequence[int], workers: int) -> None:
    """Print the table `factors`: of runs with several changes each, those with a change compared to those without it.

    Half of the combinations have a change, and every other change is in half of these and in half of the rest (the
    columns of a Hadamard matrix), so each change is measured by all runs. A difference may be due to two other changes
    that gain more, or less, together.
    """
    names = [name for name in names if name != BASE]
    keys = [setting.partition("=")[0] for name in names for setting in ROWS[name].settings]
    if len(set(keys)) < len(keys):
        raise ContrailError("factors: two rows change the same setting; choose others with --row")
    if any(not ROWS[name].settings or ROWS[name].continued for name in names):
        raise ContrailError(
            "factors: a row changes no setting of the training, or starts from a run; choose others with --row"
        )
    changed_rf = hadamard(1 << len(names).bit_length())[:, 1 : len(names) + 1] < 0
    rows = [
        Row(tuple(s for name, is_on in zip(names, on, strict=True) if is_on for s in ROWS[name].settings))
        for on in changed_rf
    ]
    for _ in measure(experiment, rows, seeds, workers):
        pass
    counts_rs, areas_rs = ([[experiment.counts(row, seed)[i] for seed in seeds] for row in rows] for i in (0, 1))
    counts, areas = np.sum(counts_rs, axis=1), np.mean(areas_rs, axis=1)
    cells = []
    for name, on in zip(names, changed_rf.T, strict=True):
        without, with_it = counts[~on].sum(0), counts[on].sum(0)
        difference = difference_text(without, with_it, experiment.folds.groups)
        area = f"{areas[on].mean() - areas[~on].mean():+.3f}"
        cells.append([name, _scores(without)[-1], _scores(with_it)[-1], difference, area])
    header = ["row", "Dice without", "Dice with", "difference (95 %)", "AUC-PR"]
    print_table(f"factors: {len(rows)} combinations, {experiment.title}", header, cells)
    changes = [", ".join(np.array(names)[on]) or BASE for on in changed_rf]
    cells = [[_scores(c)[-1], f"{area:.3f}", text] for c, area, text in zip(counts, areas, changes, strict=True)]
    print_table("combinations", ["Dice", "AUC-PR", "changes"], sorted(cells, reverse=True), text_columns=(2,))


def compare_grids(experiment: CrossValidation, names: Sequence[str], seeds: Sequence[int], workers: int) -> None:
    """Print the table `grids`: the base's masks without a shift, with the fixed one, and mapped by a learned one."""
    cells = []
    for symmetries in (Symmetries.NONE, Symmetries.DIHEDRAL):
        counts: dict[str, list[Counts]] = {"fixed shift": [], "no shift": [], "learned": []}
        for seed, fold in ((seed, fold) for seed in seeds for fold in range(experiment.folds.count)):
            store = experiment.folds.stores[fold]
            model = load_model(experiment.trained(ROWS[BASE], seed, fold), "cpu", symmetries).for_store(store)
            items = experiment.folds.labelled(fold, model.offsets)
            way: dict[str, tuple[Shift, GridWhen]] = {
                "fixed shift": (model.label_offset, "never"),
                "no shift": ((0.0, 0.0), "never"),
                "learned": (model.label_offset, "always"),
            }
            for name, (shift, grid_when) in way.items():
                options = EvaluationOptions(model.device, title=None)
                assert isinstance(model.detect, Detector)
                held_out = HeldOut(model.detect, items, shift)
                calibrated = calibrate([held_out], options, gate_when="never", grid_when=grid_when)
                counts[name].append(np.array(calibrated.holdout["holdout_counts"]))
                if (grid := calibrated.choice.label_grid) is not None:
                    print(f"fold {fold}, symmetries {symmetries}: learned shift", centre_of_mass(grid))
        by_name = {name: _over_seeds(each, len(seeds)) for name, each in counts.items()}
        for name, together in by_name.items():
            compared = difference_text(by_name["fixed shift"], together, experiment.folds.groups)
            cells.append([name, str(symmetries), *_scores(together), compared if name != "fixed shift" else ""])
    header = ["map onto the labels", "symmetries", "precision", "recall", "Dice", "less fixed (95 %)"]
    print_table(f"grids: {experiment.title}", header, cells, text_columns=(0, 1))


def _over_seeds(counts: Sequence[Counts], seeds: int) -> Counts:
    """Join the counts of the folds and add up those of the seeds, from one for each fold of each seed."""
    folds = len(counts) // seeds
    each = [np.concatenate(counts[first : first + folds], axis=1) for first in range(0, len(counts), folds)]
    return np.sum(each, axis=0)


def _scores(counts: Counts) -> list[str]:
    """Precision, recall and Dice."""
    tp, fp, fn = (int(count) for count in counts.sum(1))
    shares = metrics.share(tp, tp + fp), metrics.share(tp, tp + fn), float(metrics.dice(tp, fp, fn))
    return ["" if share is None else f"{share:.3f}" for share in shares]


TABLES = {"effects": compare_effects, "factors": compare_factors, "grids": compare_grids}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, list(TABLES))
    parser.add_argument("out", type=Path, help="folder for data, runs and scores, which are used again")
    parser.add_argument("--row", action="append", choices=list(ROWS), metavar="ROW", help="measure only this row")
    parser.add_argument("--seeds", default="0", help="seeds of the runs of each row, such as 0,1,2 (default 0)")
    parser.add_argument("--workers", type=int, default=1, help="runs at the same time (default 1)")
    parser.add_argument("--folds", type=int, default=5, help="number of folds (default 5)")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of each run (default 3)")
    parser.add_argument("--batch", type=int, default=8, help="images in each step (default 8)")
    parser.add_argument("--real", type=Path, help="folder of real frames and records instead of synthetic records")
    parser.add_argument("--mixed", action="store_true", help="change a base that mixes three frames")
    parser.add_argument("--weights", help="file of the encoder's weights (default: random ones)")
    parser.add_argument("--records", type=int, default=160, help="number of synthetic records (default 160)")
    parser.add_argument("--side", type=int, default=128, help="their rows and columns (default 128)")
    parser.add_argument("--set", action="append", default=[], help="a setting of every run", metavar="KEY=VALUE")
    options = parser.parse_args(arguments)
    folder = options.out / "folds"
    names = options.row or [
        name
        for name, row in ROWS.items()
        if row.mixed == options.mixed and not (options.mixed and (row.frames or row.continued or row.plain))
        if not (options.real and (row.frames or row.composite != ROWS[BASE].composite))
    ]
    composites = list(dict.fromkeys(ROWS[name].composite for name in [BASE, *names]))
    if any(ROWS[name].mixed for name in names) and not options.mixed:
        raise ContrailError("--row: some need a base that mixes several frames; add --mixed, or leave them out")
    if options.real and (options.mixed or len(composites) > 1 or any(ROWS[name].frames for name in names)):
        raise ContrailError("--real: its images are single frames of ash; leave out --mixed and rows of anything else")
    folds = (
        {ROWS[BASE].composite: write_real_folds(folder, options.real, options.folds)}
        if options.real
        else write_synthetic_folds(
            folder, options.records, options.side, options.folds, composites, "moving" if options.mixed else "faint"
        )
    )
    experiment = CrossValidation(
        options.out, folds, options.epochs, options.batch, options.weights, tuple(options.set), options.mixed
    )
    seeds = [int(seed) for seed in options.seeds.split(",")]
    for table in options.only or ["effects"]:
        TABLES[table](experiment, names, seeds, options.workers)


if __name__ == "__main__":
    run_main(main)
