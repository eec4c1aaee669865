"""Settings of `model`: the network."""

from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import Field

from contrail_data.settings.strict import Probability, Strict, needs

VIDEO_PREFIX: Final = "torchvision/"
VIDEO_ENCODERS = ("r3d_18", "mc3_18", "r2plus1d_18", "s3d", "swin3d_t", "swin3d_s", "swin3d_b")


class Head(StrEnum):
    """What a model predicts."""

    MASK = "mask"
    RECORD = "record"
    BOTH = "both"


class MixerConfig(Strict):
    """How the features of several frames become those of the labelled frame. null: the model sees one frame."""

    kind: Literal["conv3d", "valid3d", "lstm", "transformer", "panels", "mean"] = "conv3d"
    """conv3d: residual 3-D convolution blocks; valid3d: 3-D convolutions of two frames each, without padding in time,
    until one frame is left; lstm, transformer: over time, in each pixel; panels: frames side by side in one image for
    the encoder, of whose features those of the labelled frame remain; mean: over the frames."""
    levels: list[Annotated[int, Field(ge=0, le=9)]] | None = Field(None, min_length=1)
    """Levels of the encoder's pyramid that are mixed, 0 being the finest. The other levels use only the labelled frame.
    null: all levels."""
    neighbours: Literal["whole", "mixed"] = "whole"
    """How far the other frames than the labelled one are encoded. whole: through the whole encoder; mixed: only up to
    the deepest of `levels`, which predicts the same in much less time. In training, deeper batch norms of the encoder
    then see the labelled frame only."""
    blocks: int = Field(3, ge=1, le=100)
    """Number of 3-D blocks, LSTM layers or transformer blocks in a row."""
    shortcut: Literal["identity", "conv"] = "identity"
    """What a 3-D block is added to: its input, or a 1 x 1 x 1 convolution of the input with a norm, as in the notes."""
    downscale: Literal[1, 2, 4] = 1
    """Mix at 1/downscale of the resolution: only the labelled frame is encoded as it is; all frames are shrunk, encoded
    and mixed, and what mixing changes in the labelled frame is enlarged and added to its features. Faster, but at 2
    Dice was 0.043 lower than in the notes' form on synthetic series."""
    own_frame: Literal["none", "add", "concat"] = "none"
    """How the labelled frame's own features join the mixed ones of a level. add: half their sum; concat: a 1 x 1
    convolution of both, back to the width of the level, which starts as half their sum."""

    @property
    def learns(self) -> bool:
        """Whether it has weights."""
        return self.own_frame == "concat" or self.kind not in ("panels", "mean")

    def _check_combination(self) -> None:
        in_a_row = self.kind in ("conv3d", "lstm", "transformer")
        needs(self.kind == "conv3d", "model.mixer.kind=conv3d", self, "model.mixer.shortcut")
        needs(in_a_row, "model.mixer.kind=conv3d, lstm or transformer", self, "model.mixer.blocks")
        some_levels = self.levels is not None and self.downscale == 1
        needs(some_levels, "model.mixer.levels, and model.mixer.downscale=1", self, "model.mixer.neighbours")
        by_level = "model.mixer.levels model.mixer.downscale model.mixer.own_frame"
        needs(self.kind != "panels", "another model.mixer.kind than panels", self, by_level)


class PointRendConfig(Strict):
    """PointRend: a small network predicts the most uncertain points of the mask again.

    It sees the encoder's finest features and the decoder's mask. In prediction the mask doubles its resolution up to
    that of the image, and is refined each time; one that has it already is refined once.
    """

    points: int = Field(2048, ge=1, le=2**20)
    """Number of points that are predicted in each image in training, and in each step of the refinement."""
    uncertain: Probability = 0.75
    """Share of the points of training that are the most uncertain candidates. The others are drawn anywhere."""
    oversample: float = Field(3.0, ge=1.0, le=100.0)
    """Number of candidates for each of these points."""
    width: int = Field(256, ge=1, le=8192)
    """Width of the three layers of the network."""

    def _check_combination(self) -> None:
        needs(self.uncertain > 0, "uncertain above 0", self, "model.decoder.point_rend.oversample")


class DecoderConfig(Strict):
    """How features become a mask. null: the model predicts no mask."""

    kind: Literal["unet", "fastfcn", "unetplusplus", "manet", "fpn", "deeplabv3plus", "upernet", "segformer"] = "unet"
    """Architecture of the decoder. Those other than unet and fastfcn are from segmentation-models-pytorch."""
    channels: list[Annotated[int, Field(ge=1, le=8192)]] = Field(
        default_factory=lambda: [256, 128, 64, 32, 16], min_length=1
    )
    """Width of each decoder block, deepest first: one for each halving of the resolution in the encoder (5 for stride
    32) in unet, unetplusplus and manet, a single one in the others."""
    upsample: Literal["nearest", "bilinear", "pixel_shuffle"] = "nearest"
    """How blocks of the unet double the resolution. The backward pass of bilinear is not deterministic on CUDA.
    pixel_shuffle: a 1x1 convolution to four times the block's width, a quarter for each of the 2x2 pixels."""
    align_corners: bool = False
    """Whether bilinear upsampling keeps the centres of the corner pixels rather than the borders of the image in place.
    The mask is resampled to the size of the label without it in any case, so that it does not move."""
    first_level: bool = False
    """Let the block of unet or fastfcn at half the stride of the encoder's first level join an enlarged copy of that
    level, as in the notes: for encoders whose first level has stride 4, such as ConvNeXt and Swin."""
    attention: Literal["scse", "cbam"] | None = None
    """Attention in the blocks of unet and fastfcn: over channels and pixels at once, or over channels and then
    pixels."""
    centre: Literal["conv", "fpa", "aspp"] | None = None
    """Block between encoder and unet, at the deepest level: two 1 x 1 convolutions to twice the width of the first
    block, as in the notes; feature pyramid attention; or dilated convolutions."""
    mask_kernel: Literal[1, 3] = 3
    """Kernel size of the last convolution, which turns features into the mask. The notes have 1."""
    deep_supervision: bool = False
    """Let every block of unet or fastfcn, and the ASPP of the latter, predict the mask during training; see
    `loss.auxiliary`."""
    two_class: bool = False
    """Predict two maps, contrail and background, instead of one. `loss.bce` is then the cross-entropy of their
    softmax."""
    point_rend: PointRendConfig | None = None

    def _check_combination(self) -> None:
        keys = "model.decoder.attention model.decoder.deep_supervision model.decoder.first_level"
        needs(self.kind in ("unet", "fastfcn"), "model.decoder.kind=unet or fastfcn", self, keys)
        keys = "model.decoder.upsample model.decoder.centre"
        needs(self.kind == "unet", "model.decoder.kind=unet", self, keys)
        bilinear = self.upsample == "bilinear"
        needs(bilinear, "model.decoder.upsample=bilinear", self, "model.decoder.align_corners")


class RecordHeadConfig(Strict):
    """Predict whether a record has any contrail.

    This is the record's score in gates. With a decoder as well, only positive records teach the mask, unless
    `auxiliary` is set.
    """

    dropout: float = Field(0.2, ge=0.0, lt=1.0)
    """Dropout before both of its linear layers."""
    auxiliary: bool = False
    """Let all records teach the mask. The head is then an additional task of the same features, of weight
    `loss.record`; the record's score is still its probability."""


class ScoreHeadConfig(Strict):
    """Predict the Dice of each record's mask with its label, 0 for records without a contrail.

    This is the record's score in gates, and the confidence of pseudo-labelled frames with a mask.
    """

    dropout: float = Field(0.2, ge=0.0, lt=1.0)
    """Dropout before both of its linear layers."""


class FlowStreamConfig(Strict):
    """A small encoder of the optical flow to the other frames, whose features are added. null: no flow is seen."""

    width: int = Field(32, ge=1, le=4096)
    """Channels of its convolutions, of which there is one for each halving of the resolution. They learn at
    `optim.lr`."""


class ModelConfig(Strict):
    """The network: an encoder shared by all frames, a mixer, a decoder and heads."""

    encoder: str = "tf_efficientnet_lite0"
    """Any timm model that supports `features_only`; or a video model of torchvision, which sees all frames as one clip
    and takes the place of encoder and mixer: torchvision/r3d_18, mc3_18, r2plus1d_18, s3d, swin3d_t, swin3d_s or
    swin3d_b. The labelled frame's features of each of its stages go to the decoder."""
    pretrained: bool | str = False
    """true: timm's or torchvision's weights, from the web; a path: weights from that file (.safetensors, .pth or .pt);
    hf://ORG/NAME or hf://ORG/NAME@REVISION: weights of that repository of the hub, timm's or a published model's. What
    was fetched once is found in the hub's cache, with HF_HUB_OFFLINE=1 without a request."""
    drop_path: float = Field(0.0, ge=0.0, lt=1.0)
    """Rate of stochastic depth in the encoder."""
    stem_stride: int | None = Field(None, ge=1, le=1)
    """1: halve the stride of the encoder's first strided convolution, so that every level has twice the resolution."""
    image_size: int | None = Field(None, ge=32, le=4096)
    """Side in pixels that images are resampled to. Predictions return to the size of the label. null: as stored."""
    rim: int = Field(0, ge=0, le=512)
    """Pixels by which the network extends images on every side, as it sees them, by reflection; this rim is cut off its
    masks. An image of 256 pixels with a rim of 32 is a network of 320 pixels whose centre of 256 is cut out. A crop is
    extended likewise. Record heads see the rim too."""
    freeze: list[
        Literal[
            "encoder",
            "mixer",
            "decoder",
            "batch_norm",
            "encoder_batch_norm",
            "mixer_batch_norm",
            "decoder_batch_norm",
        ]
    ] = Field(default_factory=list)
    """Parts that are not trained. encoder, mixer, decoder: its weights and statistics; the convolution that turns the
    decoder's features into the mask is always trained. batch_norm: statistics and scales of all batch norms but the
    mixer's. encoder_batch_norm, mixer_batch_norm, decoder_batch_norm: those of this part."""
    freeze_epochs: int = Field(0, ge=0, le=100_000)
    """Number of epochs at the start in which the encoder is not trained, so that new layers do not disturb it before
    they have learnt anything. After them it is trained at the learning rate that the schedule has reached."""
    checkpoint_activations: bool = False
    """Recompute the features of the encoder's blocks or stages, of each mixer and of the decoder in the backward pass
    instead of keeping them: less memory, the same weights, up to a third more time."""
    mixer: MixerConfig | None = None
    flow_stream: FlowStreamConfig | None = None
    norm: Literal["batch", "group"] = "batch"
    """Normalisation in mixer, decoder and record head. The encoder keeps its own."""
    decoder: DecoderConfig | None = DecoderConfig()
    annotator_maps: int | None = Field(None, ge=2, le=8)
    """Number of maps that learn the masks of single annotators, at least as many as any record has. As annotators are
    other people in each record, they are matched to the maps so that they fit best, each to another one; records
    without annotators' masks teach their mask to all maps. The prediction is the mean of the maps' probabilities. null:
    one map learns `data.target`."""
    record_head: RecordHeadConfig | None = None
    score_head: ScoreHeadConfig | None = None

    @property
    def takes_clips(self) -> bool:
        """Whether the encoder sees all frames at once."""
        return self.encoder.startswith(VIDEO_PREFIX)

    @property
    def head(self) -> Head:
        """What the model predicts: a mask, a record's probability, or both."""
        if self.decoder is None:
            return Head.RECORD
        return Head.MASK if self.record_head is None else Head.BOTH

    @property
    def positives_only(self) -> bool:
        """Whether only positive records teach the mask."""
        return self.decoder is not None and self.record_head is not None and not self.record_head.auxiliary

    @property
    def frozen_at_random(self) -> list[str]:
        """Frozen parts that would keep initial weights of no use, unless a run starts from those of another one."""
        trained = ["encoder"] if self.pretrained else []
        return [
            name
            for name in self.freeze
            if name not in ("batch_norm", "encoder_batch_norm", "decoder_batch_norm", *trained)
        ]

    def _check_combination(self) -> None:
        if self.takes_clips and self.encoder.removeprefix(VIDEO_PREFIX) not in VIDEO_ENCODERS:
            names = ", ".join(VIDEO_ENCODERS)
            raise ValueError(f"model.encoder={self.encoder}: not a video model; choose {VIDEO_PREFIX} with {names}")
        needs(not self.takes_clips, "an encoder of single images", self, "model.mixer model.stem_stride")
        trained = "encoder" not in self.freeze
        needs(trained, "an encoder that is not in model.freeze", self, "model.freeze_epochs")
        self._check_freeze()
        if self.decoder is None and self.record_head is None:
            raise ValueError(
                "model.decoder: null, and model.record_head too, so that the model predicts nothing; set one, for "
                "example model.record_head={}"
            )
        needs(self.decoder is not None, "model.decoder", self, "model.annotator_maps model.score_head")
        if self.annotator_maps is not None and self.decoder is not None and self.decoder.point_rend is not None:
            raise ValueError(
                "model.decoder.point_rend: refines a single map, and model.annotator_maps has several; set one to null"
            )
        if self.record_head is not None:
            needs(self.decoder is not None, "model.decoder", self.record_head, "model.record_head.auxiliary")
            if self.score_head is not None:
                raise ValueError(
                    "model.score_head: model.record_head gives the score of records too; set one of them to null, or "
                    "train the other as a stage of a pipeline's gate"
                )

    def _check_freeze(self) -> None:
        """Raise ValueError if a frozen part does not exist, or is frozen as part of another one."""
        learns = self.mixer is not None and self.mixer.learns
        for part, exists, what in (
            ("mixer", learns, "model.mixer with weights"),
            ("mixer_batch_norm", learns and self.norm == "batch", "model.mixer with weights, and model.norm=batch"),
            ("decoder", self.decoder is not None, "model.decoder"),
            ("decoder_batch_norm", self.decoder is not None and self.norm == "batch", "model.decoder with batch norms"),
        ):
            if part in self.freeze and not exists:
                raise ValueError(f"model.freeze: {part} has no effect: it needs {what}; set that, or remove {part}")
        for part in self.freeze:
            if not part.endswith("_batch_norm"):
                continue
            contained = {part.removesuffix("_batch_norm")} | ({"batch_norm"} if part != "mixer_batch_norm" else set())
            if others := sorted(contained.intersection(self.freeze)):
                raise ValueError(f"model.freeze: {part} has no effect beside {others[0]}; remove one of them")
