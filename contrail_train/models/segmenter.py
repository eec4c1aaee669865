"""MISSING DOCSTRING."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from contrail_data.errors import ContrailError
from contrail_train.config.schema import ModelConfig
from contrail_train.models.decoders import UNet, build_decoder
from contrail_train.models.encoder import Encoder, build_encoder
from contrail_train.models.heads import MaskHead, RecordHead
from contrail_train.models.temporal import build_mixer

SMALLEST_SIDE = 32


class Segmenter(nn.Module):
    """One encoder over all frames; each level's frames mixed to one; decoder and mask head, record head, or both."""

    def __init__(self, encoder: Encoder, config: ModelConfig, frames: Sequence[int]):
        super().__init__()
        self.frames = len(frames)
        self.encoder = encoder
        levels = len(encoder.strides)
        self.decoder = None
        if config.head != "record":
            self.decoder = build_decoder(encoder.channels, encoder.strides, config)
            self.mask_head = MaskHead(self.decoder.out_channels, config.two_class)
            if config.deep_supervision and isinstance(self.decoder, UNet):
                self.auxiliary_heads = nn.ModuleList(
                    MaskHead(width, config.two_class) for width in self.decoder.block_channels[:-1]
                )
        self.auxiliary = self.decoder is not None and config.deep_supervision
        self.record_head = None
        if config.head != "mask":
            self.record_head = RecordHead(encoder.channels[-1], config.record_dropout, config.norm)

        wanted = range(levels) if config.mix_levels is None else config.mix_levels
        if beyond := [level for level in wanted if level >= levels]:
            raise ContrailError(
                f"model.mix_levels: {config.encoder} has levels 0 to {levels - 1}, not {beyond[0]}: correct it"
            )
        used = {levels - 1}  # what nothing looks at would never get a gradient
        if self.decoder is not None:
            used |= {encoder.strides.index(stride) for stride in self.decoder.strides}
        if len(used) < levels:
            encoder.serve_only(sorted(used))
        self.mixers = nn.ModuleDict()
        reach = 0
        if config.mixer != "none" and self.frames > 1:
            if not used & set(wanted):
                raise ContrailError(
                    f"model.mix_levels: decoder and head look at levels {sorted(used)} alone: name one of these, "
                    "or set model.mixer=none"
                )
            reach = config.mix_blocks if config.mixer == "conv3d" else self.frames
        labelled = list(frames).index(0)
        first = max(labelled - reach, 0)
        self.seen = slice(first, labelled + reach + 1)  # frames that the answer depends on: no others are encoded
        self.labelled = labelled - first
        if reach:
            for level in sorted(used & set(wanted)):
                self.mixers[str(level)] = build_mixer(
                    config.mixer,
                    encoder.channels[level],
                    len(frames[self.seen]),
                    self.labelled,
                    config.mix_blocks,
                    config.norm,
                )

    def forward(self, x_btchw: Tensor, size: tuple[int, int] | None = None) -> dict[str, Tensor]:
        """(b, t, c, h, w) floats → by head: `logits_b1hw` (b, 1, *size), `record_logit_b1` (b, 1), and in training of a
        deeply supervised decoder `auxiliary_bkhw` (b, k, *size).

        size: height and width of the logits, which are resampled bilinearly to it; None: the input's own, whatever it
        is. Raises ValueError for another number of frames than the model's, or a side below 32 pixels.
        """
        frames, height, width = x_btchw.shape[1], x_btchw.shape[3], x_btchw.shape[4]
        if frames != self.frames:
            ours = "one frame" if self.frames == 1 else f"{self.frames} frames"
            raise ValueError(f"this model takes {ours} a sample, not {frames}")
        if min(height, width) < SMALLEST_SIDE:
            raise ValueError(f"an image of {height} x {width} pixels is too small: both sides need {SMALLEST_SIDE}")
        x_btchw = x_btchw[:, self.seen]
        # skips and upsampled features only fit each other when every halving is exact
        pad_y, pad_x = -height % self.encoder.multiple, -width % self.encoder.multiple
        top, left = pad_y // 2, pad_x // 2
        x_nchw = _pad(x_btchw.transpose(0, 1).flatten(0, 1), (left, pad_x - left, top, pad_y - top))
        features = self._mixed(self.encoder(x_nchw), x_btchw.shape[1])

        def at_size(logits_bkhw: Tensor) -> Tensor:
            padded = _resized(logits_bkhw, (height + pad_y, width + pad_x))
            return _resized(padded[:, :, top : top + height, left : left + width], size or (height, width))

        answer: dict[str, Tensor] = {}
        if self.decoder is not None:
            made = self.decoder(features, height + pad_y, width + pad_x)
            blocks = made if isinstance(made, list) else [made]
            answer["logits_b1hw"] = at_size(self.mask_head(blocks[-1]))
            if self.auxiliary and self.training:
                maps = [at_size(head(x)) for head, x in zip(self.auxiliary_heads, blocks[:-1], strict=True)]
                answer["auxiliary_bkhw"] = torch.cat(maps, dim=1)
        if self.record_head is not None:
            answer["record_logit_b1"] = self.record_head(features[-1])
        return answer

    def _mixed(self, features: list[Tensor], frames: int) -> list[Tensor]:
        """[(frames·b, c, h, w)] → [(b, c, h, w)], one for each level."""
        if frames == 1:
            return features
        mixed = []
        for level, x_nchw in enumerate(features):
            x_tbchw = x_nchw.unflatten(0, (frames, -1))
            mixed.append(self.mixers[str(level)](x_tbchw) if str(level) in self.mixers else x_tbchw[self.labelled])
        return mixed


def _pad(x_bchw: Tensor, sides: tuple[int, int, int, int]) -> Tensor:
    """Reflected at the borders; repeated beyond where the image is too small to reflect."""
    if not any(sides):
        return x_bchw
    fits = max(sides[:2]) < x_bchw.shape[3] and max(sides[2:]) < x_bchw.shape[2]
    return functional.pad(x_bchw, sides, mode="reflect" if fits else "replicate")


def _resized(x_bchw: Tensor, size: tuple[int, int]) -> Tensor:
    if x_bchw.shape[2:] == size:
        return x_bchw
    return functional.interpolate(x_bchw, tuple(size), mode="bilinear", align_corners=False)


def build(config: ModelConfig, in_channels: int, frames: Sequence[int] = (0,)) -> Segmenter:
    """The network that `config` describes, float32 on the CPU, drawn from torch's global random state.

    frames: those it sees, as ascending offsets from the labelled one. Raises ContrailError for an encoder or weights
    that cannot be had, a decoder that does not fit it, or a level to mix that it does not have.
    """
    encoder = build_encoder(config.encoder, in_channels, config.pretrained, config.drop_path, config.stem_stride)
    return Segmenter(encoder, config, frames)
