"""Frames that windows share, so that an encoder sees each of them once.

Windows around neighbouring frames of a sample, as they are labelled and predicted, have most of their frames in common.
"""

import torch
from torch import Tensor


def distinct_frames(x_nchw: Tensor) -> tuple[Tensor, Tensor]:
    """Find equal frames.

    Args:
        x_nchw: Frames.

    Returns:
        Indices of the first frame of each kind, and for each frame the index among these, both int64.
    """
    sums = x_nchw.flatten(1).sum(1, dtype=torch.float64).tolist()  # equal frames have equal sums
    by_sum: dict[float, list[int]] = {}
    first: list[int] = []
    kind = []
    for index, key in enumerate(sums):
        candidates = by_sum.setdefault(key, [])
        same = next((k for k in candidates if torch.equal(x_nchw[first[k]], x_nchw[index])), None)
        if same is None:
            same = len(first)
            first.append(index)
            candidates.append(same)
        kind.append(same)
    return torch.tensor(first, device=x_nchw.device), torch.tensor(kind, device=x_nchw.device)
