"""Encoders: any timm model with `features_only`, as a pyramid of NCHW features, with weights from hub or file."""

import logging
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import timm
import torch
from timm.layers import PatchEmbed
from timm.models import FeatureListNet, is_model_in_modules
from timm.models.efficientnet import EfficientNetFeatures
from torch import Tensor, nn

from contrail_data.errors import ContrailError
from contrail_train.config.model import VIDEO_PREFIX
from contrail_train.models.encoder_names import why_unknown
from contrail_train.models.encoder_weights import load_weights
from contrail_train.models.layers import batch_norms
from contrail_train.models.pretrained import timm_source, weights_file

log = logging.getLogger(__name__)

PROBE_SIDES = (64, 128, 192, 224, 256, 384, 512)
"""Heights in pixels of the images with which a model is measured, in this order. They are three times as wide as high.
Most models accept any; each must accept one."""


class Encoder(nn.Module):
    """A timm feature extractor with the channels and strides of its levels.

    They are measured by one forward pass, as timm's `feature_info` is wrong for a changed stem and does not mention the
    layout.

    Args:
        backbone: A timm model created with `features_only`.
        in_channels: Channels of an image.

    Attributes:
        channels: Channels of each level, fine to coarse.
        strides: Stride of each level, ascending powers of two.
        multiple: Height and width of an image must be multiples of this: the deepest stride, or more where windows must
            fit.

    Raises:
        ValueError: If the features do not form a pyramid.
    """

    def __init__(self, backbone: nn.Module, in_channels: int):
        super().__init__()
        self.backbone = backbone.eval()  # so that measuring does not change running statistics
        side, shapes = _probe(backbone, in_channels)
        self.train()
        # which pair of axes is closer to the shape of the image; it need not be equal, as convolutions without padding
        # turn 64 x 192 into 31 x 95
        self.channels_last = [abs(s[2] - 3 * s[1]) < abs(s[3] - 3 * s[2]) for s in shapes]
        measured = [(s[3], s[1]) if last else (s[1], s[2]) for s, last in zip(shapes, self.channels_last, strict=True)]
        self.channels: list[int] = [channels for channels, _ in measured]
        self.strides: list[int] = [2 ** round(math.log2(side / rows)) for _, rows in measured]
        if self.strides != sorted(set(self.strides)):
            raise ValueError(f"its features have strides {self.strides}, which do not form a pyramid")
        self.multiple = self.strides[-1] if side == PROBE_SIDES[0] else side
        self.probe_shape: tuple[int, ...] = (1, in_channels, side, 3 * side)

    def forward(self, x_bchw: Tensor) -> list[Tensor]:
        """Compute the features of all levels.

        Args:
            x_bchw: Images whose height and width are multiples of `multiple`.

        Returns:
            One (b, channels[i], h / strides[i], w / strides[i]) per level, fine to coarse.
        """
        features = self.backbone(x_bchw)
        return [f.permute(0, 3, 1, 2) if last else f for f, last in zip(features, self.channels_last, strict=True)]

    def checkpoint_activations(self) -> bool:
        """Recompute features in the backward pass instead of keeping them.

        That is done block by block where timm's stages offer it, else stage by stage.

        Returns:
            Whether timm offers either.
        """
        parts = [module for module in self.backbone.modules() if hasattr(module, "grad_checkpointing")]
        for part in [part for part in parts if part is not self.backbone] or parts:
            part.grad_checkpointing = True  # type: ignore[assignment]
        return bool(parts)

    def with_kept_statistics(self, x_bchw: Tensor) -> list[Tensor]:
        """Compute the features of all levels with the running statistics of batch norms, and do not update these.

        Activations are not checkpointed in it; the call itself may be.

        Args:
            x_bchw: As in `forward`.

        Returns:
            As in `forward`.
        """
        switches = [(norm, "training") for norm in batch_norms(self.backbone)]
        # a block recomputed in the backward pass would run after the switches are reset
        switches += [(m, "grad_checkpointing") for m in self.backbone.modules() if hasattr(m, "grad_checkpointing")]
        switches = [(module, name) for module, name in switches if getattr(module, name)]
        for module, name in switches:
            setattr(module, name, False)
        try:
            return self(x_bchw)
        finally:  # a checkpoint that is computed again ends early by an exception
            for module, name in switches:
                setattr(module, name, True)

    def continue_with(self, labelled: int, frames: int, level: int) -> bool:
        """Compute the levels deeper than a given one for the labelled frame only.

        Args:
            labelled: Index of the labelled frame.
            frames: Number of frames of a sample. An image is then one of frames·b, all samples of a frame next to each
                other.
            level: The last level that is computed for all frames; not the deepest.

        Returns:
            Whether timm builds the encoder as a sequence of stages, which this needs.
        """
        backbone, following = self.backbone, None
        if isinstance(backbone, FeatureListNet):
            names = list(backbone)
            following = backbone[names[names.index(list(backbone.return_layers)[level]) + 1]]
        elif isinstance(backbone, EfficientNetFeatures) and backbone.feature_hooks is None:
            following = backbone.blocks[backbone.feature_info.get_dicts()[level]["stage"]]
        if following is not None:
            following.register_forward_pre_hook(partial(_take_frame, labelled, frames))
        return following is not None

    def serve_only(self, levels: Sequence[int]) -> None:
        """Freeze the parameters on which no feature of some levels depends, such as HRNet's paths to its other levels.

        A distributed run would wait for their gradients.

        Args:
            levels: Levels that are used.
        """
        with torch.enable_grad():
            features = self.eval()(torch.zeros(self.probe_shape))
            parameters = list(self.parameters())
            total = torch.stack([features[level].sum() for level in levels]).sum()
            gradients = torch.autograd.grad(total, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.requires_grad_(gradient is not None)
        self.train()


def _take_frame(index: int, frames: int, _: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    """Reduce the input of a module, of frames·b images, to one frame of each sample."""
    return inputs[0].unflatten(0, (frames, -1))[index]


def _probe(backbone: nn.Module, in_channels: int) -> tuple[int, list[torch.Size]]:
    """The first of PROBE_SIDES that the model accepts, and the shapes of its features there.

    If it accepts none, raise what it raised for the smallest.
    """
    errors = []
    for side in PROBE_SIDES:
        try:
            with torch.no_grad():
                return side, [f.shape for f in backbone(torch.zeros(1, in_channels, side, 3 * side))]
        except Exception as error:  # the type differs from model to model
            errors.append(error)
    raise errors[0]


def build_encoder(
    name: str, in_channels: int, pretrained: bool | str, drop_path: float, stem_stride: int | None = None
) -> Encoder:
    """Build a timm model as an encoder, and log which weights it starts from.

    Args:
        name: Name of a timm model, with a tag of its weights or the beginning of one (convnext_tiny.dinov3).
        in_channels: Channels of an image; the first convolution is adapted to them.
        pretrained: False; True for timm's weights, from the hub or its local cache; or a file or repository as in
            `models.pretrained.weights_file`.
        drop_path: Rate of stochastic depth.
        stem_stride: 1 halves the stride of the first strided convolution, so that every level has twice the resolution.

    Returns:
        The encoder.

    Raises:
        ContrailError: If the name is unknown, the model has no feature pyramid or a fixed image size, it does not
            support stochastic depth or the stem, or the weights are not available or do not fit.
    """
    check_encoder(name, pretrained)
    name = full_name(name)
    options: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
    if is_model_in_modules(name, ("swin_transformer", "swin_transformer_v2", "swin_transformer_v2_cr")):
        options["strict_img_size"] = False
    if pretrained is True:
        options |= {"pretrained": True, "pretrained_cfg_overlay": timm_source(name)}
    try:
        backbone = timm.create_model(name, features_only=True, in_chans=in_channels, **options)
        if "strict_img_size" not in options:
            for module in backbone.modules():
                if isinstance(module, PatchEmbed):
                    module.strict_img_size = False
                    module.register_forward_pre_hook(_set_grid_size)
        encoder = Encoder(backbone, in_channels)
    except OSError as error:
        raise ContrailError(
            f"model.pretrained=true: the weights of {name} cannot be fetched ({_line(error)}); "
            "try again, or set model.pretrained=PATH"
        ) from error
    except Exception as error:  # the type differs from model to model
        if "drop_path_rate" in str(error):
            raise ContrailError(f"model.drop_path: {name} has no stochastic depth; set it to 0") from error
        raise ContrailError(
            f"model.encoder={name}: cannot be used as an encoder ({_line(error)}); "
            "choose a timm model that supports features_only at several strides and images of any size"
        ) from error
    if isinstance(pretrained, str):
        log.info("encoder %s: %s", name, load_weights(encoder, name, weights_file(pretrained)))
    return encoder if stem_stride is None else _with_fine_stem(encoder, name, in_channels)


def _set_grid_size(embed: PatchEmbed, inputs: tuple[Tensor]) -> None:
    """Update the grid of a patch embedding, which CoaT reads, to that of the present image."""
    proj = embed.proj
    embed.grid_size = tuple(
        (inputs[0].shape[2 + axis] + 2 * int(proj.padding[axis]) - proj.kernel_size[axis]) // proj.stride[axis] + 1
        for axis in (0, 1)
    )


def check_encoder(name: str, pretrained: bool | str) -> None:
    """Check the settings of an encoder before anything is built.

    Args:
        name: Name of a timm model, or of a video model that the schema knows.
        pretrained: As in `build_encoder`.

    Raises:
        ContrailError: If the model is unknown, or a weight file does not exist or cannot be fetched.
    """
    if not name.startswith(VIDEO_PREFIX):
        full_name(name)
    if isinstance(pretrained, str):
        weights_file(pretrained)


def full_name(name: str) -> str:
    """Complete the name of a timm model.

    Args:
        name: A model, with or without a tag of its weights; the beginning of a tag suffices.

    Returns:
        The name with the complete tag.

    Raises:
        ContrailError: If timm does not know the model or the tag, or the tag is ambiguous.
    """
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise ContrailError(why_unknown(name, timm.list_models()))
    tagged = timm.list_pretrained(f"{architecture}.*")
    if not tag or name in tagged:
        return name
    matches = [full for full in tagged if full.startswith(name)]
    if len(matches) != 1:
        options = ", ".join(matches or tagged) or f"no weights for {architecture}"
        raise ContrailError(f"model.encoder={name}: timm has {options}; choose one")
    return matches[0]


def _with_fine_stem(encoder: Encoder, name: str, in_channels: int) -> Encoder:
    """Halve the stride of the first strided convolution and measure the encoder again."""
    strided = (m for m in encoder.backbone.modules() if isinstance(m, nn.Conv2d) and m.stride[0] > 1)
    stem = next(strided, None)
    try:
        if stem is None or not isinstance(stem.padding, tuple):
            raise ValueError("it has no strided convolution")
        stride = stem.stride[0] // 2
        if stem.kernel_size == stem.stride:  # patches, which overlap now
            stem.padding = ((stem.kernel_size[0] - stride) // 2,) * 2
        stem.stride = (stride, stride)
        finer = Encoder(encoder.backbone, in_channels)
        if [2 * s for s in finer.strides] != encoder.strides:
            raise ValueError(f"strides {encoder.strides} would become {finer.strides}")
    except Exception as error:
        raise ContrailError(
            f"model.stem_stride=1: {name} cannot have a finer stem ({_line(error)}); omit it"
        ) from error
    return finer


def _line(error: Exception) -> str:
    """The first line of an exception's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
