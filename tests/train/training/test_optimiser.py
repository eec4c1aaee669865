"""Learning rates of the parts of a model, their schedules, and the average of the weights."""

from __future__ import annotations

import pytest

from helpers.models import model_config


def test_each_part_learns_at_its_own_rate() -> None:
    import torch

    from contrail_train.config.training import OptimConfig
    from contrail_train.models.segmenter import build
    from contrail_train.training.optimiser import make_optimiser, set_learning_rate

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


def test_frozen_batch_norms_leave_a_new_mixer_able_to_learn() -> None:
    import torch

    from contrail_train.config.schema import RunConfig
    from contrail_train.models.segmenter import build
    from contrail_train.training.freezing import frozen_modules

    model = build(model_config(channels=[16, 16, 8, 8, 8], mixer="conv3d"), 3, [-1, 0, 1])
    for module in frozen_modules(model, RunConfig(model={"freeze": ["batch_norm"]})):
        module.requires_grad_(False)
    model(torch.randn(2, 3, 3, 32, 32))["logits_b1hw"].sum().backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in model.mixers.parameters())
    assert all(not p.requires_grad for name, p in model.encoder.named_parameters() if ".bn" in name)


FROZEN = {
    "encoder": ("encoder.", ""),
    "mixer": ("mixers.", ""),
    "decoder": ("decoder.", ""),
    "encoder_batch_norm": ("encoder.", "norm"),
    "mixer_batch_norm": ("mixers.", "norm"),
    "decoder_batch_norm": ("decoder.", "norm"),
}
"""Beginning of the names of the tensors that a frozen part keeps, and whether only those of its norms."""


@pytest.mark.parametrize("part", FROZEN)
def test_a_frozen_part_keeps_its_tensors_and_all_others_are_trained(part: str) -> None:
    import torch

    from contrail_train.config.schema import RunConfig
    from contrail_train.models.layers import batch_norms
    from contrail_train.models.segmenter import build
    from contrail_train.training.freezing import frozen_modules, train_mode

    model = build(model_config(channels=[16, 16, 8, 8, 8], mixer="conv3d", blocks=1), 3, [-1, 0, 1])
    for norm in batch_norms(model):
        torch.nn.init.ones_(norm.weight)  # type: ignore[arg-type] # where it is zero, blocks have no gradient
    settings = {"mixer": {}, "freeze": [part]}
    config = RunConfig(model=settings, data={"frames": [-1, 0, 1]}, start="runs/a")
    for module in frozen_modules(model, config):
        module.requires_grad_(False)
    train_mode(model, config)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    model(torch.randn(2, 3, 3, 64, 64))["logits_b1hw"].square().sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.sub_(parameter.grad.sign())
    kept = {key for key, tensor in model.state_dict().items() if tensor.equal(before[key])}
    beginning, only_norms = FROZEN[part]
    norms = {id(tensor) for norm in batch_norms(model) for tensor in norm.state_dict(keep_vars=True).values()}
    tensors = model.state_dict(keep_vars=True)
    frozen = {key for key in tensors if key.startswith(beginning) and (not only_norms or id(tensors[key]) in norms)}
    assert frozen
    assert kept == frozen


@pytest.mark.parametrize(("warmup", "total_steps"), [(0.3, 50), (0.0, 10), (0.9, 20), (0.3, 3)])
def test_onecycle_is_that_of_torch(warmup: float, total_steps: int) -> None:
    import torch
    from torch.optim.lr_scheduler import OneCycleLR

    from contrail_train.config.training import OptimConfig
    from contrail_train.training.optimiser import set_learning_rate

    config = OptimConfig(schedule="onecycle", warmup=warmup, start_divisor=10.0, final_divisor=100.0)
    peaks = 1e-3, 2e-4
    ours, theirs = (torch.optim.AdamW([{"params": torch.zeros(1), "lr": lr} for lr in peaks]) for _ in range(2))
    for group in ours.param_groups:
        group["peak_lr"] = group["lr"]
    scheduler = OneCycleLR(
        theirs, list(peaks), total_steps, pct_start=warmup, div_factor=10, final_div_factor=100, anneal_strategy="cos"
    )
    for step in range(total_steps):
        set_learning_rate(ours, config, step, total_steps)
        for a, b in zip(ours.param_groups, theirs.param_groups, strict=True):
            assert a["lr"] == pytest.approx(b["lr"], rel=1e-9)
            assert a["betas"] == pytest.approx(b["betas"])
        theirs.step()
        scheduler.step()


def test_a_long_average_forgets_the_initial_weights_of_a_short_run() -> None:
    """With a constant decay of 0.9999, 99 % of the average after 100 steps would be the initial weights."""
    import torch

    from contrail_train.config.training import OptimConfig
    from contrail_train.training.optimiser import weight_average

    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 1000.0)
    average = weight_average(model, OptimConfig(ema=0.9999))
    for step in range(1, 101):
        torch.nn.init.constant_(model.weight, step / 100)
        average.update(model, step=step)
    assert 0.7 < average.module.weight.item() < 0.9  # a mean over the last fifth or so


def test_the_optimiser_takes_the_steps_of_adamw() -> None:
    import torch

    from contrail_train.training.optimiser import EagerAdamW

    weights, states = [], []
    for kind in (EagerAdamW, torch.optim.AdamW):
        torch.manual_seed(0)
        layer = torch.nn.Linear(5, 3)
        optimiser = kind([{"params": [layer.weight], "weight_decay": 0.1}, {"params": [layer.bias]}], lr=0.01)
        for _ in range(4):
            optimiser.zero_grad(set_to_none=True)
            layer(torch.randn(7, 5)).square().sum().backward()
            optimiser.step()
        optimiser.load_state_dict(state := optimiser.state_dict())
        weights.append(layer.weight)
        states.append([each["exp_avg_sq"] for each in state["state"].values()])
    assert torch.equal(*weights)
    assert all(torch.equal(own, theirs) for own, theirs in zip(*states, strict=True))
