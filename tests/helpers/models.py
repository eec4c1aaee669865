"""Settings of small models, and a check of gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import torch

from contrail_train.config.model import DecoderConfig, MixerConfig, ModelConfig

NARROW = [32, 16, 16, 16, 16]
WIDE = [64, 32, 16, 16, 16]  # fpn normalises groups of 32
DECODERS = get_args(DecoderConfig.model_fields["kind"].annotation)
DECODER_KEYS = set(DecoderConfig.model_fields) - {"kind", "channels"}


def model_config(
    encoder: str = "test_resnet",
    *,
    channels: Sequence[int] = NARROW,
    decoder: str = "unet",
    head: str = "mask",
    mixer: str | None = None,
    levels: Sequence[int] | None = None,
    blocks: int | None = None,
    downscale: int = 1,
    neighbours: str = "whole",
    **settings: Any,
) -> ModelConfig:
    """Return the settings of a model; `channels` is cut to the number of blocks that the decoder has."""
    decoder_settings = {key: settings.pop(key) for key in DECODER_KEYS & settings.keys()}
    halvings = 4 if settings.get("stem_stride") == 1 else 5
    used = channels[:halvings] if decoder in ("unet", "unetplusplus", "manet") else channels[:1]
    mixing = {"levels": levels, "downscale": downscale, "neighbours": neighbours} | (
        {} if blocks is None else {"blocks": blocks}
    )
    return ModelConfig(
        encoder=encoder,
        decoder=None if head == "record" else DecoderConfig(kind=decoder, channels=list(used), **decoder_settings),
        record_head=None if head == "mask" else {},
        mixer=None if mixer is None else MixerConfig(kind=mixer, **mixing),
        **settings,
    )


def without_gradient(model: torch.nn.Module) -> list[str]:
    """Return the parameters without a gradient, which would stop a distributed run."""
    return [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]
