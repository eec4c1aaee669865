"""What stages, thresholds, flips and rounds are worth on the embedded data, at one fixed budget, over seeds.

    python benchmarks/pipelines.py OUT [--records 600] [--epochs 10] [--seeds 3] [--rounds 2] [--set KEY=VALUE ...]

All are scored on the same unseen records, each at what was fitted on its own hold-out, but where a row says otherwise.
Differences are of global Dice with the counts of all seeds summed, their intervals a paired bootstrap over groups. OUT
keeps stores and runs: the command goes on where it was. Synthetic records: what shows here need not show on real ones,
and the other way round.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from contrail_data.build.build import build
from contrail_data.cli.common import print_table
from contrail_data.composites import COMPOSITES
from contrail_data.sources.open import open_source
from contrail_data.store.reader import open_store
from contrail_data.store.settings import StoreSettings
from contrail_data.synthetic.records import write_records
from contrail_train.config.pipelines import get_pipeline, with_pipeline_settings
from contrail_train.config.presets import get_config
from contrail_train.config.schema import DataConfig
from contrail_train.config.settings import read_config, with_settings
from contrail_train.data.items import Items, open_labelled
from contrail_train.data.training_data import open_training_data
from contrail_train.evaluation.batches import EvaluationOptions
from contrail_train.evaluation.calibrate import calibrate
from contrail_train.evaluation.metrics import best_threshold, bootstrap_difference, cross_fitted, dice
from contrail_train.evaluation.score import Scores, assign_folds, gated_counts, score, score_predictor
from contrail_train.inference.detector import Detector, Network
from contrail_train.inference.load import load_predictor
from contrail_train.inference.predictor import Predictor
from contrail_train.runs.directory import CALIBRATION, CONFIG
from contrail_train.training.fit import fit
from contrail_train.workflows.pipeline import train_pipeline
from contrail_train.workflows.retraining import Retraining
from contrail_train.workflows.rounds import run_rounds
from effects import BASE, SIDE

FOLDS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--records", type=int, default=600)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], help="a setting of every run")
    options = parser.parse_args()

    raw, out = options.out / "raw", options.out
    write_records(raw, options.records, validation_fraction=0.4, size=SIDE)
    for split in ("train", "validation"):
        settings = StoreSettings(COMPOSITES["ash"], size=SIDE)
        build(open_source(raw, split, settings.composite), settings, out / f"{split}.zarr", workers=2)
    base = [*BASE, f"epochs={options.epochs}", f"data.train={out / 'train.zarr'}", *options.set]
    unseen = open_store(out / "validation.zarr")
    items = open_labelled([unseen])
    counts: dict[str, dict[str, list[np.ndarray]]] = {name: {} for name in ("pipelines", "flips", "rounds")}
    thresholds: list[list[float]] = []

    def add(table: str, row: str, model: Predictor) -> Scores:
        scores = score_predictor(model, items, fold=assign_folds(items))
        counts[table].setdefault(row, []).append(gated_counts(scores, model.decision.gate))
        return scores

    for seed in range(options.seeds):
        own = [*base, f"seed={seed}"]
        folder = out / f"seed-{seed}"

        def pipeline(name: str, given: list[str], folder: Path = folder) -> Predictor:
            train_pipeline(with_pipeline_settings(get_pipeline(f"unet2d_{name}"), given), folder / name, ["cpu"])
            return load_predictor(folder / name, "cpu").for_store(unseen)

        two_stage = pipeline("v2", own)
        stages = {n: f"{n}.run={folder}/v2/stages/{n}" for n in ("classifier", "all", "positive")}
        single = pipeline("single", [stages["all"]])
        scores = add("pipelines", "one segmenter of all records", single)
        thresholds.append(_thresholds(single, scores, items))
        add("pipelines", "two segmenters, no gate", pipeline("no_gate", [stages["all"], stages["positive"]]))
        add("pipelines", "v1: classifier, then positives", pipeline("v1", [stages["classifier"], stages["positive"]]))
        add("pipelines", "v2: gate of two, mask of two", two_stage)
        add("pipelines", "v2 with a gate only where proven", pipeline_of(pipeline, "proven", stages))
        add("pipelines", "fitted weights, proven gate, all turns", pipeline("fitted", list(stages.values())))

        held = _held_out(single)
        fit(with_settings(get_config("unet2d"), [*own, "augment.label_shift=[0,0]"]), folder / "unshifted")
        for path, what in ((folder / "single", ""), (folder / "unshifted", "trained on labels where they lie, ")):
            for symmetries in ("none", "flips", "dihedral"):
                model = load_predictor(path, "cpu", symmetries).for_store(unseen)
                add("flips", f"{what}{symmetries}", _calibrated(model, held))
        add("flips", "trained so, dihedral, that forgotten", _calibrated(_forgetful(model), held))

        if options.rounds:
            config = with_settings(get_config("unet2d_all"), own)
            told = run_rounds(config, folder / "rounds", rounds=options.rounds, folds=FOLDS, how=Retraining.MIXED)
            runs = {f"round {one['round']}": one["run"] for one in told}
            first, second = run_rounds(
                config, folder / "rounds-pretrain", rounds=1, folds=FOLDS, how=Retraining.PRETRAIN
            )
            runs["round 1, then human labels alone"] = second["run"]
            again = read_config(Path(first["run"]) / CONFIG).model_copy(update={"start": first["run"]})
            fit(again, folder / "again")
            runs["round 0, then human labels again"] = str(folder / "again")
            for name, path in runs.items():
                add("rounds", name, load_predictor(Path(path), "cpu").for_store(unseen))

    what = f"on {len(items)} unseen synthetic records of {SIDE} px, {options.epochs} epochs, {options.seeds} seeds"
    for table, rows in counts.items():
        if rows:
            print_table(f"{table}: global Dice {what}", ["", "by seed", "together", "less first (95 %)"],
                          _rows(rows, items.group))  # fmt: skip
    header = ["threshold of one segmenter", *(f"seed {seed}" for seed in range(options.seeds))]
    names = ["fitted on its hold-out, as used", "cross-fitted on the scored records", "fitted on the scored records"]
    values = [[f"{dices[i]:.4f}" for dices in thresholds] for i in range(3)]
    rows = [[name, *row] for name, row in zip(names, values, strict=True)]
    for name, fitted, cross in (("unseen records", 2, 1), ("the hold-out", 4, 3)):
        optimism = [f"{d[fitted] - d[cross]:+.4f}" for d in thresholds]
        rows.append([f"fitted less cross-fitted, on {name}", *optimism])
    print_table(f"thresholds: global Dice {what}", header, rows)


def pipeline_of(pipeline: Callable[..., Predictor], name: str, stages: dict[str, str]) -> Predictor:
    """v2 with another rule for its gate, from the same stages."""
    folder = Path(next(iter(stages.values())).partition("=")[2]).parents[2]
    config = with_pipeline_settings(get_pipeline("unet2d_v2"), [*stages.values(), "gate_when=proven"])
    train_pipeline(config, folder / name, ["cpu"])
    return load_predictor(folder / name, "cpu")


def _held_out(model: Predictor) -> Items:
    calibration = json.loads((model.path / CALIBRATION).read_text())
    data = open_training_data(DataConfig(train=list(calibration["stores"]), holdout=0.0))
    return data.train[np.flatnonzero(np.isin(data.train.record_id, calibration["holdout_records"]))]


def _thresholds(model: Predictor, scores: Scores, items: Items) -> list[float]:
    """Dice on unseen records: as used, cross-fitted there, fitted there; on the hold-out: cross-fitted, fitted."""
    held = _held_out(model)
    there = score(
        model.detect_on_label_grid, held, EvaluationOptions(model.device, title=None), 0.5, fold=assign_folds(held)
    )
    as_used = float(dice(*gated_counts(scores, model.decision.gate).sum(1)))
    both = [(cross_fitted(s.histogram)[1], best_threshold(s.histogram.sum(0))[1]) for s in (scores, there)]
    return [as_used, *both[0], *both[1]]


def _calibrated(model: Predictor, held: Items) -> Predictor:
    """With the threshold that is best for it as it is asked."""
    detector = model.detect
    assert isinstance(detector, Detector)
    options = EvaluationOptions(model.device, title=None)
    choice = calibrate(detector, held, options, shift=model.label_offset, gate_when="never").choice
    return replace(model, decision=replace(model.decision, threshold=choice.threshold, gate=0.0))


def _forgetful(model: Predictor) -> Predictor:
    """The same networks, taken to answer on the image while they answer on the labels."""
    detector = model.detect
    assert isinstance(detector, Detector)
    networks = {name: Network(n.model, n.view) for name, n in detector.networks.items()}  # type: ignore[union-attr, arg-type]
    options = {"top_k": detector.top_k, "symmetries": detector.symmetries}
    made = Detector(networks, detector.mask, detector.gate, **options).eval()  # type: ignore[arg-type]
    return replace(model, detect=made, mask_shift=model.label_shift)


def _rows(counts: dict[str, list[np.ndarray]], group: np.ndarray) -> list[list[str]]:
    reference = np.sum(next(iter(counts.values())), axis=0)
    rows = []
    for name, by_seed in counts.items():
        together = np.sum(by_seed, axis=0)
        gain = float(dice(*together.sum(1)) - dice(*reference.sum(1)))
        low, high = bootstrap_difference(reference, together, group)
        each = ", ".join(f"{float(dice(*c.sum(1))):.3f}" for c in by_seed)
        differs = f"{gain:+.3f} ({low:+.3f} to {high:+.3f})" if rows else ""
        rows.append([name, each, f"{float(dice(*together.sum(1))):.3f}", differs])
    return rows


if __name__ == "__main__":
    main()
