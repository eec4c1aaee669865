"""Catalog files: edits keep the rest of the file, and hostile or mutated files are refused in one line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import ruamel.yaml.mergevalue  # noqa: F401 (imported by edits otherwise, while files are watched)
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contrail_data.catalog.catalog import add_entry
from contrail_data.catalog.entries import Catalog
from contrail_data.catalog.file import parse_catalog, read_catalog, with_entry, without_entry
from contrail_data.catalog.index import CATALOG, remove_entry
from contrail_data.cli.catalog import entry_row
from contrail_data.errors import ContrailError
from contrail_data.storage.place import SCHEMES
from contrail_data.store.reader import open_store
from helpers.catalogs import ODD
from helpers.places import PROJECT


@pytest.mark.parametrize(
    "text",
    [ODD, ODD.replace("\n", "\r\n"), ODD.rstrip("\n"), ODD.split("    # next")[0].rstrip()]
    + [f"metadata: {{version: 1}}\n{s}" for s in ("sources:", "sources: {}  # none\nx: 1\n", "sources: ~\n# tail\n")],
)
def test_edits_keep_comments_order_and_line_ends(text: str, stores: Path, tmp_path: Path) -> None:
    path = tmp_path / CATALOG
    path.write_bytes(text.encode())
    path.chmod(0o664)
    before = read_catalog(path)
    for name, store in (("new", "ash"), ("ash", "float")):
        add_entry(path, name, str(stores / f"{store}.zarr"), open_store(stores / f"{store}.zarr"), "it's: #1\nsecond")
    after = read_catalog(path)
    assert comments(after.text) == comments(text)
    assert after.text.count("\r") == (after.text.count("\n") if "\r" in text else 0)
    assert [key.removesuffix("@1") for key in after.entries] == [*before.entries, "new", "ash"][: len(after.entries)]
    assert after.find("ash").content["description"] == "it's: #1\nsecond"
    assert path.stat().st_mode & 0o777 == 0o664
    remove_entry(path, "ash")
    remove_entry(path, "new")
    assert read_catalog(path).content == {**before.content, "sources": before.content["sources"] or {}}
    assert comments(read_catalog(path).text) == comments(text)


@pytest.mark.parametrize("written", [True, False])
def test_an_interrupted_first_entry_is_kept_if_written_and_else_leaves_no_file(
    written: bool, stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.chmod" if written else "contrail_data.catalog.file.write_atomically", interrupt)
    with pytest.raises(KeyboardInterrupt):
        add_entry(tmp_path / CATALOG, "new", str(stores / "ash.zarr"), open_store(stores / "ash.zarr"), "")
    assert [path.name for path in tmp_path.iterdir()] == ([CATALOG] if written else [])
    if written:
        assert [*read_catalog(tmp_path / CATALOG).entries] == ["new"]


def comments(text: str) -> list[str]:
    return sorted(line[line.index("#") :].rstrip() for line in text.splitlines() if "#" in line and "it's" not in line)


def test_adding_and_removing_an_entry_restores_the_catalog_of_the_project(stores: Path, tmp_path: Path) -> None:
    path = tmp_path / CATALOG
    path.write_bytes((PROJECT / CATALOG).read_bytes())
    add_entry(path, "ash", str(stores / "ash.zarr"), open_store(stores / "ash.zarr"), None)
    assert path.read_text().startswith((PROJECT / CATALOG).read_text())
    remove_entry(path, "ash")
    assert path.read_bytes() == (PROJECT / CATALOG).read_bytes()


def test_removing_an_entry_keeps_the_comments_of_other_entries(tmp_path: Path) -> None:
    path = tmp_path / CATALOG
    for text in (ODD, ODD.replace("{composite: ash,\n                   kind: samples}", "\n          composite: ash")):
        path.write_text(text)
        assert remove_entry(path, "ash") == ("ash", None)
        assert list(read_catalog(path).entries) == ["other"]
        assert comments(path.read_text()) == [c for c in comments(ODD) if c != "# aligned"]
        assert path.read_text().index("# next") < path.read_text().index("'other'")
        assert remove_entry(path, "other") == ("other", None)
        assert read_catalog(path).entries == {}
        assert [c for c in comments(path.read_text()) if c != "# text, no comment"] == [
            *("# head", "# next", "# on others", "# tail", "# the real one")
        ]


def test_edits_that_cannot_be_made_safely_are_refused(stores: Path, tmp_path: Path) -> None:
    path = tmp_path / CATALOG
    store = open_store(stores / "ash.zarr")
    for text, message in [
        ("sources:\n  ash: {metadata: {version: x}}\n", "metadata.version"),
        ("sources:\n  ash: {metadata: {version: 1}}\n  ash@2: {metadata: {version: 2}}\n", "not the newest"),
        ("sources:\n  - ash\n", "not a mapping"),
    ]:
        path.write_text(text)
        with pytest.raises(ContrailError, match=message):
            add_entry(path, "ash", str(stores / "ash.zarr"), store, None)
        assert path.read_text() == text
        assert os.listdir(tmp_path) == [CATALOG]
    with pytest.raises(ContrailError, match="cannot be written"):
        add_entry(tmp_path / "none" / CATALOG, "ash", str(stores / "ash.zarr"), store, None)


@pytest.mark.slow
def test_several_processes_can_add_entries_at_the_same_time(stores: Path, tmp_path: Path) -> None:
    program = """if True:
        import os, pathlib, sys
        from contrail_data.catalog.catalog import add_entry
        from contrail_data.store.reader import open_store
        stores, catalog = sys.argv[1:]
        workers = range(3)
        worker = next((number for number in workers if os.fork() == 0), None)
        if worker is None:
            sys.exit(max(os.waitstatus_to_exitcode(os.wait()[1]) for _ in workers))
        for i in range(2):
            for store in ("ash", "float"):
                path = f"{stores}/{store}.zarr"
                add_entry(pathlib.Path(catalog), f"w{worker}_{i}", path, open_store(path), None)
            add_entry(pathlib.Path(catalog), "shared", path, open_store(path), None)
    """
    path = tmp_path / CATALOG
    subprocess.run([sys.executable, "-c", program, str(stores), str(path)], check=True)
    expected = {f"w{w}_{i}{v}" for w in range(3) for i in range(2) for v in ("", "@1")} | {"shared"}
    assert set(read_catalog(path).entries) == expected
    assert os.listdir(tmp_path) == [CATALOG]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"sources: {}" + b" " * (4 << 20), "larger than 4 MB"),
        (b"sources: " + b"[" * 100_000, "levels deep"),
        (b"sources: [" + b"a," * 1_000_000 + b"]", "more than 200000 values"),
        (b"sources: 1" + b"2" * 1_000_000, "a number of"),
        (b"sources: !!int {}", "expected a scalar"),
        (b"sources: !!int ''", "index out of range"),
        (
            b"a0: &a0 [x]\n%bsources: {}"
            % b"".join(b"a%d: &a%d [*a%d, *a%d]\n" % (i, i, i - 1, i - 1) for i in range(1, 31)),
            "more than 200000 values",
        ),
        (
            b"a0: &a0 [x]\n%bsources: {}" % b"".join(b"a%d: &a%d [*a%d]\n" % (i, i, i - 1) for i in range(1, 41)),
            "levels deep",
        ),
        (b"sources: &a {a: *a}", "levels deep"),
        (b"sources: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        (b"sources: {a: {<<: {b: 1}}}", "is not text"),
        (b"sources: {18446744073709551616: {}}", "is not text, quote it"),
        (b"sources: {? [a] : 1}", "is not text"),
        (b"sources: {a: 1, a: 2}", "occurs twice"),
        (b"sources:\n\ta: 1", "line 2: found character"),
        (b"sources: \xff", "not UTF-8 at byte 9"),
        (b"sources: {a: 2020-13-45}", "month"),
        (b"sources: {}\n---\n", "another document"),
        (b"sources: \0", "control characters"),
        (b"- 1", "'sources' is missing"),
        (b"", "'sources' is missing"),
    ],
)
def test_hostile_files_are_refused_in_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / CATALOG
    path.write_bytes(content)
    with pytest.raises(ContrailError, match=message) as error:
        read_catalog(path)
    assert str(error.value).isprintable()


def test_no_part_of_a_catalog_leads_to_a_store_without_its_digest(stores: Path, tmp_path: Path) -> None:
    path = tmp_path / CATALOG
    for name in ("ash", "float"):
        add_entry(path, "ash", str(stores / f"{name}.zarr"), open_store(stores / f"{name}.zarr"), None)
    text = path.read_text()
    located = 0
    for end in {*range(0, len(text), 7), *(match.end() for match in re.finditer(r"\n|'", text))}:
        try:
            entries = parse_catalog(text[:end], path).entries
        except ContrailError:
            continue
        for entry in entries.values():
            with suppress(ContrailError):
                assert entry.location
                located += 1
                assert entry.digest is not None
    assert located


WATCHED: list[str] | None = None
VALID = ODD.replace("kind: samples}", f"kind: samples, version: 2, digest: 'sha256:{'0a' * 32}'}}").replace(
    "    # next", "    ash@1: {driver: zarr, args: {urlpath: s3://b/a.zarr}, metadata: {samples: 9, time: [a, b]}}"
)
NEW = {"driver": "zarr", "args": {"urlpath": "x.zarr"}, "metadata": {"digest": f"sha256:{'0b' * 32}"}}
FUZZ = settings(derandomize=True, database=None, suppress_health_check=list(HealthCheck))


def _watch(event: str, _: tuple[Any, ...]) -> None:
    # ruamel.yaml calls scandir to look for plug-ins in its own folder; nothing else does.
    if (
        WATCHED is not None
        and event != "os.scandir"
        and event.split(".")[0] in ("open", "os", "subprocess", "socket", "shutil", "exec")
    ):
        WATCHED.append(event)


sys.addaudithook(_watch)


def assert_one_line(error: ContrailError) -> None:
    assert str(error).isprintable(), error


def is_valid_or_refused(content: bytes) -> bool:
    """Return whether the content is a catalog.

    Reading, listing and editing it must succeed or be refused in one line, and must not touch any file.
    """
    global WATCHED
    path = Path("/nowhere") / CATALOG
    tasks = [lambda: with_entry(catalog, "ash", NEW)[0], lambda: without_entry(catalog, "ash")[0]]
    tasks += [lambda: with_entry(catalog, "new", NEW)[0], lambda: catalog.find("ash@1").key]
    WATCHED = []
    try:
        try:
            catalog = parse_catalog(content.decode(errors="replace"), path)
        except ContrailError as error:
            assert_one_line(error)
            return False
        for entry in catalog.entries.values():
            entry_row(entry)
            tasks += [lambda e=entry: e.location, lambda e=entry: e.version]
        for task in tasks:
            try:
                result = task()
            except ContrailError as error:
                assert_one_line(error)
                continue
            if isinstance(result, str):
                scheme, remote, _ = result.partition("://")
                assert "@" in result or (scheme in SCHEMES if remote else result.startswith("/"))
                assert "{{" not in result
            elif isinstance(result, Catalog):
                assert repr(parse_catalog(result.text, path)) == repr(result)
        return True
    finally:
        events, WATCHED = WATCHED, None
        assert events == []


JUNK = st.one_of(
    st.sampled_from([b"{{ env(HOME) }}", b"&a ", b"*a", b"!!python/name:os.system ", b"\t", b"\xff", b"\xef\xbb\xbf"]),
    st.sampled_from([b"\0", b"\r", b"\n---\n", b"? ", b"- ", b"[", b"{", b"}", b'"', b"'", b": ", b"#", b"|\n", b"@"]),
    st.sampled_from([b"<<: ", b"ash:", b"../", b"\xe2\x80\xa8", b"\xc2\x85", b"..", b"::", b"://", b"1:2:3", b"%YAML"]),
    st.binary(max_size=6),
)


@pytest.mark.slow
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 40), JUNK), min_size=1, max_size=4))
@settings(FUZZ, max_examples=250)
def test_catalogs_with_mutated_bytes_are_read_or_refused(edits: list[tuple[float, int, bytes]]) -> None:
    content = VALID.encode()
    for position, length, junk in edits:
        start = int(position * len(content))
        content = content[:start] + junk + content[start + length :]
    is_valid_or_refused(content)


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


@pytest.mark.slow
@given(st.lists(st.tuples(PLACES.filter(len), VALUE), min_size=1, max_size=4), st.booleans())
@settings(FUZZ, max_examples=75)
def test_catalogs_with_mutated_structure_are_read_or_refused(changes: list[tuple[list[str], Any]], flow: bool) -> None:
    tree = yaml.safe_load(VALID)
    for places, value in changes:
        node = tree if places[0] in ("sources", "metadata") else tree["sources"]
        for place in places[:-1]:
            node = node[place] if isinstance(node, dict) and isinstance(node.get(place), dict) else node
        if isinstance(node, dict):
            node[places[-1]] = value
        if not isinstance(tree.get("sources"), dict):
            break
    is_valid_or_refused(yaml.safe_dump(tree, default_flow_style=flow, allow_unicode=True).encode())


def test_the_catalog_that_is_fuzzed_is_valid() -> None:
    assert is_valid_or_refused(VALID.encode())
