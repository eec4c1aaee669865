"""Stores of pseudo-labels and predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from contrail_data.errors import ContrailError
from contrail_data.labels.predictor import Decision, Labeller, Predicted
from contrail_data.labels.write import write_labels
from contrail_data.storage.place import Place
from contrail_data.store.reader import open_store
from contrail_data.store.schema import Kind
from contrail_data.store.verify import verify
from helpers.labels import mean_red
from helpers.stores import build_small


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
