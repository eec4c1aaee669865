"""One optimiser step: augment → forward → loss → backward over micro-batches → clip → optimiser → average."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import record_function

from contrail_data.errors import ContrailError
from contrail_train.data.augment import augment_flow, augment_images, augment_labels, draw_labels
from contrail_train.data.draw import Draw, draw
from contrail_train.data.loader import Batch, share_of
from contrail_train.inference.detector import prepare
from contrail_train.models.layers import batch_norms
from contrail_train.runs.checkpoint import TrainingState
from contrail_train.training.consistency import consistency_loss, consistency_weight
from contrail_train.training.losses import total_loss, weights_of
from contrail_train.training.optimiser import set_learning_rate
from contrail_train.training.setup import Setup

PARTS_OF_STEP = ("augment", "forward", "loss", "backward", "optimiser")
"""Names of the parts of a step in a trace."""


def train_step(
    setup: Setup,
    state: TrainingState,
    batch: Batch,
    rows: npt.NDArray[np.int64],
    unlabelled: Batch | None = None,
) -> tuple[Tensor, Tensor]:
    """Take one optimiser step and count it in the state.

    Everything random in it is a function of seed, step and rank. If memory runs out, the micro-batch of the state is
    halved and the step is repeated.

    Args:
        setup: The run.
        state: Step and micro-batch; both are updated.
        batch: This process's share of the step.
        rows: Rows of the training data in the step, over all processes.
        unlabelled: As many frames without labels; None if there are none.

    Returns:
        The loss of the whole step, and the norm of its gradient before clipping; scalars, still on the device.

    Raises:
        ContrailError: If not even one sample fits into memory, or a micro-batch of one sample meets a batch norm.
        ValueError: If the model raises one for another reason.
    """
    config, ranks, step = setup.config, setup.ranks, state.step
    torch.manual_seed((config.seed * 1_000_003 + step) * ranks.world + ranks.rank)  # dropout, drop-path
    set_learning_rate(setup.optimiser, config.optim, step, setup.total_steps)
    while True:
        try:
            loss = _gradients(setup, state, batch, rows, unlabelled)
            break
        except torch.OutOfMemoryError:
            samples = min(state.micro_batch, len(rows))
            if ranks.world > 1 and samples > 1:  # the other processes would have to halve theirs
                raise ContrailError("out of memory; set a lower micro_batch") from None
            if samples == 1:
                raise ContrailError("out of memory with one sample; choose a smaller model") from None
            state.micro_batch = -(-samples // 2)
            ranks.say(
                f"out of memory at step {step}: from now on {state.micro_batch} samples pass through the model at once"
                f"{_consequences(setup)}"
            )
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise ContrailError(
                f"batch_size={config.batch_size}: a part of step {step} is one sample, which this model's batch norms "
                "cannot take; set another batch_size or micro_batch, and another --out"
            ) from None
    with record_function("optimiser"):
        setup.scaler.unscale_(setup.optimiser)
        norm = nn.utils.clip_grad_norm_(setup.model.parameters(), config.optim.clip)
        setup.scaler.step(setup.optimiser)  # skipped if the gradient has overflowed
        setup.scaler.update()
        state.step += 1
        setup.average.update(setup.model, step=state.step)
    return loss, norm


def _consequences(setup: Setup) -> str:
    """What else changes with the micro-batch, for a message."""
    loss = setup.config.loss
    ratios = [name for name in ("dice", "symmetric_dice", "tversky", "lovasz") if getattr(loss, name)]
    norms = any(norm.training for norm in batch_norms(setup.model))
    changed = [f"loss.{name}" for name in ratios if setup.config.model.decoder] + ["batch norms"] * norms
    verb = "is" if len(changed) == 1 and ratios else "are"
    return f", and {', '.join(changed)} {verb} computed over these, not over the batch" if changed else ""


def _gradients(
    setup: Setup, state: TrainingState, batch: Batch, rows: npt.NDArray[np.int64], unlabelled: Batch | None
) -> Tensor:
    """Leave the gradient of a whole step on the parameters; return its loss, still on the device."""
    config, ranks, size, count = setup.config, setup.ranks, state.micro_batch, len(rows)
    setup.optimiser.zero_grad(set_to_none=True)
    own, owned = share_of(count, ranks.rank, ranks.world, config.augment.together)
    losses = []
    if unlabelled is not None:  # before the last backward pass, in which processes exchange their gradients
        losses.append(_consistency(setup, state, unlabelled, count))
    fractions = _fractions(batch, owned)
    random, crop = {"seed": config.seed, "step": state.step}, config.data.crop
    with record_function("augment"):
        drawn, labels = draw_labels(fractions, own, count, config.augment, setup.label_shift, crop=crop, **random)
    truth = labels.target_bkhw, labels.positive_b1, labels.weight_b, labels.valid_b1hw
    weights = weights_of(*truth, config.model.positives_only) if size < len(own) else None
    for start in range(0, len(own), size):
        part = slice(start, min(start + size, len(own)))
        with _alone(setup) if part.stop < len(own) else contextlib.nullcontext():
            losses.append(_backward(setup, labels, drawn, part, weights))
    return torch.stack(losses).sum()


def _alone(setup: Setup) -> contextlib.AbstractContextManager[None]:
    """Keep a gradient in this process, to be exchanged with those that are added to it."""
    if isinstance(setup.parallel, DistributedDataParallel):
        return setup.parallel.no_sync()
    return contextlib.nullcontext()


def _fractions(batch: Batch, owned: int) -> Batch:
    """A batch as augmentation takes it; samples beyond the first `owned`, padding to equal shares, have weight 0."""
    batch.weight_b[owned:] = 0
    valid_b1hw = None if batch.valid_b1hw is None else batch.valid_b1hw.float()
    return replace(batch, target_bkhw=batch.target_bkhw.float() / 255, valid_b1hw=valid_b1hw)


def _consistency(setup: Setup, state: TrainingState, batch: Batch, count: int) -> Tensor:
    """Add the gradient of unlabelled frames to that of the parameters; return their loss."""
    config, ranks, consistency, size = setup.config, setup.ranks, setup.config.loss.consistency, state.micro_batch
    assert consistency is not None
    own, owned = share_of(count, ranks.rank, ranks.world, config.augment.together)
    grid = batch.target_bkhw.shape[-2], batch.target_bkhw.shape[-1]
    random = partial(draw, config.augment, count, *grid, seed=config.seed, step=state.step, crop=config.data.crop)
    first = config.augment.redraw + 1  # those before are of the labelled frames
    drawn, other = (random(attempt=attempt)[own] for attempt in (first, first + 1))
    labels = augment_labels(_fractions(batch, owned), drawn, config.augment, setup.label_shift)
    other = replace(other.placed_as(drawn, torch.ones(len(own), dtype=torch.bool)), mixup_b=drawn.mixup_b)
    totals = weights_of(labels.target_bkhw, labels.positive_b1, labels.weight_b, labels.valid_b1hw, False)
    weight, losses = consistency_weight(consistency, state.step, setup.total_steps), []
    for start in range(0, len(own), size):
        part = slice(start, min(start + size, len(own)))
        student, teacher = (_inputs(setup, labels, each, part) for each in (drawn, other))
        with _alone(setup):
            with setup.autocast():
                with torch.no_grad():
                    answer = setup.average.module(*teacher)
                output = setup.parallel(*student)
            valid = labels[part].valid_b1hw
            loss = consistency_loss(output, answer, labels.weight_b[part], valid, consistency, totals)
            losses.append(_add_gradient(setup, weight * loss))
    return torch.stack(losses).sum()


def _inputs(setup: Setup, labels: Batch, drawn: Draw, part: slice) -> list[Any]:
    """What the model is called with for a micro-batch: augmented images, size of the masks, and any flow."""
    grid = labels.image_btchw.shape[-2], labels.image_btchw.shape[-1]
    pairs = slice(part.start - part.start % 2, part.stop + part.stop % 2)  # with those that mix with its samples
    x_btchw = prepare(labels.image_btchw[pairs], labels[pairs].flow_btdhw, setup.view)
    x_btchw = augment_images(x_btchw, drawn[pairs], setup.config.augment, grid, setup.view.size, labels=labels[pairs])
    own = slice(part.start - pairs.start, part.stop - pairs.start)
    inputs = [x_btchw[own], (labels.target_bkhw.shape[-2], labels.target_bkhw.shape[-1])]
    if labels.flow_btdhw is not None and setup.view.sees_flow:
        flow_btdhw = augment_flow(labels.flow_btdhw[pairs].float(), drawn[pairs], grid, setup.view.size)
        inputs.append(flow_btdhw[own])
    return inputs


def _backward(setup: Setup, labels: Batch, drawn: Draw, part: slice, step_weights: Tensor | None) -> Tensor:
    """Add a micro-batch's part of the gradient to that of the parameters; return its part of the loss."""
    with record_function("augment"):
        config, inputs, labels = setup.config, _inputs(setup, labels, drawn, part), labels[part]
    with record_function("forward"), setup.autocast():
        output = setup.parallel(*inputs)
    truth = labels.target_bkhw, labels.positive_b1, labels.weight_b
    with record_function("loss"):
        loss = total_loss(
            *(output, *truth, config.loss, labels.valid_b1hw, step_weights),
            positives_only=config.model.positives_only,
            annotators_b=labels.annotators_b,
        )
    return _add_gradient(setup, loss)


def _add_gradient(setup: Setup, loss: Tensor) -> Tensor:
    recomputes = setup.config.model.checkpoint_activations
    with record_function("backward"), statistics_kept(setup.model) if recomputes else contextlib.nullcontext():
        setup.scaler.scale(loss).backward()
    return loss.detach()


@contextlib.contextmanager
def statistics_kept(model: nn.Module) -> Iterator[None]:
    """Keep batch norms from counting a batch again when activations are recomputed in the backward pass.

    Args:
        model: The model.

    Yields:
        Nothing.
    """
    norms: list[Any] = [norm for norm in batch_norms(model) if norm.track_running_stats]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:  # which need both: synchronised ones count, and the others keep as many tensors as before
        norm.momentum, norm.num_batches_tracked = 0.0, norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
