"""Rounds of pseudo-labelling: train, label what was left out, train again on both; each scored on human labels.

    folds.csv             which fold a human-labelled record is in; the last fold is the hold-out of every round
    round-0/run           trained on human labels alone
    round-1/fold-0/run    as the round before, but without fold 0 (held out), to label it
    round-1/fold-0/*.zarr its labels of fold 0, one store for each of data.train
    round-1/run           trained on human labels and the labels of round 1
    rounds.json           the table

No record is labelled by a model that was trained on it, and none of the labels come from a model that was trained on a
held-out record: the models of a round that leave fold 0 out take their pseudo-labels, from the second round on, from
the one that left it out before. Opening the data checks this by what the stores of labels say of their models.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.catalog.catalog import open_named
from contrail_data.errors import ContrailError
from contrail_data.splits.folds import folds as make_folds
from contrail_data.storage.files import write_atomically
from contrail_data.store.reader import read_scalars
from contrail_data.store.schema import kind
from contrail_train.config.schema import DataConfig, RunConfig
from contrail_train.config.settings import differences, parse_config
from contrail_train.data.training_data import open_training_data
from contrail_train.evaluation.metrics import bootstrap_difference
from contrail_train.inference.load import load_predictor
from contrail_train.runs.directory import claim, hold
from contrail_train.training.fit import fit

How = Literal["mixed", "pretrain"]


def run_rounds(
    config: RunConfig, out: Path, rounds: int, folds: int, how: How, command: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Train `rounds` rounds after the first; returns what each is and scored, also in `rounds.json`.

    how: "mixed": on human and pseudo-labels at once, weighted by `data.pseudo.weight`; "pretrain": so, and from these
    weights on human labels alone. Runs on both take as many steps as one on human labels alone. Samples of data.train
    without a human label are labelled by the round before.
    Resumable. Raises ContrailError for data that cannot be split so.
    """
    data = config.data
    if data.validation or data.folds is not None:
        raise ContrailError("rounds make their own folds: leave data.validation and data.folds away")
    names = [name for name in data.train if kind(open_named(name)) == "samples"]
    if len(names) < len(data.train):
        raise ContrailError("rounds make their own pseudo-labels: name stores of samples alone in data.train")
    if config.model.head == "record":
        raise ContrailError("model.head=record has no masks to label with: choose a preset of a segmenter")
    settings = {"config": config.model_dump(mode="json", exclude={"device"}), "folds": folds, "how": how}
    plan = out / "rounds-of.json"
    claim(out, plan.name, "folder of rounds")
    if plan.is_file() and (begun := json.loads(plan.read_bytes())) != settings:
        differs = [
            f"--{key}={begun[key]}, not {settings[key]}" for key in ("folds", "how") if begun[key] != settings[key]
        ]
        differs += differences(parse_config(begun["config"], str(plan)), config.model_copy(update={"device": "auto"}))
        raise ContrailError(f"{out}: holds rounds with {'; '.join(differs)}: choose another --out")
    with contextlib.closing(hold(out)):
        write_atomically(plan, [json.dumps(settings, indent=1).encode()])
        table = out / "folds.csv"
        fold_of = _write_folds(config, folds, table)

        def part(fold: int, leave_out: Sequence[int], labels: Sequence[str]) -> RunConfig:
            """The run that holds a fold out, on human labels and these."""
            own = {
                "folds": str(table),
                "holdout": DataConfig().holdout,
                "fold": fold,
                "leave_out": list(leave_out),
                "train": [*names, *labels],
            }
            return config.model_copy(update={"data": data.model_copy(update=own)})

        def train(run: RunConfig, folder: Path, labels: Sequence[str]) -> Path:
            human = run
            if labels:
                parts = open_training_data(run.data)
                share = 1 - parts.pseudo_labelled / len(parts.train)
                run = run.model_copy(update={"epochs": max(1, round(run.epochs * share))})
            if labels and how == "pretrain":
                fit(run, folder / "pretrained", command=command)
                alone = run.data.model_copy(update={"train": names})
                run = human.model_copy(update={"data": alone, "start": str(folder / "pretrained")})
            fit(run, folder / "run", command=command)
            return folder / "run"

        _say(f"round 0: human labels alone; fold {folds} is held out of everything and scored")
        teacher = train(part(folds, [], []), out / "round-0", [])
        told = [_told(0, teacher, [], None)]
        before: list[list[str]] = [[] for _ in range(folds)]  # by fold that is left out: labels to train on
        for number in range(1, rounds + 1):
            everything: list[str] = []
            after: list[list[str]] = []
            unlabelled = _label(names, None, fold_of, teacher, out / f"round-{number}" / "unlabelled", command)
            for fold in range(folds):
                folder = out / f"round-{number}" / f"fold-{fold}"
                _say(f"round {number}: a model without fold {fold}, to label it")
                model = train(part(fold, [folds], before[fold]), folder, before[fold])
                everything += _label(names, [fold], fold_of, model, folder / "labels", command)
                if number < rounds:
                    others = [f for f in range(folds) if f != fold]
                    after.append(_label(names, others, fold_of, model, folder / "labels-of-others", command))
            everything += unlabelled
            _say(f"round {number}: human labels and those of round {number}")
            run = part(folds, [], everything)
            teacher = train(run, out / f"round-{number}", everything)
            told.append(_told(number, teacher, everything, told[0]["run"]))
            before = after
        write_atomically(out / "rounds.json", [json.dumps(told, indent=1).encode()])
    return told


def _say(text: str) -> None:
    print(f"---- {text}", file=sys.stderr, flush=True)


def _write_folds(config: RunConfig, folds: int, table: Path) -> dict[str, int]:
    """Folds of the records to train on, and a last one of those that `data.holdout` holds out."""
    whole = config.data.model_copy(update={"records": "all", "frames": [0]})
    parts = open_training_data(whole)
    if not len(parts.holdout):
        raise ContrailError("data.holdout=0 leaves nothing to score rounds on: raise it")
    fold_of = dict.fromkeys(parts.holdout.record_id.tolist(), folds)
    inner = make_folds(parts.train.group, parts.train.positive, folds)
    fold_of |= dict(zip(parts.train.record_id.tolist(), inner.tolist(), strict=True))
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["record_id", "fold"])
    rows.writerows(sorted(fold_of.items()))
    write_atomically(table, [text.getvalue().encode()])
    return fold_of


def _label(
    names: Sequence[str],
    folds: Sequence[int] | None,
    fold_of: dict[str, int],
    model: Path,
    folder: Path,
    command: Sequence[str],
) -> list[str]:
    """Stores of a model's labels of the records of folds, or of those that no human labelled; one for each of `names`
    that has any.
    """
    made = []
    predictor = None
    for number, name in enumerate(names):
        store = open_named(name)
        rows = _rows(read_scalars(store), folds, fold_of)
        if not len(rows):
            continue
        predictor = predictor or load_predictor(model)
        folder.mkdir(parents=True, exist_ok=True)
        out = folder / f"{number}.zarr"
        predictor.label(store, out, "pseudo-labels", frames="all", samples=rows, command=command)
        made.append(str(out))
    return made


def _rows(records: xr.Dataset, folds: Sequence[int] | None, fold_of: dict[str, int]) -> npt.NDArray[np.int64]:
    human = records["label_source"].values == "human"
    if folds is None:
        return np.flatnonzero(~human)
    fold = np.array([fold_of.get(str(record_id), -1) for record_id in records["record_id"].values])
    return np.flatnonzero(human & np.isin(fold, list(folds)))


def _told(number: int, run: Path, labels: Sequence[str], first: str | None) -> dict[str, Any]:
    """What a round is and scored, and how it differs from the first."""
    calibration = json.loads((run / "calibration.json").read_bytes())
    report = calibration["holdout"]
    told: dict[str, Any] = {"round": number, "run": str(run), "labels": list(labels), "holdout": report}
    if first is not None and report is not None:
        base = json.loads((Path(first) / "calibration.json").read_bytes())
        counts = [np.array(c["holdout_counts"]) for c in (base, calibration)]
        low, high = bootstrap_difference(counts[0], counts[1], np.array(calibration["holdout_groups"]))
        gain = report["dice"] - base["holdout"]["dice"]
        told |= {"gain": gain, "gain_low": low, "gain_high": high}
    return told
