"""What is trained, how fast: parameters by part, frozen ones, the learning rate over time."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from contrail_train.config.schema import OptimConfig, RunConfig
from contrail_train.models.segmenter import Segmenter
from contrail_train.runs.distributed import SyncedBatchNorm

BATCH_NORMS = (_BatchNorm, SyncedBatchNorm)


def freeze(model: Segmenter, config: RunConfig) -> None:
    """Take what `model.freeze` names out of the gradient."""
    if "encoder" in config.model.freeze:
        model.encoder.requires_grad_(False)
    if "batch_norm" in config.model.freeze:
        for module in model.modules():
            if isinstance(module, BATCH_NORMS):
                module.requires_grad_(False)


def train_mode(model: Segmenter, config: RunConfig) -> None:
    """`model.train()`, but for what is frozen: its statistics stay and nothing of it is dropped."""
    model.train()
    if "encoder" in config.model.freeze:
        model.encoder.eval()
    if "batch_norm" in config.model.freeze:
        for module in model.modules():
            if isinstance(module, BATCH_NORMS):
                module.train(False)


def make_optimiser(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over the parameters that have a gradient; norms and biases without weight decay; each group's `peak_lr` is
    that of its part.
    """
    by_part = {"encoder": config.encoder_lr, "mixers": config.mixer_lr, "decoder": config.decoder_lr}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            lr = by_part.get(name.split(".", 1)[0]) or config.lr
            decay = config.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((lr, decay), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": p, "lr": lr, "peak_lr": lr, "weight_decay": decay} for (lr, decay), p in groups.items()]
    )


def set_learning_rate(optimiser: torch.optim.Optimizer, config: OptimConfig, step: int, total_steps: int) -> None:
    """Linear warm-up to each part's peak, then a cosine to 0."""
    warmup = max(1, round(config.warmup * total_steps))
    if step < warmup:
        factor = (step + 1) / warmup
    else:
        factor = 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total_steps - warmup)))
    for group in optimiser.param_groups:
        group["lr"] = group["peak_lr"] * factor
