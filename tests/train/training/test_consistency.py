"""The mean teacher."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from contrail_train.config.training import ConsistencyConfig
from contrail_train.training.consistency import consistency_loss, consistency_weight
from helpers.runs import CONVNEXT, run_steps

MOVED = ("augment.rot90=1", "augment.affine.probability=1", "augment.cutmix=1", "data.crop=48")
TAUGHT = ("loss.consistency={kind: mse, weight: 50, rise: 0}", "optim.warmup=0")


def test_masks_and_records_are_compared_with_those_of_the_teacher() -> None:
    student = {"logits_b1hw": torch.tensor([0.0, 2.0]).reshape(1, 1, 1, 2), "record_logit_b1": torch.zeros(1, 1)}
    teacher = {"logits_b1hw": torch.zeros(1, 1, 1, 2), "record_logit_b1": torch.full((1, 1), math.log(3))}
    p = 1 / (1 + math.exp(-2))
    totals = torch.tensor([2.0, 1.0])
    given = student, teacher, torch.ones(1), None
    loss = consistency_loss(*given, ConsistencyConfig(), totals)
    assert loss.item() == pytest.approx((p - 0.5) ** 2 / 2 + 0.25**2)
    loss = consistency_loss(*given, ConsistencyConfig(kind="bce"), totals)
    assert loss.item() == pytest.approx((math.log(2) - 0.5 * math.log(p * (1 - p))) / 2 + math.log(2))
    loss = consistency_loss(*given[:3], torch.tensor([[[[1.0, 0.0]]]]), ConsistencyConfig(), totals)
    assert loss.item() == pytest.approx(0.25**2)


def test_the_weight_rises_at_the_start_of_a_run() -> None:
    config = ConsistencyConfig(weight=2, rise=0.5)
    weights = [consistency_weight(config, step, 100) for step in (0, 25, 50, 99)]
    assert weights == pytest.approx([2 * math.exp(-5), 2 * math.exp(-1.25), 2, 2])


@pytest.mark.slow
def test_both_see_a_frame_moved_alike_but_with_other_values(store: Path, tmp_path: Path) -> None:
    """In the first step model and average are the same, so only what they see can differ."""
    without = run_steps(store, tmp_path / "without", *CONVNEXT, *MOVED, steps=1)
    taught = (*CONVNEXT, *MOVED, *TAUGHT, f"data.unlabelled={store}")
    alike = run_steps(store, tmp_path / "alike", *taught, steps=1)
    assert alike[0]["loss"] == pytest.approx(without[0]["loss"], rel=1e-5)
    noisy = run_steps(store, tmp_path / "noisy", *taught, "augment.noise={probability: 1, std: 5}", steps=1)
    noise = run_steps(store, tmp_path / "noise", *CONVNEXT, *MOVED, "augment.noise={probability: 1, std: 5}", steps=1)
    assert noisy[0]["loss"] > noise[0]["loss"] + 1e-5


@pytest.mark.slow
def test_learning_without_labels_resumes_and_divides_into_micro_batches(store: Path, tmp_path: Path) -> None:
    taught = (*CONVNEXT, *MOVED, *TAUGHT, f"data.unlabelled={store}", "augment.noise.probability=1", "device=cpu")
    whole = run_steps(store, tmp_path / "whole", *taught, steps=3)
    run_steps(store, tmp_path / "parts", *taught, steps=1)
    resumed = run_steps(store, tmp_path / "parts", *taught, steps=3)
    assert [line["loss"] for line in resumed if "loss" in line] == [line["loss"] for line in whole if "loss" in line]
    micro = run_steps(store, tmp_path / "micro", *taught, "micro_batch=2", steps=3)
    for ours, expected in zip(micro, whole, strict=True):
        assert ours["loss"] == pytest.approx(expected["loss"], rel=1e-3)
        assert ours["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-2)
