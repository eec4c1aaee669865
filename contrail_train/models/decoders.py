"""Decoders: from a pyramid of features back to pixels.

A decoder is called with the features of all levels, a list of (b, c, h, w) from fine to coarse, and with height and
width of the (padded) image. It returns one or more feature maps (b, c, h, w), the last one for the mask and the others
for deep supervision, at whatever resolution it ends. Its attributes are `strides`, those of the levels that it uses,
and `out_channels`, the width of each map that it returns.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from segmentation_models_pytorch.base.initialization import initialize_decoder
from segmentation_models_pytorch.base.modules import Conv2dReLU
from segmentation_models_pytorch.decoders.deeplabv3.decoder import ASPPSeparableConv, DeepLabV3PlusDecoder
from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder
from segmentation_models_pytorch.decoders.manet.decoder import MAnetDecoder
from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoderBlock
from segmentation_models_pytorch.decoders.unetplusplus.decoder import UnetPlusPlusDecoder
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
from torch import Tensor, nn
from torch.nn import functional

from contrail_data.errors import ContrailError
from contrail_data.settings.strict import plain
from contrail_train.config.model import DecoderConfig, ModelConfig
from contrail_train.models.layers import ASPP, ASPP_DILATIONS, CBAM, FPA, PixelShuffle, PointwisePair, use_group_norm

SMALLEST_SCSE = 16
"""smp's attention reduces its channels to a sixteenth, which must leave at least one."""
ONE_WIDTH_PER_HALVING = ("unet", "unetplusplus", "manet")


class UNet(nn.Module):
    """One block of segmentation_models_pytorch per halving of the resolution, deepest first, for any pyramid.

    A block doubles the resolution, joins the encoder's features of that stride if there are any (a pyramid of strides 4
    to 32 has none at 2 and 1, one of strides 1 to 32 has all), and convolves twice. Upsampling is nearest by default
    because its backward pass, unlike that of bilinear, is deterministic on CUDA.

    Args:
        channels: Channels of each level of the pyramid, fine to coarse.
        strides: Stride of each level.
        config: Settings of the decoder.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], config: DecoderConfig):
        super().__init__()
        self.strides = list(strides)
        self.block_strides = [2**i for i in reversed(range(strides[-1].bit_length() - 1))]
        self.out_channels = config.channels[: len(self.block_strides)]
        self.first_level, self.align_corners = config.first_level, config.align_corners
        skip_channels = dict(zip(strides[:-1], channels[:-1], strict=True))
        if self.first_level:
            skip_channels[strides[0] // 2] = channels[0]
        self.centre: nn.Module = nn.Identity()
        width_in = channels[-1]
        if config.centre is not None:
            width_in = 2 * self.out_channels[0] if config.centre == "conv" else channels[-1]
            self.centre = {"conv": PointwisePair, "fpa": FPA, "aspp": ASPP}[config.centre](channels[-1], width_in)
        self.blocks, ups = nn.ModuleList(), []
        shuffles = config.upsample == "pixel_shuffle"
        # after shuffling only where a skip is a pixel short, and no longer needed where corners were aligned
        interpolation = "nearest" if shuffles or self.align_corners else config.upsample
        for stride, width in zip(self.block_strides, self.out_channels, strict=True):
            skip = skip_channels.get(stride, 0)
            ups.append(PixelShuffle(width_in, width) if shuffles else nn.Identity())
            width_in = width if shuffles else width_in
            self.blocks.append(_unet_block(width_in, skip, width, config, interpolation))
            width_in = width
        initialize_decoder(self)
        self.ups = nn.ModuleList(ups)  # with initial weights of their own

    def forward(self, features: list[Tensor], height: int, width: int) -> list[Tensor]:
        """Decode.

        Args:
            features: One (b, c, h, w) per level, fine to coarse.
            height: Height of the image, a multiple of the deepest stride.
            width: Width of the image, likewise.

        Returns:
            The map of each block, deepest first; the last is (b, out_channels[-1], height, width).
        """
        skips = dict(zip(self.strides[:-1], features[:-1], strict=True))
        if self.first_level:
            stride = self.strides[0] // 2
            skips[stride] = functional.interpolate(features[0], (height // stride, width // stride))
        x_bchw = self.centre(features[-1])
        maps = []
        for stride, up, block in zip(self.block_strides, self.ups, self.blocks, strict=True):
            size = height // stride, width // stride
            x_bchw = _join(block, up(x_bchw), skips.get(stride), size, self.align_corners)
            maps.append(x_bchw)
        return maps


def _unet_block(
    width_in: int, skip: int, width: int, config: DecoderConfig, interpolation: str = "nearest"
) -> UnetDecoderBlock:
    """Build a block that joins `skip` channels, with the attention of the settings."""
    scse = config.attention if config.attention == "scse" else None
    block = UnetDecoderBlock(width_in, skip, width, attention_type=scse, interpolation_mode=interpolation)
    if config.attention == "cbam":
        block.attention1, block.attention2 = CBAM(width_in + skip), CBAM(width)
    if skip == 0:
        # smp applies it only to skips; without one its weights would never get a gradient
        block.attention1 = nn.Identity()
    return block


def _join(
    block: nn.Module, x_bchw: Tensor, skip_bchw: Tensor | None, size: tuple[int, int], align_corners: bool = False
) -> Tensor:
    """Run a block of the UNet at the skip's own size (encoders without padding are a pixel short), else at `size`."""
    rows, columns = size if skip_bchw is None else skip_bchw.shape[2:]
    if align_corners:
        x_bchw = functional.interpolate(x_bchw, (rows, columns), mode="bilinear", align_corners=True)
    return torch.as_tensor(block(x_bchw, rows, columns, skip_connection=skip_bchw))


class FastFCN(nn.Module):
    """Joint pyramid upsampling of the three deepest levels, ASPP, and three blocks of the UNet, as in the notes.

    Each of the three levels goes through a 3×3 convolution and up to the size of the finest one; four dilated
    convolutions see all of them; then ASPP; then blocks double the resolution up to that of the image, and join finer
    levels where the pyramid has them. With the notes' width of 256 they are 128, 64 and 64 wide.

    Source: Wu et al. 2019, "FastFCN: Rethinking Dilated Convolution in the Backbone".

    Args:
        channels: Channels of each level of the pyramid, fine to coarse.
        strides: Stride of each level.
        config: Settings of the decoder.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], config: DecoderConfig):
        super().__init__()
        width = config.channels[0]
        if len(strides) < 3:
            raise ContrailError("model.decoder.kind=fastfcn: needs an encoder of three levels or more; choose another")
        self.lateral = nn.ModuleList(Conv2dReLU(c, width, 3, padding=1) for c in channels[-3:])
        self.dilated = nn.ModuleList(ASPPSeparableConv(3 * width, width, dilation) for dilation in (1, 2, 4, 8))
        self.aspp = ASPP(4 * width, width, separable=False)
        self.block_strides = [strides[-3] // factor for factor in (2, 4, 8) if factor <= strides[-3]]
        self.level_of_skip = {stride: level for level, stride in enumerate(strides[:-3])}
        """Levels that blocks join, by the stride of the block."""
        if config.first_level:
            self.level_of_skip[strides[0] // 2] = 0
        self.strides = [s for s in strides if s in (*strides[-3:], *self.block_strides)]
        self.blocks = nn.ModuleList()
        self.out_channels = [width, width // 2, width // 4, width // 4][: len(self.block_strides) + 1]
        widths = pairwise(self.out_channels)
        for stride, (width_in, block_width) in zip(self.block_strides, widths, strict=True):
            level = self.level_of_skip.get(stride)
            skip = 0 if level is None else channels[level]
            self.blocks.append(_unet_block(width_in, skip, block_width, config))
        initialize_decoder(self)

    def forward(self, features: list[Tensor], height: int, width: int) -> list[Tensor]:
        """Decode.

        Args:
            features: One (b, c, h, w) per level, fine to coarse.
            height: Height of the image, a multiple of the deepest stride.
            width: Width of the image, likewise.

        Returns:
            The map of the ASPP and of each block, coarse to fine; the last is (b, out_channels[-1], h, w).
        """
        size = features[-3].shape[2:]
        levels = [lateral(x_bchw) for lateral, x_bchw in zip(self.lateral, features[-3:], strict=True)]
        joint_bchw = torch.cat([functional.interpolate(level, size) for level in levels], dim=1)
        x_bchw = self.aspp(torch.cat([path(joint_bchw) for path in self.dilated], dim=1))
        maps = [x_bchw]
        for stride, block in zip(self.block_strides, self.blocks, strict=True):
            block_size, level = (height // stride, width // stride), self.level_of_skip.get(stride)
            skip_bchw = None if level is None else features[level]
            if skip_bchw is not None and stride < self.strides[0]:  # an enlarged first level
                skip_bchw = functional.interpolate(skip_bchw, block_size)
            maps.append(_join(block, maps[-1], skip_bchw, block_size))
        return maps


class SmpDecoder(nn.Module):
    """A decoder of segmentation_models_pytorch, which expects levels of strides 1, 2, 4, ... without a gap.

    If the deepest stride is below 32 (a stem that does not stride), the levels are numbered as if the image were
    larger, so that none is unused. A missing level is replaced by the next deeper one, narrowed and enlarged, in
    decoders that join all levels, and by an empty one in the others.

    Args:
        channels: Channels of each level of the pyramid, fine to coarse.
        strides: Stride of each level.
        config: Settings of the decoder.
        encoder: Name of the encoder, for messages.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], config: DecoderConfig, encoder: str):
        super().__init__()
        kind, width = config.kind, config.channels[0]
        joins_all = kind in ONE_WIDTH_PER_HALVING
        finer = 1 if joins_all else max(32 // strides[-1], 1)
        places = [(finer * stride).bit_length() - 1 for stride in strides]
        self.depth = places[-1]
        self.level_of_place = {place: level for level, place in enumerate(places)}
        widths = [channels[self.level_of_place[p]] if p in self.level_of_place else 0 for p in range(self.depth + 1)]
        self.fill = nn.ModuleDict()
        if joins_all:
            for place in reversed(range(1, self.depth)):
                if place not in self.level_of_place:
                    widths[place] = max(widths[place + 1] // 2, 16)
                    self.fill[str(place)] = nn.Conv2d(widths[place + 1], widths[place], 1)
        block_widths, half = config.channels[: self.depth], max(width // 2, 1)
        # how to make each decoder, the first place that it uses, and the width of its map
        decoders: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
            "unetplusplus": (lambda: UnetPlusPlusDecoder(widths, block_widths, self.depth), 1, block_widths[-1]),
            "manet": (lambda: MAnetDecoder(widths, block_widths, self.depth), 1, block_widths[-1]),
            "fpn": (lambda: FPNDecoder(widths, self.depth, width, half), self.depth - 3, half),
            "deeplabv3plus": (lambda: DeepLabV3PlusDecoder(widths, 5, width, ASPP_DILATIONS, 16, True, 0.0), 2, width),
            "upernet": (lambda: UPerNetDecoder(widths, self.depth, width), 2, width),
            "segformer": (lambda: SegformerDecoder(widths, self.depth, width), 1, width),
        }
        make, first, out_channels = decoders[kind]
        used = (2, self.depth) if kind == "deeplabv3plus" else range(first, self.depth + 1)
        optional = 1 if kind == "segformer" else None
        if missing := [place for place in used if widths[place] == 0 and place != optional]:
            raise ContrailError(
                f"model.decoder.kind={kind}: needs a level of stride {2 ** missing[0] // finer}, which {encoder} does "
                "not have; choose unet or fastfcn"
            )
        self.decoder = make()
        if kind == "deeplabv3plus":
            self.decoder.set_submodule("aspp.0", ASPP(widths[-1], width))
            # smp expects an encoder dilated to stride 16
            self.decoder.up = nn.Upsample(scale_factor=2 ** (self.depth - 2), mode="bilinear")
        if kind == "upernet":  # a norm over the single pixel of the image's mean would need several samples
            self.decoder.set_submodule("psp.blocks.0.1.1", nn.Identity())
        self.strides = [2**place // finer for place in used if place in self.level_of_place]
        self.out_channels = [out_channels]
        initialize_decoder(self)

    def forward(self, features: list[Tensor], height: int, width: int) -> list[Tensor]:
        """Decode.

        Args:
            features: One (b, c, h, w) per level, fine to coarse.
            height: Height of the image, a multiple of the deepest stride.
            width: Width of the image, likewise.

        Returns:
            One map, (b, out_channels[0], h, w).
        """
        deepest_bchw = features[-1]
        rows, columns = deepest_bchw.shape[2] << self.depth, deepest_bchw.shape[3] << self.depth
        levels: list[Tensor] = [deepest_bchw]
        for place in reversed(range(self.depth)):
            size = rows >> place, columns >> place
            if place > 0 and place in self.level_of_place:
                level_bchw = features[self.level_of_place[place]]
                if level_bchw.shape[2:] != size:  # encoders without padding are a pixel short
                    level_bchw = functional.interpolate(level_bchw, size)
            elif str(place) in self.fill:
                level_bchw = functional.interpolate(self.fill[str(place)](levels[-1]), size)
            else:
                level_bchw = deepest_bchw.new_empty(len(deepest_bchw), 0, *size)
            levels.append(level_bchw)
        return [torch.as_tensor(self.decoder(levels[::-1]))]


def build_decoder(channels: Sequence[int], strides: Sequence[int], model: ModelConfig) -> UNet | FastFCN | SmpDecoder:
    """Build the decoder that the settings describe, for the pyramid of an encoder.

    Args:
        channels: Channels of each level, fine to coarse.
        strides: Stride of each level, powers of two.
        model: Settings of the model, with a decoder.

    Returns:
        The decoder.

    Raises:
        ContrailError: If `model.decoder.channels` has too few or too many widths, one of them does not suit the
            decoder, or the pyramid lacks a level.
    """
    config = model.decoder
    assert config is not None
    _check_channels(config, strides[-1], model.encoder)
    if config.first_level and strides[0] <= 2:
        raise ContrailError(
            f"model.decoder.first_level: {model.encoder} has a level of stride {strides[0]} itself; set it to false"
        )
    if config.kind == "unet":
        decoder: UNet | FastFCN | SmpDecoder = UNet(channels, strides, config)
    elif config.kind == "fastfcn":
        decoder = FastFCN(channels, strides, config)
    else:
        decoder = SmpDecoder(channels, strides, config, model.encoder)
    if model.norm == "group":
        use_group_norm(decoder)
    return decoder


def _check_channels(config: DecoderConfig, deepest_stride: int, encoder: str) -> None:
    """Raise ContrailError if the widths do not suit the decoder."""
    key, kind, widths = "model.decoder.channels", config.kind, config.channels
    needed = deepest_stride.bit_length() - 1 if kind in ONE_WIDTH_PER_HALVING else 1
    default = DecoderConfig().channels
    if len(widths) < needed or (len(widths) > needed and widths != default):
        reason = f"{encoder} has stride {deepest_stride}" if needed > 1 else f"{kind} has a single width"
        raise ContrailError(f"{key}={plain(widths)}: {len(widths)} widths, but {reason}; give {needed}")
    narrowest = min(widths[:needed])
    if kind == "fastfcn":
        narrowest //= 4  # in its last blocks
    if (config.attention == "scse" or kind == "manet") and narrowest < SMALLEST_SCSE:
        user = "model.decoder.attention=scse" if config.attention else "model.decoder.kind=manet"
        least = SMALLEST_SCSE * (4 if kind == "fastfcn" else 1)
        raise ContrailError(f"{user}: cannot reduce {narrowest} channels; give {key} of {least} or more")
    if kind == "fpn" and widths[0] % 64:  # smp's group norms work on half as many
        raise ContrailError(f"model.decoder.kind=fpn: the width must be a multiple of 64; correct {key}")
    if kind == "fastfcn" and narrowest < 1:
        raise ContrailError(f"model.decoder.kind=fastfcn: halves its width twice; give {key} of 4 or more")
