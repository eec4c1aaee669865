"""Options without effect, outputs that are URLs, and the two commands that predict."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from contrail_data.errors import ContrailError
from contrail_data.process import WAIT_POLICY
from contrail_data.store.reader import open_store
from contrail_data.synthetic.abi import write_abi
from helpers.abi import START
from helpers.cli import run_data, run_train

CLEANING = (
    *(("--min-pixels", "1"), ("--hysteresis", "0.1"), ("--consistent", "3"), ("--fill-gaps", "0.1")),
    ("--elongation", "2"),
)
WITHOUT_EFFECT = [
    ("run unet2d --dry-run --set data.train=s.zarr", ("--out", "x"), "beside --dry-run"),
    ("run unet2d --dry-run --set data.train=s.zarr", ("--checkpoint-minutes", "5"), "beside --dry-run"),
    ("run unet2d --set data.train=s.zarr --out x", ("--profile", "t.json"), "without --dry-run"),
    *(("predict RUN s.zarr -o x.csv", option, "on probabilities of records") for option in CLEANING),
    ("predict-scans RUN abi -o x.nc -o x.tif", ("--altitude", "11000"), "without an output NAME.geojson"),
    ("predict-scans RUN abi -o x.nc", ("--product", "L1b-RadF"), "on local files"),
    ("predict-scans RUN abi --reader auto -o x.nc", ("--product", "L1b-RadF"), "beside --reader"),
    ("predict-scans RUN abi -o x.nc --time 2024-03-01T12:00", ("--consistent", "3"), "on 1 time;"),
    ("predict-scans RUN abi -o x.nc --time 2024-03-01T12:00", ("--since", "2024-03-01"), "beside --time"),
    ("predict-scans RUN abi -o x.nc --time 2024-03-01T12:00", ("--until", "2024-03-01"), "beside --time"),
    ("predict RUN s.zarr -o x.zarr", ("--fill-gaps", "0.01"), "without --consistent"),
    ("evaluate RUN s.zarr", ("--fill-gaps", "0.01"), "without --consistent"),
    ("predict-scans RUN two -o x.nc", ("--fill-gaps", "0.01"), "without --consistent"),
    ("predict-scans RUN two -o x.nc --consistent 3", ("--fill-gaps", "0.01"), "on 2 times;"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Path:
    """A store and scans."""
    folder = tmp_path_factory.mktemp("inputs")
    write_abi(folder / "two", START, scans=2, size=(40, 50))
    (folder / "abi").mkdir()
    for path in sorted((folder / "two").iterdir())[::2]:
        shutil.copy(path, folder / "abi")
    (folder / "s.zarr").symlink_to(store)
    return folder


@pytest.mark.parametrize(("command", "option", "reason"), WITHOUT_EFFECT)
def test_an_option_without_effect_is_a_usage_error(
    folder: Path, finished: Path, monkeypatch, command: str, option: tuple, reason: str
) -> None:
    monkeypatch.chdir(folder)
    before = sorted(folder.iterdir())
    done = run_train(*command.replace("RUN", str(finished)).split(), *option)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"error: {option[0]}: has no effect {reason}"), done.stderr
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    "command",
    [
        "run unet2d --set data.train=s.zarr --out URL/run",
        "pipeline unet2d --out URL/pipeline",
        "rounds unet2d --out URL/rounds",
        "soup RUN RUN --out URL/soup",
        "evaluate RUN s.zarr -o URL/report",
        "predict RUN s.zarr -o URL/table.csv",
        "predict-scans RUN abi -o x.tif -o URL/scene.zarr",
        "submit s.zarr -o URL/submission.csv",
        "export RUN -o URL/detector.pt2",
    ],
)
def test_a_url_is_refused_where_no_store_is_written(folder: Path, finished: Path, monkeypatch, command: str) -> None:
    monkeypatch.chdir(folder)
    before = sorted(folder.iterdir())
    done = run_train(*command.replace("URL", "s3://team/data").replace("RUN", str(finished)).split())
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: s3://team/data"), done.stderr
    assert "only stores and models lie at URLs" in done.stderr
    assert sorted(folder.iterdir()) == before


@pytest.mark.slow
def test_stores_are_predicted_by_path_url_and_name_to_paths_and_urls(
    folder: Path, finished: Path, tmp_path: Path, monkeypatch, s3: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_data("push", folder / "s.zarr", f"{s3}/validation.zarr").returncode == 0
    assert run_data("catalog", "add", "goes-train", folder / "s.zarr").returncode == 0
    (tmp_path / "goes16").symlink_to((folder / "s.zarr").resolve())
    digests = set()
    for i, source in enumerate((folder / "s.zarr", f"file://{folder}/s.zarr", "goes-train", "goes16")):
        done = run_train("predict", finished, source, "-o", f"{i}.zarr")
        assert done.returncode == 0, done.stderr
        digests.add(open_store(f"{i}.zarr").attrs["digest"])
    done = run_train("predict", finished, f"{s3}/validation.zarr", "-o", f"{s3}/predictions.zarr")
    assert done.returncode == 0, done.stderr
    digests.add(open_store(f"{s3}/predictions.zarr").attrs["digest"])
    assert len(digests) == 1
    assert not (tmp_path / "s3:").exists()


def test_each_command_names_the_other_for_its_input(folder: Path, finished: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_data("catalog", "add", "goes-train", folder / "s.zarr").returncode == 0
    write_abi(tmp_path / "goes-scans.zarr", START, scans=1, size=(40, 50))
    (tmp_path / "himawari").mkdir()
    (tmp_path / "himawari/HS_H09_20240301_1200_B13_FLDK_R20_S0110.DAT.bz2").touch()
    files = tmp_path / "goes-scans.zarr/OR_ABI*.nc"
    for scans in ("goes-scans.zarr", files, next(tmp_path.rglob("*.nc")), "goes-east", "goes18", "himawari"):
        done = run_train("predict", finished, scans, "-o", "x.zarr")
        assert done.returncode == 2, done.stderr
        assert f"{scans}: holds satellite scans, not a store; use contrail-train predict-scans" in done.stderr
    for name in (folder / "s.zarr", f"file://{folder}/s.zarr", "goes-train"):
        done = run_train("predict-scans", finished, name, "-o", "x.nc")
        assert done.returncode == 2, done.stderr
        assert f"{name}: is a store, not scans; use contrail-train predict" in done.stderr
    (tmp_path / "empty").mkdir()
    done = run_train("predict", finished, "empty", "-o", "x.zarr", "--frames", "all")
    assert "for satellite scans, use contrail-train predict-scans" in done.stderr
    done = run_train("predict", finished, folder / "s.zarr", "-o", "x.nc")
    assert done.returncode == 2
    assert "see contrail-train predict-scans" in done.stderr


def test_a_model_is_recognised_by_what_lies_there(finished: Path, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run.onnx")
    done = run_train("predict", tmp_path / "run.onnx", folder / "s.zarr", "-o", tmp_path / "p.zarr")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("goes-east", "goes-east: archives are searched by time; give --since and --until, or --time"),
        (
            "goes-east --since 2024-03-01",
            "goes-east: archives are searched by time; give --since and --until, or --time",
        ),
        ("abi --since 2024-03-02 --until 2024-03-01", "no time lies between them"),
    ],
)
def test_a_range_of_times_that_cannot_be_searched_is_refused(folder: Path, monkeypatch, command, message) -> None:
    monkeypatch.chdir(folder)
    done = run_train("predict-scans", "builtin:starter", *command.split(), "-o", "x.nc")
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize(
    "command", ["evaluate MODEL STORE", "compare MODEL MODEL STORE", "predict MODEL STORE -o x.zarr", "pseudo-label"]
)
def test_threads_of_commands_that_predict_sleep_while_they_wait(
    command: str, sealed40: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ContrailError(f"threads are {os.environ[WAIT_POLICY]}")

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(WAIT_POLICY, raising=False)
    monkeypatch.setattr("contrail_train.workflows.symmetries.load_predictor", refuse)
    if command == "pseudo-label":
        done = run_data(command, sealed40, "--model", "builtin:starter", "-o", "x.zarr")
    else:
        done = run_train(*command.replace("MODEL", "builtin:starter").replace("STORE", str(sealed40)).split())
    assert done.stderr == "error: threads are passive\n"
