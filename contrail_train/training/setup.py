"""Preparation of a run: device, data, model, weight average, freezing, optimiser and learning rate, with notes."""

import math
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from contrail_data.errors import ContrailError
from contrail_data.messages import Kind
from contrail_train.config.schema import RunConfig
from contrail_train.data.loader import ReadAhead
from contrail_train.data.training_data import TrainingData, open_training_data
from contrail_train.evaluation.score import EvaluationOptions
from contrail_train.inference.detector import Shift, single_network_detector, view_of
from contrail_train.models.encoder import check_encoder
from contrail_train.models.raft import read_raft
from contrail_train.models.segmenter import SMALLEST_SIDE, Segmenter, build
from contrail_train.models.video import VideoEncoder
from contrail_train.runs.address import local_model, recorded_address
from contrail_train.runs.checkpoint import Trained
from contrail_train.runs.distributed import choose_device, join, sync_batch_norms
from contrail_train.training.borrowed import check_sources
from contrail_train.training.freezing import check_freeze, frozen_modules, train_mode
from contrail_train.training.inputs import check_inputs
from contrail_train.training.optimiser import make_optimiser, weight_average
from contrail_train.training.precision import choose_type, describe_type, make_scaler
from contrail_train.training.start import start_from
from contrail_train.training.teacher import ask, open_teacher

FEW_GROUPS = 10


class Setup:
    """What a run consists of; during training only tensors change, and whether the encoder is frozen.

    Opens the data and builds the model, printing what they are and what is unusual about them.

    Args:
        config: Settings of the run.

    Raises:
        ContrailError: If device, data, encoder, teacher, the weights to start from or the models to take thresholds
            from cannot be used, crops do not fit the images, or `data.pseudo`, `data.second_target`,
            `model.annotator_maps` or `patience` has no effect.
    """

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        check_inputs(config)
        self.ranks, self.device = join(choose_device(config.device))
        check_encoder(config.model.encoder, config.model.pretrained)  # before minutes may go into opening stores
        start = None if config.start is None else local_model(config.start)
        if config.data.flow.method == "raft":
            read_raft(config.data.flow.weights)
        self.dtype = choose_type(config.precision, self.device)
        """Type of the forward pass: float32, or by autocast bfloat16 or float16."""
        precision = describe_type(self.dtype, self.device)
        self.ranks.say(f"device {self.device}, {precision}, {torch.get_num_threads()} CPU threads")
        self.data = data = open_training_data(config.data, annotators=config.model.annotator_maps or 0)
        _check_targets(config, data)
        _check_crop(config, data.size)
        self.teacher, self.data = open_teacher(config.data, data, self.device, self.ranks)
        """The detector that has still to be asked about the frames to train on."""
        data = self.data
        self.steps_per_epoch = math.ceil(len(data.epochs) / config.batch_size)
        self.total_steps = config.epochs * self.steps_per_epoch
        self._describe_data()
        if config.patience is not None and not data.holdout.positive.any():
            raise ContrailError(
                f"patience={config.patience}: has no effect, as no held-out record has a contrail; set patience=null"
            )
        self.label_shift: Shift = data.label_shift if config.augment.label_shift is None else config.augment.label_shift
        """(down, right) offset that augmentation removes from the labels, pixels."""
        self.model = self._build_model()
        self.start = None if start is None else start_from(start, self.model, self.ranks)
        """Weights of an earlier run that it starts from."""
        self.digests = data.digests | ({str(config.start): self.start.digest} if self.start else {})
        """Digest by name of the stores, and of these weights."""
        self._place_model()
        check_freeze(self.model, config, self.start)
        for module in frozen_modules(self.model, config):
            module.requires_grad_(False)
        self._trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.average = weight_average(self.model, config.optim)
        """Moving average of the model's weights."""
        self.optimiser = make_optimiser(self.model, config.optim)
        self.scaler = make_scaler(self.dtype, self.device)
        """Scales the loss in fp16."""
        self.trained = Trained(
            model=self.model, average=self.average.module, optimiser=self.optimiser, scaler=self.scaler
        )
        """What a checkpoint holds."""
        self._describe_model()
        self.parallel: nn.Module = self._wrapped()
        """The model as it is called in a step: compiled, over several processes, or as it is."""
        self.view = view_of(config, data.statistics, self.device, keeps_flow=True)
        if self.view.flow is not None:
            self.digests = self.digests | {"optical flow": self.view.flow.method.name}
        unlabelled = None if data.unlabelled is None else replace(data.unlabelled, flow=self.view.flow)
        places = data.places | ({} if start is None else {str(config.start): recorded_address(start)})
        train = replace(data.train, flow=self.view.flow)
        self.data = replace(data, train=train, unlabelled=unlabelled, places=places)
        # the part of the labels' offset that augmentation does not remove is learnt: masks lie off the image by it
        mask_shift = data.label_shift[0] - self.label_shift[0], data.label_shift[1] - self.label_shift[1]
        check_sources(config, data, mask_shift, self.ranks)
        self.detector = single_network_detector(
            self.average.module,
            self.view,
            config.model.head,
            top_k=config.top_k,
            mask_shift=mask_shift,
            scores_masks=config.model.score_head is not None,
        )
        """The averaged weights, shared, as a detector."""
        self.evaluation = EvaluationOptions(self.device, config.batch_size, config.data.threads, None, self.ranks)
        """How the hold-out is read, without a progress display."""
        self.ahead, self.ahead_unlabelled = ReadAhead(), ReadAhead()
        """How far training data are read ahead, kept from one epoch to the next."""

    def _build_model(self) -> Segmenter:
        """The network with initial weights, a function of the seed."""
        config = self.config
        torch.manual_seed(config.seed)
        return build(
            config.model,
            len(self.data.composite["channels"]),
            config.data.frames,
            len(config.data.targets),
            own_sizes=config.loss.auxiliary_target == "max_pool",
        )

    def _place_model(self) -> None:
        """Move the model to the device, in the layout in which it is fastest there."""
        if self.ranks.world > 1:
            sync_batch_norms(self.model, self.device)
        self.model.to(self.device)
        if self.device.type == "cuda" or not has_thin_strided_pointwise(self.model):
            for part in self.model.children():
                if not isinstance(part, VideoEncoder):  # whose weights have an axis of time
                    part.to(memory_format=torch.channels_last)  # half the time of a step on CPU

    def _wrapped(self) -> nn.Module:
        """The model, compiled and over several processes as far as the settings ask for it."""
        model: nn.Module = self.model
        if self.config.compile:
            model = torch.compile(model, dynamic=False)  # type: ignore[assignment]
        if self.ranks.world > 1:
            model = DistributedDataParallel(model, [self.device.index] if self.device.type == "cuda" else None)
        return model

    def autocast(self) -> torch.autocast:
        """Let the network compute in the type of the run.

        Returns:
            The context of a forward pass.
        """
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def ask_teacher(self, folder: Path) -> None:
        """Ask the detector that teaches this run, if there is one, and learn from its answers.

        Args:
            folder: Where they are kept.
        """
        if self.teacher is not None:
            self.ranks.say(f"asking the teacher, {self.config.data.teacher[0]}")
            self.data = ask(self.teacher, self.data, self.config.data, folder)
            self.teacher = None  # and the memory of its networks is free
            self.ranks.say(_describe_taught(self.data, self.config))

    def begin_epoch(self, epoch: int) -> None:
        """Put the model into training mode, and freeze the encoder or release it as `model.freeze_epochs` asks.

        Args:
            epoch: Number of the epoch.
        """
        is_frozen = epoch < self.config.model.freeze_epochs
        gradients = {id(parameter): not is_frozen for parameter in self.model.encoder.parameters()}
        before = [parameter.requires_grad for parameter in self._trainable]
        for parameter in self._trainable:
            parameter.requires_grad_(gradients.get(id(parameter), True))
        if before != [parameter.requires_grad for parameter in self._trainable]:
            self.parallel = self._wrapped()  # which notes when it is made what has a gradient
        train_mode(self.model, self.config, encoder_is_frozen=is_frozen)

    def _describe_data(self) -> None:
        """Print what is trained on and held out, and what is unusual about it."""
        config, data, say = self.config, self.data, self.ranks.say
        if data.without_neighbours:
            say(
                f"{data.without_neighbours} labelled frames left out: their samples lack some of the frames "
                f"{config.data.frames} around them; data.edges=repeat keeps them"
            )
        if data.leaking:
            say(f"{data.leaking} frames left out: their records leak into held-out ones")
        for name, checked in data.checked.items():
            say(
                f"{name}: of {checked.records} records, {checked.footprint} compared by place and time, "
                f"{checked.image} by image, {checked.data} by raw data, all by id"
            )
            if note := checked.note(name):
                say(note, Kind.WARNING)
        groups, count = len(set(data.holdout.group)), len(data.epochs)
        pseudo = f", {data.pseudo_labelled} of them pseudo-labelled" if data.pseudo_labelled else ""
        records = f", one of each of {count} records in an epoch" if config.data.pseudo.probability is not None else ""
        say(
            f"{len(data.train)} frames to train on{pseudo}{records}; {len(data.holdout)} held out in {groups} groups; "
            f"batches of {min(config.batch_size, count)}: {config.epochs} epochs x {self.steps_per_epoch} steps = "
            f"{self.total_steps} steps"
        )
        if data.taught:
            say(_describe_taught(data, config))
        if data.unlabelled is not None:
            say(f"{len(data.unlabelled)} frames to learn from without labels")
        if 0 < groups < FEW_GROUPS:
            say(f"held-out groups: {groups}, too few to compare epochs or thresholds by", Kind.WARNING)
        if not data.train.positive.any():
            say("none of the frames to train on has a contrail: the model will learn to predict none", Kind.WARNING)
        if config.batch_size > count:
            say(
                f"batch_size={config.batch_size} exceeds the {count} frames of an epoch: each step takes all of them",
                Kind.NOTE,
            )

    def _describe_model(self) -> None:
        """Print what the model is and starts from."""
        config, say, held_out = self.config, self.ranks.say, self.data.holdout.record_id.tolist()
        if self.start and (leaked := self.start.trained_records.intersection(held_out)):
            say(
                f"{len(leaked)} held-out records were trained on in {config.start}: hold-out scores will be too high",
                Kind.WARNING,
            )
        count = sum(p.numel() for p in self.model.parameters())
        trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        partly = "" if trained == count else f" ({trained / 1e6:.2f} M of them trained)"
        if config.model.freeze_epochs:
            partly += f", the encoder's frozen in the first {config.model.freeze_epochs} epochs"
        mixer, decoder = config.model.mixer, config.model.decoder
        description = ", ".join(
            [config.model.encoder]
            + ([f"{len(config.data.frames)} frames mixed by {mixer.kind}"] if mixer else [])
            + ([f"warped by {config.data.flow.method}"] if config.data.warp else [])
            + (["a stream of optical flow"] if config.model.flow_stream else [])
            + ([decoder.kind] if decoder else [])
            + ([f"{config.model.annotator_maps} maps of annotators"] if config.model.annotator_maps else [])
            + (["PointRend"] if decoder and decoder.point_rend else [])
            + (["record classifier"] if config.model.record_head else [])
            + (["mask scoring"] if config.model.score_head else [])
        )
        say(f"{description}, {count / 1e6:.2f} M parameters{partly}, label shift {self.label_shift} px")
        if config.data.crop is not None:
            pixels = _crop_pixels(config.data.crop, config, self.data.size)
            if padding := -(pixels + 2 * config.model.rim) % self.model.encoder.multiple:
                say(
                    f"data.crop={config.data.crop}: {config.model.encoder} takes multiples of "
                    f"{self.model.encoder.multiple} pixels, so crops of {pixels} are padded by {padding}",
                    Kind.WARNING,
                )
        if config.compile:
            say("compiling: the first step takes a minute or more")


def _describe_taught(data: TrainingData, config: RunConfig) -> str:
    share = config.data.teacher_weight
    return (
        f"{data.taught} of {data.human_labelled} human-labelled frames learn {100 * share:g} % from the teacher, "
        f"{', '.join(config.data.teacher)}"
    )


def _crop_pixels(crop: int, config: RunConfig, side: int) -> int:
    """Side of a crop as the network sees it, of images of a side."""
    return round(crop * (config.model.image_size or side) / side)


def _check_targets(config: RunConfig, data: TrainingData) -> None:
    """Refuse further targets that are the first one for every human-labelled frame."""
    label, several = data.train.label[: data.human_labelled], data.train.label.shape[1] > 1
    if several and len(label) and (label == label[:, :1]).all():
        key = "data.second_target" if config.data.second_target is not None else "model.annotator_maps"
        raise ContrailError(f"{key}: has no effect, as no record to train on has annotators' masks; set it to null")


def _check_crop(config: RunConfig, side: int) -> None:
    """Refuse crops that are not smaller than the images, and images or crops too small for the network or its rim."""
    crop, rim = config.data.crop, config.model.rim
    if rim >= (seen := _crop_pixels(crop or side, config, side)):
        raise ContrailError(
            f"model.rim={rim}: must be below the {seen} pixels of {'a crop' if crop else 'an image'} as the network "
            "sees it, to be its reflection; lower it"
        )
    if crop is not None and crop >= side:
        raise ContrailError(f"data.crop={crop}: has no effect on images of {side} pixels; lower it, or set it to null")
    if crop is not None and (pixels := _crop_pixels(crop, config, side)) < SMALLEST_SIDE:
        raise ContrailError(
            f"data.crop={crop}: leaves {pixels} pixels after resampling to model.image_size, and {SMALLEST_SIDE} are "
            "needed; raise one of them"
        )


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
