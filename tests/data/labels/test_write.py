"""Stores of pseudo-labels and predictions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from contrail_data.errors import ContrailError
from contrail_data.labels import write
from contrail_data.labels.predictor import Decision, Labeller, Predicted
from contrail_data.labels.write import write_labels
from contrail_data.storage.place import Place
from contrail_data.store.logits import encode, threshold_of
from contrail_data.store.reader import PixelReader, open_store
from contrail_data.store.schema import Kind
from contrail_data.store.verify import verify
from helpers.labels import labels_of, mean_red
from helpers.stores import build_small, restate


@pytest.mark.slow
def test_a_parent_is_never_overwritten_by_its_labels(raw: Path, tmp_path: Path) -> None:
    store = build_small(raw, tmp_path / "s.zarr").place.path
    digest = open_store(store).attrs["digest"]
    labeller = Labeller(predict=mean_red, decision=Decision(0.5, 0, 1, "m"))
    for out in (store, store / "inside.zarr"):
        with pytest.raises(ContrailError, match="choose another -o"):
            write_labels(open_store(store), labeller, out, kind=Kind.PSEUDO_LABELS, overwrite=True)
    assert open_store(store).attrs["digest"] == digest
    assert verify(Place(str(store))) == []


def test_confidence_is_that_of_the_mask_or_of_an_empty_mask(raw: Path, tmp_path: Path) -> None:
    def half(samples: list[int], x_btchw: np.ndarray, valid_bhw: np.ndarray | None) -> Predicted:
        p_bhw = np.full((len(x_btchw), *x_btchw.shape[3:]), 0.1, np.float32)
        p_bhw[::2, :4, :3] = 0.8
        return Predicted(p_bhw, np.where(np.arange(len(p_bhw)) % 2, 0.3, 0.7).astype(np.float32), np.ones(len(p_bhw)))

    parent = open_store(build_small(raw, tmp_path / "s.zarr").place.path)
    labeller = Labeller(predict=half, decision=Decision(0.5, 0.0, 10, "sha256:m"))
    write_labels(parent, labeller, tmp_path / "l.zarr", kind=Kind.PREDICTIONS)
    confidence = open_store(tmp_path / "l.zarr")["frame_confidence"].values
    np.testing.assert_allclose(confidence, np.tile([0.8, 0.7], (9, 4)), atol=1e-6)
    write_labels(parent, replace(labeller, scores_masks=True), tmp_path / "s2.zarr", kind=Kind.PREDICTIONS)
    np.testing.assert_allclose(open_store(tmp_path / "s2.zarr")["frame_confidence"].values, 0.7, atol=1e-6)


def _random_logits(samples: list[int], x_btchw: np.ndarray, valid_bhw: np.ndarray | None) -> Predicted:
    rng = np.random.default_rng(samples)
    p_bhw = (1 / (1 + np.exp(-rng.normal(-9, 5, (len(x_btchw), *x_btchw.shape[3:]))))).astype(np.float32)
    p_bhw[:, 0, 0], p_bhw[:, 0, 1] = 0, 1
    return Predicted(p_bhw, p_bhw.max((1, 2)), np.ones(len(p_bhw), np.float32))


def test_a_store_keeps_the_rank_of_probabilities_and_the_mask_at_a_threshold(raw: Path, tmp_path: Path) -> None:
    parent = open_store(build_small(raw, tmp_path / "s.zarr").place.path)
    code = -9000
    decision = Decision(threshold_of(code), 0.0, 1, "m")
    labeller = Labeller(predict=_random_logits, decision=decision)
    write_labels(parent, labeller, tmp_path / "p.zarr", kind=Kind.PREDICTIONS, batch=1)
    store = open_store(tmp_path / "p.zarr")
    windows = np.broadcast_to(parent["image"].values[:1, :1], (8, 1, *parent["image"].shape[2:]))
    expected = np.concatenate([_random_logits([i], windows, None).probability for i in range(9)])
    stored = store["logit"].values.reshape(expected.shape)
    assert stored.dtype == np.int16
    np.testing.assert_array_equal(stored, encode(expected))
    np.testing.assert_array_equal(store["frame_mask"].values.reshape(expected.shape), expected >= decision.threshold)
    np.testing.assert_array_equal(store["frame_mask"].values > 0, store["logit"].values >= code)
    with xr.open_zarr(tmp_path / "p.zarr") as plain:  # the formula of the documentation
        decoded = 1 / (1 + np.exp(-plain["logit"].values.astype(float).reshape(expected.shape)))
    np.testing.assert_allclose(decoded, expected, rtol=1.01 / 1024, atol=2e-14)
    assert verify(Place(str(tmp_path / "p.zarr"))) == []


def test_missing_pixels_are_never_contrail(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = open_store(build_small(raw, tmp_path / "s.zarr").place.path)
    real = write.pixel_reader

    def reader(store: xr.Dataset, name: str) -> PixelReader:
        def half(sample: int, frames: Sequence[int], out: np.ndarray) -> None:
            out[:] = 1
            out[:, :, :7] = 0

        return half if name == "valid" else real(store, name)

    monkeypatch.setattr(write, "pixel_reader", reader)
    parent = parent.assign(valid=parent["image"][:, :, 0])
    labeller = Labeller(predict=mean_red, decision=Decision(0.0, 0.0, 1, "m"))
    write_labels(parent, labeller, tmp_path / "p.zarr", kind=Kind.PREDICTIONS)
    store = open_store(tmp_path / "p.zarr")
    assert not store["frame_mask"].values[..., :7].any()
    assert store["frame_mask"].values[..., 7:].all()  # at a threshold of 0
    assert (store["logit"].values[..., :7] == -32768).all()


def test_labels_of_the_earlier_format_are_refused(raw: Path, tmp_path: Path) -> None:
    parent = open_store(build_small(raw, tmp_path / "s.zarr").place.path)
    labels_of(Path(parent.attrs["path"]), tmp_path / "p.zarr")
    group = tmp_path / "p.zarr/zarr.json"
    tree = json.loads(group.read_text())
    tree["attributes"]["format_version"] = 2
    group.write_text(json.dumps(tree))
    restate(tmp_path / "p.zarr")
    with pytest.raises(ContrailError, match="has format version 2, not 3; predict it again"):
        open_store(tmp_path / "p.zarr")
