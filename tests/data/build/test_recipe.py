"""A recipe defines a store: the one that a store prints builds the same store again."""

from __future__ import annotations

import json
import shutil
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import yaml

from contrail_data.build.inputs import AbiInput
from contrail_data.build.recipe import Recipe, read_recipe, recipe_of, to_yaml
from contrail_data.errors import ContrailError
from contrail_data.storage.place import Place
from contrail_data.store.manifest import encode_provenance
from contrail_data.store.reader import open_store
from contrail_data.store.verify import verify
from helpers.cli import run_data
from helpers.labels import pseudo_of
from helpers.records import write_record
from helpers.stores import contents, flip


def print_recipe(store: Path, file: Path) -> Path:
    printed = run_data("recipe", store)
    assert printed.returncode == 0, printed.stderr
    file.write_text(printed.stdout)
    return file


def digest_of(store: Path) -> str:
    return str(open_store(store).attrs["digest"])


@pytest.mark.slow
def test_real_records_give_the_same_digest_by_the_recipe_wherever_they_lie(real_data: Path, tmp_path: Path) -> None:
    given = ("--split", "validation", "--composite", "ash+ash_wide", "--size", 64, "--codec", "zstd", "-o")
    built = run_data("build-ash", real_data / "opencontrails", *given, tmp_path / "a.zarr")
    assert built.returncode == 0, built.stderr
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/validation").symlink_to(real_data / "opencontrails/validation")
    shutil.copy(real_data / "opencontrails/validation_metadata.json", tmp_path / "elsewhere")
    recipe = print_recipe(tmp_path / "a.zarr", tmp_path / "a.yaml")
    moved = ("--set", f"sources.0.path={tmp_path}/elsewhere")
    again = run_data("build", recipe, "-o", tmp_path / "b.zarr", *moved)
    assert again.returncode == 0, again.stderr
    assert digest_of(tmp_path / "b.zarr") == digest_of(tmp_path / "a.zarr")
    assert open_store(tmp_path / "a.zarr")["image"].dtype == "float16"


@pytest.mark.slow
def test_real_scans_give_the_same_digest_by_the_recipe_wherever_they_lie(real_data: Path, tmp_path: Path) -> None:
    cut = ("--before", 0, "--after", 0, "--at", "36,138", "--native", "--size", 64)
    built = run_data("build-ash", real_data / "ahi", "--reader", "auto", *cut, "-o", tmp_path / "a.zarr")
    assert built.returncode == 0, built.stderr
    shutil.copytree(real_data / "ahi", tmp_path / "elsewhere")
    recipe = print_recipe(tmp_path / "a.zarr", tmp_path / "a.yaml")
    again = run_data(
        "build", recipe, "-o", tmp_path / "b.zarr", "--set", f"sources.0.path={tmp_path}/elsewhere", "--workers", 1
    )
    assert again.returncode == 0, again.stderr
    assert contents(tmp_path / "b.zarr") == contents(tmp_path / "a.zarr")


@pytest.mark.slow
def test_a_store_of_scans_is_rebuilt_and_repaired_by_its_recipe(scans: Path, tmp_path: Path) -> None:
    given = ("--time", "2024-03-01T12:40", "--at", "29.5,-92", "--size", 48, "--pixel", 2000, "--quality", "0")
    store = tmp_path / "a.zarr"
    assert run_data("build-ash", scans, *given, "--after", 5, "-o", store).returncode == 0
    recipe = read_recipe(print_recipe(store, tmp_path / "a.yaml"))
    (source,) = recipe.sources
    assert isinstance(source, AbiInput)
    assert (source.time, source.quality, source.after) == ([datetime(2024, 3, 1, 12, 40)], [0], 5)
    assert run_data("build", tmp_path / "a.yaml", "-o", tmp_path / "b.zarr").returncode == 0
    intact = contents(store)
    assert contents(tmp_path / "b.zarr") == intact
    for damaged in (("image/c.0.0.0.0.0",), ("latitude/c/0", "image/c.0.0.0.0.0")):
        for key in damaged:
            flip(store / key)
        repaired = run_data("verify", store, "--repair-from", scans)
        assert repaired.returncode == 0, repaired.stderr
        assert contents(store) == intact


@pytest.mark.slow
def test_a_store_with_labels_drawn_on_scans_is_rebuilt_by_its_recipe(scans: Path, tmp_path: Path) -> None:
    line = {"type": "LineString", "coordinates": [[-92.1, 29.4], [-91.9, 29.6]]}
    feature = {"type": "Feature", "geometry": line, "properties": {"time": "2024-03-01T12:41:00Z"}}
    (tmp_path / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    drawn = ("--labels", tmp_path / "a.geojson", "--label-area", "28,-95,31,-89", "--line-width", "3px")
    cut = ("--at", "29.5,-92", "--size", 48, "--pixel", 2000, "--before", 0, "--after", 1)
    built = run_data("build-ash", scans, *drawn, *cut, "-o", tmp_path / "a.zarr")
    assert built.returncode == 0, built.stderr
    store = open_store(tmp_path / "a.zarr")
    assert (store.attrs["label_shift"], int(store["mask"].sum()) > 30) == ([0, 0], True)
    recipe = print_recipe(tmp_path / "a.zarr", tmp_path / "a.yaml")
    (tmp_path / "a.geojson").rename(tmp_path / "moved.geojson")
    moved = ("--set", f"sources.0.labels=[{tmp_path}/moved.geojson]")
    again = run_data("build", recipe, *moved, "-o", tmp_path / "b.zarr")
    assert again.returncode == 0, again.stderr
    assert contents(tmp_path / "b.zarr") == contents(tmp_path / "a.zarr")


def test_options_and_recipe_are_the_same_build(raw: Path, tmp_path: Path) -> None:
    store, recipe = tmp_path / "s.zarr", tmp_path / "r.yaml"
    recipe.write_text(f"sources: [{{kind: records, path: '{raw}'}}]\nsize: 32\nlabel_shift: [0.5, 0.25]\n")
    assert run_data("build", recipe, "-o", store).returncode == 0
    same = run_data("build-ash", raw, "--size", 32, "--label-shift", 0.5, 0.25, "-o", store)
    assert "the store already exists" in same.stderr
    other = run_data("build-ash", raw, "--size", 32, "-o", store)
    assert "holds another store already" in other.stderr
    assert verify(Place(str(store))) == []


def test_a_recipe_joins_splits_and_kinds_of_input(raw: Path, tmp_path: Path) -> None:
    write_record(raw / "validation/5", np.random.default_rng(5))
    write_record(raw / "validation/6", np.random.default_rng(6))
    sources = [{"kind": "records", "path": str(raw), "split": split} for split in ("train", "validation")]
    file = tmp_path / "r.yaml"
    file.write_text(yaml.safe_dump({"sources": sources, "size": 32}))
    done = run_data("build", file, "-o", tmp_path / "s.zarr")
    assert done.returncode == 0, done.stderr
    store = open_store(tmp_path / "s.zarr")
    assert store["split"].values.tolist() == ["train"] * 9 + ["validation"] * 2
    assert store.attrs["statistics"]["samples"] == 9
    assert [source.split for source in recipe_of(store).sources] == ["train", "validation"]
    merged = tmp_path / "m.zarr"
    for split in ("train", "validation"):
        assert run_data("build-ash", raw, "--split", split, "--size", 32, "-o", tmp_path / f"{split}.zarr").stdout
    assert run_data("merge", tmp_path / "train.zarr", tmp_path / "validation.zarr", "-o", merged).returncode == 0
    assert store["image"].values.tobytes() == open_store(merged)["image"].values.tobytes()
    assert run_data("build", file, "-o", raw / "validation/s.zarr").stderr.count("lies among the records") == 1
    (tmp_path / "frames").mkdir()
    np.save(tmp_path / "frames/a.npy", np.zeros((32, 32, 4), np.float16))
    for source, message in [
        ({"kind": "records", "path": str(raw)}, "record 18446744073709551616: occurs in "),
        ({"kind": "frames", "path": f"{tmp_path}/frames"}, "records have 1 frames"),
    ]:
        file.write_text(yaml.safe_dump({"sources": [*sources, source], "size": 32}))
        refused = run_data("build", file, "-o", tmp_path / "x.zarr")
        assert refused.returncode == 1
        assert message in refused.stderr


def test_another_store_than_that_of_the_recipe_is_reported(raw: Path, tmp_path: Path) -> None:
    assert run_data("build-ash", raw, "--size", 32, "-o", tmp_path / "a.zarr").returncode == 0
    recipe = print_recipe(tmp_path / "a.zarr", tmp_path / "r.yaml")
    smaller = run_data("build", recipe, "--set", "size=48", "-o", tmp_path / "b.zarr")
    assert smaller.returncode == 0, smaller.stderr  # another store is what was asked for
    write_record(raw / "train/more", np.random.default_rng(9))
    done = run_data("build", recipe, "-o", tmp_path / "c.zarr")
    assert done.returncode == 4
    assert f"is not the store of the recipe ({digest_of(tmp_path / 'a.zarr')})" in done.stderr
    assert open_store(tmp_path / "c.zarr").sizes["sample"] == 10
    assert run_data("build", recipe, "-o", tmp_path / "d.zarr", "--set", "digest=null").returncode == 0


def test_a_store_without_a_recipe_says_why(raw: Path, tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    assert run_data("build-ash", raw, "--size", 32, "-o", store).returncode == 0
    assert run_data("subset", store, "-o", tmp_path / "sub.zarr").returncode == 0
    pseudo_of(store, tmp_path / "pseudo.zarr")
    shutil.copytree(store, tmp_path / "old.zarr")
    provenance = json.loads((store / "provenance.json").read_text())
    del provenance["checksum"], provenance["recipe"]
    (tmp_path / "old.zarr/provenance.json").write_bytes(encode_provenance(provenance))
    flip(store / "provenance.json")
    for name, message in [
        ("sub.zarr", "it was made from the stores sha256:"),
        ("pseudo.zarr", "holds pseudo-labels, not samples"),
        ("old.zarr", "has no recipe: an earlier version built it"),
        ("s.zarr", "provenance.json: "),
    ]:
        done = run_data("recipe", tmp_path / name)
        assert (done.returncode, done.stdout) == (1, ""), name
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1


WRONG = [
    (["sources.0.pth=x"], "there is no setting 'sources.0.pth'; did you mean sources.0.path?"),
    (["sources.1.path=x"], "sources has the entries 0 to 0"),
    (["size.rows=3"], "size is '256', without keys"),
    (["sources.0.time=[2024-01-01]"], "no setting 'sources.0.time'; use one of kind, path, split, frames"),
    (["sources.0.kind=goes"], "sources.0.kind: cannot be 'goes'; give records, tfrecords, frames, abi"),
    (["sources.0={path: x}"], "sources.0.kind: missing; give records, tfrecords, frames, abi"),
    (["sources=[]"], "sources: cannot be '[]'"),
    (["composite=asch"], "composite: 'asch': unknown; use one of ash"),
    (["composite={channels: [{name: R}]}"], "composite: channel 0: malformed"),
    (["label_shift=[1,9]"], "give [a number from -8 to 8, a number from -8 to 8]"),
    (["digest=sha256:00"], "give sha256: and 64 hexadecimal digits, or null"),
    (["sources.0={kind: abi, path: x, time: [soon]}"], "'soon' is not a time; give it in UTC"),
    (["sources.0={kind: abi, path: x, time: [3000-01-01]}"], "is not in 1970 to 2199"),
    (["sources.0={kind: abi, path: x, time: [2024-01-01], every: 9}"], "sources.0: every=9 has no effect"),
    (["sources.0={kind: abi, path: x, native: true, pixel: 2000}"], "sources.0: pixel=2000.0 has no effect"),
    (["sources.0={kind: abi, path: x, product: L1b-RadC}"], "product=L1b-RadC has no effect: it needs an archive"),
    (["sources.0={kind: abi, path: x, quality: [5]}"], "give a list of 1 or more, each entry a whole number from 0"),
    (["sources.0={kind: abi, path: x, label_area: scan}"], "sources.0: label_area=scan has no effect: it needs labels"),
    (["sources.0={kind: abi, path: x, labels: [a], label_area: [3, 1, 2, 4]}"], "south below north"),
    (["sources.0={kind: abi, path: x, since: 2024-01-02, until: 2024-01-01}"], "is before since"),
    (["sources.0={kind: satpy, path: x, since: 2024-01-01}"], "there is no setting 'sources.0.since'"),
]


@pytest.mark.parametrize(("settings", "message"), WRONG)
def test_a_wrong_recipe_is_refused_in_one_line(settings: list[str], message: str, tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("sources: [{kind: records, path: raw}]\nsize: 256\n")
    with pytest.raises(ContrailError) as caught:
        read_recipe(file, settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_printed_recipe_is_read_as_it_was_and_times_are_utc(tmp_path: Path) -> None:
    times = ["2024-03-01T12:40Z", "2024-03-01T12:40+02:00", datetime(2024, 3, 2)]
    source = {"kind": "abi", "path": str(tmp_path), "time": times, "at": [[1, -2.5]], "quality": [2]}
    recipe = Recipe.model_validate({"sources": [source], "composite": "ash_cira+bands"})
    assert [time.isoformat() for time in recipe.sources[0].time] == [
        *("2024-03-01T12:40:00", "2024-03-01T10:40:00", "2024-03-02T00:00:00")
    ]
    file = tmp_path / "r.yaml"
    file.write_text(to_yaml(recipe.located()))
    assert read_recipe(file).settings == recipe.settings
    assert read_recipe(file).sources == recipe.sources
