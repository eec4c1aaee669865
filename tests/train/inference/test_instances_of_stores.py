"""Stores of predictions with single contrails."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from contrail_data.labels.predictor import ALL_FRAMES
from contrail_data.labels.write import write_labels
from contrail_data.reports.summary import as_text, summarise
from contrail_data.storage.place import place_of
from contrail_data.store.logits import decode
from contrail_data.store.reader import open_store
from contrail_data.store.schema import Kind
from contrail_data.store.verify import verify
from contrail_train.contrails.confidence import Confidence
from contrail_train.contrails.instances import separate_mask
from contrail_train.inference.detector import Prediction
from contrail_train.inference.load import load_model
from helpers.cli import run_train

CONFIDENCE = Confidence([0.5, 0.2, 0.3, -0.4], -0.1)


def smoothed_red(window_btchw: torch.Tensor, valid_bhw: torch.Tensor | None = None) -> Prediction:
    red_bhw = torch.nn.functional.avg_pool2d(window_btchw[:, 0, :1].float(), 5, 1, 2)[:, 0]
    std_b11, mean_b11 = torch.std_mean(red_bhw, (1, 2), keepdim=True)
    p_bhw = torch.sigmoid((red_bhw - mean_b11) / std_b11)
    return Prediction(p_bhw, p_bhw.amax((1, 2)), torch.ones(len(p_bhw)))


@pytest.mark.parametrize("confidence", [None, CONFIDENCE])
def test_each_contrail_of_a_store_is_listed_with_what_is_measured_of_its_pixels(
    finished: Path, unseen: Path, tmp_path: Path, confidence: Confidence | None
) -> None:
    model = load_model(finished)
    decision = replace(model.decision, threshold=0.8, gate=0.75)
    model = replace(model, detect=smoothed_red, decision=decision, instances=True, confidence=confidence)
    parent, out = open_store(unseen), tmp_path / "p.zarr"
    labels = model.labeller_for(parent)
    some = np.arange(6)
    write_labels(parent, labels, out, kind=Kind.PREDICTIONS, frames=ALL_FRAMES, samples=some, batch=5)
    store = open_store(out)
    assert verify(place_of(out)) == []
    numbers, mask = store["frame_instance"].values, store["frame_mask"].values
    np.testing.assert_array_equal(numbers > 0, mask > 0)
    place = store["contrail_sample"].values, store["contrail_frame"].values
    assert len(place[0]) == numbers.max((2, 3)).sum() > 20
    for i in range(0, len(place[0]), 7):
        sample, frame, number = place[0][i], place[1][i], store["contrail_number"].values[i]
        p = decode(store["logit"].values[sample, frame])
        expected = separate_mask(mask[sample, frame] > 0, p, confidence=confidence)
        np.testing.assert_array_equal(numbers[sample, frame], expected.labels_yx)
        one = expected.instances[number - 1]
        assert store["contrail_confidence"].values[i] == pytest.approx(one.confidence, abs=0.002)
        for name in ("length", "width", "orientation"):
            assert store[f"contrail_{name}"].values[i] == pytest.approx(getattr(one, name))
    assert as_text(summarise(store))["contrails"].startswith(f"{len(place[0])}; median length ")
    assert store.attrs["separation"]["gap"] == 16
    assert ("confidence: bias" in store.attrs["separation"]) == (confidence is not None)
    plain = replace(model, instances=False).labeller_for(parent)
    written = {"kind": Kind.PREDICTIONS, "frames": ALL_FRAMES, "samples": some}
    without = write_labels(parent, plain, tmp_path / "plain.zarr", **written)
    assert without.digest != store.attrs["digest"]
    assert "frame_instance" not in open_store(tmp_path / "plain.zarr").variables


def test_contrails_are_refused_where_there_are_no_masks(finished: Path, unseen: Path, tmp_path: Path) -> None:
    done = run_train("predict", finished, unseen, "-o", tmp_path / "p.csv", "--instances")
    assert done.returncode == 2
    assert "--instances" in done.stderr
    assert "Traceback" not in done.stderr
