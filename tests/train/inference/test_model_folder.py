"""Model folders: what is written, that it predicts as the run does, and that damage is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from contrail_data.errors import ContrailError, UsageError
from contrail_data.store.reader import open_store
from contrail_train.inference.load import load_model
from contrail_train.inference.model_folder import write_model_folder
from contrail_train.runs.calibration import read_calibration


@pytest.fixture(scope="module")
def folder(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder of `finished`."""
    out = tmp_path_factory.mktemp("published") / "model"
    write_model_folder(finished, out)
    return out


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_model_folder_predicts_bit_for_bit_as_its_run(finished: Path, folder: Path, unseen: Path) -> None:
    run, model = load_model(finished), load_model(str(folder))
    window_btchw = open_store(unseen)["image"].values[:4, 4:5]
    for own, theirs in zip(model.predict(window_btchw), run.predict(window_btchw), strict=True):
        np.testing.assert_array_equal(own, theirs)
    assert model.decision == run.decision  # labels by either name one model
    assert model.trained_records == run.trained_records
    assert model.calibrated_records == run.calibrated_records


def test_half_precision_takes_half_the_room_and_changes_probabilities_by_little(
    finished: Path, folder: Path, unseen: Path, tmp_path: Path
) -> None:
    write_model_folder(finished, half := tmp_path / "half", half=True)
    sizes = [(place / "best.safetensors").stat().st_size for place in (half, folder)]
    assert sizes[0] < 0.53 * sizes[1]
    window_btchw = open_store(unseen)["image"].values[:, 4:5]
    run, model = load_model(finished), load_model(half)
    difference = np.abs(model.predict(window_btchw).probability - run.predict(window_btchw).probability).max()
    assert 0 < difference < 2e-3
    assert model.decision.model != run.decision.model
    write_model_folder(half, tmp_path / "again")  # what is shared can be shared on
    assert files_of(tmp_path / "again") == files_of(half)


def test_two_folders_of_a_run_are_equal_and_tell_nothing_of_the_machine(
    finished: Path, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "elsewhere")
    write_model_folder(tmp_path / "elsewhere", tmp_path / "second")
    assert files_of(folder) == files_of(tmp_path / "second")
    written = files_of(folder)
    assert set(written) == {"best.safetensors", "calibration.json", "config.yaml", "environment.json", "model.json"}
    manifest = json.loads(written["model.json"])
    assert manifest["files"]["config.yaml"]["sha256"] == hashlib.sha256(written["config.yaml"]).hexdigest()
    assert str(finished.parent.parent) in (finished / "config.yaml").read_text()  # the store's absolute path
    for name, content in written.items():
        assert b"/tmp" not in content, name
        assert str(finished.parent.parent).encode() not in content, name
    assert read_calibration(folder)["stores"] == {
        "train.zarr": next(iter(read_calibration(finished)["stores"].values()))
    }


@pytest.mark.parametrize(
    ("key", "damage", "reason"),
    [
        ("best.safetensors", lambda c: c[:-1] + bytes([c[-1] ^ 1]), "damaged (its content is not what was written)"),
        ("config.yaml", lambda c: c + b"\n", "damaged (its content is not what was written)"),
        ("environment.json", None, "missing"),
        ("model.json", lambda c: c.replace(b'"ash"', b'"ask"', 1), "damaged (its content is not what was written)"),
        ("model.json", lambda c: c[:-2], "damaged ("),
        ("model.json", lambda c: c.replace(b'"format": 1', b'"format": 2'), "has format 2"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(folder: Path, tmp_path: Path, key: str, damage, reason: str) -> None:
    shutil.copytree(folder, tmp_path / "model")
    path = tmp_path / "model" / key
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ContrailError) as error:
        load_model(tmp_path / "model")
    assert str(error.value).startswith(f"{path}: {reason}")
    assert len(str(error.value).splitlines()) == 1


def test_an_exported_file_is_no_model_folder(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").touch()
    with pytest.raises(UsageError, match=r"a\.onnx: is an exported file.*name the run"):
        write_model_folder(tmp_path / "a.onnx", tmp_path / "out")
