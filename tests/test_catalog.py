"""Stores by name: the nearest catalog, versions, digests that are held to, edits in place, and hostile files."""

from __future__ import annotations

import difflib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_build import build_small
from typer.testing import CliRunner

from contrail_data.catalog import catalog as module
from contrail_data.catalog import file as catalog_file
from contrail_data.catalog.catalog import (
    CATALOG,
    add_entry,
    check_entry,
    describe,
    open_named,
    remove_entry,
    store_path,
)
from contrail_data.catalog.file import find_entry, read_catalog, version_of
from contrail_data.cli.catalog import _facts, _row
from contrail_data.cli.main import app
from contrail_data.composites import COMPOSITES
from contrail_data.errors import ContrailError
from contrail_data.labels.predictor import Decision
from contrail_data.labels.write import label_store
from contrail_data.storage.place import SCHEMES
from contrail_data.store.reader import open_store

HERE = "{{ CATALOG_DIR }}"

# Layout that tools which write YAML anew lose: wrapped text, alignment, odd indents, quotes, comments everywhere.
ODD = """---
# head
metadata:
  version: 1

sources:
    # the real one
    ash:
        driver:   zarr      # aligned
        description: Records of the
          whole year, wrapped by hand
        args: { urlpath: "{{ CATALOG_DIR }}/ash.zarr" }
        metadata: {composite: ash,
                   kind: samples}

    # next
    'other':
        driver: zarr
        args:
          urlpath: 'b.zarr'
        description: |
          literal
          # text, no comment
    # on others

# tail
"""


def write_catalog(path: Path, **entries: object) -> None:
    path.write_text(yaml.safe_dump({"metadata": {"version": 1}, "sources": entries}))


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `ash.zarr`, `float.zarr` of another digest and `pseudo.zarr` made from the first."""
    from conftest import raw
    from test_build import SMALL, Settings
    from test_loader import mean_red

    folder = tmp_path_factory.mktemp("stores")
    records = raw.__wrapped__(folder)
    build_small(records, folder / "ash.zarr")
    build_small(records, folder / "float.zarr", settings=Settings(SMALL.composite, "float16", size=32))
    label_store(
        open_store(folder / "ash.zarr"),
        mean_red,
        Decision(0.3, 0.0, 100, "sha256:test"),
        folder / "pseudo.zarr",
        store_kind="pseudo-labels",
        frames="all",
        command=["contrail-data", "pseudo-label", "with blank"],
    )
    return folder


def run(*arguments: object) -> tuple[int, str]:
    """Exit code and output; an error that ends the command is its last line."""
    result = CliRunner().invoke(app, ["catalog", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, ContrailError | SystemExit), result.exc_info
    return result.exit_code, result.output + (str(result.exception) if result.exception else "")


def test_names_paths_and_digests(stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    monkeypatch.chdir(tmp_path / "work" / "deep")  # the catalog lies two folders up
    for name in ("ash_train", "ash_train@1", "held", str(stores / "ash.zarr"), (stores / "ash.zarr").as_uri()):
        assert open_named(name).attrs["digest"] == digest
    for name, told in [
        ("rotten", "the catalog says sha256:01010101"),
        ("no_digest", "entry 'no_digest': digest: 'sha256:0123' is no digest"),
        ("gone", f"{tmp_path}/{CATALOG}: entry 'gone': {tmp_path}/gone.zarr is missing"),
        ("broken", "no args.urlpath"),
        ("ash_trian", "did you mean the catalog name 'ash_train'"),
        ("ash_train@2", "no entry 'ash_train@2': there is ash_train@1"),
        ("x" * 5000, "no such store"),
    ]:
        with pytest.raises(ContrailError, match=told):
            open_named(name)
    code, said = run("check")
    assert (code, said.count("ok   "), said.count("bad  ")) == (1, 2, 4), said
    monkeypatch.setenv("CONTRAIL_CATALOG", str(tmp_path / "none.yaml"))
    with pytest.raises(ContrailError, match="CONTRAIL_CATALOG"):
        open_named("ash_train")


def test_the_projects_own_catalog_names_the_demos_stores() -> None:
    entries = read_catalog(Path(__file__).parents[1] / CATALOG)
    assert {"demo_train", "demo_validation", "demo_train_pseudo"} <= entries.keys()
    demo = (Path(__file__).parents[1] / "demo.sh").read_text()
    for entry in entries.values():
        assert entry["args"]["urlpath"].removeprefix(f"{HERE}/") in demo


def test_an_entry_describes_its_store_in_plain_types(stores: Path) -> None:
    store = open_store(stores / "ash.zarr")
    facts = describe(store)
    assert facts == yaml.safe_load(yaml.safe_dump(facts))
    assert {k: facts[k] for k in ("kind", "composite", "bands", "channels", "samples", "positives", "label_shift")} == {
        "kind": "samples",
        "composite": "ash",
        "bands": sorted(COMPOSITES["ash"].bands),
        "channels": ["R", "G", "B"],
        "samples": 9,
        "positives": 9,
        "label_shift": [0.5, 0.5],
    }
    assert facts["statistics"]["std"] == store.attrs["statistics"]["std"]
    assert facts["time"] == ["2020-03-12T02:00:00Z", "2020-03-12T05:30:00Z"]
    corners = store["corner_latitude"].values
    assert facts["area"]["latitude"] == [round(float(f(corners)), 4) for f in (np.nanmin, np.nanmax)]
    derived = describe(open_store(stores / "pseudo.zarr"))
    assert (derived["parent"], derived["kind"]) == (facts["digest"], "pseudo-labels")
    assert derived["command"] == "contrail-data pseudo-label 'with blank'"
    assert not {"positives", "time", "area", "statistics"} & derived.keys()


def test_longitudes_across_the_date_line() -> None:
    assert module._arc(np.array([178.0, -179.0, 179.5])) == [178, -179]
    assert module._arc(np.array([-120.0, -60.0, -60.0])) == [-120, -60]
    assert module._arc(np.array([10.0])) == [10, 10]


def test_versions(stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ash, other = stores / "ash.zarr", stores / "float.zarr"
    code, said = run("ls")
    assert code == 1
    assert "makes one" in said
    assert run("add", "ash", ash, "--text", "2020: yes")[0] == 0
    first = Path(CATALOG).read_text()
    code, said = run("add", "ash", ash)
    assert (code, Path(CATALOG).read_text()) == (0, first)
    assert "ash@1 is this store already" in said
    assert run("add", "ash", other)[0] == 0
    digests = [open_store(p).attrs["digest"] for p in (ash, other)]
    assert [open_named(n).attrs["digest"] for n in ("ash@1", "ash@2", "ash")] == [*digests, digests[1]]
    assert "ash@1 is this store already" in run("add", "ash", ash)[1]
    assert "there is ash@1, ash@2" in run("show", "ash@3")[1]
    assert "2020: yes" in run("show", "ash@1")[1]
    assert run("ls")[1].splitlines()[2].split() == [
        *("ash", "2", "samples", "ash", "9", "9", "2020-03-12/2020-03-12", digests[1][7:15], str(other))
    ]  # fmt: skip
    listed = json.loads(run("ls", "--json")[1])
    assert [(e["name"], e["version"], e["where"]) for e in listed] == [("ash@1", 1, str(ash)), ("ash", 2, str(other))]
    assert run("check", "--deep")[0] == 0
    assert "now version 1" in run("rm", "ash")[1]
    assert Path(CATALOG).read_text() == first
    assert ash.exists()
    assert run("rm", "ash")[0] == 0
    assert (read_catalog(Path(CATALOG)), os.listdir()) == ({}, [CATALOG])
    assert add_entry(Path(CATALOG), "ash", str(ash), open_store(ash), None) == 1
    for name in ("a/b", "s3://x", "a@1", "", "..", "-a", "ash.zarr", "ä", "a b", "a\n"):
        with pytest.raises(ContrailError, match="no name for an entry"):
            add_entry(Path(CATALOG), name, str(ash), open_store(ash), None)


def test_paths_are_written_so_that_the_folder_can_move(stores: Path) -> None:
    store = open_store(stores / "ash.zarr")
    for url, written in [
        (str(stores / "ash.zarr"), f"{HERE}/ash.zarr"),
        ("/elsewhere/ash.zarr", "/elsewhere/ash.zarr"),
        ("gs://bucket/ash.zarr", "gs://bucket/ash.zarr"),
    ]:
        add_entry(stores / "paths.yaml", "a", url, store, None)
        entry = read_catalog(stores / "paths.yaml")["a"]
        assert entry["args"]["urlpath"] == written
        remove_entry(stores / "paths.yaml", "a")
    for url in ("simplecache::s3://b/a.zarr", "ftp://x/a.zarr", "/a/{{ env(HOME) }}/b"):
        with pytest.raises(ContrailError):
            add_entry(stores / "never.yaml", "a", url, store, None)
    assert not (stores / "never.yaml").exists()


def test_an_entry_is_held_to_its_facts_and_every_byte(stores: Path, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(stores / "ash.zarr", tmp_path / "ash.zarr")
    path = tmp_path / CATALOG
    add_entry(path, "ash", str(copy), open_store(copy), None)
    entry = read_catalog(path)["ash"]
    assert check_entry(path, "ash", entry, deep=True) == []
    entry["metadata"]["samples"] = 10
    with pytest.raises(ContrailError, match="entry 'ash': samples is '10', the store's is '9'"):
        check_entry(path, "ash", entry)
    del entry["metadata"]["samples"]
    chunk = next(p for p in (copy / "mask").iterdir() if p.name != "zarr.json")
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"x")
    assert check_entry(path, "ash", entry) == []
    with pytest.raises(ContrailError, match="1 files damaged"):
        check_entry(path, "ash", entry, deep=True)


def test_intake_itself_reads_a_catalog_that_we_wrote(stores: Path, tmp_path: Path) -> None:
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
    own = intake.open_catalog(str(Path(__file__).parents[1] / CATALOG))
    assert "demo_train" in list(own)


@pytest.mark.parametrize(
    "text",
    [ODD, ODD.replace("\n", "\r\n"), ODD.rstrip("\n"), ODD.split("    # next")[0].rstrip()]
    + [f"metadata: {{version: 1}}\n{s}" for s in ("sources:", "sources: {}  # none\nx: 1\n", "sources: ~\n# tail\n")],
)
def test_an_edit_changes_no_other_line(text: str, stores: Path, tmp_path: Path) -> None:
    path = tmp_path / CATALOG
    path.write_bytes(text.encode())
    path.chmod(0o664)
    before = text.splitlines(keepends=True)
    empty = "ash:" not in text
    for name, store in (("new", "ash"), ("ash", "float")):
        add_entry(path, name, str(stores / f"{store}.zarr"), open_store(stores / f"{store}.zarr"), "it's: #1\nsecond")
    after = path.read_bytes().decode().splitlines(keepends=True)
    lost = [line for line in difflib.ndiff(before, after) if line.startswith("- ")]
    sources = [line for line in before if line.startswith("sources")]
    expected = sources if empty and not sources[0].endswith("sources:\n") else []
    expected += [] if empty else ["    ash:\r\n" if "\r" in text else "    ash:\n"]
    last = [] if text.endswith("\n") or empty else [before[-1]] if before[-1].strip()[0] != "#" else []
    assert [line[2:] for line in lost] == sorted({*expected, *last}, key=before.index)
    assert read_catalog(path)["ash"]["description"] == "it's: #1\nsecond"
    assert path.stat().st_mode & 0o777 == 0o664
    remove_entry(path, "ash")
    remove_entry(path, "new")
    restored = path.read_bytes().decode()
    if empty:
        assert yaml.safe_load(restored)["sources"] == {}
    else:
        assert restored.rstrip() == text.rstrip()


def test_removal_leaves_the_comments_of_the_others(tmp_path: Path) -> None:
    path = tmp_path / CATALOG
    path.write_text(ODD)
    assert remove_entry(path, "ash") == ("ash", None)
    assert list(read_catalog(path)) == ["other"]
    assert path.read_text() == ODD[: ODD.index("    ash:")] + ODD[ODD.index("\n    # next") :]
    assert remove_entry(path, "other") == ("other", None)
    assert read_catalog(path) == {}
    assert path.read_text().count("#") == ODD.count("#") - 2  # less 'aligned' and the literal's


def test_edits_that_cannot_be_made_safely_are_refused(stores: Path, tmp_path: Path) -> None:
    path = tmp_path / CATALOG
    store = open_store(stores / "ash.zarr")
    for text, told in [
        ("{sources: {}}", "within"),
        ("sources: {a: {driver: zarr}}", "within"),
        ("sources:\n  ash: {metadata: {version: x}}\n", "metadata.version"),
        ("sources:\n  ash: {metadata: {version: 1}}\n  ash@2: {metadata: {version: 2}}\n", "not the newest"),
        ("sources:\n  - ash\n", "no mapping"),
    ]:
        path.write_text(text)
        with pytest.raises(ContrailError, match=told):
            add_entry(path, "ash", str(stores / "ash.zarr"), store, None)
        assert path.read_text() == text
        assert os.listdir(tmp_path) == [CATALOG]
    path.write_text(shared := "sources:\n  ash: &a {driver: zarr}\n  other: *a\n")
    with pytest.raises(ContrailError, match=r"alias .a. of nothing .*nothing was written"):
        remove_entry(path, "ash")
    assert path.read_text() == shared
    with pytest.raises(ContrailError, match="cannot be written"):
        add_entry(tmp_path / "none" / CATALOG, "ash", str(stores / "ash.zarr"), store, None)


def test_processes_add_at_the_same_time(stores: Path, tmp_path: Path) -> None:
    code = """if True:
        import sys, pathlib
        from contrail_data.catalog.catalog import add_entry
        from contrail_data.store.reader import open_store
        stores, catalog, worker = sys.argv[1:]
        for i in range(4):
            for store in ("ash", "float"):
                path = f"{stores}/{store}.zarr"
                add_entry(pathlib.Path(catalog), f"w{worker}_{i}", path, open_store(path), None)
            add_entry(pathlib.Path(catalog), "shared", path, open_store(path), None)
    """
    path = tmp_path / CATALOG
    workers = [subprocess.Popen([sys.executable, "-c", code, str(stores), str(path), str(w)]) for w in range(3)]
    assert [w.wait(60) for w in workers] == [0, 0, 0]
    expected = {f"w{w}_{i}{v}" for w in range(3) for i in range(4) for v in ("", "@1")} | {"shared"}
    assert set(read_catalog(path)) == expected
    assert os.listdir(tmp_path) == [CATALOG]


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
    with pytest.raises(ContrailError) as told:
        store_path(tmp_path / CATALOG, "a", {"args": {"urlpath": url}})
    assert str(told.value).isprintable()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"sources: {}" + b" " * (4 << 20), "larger than 4 MB"),
        (b"sources: " + b"[" * 100_000, "levels deep"),
        (b"sources: [" + b"a," * 1_000_000 + b"]", "more than 200000 values"),
        (b"sources: 1" + b":20" * 1_000_000, "a number of"),
        (
            b"a0: &a0 [x]\n%bsources: {}"
            % b"".join(b"a%d: &a%d [*a%d, *a%d]\n" % (i, i, i - 1, i - 1) for i in range(1, 31)),
            "more than 200000 values",
        ),
        (
            b"a0: &a0 [x]\n%bsources: {}" % b"".join(b"a%d: &a%d [*a%d]\n" % (i, i, i - 1) for i in range(1, 41)),
            "levels deep",
        ),
        (b"sources: &a {a: *a}", "alias 'a' of nothing"),
        (b"sources: !!python/object/apply:os.system [ls]", "tags"),
        (b"sources: {a: {<<: {b: 1}}}", "is not text"),
        (b"sources: {18446744073709551616: {}}", "is not text, quote it"),
        (b"sources: {? [a] : 1}", "is not text"),
        (b"sources: {a: 1, a: 2}", "is there twice"),
        (b"sources:\n\ta: 1", "line 2: found character"),
        (b"\xef\xbb\xbfsources: {}", "byte order mark"),
        (b"sources: \xff", "not UTF-8 at byte 9"),
        (b"sources: {a: 2020-13-45}", "month"),
        (b"sources: {}\n---\n", "another document"),
        (b"sources: \0", "control characters"),
        (b"- 1", "'sources' is missing"),
        (b"", "'sources' is missing"),
    ],
)
def test_hostile_files_end_in_one_line(content: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / CATALOG
    path.write_bytes(content)
    start = time.monotonic()
    with pytest.raises(ContrailError, match=told) as error:
        read_catalog(path)
    assert str(error.value).isprintable()
    assert time.monotonic() - start < 5


WATCHED: list[str] | None = None
VALID = ODD.replace("kind: samples}", f"kind: samples, version: 2, digest: 'sha256:{'0a' * 32}'}}").replace(
    "    # next", "    ash@1: {driver: zarr, args: {urlpath: s3://b/a.zarr}, metadata: {samples: 9, time: [a, b]}}"
)
NEW = {"driver": "zarr", "args": {"urlpath": "x.zarr"}, "metadata": {"digest": f"sha256:{'0b' * 32}"}}
FUZZ = settings(derandomize=True, database=None, deadline=3000, suppress_health_check=list(HealthCheck))


def _watch(event: str, _: tuple[Any, ...]) -> None:
    if WATCHED is not None and event.split(".")[0] in ("open", "os", "subprocess", "socket", "shutil", "exec"):
        WATCHED.append(event)


sys.addaudithook(_watch)


def told_on_one_line(error: ContrailError) -> None:
    assert str(error).isprintable(), error


def survives(content: bytes) -> bool:
    """Whether it is a catalog; reading, listing and editing it end well or in one line, and touch no file."""
    global WATCHED
    path = Path("/nowhere") / CATALOG
    tasks = [lambda c: catalog_file.with_entry(c, "ash", NEW), lambda c: catalog_file.without_entry(c, "ash")]
    tasks += [lambda c: catalog_file.with_entry(c, "new", NEW), lambda c: find_entry(path, c.sources, "ash@1")]
    WATCHED = []
    try:
        try:
            parsed = catalog_file._parse(content, path)
        except ContrailError as error:
            told_on_one_line(error)
            return False
        for key, entry in parsed.sources.items():
            _row(_facts(path, key, entry))
            for function in (store_path, version_of):
                tasks.append(lambda _, f=function, k=key, e=entry: f(path, k, e))
        for task in tasks:
            try:
                told = task(parsed)
            except ContrailError as error:
                told_on_one_line(error)
                continue
            if isinstance(told, str):
                scheme, remote, _ = told.partition("://")
                assert "@" in told or (scheme in SCHEMES if remote else told.startswith("/")) or told in parsed.sources
                assert "{{" not in told
            elif isinstance(told, tuple) and told[0] is not None:
                assert catalog_file._parse(told[0].text.encode(), path).content == told[0].content
        return True
    finally:
        seen, WATCHED = WATCHED, None
        assert seen == []


JUNK = st.one_of(
    st.sampled_from([b"{{ env(HOME) }}", b"&a ", b"*a", b"!!python/name:os.system ", b"\t", b"\xff", b"\xef\xbb\xbf"]),
    st.sampled_from([b"\0", b"\r", b"\n---\n", b"? ", b"- ", b"[", b"{", b"}", b'"', b"'", b": ", b"#", b"|\n", b"@"]),
    st.sampled_from([b"<<: ", b"ash:", b"../", b"\xe2\x80\xa8", b"\xc2\x85", b"..", b"::", b"://", b"1:2:3", b"%YAML"]),
    st.binary(max_size=6),
)


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 40), JUNK), min_size=1, max_size=4))
@settings(FUZZ, max_examples=2500)
def test_mutated_bytes(edits: list[tuple[float, int, bytes]]) -> None:
    content = VALID.encode()
    for where, length, junk in edits:
        at = int(where * len(content))
        content = content[:at] + junk + content[at + length :]
    survives(content)


LEAF = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.dates(), st.datetimes(),
    st.sampled_from(["{{ shell(ls) }}", "../x", "s3://b/x", "zip::x", "sha256:0", "ash@1", "\x1b[2J", "[x]", "x" * 99]),
)  # fmt: skip
VALUE = st.recursive(
    LEAF,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
PLACES = st.lists(st.sampled_from(["sources", "metadata", "ash", "ash@1", "other", "args", "urlpath", "version"]))


@given(st.lists(st.tuples(PLACES.filter(len), VALUE), min_size=1, max_size=4), st.booleans())
@settings(FUZZ, max_examples=800)
def test_mutated_structure(changes: list[tuple[list[str], Any]], flow: bool) -> None:
    tree = yaml.safe_load(VALID)
    for places, value in changes:
        node = tree if places[0] in ("sources", "metadata") else tree["sources"]
        for place in places[:-1]:
            node = node[place] if isinstance(node, dict) and isinstance(node.get(place), dict) else node
        if isinstance(node, dict):
            node[places[-1]] = value
        if not isinstance(tree.get("sources"), dict):
            break
    survives(yaml.safe_dump(tree, default_flow_style=flow, allow_unicode=True).encode())


def test_the_fuzzed_catalog_is_a_good_one() -> None:
    assert survives(VALID.encode())
