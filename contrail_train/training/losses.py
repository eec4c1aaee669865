"""The loss: a weighted sum of terms of the mask, of a decoder's other maps and of the record.

Every term but one is a function of sums over pixels. These are added up over all processes before anything is divided,
so each process has the loss of the global batch. As the backward pass adds up the gradients likewise, and
DistributedDataParallel then averages those of the processes, the result is the gradient of a single process on the
whole batch. The exception is the Lovász hinge, which sorts: it is the mean over processes.

A micro-batch's loss is its part of the whole step's. For what is a mean over pixels or records the parts sum up to the
loss of the step. Ratios (Dice, Tversky, Lovász) are averages over the micro-batches by their weight, another loss.

In every term a pixel counts by its sample's weight times its validity.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from contrail_train.config.training import LossConfig
from contrail_train.runs.distributed import sum_over_processes
from contrail_train.training.annotators import match_annotators

SMOOTH = 1.0  # pixels added to both sides of symmetric Dice and Tversky


def total_loss(
    output: Mapping[str, Any],
    target_bkhw: Tensor,
    positive_b1: Tensor,
    weight_b: Tensor,
    config: LossConfig,
    valid_b1hw: Tensor | None = None,
    step_weights: Tensor | None = None,
    *,
    positives_only: bool = False,
    annotators_b: Tensor | None = None,
) -> Tensor:
    """Return the loss of all that a model predicts; the processes wait for one another once.

    Args:
        output: At least one of `logits_b1hw` or `annotators_bnhw`, which learn the first target or the others, and
            `record_logit_b1`, whose loss has weight `config.record`. `auxiliary` adds more predictions of the mask,
            whose mean loss has weight `config.auxiliary`, coarser ones compared with the maximum of each cell of the
            target; `points_b1n` those at points `places_bn2`, whose loss has weight `config.points`; `second_b1hw` one
            of the second target, whose loss has weight `config.second_target`; and `score_logit_b1` learns the
            `record_dice` of the mean of the maps and the first target, with weight `config.score`.
        target_bkhw: Probability of contrail per pixel, for each target.
        positive_b1: Probability that the record has a contrail.
        weight_b: Weight of each sample, at least 0; a batch of zeros has loss and gradient 0.
        config: The terms and their weights.
        valid_b1hw: Validity of each pixel, from 0 (ignored) to 1; None: all are valid.
        step_weights: `weights_of` the step of which this is a micro-batch; None if it is all of it.
        positives_only: Whether masks learn from positive records only.
        annotators_b: How many of the targets are masks of annotators, see `Batch`.

    Returns:
        A float32 scalar.
    """
    mask, record, score = (output.get(name) for name in ("logits_b1hw", "record_logit_b1", "score_logit_b1"))
    annotators = output.get("annotators_bnhw")
    others, second = output.get("auxiliary", []), output.get("second_b1hw")
    first_b1hw, mask_weight_b = target_bkhw[:, :1], _mask_weight(weight_b, positive_b1, positives_only)
    maps: list[tuple[Tensor, float]] = []  # sums over the pixels of each map, and its weight
    if mask is not None:
        maps.append((_mask_sums(mask, first_b1hw, mask_weight_b, config, valid_b1hw), 1.0))
    if annotators is not None and annotators_b is not None:
        sums = _annotator_sums(annotators, target_bkhw[:, 1:], annotators_b, mask_weight_b, config, valid_b1hw)
        maps.append((sums, 1.0))
    for other in others:
        target_b1hw, own_valid_b1hw = _on_grid_of(other, first_b1hw, valid_b1hw)
        sums = _mask_sums(other, target_b1hw, mask_weight_b, config, own_valid_b1hw)
        maps.append((sums, config.auxiliary / len(others)))
    if "points_b1n" in output:
        target_b11n, valid_b11n = _at_points(output, first_b1hw, valid_b1hw)
        sums = _mask_sums(output["points_b1n"][:, :, None], target_b11n, mask_weight_b, config, valid_b11n)
        maps.append((sums, config.points))
    if second is not None:
        maps.append((_mask_sums(second, target_bkhw[:, 1:], mask_weight_b, config, valid_b1hw), config.second_target))
    records: list[tuple[Tensor, float]] = []  # likewise over the records
    if record is not None:
        error_b1 = cross_entropy(record.float(), positive_b1.float(), config.pos_weight, config.label_smoothing)
        records.append((_record_sums(error_b1, weight_b), config.record))
    if score is not None:
        each_bkhw = (
            torch.cat([part for part in (mask, annotators, second) if part is not None], dim=1).float().sigmoid()
        )
        dice_b1 = record_dice(each_bkhw.mean(1, keepdim=True).detach(), first_b1hw, valid_b1hw)
        records.append((_record_sums(cross_entropy(score.float(), dice_b1), weight_b), config.score))
    parts = [part for part, _ in maps + records]
    summed = sum_over_processes(torch.cat(parts)).split([len(part) for part in parts])
    step_pixels, step_records = (None, None) if step_weights is None else step_weights.unbind()
    losses = [w * _mask_loss(part, config, step_pixels) for part, (_, w) in zip(summed, maps, strict=False)]
    loss = torch.stack(losses).sum() if losses else torch.zeros_like(summed[-1][0])
    for part, (_, w) in zip(summed[len(maps) :], records, strict=True):
        error, weight = part.unbind()
        loss = loss + w * _mean(error, weight if step_records is None else step_records)
    return loss


def weights_of(
    target_bkhw: Tensor, positive_b1: Tensor, weight_b: Tensor, valid_b1hw: Tensor | None, positives_only: bool
) -> Tensor:
    """Sum what the means of a step are divided by, over all processes.

    Args:
        target_bkhw: Targets of this process's share of the step.
        positive_b1: As for `total_loss`, as are the following.
        weight_b: Weight of each sample.
        valid_b1hw: Validity of each pixel.
        positives_only: Whether masks learn from positive records only.

    Returns:
        (2) float32: weight of all pixels, and of all records.
    """
    pixels = _pixel_weights(target_bkhw[:, :1], _mask_weight(weight_b, positive_b1, positives_only), valid_b1hw)
    return sum_over_processes(torch.stack([pixels.sum(), weight_b.float().sum()]))


def cross_entropy(logits: Tensor, target: Tensor, pos_weight: float = 1.0, smoothing: float = 0.0) -> Tensor:
    """Return −(pos_weight · t log p + (1 − t) log(1 − p)) per element.

    Args:
        logits: Any shape.
        target: t, probabilities of the same shape.
        pos_weight: Weight of positive elements.
        smoothing: Fraction of the way to 1/2 by which t is moved.

    Returns:
        The cross-entropy, of the same shape.
    """
    target = target + smoothing * (0.5 - target)
    weight = logits.new_full((), pos_weight)  # filled on the device, without waiting for it
    return functional.binary_cross_entropy_with_logits(logits, target, reduction="none", pos_weight=weight)


def record_dice(probability_b1hw: Tensor, target_b1hw: Tensor, valid_b1hw: Tensor | None = None) -> Tensor:
    """Return the Dice of each record's mask, 2 Σpt / (Σp² + Σt²), in the form of https://arxiv.org/abs/1606.04797.

    The squares leave out the haze of small probabilities, which no threshold keeps.

    Args:
        probability_b1hw: p.
        target_b1hw: t.
        valid_b1hw: Validity of each pixel; None: all are valid.

    Returns:
        (b, 1) float32, 0 for records without a contrail.
    """
    p_b1hw, t_b1hw = probability_b1hw.float(), target_b1hw.float()
    weight = 1.0 if valid_b1hw is None else valid_b1hw.float()
    both, squares = (weight * p_b1hw * t_b1hw).sum((2, 3)), (weight * (p_b1hw.square() + t_b1hw.square())).sum((2, 3))
    return 2 * both / squares.clamp_min(1e-6)


def focal(logits: Tensor, target: Tensor, gamma: float) -> Tensor:
    """Return the focal loss, |t − p|^gamma × cross-entropy, per element.

    https://arxiv.org/abs/1708.02002 without its alpha, in the extension to soft targets of
    https://arxiv.org/abs/2006.04388, equation 5, whose minimum is at p = t.

    Args:
        logits: Any shape.
        target: t, probabilities of the same shape.
        gamma: Exponent.

    Returns:
        The loss, of the same shape.
    """
    miss = (target - logits.sigmoid()).abs().clamp_min(1e-6)  # below gamma 1 the slope at 0 is infinite
    return miss.pow(gamma) * cross_entropy(logits, target)


def lovasz_hinge(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Return the symmetric Lovász hinge over all elements: the mean of that for contrail and that for its complement.

    It is the convex extension of the Jaccard loss, https://arxiv.org/abs/1705.08790, algorithm 1, on sets of weighted
    pixels. A pixel with target t is t of a contrail pixel and 1 − t of another one, so soft targets need no rounding
    and, since the hinge error is the same in both directions, one sort serves both. As Jaccard is a ratio, only the
    ratio of weights matters.

    Args:
        logits: Any shape.
        target: Probabilities, of the same shape.
        weight: Weights, of the same shape; if all are 0, so is the result.

    Returns:
        A scalar.
    """
    logits, target, weight = logits.flatten(), target.flatten(), weight.flatten()
    error = torch.cat([1 - logits, 1 + logits])  # as contrail, as background
    order = error.detach().argsort(descending=True)
    # steps of the curve are about 1 / pixels: differences of float32 would be mostly rounding
    contrail = torch.cat([weight * target, torch.zeros_like(weight)]).double()[order].cumsum(0)
    clear = torch.cat([torch.zeros_like(weight), weight * (1 - target)]).double()[order].cumsum(0)
    wrong, tiny = contrail + clear, torch.finfo(torch.float32).tiny
    # (|union| - |intersection|) / |union| if the i pixels with the largest errors are misjudged
    jaccard = wrong / (contrail[-1] + clear).clamp_min(tiny) + wrong / (clear[-1] + contrail).clamp_min(tiny)
    slope = torch.empty_like(error)
    slope[order] = (0.5 * jaccard.diff(prepend=jaccard.new_zeros(1))).to(error.dtype)
    return (functional.relu(error) * slope).sum()


def _mask_weight(weight_b: Tensor, positive_b1: Tensor, positives_only: bool) -> Tensor:
    return weight_b * positive_b1[:, 0] if positives_only else weight_b


def _pixel_weights(like_b1hw: Tensor, weight_b: Tensor, valid_b1hw: Tensor | None) -> Tensor:
    weight_b1hw = weight_b.float()[:, None, None, None].expand_as(like_b1hw)
    return weight_b1hw if valid_b1hw is None else weight_b1hw * valid_b1hw.float()


def _on_grid_of(logits_b1hw: Tensor, target_b1hw: Tensor, valid_b1hw: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The target, and the weight of each pixel, on the grid of a map.

    On another grid than that of the target a cell has its maximum, and counts as many pixels as it covers.
    """
    if logits_b1hw.shape == target_b1hw.shape:
        return target_b1hw, valid_b1hw
    size = logits_b1hw.shape[2], logits_b1hw.shape[3]
    valid = torch.ones_like(target_b1hw) if valid_b1hw is None else valid_b1hw.float()
    pixels = target_b1hw.numel() / logits_b1hw.numel()
    marked = torch.where(valid > 0, target_b1hw, 0.0)
    return functional.adaptive_max_pool2d(marked, size), pixels * functional.adaptive_avg_pool2d(valid, size)


def _record_sums(error_b1: Tensor, weight_b: Tensor) -> Tensor:
    """Sums over the records of this process's batch, (2,) float32: weighted errors, and weights."""
    return torch.stack([(weight_b.float() * error_b1[:, 0]).sum(), weight_b.float().sum()])


def _at_points(output: Mapping[str, Any], target_b1hw: Tensor, valid_b1hw: Tensor | None) -> tuple[Tensor, Tensor]:
    """The target, and the weight of each point, as maps of one row; together they count as much as all pixels."""
    valid = torch.ones_like(target_b1hw) if valid_b1hw is None else valid_b1hw.float()
    both_b2hw, places_b1n2 = torch.cat([target_b1hw.float(), valid], dim=1), output["places_bn2"][:, None]
    both_b21n = functional.grid_sample(both_b2hw, places_b1n2, padding_mode="border", align_corners=False)
    pixels = target_b1hw[0].numel() / places_b1n2.shape[2]
    return both_b21n[:, :1], pixels * both_b21n[:, 1:]


def _mask_sums(
    logits_b1hw: Tensor, target_b1hw: Tensor, weight_b: Tensor, config: LossConfig, valid_b1hw: Tensor | None
) -> Tensor:
    """Sums over the pixels of this process's batch, (8,) float32, in the order in which `_mask_loss` unpacks them."""
    logits, target = logits_b1hw.float(), target_b1hw.float()
    weight = _pixel_weights(logits, weight_b, valid_b1hw)
    size = weight.sum()
    bce = focus = overlap = predicted = true = hinge = hinge_weight = torch.zeros_like(size)
    if config.bce:
        bce = (weight * cross_entropy(logits, target, config.pos_weight, config.label_smoothing)).sum()
    if config.focal:
        focus = (weight * focal(logits, target, config.focal.gamma)).sum()
    if config.dice or config.symmetric_dice or config.tversky:
        prob = logits.sigmoid()
        overlap, predicted, true = (weight * prob * target).sum(), (weight * prob).sum(), (weight * target).sum()
    if config.lovasz:
        hinge_weight = (size > 0).float()  # a process without a valid pixel is not in the mean
        hinge = lovasz_hinge(logits, target, weight)
    return torch.stack([size, bce, focus, overlap, predicted, true, hinge, hinge_weight])


def _annotator_sums(
    maps_bnhw: Tensor,
    target_bnhw: Tensor,
    annotators_b: Tensor,
    weight_b: Tensor,
    config: LossConfig,
    valid_b1hw: Tensor | None,
) -> Tensor:
    """The sums of all maps, each with what it learns, as if a record were several whose weights add up to its own."""
    chosen_bnhw, share_bn = match_annotators(maps_bnhw, target_bnhw, annotators_b, valid_b1hw)
    valid = None if valid_b1hw is None else valid_b1hw.expand_as(maps_bnhw).flatten(0, 1)[:, None]
    maps, target = maps_bnhw.flatten(0, 1)[:, None], chosen_bnhw.flatten(0, 1)[:, None]
    return _mask_sums(maps, target, (weight_b[:, None] * share_bn).flatten(), config, valid)


def _mask_loss(sums: Tensor, config: LossConfig, step_weight: Tensor | None) -> Tensor:
    """The weighted sum of terms from (8,) sums over all processes; a term of weight 0 is left out.

    If this is a micro-batch, `step_weight` is the weight of all pixels of the step.

    Dice is global, (2 Σpt + s) / (Σp + Σt + s), like the score itself. The mean of the samples' Dice is not, as most
    samples have no contrail. With nothing to find, 1 − Dice is Σp / (Σp + s): it falls with every false probability
    and, with s of one pixel, no gradient exceeds 1 (with a tiny s it would explode as Σp goes to 0). A micro-batch adds
    its share of each s, which is a setting: where that outweighs the sums, its losses then add up to that of the batch.
    Tversky, (Σpt + s/2) / (Σpt + miss Σ(1−p)t + (1 − miss) Σp(1−t) + s/2), is Dice if a miss costs 1/2;
    https://arxiv.org/abs/1706.05721.
    """
    size, bce, focus, overlap, predicted, true, hinge, hinge_weight = sums.unbind()
    whole = size if step_weight is None else step_weight
    share, loss = _mean(size, whole), sums.new_zeros(())
    if config.bce:
        loss = loss + config.bce * _mean(bce, whole)
    if config.focal:
        loss = loss + config.focal.weight * _mean(focus, whole)
    if config.dice:
        above, below = 2 * overlap + share * config.dice_numerator, predicted + true + share * config.dice_denominator
        dice = above / below.clamp_min(1e-12)
        loss = loss + config.dice * share * (1 - dice)
    if config.symmetric_dice:
        dice = (2 * overlap + SMOOTH) / (predicted + true + SMOOTH)
        clear = (2 * (size - predicted - true + overlap) + SMOOTH) / (2 * size - predicted - true + SMOOTH)
        loss = loss + config.symmetric_dice * share * (1 - (dice + clear) / 2)
    if config.tversky:
        missed, false = true - overlap, predicted - overlap
        wrong = config.tversky.miss * missed + (1 - config.tversky.miss) * false
        loss = loss + config.tversky.weight * share * wrong / (overlap + wrong + SMOOTH / 2)
    if config.lovasz:
        loss = loss + config.lovasz * share * hinge / hinge_weight.clamp_min(1)
    return loss


def _mean(weighted: Tensor, weight: Tensor) -> Tensor:
    return weighted / weight.clamp_min(1e-12)
