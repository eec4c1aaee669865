"""Narrow decoders, and a check of gradients."""

from __future__ import annotations

from typing import get_args

import torch

from contrail_train.config.schema import ModelConfig

NARROW = [32, 16, 16, 16, 16]
WIDE = [64, 32, 16, 16, 16]  # fpn normalises groups of 32
DECODERS = get_args(ModelConfig.model_fields["decoder"].annotation)


def without_gradient(model: torch.nn.Module) -> list[str]:
    """Parameters that would stop a distributed run."""
    return [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]
