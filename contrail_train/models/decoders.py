"""From a pyramid of features back to the resolution of the input."""

from __future__ import annotations

from collections.abc import Sequence

from segmentation_models_pytorch.base.initialization import initialize_decoder
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoderBlock
from torch import Tensor, nn

from contrail_data.errors import ContrailError
from contrail_train.config import ModelConfig

SMALLEST_SCSE = 16
"""smp's attention squeezes its channels to a sixteenth, which must leave one."""


class UNet(nn.Module):
    """One block of segmentation_models_pytorch for each halving, deepest first, for any pyramid.

    A block doubles the resolution (nearest: its backward pass is deterministic on CUDA, the bilinear one's is
    not), joins the encoder's features of that stride where there are any (a pyramid of strides 4..32 has none
    at 2 and 1, one of 1..32 has all) and convolves twice. `out_channels` is the width of the last block.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], widths: Sequence[int], attention: str | None):
        super().__init__()
        self.strides = list(strides)
        self.block_strides = [2**i for i in reversed(range(strides[-1].bit_length() - 1))]
        skip_channels = dict(zip(strides[:-1], channels[:-1], strict=True))
        blocks = []
        width_in = channels[-1]
        for stride, width in zip(self.block_strides, widths, strict=True):
            block = UnetDecoderBlock(width_in, skip_channels.get(stride, 0), width, attention_type=attention)
            if stride not in skip_channels:
                # smp applies it to skips only: its weights would never get a gradient
                block.attention1 = nn.Identity()
            blocks.append(block)
            width_in = width
        self.blocks = nn.ModuleList(blocks)
        self.out_channels = width_in
        initialize_decoder(self)

    def forward(self, features: list[Tensor], height: int, width: int) -> Tensor:
        """Features [(b, c, h, w)], shallow to deep, of an image → (b, out_channels, height, width).

        height, width: the image's sides, in pixels, which must be multiples of the deepest stride.
        """
        skips = dict(zip(self.strides[:-1], features[:-1], strict=True))
        x_bchw = features[-1]
        for stride, block in zip(self.block_strides, self.blocks, strict=True):
            skip = skips.get(stride)
            # a skip's own size: encoders without padding are a pixel short
            rows, columns = (height // stride, width // stride) if skip is None else skip.shape[2:]
            x_bchw = block(x_bchw, rows, columns, skip_connection=skip)
        return x_bchw


def build_unet(encoder_channels: Sequence[int], encoder_strides: Sequence[int], config: ModelConfig) -> UNet:
    """A UNet for an encoder's channels and strides (shallow to deep; powers of two, rising).

    Uses the first log2(deepest stride) of `config.decoder_channels`. Raises ContrailError when there are
    fewer, or one is too narrow for the attention.
    """
    needed = encoder_strides[-1].bit_length() - 1
    if len(config.decoder_channels) < needed:
        raise ContrailError(
            f"model.decoder_channels has {len(config.decoder_channels)} widths, but {config.encoder} goes "
            f"down to stride {encoder_strides[-1]}: give {needed}"
        )
    widths = config.decoder_channels[:needed]
    if config.attention and min(widths) < SMALLEST_SCSE:
        raise ContrailError(
            f"model.attention={config.attention} cannot squeeze {min(widths)} channels: "
            f"give model.decoder_channels of {SMALLEST_SCSE} or more"
        )
    return UNet(encoder_channels, encoder_strides, widths, config.attention)
