"""Pipelines of several stages."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from contrail_data.labels.predictor import Symmetries
from contrail_data.process import exit_on_sigterm
from contrail_data.store.logits import decode
from contrail_data.store.reader import open_store
from contrail_train.config.pipelines import PipelineConfig, get_pipeline, with_pipeline_settings
from contrail_train.inference.load import load_model, load_run, pipeline_detector
from contrail_train.runs.calibration import finish, read_calibration
from contrail_train.workflows import pipeline as pipeline_module
from contrail_train.workflows.pipeline import held_out_by_all
from helpers.cli import run_command, run_train
from helpers.items import labelled_scene
from helpers.kills import environment_with_hooks
from helpers.runs import SHORT, set_options


@pytest.mark.slow
def test_a_pipeline_predicts_the_mean_of_its_stages(pipeline: Path, unseen: Path, tmp_path: Path) -> None:
    parts = {}
    for name in ("all", "positive"):
        assert run_train("predict", pipeline / "stages" / name, unseen, "-o", tmp_path / name).returncode == 0
        parts[name] = decode(open_store(tmp_path / name)["logit"].values)
    assert run_train("predict", pipeline, unseen, "-o", tmp_path / "both").returncode == 0
    both = open_store(tmp_path / "both")
    mean = (parts["all"] + parts["positive"]) / 2
    np.testing.assert_allclose(decode(both["logit"].values), mean, rtol=2e-3)
    table = tmp_path / "records.csv"
    assert run_train("predict", pipeline / "stages/classifier", unseen, "-o", table).returncode == 0
    with table.open() as file:
        classified = np.array([float(row["probability"]) for row in csv.DictReader(file)])
    top = open_store(tmp_path / "all")["frame_score"].values[:, 0]
    np.testing.assert_allclose(both["frame_score"].values[:, 0], (classified + top) / 2, atol=1e-5)
    shut = both["frame_score"].values[:, 0] < both.attrs["gate"]
    assert not both["frame_mask"].values[shut].any()
    done = run_train("evaluate", pipeline, unseen, "--worst", 1, "-o", tmp_path)
    assert done.returncode == 0, done.stderr
    (page,) = tmp_path.glob("evaluation-*.html")
    assert "<h3>Stage classifier</h3>" in page.read_text()
    for option in (("--worst", 8), ("--min-pixels", 1), ("--consistent", 3)):
        idle = run_train("evaluate", pipeline / "stages/classifier", unseen, *option)
        assert idle.returncode == 2
        assert f"{option[0]}: has no effect on a model that classifies records" in idle.stderr


CHILD = """
import os, signal, sys, time
from contrail_data.process import exit_on_sigterm
try:
    with exit_on_sigterm():
        print("error: of an earlier try", flush=True)
        os.kill(os.getppid(), signal.SIGTERM)
        time.sleep(600)
finally:
    open(sys.argv[1], "w").write("stopped in order")
"""


def test_sigterm_ends_a_pipeline_and_the_processes_of_its_stages(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One stage signals that it is at work by sending SIGTERM to the pipeline."""
    started = []

    def start(command: list[object], **options: object) -> subprocess.Popen[bytes]:
        started.append(command)
        return subprocess_popen([sys.executable, "-c", CHILD, str(tmp_path / f"{len(started)}.txt")], **options)

    subprocess_popen = subprocess.Popen
    monkeypatch.setattr(pipeline_module.subprocess, "Popen", start)
    config = with_pipeline_settings(get_pipeline("unet2d_single"), [*SHORT, f"data.train={store}"])
    with pytest.raises(SystemExit, match="143"), exit_on_sigterm():
        pipeline_module.train_pipeline(config, tmp_path / "p", ["cpu", "cpu"])
    assert (tmp_path / "1.txt").read_text() == "stopped in order"
    assert started[0][1:5] == ["-m", "contrail_train.cli.stage", str(os.getpid()), "run"]


def test_masks_lie_as_in_the_calibration_whichever_weights_were_fitted(finished: Path, tmp_path: Path) -> None:
    """A stage that learned the labels' offset is moved before masks are averaged, even if it is the only one left."""
    moved = Path(shutil.copytree(finished, tmp_path / "moved"))
    finish(moved, read_calibration(moved) | {"off": [0.5, 0.5]})
    paths = {"moved": moved, "plain": finished}
    runs = {name: load_run(path, torch.device("cpu")) for name, path in paths.items()}
    stages = {name: {"run": str(path)} for name, path in paths.items()}
    config = PipelineConfig.model_validate({"stages": stages, "mask": [*stages]})
    window_btchw = torch.randint(0, 256, (2, 1, 3, 64, 64), dtype=torch.uint8)
    both, left = (
        pipeline_detector(runs, config, mask, {}, Symmetries.NONE) for mask in ({"plain": 1, "moved": 1}, {"moved": 1})
    )
    assert both.mask_shift == left.mask_shift
    outputs = [detector.network_outputs(window_btchw)[0]["moved"] for detector in (both, left)]
    torch.testing.assert_close(*outputs)


def test_a_stage_without_its_pipeline_does_not_start() -> None:
    stage = [sys.executable, "-m", "contrail_train.cli.stage", "1", "presets", "--help"]
    assert subprocess.run(stage, capture_output=True).stdout == b""


@pytest.mark.slow
def test_a_pipeline_with_a_killed_stage_resumes_to_the_same_result(
    store: Path, pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "killed"
    options = set_options(*SHORT, f"data.train={store}", f"classifier.run={pipeline}/stages/classifier")
    # One process trains the stage that is killed, and another one the stage of all records.
    kill = environment_with_hooks(pattern=f"{out}/stages/positive/*", number=3, group=False)
    with monkeypatch.context() as patch:
        for name, value in kill.items():
            patch.setenv(name, value)
        killed = run_train("pipeline", "unet2d_v2", "--out", out, *options, *["--device", "cpu"] * 2)
    assert "stage positive: it ended with exit code -9" in killed.stderr
    assert (out / "stages/all/calibration.json").exists()
    assert (out / "stages/positive").exists()
    assert not (out / "calibration.json").exists()
    done = run_train("pipeline", "unet2d_v2", "--out", out, *options)  # from here on, stages are trained in turn
    assert done.returncode == 0, done.stderr
    one, other = (json.loads((path / "calibration.json").read_text()) for path in (out, pipeline))
    assert one["config"] != other["config"]  # only one of them names a finished classifier
    assert {**one, "config": "", "digest": ""} == {**other, "config": "", "digest": ""}
    for weights in ("stages/all/best.safetensors", "stages/positive/best.safetensors"):
        assert (out / weights).read_bytes() == (pipeline / weights).read_bytes()
    again = run_train("pipeline", "unet2d_v2", "--out", out, *options)
    assert "already finished" in again.stderr
    changed = run_train("pipeline", "unet2d_v2", "--out", out, *options, "--set", "weights=fitted")
    assert "holds a pipeline with weights=equal, not fitted;" in changed.stderr


@pytest.mark.slow
def test_finished_runs_can_be_stages_of_a_pipeline(pipeline: Path, store: Path, unseen: Path, tmp_path: Path) -> None:
    stages = set_options(*(f"{name}.run={pipeline / 'stages' / name}" for name in ("classifier", "all", "positive")))
    done = run_train("pipeline", "unet2d_fitted", "--out", tmp_path / "p", *stages, "--set", "tta=flips")
    assert done.returncode == 0, done.stderr
    calibration = json.loads((tmp_path / "p" / "calibration.json").read_text())
    assert sum(calibration["mask_weights"].values()) == pytest.approx(1)
    refused = run_train("pipeline", "unet2d_single", "--out", tmp_path / "q", "--set", f"all.run={unseen}")
    assert refused.returncode == 1
    assert "not a run directory" in refused.stderr
    mended = run_train("pipeline", "unet2d_single", "--out", tmp_path / "q", "--set", f"all.run={pipeline}/stages/all")
    assert mended.returncode == 0, mended.stderr
    idle = run_train("pipeline", "unet2d_fitted", "--out", tmp_path / "i", *stages, "--set", "epochs=9")
    assert "settings: epochs have no effect" in idle.stderr
    odd = run_train(
        "pipeline", "unet2d_single", "--out", tmp_path / "r", "--set", f"all.run={pipeline}/stages/classifier"
    )
    assert "classifies records, not pixels" in odd.stderr
    elsewhere = run_train(
        "pipeline", "unet2d_v1", "--out", tmp_path / "s", *stages[:2], *stages[4:], "--set", f"calibrate_on={unseen}"
    )
    assert elsewhere.returncode == 0, elsewhere.stderr
    assert len(json.loads((tmp_path / "s/calibration.json").read_text())["holdout_records"]) == 16
    assert "used to train or calibrate" in run_train("evaluate", tmp_path / "s", unseen).stderr
    averaged = run_train("soup", pipeline / "stages/all", pipeline / "stages/all", "--out", tmp_path / "soup")
    assert averaged.returncode == 0, averaged.stderr
    assert run_train("evaluate", tmp_path / "soup", unseen, "--worst", 0).returncode == 0
    again = run_train("soup", pipeline / "stages/all", pipeline / "stages/positive", "--out", tmp_path / "soup")
    assert "begun with run 1 of another digest" in again.stderr
    mixed = run_train("soup", pipeline / "stages/all", pipeline / "stages/classifier", "--out", tmp_path / "no")
    assert "its model is not that of" in mixed.stderr
    assert "is a pipeline, not a run" in run_train("soup", pipeline, pipeline, "--out", tmp_path / "no").stderr


@pytest.mark.slow
def test_the_mask_shift_of_a_pipeline_follows_its_label_shift_and_symmetries(store: Path, tmp_path: Path) -> None:
    """With label_shift=[0,0] in training, masks are shifted against the image unless turned copies are averaged."""
    options = set_options(*SHORT, f"data.train={store}", "augment.label_shift=[0,0]")
    assert run_train("pipeline", "unet2d_single", "--out", tmp_path / "p", *options).returncode == 0
    for path in (tmp_path / "p", tmp_path / "p/stages/all"):
        plain, turned = (load_model(path, "cpu", symmetries) for symmetries in (Symmetries.NONE, Symmetries.DIHEDRAL))
        assert (plain.mask_shift, turned.mask_shift) == ((0.5, 0.5), (0.0, 0.0))
        assert plain.decision.model != turned.decision.model  # different predictions have a different digest


@pytest.mark.slow
def test_an_unfinished_pipeline_accepts_settings_that_do_not_change_a_trained_stage(
    store: Path, pipeline: Path, tmp_path: Path
) -> None:
    command = ("pipeline", "unet2d_no_gate", "--out", tmp_path / "p", *set_options(*SHORT, "tta=flips"))
    assert "data.train: is empty" in run_train(*command).stderr
    taken = set_options(f"data.train={store}", f"positive.run={pipeline}/stages/positive")
    done = run_train(*command, *taken)
    assert done.returncode == 0, done.stderr
    first = (tmp_path / "p/calibration.json").read_bytes()
    (tmp_path / "p/calibration.json").write_bytes(first[:-9])
    assert "calibration.json: damaged (" in run_train(*command, *taken).stderr
    (tmp_path / "p/calibration.json").unlink()
    assert run_train(*command, *taken).returncode == 0
    assert (tmp_path / "p/calibration.json").read_bytes() == first
    weights = tmp_path / "p/stages/positive/best.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "not the file that the run ended with" in run_train(*command, *taken).stderr
    assert "not the file that the run ended with" in run_train("evaluate", tmp_path / "p", store).stderr
    (tmp_path / "p/calibration.json").unlink()
    assert "holds another run than" in run_train(*command, *taken).stderr
    weights.write_bytes(content)
    other = run_train(*command, *taken, "--set", "seed=3")  # a trained stage cannot change
    assert "holds a run with seed=0, not 3" in other.stderr
    assert run_train(*command, *taken, "--set", "tta=none").returncode == 0


def test_unusable_stores_are_refused_before_the_first_stage_is_trained(store: Path, tmp_path: Path) -> None:

    from contrail_data.cli.main import main

    assert run_command(main, "subset", store, "-o", tmp_path / "n.zarr", "--label", "negative").returncode == 0
    (tmp_path / "mine.yaml").write_text(f"preset: unet2d_v2\nsettings: {{data.train: {tmp_path / 'n.zarr'}}}\n")
    refused = run_train("pipeline", tmp_path / "mine.yaml", "--out", tmp_path / "p", *set_options(*SHORT))
    assert "stage positive:" in refused.stderr
    assert not (tmp_path / "p/stages").exists()
    (tmp_path / "mine.yaml").write_text("mask: [all]\n")
    assert "mine.yaml: stages: missing" in run_train("pipeline", tmp_path / "mine.yaml", "--out", tmp_path / "p").stderr


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("alll.epochs=3", "did you mean all.epochs?"),
        ("mask=[]", "give a list of 1 or more, each entry text"),
        ("tta=all", "give none, flips or dihedral"),
        ("all.epoch=3", "did you mean epochs?"),
    ],
)
def test_a_refused_pipeline_setting_names_the_accepted_values(given: str, message: str, tmp_path: Path) -> None:
    refused = run_train("pipeline", "unet2d_v2", "--out", tmp_path / "p", "--set", given)
    assert refused.returncode == 1
    assert message in refused.stderr
    assert not (tmp_path / "p").exists()


def test_a_pipeline_is_calibrated_on_records_that_no_stage_was_trained_on() -> None:
    items = labelled_scene(0)[2]
    ids = items.record_id.tolist()
    runs = [
        SimpleNamespace(trained_records=frozenset(ids[:n]), calibrated_records=frozenset(ids[n:20])) for n in (8, 12)
    ]
    assert held_out_by_all(runs, items).record_id.tolist() == ids[12:20]
    assert held_out_by_all(runs, items, any_unseen=True).record_id.tolist() == ids[12:]
