"""Video models of torchvision as encoders, which see all frames of a sample as one clip and need no mixer.

Source: Tran et al. 2018, "A Closer Look at Spatiotemporal Convolutions for Action Recognition" (R3D, MC3, R(2+1)D);
Xie et al. 2018, "Rethinking Spatiotemporal Feature Learning" (S3D); Liu et al. 2022, "Video Swin Transformer".
"""

import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models import get_model, get_model_weights
from torchvision.ops import StochasticDepth

from contrail_data.errors import ContrailError
from contrail_train.models.encoder import Encoder
from contrail_train.models.encoder_weights import load_tensors, load_weights
from contrail_train.models.pretrained import weights_file

log = logging.getLogger(__name__)

SIDE = 64  # pixels of the image with which a model is measured
RESNET = ("stem layer1", "layer2", "layer3", "layer4")
SWIN = ("patch_embed pos_drop features.0", *(f"features.{i} features.{i + 1}" for i in (1, 3, 5)))
S3D = tuple(
    " ".join(f"features.{i}" for i in part) for part in ([0], range(1, 4), range(4, 7), range(7, 13), [13, 14, 15])
)
STAGES = {"s3d": S3D, "swin3d_t": SWIN, "swin3d_s": SWIN, "swin3d_b": SWIN}
"""Parts of a model up to each level of its pyramid, in order; those of a ResNet if it is not named."""


class VideoEncoder(Encoder):
    """A video model whose levels are the features of the labelled frame after each of its stages.

    Strides in time are removed, so that every frame has features of its own at each level; the weights fit all the
    same. Swin is the exception: its patches are two frames long, and the one with the labelled frame is used.

    Args:
        backbone: A model of torchvision.
        stages: Names of its parts up to each level.
        in_channels: Channels of an image.
        frames: Number of frames.
        labelled: Index of the labelled frame.
    """

    def __init__(self, backbone: nn.Module, stages: tuple[str, ...], in_channels: int, frames: int, labelled: int):
        nn.Module.__init__(self)
        self.backbone, self.stages, self.labelled = backbone, stages, labelled
        self.checkpoints = False
        self.channels_last = [stages == SWIN] * len(stages)
        self.probe_shape: tuple[int, ...] = (frames, 1, in_channels, SIDE, SIDE)
        with torch.no_grad():
            features = self.eval()(torch.zeros(self.probe_shape))
        self.train()
        self.channels = [x_bchw.shape[1] for x_bchw in features]
        self.strides = [SIDE // x_bchw.shape[2] for x_bchw in features]
        self.multiple = self.strides[-1]

    def forward(self, x_tbchw: Tensor) -> list[Tensor]:
        """Compute the features of all levels.

        Args:
            x_tbchw: Images of all frames, whose height and width are multiples of `multiple`.

        Returns:
            One (b, channels[i], h / strides[i], w / strides[i]) per level, fine to coarse.
        """
        clip, features = x_tbchw.permute(1, 2, 0, 3, 4), []
        for stage, last in zip(self.stages, self.channels_last, strict=True):
            if self.checkpoints and self.training:
                clip = checkpoint(self._run, clip, stage, use_reentrant=False)
            else:
                clip = self._run(clip, stage)
            clip_bcthw = clip.permute(0, 4, 1, 2, 3) if last else clip
            features.append(clip_bcthw[:, :, self.labelled // (2 if last else 1)])
        return features

    def _run(self, clip: Tensor, stage: str) -> Tensor:
        for name in stage.split():
            clip = self.backbone.get_submodule(name)(clip)
        return clip

    def checkpoint_activations(self) -> bool:
        """Recompute features in the backward pass instead of keeping them, stage by stage.

        Returns:
            True.
        """
        self.checkpoints = True
        return True


def build_video_encoder(
    name: str, in_channels: int, frames: int, labelled: int, pretrained: bool | str, drop_path: float
) -> VideoEncoder:
    """Build a video model as an encoder, and log which weights it starts from.

    Args:
        name: Name of a model, "torchvision/..." as in the schema.
        in_channels: Channels of an image; the first convolution is adapted to them.
        frames: Number of frames.
        labelled: Index of the labelled frame.
        pretrained: False; True for torchvision's weights, from the web or torch's local cache; or a file or repository
            as in `models.pretrained.weights_file`.
        drop_path: Rate of stochastic depth.

    Returns:
        The encoder.

    Raises:
        ContrailError: If the weights are not available or do not fit, or the model has no stochastic depth.
    """
    own_name = name.partition("/")[2]
    backbone = get_model(own_name)
    for head in ("fc", "head", "norm", "classifier", "avgpool"):  # after the last level
        if hasattr(backbone, head):
            delattr(backbone, head)
    _set_drop_path(backbone, name, drop_path)
    _remove_strides_in_time(backbone)
    _set_channels(backbone, in_channels)
    encoder = VideoEncoder(backbone, STAGES.get(own_name, RESNET), in_channels, frames, labelled)
    if isinstance(pretrained, str):
        log.info("encoder %s: %s", name, load_weights(encoder, name, weights_file(pretrained)))
    elif pretrained:
        weights = get_model_weights(own_name).DEFAULT
        try:
            tensors = weights.get_state_dict(progress=False, check_hash=True)
        except OSError as error:
            raise ContrailError(
                f"model.pretrained=true: the weights of {name} cannot be fetched from {weights.url} ({error}); "
                "download them elsewhere and set model.pretrained=PATH"
            ) from error
        load_tensors(encoder, name, tensors, "true")
        log.info("encoder %s: torchvision's weights, from %s", name, weights.url)
    return encoder


def _set_drop_path(backbone: nn.Module, name: str, rate: float) -> None:
    """Scale the rates of stochastic depth so that the deepest block has `rate`."""
    drops = [module for module in backbone.modules() if isinstance(module, StochasticDepth)]
    if rate and not drops:
        raise ContrailError(f"model.drop_path: {name} has no stochastic depth; set it to 0")
    largest = max((drop.p for drop in drops), default=1.0)
    for drop in drops:
        drop.p *= rate / largest


def _remove_strides_in_time(backbone: nn.Module) -> None:
    """Let convolutions and pools keep the number of frames."""
    for module in backbone.modules():
        if isinstance(module, nn.Conv3d) and module.kernel_size != module.stride:  # not the patches of Swin
            module.stride = (1, *module.stride[1:])
        elif isinstance(module, nn.MaxPool3d) and isinstance(module.stride, tuple):
            size: Any = module.kernel_size
            module.kernel_size = (1 if size[0] == 2 else size[0], *size[1:])  # two frames are pooled without padding
            module.stride = (1, *module.stride[1:])


def _set_channels(backbone: nn.Module, in_channels: int) -> None:
    """Replace the first convolution by one of other channels."""
    name, first = next((name, module) for name, module in backbone.named_modules() if isinstance(module, nn.Conv3d))
    if first.in_channels == in_channels:
        return
    sizes: Any = {"kernel_size": first.kernel_size, "stride": first.stride, "padding": first.padding}
    has_bias = first.bias is not None
    backbone.set_submodule(name, nn.Conv3d(in_channels, first.out_channels, bias=has_bias, **sizes))
