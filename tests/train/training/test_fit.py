"""The training loop: resuming, memory, accumulation, averages."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from contrail_data.errors import ContrailError
from contrail_data.store.reader import open_store
from helpers.cli import run_command, run_train
from helpers.kills import run_until_killed
from helpers.runs import CONVNEXT, TINY, run_steps, set_options


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_weights(store: Path, finished: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    out = tmp_path / "killed"
    options = set_options(*TINY, f"data.train={store}")
    command = ["-m", "contrail_train", "run", "unet2d", "--out", out, *options, "--checkpoint-minutes", 0]
    # Steps 4 to 6 are the second epoch: the last complete checkpoint lies within it.
    run_until_killed(command, pattern=f"{out}/checkpoints/step-*6.safetensors", events=["os.rename"])
    assert list(out.glob("checkpoints/step-*5.safetensors"))
    assert not (out / "calibration.json").exists()
    failed = run_train("evaluate", out, store)
    assert failed.returncode == 1
    assert "not finished" in failed.stderr
    resumed = run_train("run", "unet2d", "--out", out, *options)
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed at step" in resumed.stderr
    for name in ("best.safetensors", sorted(p.name for p in (finished / "checkpoints").iterdir())[-1]):
        where = name if name.startswith("best") else f"checkpoints/{name}"
        ours, theirs = load_file(out / where), load_file(finished / where)
        assert ours.keys() == theirs.keys()
        for key, tensor in ours.items():
            assert tensor.equal(theirs[key]), key
    assert json.loads((out / "calibration.json").read_text()) == json.loads((finished / "calibration.json").read_text())
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)


@pytest.mark.slow
def test_a_run_trains_on_pseudo_labels(store: Path, finished: Path, tmp_path: Path) -> None:
    pseudo = tmp_path / "train.pseudo.zarr"
    from contrail_data.cli.main import main

    labelled = run_command(main, "pseudo-label", store, "--model", finished, "-o", pseudo)
    assert labelled.returncode == 0, labelled.stderr
    from contrail_train.runs.checkpoint import file_digest

    assert open_store(pseudo).attrs["model"] == file_digest(finished / "best.safetensors")
    out = tmp_path / "run-b"
    done = run_train("run", "unet2d", "--out", out, *set_options(*TINY, "epochs=1", f"data.train=[{store},{pseudo}]"))
    assert done.returncode == 0, done.stderr
    assert "frames to train on" in done.stderr
    assert json.loads((out / "environment.json").read_text())["stores"].keys() == {str(store), str(pseudo)}


@pytest.mark.slow
def test_accumulated_gradients_equal_those_of_the_whole_batch(store: Path, tmp_path: Path) -> None:
    full_batch = run_steps(store, tmp_path / "a", *CONVNEXT)
    micro_batches = run_steps(store, tmp_path / "b", *CONVNEXT, "micro_batch=3")
    for a, b in zip(full_batch, micro_batches, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-3)


@pytest.mark.slow
def test_out_of_memory_halves_the_micro_batch(store: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    import torch

    from contrail_train.models.segmenter import Segmenter

    full_batch = run_steps(store, tmp_path / "a", *CONVNEXT)
    forward = Segmenter.forward

    def limited_forward(self: Segmenter, x_btchw: torch.Tensor, *size: object) -> object:
        if len(x_btchw) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, x_btchw, *size)

    monkeypatch.setattr(Segmenter, "forward", limited_forward)
    halved = run_steps(store, tmp_path / "b", *CONVNEXT)
    assert "from now on 2 samples pass through the model at once" in capsys.readouterr().err
    assert halved[0]["grad_norm"] == pytest.approx(full_batch[0]["grad_norm"], rel=1e-3)


def test_all_epochs_of_a_run_share_how_far_they_read_ahead(store: Path, tmp_path: Path, monkeypatch) -> None:
    from contrail_train.evaluation import score
    from contrail_train.training import fit

    aheads: dict[str, list[object]] = {"training": [], "scoring": []}
    load = fit.load
    for module, name in ((fit, "training"), (score, "scoring")):

        def observed(*args: object, name: str = name, **options: object) -> object:
            aheads[name].append(options["ahead"])
            return load(*args, **options)

        monkeypatch.setattr(module, "load", observed)
    run_steps(store, tmp_path / "run", "epochs=2", "loggers.pictures=0", steps=None)
    for of_epochs in aheads.values():
        assert len(of_epochs) >= 2
        assert len({id(ahead) for ahead in of_epochs}) == 1


def test_a_loss_of_nan_stops_training_and_saves_the_batch(store: Path, tmp_path: Path, monkeypatch) -> None:
    from safetensors import safe_open

    from contrail_train.training import step

    true_loss, calls = step.total_loss, []

    def sometimes_nan(*args: object, **options: object) -> object:
        calls.append(1)
        return true_loss(*args, **options) * (float("nan") if len(calls) == 2 else 1)

    monkeypatch.setattr(step, "total_loss", sometimes_nan)
    with pytest.raises(ContrailError, match=r"loss of step 1 is nan.*nonfinite-step-1\.safetensors"):
        run_steps(store, tmp_path / "run")
    with safe_open(tmp_path / "run/nonfinite-step-1.safetensors", "pt") as file:
        metadata = json.loads(file.metadata()["facts"])
        image = file.get_tensor("image_btchw").numpy()
    ds = open_store(store)
    ids = list(ds["record_id"].values)
    for record, frames in zip(metadata["record_ids"], image, strict=True):
        np.testing.assert_array_equal(frames[0], ds["image"].values[ids.index(record), 4])


@pytest.mark.slow
def test_frozen_parts_keep_their_weights(store: Path, finished: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    initial = load_file(finished / "best.safetensors")
    for name, frozen in (("encoder", "encoder."), ("batch_norm", "running_mean")):
        out = tmp_path / name
        settings = ("epochs=1", f"start={finished}", f"model.freeze=[{name}]", f"data.train={store}")
        done = run_train("run", "unet2d", "--out", out, *set_options(*TINY, *settings))
        assert done.returncode == 0, done.stderr
        final = load_file(out / "best.safetensors")
        same = {key for key, tensor in initial.items() if tensor.equal(final[key])}
        assert {key for key in initial if frozen in key} <= same
        assert any("decoder" in key and "weight" in key for key in initial.keys() - same)


@pytest.mark.slow
def test_training_sees_crops_and_scoring_whole_images_at_the_same_scale(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from contrail_train.models.segmenter import Segmenter

    forward, sides = Segmenter.forward, {True: set(), False: set()}

    def noting(self: Segmenter, x_btchw, size=None):
        sides[self.training].add((x_btchw.shape[-1], size[-1]))
        return forward(self, x_btchw, size)

    monkeypatch.setattr(Segmenter, "forward", noting)
    run_steps(store, tmp_path / "a", "data.crop=32", "model.image_size=96", "augment.redraw=2", steps=4)
    assert sides == {True: {(48, 32)}, False: {(96, 64)}}
    assert "takes multiples of 32 pixels, so crops of 48 are padded by 16" in capsys.readouterr().err
    for settings, message in (
        (["data.crop=64"], "no effect on images of 64"),
        (["model.image_size=32"], "leaves 16 p"),
        (["model.rim=32"], "must be below the 32 pixels of a crop"),
    ):
        with pytest.raises(ContrailError, match=message):
            run_steps(store, tmp_path / "b", "data.crop=32", *settings)


@pytest.mark.slow
def test_an_encoder_frozen_at_first_is_trained_after_that_and_the_run_resumes(store: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from contrail_train.config.presets import get_config
    from contrail_train.config.settings import with_settings
    from contrail_train.models.segmenter import build
    from contrail_train.runs.checkpoint import save_tensors

    initial = build(with_settings(get_config("unet2d"), TINY).model, 3).state_dict()
    save_tensors(tmp_path / "start.safetensors", initial, {})
    settings = (f"start={tmp_path}/start.safetensors", "model.freeze_epochs=1")
    run_steps(store, tmp_path / "whole", *settings, steps=7)
    run_steps(store, tmp_path / "killed", *settings, steps=5)  # leaves the checkpoint of step 3, the end of the epoch
    run_steps(store, tmp_path / "killed", *settings, steps=7)
    first, second = (load_file(tmp_path / f"whole/checkpoints/step-{step:08d}.safetensors") for step in (3, 6))
    encoder = [key for key in initial if key.startswith("encoder.") and initial[key].is_floating_point()]
    assert all(first[f"model.{key}"].equal(initial[key]) for key in encoder)
    assert sum(second[f"model.{key}"].equal(initial[key]) for key in encoder) < len(encoder) / 4
    assert not first["model.mask_head.maps.weight"].equal(initial["mask_head.maps.weight"])
    again = load_file(tmp_path / "killed/checkpoints/step-00000006.safetensors")
    assert all(tensor.equal(second[key]) for key, tensor in again.items())
    assert again.keys() == second.keys()


@pytest.mark.slow
def test_the_best_epochs_are_averaged(store: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    from contrail_train.runs.checkpoint import save_mean

    done = run_train(
        "run", "unet2d", "--out", tmp_path / "run", *set_options(*TINY, "optim.average_best=2", f"data.train={store}")
    )
    assert done.returncode == 0, done.stderr
    with (tmp_path / "run/best.safetensors").open("rb") as file:
        header = file.read(4000)
    assert b"steps" in header
    assert not (tmp_path / "run/candidates").exists()
    for i in range(3):
        save_file({"w": torch.full((2,), float(i**2))}, tmp_path / f"{i}.safetensors", {"facts": "{}"})
    save_mean(tmp_path / "mean.safetensors", [tmp_path / f"{i}.safetensors" for i in range(3)], {})
    assert load_file(tmp_path / "mean.safetensors")["w"].tolist() == pytest.approx([5 / 3] * 2)


def test_patience_ends_a_run_whose_dice_has_stopped_rising_and_a_resumed_one_alike(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from contrail_train.evaluation.score import EpochScores
    from contrail_train.training import fit as loop

    dices = {2: 0.2, 4: 0.4, 6: 0.4, 8: 0.3, 10: 0.9}  # by step: the best is that of the second epoch
    state = {"step": 0}
    step = loop.train_step

    def counting(setup, state_, *args):
        state["step"] = state_.step + 1
        return step(setup, state_, *args)

    monkeypatch.setattr(loop, "train_step", counting)
    monkeypatch.setattr(loop, "epoch_scores", lambda _: EpochScores(dices[state["step"]], None, None, None, None))
    settings = ("epochs=5", "batch_size=8", "patience=2", "loggers.tensorboard=false")
    log = run_steps(store, tmp_path / "whole", *settings, steps=None)
    assert [line["step"] for line in log if "holdout_dice" in line] == [2, 4, 6, 8]
    messages = capsys.readouterr().err
    assert "ended by patience=2" in messages
    assert "best 0.4000 in epoch 2" in messages
    run_steps(store, tmp_path / "killed", *settings, steps=7)
    run_steps(store, tmp_path / "killed", *settings, steps=None)
    ours, theirs = (tmp_path / run / "best.safetensors" for run in ("whole", "killed"))
    assert ours.read_bytes() == theirs.read_bytes()
    assert "patience=2" in capsys.readouterr().err


def test_patience_without_effect_is_refused(store: Path, tmp_path: Path) -> None:
    for settings, message in (
        (["patience=3"], "no effect in 3 epochs"),
        (["patience=1", "data.holdout=0"], "needs held-out records"),
    ):
        with pytest.raises(ContrailError, match=message):
            run_steps(store, tmp_path / "run", *settings)
