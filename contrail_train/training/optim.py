"""Which parameters are trained, and how fast: freezing, AdamW, the learning rate over time."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from contrail_train.config.schema import OptimConfig, RunConfig
from contrail_train.models.segmenter import Segmenter
from contrail_train.runs.distributed import SyncedBatchNorm


def batch_norms(model: nn.Module) -> Iterator[nn.Module]:
    """Iterate over the batch norms of a model.

    Args:
        model: Any model.

    Yields:
        Its batch norms, synchronised ones included.
    """
    yield from (module for module in model.modules() if isinstance(module, _BatchNorm | SyncedBatchNorm))


def freeze(model: Segmenter, config: RunConfig) -> None:
    """Exclude what `model.freeze` names from the gradient.

    Args:
        model: Changed in place.
        config: Settings of the run.
    """
    if "encoder" in config.model.freeze:
        model.encoder.requires_grad_(False)
    if "batch_norm" in config.model.freeze:
        for norm in batch_norms(model):
            norm.requires_grad_(False)


def train_mode(model: Segmenter, config: RunConfig) -> None:
    """Put a model into training mode, except for what is frozen: its statistics stay, and it drops nothing.

    Args:
        model: Changed in place.
        config: Settings of the run.
    """
    model.train()
    if "encoder" in config.model.freeze:
        model.encoder.eval()
    if "batch_norm" in config.model.freeze:
        for norm in batch_norms(model):
            norm.eval()


def make_optimiser(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Build AdamW over the parameters that have a gradient; norms and biases have no weight decay.

    Args:
        model: Its parts `encoder`, `mixers` and `decoder` may have learning rates of their own.
        config: Learning rates and weight decay.

    Returns:
        The optimiser; the `peak_lr` of a parameter group is its learning rate after warm-up.
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
    """Set the learning rates of a step: linear warm-up to each group's peak, then a cosine to 0.

    Args:
        optimiser: Built by `make_optimiser`; changed in place.
        config: Length of the warm-up.
        step: Steps taken so far.
        total_steps: Steps of the run.
    """
    warmup = max(1, round(config.warmup * total_steps))
    if step < warmup:
        factor = (step + 1) / warmup
    else:
        factor = 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total_steps - warmup)))
    for group in optimiser.param_groups:
        group["lr"] = group["peak_lr"] * factor
