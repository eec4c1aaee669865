"""Opening stores by name: the nearest catalog, versions and verified digests."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from contrail_data.catalog.catalog import add_entry, open_named
from contrail_data.catalog.check import check_entry
from contrail_data.catalog.entries import Entry
from contrail_data.catalog.file import read_catalog
from contrail_data.catalog.index import CATALOG, remove_entry
from contrail_data.catalog.metadata import describe, shortest_arc
from contrail_data.cli.main import app
from contrail_data.composites import COMPOSITES
from contrail_data.errors import ContrailError
from contrail_data.store.reader import open_store
from helpers.places import PROJECT

HERE = "{{ CATALOG_DIR }}"


def write_catalog(path: Path, **entries: object) -> None:
    path.write_text(yaml.safe_dump({"metadata": {"version": 1}, "sources": entries}))


def run(*arguments: object) -> tuple[int, str]:
    """Run `catalog` and return its exit code and its output, which ends with the error if there is one."""
    result = CliRunner().invoke(app, ["catalog", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, ContrailError | SystemExit), result.exc_info
    return result.exit_code, result.output + (str(result.exception) if result.exception else "")


def test_stores_open_by_name_or_path_and_their_digests_are_verified(
    stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = open_store(stores / "ash.zarr").attrs["digest"]
    entry = {"driver": "zarr", "args": {"urlpath": f"{HERE}/stores/ash.zarr"}}
    (tmp_path / "stores").symlink_to(stores)
    write_catalog(
        tmp_path / CATALOG,
        ash_train=entry,
        held={**entry, "metadata": {"digest": digest}},
        rotten={**entry, "metadata": {"digest": f"sha256:{'01' * 32}"}},
        no_digest={**entry, "metadata": {"digest": "sha256:0123"}},
        gone={"args": {"urlpath": f"{HERE}/gone.zarr"}},
        broken=3,
    )
    (tmp_path / "work" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work" / "deep")  # the catalog is two folders up
    for name in ("ash_train", "ash_train@1", "held", str(stores / "ash.zarr"), (stores / "ash.zarr").as_uri()):
        assert open_named(name).attrs["digest"] == digest
    for name, message in [
        ("rotten", "the catalog says sha256:01010101"),
        ("no_digest", "entry 'no_digest': digest: 'sha256:0123' is not a digest"),
        ("gone", f"{tmp_path}/{CATALOG}: entry 'gone': {tmp_path}/gone.zarr is missing"),
        ("broken", "args.urlpath is missing"),
        ("ash_trian", "did you mean the catalog name 'ash_train'"),
        ("ash_train@2", "no entry 'ash_train@2'; choose one of ash_train@1"),
        ("x" * 5000, "neither a store nor a name"),
    ]:
        with pytest.raises(ContrailError, match=message):
            open_named(name)
    code, output = run("check")
    assert (code, output.count("ok   "), output.count("bad  ")) == (1, 2, 4), output
    monkeypatch.setenv("CONTRAIL_CATALOG", str(tmp_path / "none.yaml"))
    with pytest.raises(ContrailError, match="CONTRAIL_CATALOG"):
        open_named("ash_train")


def test_the_catalog_of_the_project_lists_the_stores_of_the_demo() -> None:
    entries = read_catalog(PROJECT / CATALOG).entries
    assert {"demo_train", "demo_validation", "demo_train_pseudo"} <= entries.keys()
    demo = (PROJECT / "demo.sh").read_text()
    for entry in entries.values():
        assert entry.content["args"]["urlpath"].removeprefix(f"{HERE}/") in demo


def test_an_entry_describes_its_store_in_plain_types(stores: Path) -> None:
    store = open_store(stores / "ash.zarr")
    description = describe(store)
    assert description == yaml.safe_load(yaml.safe_dump(description))
    assert {
        k: description[k] for k in ("kind", "composite", "bands", "channels", "samples", "positives", "label_shift")
    } == {
        "kind": "samples",
        "composite": "ash",
        "bands": sorted(COMPOSITES["ash"].bands),
        "channels": ["R", "G", "B"],
        "samples": 9,
        "positives": 9,
        "label_shift": [0.5, 0.5],
    }
    assert description["statistics"]["std"] == store.attrs["statistics"]["std"]
    assert description["time"] == ["2020-03-12T02:00:00Z", "2020-03-12T05:30:00Z"]
    corners = store["corner_latitude"].values
    assert description["area"]["latitude"] == [round(float(f(corners)), 4) for f in (np.nanmin, np.nanmax)]
    derived = describe(open_store(stores / "pseudo.zarr"))
    assert (derived["parent"], derived["kind"]) == (description["digest"], "pseudo-labels")
    assert derived["command"] == "contrail-data pseudo-label 'with blank'"
    assert not {"positives", "time", "area", "statistics"} & derived.keys()


def test_longitude_ranges_may_cross_the_date_line() -> None:
    assert shortest_arc(np.array([178.0, -179.0, 179.5])) == [178, -179]
    assert shortest_arc(np.array([-120.0, -60.0, -60.0])) == [-120, -60]
    assert shortest_arc(np.array([10.0])) == [10, 10]


@pytest.mark.slow
def test_adding_another_store_under_the_same_name_makes_a_new_version(
    stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ash, float_store = stores / "ash.zarr", stores / "float.zarr"
    code, output = run("ls")
    assert code == 1
    assert "makes one" in output
    assert run("add", "ash", ash, "--text", "2020: yes")[0] == 0
    text_with_one_entry = Path(CATALOG).read_text()
    code, output = run("add", "ash", ash)
    assert (code, Path(CATALOG).read_text()) == (0, text_with_one_entry)
    assert "ash@1 is this store already" in output
    assert run("add", "ash", float_store)[0] == 0
    digests = [open_store(p).attrs["digest"] for p in (ash, float_store)]
    assert [open_named(n).attrs["digest"] for n in ("ash@1", "ash@2", "ash")] == [*digests, digests[1]]
    assert "ash@1 is this store already" in run("add", "ash", ash)[1]
    assert "choose one of ash@1, ash@2" in run("show", "ash@3")[1]
    assert "2020: yes" in run("show", "ash@1")[1]
    assert run("ls")[1].splitlines()[2].split() == [
        *("ash", "2", "samples", "ash", "9", "9", "2020-03-12/2020-03-12", digests[1][7:15], str(float_store))
    ]  # fmt: skip
    listed = json.loads(run("ls", "--json")[1])
    assert [(e["name"], e["version"], e["where"]) for e in listed] == [
        ("ash@1", 1, str(ash)),
        ("ash", 2, str(float_store)),
    ]
    assert run("check", "--deep")[0] == 0
    assert "now version 1" in run("rm", "ash")[1]
    assert Path(CATALOG).read_text() == text_with_one_entry
    assert ash.exists()
    assert run("rm", "ash")[0] == 0
    assert (read_catalog(Path(CATALOG)).entries, os.listdir()) == ({}, [CATALOG])
    assert add_entry(Path(CATALOG), "ash", str(ash), open_store(ash), None) == 1
    for name in ("a/b", "s3://x", "a@1", "", "..", "-a", "ash.zarr", "ä", "a b", "a\n"):
        with pytest.raises(ContrailError, match="not a name for an entry"):
            add_entry(Path(CATALOG), name, str(ash), open_store(ash), None)


def test_paths_below_the_catalog_are_written_relative_to_it(stores: Path) -> None:
    store = open_store(stores / "ash.zarr")
    for url, written in [
        (str(stores / "ash.zarr"), f"{HERE}/ash.zarr"),
        ("/elsewhere/ash.zarr", "/elsewhere/ash.zarr"),
        ("gs://bucket/ash.zarr", "gs://bucket/ash.zarr"),
    ]:
        add_entry(stores / "paths.yaml", "a", url, store, None)
        entry = read_catalog(stores / "paths.yaml").find("a")
        assert entry.content["args"]["urlpath"] == written
        remove_entry(stores / "paths.yaml", "a")
    for url in ("simplecache::s3://b/a.zarr", "ftp://x/a.zarr", "/a/{{ env(HOME) }}/b"):
        with pytest.raises(ContrailError):
            add_entry(stores / "never.yaml", "a", url, store, None)
    assert not (stores / "never.yaml").exists()


def test_an_entry_is_checked_against_the_metadata_and_every_byte_of_its_store(stores: Path, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(stores / "ash.zarr", tmp_path / "ash.zarr")
    path = tmp_path / CATALOG
    add_entry(path, "ash", str(copy), open_store(copy), None)
    entry = read_catalog(path).find("ash")
    assert check_entry(entry, deep=True) == []
    entry.content["metadata"]["samples"] = 10
    with pytest.raises(ContrailError, match="entry 'ash': samples is '10', that of the store '9'"):
        check_entry(entry)
    del entry.content["metadata"]["samples"]
    chunk = next(p for p in (copy / "mask").iterdir() if p.name != "zarr.json")
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"x")
    assert check_entry(entry) == []
    with pytest.raises(ContrailError, match="1 damaged files"):
        check_entry(entry, deep=True)


def test_intake_reads_the_catalogs_that_are_written(stores: Path, tmp_path: Path) -> None:
    import intake

    path = stores / "intake.yaml"
    for store in ("ash", "float"):
        add_entry(path, "ash", str(stores / f"{store}.zarr"), open_store(stores / f"{store}.zarr"), "{{ text }}")
    opened = intake.open_catalog(str(path))
    assert list(opened) == ["ash@1", "ash"]
    for name, ours in (("ash@1", "ash"), ("ash", "float")):
        theirs = opened[name].read()
        np.testing.assert_array_equal(theirs.attrs["digest"], open_named(str(stores / f"{ours}.zarr")).attrs["digest"])
    expected = open_store(stores / "ash.zarr")
    theirs = opened["ash@1"].read()
    np.testing.assert_allclose(theirs["image"], expected["image"].values / 255, rtol=1e-6)
    np.testing.assert_array_equal(theirs["record_id"], expected["record_id"])
    assert opened["ash"].to_dask()["image"].chunks is not None
    project_catalog = intake.open_catalog(str(PROJECT / CATALOG))
    assert "demo_train" in list(project_catalog)


@pytest.mark.parametrize(
    "url",
    [
        "../a.zarr",
        f"{HERE}/../a.zarr",
        f"{HERE}/a/../../b",
        "/a/../b",
        "file:///a/../b",
        "file://host/a",
        "{{ env(HOME) }}/a",
        "{{ shell(touch x) }}",
        f"{HERE}/{{{{ env(HOME) }}}}",
        "{% if 1 %}a{% endif %}",
        f"{HERE}s3://a",
        f"{HERE}/s3://a",
        "simplecache::s3://a/b",
        "zip::/a/b",
        "ftp://a/b",
        "S3://a/b",
        "memory://a",
        "a\x1b[31m",
        "a\n",
        "",
        3,
        None,
        ["a"],
        {"a": 1},
    ],
)
def test_hostile_locations_are_refused(url: Any, tmp_path: Path) -> None:
    with pytest.raises(ContrailError) as refused:
        _ = Entry(tmp_path / CATALOG, "a", {"args": {"urlpath": url}}).location
    assert str(refused.value).isprintable()
