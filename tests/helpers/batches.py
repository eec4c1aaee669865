"""Read batches of training data on the CPU."""

from __future__ import annotations

import numpy as np
import torch

from contrail_train.data.loader import load

CPU = torch.device("cpu")


def collect(items, rows) -> list[tuple[np.ndarray, np.ndarray, float]]:
    return [
        (b.image_btchw[i].numpy().copy(), b.target_bkhw[i, 0].numpy().copy(), float(b.weight_b[i]))
        for b in load(items, rows, CPU, threads=2, prefetch=2)
        for i in range(len(b.weight_b))
    ]
