"""One optimiser step: augment → forward → loss → backward over micro-batches → clip → optimiser → average."""

from __future__ import annotations

import contextlib

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from contrail_data.errors import ContrailError
from contrail_train.data.augment import augment_batch
from contrail_train.data.draw import Draw, draw
from contrail_train.data.loader import Batch, share_of
from contrail_train.inference.detector import normalise
from contrail_train.runs.checkpoint import TrainingState
from contrail_train.training.losses import total_loss
from contrail_train.training.setup import Setup, set_learning_rate


def train_step(setup: Setup, state: TrainingState, batch: Batch, rows: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Take one optimiser step and count it in the state.

    Everything random in it is a function of seed, step and rank. If memory runs out, the micro-batch of the state is
    halved and the step is repeated.

    Args:
        setup: The run.
        state: Step and micro-batch; both are updated.
        batch: This process's share of the step.
        rows: Rows of the training data in the step, over all processes.

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
            loss = _gradients(setup, state, batch, rows)
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
            )
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise ContrailError(
                f"batch_size={config.batch_size}: a part of step {step} is one sample, which this model's batch norms "
                "cannot take; set another batch_size or micro_batch, and another --out"
            ) from None
    norm = nn.utils.clip_grad_norm_(setup.model.parameters(), config.optim.clip)
    setup.optimiser.step()
    state.step += 1
    setup.average.update(setup.model, step=state.step)
    return loss, norm


def _gradients(setup: Setup, state: TrainingState, batch: Batch, rows: npt.NDArray[np.int64]) -> Tensor:
    """Leave the gradient of a whole step on the parameters; return its loss, still on the device."""
    config, ranks, size = setup.config, setup.ranks, state.micro_batch
    setup.optimiser.zero_grad(set_to_none=True)
    own = share_of(len(rows), ranks.rank, ranks.world)
    batch.weight_b[len(range(ranks.rank, len(rows), ranks.world)) :] = 0  # padding to equal shares
    height, width = batch.target_b1hw.shape[-2:]
    drawn = draw(config.augment, len(rows), height, width, seed=config.seed, step=state.step)[own]
    weight, losses = setup.data.train.weight[rows], []
    for start in range(0, len(own), size):
        part, part_of_all = slice(start, start + size), slice(start * ranks.world, (start + size) * ranks.world)
        share = float(weight[part_of_all].sum() / max(weight.sum(), 1e-12))
        accumulates = isinstance(setup.parallel, DistributedDataParallel) and start + size < len(own)
        with setup.parallel.no_sync() if accumulates else contextlib.nullcontext():  # type: ignore[operator]
            losses.append(_backward(setup, batch[part], drawn[part], share))
    return torch.stack(losses).sum()


def _backward(setup: Setup, batch: Batch, drawn: Draw, share: float) -> Tensor:
    """Add `share` of a micro-batch's gradient to that of the parameters; return as much of its loss."""
    config = setup.config
    x_btchw, target_b1hw = normalise(batch.image_btchw, setup.view), batch.target_b1hw.float() / 255
    valid_b1hw = None if batch.valid_b1hw is None else batch.valid_b1hw.float()
    given = Batch(x_btchw, target_b1hw, batch.positive_b1, batch.weight_b, valid_b1hw)
    moved = augment_batch(given, drawn, config.augment, setup.label_shift, setup.view.size)
    with torch.autocast(setup.device.type, torch.bfloat16, enabled=setup.bf16):
        output = setup.parallel(moved.image_btchw, moved.target_b1hw.shape[-2:])
    targets = moved.target_b1hw, moved.positive_b1, batch.weight_b
    loss = share * total_loss(output, *targets, config.loss, moved.valid_b1hw)
    loss.backward()
    return loss.detach()
