"""An audit finds records that two stores share."""

from __future__ import annotations

import csv
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from contrail_data.build.build import build
from contrail_data.cli.main import app
from contrail_data.composites import COMPOSITES
from contrail_data.sources.open import open_source
from contrail_data.splits.audit import audit
from contrail_data.splits.leaks import Checked
from contrail_data.store.reader import open_store, read_scalars
from contrail_data.store.settings import StoreSettings
from helpers.records import write_record


def test_an_audit_finds_copies_and_labels_that_contradict(stores, tmp_path):
    a, b = stores
    audited = audit([a, b], [read_scalars(a), read_scalars(b)])
    matches = audited.leaks
    assert audited.checked == [Checked(records=n, id=n, data=n, footprint=0, image=n - 1, unchecked=1) for n in (4, 3)]
    dice_of_match = {
        (k, i, j): d
        for k, i, j, d in zip(matches.kind, matches.a.tolist(), matches.b.tolist(), matches.dice, strict=True)
    }
    # The flat records have the same data, but are too flat to be compared as images.
    assert set(dice_of_match) == {
        ("data", 0, 0), ("data", 1, 1), ("data", 3, 2), ("image", 0, 0), ("image", 1, 1), ("label", 0, 0),
    }  # fmt: skip
    assert (dice_of_match["label", 0, 0], dice_of_match["data", 1, 1]) == (0, 1)
    names = [str(tmp_path / f"{n}.zarr") for n in "ab"]
    out, page = tmp_path / "leaks.csv", tmp_path / "audit.html"
    result = CliRunner().invoke(app, ["audit", *names, "-o", str(out), "--page", str(page)])
    assert result.exit_code == 4
    rows = list(csv.DictReader(out.open()))
    assert len(rows) == 6
    assert {(r["kind"], r["record_a"], r["record_b"], r["dice"]) for r in rows} >= {("label", "a0", "b0", "0.0000")}
    assert "a0" in page.read_text()
    for text in (" ".join(result.output.split()), page.read_text()):
        assert "a.zarr: 1 of 4 records lack place or time, and their images were not compared" in text
        assert "not compared" in text
    assert "overlapping footprint and time not compared - - 0 0" in " ".join(result.output.split())
    without = CliRunner().invoke(app, ["audit", *names, "--no-images"])
    assert without.exit_code == 4
    assert "same raw data" in without.output
    assert "similar image" not in without.output


def test_different_labels_of_one_place_at_different_times_do_not_contradict(raw, tmp_path):
    """Labels of one tile contradict each other only at the same time; these nine records are 20 minutes apart."""
    for mask in (raw / "train").glob("*/human_pixel_masks.npy"):
        np.save(mask, np.random.default_rng(int(mask.parent.name) % 97).integers(0, 2, (32, 32, 1), "<i4"))
        (mask.parent / "human_individual_masks.npy").unlink()
    settings = StoreSettings(COMPOSITES["ash"], size=32)
    build(open_source(raw, "train", COMPOSITES["ash"]), settings, str(tmp_path / "s"), workers=1)
    store = open_store(tmp_path / "s")
    matches = audit([store], [read_scalars(store)], images=False).leaks
    assert (matches.overlap > 0.99).sum() == 8 * 7 / 2
    assert "label" not in matches.kind


def test_of_many_records_with_the_same_data_the_group_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr("contrail_data.splits.audit.LISTED", 4)
    rng = np.random.default_rng(1)
    first = write_record(tmp_path / "raw/train/r0", rng, size=32)
    for i in range(1, 9):
        shutil.copytree(first, tmp_path / f"raw/train/r{i}")
    mask = np.zeros((32, 32, 1), "<i4")
    np.save(tmp_path / "raw/train/r5/human_pixel_masks.npy", mask)
    (tmp_path / "raw/train/r5/human_individual_masks.npy").unlink()
    source = open_source(tmp_path / "raw", "train", COMPOSITES["ash"])
    build(source, StoreSettings(COMPOSITES["ash"], size=32), tmp_path / "s.zarr", workers=1)
    out, page = tmp_path / "leaks.csv", tmp_path / "audit.html"
    command = ["audit", str(tmp_path / "s.zarr"), "-o", str(out), "--page", str(page)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 4
    rows = [(row["kind"], row["record_a"], row["record_b"]) for row in csv.DictReader(out.open())]
    assert rows == [
        *((kind, "r0", f"r{i}") for kind in ("data", "image") for i in range(1, 9)), ("label", "r0", "r5"),
    ]  # fmt: skip
    for text in (" ".join(result.output.split()), page.read_text()):
        for name in ("raw data", "image"):
            assert f"9 records have the same {name}, the first being r0" in text


@pytest.mark.slow
def test_one_scene_at_two_times_is_found_among_real_frames(real_data, tmp_path):
    source = open_source(real_data / "ash_frames", "train", COMPOSITES["ash"])
    build(source, StoreSettings(COMPOSITES["ash"]), str(tmp_path / "frames.zarr"), workers=1)
    store = open_store(tmp_path / "frames.zarr")
    matches = audit([store], [read_scalars(store)]).leaks
    ids = store["record_id"].values
    assert [(k, ids[i], ids[j]) for k, i, j in zip(matches.kind, matches.a, matches.b, strict=True)] == [
        ("image", "pos_013", "pos_062")
    ]
