"""A transformer over time in each pixel as a mixer, in place of the LSTM."""

import math

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from contrail_train.models.layers import Norm, make_norm

HEADS = 4  # fewer if they do not divide the channels


class PixelTransformer(nn.Module):
    """Attention between the frames of each pixel, on a quarter of the channels, added to the labelled frame.

    A frame is a token, with a learned embedding of its place in the window. The blocks are those of timm's vision
    transformer.

    Args:
        channels: Channels of the level.
        frames: Number of frames.
        labelled: Index of the labelled frame.
        blocks: Number of transformer blocks.
        norm: Kind of normalisation of the output; the blocks have layer norms.
    """

    def __init__(self, channels: int, frames: int, labelled: int, blocks: int, norm: Norm):
        super().__init__()
        self.labelled = labelled
        narrow = max(channels // 4, 1)
        self.reduce = nn.Conv2d(channels, narrow, 1)
        self.place = nn.Parameter(0.02 * torch.randn(frames, narrow))
        self.blocks = nn.Sequential(*(Block(narrow, math.gcd(HEADS, narrow), qkv_bias=True) for _ in range(blocks)))
        for block in self.blocks:
            # a sequence per pixel: the fused kernels of CUDA accept at most 65,535 of them, and these are short
            block.attn.fused_attn = False  # type: ignore[union-attr]
        self.expand = nn.Conv2d(narrow, channels, 1, bias=False)
        self.scale = make_norm(norm, channels, scale=0.0)

    def forward(self, x_tbchw: Tensor) -> Tensor:
        """Mix the frames.

        Args:
            x_tbchw: Features of all frames.

        Returns:
            Features of the labelled frame, (b, c, h, w).
        """
        t, b, _, h, w = x_tbchw.shape
        narrow_tbchw = self.reduce(x_tbchw.flatten(0, 1)).unflatten(0, (t, b))
        tokens = narrow_tbchw.permute(1, 3, 4, 0, 2).flatten(0, 2)  # (b·h·w, t, c)
        mixed = self.blocks(tokens + self.place)[:, self.labelled]
        mixed_bchw = mixed.unflatten(0, (b, h, w)).permute(0, 3, 1, 2)
        return x_tbchw[self.labelled] + self.scale(self.expand(mixed_bchw))
