"""From a pyramid of features back to pixels.

A decoder is called with the features [(b, c, h, w)], shallow to deep, and the sides of the (padded) image; it returns
(b, out_channels, h, w) at whatever resolution it ends. `strides` are those of the levels it looks at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from segmentation_models_pytorch.base.initialization import initialize_decoder
from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3PlusDecoder, SeparableConv2d
from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder
from segmentation_models_pytorch.decoders.manet.decoder import MAnetDecoder
from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoderBlock
from segmentation_models_pytorch.decoders.unetplusplus.decoder import UnetPlusPlusDecoder
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
from torch import Tensor, nn
from torch.nn import functional

from contrail_data.errors import ContrailError
from contrail_train.config.schema import ModelConfig
from contrail_train.models.temporal import norm

SMALLEST_SCSE = 16
"""smp's attention squeezes its channels to a sixteenth, which must leave one."""


class UNet(nn.Module):
    """One block of segmentation_models_pytorch for each halving, deepest first, for any pyramid.

    A block doubles the resolution (nearest: its backward pass is deterministic on CUDA, the bilinear one's is
    not), joins the encoder's features of that stride where there are any (a pyramid of strides 4..32 has none
    at 2 and 1, one of 1..32 has all) and convolves twice. `out_channels` is the width of the last block,
    `block_channels` those of all. After a call with `all_blocks`, what each block made is returned.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], config: ModelConfig):
        super().__init__()
        self.strides = list(strides)
        self.block_strides = [2**i for i in reversed(range(strides[-1].bit_length() - 1))]
        self.block_channels = config.decoder_channels[: len(self.block_strides)]
        skip_channels = dict(zip(strides[:-1], channels[:-1], strict=True))
        self.centre: nn.Module = nn.Identity()
        if config.centre is not None:
            self.centre = (FPA if config.centre == "fpa" else ASPP)(channels[-1], channels[-1])
        blocks = []
        width_in = channels[-1]
        scse = config.attention if config.attention == "scse" else None
        for stride, width in zip(self.block_strides, self.block_channels, strict=True):
            skip = skip_channels.get(stride, 0)
            block = UnetDecoderBlock(width_in, skip, width, attention_type=scse, interpolation_mode=config.upsample)
            if config.attention == "cbam":
                block.attention1, block.attention2 = CBAM(width_in + skip), CBAM(width)
            if stride not in skip_channels:
                # smp applies it to skips only: its weights would never get a gradient
                block.attention1 = nn.Identity()
            blocks.append(block)
            width_in = width
        self.blocks = nn.ModuleList(blocks)
        self.out_channels = width_in
        initialize_decoder(self)

    def forward(self, features: list[Tensor], height: int, width: int) -> list[Tensor]:
        """What each block made, deepest first; the last is (b, out_channels, height, width).

        height, width: the image's sides, in pixels, which must be multiples of the deepest stride.
        """
        skips = dict(zip(self.strides[:-1], features[:-1], strict=True))
        x_bchw = self.centre(features[-1])
        made = []
        for stride, block in zip(self.block_strides, self.blocks, strict=True):
            skip = skips.get(stride)
            # a skip's own size: encoders without padding are a pixel short
            rows, columns = (height // stride, width // stride) if skip is None else skip.shape[2:]
            x_bchw = block(x_bchw, rows, columns, skip_connection=skip)
            made.append(x_bchw)
        return made


def _conv(channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out_channels, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class CBAM(nn.Module):
    """Attention over channels, then over pixels (Woo et al. 2018, CBAM): (b, channels, h, w), shape kept."""

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        squeezed = max(channels // reduction, 1)
        self.channels = nn.Sequential(
            nn.Conv2d(channels, squeezed, 1), nn.ReLU(inplace=True), nn.Conv2d(squeezed, channels, 1)
        )
        self.pixels = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x_bchw: Tensor) -> Tensor:
        pooled = x_bchw.mean((2, 3), keepdim=True), x_bchw.amax((2, 3), keepdim=True)
        x_bchw = x_bchw * torch.sigmoid(self.channels(pooled[0]) + self.channels(pooled[1]))
        over_channels = torch.cat([x_bchw.mean(1, keepdim=True), x_bchw.amax(1, keepdim=True)], dim=1)
        return x_bchw * torch.sigmoid(self.pixels(over_channels))


class FPA(nn.Module):
    """Feature pyramid attention (Li et al. 2018, Pyramid Attention Network, fig. 3): a 1×1 path weighed pixel by pixel
    by a small pyramid of 7×7, 5×5 and 3×3 convolutions, and the image's mean. (b, channels, h, w) of any size.

    The small pyramid has no norms, unlike the paper's: it ends in one pixel of one channel for a 256-px image. Nothing
    then keeps a ReLU of one channel alive, hence the leak.
    """

    def __init__(self, channels: int, out_channels: int):
        super().__init__()
        self.direct = _conv(channels, out_channels, 1)
        self.mean = nn.Sequential(nn.Conv2d(channels, out_channels, 1), nn.ReLU(inplace=True))
        self.down = nn.ModuleList(nn.Conv2d(c, 1, k, padding=k // 2) for c, k in ((channels, 7), (1, 5), (1, 3)))
        self.side = nn.ModuleList(nn.Conv2d(1, 1, k, padding=k // 2) for k in (7, 5, 3))

    def forward(self, x_bchw: Tensor) -> Tensor:
        sizes, levels, level = [], [], x_bchw
        for down, side in zip(self.down, self.side, strict=True):
            sizes.append(level.shape[2:])
            level = functional.leaky_relu(down(functional.max_pool2d(level, 2, ceil_mode=True)), 0.1)
            levels.append(side(level))
        weight = levels.pop()
        while levels:
            weight = functional.interpolate(weight, sizes.pop()) + levels.pop()
        weight = functional.interpolate(weight, sizes.pop())
        return weight * self.direct(x_bchw) + self.mean(x_bchw.mean((2, 3), keepdim=True))


class ASPP(nn.Module):
    """Parallel dilated separable convolutions and the image's mean (Chen et al. 2018, DeepLabv3+).

    (b, channels, h, w) → (b, out_channels, h, w). The mean has no norm, which would need several samples.
    """

    def __init__(self, channels: int, out_channels: int, rates: Sequence[int] = (6, 12, 18)):
        super().__init__()
        self.paths = nn.ModuleList([_conv(channels, out_channels, 1)])
        for rate in rates:
            separable = SeparableConv2d(channels, out_channels, 3, padding=rate, dilation=rate, bias=False)
            self.paths.append(nn.Sequential(separable, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)))
        self.mean = nn.Sequential(nn.Conv2d(channels, out_channels, 1), nn.ReLU(inplace=True))
        self.project = _conv((len(rates) + 2) * out_channels, out_channels, 1)

    def forward(self, x_bchw: Tensor) -> Tensor:
        mean = self.mean(x_bchw.mean((2, 3), keepdim=True)).expand(-1, -1, *x_bchw.shape[2:])
        return torch.as_tensor(self.project(torch.cat([*(path(x_bchw) for path in self.paths), mean], dim=1)))


class FastFCN(nn.Module):
    """Joint pyramid upsampling (Wu et al. 2019, FastFCN) of the three deepest levels, ASPP, and two blocks with skips.

    Each of the three goes through a 3×3 to `width` channels and up to the shallowest's size; four separable
    convolutions, dilated 1, 2, 4 and 8, look at all of them; ASPP; then two blocks double the resolution, joined by
    the next shallower levels where the pyramid has them.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], width: int):
        super().__init__()
        if len(strides) < 3:
            raise ContrailError("model.decoder=fastfcn needs an encoder of three levels or more: choose another")
        self.lateral = nn.ModuleList(_conv(c, width, 3) for c in channels[-3:])
        self.dilated = nn.ModuleList(
            nn.Sequential(
                SeparableConv2d(3 * width, width, 3, padding=d, dilation=d, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            )
            for d in (1, 2, 4, 8)
        )
        self.aspp = ASPP(4 * width, width)
        skips = dict(zip(strides[:-3], channels[:-3], strict=True))
        self.block_strides = [stride for stride in (strides[-3] // 2, strides[-3] // 4) if stride >= 1]
        self.skip_at = [strides.index(s) if s in skips else None for s in self.block_strides]
        self.strides = [s for s in strides if s in (*strides[-3:], *self.block_strides)]
        blocks, width_in = [], width
        for stride in self.block_strides:
            blocks.append(UnetDecoderBlock(width_in, skips.get(stride, 0), width_in // 2))
            width_in //= 2
        self.blocks = nn.ModuleList(blocks)
        self.out_channels = width_in
        initialize_decoder(self)

    def forward(self, features: list[Tensor], height: int, width: int) -> Tensor:
        size = features[-3].shape[2:]
        levels = [lateral(f) for lateral, f in zip(self.lateral, features[-3:], strict=True)]
        joint = torch.cat([functional.interpolate(level, size) for level in levels], dim=1)
        x_bchw = self.aspp(torch.cat([path(joint) for path in self.dilated], dim=1))
        for stride, at, block in zip(self.block_strides, self.skip_at, self.blocks, strict=True):
            skip = None if at is None else features[at]
            rows, columns = (height // stride, width // stride) if skip is None else skip.shape[2:]
            x_bchw = block(x_bchw, rows, columns, skip_connection=skip)
        return x_bchw


class SmpDecoder(nn.Module):
    """A decoder of segmentation_models_pytorch, which wants levels of strides 1, 2, 4, ... without a gap.

    Where an encoder's levels are finer than a 32nd (a stem that does not stride), they count as if the image were
    larger, so that none goes unused. A level that is missing is the next deeper one, narrowed and enlarged, for those
    decoders that join all levels, and an empty one for the others.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], config: ModelConfig):
        super().__init__()
        kind, width = config.decoder, config.decoder_channels[0]
        joins_all = kind in ("unetplusplus", "manet")
        finer = 1 if joins_all else max(32 // strides[-1], 1)
        self.depth = (finer * strides[-1]).bit_length() - 1
        by_place = {
            (finer * s).bit_length() - 1: (i, c) for i, (s, c) in enumerate(zip(strides, channels, strict=True))
        }
        self.at = [by_place[place][0] if place in by_place else None for place in range(self.depth + 1)]
        widths = [by_place[place][1] if place in by_place else 0 for place in range(self.depth + 1)]
        self.fill = nn.ModuleDict()
        if joins_all:
            for place in reversed(range(1, self.depth)):
                if place not in by_place:
                    widths[place] = max(widths[place + 1] // 2, 16)
                    self.fill[str(place)] = nn.Conv2d(widths[place + 1], widths[place], 1)
        make: dict[str, Callable[[], nn.Module]] = {
            "unetplusplus": lambda: UnetPlusPlusDecoder(widths, config.decoder_channels[: self.depth], self.depth),
            "manet": lambda: MAnetDecoder(widths, config.decoder_channels[: self.depth], self.depth),
            "fpn": lambda: FPNDecoder(widths, self.depth, width, max(width // 2, 1)),
            "deeplabv3plus": lambda: DeepLabV3PlusDecoder(widths, 5, width, (6, 12, 18), 16, True, 0.0),
            "upernet": lambda: UPerNetDecoder(widths, self.depth, width),
            "segformer": lambda: SegformerDecoder(widths, self.depth, width),
        }
        first_used = {"unetplusplus": 1, "manet": 1, "fpn": self.depth - 3, "segformer": 1}.get(kind, 2)
        places = range(first_used, self.depth + 1) if kind != "deeplabv3plus" else (2, self.depth)
        if missing := [place for place in places if widths[place] == 0 and not (kind == "segformer" and place == 1)]:
            raise ContrailError(
                f"model.decoder={kind} needs a level of stride {2 ** missing[0] // finer}, which {config.encoder} "
                "does not have: choose unet or fastfcn"
            )
        self.decoder = make[kind]()
        if kind == "deeplabv3plus":
            self.decoder.set_submodule("aspp.0", ASPP(widths[-1], width))
            # smp counts on an encoder dilated to stride 16
            self.decoder.up = nn.Upsample(scale_factor=2 ** (self.depth - 2), mode="bilinear")
        if kind == "upernet":  # no norm over the one pixel of the image's mean, which would need several samples
            self.decoder.set_submodule("psp.blocks.0.1.1", nn.Identity())
        self.strides = [2**place // finer for place in places if place in by_place]
        self.out_channels = {
            "unetplusplus": config.decoder_channels[self.depth - 1 : self.depth],
            "manet": config.decoder_channels[self.depth - 1 : self.depth],
            "fpn": [max(width // 2, 1)],
        }.get(kind, [width])[0]
        initialize_decoder(self)

    def forward(self, features: list[Tensor], height: int, width: int) -> Tensor:
        deepest = features[-1]
        rows, columns = deepest.shape[2] << self.depth, deepest.shape[3] << self.depth
        levels: list[Tensor] = [deepest]
        for place in reversed(range(self.depth)):
            at, size = self.at[place], (rows >> place, columns >> place)
            if at is not None and place > 0:
                level = features[at]
                # encoders without padding are a pixel short
                levels.append(level if level.shape[2:] == size else functional.interpolate(level, size))
            elif str(place) in self.fill:
                levels.append(functional.interpolate(self.fill[str(place)](levels[-1]), size))
            else:
                levels.append(deepest.new_empty(len(deepest), 0, *size))
        return torch.as_tensor(self.decoder(levels[::-1]))


def widths_used(config: ModelConfig, strides: Sequence[int]) -> int:
    """How many of `decoder_channels` the decoder takes for an encoder's strides."""
    return strides[-1].bit_length() - 1 if config.decoder in ("unet", "unetplusplus", "manet") else 1


def build_decoder(channels: Sequence[int], strides: Sequence[int], config: ModelConfig) -> UNet | FastFCN | SmpDecoder:
    """The decoder that `config` describes, for an encoder's channels and strides, shallow to deep, powers of two.

    Raises ContrailError when there are too few `decoder_channels`, one is too narrow, or the pyramid lacks a level.
    """
    needed = widths_used(config, strides)
    if len(config.decoder_channels) < needed:
        raise ContrailError(
            f"model.decoder_channels has {len(config.decoder_channels)} widths, but {config.encoder} goes "
            f"down to stride {strides[-1]}: give {needed}"
        )
    narrowest = min(config.decoder_channels[:needed])
    if (config.attention == "scse" or config.decoder == "manet") and narrowest < SMALLEST_SCSE:
        key = "model.attention=scse" if config.attention else "model.decoder=manet"
        raise ContrailError(
            f"{key} cannot squeeze {narrowest} channels: give model.decoder_channels of {SMALLEST_SCSE} or more"
        )
    if config.decoder == "fpn" and config.decoder_channels[0] % 64:  # smp's group norms, of half as many
        raise ContrailError("model.decoder=fpn: the first of model.decoder_channels must be a multiple of 64")
    if config.decoder == "fastfcn" and narrowest < 4:
        raise ContrailError("model.decoder=fastfcn halves its width twice: give model.decoder_channels of 4 or more")
    if config.decoder == "unet":
        decoder: UNet | FastFCN | SmpDecoder = UNet(channels, strides, config)
    elif config.decoder == "fastfcn":
        decoder = FastFCN(channels, strides, config.decoder_channels[0])
    else:
        decoder = SmpDecoder(channels, strides, config)
    if config.norm == "group":
        _to_group_norm(decoder)
    return decoder


def _to_group_norm(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, norm("group", child.num_features))
        else:
            _to_group_norm(child)
