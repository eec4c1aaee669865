"""Stores of some frames of each record hold what the store of all frames holds of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from contrail_data.build.inputs import RecordsInput
from contrail_data.build.recipe import recipe_of
from contrail_data.errors import ContrailError
from contrail_data.reports.diff import diff
from contrail_data.sources.kept_frames import keep_frames
from contrail_data.sources.open import open_source
from contrail_data.storage.place import Place
from contrail_data.store.reader import open_store
from contrail_data.store.verify import verify
from helpers.cli import run_data
from helpers.records import write_record
from helpers.stores import ASH, build_small, contents, flip


def build_kept(raw: Path, out: Path, frames: str) -> Path:
    done = run_data("build-ash", raw, "--frames", frames, "--size", 32, "-o", out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize(("frames", "first", "last"), [("-2,-1,0,1", 2, 5), ("0", 4, 4), ("1,0,-4,-3,-2,-1", 0, 5)])
def test_kept_frames_are_those_of_the_complete_store(
    frames: str, first: int, last: int, raw: Path, tmp_path: Path
) -> None:
    build_small(raw, tmp_path / "all.zarr")
    every, kept = open_store(tmp_path / "all.zarr"), open_store(build_kept(raw, tmp_path / "kept.zarr", frames))
    for name in ("image", "time", "image_checksum"):
        np.testing.assert_array_equal(kept[name].values, every[name].values[:, first : last + 1])
    assert set(kept["labelled_frame"].values) == {4 - first}
    for name in ("mask", "annotators", "source_digest", "solar_zenith", "local_solar_hour", "record_id"):
        np.testing.assert_array_equal(kept[name].values, every[name].values)
    assert verify(Place(str(tmp_path / "kept.zarr"))) == []


def test_appending_repairing_and_rebuilding_keep_the_same_frames(raw: Path, tmp_path: Path) -> None:
    store = build_kept(raw, tmp_path / "a.zarr", "-1,0")
    (source,) = recipe_of(open_store(store)).sources
    assert isinstance(source, RecordsInput)
    assert source.frames == [-1, 0]
    intact = contents(store)
    for damaged in ("image/c.0.0.0.0.0", "provenance.json"):  # without the latter the recipe is lost
        flip(store / damaged)
    done = run_data("verify", store, "--repair-from", raw)
    assert done.returncode == 0, done.stdout + done.stderr
    assert contents(store) == intact
    shutil.copytree(raw, tmp_path / "more")
    write_record(tmp_path / "more/train/zz", np.random.default_rng(9))
    done = run_data("append", store, tmp_path / "more", "-o", tmp_path / "b.zarr")
    assert done.returncode == 0, done.stderr
    appended = open_store(tmp_path / "b.zarr")
    built = open_store(build_kept(tmp_path / "more", tmp_path / "c.zarr", "-1,0"))
    assert appended.sizes["time"] == 2
    differences = diff(appended, built)
    assert (differences.only_a, differences.only_b, differences.records) == ([], [], {})


def test_tfrecords_give_the_same_frames_as_the_folders_of_the_records(tmp_path: Path) -> None:
    for form in ("records", "tfrecords"):
        made = run_data("synth", tmp_path / form, "--records", 4, "--size", 32, "--format", form)
        assert made.returncode == 0, made.stderr
    stores = [
        open_store(build_kept(tmp_path / form, tmp_path / f"{form}.zarr", "-1,0")) for form in ("records", "tfrecords")
    ]
    folders, shards = (store.isel(sample=np.argsort(store["record_id"].values)) for store in stores)
    for name in ("record_id", "image", "mask"):
        np.testing.assert_array_equal(shards[name].values, folders[name].values)
    np.testing.assert_array_equal(shards["labelled_frame"].values, [1] * folders.sizes["sample"])


def test_records_without_a_chosen_frame_are_set_aside_by_name(raw: Path) -> None:
    source = keep_frames(open_source(raw, "train", ASH), range(-5, 1))
    with pytest.raises(ContrailError, match=f"^{source.record_ids[0]}: has the frames -4 to 3, not -5 to 0; choose"):
        source.read_sample(source.record_ids[0])


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ("-2,-1", "the labelled frame is missing; add 0"),
        ("-2,0", "must follow one another"),
        ("0,0", "must follow one another"),
        ("a", "not a list of offsets"),
        ("-9,0", "must follow one another"),
    ],
)
def test_a_choice_of_frames_that_makes_no_sense_is_refused(
    frames: str, message: str, raw: Path, tmp_path: Path
) -> None:
    done = run_data("build-ash", raw, "--frames", frames, "-o", tmp_path / "x.zarr")
    assert done.returncode == 2
    assert f"--frames '{frames}': {message}" in done.stderr
    assert not (tmp_path / "x.zarr").exists()


def test_frames_are_chosen_of_records_only(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    np.save(tmp_path / "frames/a.npy", np.zeros((32, 32, 4), np.float32))
    for arguments, reason in [
        ((tmp_path / "frames",), "on ash frames"),
        ((tmp_path / "frames", "--reader", "auto"), "on scans, of which --before and --after choose frames"),
    ]:
        done = run_data("build-ash", *arguments, "--frames", "0", "-o", tmp_path / "x.zarr")
        assert done.returncode == 2
        assert f"--frames: has no effect {reason}" in done.stderr
