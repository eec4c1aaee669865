"""Building blocks of decoders and heads. All map (b, c, h, w) to (b, c', h, w)."""

import math
from typing import Literal

import torch
from segmentation_models_pytorch.base.modules import Conv2dReLU
from segmentation_models_pytorch.decoders.deeplabv3.decoder import ASPPConv, ASPPSeparableConv
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

Norm = Literal["batch", "group"]
ASPP_DILATIONS = (6, 12, 18)


def make_norm(kind: Norm, channels: int, scale: float = 1.0) -> nn.Module:
    """Make a normalisation layer for (b, channels, h, w).

    Args:
        kind: Batch norm, or group norm with at most 32 groups.
        channels: Number of channels.
        scale: Initial weight of each channel.

    Returns:
        The layer.
    """
    norm = nn.BatchNorm2d(channels) if kind == "batch" else nn.GroupNorm(math.gcd(32, channels), channels)
    nn.init.constant_(norm.weight, scale)
    return norm


def batch_norms(model: nn.Module) -> list[nn.Module]:
    """List the batch norms of a model.

    Args:
        model: Any model.

    Returns:
        Its batch norms, synchronised ones included.
    """
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


class PixelShuffle(nn.Sequential):
    """A 1×1 convolution to four times the channels, a quarter of which goes to each of 2×2 pixels.

    The four pixels start equal, so a new one is a convolution followed by nearest upsampling, without a checkerboard.

    Source: Shi et al. 2016, "Real-Time Single Image and Video Super-Resolution ..."; initial weights: Aitken et al.
    2017, "Checkerboard artifact free sub-pixel convolution".

    Args:
        channels: Number of input channels.
        out_channels: Number of output channels.
    """

    def __init__(self, channels: int, out_channels: int):
        widen = nn.Conv2d(channels, 4 * out_channels, 1)
        with torch.no_grad():
            for parameter in widen.parameters():
                parameter.copy_(parameter[::4].repeat_interleave(4, dim=0))
        super().__init__(widen, nn.PixelShuffle(2))


class CBAM(nn.Module):
    """Attention over channels, then over pixels; the shape is kept.

    Source: Woo et al. 2018, "CBAM: Convolutional Block Attention Module".

    Args:
        channels: Number of channels, which the attention over channels narrows to a sixteenth.
    """

    def __init__(self, channels: int):
        super().__init__()
        squeezed = max(channels // 16, 1)
        self.channels = nn.Sequential(
            nn.Conv2d(channels, squeezed, 1), nn.ReLU(inplace=True), nn.Conv2d(squeezed, channels, 1)
        )
        self.pixels = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x_bchw: Tensor) -> Tensor:
        """Weight every channel and every pixel.

        Args:
            x_bchw: Features.

        Returns:
            Features of the same shape.
        """
        mean_bc11, max_bc11 = x_bchw.mean((2, 3), keepdim=True), x_bchw.amax((2, 3), keepdim=True)
        x_bchw = x_bchw * torch.sigmoid(self.channels(mean_bc11) + self.channels(max_bc11))
        over_channels_b2hw = torch.cat([x_bchw.mean(1, keepdim=True), x_bchw.amax(1, keepdim=True)], dim=1)
        return x_bchw * torch.sigmoid(self.pixels(over_channels_b2hw))


class FPA(nn.Module):
    """Feature pyramid attention: a 1×1 path weighted per pixel by a small pyramid, plus the image's mean.

    Source: Li et al. 2018, "Pyramid Attention Network for Semantic Segmentation", figure 3, with kernels 7, 5 and 3.
    Unlike in the paper the small pyramid has no norms, because for an image of 256 pixels it ends in one pixel of one
    channel. Its ReLUs leak, because without norms one of a single channel could die.

    Args:
        channels: Number of input channels.
        out_channels: Number of output channels.
    """

    def __init__(self, channels: int, out_channels: int):
        super().__init__()
        self.direct = Conv2dReLU(channels, out_channels, 1)
        self.mean = nn.Sequential(nn.Conv2d(channels, out_channels, 1), nn.ReLU(inplace=True))
        self.down = nn.ModuleList(nn.Conv2d(c, 1, k, padding=k // 2) for c, k in ((channels, 7), (1, 5), (1, 3)))
        self.side = nn.ModuleList(nn.Conv2d(1, 1, k, padding=k // 2) for k in (7, 5, 3))

    def forward(self, x_bchw: Tensor) -> Tensor:
        """Apply the attention.

        Args:
            x_bchw: Features of any height and width.

        Returns:
            Features, (b, out_channels, h, w).
        """
        sizes, levels, level_bchw = [], [], x_bchw
        for down, side in zip(self.down, self.side, strict=True):
            sizes.append(level_bchw.shape[2:])
            level_bchw = functional.leaky_relu(down(functional.max_pool2d(level_bchw, 2, ceil_mode=True)), 0.1)
            levels.append(side(level_bchw))
        weight_b1hw = levels.pop()
        while levels:
            weight_b1hw = functional.interpolate(weight_b1hw, sizes.pop()) + levels.pop()
        weight_b1hw = functional.interpolate(weight_b1hw, sizes.pop())
        return weight_b1hw * self.direct(x_bchw) + self.mean(x_bchw.mean((2, 3), keepdim=True))


class PointwisePair(nn.Sequential):
    """Two 1×1 convolutions with norm and ReLU: the centre of the notes' UNet.

    Args:
        channels: Number of input channels.
        out_channels: Number of output channels.
    """

    def __init__(self, channels: int, out_channels: int):
        super().__init__(Conv2dReLU(channels, out_channels, 1), Conv2dReLU(out_channels, out_channels, 1))


class ASPP(nn.Module):
    """Parallel dilated convolutions and the image's mean, projected to `out_channels`.

    Source: Chen et al. 2018, "Encoder-Decoder with Atrous Separable Convolution" (DeepLabv3+). The path of the mean has
    no norm, which would need several samples.

    Args:
        channels: Number of input channels.
        out_channels: Number of output channels.
        separable: Whether the dilated convolutions are depthwise and then pointwise.
    """

    def __init__(self, channels: int, out_channels: int, separable: bool = True):
        super().__init__()
        dilated = ASPPSeparableConv if separable else ASPPConv
        self.paths = nn.ModuleList([Conv2dReLU(channels, out_channels, 1)])
        self.paths.extend(dilated(channels, out_channels, dilation) for dilation in ASPP_DILATIONS)
        self.mean = nn.Sequential(nn.Conv2d(channels, out_channels, 1), nn.ReLU(inplace=True))
        self.project = Conv2dReLU((len(self.paths) + 1) * out_channels, out_channels, 1)

    def forward(self, x_bchw: Tensor) -> Tensor:
        """Apply all paths and project their concatenation.

        Args:
            x_bchw: Features.

        Returns:
            Features, (b, out_channels, h, w).
        """
        mean_bchw = self.mean(x_bchw.mean((2, 3), keepdim=True)).expand(-1, -1, *x_bchw.shape[2:])
        return torch.as_tensor(self.project(torch.cat([*(path(x_bchw) for path in self.paths), mean_bchw], dim=1)))


def use_group_norm(module: nn.Module) -> None:
    """Replace every batch norm within a module by a group norm.

    Args:
        module: Changed in place.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, make_norm("group", child.num_features))
        else:
            use_group_norm(child)
