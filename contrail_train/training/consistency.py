"""The mean teacher: on unlabelled frames a model learns to agree with the average of its own weights.

Tarvainen and Valpola 2017, "Mean teachers are better role models". Both see a frame moved alike, so that their masks
lie on each other, but with other changes of its values.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from contrail_train.config.training import ConsistencyConfig
from contrail_train.models.heads import logit_of_mean
from contrail_train.runs.distributed import sum_over_processes
from contrail_train.training.losses import cross_entropy


def consistency_weight(config: ConsistencyConfig, step: int, total_steps: int) -> float:
    """Return the weight of a step, which rises as exp(-5 (1 - t)²) at the start of a run.

    Args:
        config: The weight, and the share of the steps in which it rises.
        step: Steps taken so far.
        total_steps: Steps of the run.

    Returns:
        The weight.
    """
    left = max(1 - step / (config.rise * total_steps), 0) if config.rise else 0.0
    return config.weight * math.exp(-5 * left**2)


def consistency_loss(
    student: Mapping[str, Any],
    teacher: Mapping[str, Tensor],
    weight_b: Tensor,
    valid_b1hw: Tensor | None,
    config: ConsistencyConfig,
    step_weights: Tensor,
) -> Tensor:
    """Return how far a model is from its teacher, in masks and records; the processes wait for one another once.

    Args:
        student: What the model returns in training.
        teacher: What the average of its weights returns for prediction.
        weight_b: Weight of each sample, at least 0.
        valid_b1hw: Validity of each pixel; None: all are valid.
        config: What is compared.
        step_weights: `weights_of` the unlabelled frames of the step.

    Returns:
        A float32 scalar: the means over the pixels and over the records of the step, as far as this micro-batch has a
        share in them, added up.
    """
    names = "logits_b1hw", "second_b1hw", "annotators_bnhw"
    maps = [part for name in names if name in student for part in student[name].split(1, dim=1)]
    sums = torch.zeros_like(step_weights)
    if maps:
        error_b1hw = _error(logit_of_mean(maps), teacher["logits_b1hw"], config)
        valid = 1.0 if valid_b1hw is None else valid_b1hw.float()
        sums[0] = (weight_b[:, None, None, None] * valid * error_b1hw).sum()
    if "record_logit_b1" in student:
        error_b1 = _error(student["record_logit_b1"].float(), teacher["record_logit_b1"], config)
        sums[1] = (weight_b[:, None] * error_b1).sum()
    return (sum_over_processes(sums) / step_weights.clamp_min(1e-12)).sum()


def _error(logits: Tensor, teacher: Tensor, config: ConsistencyConfig) -> Tensor:
    probability = teacher.float().sigmoid()
    if config.kind == "mse":
        return (logits.sigmoid() - probability).square()
    return cross_entropy(logits, probability)
