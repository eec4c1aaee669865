"""Training, evaluation and prediction through the command line, on a tiny store; and a run that is killed."""

from __future__ import annotations

import csv
import io
import json
import re
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
from contrail_data.errors import ContrailError
from contrail_data.store.reader import open_store

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
    from contrail_train.cli.main import main

    return command_line(main, *args)


def settings(*pairs: str) -> list[str]:
    return [part for pair in pairs for part in ("--set", pair)]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """Sixteen 64-pixel records; dark streaks in red are contrails."""
    return streaked(tmp_path_factory.mktemp("train"), 0)


@pytest.fixture(scope="module")
def unseen(tmp_path_factory) -> Path:
    """Sixteen more."""
    return streaked(tmp_path_factory.mktemp("unseen"), 100)


def streaked(root: Path, first: int) -> Path:
    rng = np.random.default_rng(first)
    for i in range(16):
        folder = write_record(root / "raw/train" / f"{first + i:02d}", rng, size=64)
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
    code = "from contrail_train.cli.main import main; main()"
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


def test_prediction_and_evaluation_count_the_same_pixels(unseen: Path, finished: Path, tmp_path: Path) -> None:
    store = unseen
    done = cli("evaluate", finished, store)
    assert done.returncode == 0, done.stderr
    (path,) = finished.glob("evaluation-*.json")
    result = json.loads(path.read_text())
    assert f"{result['dice']:.4f}" in done.stdout
    assert "<title>" in path.with_suffix(".html").read_text()
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

    from contrail_train.data.augment import to_label_frame
    from contrail_train.inference.load import load_predictor

    settings = Settings(COMPOSITES["ash"], size=64, label_shift=(0.0, 0.0))
    build_small(store.parent / "raw", tmp_path / "unshifted.zarr", settings=settings)
    image = open_store(store)["image"].values[:2, 4:5]
    model = load_predictor(finished)
    shifted = model.for_store(open_store(store)).predict(image).probability
    plain = model.for_store(open_store(tmp_path / "unshifted.zarr")).predict(image).probability
    np.testing.assert_allclose(to_label_frame(torch.from_numpy(plain)[:, None], (0.5, 0.5))[:, 0], shifted, atol=1e-6)
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
    from contrail_data.cli.main import main

    made = command_line(main, "pseudo-label", store, "--model", finished, "-o", pseudo)
    assert made.returncode == 0, made.stderr
    from contrail_train.runs.checkpoint import file_digest

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


def test_a_window_of_frames_from_a_single_frame_run(store: Path, unseen: Path, finished: Path) -> None:
    """2D to 2.5D: what matches is taken over, mixers begin as the identity; scored, predicted and pseudo-labelled."""
    from contrail_data.cli.main import main

    out = store.parent / "run-25d"
    window = ["data.frames=[-1,0,1]", "model.mixer=conv3d", "model.mix_blocks=1", "augment.time_reversal=0.5"]
    options = settings(*TINY, "epochs=1", *window, f"start={finished}", f"data.train={store}", "data.target=clip2")
    done = cli("run", "unet2d", "--out", out, *options)
    assert done.returncode == 0, done.stderr
    assert re.search(r"encoder (\d+) of \1 tensors, decoder (\d+) of \2 tensors", done.stderr)
    assert "mixers 0 of" in done.stderr
    done = cli("evaluate", out, unseen)
    assert done.returncode == 0, done.stderr
    done = command_line(main, "pseudo-label", store, "--model", out, "-o", store.parent / "window.pseudo.zarr")
    assert done.returncode == 0, done.stderr
    pseudo = open_store(store.parent / "window.pseudo.zarr")
    assert (pseudo["frame"].values == np.arange(1, 7)).all()
    done = cli("predict", out, store, "-o", store.parent / "window.pred.zarr")
    assert done.returncode == 0, done.stderr
    predicted = open_store(store.parent / "window.pred.zarr")
    at = list(pseudo["frame"].values[0]).index(4)
    human = pseudo["frame_source"].values[:, at] == "human"
    assert human.all()
    assert (predicted["frame"].values == 4).all()


def test_starting_from_another_encoder_is_told(store: Path, finished: Path, tmp_path: Path) -> None:
    options = settings(
        *TINY, "epochs=1", "model.encoder=mobilenetv3_small_050", f"start={finished}", f"data.train={store}"
    )
    done = cli("run", "unet2d", "--dry-run", *options)
    assert done.returncode == 0, done.stderr
    assert re.search(r"warning: start=.*: its encoder is another one: \d+ of \d+ tensors fit", done.stderr)


def test_a_classifier_of_records(store: Path, unseen: Path, finished: Path) -> None:
    out = store.parent / "classifier"
    done = cli("run", "unet2d", "--out", out, *settings(*TINY, "model.head=record", f"data.train={store}"))
    assert done.returncode == 0, done.stderr
    assert "Dice over records" in done.stdout
    store = unseen
    done = cli("evaluate", out, store)
    assert done.returncode == 0, done.stderr
    (path,) = out.glob("evaluation-*.json")
    result = json.loads(path.read_text())
    assert result["tp"] + result["fn"] == 12 == result["positive_records"]
    failed = cli("predict", out, store, "-o", store.parent / "none.zarr")
    assert failed.returncode == 1
    assert "tells records, not pixels" in failed.stderr

    table = store.parent / "records.csv"
    done = cli("predict", out, store, "-o", table, "--batch", "5")
    assert done.returncode == 0, done.stderr
    with table.open() as file:
        rows = list(csv.DictReader(file))
    opened = open_store(store)
    assert [row["record_id"] for row in rows] == opened["record_id"].values.tolist()
    assert {row["store"] for row in rows} == {opened.attrs["digest"]}
    has = opened["positive_pixels"].values > 0
    said = np.array([row["contrail"] == "1" for row in rows])
    assert (int((said & has).sum()), int((said & ~has).sum())) == (result["tp"], result["fp"])
    assert cli("predict", out, store, "-o", table).returncode == 1  # exists
    assert cli("predict", out, store, "-o", table, "--frames", "all", "--overwrite").returncode == 0
    assert len(table.read_text().splitlines()) == 1 + 16 * 8
    refused = cli("predict", finished, store, "-o", store.parent / "masks.csv")
    assert "tells pixels" in refused.stderr


def run_steps(store: Path, out: Path, *pairs: str, steps: int = 2, preset: str = "unet2d") -> list[dict]:
    """The log of the first steps."""
    from contrail_train.config.presets import get_config
    from contrail_train.config.settings import with_settings
    from contrail_train.training.fit import fit

    fit(with_settings(get_config(preset), [*TINY, f"data.train={store}", *pairs]), out, stop_after=steps)
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


CONVNEXT = ("model.encoder=convnext_atto", "model.norm=group", "model.drop_path=0", "optim.clip=1e9")
"""Without batch norms a sample's gradient does not depend on those beside it."""


def test_gradients_accumulate_to_those_of_the_whole_batch(store: Path, tmp_path: Path) -> None:
    whole = run_steps(store, tmp_path / "a", *CONVNEXT)
    parts = run_steps(store, tmp_path / "b", *CONVNEXT, "micro_batch=3")
    for a, b in zip(whole, parts, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-3)


def test_out_of_memory_halves_what_goes_through_at_once(store: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    import torch

    from contrail_train.models.segmenter import Segmenter

    whole = run_steps(store, tmp_path / "a", *CONVNEXT)
    forward = Segmenter.forward

    def small(self: Segmenter, x_btchw: torch.Tensor, *size: object) -> object:
        if len(x_btchw) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, x_btchw, *size)

    monkeypatch.setattr(Segmenter, "forward", small)
    halved = run_steps(store, tmp_path / "b", *CONVNEXT)
    assert "2 samples at once from here" in capsys.readouterr().err
    assert halved[0]["grad_norm"] == pytest.approx(whole[0]["grad_norm"], rel=1e-3)


def test_a_loss_that_is_no_number_stops_with_its_batch_saved(store: Path, tmp_path: Path, monkeypatch) -> None:
    from safetensors import safe_open

    from contrail_data.errors import ContrailError
    from contrail_train.training import fit as loop

    true_loss, calls = loop.total_loss, []

    def sometimes(*args: object) -> object:
        calls.append(1)
        return true_loss(*args) * (float("nan") if len(calls) == 2 else 1)

    monkeypatch.setattr(loop, "total_loss", sometimes)
    with pytest.raises(ContrailError, match=r"loss of step 1 is nan.*nonfinite-step-1\.safetensors"):
        run_steps(store, tmp_path / "run")
    with safe_open(tmp_path / "run/nonfinite-step-1.safetensors", "pt") as file:
        facts = json.loads(file.metadata()["facts"])
        image = file.get_tensor("image_btchw").numpy()
    ds = open_store(store)
    ids = list(ds["record_id"].values)
    for record, frames in zip(facts["record_ids"], image, strict=True):
        np.testing.assert_array_equal(frames[0], ds["image"].values[ids.index(record), 4])


def test_what_is_frozen_stays(store: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    for name, frozen in (("encoder", "encoder."), ("batch_norm", "running_mean")):
        out = tmp_path / name
        done = cli(
            "run", "unet2d", "--out", out, *settings(*TINY, "epochs=1", f"model.freeze=[{name}]", f"data.train={store}")
        )
        assert done.returncode == 0, done.stderr
        import torch

        from contrail_train.config.settings import read_config
        from contrail_train.models.segmenter import build

        torch.manual_seed(0)
        begun = build(read_config(out / "config.yaml").model, 3).state_dict()
        ended = load_file(out / "best.safetensors")
        same = {key for key, tensor in begun.items() if tensor.equal(ended[key])}
        assert {key for key in begun if frozen in key} <= same
        assert any("decoder" in key and "weight" in key for key in begun.keys() - same)


def test_each_part_learns_at_its_own_rate() -> None:
    import torch

    from contrail_train.config.schema import ModelConfig, OptimConfig
    from contrail_train.models.segmenter import build
    from contrail_train.training.optim import make_optimiser, set_learning_rate

    model = build(ModelConfig(encoder="resnet10t", decoder_channels=[16, 16, 8, 8, 8], mixer="conv3d"), 3, [-1, 0, 1])
    config = OptimConfig(lr=1e-3, encoder_lr=2e-4, mixer_lr=5e-4, warmup=0.1)
    optimiser = make_optimiser(model, config)
    set_learning_rate(optimiser, config, 55, 100)  # half way down the cosine
    rate = {id(p): group["lr"] for group in optimiser.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        part = name.split(".")[0]
        peak = {"encoder": 2e-4, "mixers": 5e-4}.get(part, 1e-3)
        assert rate[id(parameter)] == pytest.approx(peak / 2)
        decays = [g["weight_decay"] > 0 for g in optimiser.param_groups if any(p is parameter for p in g["params"])]
        assert decays == [parameter.ndim > 1]
    assert isinstance(optimiser, torch.optim.AdamW)


def test_the_best_epochs_are_averaged(store: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    from contrail_train.runs.checkpoint import save_mean

    done = cli(
        "run", "unet2d", "--out", tmp_path / "run", *settings(*TINY, "optim.average_best=2", f"data.train={store}")
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


GRADIENTS = """
import sys, torch
from contrail_train.runs.distributed import join
from contrail_train.training.fit import fit
from contrail_train.config.settings import parse_config
import yaml
clip = torch.nn.utils.clip_grad_norm_
def saving(parameters, norm):
    parameters = list(parameters)
    torch.save([p.grad.clone() for p in parameters], f"{sys.argv[2]}-{join(torch.device('cpu'))[0].rank}.pt")
    return clip(parameters, norm)
torch.nn.utils.clip_grad_norm_ = saving
torch.set_num_threads(1)
from pathlib import Path
fit(parse_config(yaml.safe_load(open(sys.argv[1])), "test"), Path(sys.argv[2]), stop_after=1)
"""


def test_two_processes_have_the_gradient_of_one(store: Path, tmp_path: Path) -> None:
    """Through torchrun and gloo: batch norms over both, cross-entropy and global Dice."""
    import torch

    from contrail_train.config.presets import get_config
    from contrail_train.config.settings import to_yaml, with_settings

    pairs = [*TINY, "model.drop_path=0", "batch_size=8", "loss.dice=1", "device=cpu", f"data.train={store}"]
    (tmp_path / "config.yaml").write_text(to_yaml(with_settings(get_config("unet2d"), pairs)))
    (tmp_path / "gradients.py").write_text(GRADIENTS)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    for name, launcher in (("one", []), ("two", torchrun)):
        command = [sys.executable, *launcher, tmp_path / "gradients.py", tmp_path / "config.yaml", tmp_path / name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
    one, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("one-0", "two-0", "two-1"))
    for alone, a, b in zip(one, first, second, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, alone, rtol=0, atol=1e-3 * float(alone.abs().max()))


def test_a_second_process_in_one_run_directory_is_refused(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "r"
    run_steps(store, out, steps=1)
    code = (
        "import pathlib, time; from contrail_train.runs.directory import hold;"
        f"file = hold(pathlib.Path({str(out)!r})); print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ContrailError, match=f"process {other.pid} .* is at work there"):
            run_steps(store, out, steps=2)
    finally:
        other.kill()
        other.wait()
    assert len(run_steps(store, out, steps=2)) == 2


def test_a_dry_run_tells_cost_and_keeps_nothing(store: Path, tmp_path: Path, monkeypatch) -> None:
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    done = cli("run", "unet2d", "--dry-run", *settings(*TINY, f"data.train={store}"))
    assert done.returncode == 0, done.stderr
    for told in ("samples/s", "steps in 3 epochs", "GiB"):
        assert told in done.stdout
    assert not list(tmp_path.iterdir())
    assert cli("run", "unet2d", *settings(f"data.train={store}")).returncode == 2


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
        (("evaluate", finished, store), "all 16 labelled records were trained on or calibrated by"),
        (("predict", finished, store, "-o", tmp_path / "p.zarr", "--frames", "some"), "--frames 'some'"),
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
