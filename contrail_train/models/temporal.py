"""From the frames of a pyramid level to one: residual 3-D blocks, an LSTM, their mean.

Frames come as (t, b, c, h, w); what leaves is the labelled one, (b, c, h, w). Blocks and LSTM end in a scale of zero:
they begin as the identity on the labelled frame, so a model of several frames with the weights of a 2D one begins as
that. Time comes first because a run of frames is then one piece of memory, in channels-last layout too: taking some of
them copies nothing (blocks with the batch first took up to 1.25 times as long on CPU).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def norm(kind: str, channels: int) -> nn.Module:
    """Batch norm, or group norm of at most 32 groups, over (b, channels, h, w)."""
    return nn.BatchNorm2d(channels) if kind == "batch" else nn.GroupNorm(math.gcd(32, channels), channels)


class Block3d(nn.Module):
    """A residual 3-D block of the notes: 1×1×1 to a quarter of the channels, norm, ReLU; 1×1×1 and depthwise 3×3×3,
    norm, ReLU; 1×1×1 back, norm whose scale begins at zero; added to what came in.

    Nothing here is a 3-D convolution: 1×1×1 and norms treat frames as samples, and the depthwise 3×3×3 is a depthwise
    3×3 for each of its three frames, summed. Depthwise conv3d has no fast kernel (a block took 1.2 to 1.8 times as long
    on CPU), and bf16 conv3d was broken in some releases. One 2-D convolution for all three, grouped over stacked frames
    or with three outputs a channel, took 1.1 to 1.5 times as long as three.
    """

    def __init__(self, channels: int, norm_kind: str):
        super().__init__()
        narrow = max(channels // 4, 1)
        self.reduce = nn.Sequential(
            nn.Conv2d(channels, narrow, 1, bias=False),
            norm(norm_kind, narrow),
            nn.ReLU(inplace=True),
            nn.Conv2d(narrow, narrow, 1, bias=False),
        )
        self.depthwise = nn.ModuleList(
            nn.Conv2d(narrow, narrow, 3, padding=1, groups=narrow, bias=False) for _ in range(3)
        )
        for tap in self.depthwise:
            nn.init.normal_(tap.weight, std=(2 / 27) ** 0.5)  # type: ignore[arg-type]  # of 27 inputs, not 9
        self.expand = nn.Sequential(
            norm(norm_kind, narrow), nn.ReLU(inplace=True), nn.Conv2d(narrow, channels, 1, bias=False)
        )
        self.scale = norm(norm_kind, channels)
        nn.init.zeros_(self.scale.weight)  # type: ignore[arg-type]

    def forward(self, x_nchw: Tensor, b: int, before: int, after: int) -> Tensor:
        """(t·b, c, h, w) → ((t - 2 + before + after)·b, c, h, w), all samples of a frame together.

        before, after: 1 where the window ends and a frame of zeros stands for the one that is not there, as padding
        in time would; 0 where the frames at that end are only looked at.
        """
        narrow_nchw = self.reduce(x_nchw)
        if before or after:
            zeros = [torch.zeros_like(narrow_nchw[:b])]
            narrow_nchw = torch.cat([*before * zeros, narrow_nchw, *after * zeros])
        n = narrow_nchw.shape[0] - 2 * b
        taps = [conv(narrow_nchw[k * b : k * b + n]) for k, conv in enumerate(self.depthwise)]
        first = (1 - before) * b
        return x_nchw[first : first + n] + self.scale(self.expand(taps[0] + taps[1] + taps[2]))


class Blocks3d(nn.Module):
    """Residual 3-D blocks in a row, computed as a shrinking cone: each for those frames alone that the labelled one of
    the last still depends on. Evaluated, that is what all frames would give; in training, batch norms see fewer.
    """

    def __init__(self, channels: int, frames: int, labelled: int, blocks: int, norm_kind: str):
        super().__init__()
        self.frames, self.labelled = frames, labelled
        self.blocks = nn.ModuleList(Block3d(channels, norm_kind) for _ in range(blocks))

    def forward(self, x_tbchw: Tensor) -> Tensor:
        low, high = self._needed(len(self.blocks))
        x_nchw = x_tbchw[low : high + 1].flatten(0, 1)
        for i, block in enumerate(self.blocks):
            wanted_low, wanted_high = self._needed(len(self.blocks) - 1 - i)
            x_nchw = block(x_nchw, x_tbchw.shape[1], 1 - (wanted_low - low), 1 - (high - wanted_high))
            low, high = wanted_low, wanted_high
        return x_nchw

    def _needed(self, blocks: int) -> tuple[int, int]:
        """First and last of the frames that so many blocks look at."""
        return max(self.labelled - blocks, 0), min(self.labelled + blocks, self.frames - 1)


class PixelLSTM(nn.Module):
    """An LSTM over time in each pixel, on a quarter of the channels; backwards as well where frames follow the labelled
    one. What it says of the labelled frame is added to that.
    """

    def __init__(self, channels: int, frames: int, labelled: int, layers: int, norm_kind: str):
        super().__init__()
        self.labelled = labelled
        narrow = max(channels // 4, 1)
        both = labelled < frames - 1
        self.reduce = nn.Conv2d(channels, narrow, 1)
        self.lstm = nn.LSTM(narrow, narrow, layers, bidirectional=both)
        self.expand = nn.Conv2d(narrow * (1 + both), channels, 1, bias=False)
        self.scale = norm(norm_kind, channels)
        nn.init.zeros_(self.scale.weight)  # type: ignore[arg-type]

    def forward(self, x_tbchw: Tensor) -> Tensor:
        t, b, _, h, w = x_tbchw.shape
        narrow_tbchw = self.reduce(x_tbchw.flatten(0, 1)).unflatten(0, (t, b))
        sequence = narrow_tbchw.permute(0, 1, 3, 4, 2).flatten(1, 3)  # (t, b·h·w, c)
        said = self.lstm(sequence)[0][self.labelled]
        said_bchw = said.unflatten(0, (b, h, w)).permute(0, 3, 1, 2)
        return x_tbchw[self.labelled] + self.scale(self.expand(said_bchw))


class Mean(nn.Module):
    def forward(self, x_tbchw: Tensor) -> Tensor:
        return torch.mean(x_tbchw, dim=0)


def build_mixer(kind: str, channels: int, frames: int, labelled: int, blocks: int, norm_kind: str) -> nn.Module:
    """The mixer of one level, (frames, b, channels, h, w) → (b, channels, h, w). kind: conv3d, lstm or mean."""
    if kind == "conv3d":
        return Blocks3d(channels, frames, labelled, blocks, norm_kind)
    if kind == "lstm":
        return PixelLSTM(channels, frames, labelled, blocks, norm_kind)
    return Mean()
