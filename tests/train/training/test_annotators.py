"""Maps of annotators: which one learns whose mask."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from contrail_train.config.training import LossConfig
from contrail_train.data.augment import augment_labels
from contrail_train.data.draw import draw
from contrail_train.data.loader import Batch
from contrail_train.training.annotators import match_annotators
from contrail_train.training.losses import total_loss
from helpers.augmentation import NO_SHIFT, only


def halves() -> Tensor:
    """Return the masks of two annotators, the left and the right half of an image."""
    left_hw = torch.zeros(8, 8)
    left_hw[:, :4] = 1
    return torch.stack([left_hw, 1 - left_hw])


def test_annotators_teach_the_maps_that_fit_them_best() -> None:
    masks_ahw = torch.rand(3, 8, 8).round()
    maps_bnhw = (10 * (masks_ahw - 0.5))[[2, 0, 1]].expand(3, -1, -1, -1)
    target_bnhw = torch.stack([masks_ahw, masks_ahw, masks_ahw[:1].expand(3, -1, -1)])
    chosen_bnhw, share_bn = match_annotators(maps_bnhw, target_bnhw, torch.tensor([3, 2, 0]))
    assert torch.equal(chosen_bnhw[0], masks_ahw[[2, 0, 1]])
    assert torch.equal(chosen_bnhw[1, 1:], masks_ahw[:2])
    torch.testing.assert_close(share_bn, torch.tensor([[1, 1, 1], [0, 1.5, 1.5], [1, 1, 1]]) / 3)
    valid_b1hw = torch.zeros(3, 1, 8, 8)
    assert match_annotators(maps_bnhw, target_bnhw, torch.tensor([1, 1, 1]), valid_b1hw)[1].sum(1).tolist() == [1] * 3


def test_maps_learn_each_view_of_annotators_who_disagree_in_any_order() -> None:
    generator = torch.Generator().manual_seed(0)
    maps_bnhw = (0.1 * torch.randn(1, 2, 8, 8, generator=generator)).requires_grad_()
    optimiser = torch.optim.Adam([maps_bnhw], lr=0.3)
    for step in range(40):
        masks_ahw = halves()[[step % 2, 1 - step % 2]]
        target_bkhw = torch.cat([masks_ahw[:1], masks_ahw])[None]
        loss = total_loss(
            *({"annotators_bnhw": maps_bnhw}, target_bkhw, torch.ones(1, 1), torch.ones(1), LossConfig()),
            annotators_b=torch.tensor([2]),
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    learnt = sorted(maps_bnhw[0].detach().sigmoid(), key=lambda map_hw: -float(map_hw[0, 0]))
    torch.testing.assert_close(torch.stack(learnt), halves(), atol=0.05, rtol=0)
    assert loss.item() < 0.05


def test_the_masks_of_a_record_weigh_as_much_as_one_mask() -> None:
    target_b1hw, logits_b1hw = torch.rand(2, 1, 8, 8).round(), torch.randn(2, 1, 8, 8)
    weight_b, valid_b1hw = torch.tensor([1.0, 3.0]), torch.rand(2, 1, 8, 8).round()
    config = LossConfig(dice=1.0)
    given = torch.ones(2, 1), weight_b, config, valid_b1hw
    one = total_loss({"logits_b1hw": logits_b1hw}, target_b1hw, *given)
    maps = {"annotators_bnhw": logits_b1hw.expand(-1, 4, -1, -1)}
    four = total_loss(maps, target_b1hw.expand(-1, 5, -1, -1), *given, annotators_b=torch.tensor([4, 2]))
    torch.testing.assert_close(four, one)


@pytest.mark.parametrize("mixing", ["mixup", "cutmix"])
def test_a_mixture_has_as_many_annotators_as_the_record_with_more(mixing: str) -> None:
    config = only(**{mixing: 1.0})
    given = Batch(
        torch.zeros(4, 1, 3, 32, 32), torch.zeros(4, 5, 32, 32), torch.zeros(4, 1), torch.ones(4), None,
        annotators_b=torch.tensor([4, 0, 3, 2], dtype=torch.uint8),
    )  # fmt: skip
    drawn = draw(config, 4, 32, 32, seed=0, step=0)
    moved = augment_labels(given, drawn, config, NO_SHIFT).annotators_b
    assert moved is not None
    assert moved.tolist() == [4, 4, 3, 3]
