"""What training minimises: a weighted sum of cross-entropy and 1 - global Dice."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from contrail_train.config import LossConfig


def segmentation_loss(logits_b1hw: Tensor, target_b1hw: Tensor, weight_b: Tensor, config: LossConfig) -> Tensor:
    """`bce` × cross-entropy + `dice` × (1 - Dice), a float32 scalar whatever the type of the logits.

    logits_b1hw: (b, 1, h, w), any floating type; target_b1hw: same shape, probabilities in [0, 1];
    weight_b: (b,) weight of each sample, >= 0; a batch of weights 0 gives loss and gradient 0.
    """
    logits, target = logits_b1hw.float(), target_b1hw.float()
    weight_b111 = weight_b.float()[:, None, None, None]
    loss = logits.new_zeros(())
    if config.bce:
        loss = loss + config.bce * weighted_bce(logits, target, weight_b111)
    if config.dice:
        loss = loss + config.dice * (1 - soft_dice(logits.sigmoid(), target, weight_b111))
    return loss


def weighted_bce(logits_b1hw: Tensor, target_b1hw: Tensor, weight_b111: Tensor) -> Tensor:
    """Mean over samples, weighted by `weight_b111`, of the mean cross-entropy over pixels."""
    per_sample_b = functional.binary_cross_entropy_with_logits(logits_b1hw, target_b1hw, reduction="none").mean(
        dim=(1, 2, 3)
    )
    weight_b = weight_b111.flatten()
    return (weight_b * per_sample_b).sum() / weight_b.sum().clamp_min(1e-12)


def soft_dice(prob_b1hw: Tensor, target_b1hw: Tensor, weight_b111: Tensor, smooth: float = 1.0) -> Tensor:
    """Global Dice (2 Σpt + s) / (Σp + Σt + s), sums over all pixels of the batch before the one division.

    That is the score itself, where the mean of each sample's Dice is not: most samples have no contrail. With
    nothing to find, 1 - Dice is Σp / (Σp + s): it falls with every false probability and, with s of one
    pixel, no gradient exceeds 1 (a tiny s would make it explode as Σp goes to 0).
    """
    overlap = (weight_b111 * prob_b1hw * target_b1hw).sum()
    total = (weight_b111 * (prob_b1hw + target_b1hw)).sum()
    return (2 * overlap + smooth) / (total + smooth)
