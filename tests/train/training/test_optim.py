"""Learning rates of the parts of a model."""

from __future__ import annotations

import pytest

from helpers.models import model_config


def test_each_part_learns_at_its_own_rate() -> None:
    import torch

    from contrail_train.config.schema import OptimConfig
    from contrail_train.models.segmenter import build
    from contrail_train.training.setup import make_optimiser, set_learning_rate

    model = build(model_config(channels=[16, 16, 8, 8, 8], mixer="conv3d"), 3, [-1, 0, 1])
    config = OptimConfig(lr=1e-3, encoder_lr=2e-4, mixer_lr=5e-4, warmup=0.1)
    optimiser = make_optimiser(model, config)
    set_learning_rate(optimiser, config, 55, 100)  # half way down the cosine
    rate = {id(p): group["lr"] for group in optimiser.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        part = name.split(".")[0]
        peak = {"encoder": 2e-4, "mixers": 5e-4}.get(part, 1e-3)
        assert rate[id(parameter)] == pytest.approx(peak / 2)
        decays = [g["weight_decay"] > 0 for g in optimiser.param_groups if any(p is parameter for p in g["params"])]
        assert decays == [parameter.ndim > 1]
    assert isinstance(optimiser, torch.optim.AdamW)
