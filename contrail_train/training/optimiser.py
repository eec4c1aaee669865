"""The optimiser of a run, the course of its learning rates, and the moving average of the weights."""

import inspect
import math

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import nn

from contrail_train.config.training import OptimConfig

ONE_CYCLE_MOMENTUM = 0.95, 0.85  # at the lowest and at the largest learning rate


class EagerAdamW(torch.optim.AdamW):
    """AdamW without what torch wraps around its methods for compiled code.

    The wrappers import the compiler at their first call, which takes a second (benchmarks/first_step.py).
    """

    add_param_group = inspect.unwrap(torch.optim.AdamW.add_param_group)
    load_state_dict = inspect.unwrap(torch.optim.AdamW.load_state_dict)
    state_dict = inspect.unwrap(torch.optim.AdamW.state_dict)
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))
    zero_grad = inspect.unwrap(torch.optim.AdamW.zero_grad)


def weight_average(model: nn.Module, config: OptimConfig) -> ModelEmaV3:
    """Begin the moving average of a model's weights.

    Args:
        model: The model.
        config: Decay of the average.

    Returns:
        The average; its decay rises with the number of steps, as the setting `optim.ema` describes.
    """
    return ModelEmaV3(model, decay=config.ema, use_warmup=True)


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
    return EagerAdamW(
        [{"params": p, "lr": lr, "peak_lr": lr, "weight_decay": decay} for (lr, decay), p in groups.items()]
    )


def set_learning_rate(optimiser: torch.optim.Optimizer, config: OptimConfig, step: int, total_steps: int) -> None:
    """Set the learning rates of a step and, with `schedule: onecycle`, the first momentum of AdamW.

    Args:
        optimiser: Built by `make_optimiser`; changed in place.
        config: The schedule.
        step: Steps taken so far.
        total_steps: Steps of the run.
    """
    if config.schedule == "onecycle":
        factor, momentum = _one_cycle(config, step, total_steps)
        for group in optimiser.param_groups:
            group["betas"] = momentum, group["betas"][1]
    else:
        factor = _warmup_and_cosine(config, step, total_steps)
    for group in optimiser.param_groups:
        group["lr"] = group["peak_lr"] * factor


def _warmup_and_cosine(config: OptimConfig, step: int, total_steps: int) -> float:
    """Learning rate relative to its peak."""
    warmup = max(1, round(config.warmup * total_steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total_steps - warmup)))


def _one_cycle(config: OptimConfig, step: int, total_steps: int) -> tuple[float, float]:
    """Learning rate relative to its peak, and momentum, as a function of the step; see torch's OneCycleLR."""
    peak, first, (slack, tight) = config.warmup * total_steps - 1, 1 / config.start_divisor, ONE_CYCLE_MOMENTUM
    if step <= peak:
        share = step / max(peak, 1e-9)
        return _cosine(first, 1, share), _cosine(slack, tight, share)
    share = (step - peak) / max(total_steps - 1 - peak, 1e-9)
    return _cosine(1, first / config.final_divisor, share), _cosine(tight, slack, share)


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))
