"""Rounds of pseudo-labelling: train, label what was left out, train again on both; each is scored on human labels.

    folds.csv             the fold of each human-labelled record; the last fold is the hold-out of every round
    round-0/run           trained on human labels only
    round-1/fold-0/run    like the round before, but without fold 0, which it holds out and then labels
    round-1/fold-0/labels its labels of fold 0, one store for each of data.train
    round-1/run           trained on human labels and the labels of round 1
    rounds.json           the scores of each round

No record is labelled by a model that was trained on it, and no label comes from a model that was trained on a held-out
record: from the second round on, the model that leaves out fold 0 takes the pseudo-labels of the model that left it out
in the round before. Opening the data checks this against the records that each store of labels lists as trained on.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired

import numpy as np
from typing_extensions import TypedDict  # pydantic does not take that of Python 3.11

from contrail_data.catalog.catalog import open_named
from contrail_data.errors import ContrailError
from contrail_data.labels.write import write_labels
from contrail_data.settings.parse import validated
from contrail_data.splits.folds import make_folds
from contrail_data.storage.files import write_atomically, write_csv
from contrail_data.store.reader import read_scalars
from contrail_data.store.schema import Kind
from contrail_train.config.data import DataConfig, PseudoConfig
from contrail_train.config.schema import RunConfig
from contrail_train.config.settings import differences
from contrail_train.data.training_data import open_training_data
from contrail_train.evaluation.intervals import difference_interval
from contrail_train.inference.load import load_model
from contrail_train.runs.begun import locked_directory
from contrail_train.runs.calibration import ScoreValues, read_calibration
from contrail_train.runs.distributed import ALONE
from contrail_train.runs.sealed import read_json, write_json
from contrail_train.training.fit import fit
from contrail_train.workflows.retraining import SETTINGS, Retraining, check_rounds

FOLDS = "folds.csv"


class RoundResult(TypedDict):
    """A row of `rounds.json`."""

    round: int
    run: str
    """Run directory of the round."""
    labels: list[str]
    """Stores of pseudo-labels that it was trained on."""
    holdout: ScoreValues | None
    """Scores on the records held out of every round."""
    gain: NotRequired[float]
    """Dice minus that of round 0."""
    gain_low: NotRequired[float]
    gain_high: NotRequired[float]
    """Bounds of the 95 % interval of the gain, which needs several groups with contrails."""


class _Settings(TypedDict):
    config: dict[str, Any]
    folds: int
    how: str


@dataclass(frozen=True, kw_only=True)
class _Rounds:
    """What all rounds have in common."""

    config: RunConfig
    out: Path
    folds: int
    """Models per round; the fold of this number is held out of everything."""
    how: Retraining
    fold_of: dict[str, int]
    """Fold of each human-labelled record."""


def run_rounds(config: RunConfig, out: Path, *, rounds: int, folds: int, how: Retraining) -> list[RoundResult]:
    """Train a model, and then again for a number of rounds, on pseudo-labels of models that have not seen the record.

    Runs on human labels and pseudo-labels take as many steps as one on human labels only. Samples without a human label
    are labelled by the round before. An interrupted call can be repeated.

    Args:
        config: Settings of all runs.
        out: Directory of the rounds.
        rounds: Number of rounds after the first one, which has human labels only.
        folds: Models per round; each labels the records that it has not seen.
        how: How the pseudo-labels are used.

    Returns:
        What each round scored; also in `rounds.json`.

    Raises:
        ContrailError: If the settings do not allow it, or `out` holds something else.
    """
    check_rounds(config, open_named)
    with locked_directory(out, SETTINGS, "folder of rounds"):
        _check_settings(config, out, folds, how)
        fold_of = _write_folds(config, folds, out / FOLDS)
        plan = _Rounds(config=config, out=out, folds=folds, how=how, fold_of=fold_of)
        ALONE.say(f"---- round 0: human labels only; fold {folds} is held out of everything and scored")
        teacher = _train(plan, folds, [], out / "round-0")
        results = [_result(0, teacher, [], None)]
        labels_by_fold: list[list[str]] = [[] for _ in range(folds)]
        for number in range(1, rounds + 1):
            labels, labels_by_fold = _label_round(plan, number, teacher, labels_by_fold, is_last=number == rounds)
            ALONE.say(f"---- round {number}: human labels and those of round {number}")
            teacher = _train(plan, folds, labels, out / f"round-{number}")
            results.append(_result(number, teacher, labels, Path(results[0]["run"])))
        write_atomically(out / "rounds.json", [json.dumps(results, indent=1).encode()])
    return results


def _check_settings(config: RunConfig, out: Path, folds: int, how: Retraining) -> None:
    """Write the settings of the rounds, or check that they are those of the rounds begun in this directory."""
    path = out / SETTINGS
    settings = {"config": config.model_dump(mode="json", exclude={"device"}), "folds": folds, "how": how}
    begun: Mapping[str, object] = settings
    if path.is_file():
        begun = read_json(path, _Settings, f"remove {out} and begin again")
    if begun != settings:
        options = [key for key in ("folds", "how") if begun[key] != settings[key]]
        differing = [f"--{key}={begun[key]}, not {settings[key]}" for key in options]
        begun_config = validated(RunConfig, begun["config"], str(path))
        differing += differences(begun_config, config.model_copy(update={"device": begun_config.device}))
        raise ContrailError(f"{out}: holds rounds with {'; '.join(differing)}; choose another --out")
    write_json(path, settings)


def _write_folds(config: RunConfig, folds: int, table: Path) -> dict[str, int]:
    """Divide the training records into folds; the last fold is what `data.holdout` holds out."""
    data = open_training_data(config.data.model_copy(update={"records": "all", "frames": [0]}))
    if not len(data.holdout):
        raise ContrailError("data.holdout=0: leaves no records to score rounds on; raise it")
    fold_of = dict.fromkeys(data.holdout.record_id.tolist(), folds)
    inner = make_folds(data.train.group, data.train.positive, folds)
    fold_of |= dict(zip(data.train.record_id.tolist(), inner.tolist(), strict=True))
    write_csv(table, ("record_id", "fold"), sorted(fold_of.items()))
    return fold_of


def _train(plan: _Rounds, fold: int, labels: Sequence[str], folder: Path, leave_out: Sequence[int] = ()) -> Path:
    """Train a run that holds a fold out, on human labels and these; return its directory."""
    data = plan.config.data.model_copy(
        update={
            "folds": str(plan.out / FOLDS),
            "holdout": DataConfig().holdout,
            "fold": fold,
            "leave_out": list(leave_out),
            "train": [*plan.config.data.train, *labels],
            "pseudo": plan.config.data.pseudo if labels else PseudoConfig(),
        }
    )
    run = plan.config.model_copy(update={"data": data})
    if labels:
        parts = open_training_data(data)
        share = (len(parts.train) - parts.pseudo_labelled) / len(parts.epochs)
        epochs = max(1, round(run.epochs * share))
        frozen = min(round(run.model.freeze_epochs * share), epochs - 1)
        model = run.model.model_copy(update={"freeze_epochs": frozen})
        run = run.model_copy(update={"epochs": epochs, "model": model})
        if plan.how is Retraining.PRETRAIN:
            fit(run, folder / "pretrained")
            human = data.model_copy(update={"train": plan.config.data.train, "pseudo": PseudoConfig()})
            run = plan.config.model_copy(update={"data": human, "start": str(folder / "pretrained")})
    fit(run, folder / "run")
    return folder / "run"


def _label_round(
    plan: _Rounds, number: int, teacher: Path, labels_by_fold: Sequence[Sequence[str]], *, is_last: bool
) -> tuple[list[str], list[list[str]]]:
    """Train the models of a round and label with them.

    `labels_by_fold` are the labels that each was given by the round before. Returns the labels of all records, and, for
    the next round, the labels of the other folds by the model that leaves each fold out.
    """
    labels: list[str] = []
    labels_of_others: list[list[str]] = []
    unlabelled = _label(plan, None, teacher, plan.out / f"round-{number}" / "unlabelled")
    for fold in range(plan.folds):
        folder = plan.out / f"round-{number}" / f"fold-{fold}"
        ALONE.say(f"---- round {number}: a model without fold {fold}, to label it")
        model = _train(plan, fold, labels_by_fold[fold], folder, leave_out=[plan.folds])
        labels += _label(plan, [fold], model, folder / "labels")
        if not is_last:
            others = [other for other in range(plan.folds) if other != fold]
            labels_of_others.append(_label(plan, others, model, folder / "labels-of-others"))
    return labels + unlabelled, labels_of_others


def _label(plan: _Rounds, folds: Collection[int] | None, model: Path, folder: Path) -> list[str]:
    """Label the records of some folds, or those without a human label; one store for each of `data.train` with any."""
    written = []
    for number, name in enumerate(plan.config.data.train):
        store = open_named(name)
        records = read_scalars(store)
        fold = np.array([plan.fold_of.get(str(record_id), -1) for record_id in records["record_id"].values])
        human = records["label_source"].values == "human"
        rows = np.flatnonzero(~human if folds is None else human & np.isin(fold, list(folds)))
        if len(rows):
            folder.mkdir(parents=True, exist_ok=True)
            out = folder / f"{number}.zarr"
            labeller = load_model(model).labeller_for(store)
            write_labels(store, labeller, out, kind=Kind.PSEUDO_LABELS, samples=rows)
            written.append(str(out))
    return written


def _result(number: int, run: Path, labels: list[str], first: Path | None) -> RoundResult:
    """What a round scored, and by how much it differs from the first."""
    calibration = read_calibration(run)
    result: RoundResult = {"round": number, "run": str(run), "labels": labels, "holdout": calibration["holdout"]}
    baseline = read_calibration(first) if first is not None else None
    if baseline and baseline["holdout"] and calibration["holdout"]:
        counts = [np.array(c["holdout_counts"]) for c in (baseline, calibration)]
        result["gain"] = calibration["holdout"]["dice"] - baseline["holdout"]["dice"]
        interval = difference_interval(counts[0], counts[1], np.array(calibration["holdout_groups"]))
        if interval is not None:
            result["gain_low"], result["gain_high"] = interval
    return result
