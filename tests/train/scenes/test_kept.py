"""A command that predicts several scans and is interrupted continues with those that it has predicted."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from contrail_data.errors import ContrailError
from contrail_data.storage.cache import CacheKind, cache_entries, cache_folder, remove_entry
from contrail_data.synthetic.abi import write_abi
from contrail_train.contrails.cleaning import Cleaning
from contrail_train.inference.load import load_model
from contrail_train.scenes import predict
from contrail_train.scenes.series import Outcome, SceneRequest, predict_files
from contrail_train.scenes.tiling import Tiling

START = np.datetime64("2024-03-01T12:00")


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scans."""
    folder = tmp_path_factory.mktemp("abi")
    write_abi(folder, START, scans=3, seed=3, size=(80, 90))
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONTRAIL_CACHE", str(tmp_path / "cache"))
    return cache_folder(CacheKind.PREDICTIONS)


@pytest.fixture
def predicted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by an entry for each scan whose tiles are predicted; the scan of the number in front interrupts."""
    calls, original = [0], predict.strips

    def count(*arguments: object, **options: object) -> object:
        calls.append(1)
        if len(calls) - 1 == calls[0]:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr(predict, "strips", count)
    return calls


def predict_all(run: Path, scans: Path, gate: float = 0.0, **changes: object) -> Outcome:
    model = replace(load_model(run), pixel=2000.0, size=64)
    model = replace(model, decision=replace(model.decision, gate=gate))
    return predict_files(
        model, replace(SceneRequest(source=str(scans), tiling=Tiling(64), cleaning=Cleaning(0.5)), **changes)
    )


def interrupt(predicted: list[int], at: int, *arguments: object, **changes: object) -> None:
    """Predict until the scan of a number interrupts."""
    predicted[:] = [at]
    with pytest.raises(KeyboardInterrupt):
        predict_all(*arguments, **changes)
    predicted[:] = [0]


@pytest.mark.parametrize("gate", [0.0, 0.1])
def test_an_interrupted_series_continues_to_the_same_scenes(
    scans: Path, finished: Path, cache: Path, predicted: list[int], gate: float
) -> None:
    expected = predict_all(finished, scans, gate)
    assert len(predicted) == 1 + 3
    assert not any(cache.iterdir())
    interrupt(predicted, 3, finished, scans, gate)
    assert len(list(cache.iterdir())) == 2
    outcome = predict_all(finished, scans, gate)
    assert len(predicted) == 1 + 1
    assert "2 of 3 scans had been predicted by a command that did not finish" in outcome.notes
    for scene, other in zip(outcome.scenes, expected.scenes, strict=True):
        assert ("gate_score" in scene.scene) == (gate > 0)
        xr.testing.assert_identical(scene.scene, other.scene)
    assert not any(cache.iterdir())


def test_outputs_that_cannot_be_written_lose_no_prediction(
    scans: Path, finished: Path, cache: Path, predicted: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ContrailError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("contrail_train.scenes.series.write", refuse)
        with pytest.raises(ContrailError, match="the disk is full"):
            predict_all(finished, scans, outs=[tmp_path / "a.geojson"])
    predicted[:] = [0]
    predict_all(finished, scans, outs=[tmp_path / "b.geojson"], cleaning=Cleaning(0.2), instances=True)
    assert predicted == [0]


def test_what_decides_on_a_prediction_is_predicted_again_when_it_has_changed(
    scans: Path, finished: Path, cache: Path, predicted: list[int], tmp_path: Path
) -> None:
    copies = shutil.copytree(scans, tmp_path / "copies")
    interrupt(predicted, 3, finished, copies)
    for changes in ({"tiling": Tiling(64, 0.5)}, {"area": (20.0, -105.0, 40.0, -80.0)}, {"batch": 3}):
        interrupt(predicted, 1, finished, copies, **changes)  # the first scan is predicted
    interrupt(predicted, 1, finished, copies, 0.1)  # a model with a gate also needs scores
    first = min(copies.iterdir())
    os.utime(first, ns=(0, 0))
    damaged = max(cache.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    predict_all(finished, copies)
    assert len(predicted) == 1 + 3


def test_a_series_is_predicted_where_nothing_can_be_kept(
    scans: Path, finished: Path, cache: Path, predicted: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    cache.parent.mkdir()
    cache.write_text("a file")
    assert len(predict_all(finished, scans).scenes[0].scene["time"]) == 3
    (line,) = [line for line in caplog.messages if "will predict all scans again" in line]
    assert str(cache) in line


def test_a_single_scan_is_not_kept_and_the_cache_lists_what_is(
    scans: Path, finished: Path, cache: Path, predicted: list[int]
) -> None:
    predict_all(finished, scans, times=[START])
    assert not cache.exists()
    interrupt(predicted, 2, finished, scans)
    (entry,) = cache_entries()
    assert (entry.kind, entry.size > 80 * 90 * 4) == (CacheKind.PREDICTIONS, True)
    assert remove_entry(entry)
    assert cache_entries() == []
