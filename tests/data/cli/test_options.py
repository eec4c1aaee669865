"""Options without effect, outputs that are URLs, and inputs that are recognised by what they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from contrail_data.errors import ContrailError
from contrail_data.sources.base import InputFormat
from contrail_data.sources.recognise import recognise
from contrail_data.store.reader import open_store
from contrail_data.synthetic.abi import write_abi
from helpers.abi import START
from helpers.cli import run_data

TIME, LIKE = ("--time", "2024-03-01T12:00"), ("--like", "abi/like.json")
WITHOUT_EFFECT = [
    *(
        ("build-ash raw -o x.zarr", option, "on records")
        for option in (
            *(TIME, ("--since", "2024-03-01"), ("--until", "2024-03-01"), ("--every", "20"), ("--at", "1,2"), LIKE),
            *(("--pixel", "2000"), ("--native",), ("--before", "4"), ("--after", "3"), ("--tolerance", "5")),
            *(("--product", "L1b-RadF"), ("--quality", "0,1")),
            *(("--labels", "abi/labels.geojson"), ("--label-area", "scan"), ("--line-width", "4km")),
        )
    ),
    ("build-ash abi -o x.zarr", ("--label-area", "scan"), "without --labels"),
    ("build-ash abi -o x.zarr", ("--line-width", "4km"), "without --labels"),
    ("build-ash abi -o x.zarr --labels abi/labels.geojson", ("--every", "20"), "beside --labels"),
    ("build-ash frames -o x.zarr", ("--native",), "on frames"),
    ("build-ash tf -o x.zarr", ("--like", "abi/like.json"), "on tfrecords"),
    ("build-ash gs://bucket/tfrecords -o x.zarr", ("--since", "2024-03-01"), "on tfrecords"),
    ("build-ash raw --source frames -o x.zarr", ("--quality", "0,1"), "on frames"),
    *(
        ("build-ash abi -o x.zarr --like abi/like.json", option, "beside --like")
        for option in (TIME, ("--every", "20"), ("--at", "1,2"), ("--pixel", "2000"), ("--native",))
    ),
    ("build-ash abi -o x.zarr --time 2024-03-01T12:00", ("--every", "20"), "beside --time"),
    ("build-ash abi -o x.zarr --native", ("--pixel", "2000"), "beside --native"),
    ("build-ash abi -o x.zarr", ("--product", "L1b-RadF"), "on local files"),
    ("build-ash abi/*.nc -o x.zarr", ("--product", "L1b-RadF"), "on local files"),
    *(
        ("build-ash abi --reader auto -o x.zarr", option, "beside --reader")
        for option in (
            *(("--source", "auto"), ("--source", "abi"), ("--source", "records"), ("--product", "L1b-RadC")),
            *(("--quality", "0"), ("--since", "2024-03-01"), ("--until", "2024-03-01")),
        )
    ),
    ("build-ash raw -o x.zarr --scheduler tcp://host:8786", ("--workers", "2"), "with --scheduler"),
    ("append s.zarr raw -o x.zarr --scheduler tcp://host:8786", ("--workers", "2"), "with --scheduler"),
    ("preview s.zarr --record 000", ("--count", "24"), "beside --record"),
    ("preview s.zarr --record 000", ("--seed", "0"), "without --sheet random"),
    ("preview s.zarr --sheet positives", ("--seed", "3"), "without --sheet random"),
    ("splits s.zarr", ("--size", "256"), "without a metadata file"),
    ("audit s.zarr", ("--size", "256"), "without a metadata file"),
    ("audit abi/like.json", ("--no-images",), "on metadata files"),
    ("audit s.zarr", ("--overwrite",), "without --out or --page"),
    ("verify s.zarr", ("--workers", "2"), "without --repair-from RAW"),
    ("verify s.zarr --repair-from s.zarr", ("--workers", "2"), "without --repair-from RAW"),
    ("push s.zarr copy.zarr", ("--text", "t"), "without --name"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, raw40: Path, sealed40: Path) -> Path:
    """Records, ash frames, scans, a metadata file and a store."""
    folder = tmp_path_factory.mktemp("inputs")
    write_abi(folder / "abi", START, scans=1, size=(40, 50))
    (folder / "abi/like.json").write_text("[]")
    (folder / "raw").symlink_to(raw40)
    (folder / "s.zarr").symlink_to(sealed40)
    (folder / "frames").mkdir()
    (folder / "frames/a.npy").touch()
    (folder / "tf").mkdir()
    (folder / "tf/train.tfrecords-00000-of-00001").touch()
    return folder


@pytest.mark.parametrize(("command", "option", "reason"), WITHOUT_EFFECT)
def test_an_option_without_effect_is_a_usage_error(folder: Path, command: str, option: tuple, reason: str) -> None:
    before = sorted(folder.iterdir())
    done = run_data(*command.split(), *option, cwd=folder)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: {option[0].replace('--no-', '--')}: has no effect {reason}"), done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    "command",
    [
        "report s.zarr -o URL/page.html",
        "preview s.zarr -o URL/pictures",
        "splits s.zarr -o URL/folds.csv",
        "audit s.zarr -o URL/pairs.csv",
        "audit s.zarr --page URL/page.html",
        "append s.zarr URL/records -o x.zarr",
        "build-ash URL/records --source records -o x.zarr",
        "synth URL/records",
        "synth-scans URL/scans",
    ],
)
def test_a_url_is_refused_where_no_store_is_written(folder: Path, tmp_path: Path, command: str) -> None:
    (tmp_path / "s.zarr").symlink_to(folder / "s.zarr")
    for url in ("s3://team/data", "gs://team/data", "https://host/data"):
        done = run_data(*command.replace("URL", url).split(), cwd=tmp_path)
        assert done.returncode == 2, done.stderr
        assert url in done.stderr
        assert "only stores and models lie at URLs" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["s.zarr"]


@pytest.mark.slow
def test_a_file_url_is_a_path(folder: Path, tmp_path: Path) -> None:
    done = run_data("report", f"file://{folder}/s.zarr", "-o", f"file://{tmp_path}/page.html")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "page.html").is_file()


def test_inputs_are_recognised_by_what_they_hold(folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, source in (("goes16", "raw"), ("goes-east", "abi"), ("scans[1]", "abi"), ("x.nc", "raw")):
        (tmp_path / name).symlink_to(folder / source)
    (tmp_path / "OR_ABI-x.nc").mkdir()
    for where, expected in {
        "goes16": InputFormat.RECORDS,
        "goes-east": InputFormat.ABI,
        "scans[1]": InputFormat.ABI,
        "x.nc": InputFormat.RECORDS,
        f"file://{folder}/abi": InputFormat.ABI,
        f"file://{folder}/raw": InputFormat.RECORDS,
        str(folder / "frames"): InputFormat.FRAMES,
        str(folder / "tf"): InputFormat.TFRECORDS,
        "gs://bucket/tfrecords": InputFormat.TFRECORDS,
        "https://host/train.tfrecords-00000-of-00100": InputFormat.TFRECORDS,
        str(folder / "abi/*.nc"): InputFormat.ABI,
        str(next((folder / "abi").glob("*.nc"))): InputFormat.ABI,
        "OR_ABI-x.nc": InputFormat.RECORDS,
        "goes17": InputFormat.ABI,
    }.items():
        assert recognise(where, "train") == expected, where
    with pytest.raises(ContrailError, match="no such folder or files"):
        recognise("goes-train", "train")


def test_a_folder_of_several_kinds_is_not_guessed(folder: Path, tmp_path: Path) -> None:
    for name in ("raw/train", "abi"):
        shutil.copytree(folder / name, tmp_path / "both" / Path(name).name)
    done = run_data("build-ash", tmp_path / "both", "-o", tmp_path / "s.zarr", "--size", 32)
    assert done.returncode == 2
    assert "both: holds records and abi; choose one with --source" in done.stderr
    done = run_data("build-ash", tmp_path / "both", "--source", "records", "-o", tmp_path / "s.zarr", "--size", 32)
    assert open_store(tmp_path / "s.zarr").sizes["sample"] == 39, done.stderr


def test_a_store_or_scans_in_place_of_records_are_named(folder: Path, tmp_path: Path) -> None:
    for args, message in [
        (("build-ash", "s.zarr", "-o", "x.zarr"), "s.zarr: is a store already"),
        (("build-ash", f"file://{folder}/s.zarr", "-o", "x.zarr"), "is a store already"),
        (("append", "s.zarr", "abi", "-o", "x.zarr"), "abi: holds scans, not records"),
        (("append", "s.zarr", "raw", "--source", "abi", "-o", "x.zarr"), "holds scans, not records"),
    ]:
        done = run_data(*args, cwd=folder)
        assert done.returncode == 2, done.stderr
        assert message in done.stderr


def test_a_catalog_name_is_found_beside_a_folder_of_that_name(folder: Path, tmp_path: Path) -> None:
    """A store in the working folder hides a catalog entry of its name; any other folder does not."""
    assert run_data("catalog", "add", "train.json", folder / "s.zarr", cwd=tmp_path).returncode == 0
    (tmp_path / "train.json").mkdir()
    done = run_data("inspect", "train.json", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["digest"] == open_store(folder / "s.zarr").attrs["digest"]
    assert run_data("audit", "train.json", cwd=tmp_path).returncode in (0, 4)


def test_a_store_has_the_type_of_its_composite_unless_one_is_given(raw: Path, tmp_path: Path) -> None:
    for number, (composite, options, dtype) in enumerate(
        [("ash+ash_wide", (), "float16"), ("ash_wide", ("--dtype", "uint8"), "uint8"), ("ash", (), "uint8")]
    ):
        out = tmp_path / f"{number}.zarr"
        assert run_data("build-ash", raw, "--composite", composite, *options, "--size", 32, "-o", out).returncode == 0
        store = open_store(out)
        assert store["image"].dtype == dtype
        assert store.attrs["composite"]["name"] == composite
