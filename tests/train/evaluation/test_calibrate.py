"""Calibration on held-out records, and scores of records that it was not fitted to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score
from torch import Tensor, nn

from contrail_data.store.logits import CODES
from contrail_train.data.items import Items
from contrail_train.evaluation import metrics
from contrail_train.evaluation.calibrate import Calibrated, GridWhen, HeldOut, calibrate, choose_gate
from contrail_train.evaluation.score import EvaluationOptions, Scores, assign_folds, score, score_values
from contrail_train.inference.detector import Detector, Network, View
from contrail_train.inference.label_grid import centre_of_mass
from helpers.items import RECORDS, SIDE, items_of, labelled_scene

MASKS = [{"a": 0.5, "b": 0.5}, {"a": 1.0}, {"b": 1.0}]


class Channel(nn.Module):
    """Returns one channel of the image as the probability."""

    def __init__(self, channel: int):
        super().__init__()
        self.channel = channel

    def forward(self, x_btchw: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
        return {"logits_b1hw": torch.logit(x_btchw[:, 0, self.channel : self.channel + 1], eps=1e-6)}


def fitted(items: Items) -> Calibrated:
    view = View((0,), torch.zeros(3), torch.ones(3), False, None)
    networks = {name: Network(Channel(i), view) for i, name in enumerate("ab")}
    detector = Detector(networks, MASKS[0], {"a": 1.0}, top_k=8).eval()
    options = EvaluationOptions(torch.device("cpu"), batch=5, title=None)
    gates = [{"a": 1.0}, {"b": 1.0}]
    calibrated = calibrate([HeldOut(detector, items, (0.0, 0.0))], options, masks=MASKS, gates=gates, gate_when="best")
    assert calibrated.holdout["holdout_counts"] is not None
    return calibrated


@pytest.mark.parametrize(
    ("seed", "folds"), [(0, (0, 3)), *(pytest.param(seed, range(5), marks=pytest.mark.slow) for seed in (1, 2))]
)
def test_predictions_of_a_fold_do_not_depend_on_its_own_labels(seed: int, folds: Sequence[int]) -> None:
    """Inverting the labels of a fold changes the predictions of other records but not those of its own."""
    stored, label, items = labelled_scene(seed)
    before, part = fitted(items), assign_folds(items)
    assert part.max() == 4
    moved = 0
    for k in folds:
        other = np.where((part == k)[:, None, None], ~label, label)
        after = fitted(items_of(stored, other, items.positive))
        drawn = [np.sum(each.holdout["holdout_counts"][:2], axis=0) for each in (before, after)]
        np.testing.assert_array_equal(drawn[0][part == k], drawn[1][part == k])
        moved += before.choice != after.choice and (drawn[0] != drawn[1]).any()
    assert moved == len(folds)  # the predictions of other folds do change


@pytest.mark.parametrize("seed", range(3))
def test_calibration_chooses_the_best_mask_weights_threshold_and_gate(seed: int) -> None:
    stored, label, items = labelled_scene(seed)
    calibrated = fitted(items)
    p = np.clip(stored[:, :2] / np.float32(255), 1e-6, 1 - 1e-6)
    best, score = (0.0, {}, 0.0), -1.0
    for mask in MASKS:
        mixed = sum(weight * p[:, "ab".index(name)] for name, weight in mask.items())
        threshold, dice = metrics.best_threshold(metrics.histograms(mixed, label))
        if dice > score:
            best, score = (threshold, mask, dice), dice
    assert calibrated.choice.threshold == best[0]
    assert calibrated.choice.mask == best[1]
    mixed = sum(weight * p[:, "ab".index(name)] for name, weight in best[1].items())
    gated = []
    for name in "ab":
        top = np.sort(p[:, "ab".index(name)].reshape(RECORDS, -1), 1)[:, -8:].mean(1)
        for gate in (0.0, *(np.sort(top) - 1e-6)):
            drawn = (mixed >= best[0]) & (top >= gate)[:, None, None]
            gated.append(2 * (drawn & label).sum() / (drawn.sum() + label.sum()))
    (own,) = calibrated.choice.gate_weights
    top = np.sort(p[:, "ab".index(own)].reshape(RECORDS, -1), 1)[:, -8:].mean(1)
    drawn = (mixed >= best[0]) & (top >= calibrated.choice.gate)[:, None, None]
    assert 2 * (drawn & label).sum() / (drawn.sum() + label.sum()) == pytest.approx(max(gated), abs=1e-6)


def test_a_closed_gate_discards_all_predicted_pixels() -> None:
    """Of two positive records and an empty one, the gate rejects the last two."""
    items = labelled_scene(0)[2][np.arange(3)]
    counts, tolerant = (
        np.array([[6, 4, 0], [2, 1, 9], [2, 3, 0]]),
        np.array([[7, 4, 0], [8, 5, 9], [7, 5, 0], [8, 7, 0]]),
    )
    scores = Scores(np.ones((1, 2, CODES), int), counts, np.array([0.9, 0.2, 0.1]), tolerant)
    result = score_values(scores, items, 0.5, 0.3)
    assert (result["tp"], result["fp"], result["fn"]) == (6, 2, 2 + 4 + 3)
    assert result["dice"] == pytest.approx(12 / (12 + 2 + 9))
    precision, recall = 7 / 8, 7 / (8 + 7)
    assert result["tolerant_dice"] == pytest.approx(2 * precision * recall / (precision + recall))
    assert result["record_dice"] == pytest.approx(2 / 3)
    assert result["dice_without_gate"] == pytest.approx(20 / (20 + 12 + 5))
    own = score_values(scores, items, 0.5, 0.3, np.array([0.95, 0.1, 0.3]))  # each record has its own gate
    assert (own["tp"], own["fp"], own["fn"], own["gate"]) == (4, 1, 8 + 3, 0.3)


def simulated_records(
    rng: np.random.Generator, share: float, information: float, weights: int, records: int = 80
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores (weights, n), counts (3, n) and groups of four records, which resemble one another in label and score."""
    group = np.repeat(np.arange(records // 4), 4)
    latent = rng.normal(size=records // 4)[group] + rng.normal(size=records)
    positive = latent > np.quantile(latent, 1 - share)
    size = np.exp(rng.normal(5, 1.2, records)).astype(int) + 1
    tp = np.where(positive, size * rng.beta(4, 2, records), 0).astype(int)
    fp = np.exp(rng.normal(3.5, 1.2, records)) * (positive | (rng.random(records) < 0.5))
    noise = rng.normal(size=(weights, records)) + 0.7 * rng.normal(size=(weights, records // 4))[:, group]
    counts = np.stack([tp, fp.astype(int), np.where(positive, size, 0) - tp])
    return 1 / (1 + np.exp(-information * positive - noise)), counts, group.astype(str)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.45, 0.2])
@pytest.mark.parametrize("weights", [1, 3])
def test_a_score_without_information_is_rarely_kept_as_a_gate(share: float, weights: int) -> None:
    """Proven on the records by which they were chosen, 8 to 42 % of such gates were kept, and cost up to .09 Dice."""
    rng = np.random.default_rng(1)
    kept = [choose_gate(*simulated_records(rng, share, 0, weights), "proven")[1] > 0 for _ in range(300)]
    assert np.mean(kept) <= 0.04


@pytest.mark.parametrize("share", [0.45, 0.2])
def test_a_score_with_information_is_kept_as_a_gate_and_gains_elsewhere(share: float) -> None:
    rng, kept, gains = np.random.default_rng(0), [], []
    for _ in range(50):
        _, gate = choose_gate(*simulated_records(rng, share, 6, 1, records=200), "proven")
        scores, counts, _ = simulated_records(rng, share, 6, 1, records=800)
        gated = metrics.empty_masks(counts, scores[0] < gate)
        kept.append(gate > 0)
        gains.append(metrics.dice(*gated.sum(1)) - metrics.dice(*counts.sum(1)))
    assert np.mean(kept) > 0.7
    assert np.mean(gains) > 0.02
    assert choose_gate(*simulated_records(rng, share, 6, 1, records=4), "proven")[1] == 0  # a single group


@pytest.mark.parametrize("threshold", [0.0, 0.3])
def test_missing_pixels_are_not_scored(threshold: float) -> None:
    stored, label, items = labelled_scene(0)

    def read_valid(sample: int, frames: list[int], out: np.ndarray) -> None:
        out[:] = 1
        out[..., :5] = 0

    view = View((0,), torch.zeros(3), torch.ones(3), False, None)
    detector = Detector({"a": Network(Channel(0), view)}, {"a": 1.0}, {"a": 1.0}, top_k=8).eval()
    options = EvaluationOptions(torch.device("cpu"), batch=5, title=None)
    scores = score(detector, replace(items, valid=[read_valid]), options, threshold)
    predicted, target = stored[:, 0, :, 5:] / 255 >= threshold, label[..., 5:]
    expected = [(predicted & target), (predicted & ~target), (~predicted & target)]
    np.testing.assert_array_equal(scores.counts, [part.sum((1, 2)) for part in expected])
    assert scores.histogram.sum() == target.size
    values = score_values(scores, items, threshold, 0.0)
    p = np.clip(stored[:, 0, :, 5:] / np.float32(255), 1e-6, 1 - 1e-6)
    assert values["auc_pr"] == pytest.approx(average_precision_score(target.ravel(), p.ravel()), abs=1e-3)
    assert values["dice"] == pytest.approx(f1_score(target.ravel(), predicted.ravel()))
    record_score = np.sort(p.reshape(len(p), -1), 1)[:, -8:].mean(1)
    exact = average_precision_score(target.any((1, 2)), record_score)
    assert values["record_auc_pr"] == pytest.approx(exact, abs=1e-9)


def moved_scene(pixels: int) -> tuple[np.ndarray, np.ndarray, Items]:
    """Squares whose label lies some pixels to the right of where the image shows them, under noise."""
    rng = np.random.default_rng(0)
    shown = np.zeros((RECORDS, SIDE, SIDE), bool)
    for square in shown:
        row, column = rng.integers(1, SIDE - 5, 2)
        square[row : row + 3, column : column + 3] = True
    image = np.repeat((0.6 * shown + 0.4 * rng.random(shown.shape))[:, None], 3, axis=1)
    stored, label = np.rint(image * 255).astype(np.uint8), np.roll(shown, pixels, axis=2)
    return stored, label, items_of(stored, label, shown.any((1, 2)))


def calibrated_on(items: Items, grid_when: GridWhen) -> Calibrated:
    detector = Detector(
        {"a": Network(Channel(0), View((0,), torch.zeros(3), torch.ones(3), False, None))},
        {"a": 1.0},
        {"a": 1.0},
        top_k=8,
    ).eval()
    options = EvaluationOptions(torch.device("cpu"), batch=5, title=None)
    return calibrate([HeldOut(detector, items, (0.0, 0.0))], options, gate_when="never", grid_when=grid_when)


def test_a_learned_label_grid_is_used_where_its_cross_fitted_gain_is_proven(capsys: pytest.CaptureFixture[str]) -> None:
    items = moved_scene(pixels=1)[2]
    fixed, used = (calibrated_on(items, when) for when in ("never", "proven"))
    assert fixed.choice.label_grid is None
    assert used.choice.label_grid is not None
    assert centre_of_mass(used.choice.label_grid) == pytest.approx((0, 1), abs=0.3)
    assert used.choice.label_grid["fixed_threshold"] == fixed.choice.threshold != used.choice.threshold
    before, after = (c.holdout["holdout"]["dice"] for c in (fixed, used))
    assert after > before
    assert f"learned label grid: {after - before:+.3f}" in capsys.readouterr().err

    matching = moved_scene(pixels=0)[2]
    assert calibrated_on(matching, "proven") == calibrated_on(matching, "never")
    assert "not proven, the fixed shift is used" in capsys.readouterr().err


@pytest.mark.parametrize("fold", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_a_label_grid_learned_for_a_fold_does_not_depend_on_its_own_labels(fold: int) -> None:
    stored, label, items = moved_scene(pixels=1)
    before, part = calibrated_on(items, "always"), assign_folds(items)
    other = np.where((part == fold)[:, None, None], ~label, label)
    after = calibrated_on(items_of(stored, other, items.positive), "always")
    drawn = [np.sum(each.holdout["holdout_counts"][:2], axis=0) for each in (before, after)]
    np.testing.assert_array_equal(drawn[0][part == fold], drawn[1][part == fold])
    assert before.choice != after.choice
