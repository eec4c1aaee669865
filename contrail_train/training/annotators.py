"""Which of a model's maps learns the mask of which annotator.

Annotators are not the same people in each record, so their order means nothing: as in the prediction of sets
(https://arxiv.org/abs/2005.12872), each record's annotators are matched to different maps so that they fit best.
"""

import numpy as np
import scipy  # which imports its submodules at their first use
import torch
from torch import Tensor
from torch.nn import functional


@torch.no_grad()
def match_annotators(
    maps_bnhw: Tensor, target_bnhw: Tensor, annotators_b: Tensor, valid_b1hw: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Match the annotators of each record to maps, with the least sum of cross-entropies.

    Args:
        maps_bnhw: Logits of n maps.
        target_bnhw: Masks of the annotators, as probabilities, followed by copies of the majority mask.
        annotators_b: Number of annotators of each record, at most n; 0 if all its masks are alike.
        valid_b1hw: Validity of each pixel; None: all are valid.

    Returns:
        (b, n, h, w) what each map learns, and (b, n) float32 the share of each map in the record, 0 for maps that learn
        nothing from it.
    """
    maps = len(maps_bnhw[0])
    logits, target = maps_bnhw.float(), target_bnhw.float()
    valid = torch.ones_like(logits[:, :1]) if valid_b1hw is None else valid_b1hw.float()
    # cross-entropy is log(1 + exp(x)) - x t
    agreement_bna = torch.einsum("bnhw,bahw->bna", valid * logits, target)
    costs_bna = (valid * functional.softplus(logits)).sum((2, 3))[:, :, None] - agreement_bna
    order_bn, share_bn = np.zeros((len(logits), maps), np.int64), np.zeros((len(logits), maps), np.float32)
    counts = [count or maps for count in annotators_b.tolist()]
    for cost_na, count, order_n, share_n in zip(costs_bna.cpu().numpy(), counts, order_bn, share_bn, strict=True):
        chosen, annotators = scipy.optimize.linear_sum_assignment(np.nan_to_num(cost_na[:, :count]))
        order_n[chosen], share_n[chosen] = annotators, 1 / count
    order = torch.from_numpy(order_bn).to(target.device)[:, :, None, None].expand_as(target)
    return target.gather(1, order), torch.from_numpy(share_bn).to(target.device)
