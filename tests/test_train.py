"""Training, evaluation and prediction through the command line, on a tiny store; and a run that is killed."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import write_record
from test_build import Settings, build_small

from contrail_data.composites import COMPOSITES
from contrail_data.store import open_store

TINY = [
    "model.encoder=resnet10t",
    "model.decoder_channels=[16,16,8,8,8]",
    "model.drop_path=0.1",
    "batch_size=4",
    "epochs=3",
    "optim.lr=3e-3",
    "data.holdout=0.3",
]


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


def command_line(main: Callable[[], None], *args: object) -> Done:
    """A command in this process, which has paid for importing torch already."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["contrail", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            main()
    return Done(int(ended.value.code or 0), out.getvalue(), err.getvalue())


def cli(*args: object) -> Done:
    from contrail_train.cli import main

    return command_line(main, *args)


def settings(*pairs: str) -> list[str]:
    return [part for pair in pairs for part in ("--set", pair)]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """Sixteen 64-pixel records; dark streaks in red are contrails."""
    root, rng = tmp_path_factory.mktemp("train"), np.random.default_rng(0)
    for i in range(16):
        folder = write_record(root / "raw/train" / f"{i:02d}", rng, size=64)
        mask = np.load(folder / "human_pixel_masks.npy")[..., 0]
        if i % 4 == 0:  # empty records
            mask[:] = 0
            np.save(folder / "human_pixel_masks.npy", mask[..., np.newaxis])
        band = np.load(folder / "band_15.npy")
        band[mask > 0] -= 4
        np.save(folder / "band_15.npy", band)
    build_small(root / "raw", root / "train.zarr", settings=Settings(COMPOSITES["ash"], size=64))
    return root / "train.zarr"


@pytest.fixture(scope="module")
def finished(store: Path) -> Path:
    """A run that nothing disturbed."""
    out = store.parent / "run"
    done = cli("run", "unet2d", "--out", out, *settings(*TINY, f"data.train={store}"))
    assert done.returncode == 0, done.stderr
    return out


def test_the_run_directory_tells_what_was_done(store: Path, finished: Path) -> None:
    import yaml

    config = yaml.safe_load((finished / "config.yaml").read_text())
    assert config["model"]["encoder"] == "resnet10t"
    assert config["data"]["train"] == [str(store)]
    environment = json.loads((finished / "environment.json").read_text())
    assert environment["stores"] == {str(store): open_store(store).attrs["digest"]}
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < losses[0]
    calibration = json.loads((finished / "calibration.json").read_text())
    assert calibration["statistics"] == open_store(store).attrs["statistics"]
    assert len(calibration["holdout_records"]) == calibration["holdout"]["records"] > 0
    assert list((finished / "tensorboard").iterdir())


def test_killed_it_goes_on_to_the_same_weights(store: Path, finished: Path) -> None:
    from safetensors.torch import load_file

    out = store.parent / "killed"
    options = settings(*TINY, f"data.train={store}")
    code = "from contrail_train.cli import main; main()"
    arguments = ["run", "unet2d", "--out", str(out), *options, "--checkpoint-minutes", "0.0001"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    while process.poll() is None and not list(out.glob("checkpoints/step-*5.safetensors")):  # inside an epoch
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (out / "calibration.json").exists()
    failed = cli("evaluate", out, store)
    assert failed.returncode == 1
    assert "not finished" in failed.stderr
    resumed = cli("run", "unet2d", "--out", out, *options)
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


def test_prediction_and_evaluation_count_the_same_pixels(store: Path, finished: Path, tmp_path: Path) -> None:
    done = cli("evaluate", finished, store)
    assert done.returncode == 0, done.stderr
    assert "16 of 16 records were in the run's training stores" in done.stderr
    (path,) = finished.glob("evaluation-*.json")
    result = json.loads(path.read_text())
    assert f"{result['dice']:.4f}" in done.stdout
    done = cli("predict", finished, store, "-o", tmp_path / "pred.zarr")
    assert done.returncode == 0, done.stderr
    predicted, labels = open_store(tmp_path / "pred.zarr"), open_store(store)
    mask, label = predicted["frame_mask"].values[:, 0] > 0, labels["mask"].values > 0
    assert [int((mask & label).sum()), int((mask & ~label).sum()), int((~mask & label).sum())] == [
        result["tp"],
        result["fp"],
        result["fn"],
    ]
    assert result["dice"] == 2 * result["tp"] / (2 * result["tp"] + result["fp"] + result["fn"])
    assert predicted.attrs["parent"] == labels.attrs["digest"]


def test_predictions_lie_on_the_grid_of_the_stores_own_labels(store: Path, finished: Path, tmp_path: Path) -> None:
    import torch

    from contrail_train.augment import to_label_frame
    from contrail_train.predict import load_predictor

    settings = Settings(COMPOSITES["ash"], size=64, label_shift=(0.0, 0.0))
    build_small(store.parent / "raw", tmp_path / "unshifted.zarr", settings=settings)
    image = open_store(store)["image"].values[:2, 4:5]
    model = load_predictor(finished)
    shifted = model.for_store(open_store(store)).predict(image)
    plain = model.for_store(open_store(tmp_path / "unshifted.zarr")).predict(image)
    np.testing.assert_allclose(to_label_frame(torch.from_numpy(plain), (0.5, 0.5)), shifted, atol=1e-6)
    assert np.abs(plain - shifted).max() > 1e-4


def test_the_digest_does_not_tell_how_a_path_was_typed(store: Path, finished: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(store)
    for name, path in (("a.zarr", store), ("b.zarr", tmp_path / "link")):
        assert cli("predict", finished, path, "-o", tmp_path / name).returncode == 0
    a, b = open_store(tmp_path / "a.zarr").attrs, open_store(tmp_path / "b.zarr").attrs
    assert a["digest"] == b["digest"]
    assert "statistics" not in a


def test_training_on_pseudo_labels(store: Path, finished: Path) -> None:
    pseudo = store.parent / "train.pseudo.zarr"
    from contrail_data.cli import main

    made = command_line(main, "pseudo-label", store, "--model", finished, "-o", pseudo)
    assert made.returncode == 0, made.stderr
    from contrail_train.checkpoint import file_digest

    assert open_store(pseudo).attrs["model"] == file_digest(finished / "best.safetensors")
    out = store.parent / "run-b"
    done = cli("run", "unet2d", "--out", out, *settings(*TINY, "epochs=1", f"data.train=[{store},{pseudo}]"))
    assert done.returncode == 0, done.stderr
    assert "frames to train on" in done.stderr
    assert json.loads((out / "environment.json").read_text())["stores"].keys() == {str(store), str(pseudo)}


def test_a_run_that_never_trained_can_be_corrected(store: Path, tmp_path: Path) -> None:
    options = settings(*TINY, f"data.train={store}", "epochs=1")
    failed = cli("run", "unet2d", "--out", tmp_path / "r", *options, *settings("model.encoder=resnet10"))
    assert failed.returncode == 1
    assert "did you mean resnet10t" in failed.stderr
    assert cli("run", "unet2d", "--out", tmp_path / "r", *options).returncode == 0


def test_mistakes_end_in_one_line(store: Path, finished: Path, tmp_path: Path) -> None:
    for args, told in [
        (("run", "unet2", "--out", tmp_path / "x"), "did you mean unet2d"),
        (("run", "unet2d", "--out", tmp_path / "x"), "data.train is empty"),
        (("run", "unet2d", "--out", tmp_path / "x", *settings("optim.learning=3")), "there is no setting"),
        (("run", "unet2d", "--out", tmp_path / "x", *settings("epochs")), "key=value"),
        (("run", "unet2d", "--out", finished, *settings(f"data.train={store}")), "another"),
        (("run", "unet2d", "--out", tmp_path / "x", *settings(f"data.train={tmp_path}/no.zarr")), "no such store"),
        (("evaluate", tmp_path, store), "no run directory"),
        (("evaluate", finished, finished), "zarr.json"),
        (("evaluate", finished, store, "--device", "cuda:9"), "cuda:9"),
    ]:
        failed = cli(*args)
        assert failed.returncode == 1, args
        assert failed.stderr.splitlines()[-1].startswith("error: "), failed.stderr
        assert told in failed.stderr.splitlines()[-1]
        assert "Traceback" not in failed.stderr


def test_a_command_line_imports_nothing_heavy() -> None:
    code = (
        "import sys, contrail_data.cli, contrail_train.cli;"
        "print([m for m in ('torch', 'timm', 'dask', 'xarray', 'zarr', 'numpy') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
