"""The network: an encoder shared by all frames, mixers, a decoder, and the heads of masks and records."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from contrail_data.errors import ContrailError
from contrail_train.config.model import ModelConfig
from contrail_train.models.decoders import build_decoder
from contrail_train.models.encoder import Encoder, build_encoder
from contrail_train.models.flow_stream import FlowStream
from contrail_train.models.heads import MaskHead, RecordHead, ScoreHead, logit_of_mean
from contrail_train.models.padding import Padding, enlarge, pad, resize
from contrail_train.models.panels import Panels
from contrail_train.models.point_rend import PointRend
from contrail_train.models.repeated_frames import distinct_frames
from contrail_train.models.temporal import build_mixer
from contrail_train.models.video import build_video_encoder

SMALLEST_SIDE = 32  # pixels


class Output(TypedDict, total=False):
    """What a model returns, depending on its heads."""

    logits_b1hw: Tensor
    """Logits of contrail pixels; with maps of annotators only for prediction, joined from these."""
    annotators_bnhw: Tensor
    """Logits of the maps that learn annotators' masks; only in training."""
    second_b1hw: Tensor
    """Logits of the map that learns the second target; only in training. Otherwise `logits_b1hw` joins both maps."""
    auxiliary: list[Tensor]
    """The same from the other blocks of a decoder with deep supervision, (b, 1, h, w) each; only in training."""
    points_b1n: Tensor
    """Logits of contrails at points that PointRend draws; only in training."""
    places_bn2: Tensor
    """x and y of these points, -1 and 1 being the borders of the image."""
    record_logit_b1: Tensor
    """Logit that a record has any contrail."""
    score_logit_b1: Tensor
    """Logit of the Dice that the record's mask is expected to have."""


class Segmenter(nn.Module):
    """One encoder for all frames; the frames of each level mixed to one; decoder and mask head, record head, or both.

    Args:
        encoder: The encoder.
        config: Settings of the model.
        frames: Ascending offsets of the input frames relative to the labelled one.
        targets: Number of targets that masks learn, 1 or 2.
        own_sizes: Whether auxiliary logits keep the resolution of their block.

    Raises:
        ContrailError: As `build`.
    """

    def __init__(
        self, encoder: Encoder, config: ModelConfig, frames: Sequence[int], targets: int, own_sizes: bool = False
    ):
        super().__init__()
        self.own_sizes = own_sizes
        self.frames, self.rim = len(frames), config.rim
        self.checkpoints = config.checkpoint_activations
        self.encoder = encoder
        self.decoder = None
        self.second_mask_head: nn.Module | None = None
        self.annotator_heads: nn.ModuleList | None = None  # beside the mask head
        self.auxiliary_heads: nn.ModuleList | None = None
        if config.decoder is not None:
            self.decoder = build_decoder(encoder.channels, encoder.strides, config)
            *widths, width = self.decoder.out_channels
            mask_head = partial(MaskHead, kernel_size=config.decoder.mask_kernel, two_class=config.decoder.two_class)
            self.mask_head = mask_head(width)
            if config.annotator_maps is not None:
                self.annotator_heads = nn.ModuleList(mask_head(width) for _ in range(config.annotator_maps - 1))
            if targets == 2:
                self.second_mask_head = mask_head(width)
            if config.decoder.deep_supervision:
                self.auxiliary_heads = nn.ModuleList(mask_head(w) for w in widths)
        self.record_head = None
        if config.record_head is not None:
            self.record_head = RecordHead(encoder.channels[-1], config.record_head.dropout, config.norm)
        self.score_head = None
        if config.score_head is not None:
            self.score_head = ScoreHead(encoder.channels[-1], config.score_head.dropout, config.norm)

        deepest = len(encoder.strides) - 1
        used = {deepest, *(encoder.strides.index(stride) for stride in (self.decoder.strides if self.decoder else ()))}
        if len(used) < len(encoder.strides):
            encoder.serve_only(sorted(used))
        self.finest, self.point_rend = min(used), None
        if config.decoder is not None and config.decoder.point_rend is not None:
            self.point_rend = PointRend(encoder.channels[self.finest], config.decoder.point_rend)
        mixer = config.mixer if self.frames > 1 else None
        self.takes_clips = config.takes_clips
        reach = mixer.blocks if mixer is not None and mixer.kind == "conv3d" else self.frames
        reach = reach if mixer is not None or self.takes_clips else 0
        labelled = list(frames).index(0)
        first = max(labelled - reach, 0)
        self.seen = slice(first, labelled + reach + 1)  # the frames on which the output depends; no others are encoded
        self.labelled = labelled - first
        self.downscale = 1 if mixer is None else mixer.downscale
        self.mixers = nn.ModuleDict()
        self.panels = None
        if mixer is not None and mixer.kind == "panels":
            self.panels = Panels(self.frames, labelled)
        elif mixer is not None:
            for level in _mixed_levels(mixer.levels, used, deepest, config.encoder):
                channels, count = encoder.channels[level], len(frames[self.seen])
                self.mixers[str(level)] = build_mixer(mixer, channels, count, self.labelled, config.norm)
        self.levels_of_all = len(encoder.strides)  # so many levels are computed for all frames
        if mixer is not None and mixer.neighbours == "mixed":
            self.levels_of_all = self._encode_neighbours_up_to_mixing(config.encoder)
        self.flow_stream = None
        if config.flow_stream is not None:
            features = {encoder.strides[level]: encoder.channels[level] for level in sorted(used)}
            width, self.flow_levels = config.flow_stream.width, sorted(used)
            self.flow_stream = FlowStream(self.frames, labelled, features, width, config.norm)
        if self.checkpoints and not encoder.checkpoint_activations():
            raise ContrailError(f"model.checkpoint_activations: timm does not offer it for {config.encoder}; omit it")

    def forward(self, x_btchw: Tensor, size: tuple[int, int] | None = None, flow_btdhw: Tensor | None = None) -> Output:
        """Predict masks and records.

        Args:
            x_btchw: Normalised images of any height and width of at least 32 pixels.
            size: Height and width that the logits of pixels are resampled to, bilinearly. None: those of the input.
            flow_btdhw: Flow from the labelled frame to each frame, of the size of the images, in pixels (down, right)
                as stored; None for a model without a stream for it.

        Returns:
            The logits of each head.

        Raises:
            ValueError: If the number of frames is not the model's, a side is below 32 pixels, or flow is given to a
                model that does not see it, or not to one that does.
        """
        frames, height, width = x_btchw.shape[1], x_btchw.shape[3], x_btchw.shape[4]
        if frames != self.frames:
            expected = "one frame" if self.frames == 1 else f"{self.frames} frames"
            raise ValueError(f"this model takes {expected} per sample, not {frames}")
        if min(height, width) < SMALLEST_SIDE:
            raise ValueError(f"an image of {height} x {width} pixels is too small: both sides need {SMALLEST_SIDE}")
        if (flow_btdhw is None) != (self.flow_stream is None):
            raise ValueError(f"this model takes {'no' if self.flow_stream is None else 'its'} flow beside the frames")
        x_btchw = x_btchw[:, self.seen]
        padding = Padding.to_multiple(height, width, self.encoder.multiple, self.rim)
        features = self._features(pad(x_btchw.transpose(0, 1).flatten(0, 1), padding.sides), x_btchw.shape[1])
        if self.flow_stream is not None and flow_btdhw is not None:
            motion = self._run(self.flow_stream, padding.pad_flow(flow_btdhw))
            for level, x_bchw in zip(self.flow_levels, motion, strict=True):
                size_of_level = features[level].shape[2], features[level].shape[3]  # without padding, a pixel short
                features[level] = features[level] + resize(x_bchw, size_of_level)
        output: Output = {}
        if self.decoder is not None:
            output = self._masks(features, padding, size or (height, width))
        if self.record_head is not None:
            output["record_logit_b1"] = self.record_head(features[-1])
        return output

    def _masks(self, features: list[Tensor], padding: Padding, size: tuple[int, int]) -> Output:
        """Decode features to masks of a size, and what is learned beside them."""
        output: Output = {}
        *others, last_bchw = self._run(self.decoder, features, *padding.size)  # type: ignore[arg-type]
        heads = [self.mask_head, *([] if self.second_mask_head is None else [self.second_mask_head])]
        heads += self.annotator_heads or []
        maps = [head(last_bchw) for head in heads]
        fine = maps
        if self.point_rend is not None and self.training:
            output["points_b1n"], output["places_bn2"] = self.point_rend.at_drawn_points(
                maps[0], features[self.finest], padding.shares, padding.centre
            )
        elif self.point_rend is not None:
            fine = [self.point_rend.refine(maps[0], features[self.finest], padding.size), *maps[1:]]
        sized = [padding.cut(map_b1hw, size) for map_b1hw in fine]
        if self.annotator_heads is not None and self.training:
            output["annotators_bnhw"] = torch.cat(sized, dim=1)
        else:
            output["logits_b1hw"] = sized[0] if self.training or len(sized) == 1 else logit_of_mean(sized)
        if self.second_mask_head is not None and self.training:
            output["second_b1hw"] = sized[1]
        if self.score_head is not None:
            output["score_logit_b1"] = self.score_head(features[-1], logit_of_mean(maps).sigmoid())
        if self.auxiliary_heads is not None and self.training:
            coarse = [head(x_bchw) for head, x_bchw in zip(self.auxiliary_heads, others, strict=True)]
            output["auxiliary"] = [
                padding.cut_at_own_size(map_b1hw) if self.own_sizes else padding.cut(map_b1hw, size)
                for map_b1hw in coarse
            ]
        return output

    def _encode_neighbours_up_to_mixing(self, encoder: str) -> int:
        """Return the number of levels that are computed for all frames. Raise ContrailError if it is not possible."""
        last, count = max(map(int, self.mixers)), len(range(self.frames)[self.seen])
        if last == len(self.encoder.strides) - 1:
            raise ContrailError(
                f"model.mixer.neighbours=mixed: has no effect, as level {last}, the deepest, is in model.mixer.levels; "
                "remove one of them"
            )
        if not self.encoder.continue_with(self.labelled, count, last):
            raise ContrailError(
                f"model.mixer.neighbours=mixed: timm does not build {encoder} as a sequence of stages; set whole, or "
                "choose another encoder"
            )
        return last + 1

    def _features(self, x_nchw: Tensor, frames: int) -> list[Tensor]:
        """Images (frames·b, c, h, w) to the features of the labelled frame, (b, c, h, w) for each level."""
        if self.panels is not None:
            joined_bchw = self.panels.join(x_nchw.unflatten(0, (frames, -1)))
            return [self.panels.crop(level) for level in self.encoder(joined_bchw)]
        if self.downscale > 1:
            return self._coarsely_mixed(x_nchw, frames)
        if self.takes_clips:
            return self.encoder(x_nchw.unflatten(0, (frames, -1)))
        if frames == 1:
            return self.encoder(x_nchw)
        features = self._encode_once(x_nchw)
        mixed = []
        for level, x_nchw in enumerate(features[: self.levels_of_all]):
            x_tbchw = x_nchw.unflatten(0, (frames, -1))
            key = str(level)
            mixed.append(self._run(self.mixers[key], x_tbchw) if key in self.mixers else x_tbchw[self.labelled])
        return [*mixed, *features[self.levels_of_all :]]

    def _encode_once(self, x_nchw: Tensor) -> list[Tensor]:
        """Encode frames, and for prediction those that several windows share only once."""
        is_partial = self.levels_of_all < len(self.encoder.strides)
        has_values = not (x_nchw.is_meta or torch.compiler.is_compiling())
        if self.training or is_partial or not has_values:
            return self.encoder(x_nchw)
        first, kind = distinct_frames(x_nchw)
        if len(first) == len(kind):
            return self.encoder(x_nchw)
        return [x_kchw[kind] for x_kchw in self.encoder(x_nchw[first])]

    def _coarsely_mixed(self, x_nchw: Tensor, frames: int) -> list[Tensor]:
        """The same as `_features`, mixed at a lower resolution.

        Shrunk images have other statistics, and in evaluation batch norms have only one set of them. Both
        passes therefore use the running statistics of the full resolution, in training too.
        """
        features = self.encoder(x_nchw.unflatten(0, (frames, -1))[self.labelled])
        coarse_nchw = functional.avg_pool2d(x_nchw, self.downscale)
        pad_y, pad_x = (-side % self.encoder.multiple for side in coarse_nchw.shape[2:])
        coarse = self._run(self.encoder.with_kept_statistics, pad(coarse_nchw, (0, pad_x, 0, pad_y)))
        for level, mixer in self.mixers.items():
            x_bchw, coarse_tbchw = features[int(level)], coarse[int(level)].unflatten(0, (frames, -1))
            change_bchw = self._run(mixer, coarse_tbchw) - coarse_tbchw[self.labelled]
            features[int(level)] = x_bchw + enlarge(change_bchw, self.downscale, x_bchw.shape[2:])
        return features

    def _run(self, part: Callable[..., Any], *inputs: Any) -> Any:
        """Call a part; if activations are checkpointed, it is called again in the backward pass."""
        if self.checkpoints and self.training:
            return checkpoint(part, *inputs, use_reentrant=False)
        return part(*inputs)


def _mixed_levels(levels: list[int] | None, used: set[int], deepest: int, encoder: str) -> list[int]:
    """The levels to mix, those of the settings that decoder and heads use. Raise ContrailError if there are none."""
    if levels is None:
        return sorted(used)
    if missing := [level for level in levels if level > deepest]:
        raise ContrailError(f"model.mixer.levels: {encoder} has levels 0 to {deepest}, not {missing[0]}; correct it")
    if idle := [level for level in levels if level not in used]:
        raise ContrailError(
            f"model.mixer.levels: level {idle[0]} has no effect, as decoder and head use only levels {sorted(used)}; "
            "remove it"
        )
    return sorted(set(levels))


def build(
    config: ModelConfig,
    in_channels: int,
    frames: Sequence[int] = (0,),
    targets: int = 1,
    *,
    own_sizes: bool = False,
) -> Segmenter:
    """Build the network that the settings describe, with random weights from torch's global generator.

    Args:
        config: Settings of the model.
        in_channels: Channels of an image.
        frames: Ascending offsets of the input frames relative to the labelled one.
        targets: Number of targets that masks learn, 1 or 2.
        own_sizes: Whether in training the logits of other blocks than the last keep their resolution.

    Returns:
        The network, float32 on the CPU.

    Raises:
        ContrailError: If encoder or weights are not available, the decoder does not suit the encoder, a level to mix
            does not exist, or the encoder cannot checkpoint activations.
    """
    encoder: Encoder
    if config.takes_clips:
        place = len(frames), list(frames).index(0)
        encoder = build_video_encoder(config.encoder, in_channels, *place, config.pretrained, config.drop_path)
    else:
        encoder = build_encoder(config.encoder, in_channels, config.pretrained, config.drop_path, config.stem_stride)
    return Segmenter(encoder, config, frames, targets, own_sizes)
