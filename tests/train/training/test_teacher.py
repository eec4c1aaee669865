"""Distillation: what is learnt from a teacher's probabilities, and that they lie where the labels lie."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from contrail_data.errors import ContrailError
from contrail_data.labels.predictor import LABELLED_FRAME, Decision, Labeller, Predicted
from contrail_data.labels.write import write_labels
from contrail_data.store.reader import open_store
from contrail_data.store.schema import Kind
from contrail_train.config.data import DataConfig
from contrail_train.data.augment import augment_labels, to_label_frame
from contrail_train.data.draw import draw
from contrail_train.data.loader import load
from contrail_train.data.training_data import TrainingData, open_training_data
from contrail_train.inference.detector import Prediction
from contrail_train.inference.predictor import Predictor
from contrail_train.runs.distributed import ALONE, Ranks
from contrail_train.training import teacher
from contrail_train.training.teacher import ask, open_teacher
from helpers.augmentation import DIHEDRAL, blob, only
from helpers.batches import CPU
from helpers.cli import run_train
from helpers.labels import labels_of
from helpers.runs import SHORT, run_steps, set_options

PLACE = 6.0, -9.0
"""Where the detectors of these tests see a contrail in every image, pixels from its centre."""


def detector(store: Path, mask_shift: tuple[float, float] = (0.0, 0.0), trained: tuple[str, ...] = ()) -> Predictor:
    """Return a detector of a blob at `PLACE` in the image; with a shift it draws its masks that far off."""
    opened = open_store(store)

    def detect(window_btchw: torch.Tensor, valid_bhw: torch.Tensor | None = None) -> Prediction:
        height, width = window_btchw.shape[-2:]
        probability = blob(height, width, PLACE[0] + mask_shift[0], PLACE[1] + mask_shift[1])[0]
        one_b = torch.ones(len(window_btchw))
        return Prediction(probability.expand(len(window_btchw), -1, -1), one_b, one_b)

    return Predictor(
        path=store.parent, detect=detect, offsets=(0,), mask_shift=mask_shift, device=CPU,
        composite=opened.attrs["composite"], label_shift=(0.5, 0.5), decision=Decision(0.5, 0.0, 100, "sha256:blob"),
        trained_records=frozenset(trained), calibrated_records=frozenset(), head="mask", native=False, pixel=7812.5,
        size=64, dtype="uint8",
    )  # fmt: skip


def taught_by(model: Predictor, config: DataConfig, folder: Path, monkeypatch: pytest.MonkeyPatch) -> TrainingData:
    """Open the data of a run that learns from a detector."""
    monkeypatch.setattr(teacher, "load_model", lambda *_: model)
    opened, data = open_teacher(config, open_training_data(config), CPU, ALONE)
    assert opened is not None
    return ask(opened, data, config, folder)


def targets(data: TrainingData, rows: np.ndarray) -> torch.Tensor:
    (batch,) = load(data.train, [rows], CPU, 1, 1)
    return batch.target_bkhw.clone()


@pytest.fixture
def run(tmp_path: Path) -> str:
    """The name of what looks like a run directory."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").touch()
    return str(tmp_path / "run")


@pytest.mark.parametrize("mask_shift", [(0.0, 0.0), (0.5, 0.5)])
def test_the_teachers_contrails_are_learnt_where_it_sees_them_in_the_image(
    mask_shift: tuple[float, float], store: Path, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels lie half a pixel down and right of the image. In its frame the blob returns to where it was seen."""
    config = DataConfig(train=[str(store)], teacher=[run], teacher_weight=1.0)
    data = taught_by(detector(store, mask_shift), config, tmp_path / "teacher", monkeypatch)
    (batch,) = load(data.train, [np.arange(8)], CPU, 1, 1)
    drawn = dataclasses.replace(draw(only(), 8, 64, 64, seed=0, step=0), matrix_b23=torch.stack(DIHEDRAL))
    given = dataclasses.replace(batch, target_bkhw=batch.target_bkhw.float() / 255)
    moved_bkhw = augment_labels(given, drawn, only(), data.label_shift).target_bkhw
    for moved_1hw, matrix in zip(moved_bkhw, drawn.matrix_b23, strict=True):
        y, x = torch.linalg.solve(matrix[:, :2], torch.tensor(PLACE, dtype=torch.float64)).tolist()
        grid = torch.arange(64) - 31.5
        mass = moved_1hw[0] / moved_1hw.sum()
        assert float((mass.sum(1) * grid).sum()) == pytest.approx(y, abs=0.02)
        assert float((mass.sum(0) * grid).sum()) == pytest.approx(x, abs=0.02)


def test_labels_are_mixed_by_weight_and_held_out_records_keep_theirs(
    store: Path, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = DataConfig(train=[str(store)], holdout=0.3, target="mean")
    own = open_training_data(plain)
    every = np.arange(len(own.train))
    config = plain.model_copy(update={"teacher": [run], "teacher_weight": 0.25})
    data = taught_by(detector(store), config, tmp_path / "teacher", monkeypatch)
    assert data.taught == len(every)
    answer_1hw = 255 * to_label_frame(blob(64, 64, *PLACE), (0.5, 0.5))[0]
    mixed = 0.75 * targets(own, every) + 0.25 * answer_1hw
    torch.testing.assert_close(targets(data, every).float(), mixed, rtol=0, atol=1.0)
    (held,) = load(data.holdout, [np.arange(len(data.holdout))], CPU, 1, 1)
    (labels,) = load(own.holdout, [np.arange(len(own.holdout))], CPU, 1, 1)
    assert torch.equal(held.target_bkhw, labels.target_bkhw)
    assert data.digests == own.digests | {run: "sha256:blob"}


def test_a_store_of_predictions_teaches_the_frames_that_it_has(store: Path, tmp_path: Path) -> None:
    def half(samples: list[int], x_btchw: np.ndarray, valid_bhw: np.ndarray | None) -> Predicted:
        score = np.where(np.array(samples) % 2, 0.9, 0.1).astype(np.float32)
        return Predicted(np.full((len(score), *x_btchw.shape[3:]), 0.5, np.float32), score, np.ones_like(score))

    labeller = Labeller(predict=half, decision=Decision(0.4, 0.6, 100, "sha256:half"), trained_records=("elsewhere",))
    opened, out = open_store(store), str(tmp_path / "answers.zarr")
    write_labels(opened, labeller, out, kind=Kind.PREDICTIONS, frames=LABELLED_FRAME, samples=np.arange(12))
    config = DataConfig(train=[str(store)], holdout=0, teacher=[out], teacher_weight=1.0)
    _, data = open_teacher(config, open_training_data(config), CPU, ALONE)
    assert data.taught == 12
    assert data.labellers_saw == {"elsewhere"}
    assert data.digests[out] == open_store(out).attrs["digest"]
    learnt = targets(data, np.argsort(data.train.sample))
    for sample in range(16):
        if sample < 12:  # the gate rejects every second record
            assert learnt[sample].unique().tolist() == [128 if sample % 2 else 0]
        else:
            np.testing.assert_array_equal(learnt[sample, 0], 255 * opened["mask"].values[sample])
    again = str(tmp_path / "again.zarr")
    write_labels(opened, detector(store).labeller_for(opened), again, kind=Kind.PREDICTIONS, frames=LABELLED_FRAME)
    two = config.model_copy(update={"teacher": [out, again]})
    with pytest.raises(ContrailError, match="a second answer to the same frames"):
        open_teacher(two, open_training_data(two), CPU, ALONE)


def test_teachers_that_leak_or_do_not_fit_are_refused(
    store: Path, unseen: Path, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DataConfig(train=[str(store)], holdout=0.3, teacher=[run])
    data = open_training_data(config)
    held = str(data.holdout.record_id[0])
    leaky = detector(store, trained=(held,))
    monkeypatch.setattr(teacher, "load_model", lambda *_: leaky)
    with pytest.raises(ContrailError, match=rf"trained on 1 of {len(data.holdout)} held-out records, such as {held}"):
        open_teacher(config, data, CPU, ALONE)
    allowed = open_teacher(config.model_copy(update={"leaks": "allow"}), data, CPU, ALONE)[1]
    assert held in allowed.labellers_saw
    with pytest.raises(ContrailError, match=r"several processes cannot ask it; .*name that store"):
        open_teacher(config, data, CPU, Ranks(0, 2))
    with pytest.raises(ContrailError, match="must be the only teacher"):
        open_teacher(config.model_copy(update={"teacher": [run, "answers.zarr"]}), data, CPU, ALONE)
    pseudo = str(labels_of(store, tmp_path / "pseudo.zarr"))
    with pytest.raises(ContrailError, match="labelled frames keep their human label"):
        open_teacher(config.model_copy(update={"teacher": [pseudo]}), data, CPU, ALONE)
    other = str(tmp_path / "other.zarr")
    labeller = detector(unseen).labeller_for(open_store(unseen))
    write_labels(open_store(unseen), labeller, other, kind=Kind.PREDICTIONS, frames=LABELLED_FRAME)
    with pytest.raises(ContrailError, match=r"predicts none of the labelled frames of data\.train"):
        open_teacher(config.model_copy(update={"teacher": [other]}), data, CPU, ALONE)


@pytest.mark.slow
def test_a_resumed_run_learns_from_the_answers_it_has(
    store: Path, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file

    model, asked = detector(store), []

    def noting(*arguments: torch.Tensor) -> Prediction:
        asked.append(1)
        return detector(store).detect(*arguments)

    monkeypatch.setattr(teacher, "load_model", lambda *_: dataclasses.replace(model, detect=noting))
    run_steps(store, tmp_path / "whole", f"data.teacher={run}", steps=7)
    count = len(asked)
    run_steps(store, tmp_path / "killed", f"data.teacher={run}", steps=4)
    run_steps(store, tmp_path / "killed", f"data.teacher={run}", steps=7)
    assert len(asked) == 2 * count > 0
    whole, killed = (load_file(tmp_path / f"{n}/checkpoints/step-00000006.safetensors") for n in ("whole", "killed"))
    assert all(tensor.equal(killed[key]) for key, tensor in whole.items())


@pytest.mark.slow
def test_a_run_learns_from_a_finished_run(store: Path, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "student"
    options = set_options(*SHORT, f"data.train={store}", f"data.teacher={finished}", "data.teacher_weight=0.7")
    done = run_train("run", "unet2d", "--out", out, *options)
    assert done.returncode == 0, done.stderr
    assert f"learn 70 % from the teacher, {finished}" in done.stderr
    environment, calibration = (json.loads((out / f"{n}.json").read_text()) for n in ("environment", "calibration"))
    weights = json.loads((finished / "calibration.json").read_text())["weights"]
    assert environment["stores"][str(finished)] == calibration["stores"][str(finished)] == weights
    assert not (out / "teacher").exists()
    dry = run_train("run", "unet2d", "--dry-run", *options)
    assert dry.returncode == 0, dry.stderr
    assert "teacher" in dry.stdout
