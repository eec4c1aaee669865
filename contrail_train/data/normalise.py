"""Stored values to zero mean and unit standard deviation."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from contrail_train.config.data import DataConfig

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of red, green and blue of ImageNet, as torchvision and timm use them."""


class Normalisation(Protocol):
    """Whatever states how values are normalised."""

    @property
    def mean_c(self) -> Tensor:
        """Mean of values in [0, 1] by channel."""

    @property
    def std_c(self) -> Tensor:
        """Standard deviation of these, never 0."""

    @property
    def each_image(self) -> bool:
        """Whether each sample is normalised by its own mean and standard deviation instead."""


class ChannelStatistics(NamedTuple):
    """How values are normalised, see `Normalisation`."""

    mean_c: Tensor
    std_c: Tensor
    each_image: bool


def normalisation_of(data: DataConfig, statistics: Mapping[str, Any], device: torch.device) -> ChannelStatistics:
    """State how the values of stores are normalised.

    Args:
        data: What is asked for.
        statistics: `mean` and `std` of each channel of the training data, which are used if `data` asks for them.
        device: Where frames are normalised.

    Returns:
        Mean and standard deviation, 1 for a channel that never varies.
    """
    if data.normalise == "imagenet":
        statistics = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    mean_c, std_c = (torch.tensor(statistics[name], dtype=torch.float32, device=device) for name in ("mean", "std"))
    return ChannelStatistics(
        mean_c, torch.where(std_c > 1e-6, std_c, torch.ones_like(std_c)), each_image=data.normalise == "image"
    )


def normalise(image_btchw: Tensor, statistics: Normalisation) -> Tensor:
    """Normalise stored values to zero mean and unit standard deviation.

    Pixels that are white, at the upper limit of all channels, as missing ones are, do not count in an image's own mean
    and standard deviation, and get its mean.

    Args:
        image_btchw: Frames as stored: uint8 in units of 1/255, or float.
        statistics: By what they are normalised.

    Returns:
        float32 of the same shape.
    """
    scale = 1 / 255 if image_btchw.dtype == torch.uint8 else 1.0
    x_btchw = image_btchw.float() * scale
    if statistics.each_image:
        present_bt1hw = (x_btchw < 1 - 1e-6).any(2, keepdim=True).to(x_btchw.dtype)
        count_b1111 = present_bt1hw.sum((1, 3, 4), keepdim=True).clamp_min(1)
        mean_b1c11 = (x_btchw * present_bt1hw).sum((1, 3, 4), keepdim=True) / count_b1111
        centred_btchw = (x_btchw - mean_b1c11) * present_bt1hw
        variance_b1c11 = centred_btchw.square().sum((1, 3, 4), keepdim=True) / count_b1111
        return centred_btchw / variance_b1c11.sqrt().clamp_min(1e-3)  # a flat channel stays flat
    return (x_btchw - statistics.mean_c[:, None, None]) / statistics.std_c[:, None, None]
