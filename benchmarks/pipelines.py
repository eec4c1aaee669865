"""What stages, thresholds, flips and rounds are worth on the embedded data, at one fixed budget, over seeds.

    python benchmarks/pipelines.py OUT [--records 160] [--epochs 2] [--seeds 1] [--rounds 1] [--only TABLE]

Tables: `pipelines`, `thresholds`, `flips`, `rounds`. All models are scored on the same unseen records, each with what
was fitted on its own hold-out, unless a row says otherwise. Differences are of global Dice with the counts of all
seeds summed, their intervals a paired jackknife over groups. OUT keeps stores and runs: the same command continues
where it stopped. The records are synthetic: an effect that shows here need not show on real ones, and vice versa. At
the default size this takes a few minutes and shows little; README.md states the size of its figures.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from contrail_data.cli.common import print_table
from contrail_data.labels.predictor import Symmetries
from contrail_train.config.data import DataConfig
from contrail_train.config.pipelines import get_pipeline, with_pipeline_settings
from contrail_train.config.presets import get_config
from contrail_train.config.settings import read_config, with_settings
from contrail_train.data.items import Items
from contrail_train.data.training_data import open_training_data
from contrail_train.evaluation.calibrate import HeldOut, calibrate
from contrail_train.evaluation.metrics import best_threshold, cross_fitted_counts, dice
from contrail_train.evaluation.score import (
    EvaluationOptions,
    Scores,
    gated_counts,
    score,
    score_predictor,
)
from contrail_train.inference.detector import Detector, Network
from contrail_train.inference.predictor import Predictor
from contrail_train.runs.names import CALIBRATION, CONFIG
from contrail_train.training.fit import fit
from contrail_train.workflows.pipeline import train_pipeline
from contrail_train.workflows.retraining import Retraining
from contrail_train.workflows.rounds import run_rounds
from contrail_train.workflows.symmetries import load_predictor
from embedded import Counts, Experiment, add_experiment_options, experiment_of
from timing import make_parser, run_main

FOLDS = 2


@dataclass(frozen=True)
class Seed:
    """The runs and pipelines of one seed, each trained when it is first asked for."""

    experiment: Experiment
    number: int

    @property
    def folder(self) -> Path:
        """Where they are."""
        return self.experiment.out / f"seed-{self.number}"

    @property
    def settings(self) -> list[str]:
        """The settings of all runs."""
        return self.experiment.settings_of(self.number)

    def load(self, path: Path, symmetries: Symmetries | None = None) -> Predictor:
        """Load a run or pipeline for the unseen store."""
        return load_predictor(path, "cpu", symmetries).for_store(self.experiment.unseen)

    def score(self, model: Predictor) -> Scores:
        """Score a model on the unseen store."""
        return score_predictor(model, self.experiment.items)

    def counts(self, model: Predictor) -> Counts:
        """Count the pixels of a model on the unseen store."""
        return gated_counts(self.score(model), model.decision.gate)

    @cached_property
    def v2(self) -> Predictor:
        """The pipeline v2, whose stages the others use."""
        return self.pipeline("v2", "v2", self.settings)

    def pipeline(self, name: str, preset: str, settings: list[str]) -> Predictor:
        """Train a pipeline."""
        config = with_pipeline_settings(get_pipeline(f"unet2d_{preset}"), settings)
        train_pipeline(config, self.folder / name, ["cpu"])
        return self.load(self.folder / name)

    def pipeline_of(self, name: str, preset: str, stages: Sequence[str], *settings: str) -> Predictor:
        """Make a pipeline from stages of v2, without training."""
        taken = [f"{stage}.run={self.v2.path}/stages/{stage}" for stage in stages]
        return self.pipeline(name, preset, [*taken, *settings])

    @cached_property
    def single(self) -> Predictor:
        """One segmenter of all records."""
        return self.pipeline_of("single", "single", ["all"])


def compare_pipelines(seeds: Sequence[Seed], rounds: int) -> None:
    """Print the table `pipelines`."""
    counts: dict[str, list[Counts]] = defaultdict(list)
    three = ["classifier", "all", "positive"]
    for seed in seeds:
        models = {
            "one segmenter of all records": seed.single,
            "two segmenters, no gate": seed.pipeline_of("no_gate", "no_gate", three[1:]),
            "v1: classifier, then positives": seed.pipeline_of("v1", "v1", ["classifier", "positive"]),
            "v2: gate of two, mask of two": seed.v2,
            "v2 with a gate only where proven": seed.pipeline_of("proven", "v2", three, "gate_when=proven"),
            "fitted weights, proven gate, all turns": seed.pipeline_of("fitted", "fitted", three),
        }
        for name, model in models.items():
            counts[name].append(seed.counts(model))
    seeds[0].experiment.print_dice("pipelines", counts)


def compare_thresholds(seeds: Sequence[Seed], rounds: int) -> None:
    """Print the table `thresholds`."""
    dices = [_dice_of_thresholds(seed) for seed in seeds]
    names = ["fitted on its hold-out, as used", "cross-fitted on the scored records", "fitted on the scored records"]
    rows = [[name, *(f"{values[i]:.4f}" for values in dices)] for i, name in enumerate(names)]
    for name, fitted, cross in (("unseen records", 2, 1), ("the hold-out", 4, 3)):
        optimism = [f"{values[fitted] - values[cross]:+.4f}" for values in dices]
        rows.append([f"fitted less cross-fitted, on {name}", *optimism])
    header = ["threshold of one segmenter", *(f"seed {seed.number}" for seed in seeds)]
    print_table(f"thresholds: global Dice {seeds[0].experiment.title}", header, rows)


def _dice_of_thresholds(seed: Seed) -> list[float]:
    """Dice on unseen records: as used, cross-fitted there, fitted there; on the hold-out: cross-fitted, fitted."""
    model = seed.single
    held, options = _held_out(model), EvaluationOptions(model.device, title=None)
    unseen = seed.score(model)
    own = score(model.detect_on_label_grid, held, options, 0.5)
    as_used = float(dice(*gated_counts(unseen, model.decision.gate).sum(1)))
    histograms = unseen.histogram, own.histogram
    both = [(float(dice(*cross_fitted_counts(each)[1])), best_threshold(each.sum(0))[1]) for each in histograms]
    return [as_used, *both[0], *both[1]]


def compare_flips(seeds: Sequence[Seed], rounds: int) -> None:
    """Print the table `flips`."""
    counts: dict[str, list[Counts]] = defaultdict(list)
    for seed in seeds:
        held = _held_out(seed.single)
        unshifted = seed.folder / "unshifted"
        fit(with_settings(get_config("unet2d"), [*seed.settings, "augment.label_shift=[0,0]"]), unshifted)
        for path, what in ((seed.folder / "single", ""), (unshifted, "trained without the label shift, ")):
            for symmetries in Symmetries:
                model = seed.load(path, symmetries)
                counts[f"{what}{symmetries}"].append(seed.counts(_calibrated(model, held)))
        forgotten = _without_shift(seed.load(unshifted, Symmetries.DIHEDRAL))
        name = "trained without the label shift, dihedral, averaged as if there were none"
        counts[name].append(seed.counts(_calibrated(forgotten, held)))
    seeds[0].experiment.print_dice("flips", counts)


def compare_rounds(seeds: Sequence[Seed], rounds: int) -> None:
    """Print the table `rounds`."""
    counts: dict[str, list[Counts]] = defaultdict(list)
    for seed in seeds:
        config = with_settings(get_config("unet2d_all"), seed.settings)
        mixed = run_rounds(config, seed.folder / "rounds", rounds=rounds, folds=FOLDS, how=Retraining.MIXED)
        runs = {f"round {result['round']}": result["run"] for result in mixed}
        first, second = run_rounds(
            config, seed.folder / "rounds-pretrain", rounds=1, folds=FOLDS, how=Retraining.PRETRAIN
        )
        runs["round 1, then only human labels"] = second["run"]
        again = read_config(Path(first["run"]) / CONFIG).model_copy(update={"start": first["run"]})
        fit(again, seed.folder / "again")
        runs["round 0, then human labels again"] = str(seed.folder / "again")
        for name, path in runs.items():
            counts[name].append(seed.counts(seed.load(Path(path))))
    seeds[0].experiment.print_dice("rounds", counts)


def _held_out(model: Predictor) -> Items:
    """Open the records that a model's threshold was fitted on."""
    calibration = json.loads((model.path / CALIBRATION).read_text())
    data = open_training_data(DataConfig(train=list(calibration["stores"]), holdout=0.0))
    return data.train[np.flatnonzero(np.isin(data.train.record_id, calibration["holdout_records"]))]


def _calibrated(model: Predictor, held: Items) -> Predictor:
    """Give a model, as it averages now, the threshold that is best on the held-out records."""
    detector = model.detect
    assert isinstance(detector, Detector)
    options = EvaluationOptions(model.device, title=None)
    choice = calibrate([HeldOut(detector, held, model.label_offset)], options, gate_when="never").choice
    return replace(model, decision=replace(model.decision, threshold=choice.threshold, gate=0.0))


def _without_shift(model: Predictor) -> Predictor:
    """Treat networks whose masks lie on the labels as if their masks lay on the image."""
    detector = model.detect
    assert isinstance(detector, Detector)
    networks = {name: Network(n.model, n.view) for name, n in detector.networks.items()}  # type: ignore[union-attr, arg-type]
    options = {"top_k": detector.top_k, "symmetries": detector.symmetries}
    unaware = Detector(networks, detector.mask, detector.gate, **options).eval()  # type: ignore[arg-type]
    return replace(model, detect=unaware, mask_shift=model.label_shift)


TABLES = {
    "pipelines": compare_pipelines,
    "thresholds": compare_thresholds,
    "flips": compare_flips,
    "rounds": compare_rounds,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, list(TABLES))
    add_experiment_options(parser, records=160, epochs=2)
    parser.add_argument("--rounds", type=int, default=1, help="rounds of pseudo-labels (default 1)")
    options = parser.parse_args(arguments)
    experiment = experiment_of(options)
    seeds = [Seed(experiment, number) for number in range(experiment.seeds)]
    for table in options.only or TABLES:
        TABLES[table](seeds, options.rounds)


if __name__ == "__main__":
    run_main(main)
