"""Whether a model depends on the orientation of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from contrail_data.labels.predictor import Symmetries
from contrail_data.store.reader import open_store
from contrail_train.data.augment import to_label_frame
from contrail_train.data.items import open_labelled
from contrail_train.evaluation.orientation import orientation_table, score_orientations
from contrail_train.evaluation.score import score_predictor
from contrail_train.inference.detector import Prediction, in_orientation
from contrail_train.inference.load import load_model
from contrail_train.inference.turns import symmetry_operations
from contrail_train.runs.calibration import LabelGrid

OFF = (1.0, 1.0)


def detect_red(window_btchw: Tensor, valid_bhw: Tensor | None) -> Prediction:
    """A detector that has no preferred direction, but whose masks lie a pixel down and right of its images."""
    p_bhw = to_label_frame(window_btchw[:, 0, :1], OFF)[:, 0]
    return Prediction(p_bhw, p_bhw.amax((1, 2)), torch.ones(len(p_bhw)))


@pytest.mark.parametrize(("flip", "turns"), symmetry_operations(Symmetries.DIHEDRAL))
def test_a_detector_without_a_direction_predicts_the_same_in_each_orientation(flip: bool, turns: int) -> None:
    window = torch.rand(2, 1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    turned = in_orientation(detect_red, OFF, flip=flip, turns=turns)(window, None)
    inner = (slice(None), slice(2, -2), slice(2, -2))  # the rim is repeated where masks were moved in
    assert torch.equal(turned.probability_bhw[inner], detect_red(window, None).probability_bhw[inner])


@pytest.mark.slow
def test_scores_by_orientation_are_those_of_turned_images(finished: Path, unseen: Path) -> None:
    store = open_store(unseen)
    model = load_model(finished, "cpu").for_store(store)
    items = open_labelled([store], model.offsets)
    scores = score_orientations(model, store, items, 16)
    tp, fp, fn = score_predictor(model, items, 16).counts.sum(1)
    assert scores[0]["dice"] == pytest.approx(2 * tp / (2 * tp + fp + fn))
    assert len({one["dice"] for one in scores}) == 8  # the model was trained for seconds
    for one in scores:
        assert one["difference"] == pytest.approx(one["dice"] - scores[0]["dice"])
    kernel = np.outer([0, 0, 1, 0, 0], [0, 0, 0, 0, 1]).tolist()
    grid: LabelGrid = {"shift": [0.5, 0.5], "kernel": kernel, "bias": 0.0, "fixed_threshold": 0.5}
    mapped = model.with_label_grid(grid)
    tp, fp, fn = score_predictor(mapped, items, 16).counts.sum(1)
    dice = score_orientations(mapped, store, items, 16)[0]["dice"]
    assert dice == pytest.approx(2 * tp / (2 * tp + fp + fn)) != scores[0]["dice"]
    table = orientation_table(scores)
    assert [row[0] for row in table.rows][:2] == ["as stored", "turned by 90 degrees"]
    assert np.all([row[4] for row in table.rows[1:]])
