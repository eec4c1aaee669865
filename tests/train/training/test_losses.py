"""Losses: values by hand, comparisons with other implementations, and several processes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from segmentation_models_pytorch import losses as smp
from torch import Tensor
from torch.nn import functional

from contrail_train.config.training import LossConfig
from contrail_train.training import losses as own_losses
from contrail_train.training.losses import cross_entropy, record_dice, total_loss

ONES = torch.ones(2)
TERMS = ["bce", "dice", "symmetric_dice", "lovasz", "focal", "tversky"]
ADDITIVE = [term for term in TERMS if term != "lovasz"]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def only(**terms: Any) -> LossConfig:
    """Return a loss of these terms and weights; `term_parameter` sets a parameter of a term."""
    settings: dict[str, Any] = {"bce": 0.0}
    for name, value in terms.items():
        term, _, parameter = name.partition("_")
        if term in ("focal", "tversky"):
            settings.setdefault(term, {})[parameter or "weight"] = value
        else:
            settings[name] = value
    return LossConfig(**settings)


def segmentation_loss(
    logits_b1hw: Tensor, target_b1hw: Tensor, weight_b: Tensor, config: LossConfig, valid_b1hw: Tensor | None = None
) -> Tensor:
    """Return the loss of a model that predicts only a mask."""
    return total_loss({"logits_b1hw": logits_b1hw}, target_b1hw, ONES[:1], weight_b, config, valid_b1hw)


def record_loss(logit_b1: Tensor, positive_b1: Tensor, weight_b: Tensor, config: LossConfig) -> Tensor:
    """Return the loss of a model that only classifies records, with weight 1."""
    config = config.model_copy(update={"record": 1.0})
    return total_loss({"record_logit_b1": logit_b1}, positive_b1[..., None, None], positive_b1, weight_b, config)


def batch(seed: int = 0, b: int = 4, side: int = 12) -> tuple[Tensor, Tensor]:
    """Return logits and a hard target in which a tenth of the pixels is contrail."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(b, 1, side, side, generator=generator)
    return logits, (torch.rand(b, 1, side, side, generator=generator) < 0.1).float()


# values calculated by hand
def test_bce_is_the_weighted_mean_over_samples() -> None:
    logits = torch.stack([torch.zeros(1, 2, 2), torch.full((1, 2, 2), math.log(3))])  # p = 1/2, 3/4
    target = torch.zeros(2, 1, 2, 2)
    loss = segmentation_loss(logits, target, torch.tensor([1.0, 0.5]), LossConfig(bce=2.0))
    assert loss.item() == pytest.approx(2 * (math.log(2) + 0.5 * math.log(4)) / 1.5)


def test_dice_applies_weights_and_sums_over_the_batch_before_dividing() -> None:
    logits = torch.zeros(2, 1, 2, 2)  # p = 1/2 everywhere: Σp = 2 a sample
    target = torch.zeros(2, 1, 2, 2)
    target[0] = 1.0
    weight = torch.tensor([1.0, 0.5])
    # Σwpt = 2, Σwp = 2 + 1, Σwt = 4, and one pixel of smoothing; for the complement 1, 2 + 1 and 2
    dice, clear = (2 * 2 + 1) / (3 + 4 + 1), (2 * 1 + 1) / (3 + 2 + 1)
    assert segmentation_loss(logits, target, weight, only(dice=3.0)).item() == pytest.approx(3 * (1 - dice))
    both = segmentation_loss(logits, target, weight, only(symmetric_dice=1.0))
    assert both.item() == pytest.approx(1 - (dice + clear) / 2)


def test_the_smoothing_of_dice_is_a_setting() -> None:
    """That of the third place of 2023 is (2I + 7e5) / (S + 1e6)."""
    logits, target = batch()
    prob = logits.sigmoid()
    dice = (2 * (prob * target).sum() + 7e5) / (prob.sum() + target.sum() + 1e6)
    loss = segmentation_loss(logits, target, torch.ones(4), only(dice=1000.0, dice_numerator=7e5, dice_denominator=1e6))
    assert loss.item() == pytest.approx(1000 * (1 - dice.item()), rel=1e-6)
    assert loss.item() == pytest.approx(300, abs=1)


def test_lovasz_matches_an_example_calculated_by_hand() -> None:
    # errors 3 (a miss), 1.5 (a false pixel), 0.5 (a hit within the margin), none (clear)
    logits = torch.tensor([-2.0, 0.5, 0.5, -4.0]).reshape(1, 1, 2, 2)
    target = torch.tensor([1.0, 0.0, 1.0, 0.0]).reshape(1, 1, 2, 2)
    # Jaccard's loss of contrail if the first 1, 2, 3 are wrong: 1/2, 2/3, 3/3; of the complement: 1/3, 2/3, 3/4
    contrail = 3 * 1 / 2 + 1.5 * (2 / 3 - 1 / 2) + 0.5 * (1 - 2 / 3)
    clear = 3 * 1 / 3 + 1.5 * (2 / 3 - 1 / 3) + 0.5 * (3 / 4 - 2 / 3)
    loss = segmentation_loss(logits, target, torch.ones(1), only(lovasz=1.0))
    assert loss.item() == pytest.approx((contrail + clear) / 2)


def test_an_integer_weight_equals_that_many_copies_of_a_sample() -> None:
    logits, target = batch(b=2)
    copies = [0, 0, 0, 1]
    weighted, valid = torch.tensor([3.0, 1.0]), (torch.rand(2, 1, 12, 12) < 0.8).float()
    for term in TERMS:
        loss = segmentation_loss(logits, target, weighted, only(**{term: 1.0}), valid)
        copied = segmentation_loss(
            logits[copies], target[copies], torch.ones(4), only(**{term: 1.0}), valid_b1hw=valid[copies]
        )
        assert loss.item() == pytest.approx(copied.item(), rel=1e-5)


def test_an_empty_batch_pushes_probabilities_down_and_stays_finite() -> None:
    for logit in (-40.0, -4.0, 0.0, 40.0):
        logits = torch.full((2, 1, 8, 8), logit, requires_grad=True)
        loss = segmentation_loss(logits, torch.zeros(2, 1, 8, 8), ONES, only(dice=1.0))
        loss.backward()
        assert logits.grad is not None
        assert 0 <= loss.item() <= 1
        assert ((logits.grad >= 0) & (logits.grad <= 1)).all()
        if logit == -4.0:
            assert (logits.grad > 1e-6).all()


# comparisons with other implementations
def test_bce_equals_that_of_torch() -> None:
    logits, target = batch()
    config = LossConfig(pos_weight=7.0, label_smoothing=0.2)
    expected = functional.binary_cross_entropy_with_logits(
        logits, 0.8 * target + 0.1, pos_weight=torch.tensor(7.0)
    ).item()
    assert segmentation_loss(logits, target, torch.ones(4), config).item() == pytest.approx(expected)
    record, positive = logits[:, 0, 0, :1], torch.tensor([[0.0], [1.0], [0.0], [1.0]])
    expected = functional.binary_cross_entropy_with_logits(
        record, 0.8 * positive + 0.1, pos_weight=torch.tensor(7.0)
    ).item()
    assert record_loss(record, positive, torch.ones(4), config).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("config", "golden"),
    [
        (only(dice=1.0), smp.DiceLoss("binary", smooth=0.5)),
        (only(tversky=1.0), smp.TverskyLoss("binary", alpha=0.3, beta=0.7, smooth=0.5)),
        (only(tversky=1.0, tversky_miss=0.5), smp.DiceLoss("binary", smooth=0.5)),
        (only(focal=1.0), smp.FocalLoss("binary", alpha=None, gamma=2.0)),
        (only(focal=1.0, focal_gamma=0.5), smp.FocalLoss("binary", alpha=None, gamma=0.5)),
        (
            only(lovasz=1.0),
            lambda x, t: (smp.LovaszLoss("binary")(x, t) + smp.LovaszLoss("binary")(-x, 1 - t)) / 2,
        ),
    ],
)
def test_values_and_gradients_equal_those_of_segmentation_models_pytorch(
    config: LossConfig, golden: Callable[[Tensor, Tensor], Tensor]
) -> None:
    logits, target = batch()
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss, expected = segmentation_loss(ours, target, torch.ones(4), config), golden(theirs, target)
    loss.backward()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-6)


# properties of all terms
@pytest.mark.parametrize(
    "config",
    [only(**{term: 1.0}) for term in TERMS]
    + [LossConfig(pos_weight=5.0), only(focal=1.0, focal_gamma=0.5), only(tversky=1.0, tversky_miss=0.9)],
)
def test_every_loss_can_be_minimised_to_a_tenth_of_its_start(config: LossConfig) -> None:
    logits, target = batch()
    valid = (torch.rand(4, 1, 12, 12) < 0.9).float()
    logits.requires_grad_()
    optimiser = torch.optim.Adam([logits], lr=0.4)
    values = []
    for _ in range(60):
        loss = segmentation_loss(logits, target, torch.ones(4), config, valid)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        values.append(loss.item())
    assert values[-1] < 0.1 * values[0]


@pytest.mark.parametrize("term", TERMS)
def test_invalid_pixels_affect_neither_loss_nor_gradient(term: str) -> None:
    logits, target = batch()
    valid = (torch.rand(4, 1, 12, 12) < 0.7).float()
    logits.requires_grad_()
    loss = segmentation_loss(logits, target, torch.ones(4), only(**{term: 1.0}), valid)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert not gradient[valid == 0].any()
    assert gradient[valid == 1].any()
    other_logits, other_target = batch(seed=1)
    other = segmentation_loss(
        torch.where(valid == 1, logits, other_logits),
        torch.where(valid == 1, target, other_target),
        torch.ones(4),
        only(**{term: 1.0}),
        valid,
    )
    assert other.item() == pytest.approx(loss.item(), rel=1e-6)
    everything = segmentation_loss(logits, target, torch.ones(4), only(**{term: 1.0}), torch.ones_like(valid))
    assert torch.equal(everything, segmentation_loss(logits, target, torch.ones(4), only(**{term: 1.0})))


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("term", TERMS)
def test_a_batch_of_weight_zero_has_no_loss_and_no_gradient(term: str, empty: bool) -> None:
    logits, target = batch(b=2)
    logits.requires_grad_()
    loss = segmentation_loss(logits, 0 * target if empty else target, 0 * ONES, only(**{term: 1.0}))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("term", TERMS)
def test_losses_and_gradients_are_finite_at_extreme_logits(term: str, value: float) -> None:
    for logit in (-50.0, 0.0, 50.0):
        logits = torch.full((2, 1, 4, 4), logit, dtype=torch.bfloat16, requires_grad=True)
        config = only(**{term: 1.0}, **({"focal_gamma": 0.5} if term == "focal" else {}))
        loss = segmentation_loss(logits, torch.full((2, 1, 4, 4), value), ONES, config)
        loss.backward()
        assert loss.dtype == torch.float32
        assert logits.grad is not None
        assert loss.isfinite()
        assert logits.grad.isfinite().all()


def test_the_loss_is_computed_in_float32_under_autocast() -> None:
    logits, target = batch()
    config = only(**dict.fromkeys(TERMS, 1.0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = segmentation_loss(logits.bfloat16(), target, torch.ones(4), config)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, segmentation_loss(logits.bfloat16().float(), target, torch.ones(4), config))


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(-12, 12), st.integers(0, 4)), min_size=1, max_size=12),
    st.sampled_from(TERMS),
)
def test_losses_are_never_negative_and_never_exceed_their_bound(pixels: list[tuple[int, int]], term: str) -> None:
    """The pixels include soft targets, ties and sets without contrail."""
    logit, quarter = torch.tensor(pixels, dtype=torch.float32).T
    logits, target = logit.reshape(1, 1, 1, -1) / 2, quarter.reshape(1, 1, 1, -1) / 4
    loss = segmentation_loss(logits, target, torch.ones(1), only(**{term: 1.0})).item()
    bound = 1 + logits.abs().max().item()  # the largest error of hinge and cross-entropy
    limit = 1 if "dice" in term or term == "tversky" else bound
    assert -1e-6 <= loss <= limit * (1 + 1e-6)


def test_lovasz_of_soft_targets_equals_that_of_pixels_split_into_hard_parts() -> None:
    logits, target = torch.tensor([0.7, -0.2, 1.5]), torch.tensor([0.25, 0.75, 0.5])
    parts = torch.tensor([[1.0] * int(4 * t) + [0.0] * int(4 - 4 * t) for t in target]).reshape(1, 1, 3, 4)
    split = segmentation_loss(logits[:, None].expand(3, 4)[None, None], parts, torch.ones(1), only(lovasz=1.0))
    unsplit = segmentation_loss(logits[None, None, None], target[None, None, None], torch.ones(1), only(lovasz=1.0))
    assert unsplit.item() == pytest.approx(split.item(), rel=1e-6)


# several processes
def on_ranks(loss_of: Callable[[slice], Tensor], rows: list[slice], monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Return the losses of processes with these rows, run in turn; a first pass collects the sums of each process."""
    sums: list[Tensor] = []

    def gather(own: Tensor) -> Tensor:
        sums.append(own.detach())
        return own

    monkeypatch.setattr(own_losses, "sum_over_processes", gather)
    for r in rows:
        loss_of(r)
    assert len(sums) == len(rows), "one call a loss"

    def total(own: Tensor) -> Tensor:
        summed = own + torch.stack(sums).sum(0) - own.detach()
        # an all-reduce's backward adds up the gradients of all processes' losses, which are equal
        summed.register_hook(lambda gradient: gradient * len(rows))
        return summed

    monkeypatch.setattr(own_losses, "sum_over_processes", total)
    losses = [loss_of(r) for r in rows]
    monkeypatch.undo()
    return losses


def test_two_processes_compute_the_loss_and_gradient_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    config = only(**dict.fromkeys(ADDITIVE, 1.0), pos_weight=3.0, record=0.5)
    logits, target = batch(b=6)
    auxiliary = torch.cat([batch(seed=2, b=6)[0], batch(seed=3, b=6)[0]], dim=1)
    record, positive = batch(seed=4, b=6)[0][:, 0, 0, :1], torch.tensor([[0.0], [1.0], [1.0], [1.0], [0.0], [1.0]])
    valid, weight = (torch.rand(6, 1, 12, 12) < 0.8).float(), torch.tensor([1.0, 0.5, 1.0, 0.25, 1.0, 2.0])
    leaves = [v.requires_grad_() for v in (logits, auxiliary, record)]

    def loss_of(rows: slice) -> Tensor:
        mask, others, record = (v[rows] for v in leaves)
        output = {"logits_b1hw": mask, "auxiliary": others.split(1, dim=1), "record_logit_b1": record}
        given = target[rows], positive[rows], weight[rows], config, valid[rows]
        return total_loss(output, *given, positives_only=True)

    losses = on_ranks(loss_of, [slice(0, 2), slice(2, 6)], monkeypatch)
    single_process = loss_of(slice(None))
    for loss in losses:
        assert loss.item() == pytest.approx(single_process.item(), rel=1e-5)
    gradients = torch.autograd.grad(torch.stack(losses).mean(), leaves)  # DDP's mean
    for ours, expected in zip(gradients, torch.autograd.grad(single_process, leaves), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-8)


def test_lovasz_is_the_mean_over_processes_that_have_a_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, target = batch(b=6)
    logits.requires_grad_()
    weight = torch.tensor([1.0, 1.0, 0.5, 2.0, 0.0, 0.0])

    def loss_of(rows: slice) -> Tensor:
        return segmentation_loss(logits[rows], target[rows], weight[rows], only(lovasz=1.0))

    rows = [slice(0, 2), slice(2, 4), slice(4, 6)]
    losses = on_ranks(loss_of, rows, monkeypatch)
    expected = (loss_of(rows[0]) + loss_of(rows[1])) / 2
    for loss in losses:
        assert loss.item() == pytest.approx(expected.item())
    (ours,) = torch.autograd.grad(torch.stack(losses).mean(), logits)
    torch.testing.assert_close(ours, *torch.autograd.grad(expected, logits))


# all outputs of a model
def test_points_learn_the_target_at_their_places() -> None:
    config, weight = only(bce=1.0, dice=0.5, points=0.3), torch.tensor([1.0, 1.0, 0.5, 2.0])
    logits, target = batch()
    valid = (torch.rand(4, 1, 12, 12) < 0.8).float()
    columns = torch.tensor([0, 3, 7, 11])
    places = torch.stack([(2 * columns + 1) / 12 - 1, torch.full((4,), 5 / 12 - 1)], dim=1).expand(4, -1, -1)  # row 2
    points = torch.randn(4, 1, 4)
    there = target[:, :, 2:3, columns], weight, config, 36 * valid[:, :, 2:3, columns]  # 4 points for 144 pixels
    mask = segmentation_loss(logits, target, weight, config, valid)
    output = {"logits_b1hw": logits, "points_b1n": points, "places_bn2": places}
    expected = mask + 0.3 * segmentation_loss(points[:, :, None], *there)
    torch.testing.assert_close(total_loss(output, target, torch.ones(4, 1), weight, config, valid), expected)


def test_a_coarser_map_learns_the_maximum_of_each_valid_cell() -> None:
    config, weight = only(bce=1.0, dice=0.5, auxiliary=0.3), torch.tensor([1.0, 1.0, 0.5, 2.0])
    logits, target = batch()
    coarse, _ = batch(seed=1, side=4)
    valid = (torch.rand(4, 1, 12, 12) < 0.8).float()
    cells = (target * valid).unflatten(3, (4, 3)).unflatten(2, (4, 3)).amax((3, 5))
    shares = valid.unflatten(3, (4, 3)).unflatten(2, (4, 3)).sum((3, 5))  # a cell has nine pixels
    mask = segmentation_loss(logits, target, weight, config, valid)
    expected = mask + 0.3 * segmentation_loss(coarse, cells, weight, config, shares)
    output = {"logits_b1hw": logits, "auxiliary": [coarse]}
    torch.testing.assert_close(total_loss(output, target, torch.ones(4, 1), weight, config, valid), expected)


def test_the_total_loss_is_the_weighted_sum_over_all_outputs() -> None:
    config = LossConfig(bce=1.0, dice=0.5, auxiliary=0.3, record=0.7)
    logits, target = batch()
    auxiliary = torch.cat([batch(seed=1)[0], batch(seed=2)[0]], dim=1)
    record, positive = torch.randn(4, 1), torch.tensor([[1.0], [0.0], [1.0], [0.5]])
    weight, valid = torch.tensor([1.0, 1.0, 0.5, 2.0]), (torch.rand(4, 1, 12, 12) < 0.8).float()

    def mask_loss(map_b1hw: Tensor, weight_b: Tensor) -> Tensor:
        return segmentation_loss(map_b1hw, target, weight_b, config, valid)

    def total(**output: Any) -> Tensor:
        return total_loss(output, target, positive, weight, config, valid)

    torch.testing.assert_close(total(logits_b1hw=logits), mask_loss(logits, weight))
    two = total_loss(
        {"logits_b1hw": logits, "second_b1hw": logits + 1},
        torch.cat([target, target / 2], dim=1),
        *(positive, weight, config.model_copy(update={"second_target": 0.6}), valid),
    )
    soft = segmentation_loss(logits + 1, target / 2, weight, config, valid)
    torch.testing.assert_close(two, mask_loss(logits, weight) + 0.6 * soft)
    supervised = 0.3 * (mask_loss(auxiliary[:, :1], weight) + mask_loss(auxiliary[:, 1:], weight)) / 2
    torch.testing.assert_close(
        total(logits_b1hw=logits, auxiliary=auxiliary.split(1, dim=1)), mask_loss(logits, weight) + supervised
    )
    record_only = 0.7 * record_loss(record, positive, weight, config)
    torch.testing.assert_close(total(record_logit_b1=record), record_only)
    both = {"logits_b1hw": logits, "record_logit_b1": record}
    torch.testing.assert_close(total(**both), record_only + mask_loss(logits, weight))
    positives = total_loss(both, target, positive, weight, config, valid, positives_only=True)
    torch.testing.assert_close(positives, record_only + mask_loss(logits, weight * positive[:, 0]))


def test_masks_of_negative_records_have_no_gradient_if_only_positive_ones_teach_them() -> None:
    logits, target = batch()
    logits.requires_grad_()
    output = {"logits_b1hw": logits, "record_logit_b1": torch.zeros(4, 1)}
    positive = torch.tensor([[1.0], [0.0], [0.0], [1.0]])
    loss = total_loss(output, target, positive, torch.ones(4), LossConfig(), positives_only=True)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient[[0, 3]].all()
    assert not gradient[[1, 2]].any()


def test_the_score_learns_the_dice_of_the_mask_and_leaves_the_mask_alone() -> None:
    p_b1hw, t_b1hw = torch.tensor([[1.0, 0.5, 0.0], [0.5, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    p_b1hw, t_b1hw, valid = (x[:, None, None] for x in (p_b1hw, t_b1hw, torch.tensor([[1.0, 1.0, 0.0], [1.0] * 3])))
    assert record_dice(p_b1hw, t_b1hw)[:, 0].tolist() == pytest.approx([2 * 1 / (1.25 + 2), 0])
    assert record_dice(p_b1hw, t_b1hw, valid)[:, 0].tolist() == pytest.approx([2 * 1 / (1.25 + 1), 0])
    logits, target = batch()
    score, weight = torch.randn(4, 1), torch.tensor([1.0, 1.0, 0.5, 2.0])
    logits.requires_grad_()
    output, config = {"logits_b1hw": logits}, LossConfig(score=0.7)
    plain, scored = (
        total_loss(o, target, torch.ones(4, 1), weight, config) for o in (output, output | {"score_logit_b1": score})
    )
    error_b = cross_entropy(score, record_dice(logits.sigmoid(), target))[:, 0]
    torch.testing.assert_close(scored - plain, 0.7 * (weight * error_b).sum() / weight.sum())
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (plain, scored)))
