"""A catalog at a URL: every command reads it, and none writes it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from contrail_data.catalog.catalog import add_entry, open_named
from contrail_data.catalog.entries import Entry, catalog_file
from contrail_data.catalog.index import CATALOG
from contrail_data.catalog.stores import find_place
from contrail_data.errors import ContrailError
from contrail_data.storage.place import Place, place_of
from contrail_data.store.reader import open_store
from contrail_data.store.transfer import copy_store
from helpers.cli import Result, run_data, run_train
from helpers.file_server import served


@pytest.fixture
def published(stores: Path, tmp_path: Path) -> Path:
    """A folder with a store and a catalog that leads to it by a relative path."""
    folder = tmp_path / "published"
    shutil.copytree(stores / "ash.zarr", folder / "ash.zarr")
    add_entry(folder / CATALOG, "ash", str(folder / "ash.zarr"), open_store(folder / "ash.zarr"), None)
    return folder


def refused(done: Result, message: str) -> None:
    assert done.returncode in (1, 2), done.stdout
    assert message in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")


@pytest.mark.slow
def test_commands_read_stores_by_the_names_of_a_catalog_at_a_url(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONTRAIL_CACHE", str(tmp_path / "cache"))
    digest = open_store(published / "ash.zarr").attrs["digest"]
    with served(published) as (url, _):
        monkeypatch.setenv("CONTRAIL_CATALOG", f"{url}/{CATALOG}")
        assert find_place("ash") == Place(f"{url}/ash.zarr")
        assert open_named("ash@1").attrs["digest"] == digest
        for command in (
            ("catalog", "ls"),
            ("catalog", "show", "ash"),
            ("catalog", "check"),
            ("inspect", "ash"),
            ("subset", "ash", "--label", "positive", "-o", "positive.zarr"),
            ("pull", "ash"),
        ):
            done = run_data(*command)
            assert done.returncode == 0, done.stderr
        assert f"{url}/ash.zarr" in run_data("catalog", "ls").stdout
        done = run_train("run", "unet2d", "--dry-run", "--set", "data.train=asch")
        refused(done, f"asch: neither a store nor a name in {url}/{CATALOG}; did you mean the catalog name 'ash'?")
        monkeypatch.delenv("CONTRAIL_CATALOG")
        assert run_data("catalog", "ls", "--catalog", f"{url}/{CATALOG}").returncode == 0
        refused(
            run_data("catalog", "ls", "--catalog", f"{url}/none.yaml"), "none.yaml: no such file; check the address"
        )


def test_what_would_change_a_catalog_at_a_url_is_refused_before_anything_is_done(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = (published / CATALOG).read_bytes()
    with served(published) as (url, requests):
        monkeypatch.setenv("CONTRAIL_CATALOG", f"{url}/{CATALOG}")
        for command in (
            ("catalog", "add", "b", published / "ash.zarr"),
            ("catalog", "rm", "ash"),
            ("push", published / "ash.zarr", tmp_path / "copy.zarr", "--name", "b"),
        ):
            refused(run_data(*command), f"{url}/{CATALOG}: a catalog at a URL is only read; change the file from which")
        assert not (tmp_path / "copy.zarr").exists()
        assert (
            run_data("catalog", "add", "b", published / "ash.zarr", "--catalog", tmp_path / "own.yaml").returncode == 0
        )
        assert all(request.startswith(("GET", "HEAD")) for request in requests)
    assert (published / CATALOG).read_bytes() == before


@pytest.mark.slow
def test_a_catalog_on_object_storage_is_read(published: Path, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Place(s3).write(CATALOG, [(published / CATALOG).read_bytes()])
    copy_store(place_of(published / "ash.zarr"), Place(f"{s3}/ash.zarr"))
    monkeypatch.setenv("CONTRAIL_CATALOG", f"{s3}/{CATALOG}")
    assert open_named("ash").attrs["path"] == f"{s3}/ash.zarr"
    for command in (("verify", "ash"), ("catalog", "check", "--deep")):
        done = run_data(*command)
        assert done.returncode == 0, done.stderr
    Place(s3).write(CATALOG, [b"x" * (5 << 20)])
    refused(run_data("catalog", "ls"), "larger than 4 MB")
    Place(s3).write(CATALOG, [b"sources: 3"])
    refused(run_data("catalog", "ls"), f"{s3}/{CATALOG}: not a readable catalog")


@pytest.mark.parametrize("path", ["/etc/a.zarr", "file:///etc/a.zarr", "../a.zarr", "{{ CATALOG_DIR }}/../a.zarr"])
def test_a_catalog_at_a_url_leads_to_no_path_of_this_machine(path: str) -> None:
    content = yaml.safe_load(yaml.safe_dump({"args": {"urlpath": path}}))
    with pytest.raises(ContrailError, match=r"leads to no path of this machine|contains '\.\.'"):
        _ = Entry(catalog_file(f"https://host/team/{CATALOG}"), "a", content).location


def test_the_address_of_a_catalog_names_a_file_and_holds_no_secret() -> None:
    for address, message in [
        ("https://host", "names no file"),
        ("https://host/c.yaml?token=x", "the URL holds a user, a password or a token"),
        ("ftp://host/c.yaml", "URLs of this kind are not supported"),
    ]:
        with pytest.raises(ContrailError, match=message):
            catalog_file(address)
