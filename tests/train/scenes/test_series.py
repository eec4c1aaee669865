"""Several scans predicted by one command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from contrail_data.synthetic.abi import write_abi
from contrail_train.contrails.cleaning import Cleaning
from contrail_train.inference.load import load_model
from contrail_train.scenes.series import Outcome, SceneRequest, predict_files
from contrail_train.scenes.tiling import Tiling

START = np.datetime64("2024-03-01T12:00")


@pytest.fixture
def scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three scans."""
    monkeypatch.setenv("CONTRAIL_CACHE", str(tmp_path / "cache"))
    write_abi(tmp_path / "abi", START, scans=3, seed=3, size=(80, 90))
    return tmp_path / "abi"


def predict_all(run: Path, scans: Path, **changes: object) -> Outcome:
    model = replace(load_model(run), pixel=2000.0, size=64)
    request = SceneRequest(source=str(scans), tiling=Tiling(64), cleaning=Cleaning(0.5))
    return predict_files(model, replace(request, **changes))


def test_a_scan_that_cannot_be_read_is_left_out_of_the_joined_scene(scans: Path, finished: Path) -> None:
    whole = predict_all(finished, scans).scenes[0].scene
    damaged = sorted(scans.glob("*C14*"))[1]
    damaged.write_bytes(damaged.read_bytes()[:5000])
    outcome = predict_all(finished, scans)
    assert len(outcome.set_aside) == 1
    others = whole.isel(time=[0, 2])
    inputs = [name for name in whole.attrs["inputs"] if f"s{damaged.name.split('_s')[1][:11]}" not in name]
    xr.testing.assert_identical(outcome.scenes[0].scene, others.assign_attrs(inputs=inputs))


@pytest.mark.parametrize(
    ("changes", "has_image"),
    [({}, False), ({"outs": ["a.nc"]}, False), ({"outs": ["a.png"]}, True), ({"tracks": True}, True)],
)
def test_the_image_is_held_only_for_pictures_and_tracks(
    scans: Path, finished: Path, tmp_path: Path, changes: dict[str, object], has_image: bool
) -> None:
    if "outs" in changes:
        changes = {"outs": [tmp_path / name for name in changes["outs"]]}
    (scene,) = predict_all(finished, scans, **changes).scenes
    assert ("image" in scene.scene) == has_image
