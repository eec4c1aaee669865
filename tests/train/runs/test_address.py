"""Whatever takes a run takes a model folder by path, URL, address of the hub or catalog name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from contrail_data.model_folders.copies import copy_model
from contrail_data.model_folders.hub import upload
from contrail_data.model_folders.hub_address import HubAddress
from contrail_data.model_folders.manifest import file_keys, verify_folder
from contrail_data.storage.place import place_of
from contrail_data.store.manifest import read_provenance
from contrail_data.store.reader import open_store
from contrail_train.inference.model_folder import write_model_folder
from contrail_train.runs.directory import read_environment
from helpers.cli import run_data, run_train
from helpers.hub_server import served_hub
from helpers.runs import run_steps


@pytest.fixture(scope="module")
def folder(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("published") / "model"
    write_model_folder(finished, out)
    return out


def masks(store: Path) -> np.ndarray:
    return open_store(store)["logit"].values


@pytest.mark.slow
def test_a_model_is_taken_by_any_address_and_predicts_the_same(
    finished: Path, folder: Path, unseen: Path, tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_train("predict", finished, unseen, "-o", "run.zarr").returncode == 0
    copy_model(folder, place_of(f"{s3}/detector"))
    with served_hub(monkeypatch):
        commit, _ = upload(folder, file_keys(folder, verify_folder(folder)), HubAddress("team/detector"), "Publish")
        assert run_data("catalog", "add", "mine", "hf://team/detector").returncode == 0
        assert run_data("catalog", "add", "ours", f"{s3}/detector").returncode == 0
        for name, address in {"url": f"{s3}/detector", "hub": "hf://team/detector", "name": "mine@1"}.items():
            done = run_train("predict", address, unseen, "-o", f"{name}.zarr")
            assert done.returncode == 0, done.stderr
            np.testing.assert_array_equal(masks(tmp_path / f"{name}.zarr"), masks(tmp_path / "run.zarr"))
            assert open_store(tmp_path / f"{name}.zarr").attrs["digest"] == open_store("run.zarr").attrs["digest"]
        assert (
            read_provenance(place_of("hub.zarr"))["model_address"]
            == read_provenance(place_of("name.zarr"))["model_address"]
            == f"hf://team/detector@{commit}"
        )
    # the hub is gone, and the catalog knows the digest of the copy
    done = run_data("pseudo-label", unseen, "--model", "mine", "-o", "pseudo.zarr", "--frames", "labelled")
    assert done.returncode == 0, done.stderr
    done = run_train("evaluate", "ours", unseen, "--worst", 0)
    assert done.returncode == 0, done.stderr
    evaluation = tmp_path / f"detector-evaluation-{open_store(unseen).attrs['digest'][7:19]}.json"
    assert json.loads(evaluation.read_text())["records"] == 16
    listing = run_data("catalog", "ls").stdout
    assert listing.startswith("model  version  kind  preset")
    assert f"hf://team/detector@{commit}" in listing
    assert run_data("catalog", "check").stdout == "ok   mine\nok   ours\n"


def test_a_store_is_no_model_and_a_model_no_store(
    folder: Path, unseen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, "model")
    assert run_data("catalog", "add", "detector", "model").returncode == 0
    assert run_data("catalog", "add", "data", unseen).returncode == 0
    header, store, blank, other, model = run_data("catalog", "ls").stdout.splitlines()
    assert (header.split()[0], store.split()[0], blank) == ("name", "data", "")
    assert (other.split()[0], model.split()[0]) == ("model", "detector")
    for command, message in {
        ("predict", "data", "data", "-o", "x.zarr"): "data: is a store in",
        ("predict", "detector", "detector", "-o", "x.zarr"): "detector: is a model in",
        ("predict", "detectr", "data", "-o", "x.zarr"): "detectr: no such run, file or catalog entry",
        ("predict", "detector@2", "data", "-o", "x.zarr"): "no entry 'detector@2'; choose one of detector@1",
        ("predict", "https://huggingface.co/team/detector", "data", "-o", "x.zarr"): "write hf://team/detector",
    }.items():
        done = run_train(*command)
        assert done.returncode in (1, 2)
        assert message in done.stderr, done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert "'data' is the name of a store" in run_data("catalog", "add", "data", "model").stderr
    (tmp_path / "model/config.yaml").write_text("changed")
    assert "config.yaml: damaged" in run_data("catalog", "check", "detector").stdout
    assert "config.yaml: damaged" in run_train("predict", "detector", "data", "-o", "x.zarr").stderr


@pytest.mark.slow
def test_settings_that_name_a_run_take_a_model_folder(
    folder: Path, store: Path, unseen: Path, tmp_path: Path, s3: str
) -> None:
    copy_model(folder, place_of(address := f"{s3}/detector"))
    run_steps(store, tmp_path / "started", f"start={address}")
    assert read_environment(tmp_path / "started")["places"][address] == address
    run_steps(unseen, tmp_path / "taught", f"data.teacher=[{address}]", "data.leaks=allow")
    assert read_environment(tmp_path / "taught")["places"][address] == address
