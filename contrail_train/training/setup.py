"""Preparation of a run: device, data, model, optimiser and weight average, with the notes that they call for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from contrail_data.errors import ContrailError
from contrail_train.config.schema import PseudoConfig, RunConfig
from contrail_train.data.loader import steps_per_epoch
from contrail_train.data.training_data import TrainingData, open_training_data
from contrail_train.inference.detector import Detector, Shift, View, single_network_detector, view_of
from contrail_train.models.encoder import check_encoder
from contrail_train.models.segmenter import Segmenter, build
from contrail_train.runs.device import choose_device
from contrail_train.runs.distributed import Ranks, join, sync_batch_norms
from contrail_train.training.optim import freeze, make_optimiser
from contrail_train.training.start import Start, start_from, weights_file

FEW_GROUPS = 10


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a run consists of; tensors apart, nothing in it changes during training."""

    config: RunConfig
    ranks: Ranks
    device: torch.device
    bf16: bool
    """Whether the forward pass is in bfloat16 autocast rather than float32."""
    data: TrainingData
    label_shift: Shift
    """(down, right) offset that augmentation removes from the labels, pixels."""
    view: View
    model: Segmenter
    parallel: nn.Module
    """The model as it is called in a step: compiled, over several processes, or as it is."""
    average: ModelEmaV3
    """Moving average of the model's weights."""
    detector: Detector
    """The averaged weights, shared, as a detector."""
    optimiser: torch.optim.Optimizer
    start: Start | None
    """Weights of an earlier run that it starts from."""

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in an epoch."""
        return steps_per_epoch(len(self.data.train), self.config.batch_size)

    @property
    def total_steps(self) -> int:
        """Optimiser steps in the run."""
        return self.config.epochs * self.steps_per_epoch

    @property
    def digests(self) -> dict[str, str]:
        """Digest by name of the stores, and of the weights that the run starts from."""
        return self.data.digests | ({str(self.config.start): self.start.digest} if self.start else {})


def set_up(config: RunConfig) -> Setup:
    """Open the data of a run and build its model, printing what they are and what is unusual about them.

    Args:
        config: Settings of the run.

    Returns:
        The run, ready for its first step.

    Raises:
        ContrailError: If device, data, encoder or the weights to start from cannot be used, or `data.pseudo` has no
            effect.
    """
    ranks, device = join(choose_device(config.device))
    check_encoder(config.model.encoder, config.model.pretrained)  # before minutes may go into opening stores
    if config.start is not None:
        weights_file(Path(config.start))
    bf16 = _uses_bf16(config, device)
    ranks.say(f"device {device}, {'bf16 autocast' if bf16 else 'float32'}, {torch.get_num_threads()} CPU threads")
    data = open_training_data(config.data)
    if not data.pseudo_labelled and config.data.pseudo != PseudoConfig():
        raise ContrailError("data.pseudo: has no effect, as data.train names no pseudo-labels; omit these settings")
    for line in _data_notes(config, data):
        ranks.say(line)
    label_shift = data.label_shift if config.augment.label_shift is None else config.augment.label_shift

    torch.manual_seed(config.seed)
    model = build(config.model, len(data.composite["channels"]), config.data.frames)
    start = start_from(Path(config.start), model) if config.start is not None else None
    if ranks.world > 1:
        sync_batch_norms(model, device)
    model.to(device)
    if device.type == "cuda" or not has_thin_strided_pointwise(model):
        model.to(memory_format=torch.channels_last)  # half the time of a step on CPU
    freeze(model, config)
    average = ModelEmaV3(model, decay=config.optim.ema, use_warmup=True)
    optimiser = make_optimiser(model, config.optim)
    for line in _model_notes(config, data, model, start):
        ranks.say(line)
    view = view_of(config, data.statistics, device)
    # the part of the labels' offset that augmentation does not remove is learnt: masks lie off the image by it
    mask_shift = data.label_shift[0] - label_shift[0], data.label_shift[1] - label_shift[1]
    return Setup(
        config=config,
        ranks=ranks,
        device=device,
        bf16=bf16,
        data=data,
        label_shift=label_shift,
        view=view,
        model=model,
        parallel=_parallel(model, config, ranks, device),
        average=average,
        detector=single_network_detector(
            average.module, view, config.model.head, top_k=config.top_k, mask_shift=mask_shift
        ),
        optimiser=optimiser,
        start=start,
    )


def _uses_bf16(config: RunConfig, device: torch.device) -> bool:
    if config.precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return config.precision == "bf16"


def _parallel(model: Segmenter, config: RunConfig, ranks: Ranks, device: torch.device) -> nn.Module:
    """The model as it is called in a step."""
    parallel: nn.Module = model
    if config.compile:
        parallel = torch.compile(model, dynamic=False)  # type: ignore[assignment]
    if ranks.world > 1:
        parallel = DistributedDataParallel(parallel, [device.index] if device.type == "cuda" else None)
    return parallel


def _data_notes(config: RunConfig, data: TrainingData) -> list[str]:
    """What is trained on and held out, and what is unusual about it."""
    notes = []
    if data.without_neighbours:
        notes.append(
            f"{data.without_neighbours} labelled frames left out: their samples lack some of the frames "
            f"{config.data.frames} around them"
        )
    if data.leaking:
        notes.append(f"{data.leaking} frames left out: their records leak into held-out ones")
    groups, count = len(set(data.holdout.group)), len(data.train)
    pseudo = f", {data.pseudo_labelled} of them pseudo-labelled" if data.pseudo_labelled else ""
    steps = steps_per_epoch(count, config.batch_size)
    notes.append(
        f"{count} frames to train on{pseudo}; {len(data.holdout)} held out in {groups} groups; batches of "
        f"{min(config.batch_size, count)}: {config.epochs} epochs x {steps} steps = {config.epochs * steps} steps"
    )
    if 0 < groups < FEW_GROUPS:
        notes.append(f"warning: {groups} held-out groups (site, day) are too few to compare epochs or thresholds by")
    if not data.train.positive.any():
        notes.append("warning: none of the frames to train on has a contrail: the model will learn to predict none")
    if config.batch_size > count:
        notes.append(f"note: batch_size={config.batch_size} exceeds the {count} frames: each step takes all of them")
    return notes


def _model_notes(config: RunConfig, data: TrainingData, model: Segmenter, start: Start | None) -> list[str]:
    """What the model is and starts from."""
    notes = []
    if start is not None:
        notes += start.notes
        if leaked := set(start.trained_records) & set(data.holdout.record_id.tolist()):
            notes.append(
                f"warning: {len(leaked)} held-out records were trained on in {config.start}: hold-out scores will be "
                "too high"
            )
    counts = [p.numel() for p in model.parameters()]
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    partly = "" if trained == sum(counts) else f" ({trained / 1e6:.2f} M of them trained)"
    label_shift = data.label_shift if config.augment.label_shift is None else config.augment.label_shift
    mixer, decoder = config.model.mixer, config.model.decoder
    description = ", ".join(
        [config.model.encoder]
        + ([f"{len(config.data.frames)} frames mixed by {mixer.kind}"] if mixer else [])
        + ([decoder.kind] if decoder else [])
        + (["record classifier"] if config.model.record_head else [])
    )
    notes.append(f"{description}, {sum(counts) / 1e6:.2f} M parameters{partly}, label shift {label_shift} px")
    if config.compile:
        notes.append("compiling: the first step takes a minute or more")
    return notes


def has_thin_strided_pointwise(model: nn.Module) -> bool:
    """Say whether a strided 1×1 convolution has fewer than 16 input channels, as in RepVGG's stem.

    On the CPU, torch 2.15's backward pass of those in channels-last layout writes past its buffers and crashes.

    Args:
        model: Any model.

    Returns:
        True if it has such a convolution.
    """
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    return any(c.kernel_size == (1, 1) and c.stride != (1, 1) and c.in_channels // c.groups < 16 for c in convolutions)
