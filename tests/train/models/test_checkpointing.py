"""Activation checkpointing: the same weights and statistics with less memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.distributed._tools.mem_tracker import MemTracker

from contrail_data.errors import ContrailError
from contrail_train.models.segmenter import Segmenter, build
from contrail_train.training.step import statistics_kept
from helpers.models import model_config


def take_step(checkpoint: bool, encoder: str, **settings: Any) -> tuple[Segmenter, int]:
    """Take a step on random images; return the model, and the peak memory of activations in bytes."""
    torch.manual_seed(0)
    config = model_config(encoder, checkpoint_activations=checkpoint, channels=[16, 16, 8, 8, 8], **settings)
    model, images = build(config, 3, (-2, -1, 0)), torch.randn(4, 3, 3, 32, 32)
    with MemTracker() as tracker:
        loss = model(images)["logits_b1hw"].square().mean()
        with statistics_kept(model):
            loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    (peak,) = tracker.get_tracker_snapshot("peak").values()
    return model, sum(size for kind, size in peak.items() if getattr(kind, "value", "") in ("Activation", "Temp"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder", "settings", "most"),
    [
        ("convnext_atto", {"mixer": "conv3d", "blocks": 1, "drop_path": 0.3}, 0.6),  # timm's blocks
        ("test_resnet", {"mixer": "valid3d", "centre": "fpa"}, 0.9),  # its stages
    ],
)
def test_recomputed_activations_need_less_memory_and_change_no_weight(
    encoder: str, settings: dict[str, Any], most: float
) -> None:
    plain, plain_bytes = take_step(False, encoder, **settings)
    checkpointed, checkpointed_bytes = take_step(True, encoder, **settings)
    for (key, expected), tensor in zip(plain.state_dict().items(), checkpointed.state_dict().values(), strict=True):
        assert torch.equal(tensor, expected), key
    assert checkpointed_bytes < most * plain_bytes


def test_an_encoder_without_checkpointing_is_refused() -> None:
    with pytest.raises(ContrailError, match="timm does not offer it for hrnet_w18_small"):
        build(model_config("hrnet_w18_small", checkpoint_activations=True), 3)
