"""Copies of model folders in the cache: fetched once, pinned, usable offline, and repaired if damaged."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from contrail_data.errors import ContrailError, UsageError
from contrail_data.model_folders.copies import copy_model, fetch_model, inspect_model, pinned_address
from contrail_data.model_folders.hub import upload
from contrail_data.model_folders.hub_address import HubAddress, parse_hub_address
from contrail_data.model_folders.manifest import file_keys, verify_folder
from contrail_data.storage.place import Place, place_of
from helpers.cli import run_data
from helpers.file_server import served
from helpers.hub_server import Hub, served_hub
from helpers.model_folders import sealed_files


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small model folder, and an empty cache."""
    monkeypatch.setenv("CONTRAIL_CACHE", str(tmp_path / "cache"))
    return sealed_files(tmp_path / "web/model")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch):
    with served_hub(monkeypatch) as hub:
        yield hub


def uploaded(hub: Hub, folder: Path, address: str = "hf://team/detector") -> str:
    keys = file_keys(folder, verify_folder(folder))
    return upload(folder, keys, parse_hub_address(address), "Publish")[0]


def same_model(copy: Path, folder: Path) -> bool:
    return verify_folder(copy)["digest"] == verify_folder(folder)["digest"]


def test_a_branch_of_the_hub_is_pinned_to_its_commit_and_fetched_once(hub: Hub, folder: Path, capfd) -> None:
    first = uploaded(hub, folder)
    assert hub.private["team/detector"]  # a new repository shows nothing to anybody
    copy = fetch_model("hf://team/detector")
    assert same_model(copy, folder)
    assert pinned_address(copy) == f"hf://team/detector@{first}"
    assert f"hf://team/detector: is hf://team/detector@{first}" in capfd.readouterr().err
    count = len(hub.requests)
    assert fetch_model(f"hf://team/detector@{first}") == copy
    assert len(hub.requests) == count  # a commit needs no request
    assert fetch_model("hf://team/detector@main") == copy
    assert len(hub.requests) == count + 1  # which commit the branch is
    (folder / "best.safetensors").write_bytes(b"better weights")
    second = uploaded(hub, sealed_files(folder), "hf://team/detector@next")
    assert same_model(fetch_model("hf://team/detector"), copy)
    assert same_model(fetch_model("hf://team/detector@next"), folder)
    assert pinned_address(fetch_model("hf://team/detector@next")) == f"hf://team/detector@{second}"


def test_a_copy_works_offline_and_while_the_hub_is_down(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    commit = uploaded(hub, folder)
    copy = fetch_model("hf://team/detector")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch_model("hf://team/detector") == copy
    assert f"using the copy of hf://team/detector@{commit} in the cache" in capfd.readouterr().err
    with pytest.raises(ContrailError, match="HF_HUB_OFFLINE is set"):
        fetch_model("hf://team/other")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert fetch_model("hf://team/detector") == copy
    assert "the hub cannot be reached" in capfd.readouterr().err
    with pytest.raises(ContrailError, match=r"hf://team/detector@old: the hub cannot be reached"):
        fetch_model("hf://team/detector@old")


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("hf://team/absent", "no such repository on the hub"),
        ("hf://team/detector@absent", "the repository has no revision of this name"),
        ("hf://team/empty", "not a model folder (it has no model.json)"),
        ("hf://team", "not an address of the hub"),
        ("hf://team/../detector", "not an address of the hub"),
    ],
)
def test_what_is_no_model_on_the_hub_is_refused_in_one_line(hub: Hub, folder: Path, address: str, reason: str) -> None:
    uploaded(hub, folder)
    hub.create("team/empty")
    with pytest.raises(ContrailError) as error:
        fetch_model(address)
    assert str(error.value).startswith(f"{address}: {reason}"), error.value
    assert len(str(error.value).splitlines()) == 1


def test_a_commit_is_not_written_to(hub: Hub, folder: Path) -> None:
    with pytest.raises(UsageError, match="a commit cannot change; name a branch"):
        uploaded(hub, folder, f"hf://team/detector@{'0' * 40}")


def test_a_damaged_copy_is_fetched_again_and_a_damaged_source_refused(folder: Path) -> None:
    with served(folder.parent) as (url, requests):
        copy = fetch_model(f"{url}/model")
        (copy / "best.safetensors").write_bytes(b"damaged")
        requests.clear()
        assert fetch_model(f"{url}/model") == copy
        assert [line for line in requests if "best.safetensors" in line]
        assert not [line for line in requests if "config.yaml" in line]  # which was intact
        shutil.rmtree(copy)
        (folder / "best.safetensors").write_bytes(b"damage of the same length"[:21])
        with pytest.raises(ContrailError, match=rf"{url}/model/best.safetensors: damaged"):
            fetch_model(f"{url}/model")
        (folder / "best.safetensors").unlink()
        with pytest.raises(ContrailError, match=rf"{url}/model/best.safetensors: missing"):
            fetch_model(f"{url}/model")
        assert "models" in run_data("cache", "ls").stdout
        assert "partial" in run_data("cache", "ls").stdout


def test_processes_that_fetch_the_same_model_do_not_disturb_each_other(folder: Path) -> None:
    with served(folder.parent) as (url, _), ThreadPoolExecutor(8) as pool:
        copies = set(pool.map(lambda _: fetch_model(f"{url}/model"), range(16)))
    assert len(copies) == 1
    assert same_model(copies.pop(), folder)


def test_a_model_is_pulled_into_the_cache_or_elsewhere(hub: Hub, folder: Path, tmp_path: Path) -> None:
    uploaded(hub, folder)
    done = run_data("pull", "hf://team/detector")
    assert done.returncode == 0, done.stderr
    copy = fetch_model("hf://team/detector")
    assert done.stdout == f"{copy}: intact, {verify_folder(folder)['digest']}\n"
    assert run_data("pull", "hf://team/detector", "-o", tmp_path / "mine").returncode == 0
    assert same_model(tmp_path / "mine", folder)
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {path.name for path in folder.iterdir()}
    assert run_data("catalog", "add", "ours", "mine", cwd=tmp_path).returncode == 0
    assert run_data("pull", "ours", cwd=tmp_path).stdout.startswith(f"{tmp_path}/mine: intact")


def test_a_model_is_copied_to_object_storage_and_back_and_kept_within_the_limit(
    folder: Path, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"{s3}/models/detector"
    copy_model(folder, place_of(address))
    copy = fetch_model(address)
    assert same_model(copy, folder)
    assert (copy / "README.md").read_bytes() == (folder / "README.md").read_bytes()
    assert pinned_address(copy) == address
    inspected = inspect_model(address)
    assert inspected is not None
    assert inspected.manifest == verify_folder(folder)
    (folder / "best.safetensors").write_bytes(b"better weights")
    sealed_files(folder)
    with pytest.raises(ContrailError, match=r"holds another model; choose another place$"):
        copy_model(folder, place_of(address))
    copy_model(folder, place_of(address), overwrite=True)
    assert same_model(fetch_model(address), folder)
    monkeypatch.setenv("CONTRAIL_CACHE_LIMIT", "10kB")
    (folder / "best.safetensors").write_bytes(bytes(20_000))
    copy_model(sealed_files(folder), place_of(address), overwrite=True)
    with pytest.raises(ContrailError, match="does not fit into 10 kB"):
        fetch_model(address)


def test_a_model_is_not_mixed_with_other_files(folder: Path, tmp_path: Path) -> None:
    notes = tmp_path / "mine/notes.txt"
    notes.parent.mkdir()
    notes.write_text("mine")
    with pytest.raises(ContrailError, match=r"mine: holds other files, such as notes.txt; choose another place$"):
        copy_model(folder, place_of(str(notes.parent)))
    assert [*notes.parent.iterdir()] == [notes]


def test_the_address_of_the_hub_is_parsed() -> None:
    assert parse_hub_address("hf://team/detector@v1/b") == HubAddress("team/detector", "v1/b")
    assert parse_hub_address("hf://team/detector").commit is None
    assert str(parse_hub_address(f"hf://t/d@{'a' * 40}")) == f"hf://t/d@{'a' * 40}"
    assert not Place("x").remote
