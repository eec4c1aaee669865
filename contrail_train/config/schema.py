"""The strict schema of a run: every setting with its type, default, limits and description, and nothing else.

A feature with parameters is a group of settings. Where a group may be null, null switches the feature off and its
parameters with it. A setting that has no effect in combination with the others is refused, never ignored. The module
is long so that all settings can be read in one place.

The string below each field is its description: `contrail-train presets show` and the reference documentation print it.
"""

import json
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

FORMAT: Final = 2
"""Version of the layout of the settings. Format 1 had no key `format`."""
LARGEST_LABEL_SHIFT = 8  # pixels
VIDEO_PREFIX: Final = "torchvision/"
VIDEO_ENCODERS = ("r3d_18", "mc3_18", "r2plus1d_18", "s3d", "swin3d_t", "swin3d_s", "swin3d_b")
MASK_TERMS = ("bce", "dice", "symmetric_dice", "lovasz", "focal", "tversky")

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Weight = Annotated[float, Field(ge=0.0, le=1000.0)]
Rate = Annotated[float, Field(gt=0.0, le=10.0)]
Samples = Annotated[int, Field(ge=1, le=65536)]
Pixels = Annotated[int, Field(ge=1, le=2**24)]
Fold = Annotated[int, Field(ge=0, le=9999)]


class Head(StrEnum):
    """What a model predicts."""

    MASK = "mask"
    RECORD = "record"
    BOTH = "both"


def plain(value: Any) -> str:
    """Format a value of a setting the way that `--set` reads it.

    Args:
        value: A value of a setting, or a group.

    Returns:
        One line of YAML in flow style.
    """
    value = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return json.dumps(value, separators=(",", ":"), default=str).replace('"', "").replace(":", ": ")


class Strict(BaseModel):
    """A group of settings that refuses unknown keys, and values of another type: true is not 1, nor is "1" or 1.0."""

    model_config = ConfigDict(
        extra="forbid",
        validate_assignment=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        strict=True,
        serialize_by_alias=True,
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._check_combination()
        return self

    def _check_combination(self) -> None:
        """Raise ValueError if settings contradict each other or have no effect."""


def _needs(is_met: bool, what: str, group: Strict, keys: str) -> None:
    """Raise ValueError if a setting differs from its default but lacks what it needs to have an effect.

    Args:
        is_met: Whether the settings have what they need.
        what: What they need, for messages.
        group: The group of the settings.
        keys: Their dotted keys, separated by blanks.

    Raises:
        ValueError: If there is such a setting.
    """
    for key in () if is_met else keys.split():
        name = key.rpartition(".")[2]
        value, field = getattr(group, name), type(group).model_fields[name]
        if value != (default := field.get_default(call_default_factory=True)):
            raise ValueError(
                f"{key}={plain(value)} has no effect: it needs {what}; set that, or {key}={plain(default)}"
            )


class PseudoConfig(Strict):
    """How pseudo-labelled frames are used next to human-labelled ones."""

    weight: float = Field(0.5, gt=0.0, le=1000.0)
    """Weight of a pseudo-labelled frame in the loss. A human-labelled frame has weight 1."""
    probability: float | None = Field(None, gt=0.0, le=1.0)
    """Probability of drawing one of a record's pseudo-labelled frames instead of its human-labelled one. An epoch then
    has one frame of each record, and records without a human label always give a pseudo-labelled one. null: an epoch
    has every labelled and every pseudo-labelled frame once."""
    target: Literal["soft", "quantised", "hard"] = "soft"
    """What the model learns from: soft, the stored probability; quantised, the probability rounded to multiples of
    `step`; hard, the stored mask. A frame that the gate rejects has no contrail in either."""
    step: float = Field(0.25, ge=0.001, le=0.5)
    """Step of the rounding of `target: quantised`."""
    min_confidence: Probability = 0.0
    """Omit frames whose `frame_confidence` is lower. It is the mean probability within the mask, or the Dice that a
    score head expects; for an empty mask, 1 minus the frame's score."""
    min_agreement: Probability = 0.0
    """Omit frames whose `frame_agreement`, the agreement of the models that labelled them, is lower."""
    of: Literal["frame", "record"] = "frame"
    """Whether both limits apply to the values of each frame, or to their means over the frames of the record."""

    def _check_combination(self) -> None:
        _needs(self.target == "quantised", "data.pseudo.target=quantised", self, "data.pseudo.step")
        limits = self.min_confidence > 0 or self.min_agreement > 0
        _needs(limits, "data.pseudo.min_confidence or min_agreement", self, "data.pseudo.of")


class BalanceConfig(Strict):
    """Draw some records more often, others less often or not at all. The length of an epoch stays the same."""

    by: list[Literal["positive", "place", "hour", "month"]] = Field(default_factory=list)
    """Classes that become equally frequent over all frames to train on (over all records if `data.pseudo.probability`
    draws one frame of each): with and without contrails; cells of 10 degrees; 3-hour intervals of local solar time;
    months. Empty: all are drawn once per epoch."""
    power: float = Field(1.0, gt=0.0, le=1.0)
    """1 makes the classes equally frequent; the closer to 0, the closer they stay to their frequency in the data."""

    def _check_combination(self) -> None:
        _needs(bool(self.by), "data.balance.by", self, "data.balance.power")


class FlowConfig(Strict):
    """How the optical flow from the labelled frame to the others is computed, from the mean of the channels."""

    method: Literal["dis", "raft"] = "dis"
    """dis: dense inverse search, on the CPU, 40 ms for two frames of 256 x 256 pixels; raft: a network of torchvision,
    on the device of the run, 10 times as long on a CPU."""
    weights: str | None = None
    """File or URL of the weights of raft_small or raft_large, which are copied into the run directory. null: those of
    raft_small, from the torch hub."""
    memory: float = Field(2.0, ge=0.0, le=1024.0)
    """GiB of flow that each process keeps for later epochs. A pair of frames of 256 x 256 pixels takes 0.25 MiB."""

    def _check_combination(self) -> None:
        _needs(self.method == "raft", "data.flow.method=raft", self, "data.flow.weights")


class DataConfig(Strict):
    """The stores to train on, which part of them is held out, and how they are read."""

    train: list[str] = Field(default_factory=list)
    """Stores to train on: paths, URLs or catalog names. Stores of pseudo-labels are joined with their samples by record
    id."""
    composite: str | None = None
    """Name of the composite that the stores must have. null: any."""
    frames: list[Annotated[int, Field(ge=-7, le=7)]] = Field(default_factory=lambda: [0], min_length=1, max_length=8)
    """Offsets of the input frames relative to the labelled frame, in ascending order: [0] is a 2D model, [-1, 0, 1]
    adds the frame before and the frame after."""
    edges: Literal["drop", "repeat"] = "drop"
    """What to do with frames near the ends of a record, which lack some of the frames around them: drop them, in
    training and in prediction, or let the first and last frame of the record stand for those beyond its ends. With the
    latter, pseudo-labels of all frames can be made and trained on."""
    warp: bool = False
    """Warp the other frames onto the labelled one by optical flow before the network sees them, so that what moves with
    the wind lies at the same place in all frames."""
    flow: FlowConfig = FlowConfig()
    crop: int | None = Field(None, ge=32, le=4096)
    """Side in pixels of the random square that training cuts out of each image, after the image was moved as `augment`
    asks. Held-out and predicted images stay whole, at the same scale: `model.image_size` is the side of whole images.
    null: no crops."""
    normalise: Literal["statistics", "image", "imagenet"] = "statistics"
    """How channels are normalised: by the train statistics in the stores; by the mean and standard deviation of each
    sample over its own frames, without pixels that are white as missing ones are; or by ImageNet's mean and standard
    deviation of red, green and blue, which most pretrained encoders know, for composites of three channels."""
    target: Literal["majority", "mean", "clip2"] = "majority"
    """What the model learns from human labels: the majority mask; the mean of the annotators' masks; or twice that
    mean, at most 1. Records without annotators' masks use their mask in each case."""
    second_target: Literal["majority", "mean", "clip2"] | None = None
    """What a second map of the decoder learns at the same time. The prediction is then the mean of both probabilities.
    Pseudo-labelled frames teach both maps the same."""
    unlabelled: list[str] = Field(default_factory=list)
    """Stores of samples whose frames are learnt from without labels, see `loss.consistency`: all frames but those that
    are trained on with a label. Stores of `train` may be among them, for the other frames of their records. Records
    that are held out, and those in a group with one, are left out."""
    teacher: list[str] = Field(default_factory=list)
    """A finished run, a pipeline or an exported file whose probabilities the mask learns beside the human labels
    (distillation); or stores of its predictions, one for each store of samples. A detector is asked once, before the
    first step, about the frames as stored. Pseudo-labelled frames and held-out records keep their labels."""
    teacher_weight: float = Field(0.5, gt=0.0, le=1.0)
    """Share of the teacher in the target: 1 learns from its probabilities only."""
    records: Literal["all", "positive"] = "all"
    """Train on all labelled frames, or only on those with a contrail."""
    holdout: float = Field(0.15, ge=0.0, lt=1.0)
    """Fraction of the human-labelled records that is held out, in whole groups: those of a site and day, and all that
    show one scene. The best epoch is chosen and the threshold is fitted on them. 0: train on all records; the last
    epoch is used, with threshold 0.5 or that of `calibration.from`."""
    fold: Fold = 0
    """Which part is held out: with `holdout: 0.2`, folds 0 to 4 are disjoint and cover all records. With `folds`, a
    fold of that file."""
    folds: str | None = None
    """A file written by `contrail-data splits`: fold number `fold` of it is held out instead of a fraction."""
    leave_out: list[Fold] = Field(default_factory=list)
    """Folds of the file `folds` that are neither trained on nor held out."""
    validation: list[str] = Field(default_factory=list)
    """Labelled stores that are held out instead of a part of `train`."""
    leaks: Literal["refuse", "drop", "allow"] = "refuse"
    """What to do with training records that share their id, raw data, footprint and time or, where these are unknown,
    the scene in their image with a held-out record: refuse to train, drop these records, or train on them anyway.
    Pseudo-labels and teachers of a model that was trained on a held-out record are refused unless leaks are allowed."""
    balance: BalanceConfig = BalanceConfig()
    pseudo: PseudoConfig = PseudoConfig()
    threads: int = Field(2, ge=1, le=1024)
    """Threads that read and decode chunks."""
    prefetch: int = Field(3, ge=1, le=64)
    """Number of batches that are kept ready ahead of the training step."""
    keep: bool = False
    """Keep a local copy of each file that is read from a remote store, where `contrail-data pull` would put it."""
    check: bool = False
    """Verify the checksum of every frame that is read. A damaged store stops the run."""

    @property
    def holds_out(self) -> bool:
        """Whether some records are held out."""
        return self.holdout > 0 or self.folds is not None or bool(self.validation)

    @property
    def targets(self) -> list[str]:
        """What the maps of the decoder learn, in order."""
        return [self.target] if self.second_target is None else [self.target, self.second_target]

    def _check_combination(self) -> None:
        file, stores = self.folds is not None, bool(self.validation)
        _needs(not file and not stores, "no data.folds or data.validation", self, "data.holdout")
        _needs(file, "data.folds", self, "data.leave_out")
        _needs(bool(self.teacher), "data.teacher", self, "data.teacher_weight")
        by_fold = file or (self.holdout > 0 and not stores)
        _needs(by_fold, "data.folds, or data.holdout above 0 without data.validation", self, "data.fold")
        if self.second_target == self.target:
            raise ValueError(f"data.second_target={self.target}: is data.target too; set another one, or null")
        if self.frames != sorted(set(self.frames)) or 0 not in self.frames:
            raise ValueError(
                f"data.frames={self.frames}: the offsets must ascend and include 0, the labelled frame; correct them"
            )
        if self.folds is not None and self.validation:
            raise ValueError("data.folds: data.validation is set too, and both choose the hold-out; set one of them")
        if self.fold in self.leave_out:
            raise ValueError(f"data.leave_out: fold {self.fold} is held out (data.fold); remove it from one of them")
        if self.fold and self.folds is None and (self.fold + 1) * self.holdout > 1 + 1e-9:
            raise ValueError(
                f"data.fold={self.fold}: data.holdout={self.holdout} has only {int(1 / self.holdout + 1e-9)} folds, "
                "counted from 0; lower one of them"
            )


class Augmentation(Strict):
    """A random change of samples with parameters."""

    probability: float = Field(0.5, gt=0.0, le=1.0)
    """Probability per sample."""


class AffineConfig(Augmentation):
    """A random shift, zoom and rotation, drawn together."""

    shift: float = Field(0.1, ge=0.0, le=0.5)
    """Largest shift along each axis, as a fraction of the side of the image."""
    scale: float = Field(0.3, ge=0.0, lt=1.0)
    """The zoom factor is drawn between 1 - scale and 1 + scale."""
    rotate: float = Field(15.0, ge=0.0, le=180.0)
    """Largest rotation, in degrees."""


class TurnConfig(Augmentation):
    """A random rotation that is drawn independently of `affine`."""

    degrees: float = Field(45.0, gt=0.0, le=180.0)
    """Largest rotation, in degrees."""


class MultiScaleConfig(Augmentation):
    """A random zoom, uniform in its logarithm, drawn independently of `affine`."""

    factor: float = Field(2.0, gt=1.0, le=4.0)
    """The zoom is drawn between 1 / factor and factor."""


class GridDistortionConfig(Augmentation):
    """Stretch and compress the rows and columns of a coarse grid."""

    cells: int = Field(5, ge=2, le=32)
    """Cells of the grid along each side."""
    stretch: float = Field(0.3, gt=0.0, lt=1.0)
    """Largest change of the width of a cell, as a fraction of it."""


class CutOutConfig(Augmentation):
    """Set a random square of all frames to the mean of each channel. The label stays as it is."""

    side: int = Field(16, ge=1, le=4096)
    """Side of the square, in pixels of the label."""


class CopyPasteConfig(Augmentation):
    """Copy the contrails of another sample of the batch, with their label, into a sample without any.

    What is added is the difference between contrails and the mean of their surroundings.
    Nothing happens if the other sample, the neighbour in the batch, has none either.
    """


class EraseConfig(Augmentation):
    """Replace the contrails of a sample by the mean of their surroundings. It then counts as one without contrails."""


class BrightnessContrastConfig(Augmentation):
    """Scale and shift the values of each channel, equally in all frames."""

    brightness: float = Field(0.2, ge=0.0, le=10.0)
    """Largest value added or subtracted, in standard deviations."""
    contrast: float = Field(0.2, ge=0.0, lt=1.0)
    """The factor is drawn between 1 - contrast and 1 + contrast."""


class BlurConfig(Augmentation):
    """Blur with a Gaussian of random width."""

    sigma: float = Field(1.0, ge=0.01, le=4.0)
    """Largest standard deviation of the Gaussian, in pixels of the label."""


class NoiseConfig(Augmentation):
    """Add Gaussian noise of random strength."""

    std: float = Field(0.1, gt=0.0, le=10.0)
    """Largest standard deviation of the noise, in standard deviations of the channel."""


class MixupConfig(Augmentation):
    """Blend each sample with another one of the batch."""

    alpha: float = Field(0.4, ge=0.01, le=100.0)
    """The share of the other sample is drawn from the distribution Beta(alpha, alpha)."""
    labels: Literal["linear", "or"] = "linear"
    """linear: labels are blended as the images are; or: a pixel is a contrail if it is one in either sample."""


class AugmentConfig(Strict):
    """Random changes of training samples, with probabilities per sample.

    Everything that moves pixels, the label shift included, is combined into one resampling.
    """

    flip: Probability = 0.5
    """Probability of a horizontal flip and, independently, of a vertical flip."""
    rot90: Probability = 0.5
    """Probability of a rotation by 90, 180 or 270 degrees (only 180 if the image is not square)."""
    affine: AffineConfig | None = AffineConfig()
    turn: TurnConfig | None = None
    multi_scale: MultiScaleConfig | None = None
    grid_distortion: GridDistortionConfig | None = None
    label_shift: Annotated[tuple[float, float], Field(strict=False)] | None = None
    """(down, right): how far labels lie from the image features that they mark, in pixels, at most 8 each way. null: as
    recorded in the store."""
    cut_out: CutOutConfig | None = None
    brightness_contrast: BrightnessContrastConfig | None = None
    blur: BlurConfig | None = None
    noise: NoiseConfig | None = None
    time_reversal: Probability = 0.0
    """Probability of reversing the order of the frames. Needs frames that are symmetric about the labelled frame."""
    mixup: MixupConfig | None = None
    cutmix: Probability = 0.0
    """Probability of pasting a rectangle of another sample of the batch together with its label. The rectangle's share
    of the area is uniform."""
    copy_paste: CopyPasteConfig | None = None
    erase: EraseConfig | None = None
    redraw: int = Field(0, ge=0, le=20)
    """How many times places and rectangles are drawn again for a positive sample of which no contrail would remain in
    the image. 0: never; such a sample counts as a record without a contrail."""

    @property
    def together(self) -> int:
        """How many neighbours of a batch mix."""
        return 2 if self.mixup is not None or self.cutmix or self.copy_paste is not None else 1

    def _check_combination(self) -> None:
        if self.label_shift is not None and max(map(abs, self.label_shift)) > LARGEST_LABEL_SHIFT:
            raise ValueError(
                f"augment.label_shift={list(self.label_shift)}: at most {LARGEST_LABEL_SHIFT} pixels each way are "
                "possible; give [down, right]"
            )


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
        _needs(self.kind == "conv3d", "model.mixer.kind=conv3d", self, "model.mixer.shortcut")
        _needs(in_a_row, "model.mixer.kind=conv3d, lstm or transformer", self, "model.mixer.blocks")
        some_levels = self.levels is not None and self.downscale == 1
        _needs(some_levels, "model.mixer.levels, and model.mixer.downscale=1", self, "model.mixer.neighbours")
        by_level = "model.mixer.levels model.mixer.downscale model.mixer.own_frame"
        _needs(self.kind != "panels", "another model.mixer.kind than panels", self, by_level)


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
        _needs(self.uncertain > 0, "uncertain above 0", self, "model.decoder.point_rend.oversample")


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
        _needs(self.kind in ("unet", "fastfcn"), "model.decoder.kind=unet or fastfcn", self, keys)
        keys = "model.decoder.upsample model.decoder.centre"
        _needs(self.kind == "unet", "model.decoder.kind=unet", self, keys)
        bilinear = self.upsample == "bilinear"
        _needs(bilinear, "model.decoder.upsample=bilinear", self, "model.decoder.align_corners")


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
    """true: timm's or torchvision's weights, from the web; a path: weights from that file (.safetensors, .pth or
    .pt)."""
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
            known = ", ".join(VIDEO_ENCODERS)
            raise ValueError(f"model.encoder={self.encoder}: not a video model; choose {VIDEO_PREFIX} with {known}")
        _needs(not self.takes_clips, "an encoder of single images", self, "model.mixer model.stem_stride")
        trained = "encoder" not in self.freeze
        _needs(trained, "an encoder that is not in model.freeze", self, "model.freeze_epochs")
        self._check_freeze()
        if self.decoder is None and self.record_head is None:
            raise ValueError(
                "model.decoder: null, and model.record_head too, so that the model predicts nothing; set one, for "
                "example model.record_head={}"
            )
        _needs(self.decoder is not None, "model.decoder", self, "model.annotator_maps model.score_head")
        if self.annotator_maps is not None and self.decoder is not None and self.decoder.point_rend is not None:
            raise ValueError(
                "model.decoder.point_rend: refines a single map, and model.annotator_maps has several; set one to null"
            )
        if self.record_head is not None:
            _needs(self.decoder is not None, "model.decoder", self.record_head, "model.record_head.auxiliary")
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


class FocalConfig(Strict):
    """Focal loss: cross-entropy weighted by |target - probability| to the power gamma."""

    weight: float = Field(1.0, gt=0.0, le=1000.0)
    gamma: float = Field(2.0, ge=0.0, le=100.0)


class TverskyConfig(Strict):
    """1 minus the Tversky index, a Dice in which missed and false pixels cost differently."""

    weight: float = Field(1.0, gt=0.0, le=1000.0)
    miss: float = Field(0.7, ge=0.0, le=1.0)
    """Cost of a missed pixel. A false pixel costs 1 - miss, and 0.5 is Dice."""


class ConsistencyConfig(Strict):
    """Learn on `data.unlabelled` to agree with the average of the weights, `optim.ema` (mean teacher).

    Each step has as many unlabelled frames as labelled ones. Both networks see them moved alike, but with other
    changes of their values (`augment.noise`, `blur`, `brightness_contrast`, `cut_out`, `time_reversal`).
    """

    kind: Literal["mse", "bce"] = "mse"
    """What is small if both agree: the squared difference of probabilities, or the cross-entropy."""
    weight: float = Field(1.0, gt=0.0, le=10_000.0)
    """Weight of its mean over pixels, and over records with a record head. Squares of rare contrails are small."""
    rise: Probability = 0.2
    """Fraction of all steps in which the weight rises, while the average is not yet better than the model."""


class LossConfig(Strict):
    """The loss, a weighted sum of terms. A weight of 0, or null, leaves a term out."""

    bce: Weight = 1.0
    """Weight of the binary cross-entropy of the mask."""
    pos_weight: float = Field(1.0, gt=0.0, le=10_000.0)
    """Weight of contrail pixels, and of positive records, in the cross-entropies."""
    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0)
    """Move the targets of the cross-entropies by this fraction of the way to 1/2."""
    dice: Weight = 0.0
    """Weight of 1 - global Dice. Its sums, as those of all ratios, are over all samples that pass through the model at
    once on all processes: with `micro_batch` it is the mean of the micro-batches' losses, which is another loss."""
    dice_numerator: float = Field(1.0, gt=0.0, le=1e9)
    """Pixels added to the numerator of `dice`; a micro-batch adds its share of them."""
    dice_denominator: float = Field(1.0, gt=0.0, le=1e9)
    """Pixels added to the denominator. If they are many times the contrail pixels of a batch, the loss is nearly linear
    in the probabilities, and hardly depends on `micro_batch`."""
    symmetric_dice: Weight = 0.0
    """Weight of 1 minus the mean of the global Dice of contrails and that of the background."""
    lovasz: Weight = 0.0
    """Weight of the symmetric Lovász hinge: the mean over contrails and background, over each process's micro-batch."""
    focal: FocalConfig | None = None
    tversky: TverskyConfig | None = None
    auxiliary: Weight = 0.4
    """Weight of the mean loss of the other maps of a decoder with deep supervision, which learn `data.target`."""
    auxiliary_target: Literal["full", "max_pool"] = "full"
    """What these maps are compared with. full: the label, to whose size they are resampled; max_pool: at their own
    resolution, a label that marks each pixel within which there is a contrail."""
    points: float = Field(1.0, gt=0.0, le=1000.0)
    """Weight of the loss of the points of `model.decoder.point_rend`, which learn `data.target`."""
    second_target: float = Field(1.0, gt=0.0, le=1000.0)
    """Weight of the loss of the map that learns `data.second_target`. That of the other map is 1."""
    record: Weight = 1.0
    """Weight of the cross-entropy of the record head."""
    score: float = Field(1.0, gt=0.0, le=1000.0)
    """Weight of the cross-entropy of the score head."""
    consistency: ConsistencyConfig | None = None

    def _check_combination(self) -> None:
        _needs(self.dice > 0, "loss.dice", self, "loss.dice_numerator loss.dice_denominator")
        if not any(getattr(self, term) for term in MASK_TERMS):
            raise ValueError(
                "loss.bce: 0, as is every other term of the mask, so there is nothing to minimise; raise one"
            )


class OptimConfig(Strict):
    """The optimiser, AdamW, and the average of the weights."""

    lr: Rate = 1e-3
    """Largest learning rate."""
    encoder_lr: Rate | None = None
    """Largest learning rate of the encoder. null: `lr`."""
    mixer_lr: Rate | None = None
    """Largest learning rate of the mixer. null: `lr`."""
    decoder_lr: Rate | None = None
    """Largest learning rate of the decoder. null: `lr`."""
    weight_decay: float = Field(1e-4, ge=0.0, le=100.0)
    """Decoupled weight decay. Norms and biases are exempt."""
    schedule: Literal["cosine", "onecycle"] = "cosine"
    """Course of the learning rates. cosine: a linear rise, then a cosine down to 0. onecycle: a cosine from
    1 / `start_divisor` of the largest rate up to it, then a cosine down, while the optimiser's first momentum goes from
    0.95 to 0.85 and back; the OneCycleLR of torch, whose own `warmup` is 0.3."""
    warmup: float = Field(0.02, ge=0.0, le=1.0)
    """Fraction of all steps in which the learning rates rise."""
    start_divisor: float = Field(25.0, ge=1.0, le=1e6)
    """Of `schedule: onecycle`: the largest learning rate divided by the first one."""
    final_divisor: float = Field(1e4, ge=1.0, le=1e9)
    """Of `schedule: onecycle`: the first learning rate divided by the last one."""
    clip: float = Field(2.0, gt=0.0, le=1e9)
    """Largest global norm of the gradient."""
    ema: float = Field(0.998, ge=0.0, lt=1.0)
    """Decay per step of the exponential average of the weights. In step n it is at most 1 - n^(-2/3), which is 0.99
    after 1,000 steps, 0.998 after 11,000 and 0.9999 after a million, so that no run ends with an average that remembers
    its first steps. 0: no average."""
    average_best: int = Field(1, ge=1, le=1000)
    """The weights of the run are the mean of those of the best epochs, at most this many; without a hold-out, of the
    last epochs."""

    def _check_combination(self) -> None:
        divisors = "optim.start_divisor optim.final_divisor"
        _needs(self.schedule == "onecycle", "optim.schedule=onecycle", self, divisors)


class CalibrationConfig(Strict):
    """What is fitted when training is over, and on which records."""

    from_: list[str] = Field(default_factory=list, alias="from")
    """Finished runs or pipelines whose held-out records decide on threshold, gate and minimum size of this run, which
    trains on all data: for example the runs of all folds. Each record is predicted by the model that held it out. Their
    stores must be at hand. Empty: threshold 0.5 and no gate, if nothing is held out."""
    label_grid: Literal["fixed", "learned"] = "fixed"
    """How masks come from the image's frame onto the grid of the labels: moved by the label shift; or by a convolution
    of 5 x 5 pixels that is learned from held-out labels, if the 95 % interval of the Dice that it gains there is above
    0. Whole scans stay in the image's frame."""


class RunConfig(Strict):
    """All settings of a run."""

    format: int = Field(FORMAT, ge=FORMAT, le=FORMAT)
    """Version of the layout of these settings."""
    preset: str = "unet2d"
    """Name of the preset, or of the file, that these settings started from."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of everything random: initial weights, order of the samples, augmentation, dropout."""
    epochs: int = Field(30, ge=1, le=100_000)
    """Number of passes over the training data."""
    batch_size: Samples = 16
    """Samples per optimiser step, over all processes."""
    micro_batch: Samples | None = None
    """Samples that go through the model at once on one device; gradients accumulate over a step. null: all at once. The
    gradient is that of the whole batch, except that batch norms see, and `loss.dice`, `symmetric_dice`, `tversky` and
    `lovasz` are computed over, a micro-batch."""
    start: str | None = None
    """A finished run, or its best.safetensors, to start from. Tensors with the same name and shape are copied."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 autocast on a GPU that supports it, float32 elsewhere."""
    compile: bool = False
    """Compile the model with torch.compile."""
    device: str = "auto"
    """auto: CUDA if available, otherwise the CPU."""
    top_k: Pixels = 100
    """The score of a record is the mean of its k highest pixel probabilities. The gate compares it with a threshold."""
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    calibration: CalibrationConfig = CalibrationConfig()

    def _check_combination(self) -> None:
        model, data, loss, optim = self.model, self.data, self.loss, self.optim
        mask, record, several = model.decoder is not None, model.record_head is not None, len(data.frames) > 1
        parts = self.micro_batch is None or self.micro_batch <= self.batch_size
        deep = model.decoder is not None and model.decoder.deep_supervision
        augment = self.augment
        moves = bool(data.crop or augment.affine or augment.turn or augment.multi_scale or augment.cutmix)
        _needs(parts, "a larger batch_size", self, "micro_batch")
        empties = data.records == "all" or bool(augment.erase or data.crop)
        _needs(empties, "data.records=all, augment.erase or data.crop", augment, "augment.copy_paste")
        _needs(moves, "augment.affine, turn, multi_scale or cutmix, or data.crop", augment, "augment.redraw")
        _needs(several, "several data.frames", model, "model.mixer")
        _needs(several, "several data.frames", augment, "augment.time_reversal")
        _needs(several, "several data.frames", data, "data.edges")
        _needs(several, "several data.frames", model, "model.flow_stream")
        moving, mixes = data.warp or model.flow_stream is not None, model.mixer is not None or model.takes_clips
        joined = mixes or model.flow_stream is not None
        _needs(joined, "model.mixer, model.flow_stream or an encoder of videos", data, "data.frames")
        _needs(mixes, "several data.frames and model.mixer", data, "data.warp")
        keys = " ".join(f"data.flow.{key}" for key in type(data.flow).model_fields)
        _needs(moving, "data.warp=true or model.flow_stream", data.flow, keys)
        learns = model.mixer is not None and model.mixer.learns
        learns, decodes = learns and "mixer" not in model.freeze, mask and "decoder" not in model.freeze
        _needs(learns, "model.mixer with weights that are not in model.freeze", optim, "optim.mixer_lr")
        _needs("encoder" not in model.freeze, "an encoder that is not in model.freeze", optim, "optim.encoder_lr")
        _needs(decodes, "model.decoder that is not in model.freeze", optim, "optim.decoder_lr")
        _needs(mask, "model.decoder", data, "data.teacher")
        _needs(mask, "model.decoder", loss, " ".join(f"loss.{term}" for term in MASK_TERMS))
        _needs(record, "model.record_head", loss, "loss.record")
        _needs(model.score_head is not None, "model.score_head", loss, "loss.score")
        cross_entropy = record or loss.bce > 0
        _needs(cross_entropy, "loss.bce or model.record_head", loss, "loss.pos_weight loss.label_smoothing")
        _needs(deep, "model.decoder.deep_supervision=true", loss, "loss.auxiliary loss.auxiliary_target")
        _needs(loss.auxiliary > 0, "loss.auxiliary above 0", loss, "loss.auxiliary_target")
        points = model.decoder is not None and model.decoder.point_rend is not None
        _needs(points, "model.decoder.point_rend", loss, "loss.points")
        _needs(mask, "model.decoder", data, "data.second_target")
        _needs(data.second_target is not None, "data.second_target", loss, "loss.second_target")
        _needs(bool(data.unlabelled), "data.unlabelled", loss, "loss.consistency")
        _needs(loss.consistency is not None, "loss.consistency", data, "data.unlabelled")
        human_targets = "data.target data.second_target data.teacher"
        _needs(model.annotator_maps is None, "model.annotator_maps=null", data, human_targets)
        _needs(mask, "model.decoder", self.calibration, "calibration.label_grid")
        held_out = data.holds_out or bool(self.calibration.from_)
        _needs(held_out, "held-out records, or calibration.from", self.calibration, "calibration.label_grid")
        self._check_contradictions()

    def _check_contradictions(self) -> None:
        """Raise ValueError if settings of several groups contradict each other."""
        if self.calibration.from_ and self.data.holds_out:
            raise ValueError(
                "calibration.from: has no effect, as thresholds are fitted on the run's own hold-out; set "
                "data.holdout=0 without data.folds and data.validation, or calibration.from=[]"
            )
        model, frames, reversal = self.model, self.data.frames, self.augment.time_reversal
        coarse = model.mixer is not None and model.mixer.downscale > 1
        if self.compile and model.checkpoint_activations and coarse:
            raise ValueError(
                "compile: with model.checkpoint_activations and model.mixer.downscale gradients would not be exact; "
                "set compile=false, model.checkpoint_activations=false or model.mixer.downscale=1"
            )
        if model.frozen_at_random and self.start is None:
            part = model.frozen_at_random[0]
            remedy = "model.pretrained or start" if part == "encoder" else "start"
            raise ValueError(
                f"model.freeze: {part} would keep its random weights; set {remedy}, or remove {part} from model.freeze"
            )
        if model.freeze_epochs and not model.pretrained and self.start is None:
            raise ValueError(
                "model.freeze_epochs: the encoder has only random weights to keep; set model.pretrained or start, or "
                "model.freeze_epochs=0"
            )
        if model.freeze_epochs >= self.epochs:
            raise ValueError(
                f"model.freeze_epochs={model.freeze_epochs}: the encoder would not be trained in any of the "
                f"{self.epochs} epochs; lower it, or set model.freeze=[encoder]"
            )
        if reversal and frames != [-offset for offset in reversed(frames)]:
            raise ValueError(
                f"augment.time_reversal={reversal}: data.frames={frames} is not symmetric about the labelled frame; "
                "set augment.time_reversal=0, or other frames"
            )
        if self.loss.consistency is not None and self.optim.ema == 0:
            raise ValueError("loss.consistency: its teacher is the average of the weights; raise optim.ema above 0")
        if model.decoder is None and self.loss.record == 0:
            raise ValueError("loss.record: 0, and a model without a mask has no other term; raise it")
