"""Mixers, which turn the frames of one pyramid level into one: residual 3-D blocks, an LSTM, the mean, and others.

A mixer maps (t, b, c, h, w) to the labelled frame, (b, c, h, w). All but the mean end in a scale that is initially
zero, so a new mixer is the identity on the labelled frame, and a model of several frames that takes over the weights of
a 2D model starts as that model. Time comes first because a run of frames is then one piece of memory, in channels-last
layout too, and taking some of them copies nothing. Blocks with the batch first took up to 1.25 times as long on the
CPU.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from contrail_train.config.model import MixerConfig
from contrail_train.models.layers import Norm, make_norm
from contrail_train.models.transformer import PixelTransformer
from contrail_train.models.valid3d import ValidConvs3d

Shortcut = Literal["identity", "conv"]


class Block3d(nn.Module):
    """A residual 3-D block of the notes.

    1×1×1 to a quarter of the channels, norm, ReLU; 1×1×1 and depthwise 3×3×3, norm, ReLU; 1×1×1 back, and a norm whose
    scale is initially zero; added to the input or, in the notes' own form, to a 1×1×1 convolution of it with a norm.
    That one starts as the identity, apart from its norm.

    None of this is a 3-D convolution. 1×1×1 convolutions and norms treat frames as samples, and the depthwise 3×3×3 is
    the sum of a depthwise 3×3 for each of its three frames. Depthwise conv3d has no fast kernel (a block took 1.2 to
    1.8 times as long on the CPU), and bf16 conv3d was broken in some releases. A single 2-D convolution for all three,
    grouped over stacked frames or with three outputs per channel, took 1.1 to 1.5 times as long as three.

    Args:
        channels: Channels of the level.
        norm: Kind of normalisation.
        shortcut: Whether to add to the input, or to a convolution of it.
    """

    def __init__(self, channels: int, norm: Norm, shortcut: Shortcut = "identity"):
        super().__init__()
        self.shortcut: nn.Module = nn.Identity()
        if shortcut == "conv":
            self.shortcut = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), make_norm(norm, channels))
            nn.init.dirac_(self.shortcut[0].weight)  # type: ignore[arg-type]
        narrow = max(channels // 4, 1)
        self.reduce = nn.Sequential(
            nn.Conv2d(channels, narrow, 1, bias=False),
            make_norm(norm, narrow),
            nn.ReLU(inplace=True),
            nn.Conv2d(narrow, narrow, 1, bias=False),
        )
        self.depthwise = nn.ModuleList(
            nn.Conv2d(narrow, narrow, 3, padding=1, groups=narrow, bias=False) for _ in range(3)
        )
        for tap in self.depthwise:
            nn.init.normal_(tap.weight, std=(2 / 27) ** 0.5)  # type: ignore[arg-type]  # 27 inputs, not 9
        self.expand = nn.Sequential(
            make_norm(norm, narrow), nn.ReLU(inplace=True), nn.Conv2d(narrow, channels, 1, bias=False)
        )
        self.scale = make_norm(norm, channels, scale=0.0)

    def forward(self, x_nchw: Tensor, batch: int, pad_before: int, pad_after: int) -> Tensor:
        """Apply the block to consecutive frames.

        Args:
            x_nchw: Frames, n = t·b, all samples of a frame next to each other.
            batch: Number of samples b.
            pad_before: 1 if a frame of zeros stands for the one before the first, as in a padded convolution; 0 if the
                first frame only serves as a neighbour of the second.
            pad_after: The same for the last frame.

        Returns:
            (t - 2 + pad_before + pad_after)·b frames.
        """
        narrow_nchw = self.reduce(x_nchw)
        if pad_before or pad_after:
            zeros = [torch.zeros_like(narrow_nchw[:batch])]
            narrow_nchw = torch.cat([*pad_before * zeros, narrow_nchw, *pad_after * zeros])
        n = narrow_nchw.shape[0] - 2 * batch
        taps = [conv(narrow_nchw[k * batch : k * batch + n]) for k, conv in enumerate(self.depthwise)]
        first = (1 - pad_before) * batch
        return self.shortcut(x_nchw[first : first + n]) + self.scale(self.expand(taps[0] + taps[1] + taps[2]))


class Blocks3d(nn.Module):
    """Residual 3-D blocks in a row, computed as a shrinking cone.

    Each block is computed only for the frames on which the labelled frame of the last block depends. In evaluation the
    result is that of all frames; in training, batch norms see fewer frames.

    Args:
        channels: Channels of the level.
        frames: Number of frames.
        labelled: Index of the labelled frame.
        blocks: Number of blocks.
        norm: Kind of normalisation.
        shortcut: Of each block.
    """

    def __init__(
        self, channels: int, frames: int, labelled: int, blocks: int, norm: Norm, shortcut: Shortcut = "identity"
    ):
        super().__init__()
        self.frames, self.labelled = frames, labelled
        self.blocks = nn.ModuleList(Block3d(channels, norm, shortcut) for _ in range(blocks))

    def forward(self, x_tbchw: Tensor) -> Tensor:
        """Mix the frames.

        Args:
            x_tbchw: Features of all frames.

        Returns:
            Features of the labelled frame, (b, c, h, w).
        """
        low, high = self._needed(len(self.blocks))
        x_nchw = x_tbchw[low : high + 1].flatten(0, 1)
        for i, block in enumerate(self.blocks):
            next_low, next_high = self._needed(len(self.blocks) - 1 - i)
            x_nchw = block(x_nchw, x_tbchw.shape[1], 1 - (next_low - low), 1 - (high - next_high))
            low, high = next_low, next_high
        return x_nchw

    def _needed(self, blocks: int) -> tuple[int, int]:
        """First and last of the frames on which the labelled frame after so many blocks depends."""
        return max(self.labelled - blocks, 0), min(self.labelled + blocks, self.frames - 1)


class PixelLSTM(nn.Module):
    """An LSTM over time in each pixel, on a quarter of the channels, whose output is added to the labelled frame.

    It also runs backwards if frames follow the labelled one.

    Args:
        channels: Channels of the level.
        frames: Number of frames.
        labelled: Index of the labelled frame.
        layers: Number of LSTM layers.
        norm: Kind of normalisation.
    """

    def __init__(self, channels: int, frames: int, labelled: int, layers: int, norm: Norm):
        super().__init__()
        self.labelled = labelled
        narrow = max(channels // 4, 1)
        both = labelled < frames - 1
        self.reduce = nn.Conv2d(channels, narrow, 1)
        self.lstm = nn.LSTM(narrow, narrow, layers, bidirectional=both)
        self.expand = nn.Conv2d(narrow * (1 + both), channels, 1, bias=False)
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
        sequence = narrow_tbchw.permute(0, 1, 3, 4, 2).flatten(1, 3)  # (t, b·h·w, c)
        state = self.lstm(sequence)[0][self.labelled]
        state_bchw = state.unflatten(0, (b, h, w)).permute(0, 3, 1, 2)
        return x_tbchw[self.labelled] + self.scale(self.expand(state_bchw))


class Mean(nn.Module):
    """The mean over the frames."""

    def forward(self, x_tbchw: Tensor) -> Tensor:
        """Mix the frames.

        Args:
            x_tbchw: Features of all frames.

        Returns:
            Their mean, (b, c, h, w).
        """
        return torch.mean(x_tbchw, dim=0)


class OwnFrame(nn.Module):
    """Join mixed features with the labelled frame's own ones: as half their sum, or by a convolution that starts as it.

    As most new mixers return the labelled frame, it is at first the result here, too.

    Args:
        channels: Channels of the level.
        labelled: Index of the labelled frame.
        learns: Whether a 1×1 convolution of both, side by side, replaces half their sum.
    """

    def __init__(self, channels: int, labelled: int, learns: bool):
        super().__init__()
        self.labelled = labelled
        self.join = nn.Conv2d(2 * channels, channels, 1, bias=False) if learns else None
        if self.join is not None:
            with torch.no_grad():
                self.join.weight.copy_(torch.eye(channels).repeat(1, 2)[:, :, None, None] / 2)

    def forward(self, mixed_bchw: Tensor, x_tbchw: Tensor) -> Tensor:
        """Join features.

        Args:
            mixed_bchw: Mixed features.
            x_tbchw: Features of all frames.

        Returns:
            Features of the labelled frame, (b, c, h, w).
        """
        own_bchw = x_tbchw[self.labelled]
        if self.join is None:
            return (mixed_bchw + own_bchw) / 2
        return torch.as_tensor(self.join(torch.cat([mixed_bchw, own_bchw], dim=1)))


def _join_own_frame(mixer: nn.Module, inputs: tuple[Tensor], mixed_bchw: Tensor) -> Tensor:
    return torch.as_tensor(mixer.own_frame(mixed_bchw, *inputs))  # type: ignore[operator]


def build_mixer(config: MixerConfig, channels: int, frames: int, labelled: int, norm: Norm) -> nn.Module:
    """Build the mixer of one level.

    Args:
        config: Settings of a mixer other than panels.
        channels: Channels of the level.
        frames: Number of frames.
        labelled: Index of the labelled frame.
        norm: Kind of normalisation.

    Returns:
        A module from (frames, b, channels, h, w) to (b, channels, h, w).
    """
    mixer = _of_kind(config, channels, frames, labelled, norm)
    if config.own_frame != "none":
        # a part of the mixer, whose weights keep their names: runs without it can be started from, and the reverse
        mixer.own_frame = OwnFrame(channels, labelled, learns=config.own_frame == "concat")
        mixer.register_forward_hook(_join_own_frame)
    return mixer


def _of_kind(config: MixerConfig, channels: int, frames: int, labelled: int, norm: Norm) -> nn.Module:
    if config.kind == "mean":
        return Mean()
    if config.kind == "valid3d":
        return ValidConvs3d(channels, frames, labelled, norm)
    if config.kind == "conv3d":
        return Blocks3d(channels, frames, labelled, config.blocks, norm, config.shortcut)
    mixer = PixelLSTM if config.kind == "lstm" else PixelTransformer
    return mixer(channels, frames, labelled, config.blocks, norm)
