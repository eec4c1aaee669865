"""One strict schema of a run: every setting, its type, its default, and nothing else.

A preset (`presets.py`) returns a complete `RunConfig`; `--set key=value` changes single keys of it;
the whole of it is written into the run directory before the first step.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class Strict(BaseModel):
    model_config = ConfigDict(
        extra="forbid", validate_assignment=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class PseudoConfig(Strict):
    """How pseudo-labelled frames count beside human-labelled ones."""

    weight: float = Field(0.5, gt=0.0)
    """Weight of a pseudo-labelled frame in the loss; a human-labelled one weighs 1."""
    target: Literal["soft", "quantised", "hard"] = "soft"
    """The probability itself; the probability rounded to `step`; or the stored gated mask."""
    step: float = Field(0.25, gt=0.0, le=0.5)
    min_confidence: Probability = 0.0
    """Leave out frames whose `frame_confidence` is lower: mean probability of the mask's pixels, 1 - score of an empty
    mask."""
    min_agreement: Probability = 0.0
    """Leave out frames on which the models that labelled them agree less (`frame_agreement`)."""
    of: Literal["frame", "record"] = "frame"
    """Whether the two are those of the frame, or the means over the record's frames."""


class DataConfig(Strict):
    train: list[str] = Field(default_factory=list)
    """Stores to train on: paths, URLs or catalog names; pseudo-label stores join theirs by record id."""
    composite: str | None = None
    """Name of the composite that the stores must have; null: any."""
    frames: list[Annotated[int, Field(ge=-7, le=7)]] = Field(default_factory=lambda: [0], min_length=1, max_length=8)
    """Frames the model sees, as ascending offsets from the labelled one: [0] is 2D, [-1, 0, 1] one before and after."""
    normalise: Literal["statistics", "image"] = "statistics"
    """Per channel by the stores' train statistics; or by each sample's own mean and deviation over its frames."""
    target: Literal["majority", "mean", "clip2"] = "majority"
    """Of human labels: the majority mask; the annotators' mean; or twice the mean, at most 1. A record without
    annotators has its mask either way."""
    records: Literal["all", "positive"] = "all"
    """Train on all frames, or on those with a contrail alone."""
    holdout: float = Field(0.15, ge=0.0, lt=1.0)
    """Fraction of the human-labelled records, whole (site, day) groups, that is never trained on: the checkpoint is
    chosen and the threshold fitted there. 0: train on all; nothing is chosen, the threshold is 0.5."""
    fold: int = Field(0, ge=0)
    """Which such part is held out: with holdout 0.2, folds 0 to 4 share the records out among themselves."""
    folds: str | None = None
    """A file that `contrail-data splits` wrote: `fold` of it is held out, in place of the fraction `holdout`."""
    leave_out: list[Annotated[int, Field(ge=0)]] = Field(default_factory=list)
    """Folds of that file that are neither trained on nor held out."""
    validation: list[str] = Field(default_factory=list)
    """Labelled stores that are held out, in place of a part of data.train."""
    leaks: Literal["refuse", "drop", "allow"] = "refuse"
    """What to do with records to train on that share id, raw data, or footprint and time with one that is held out:
    stop; leave them out; or use them all the same. Pseudo-labels of a model that was trained on a held-out record all
    may carry what it learnt there: they are refused unless all is allowed."""
    balance: list[Literal["positive", "place", "hour", "month"]] = Field(default_factory=list)
    """Draw records so that these are equally frequent: with and without contrail, cells of 10 degrees, 3 hours of solar
    time, months. An epoch is as long as ever; records come several times or not at all."""
    balance_power: float = Field(1.0, gt=0.0, le=1.0)
    """1: equally frequent; less: nearer to as they are."""
    pseudo: PseudoConfig = PseudoConfig()
    threads: int = Field(2, ge=1)
    """Threads that read and decode chunks."""
    prefetch: int = Field(3, ge=1)
    """Batches kept ready ahead of the step."""
    keep: bool = False
    """Keep a local copy of each file that is read from a remote store, where `contrail-data pull` would put it."""
    check: bool = False
    """Hold every frame to its checksum as it is read: a damaged store stops the run."""

    @model_validator(mode="after")
    def _one_labelled_frame(self) -> DataConfig:
        if self.frames != sorted(set(self.frames)) or 0 not in self.frames:
            raise ValueError(f"data.frames={self.frames}: give ascending offsets from the labelled frame, 0 among them")
        if self.fold and self.folds is None and (self.fold + 1) * self.holdout > 1 + 1e-9:
            raise ValueError(
                f"data.fold={self.fold}: with data.holdout={self.holdout} the folds end before it: lower it"
            )
        if self.folds is not None and self.validation:
            raise ValueError("data.folds and data.validation both say what is held out: set one of them")
        if self.fold in self.leave_out:
            raise ValueError(f"data.leave_out names fold {self.fold}, which data.fold holds out: correct one")
        return self


class AugmentConfig(Strict):
    """Probabilities are per sample. What moves pixels composes into one resampling, the label shift included."""

    flip: Probability = 0.5
    """Probability of each of the horizontal and the vertical flip."""
    rot90: Probability = 0.5
    affine: Probability = 0.5
    """Probability of one joint draw of shift, scale and rotation within the limits below."""
    shift: float = Field(0.1, ge=0.0, le=0.5)
    """Largest shift, as a fraction of the image side."""
    scale: float = Field(0.3, ge=0.0, lt=1.0)
    """Scale factor is drawn from [1 - scale, 1 + scale]."""
    rotate: float = Field(15.0, ge=0.0, le=180.0)
    """Largest rotation, degrees."""
    turn: Probability = 0.0
    """Probability of a rotation of its own, whether or not `affine` was drawn."""
    turn_degrees: float = Field(45.0, ge=0.0, le=180.0)
    multi_scale: Probability = 0.0
    """Probability of a zoom between 1 / multi_scale_factor and multi_scale_factor, uniform in its logarithm."""
    multi_scale_factor: float = Field(2.0, ge=1.0, le=4.0)
    grid_distortion: Probability = 0.0
    """Probability of stretching the cells of a grid, `grid_cells` a side, by up to `grid_stretch` of their width."""
    grid_cells: int = Field(5, ge=2, le=32)
    grid_stretch: float = Field(0.3, ge=0.0, lt=1.0)
    label_shift: tuple[float, float] | None = None
    """(dy, dx): labels lie this many pixels down and right of the image, at most 8. null: as the store says."""
    cut_out: Probability = 0.0
    """Probability of a square of `cut_out_side` pixels set to the channels' mean; the label stays."""
    cut_out_side: int = Field(16, ge=1)
    brightness_contrast: Probability = 0.0
    """Probability of adding up to ±brightness and scaling by 1 ± contrast, in standard deviations, all frames alike."""
    brightness: float = Field(0.2, ge=0.0)
    contrast: float = Field(0.2, ge=0.0, lt=1.0)
    blur: Probability = 0.0
    """Probability of a Gaussian blur of up to `blur_sigma` pixels."""
    blur_sigma: float = Field(1.0, gt=0.0, le=4.0)
    noise: Probability = 0.0
    """Probability of Gaussian noise of up to `noise_std` standard deviations."""
    noise_std: float = Field(0.1, gt=0.0)
    time_reversal: Probability = 0.0
    """Probability of showing the frames last to first; needs frames symmetric about the labelled one."""
    mixup: Probability = 0.0
    """Probability of blending with another sample of the batch; the share is drawn from Beta(alpha, alpha)."""
    mixup_alpha: float = Field(0.4, gt=0.0)
    mixup_labels: Literal["linear", "or"] = "linear"
    """Labels blend as the images do, or a pixel is contrail where it is in either."""
    cutmix: Probability = 0.0
    """Probability of pasting a rectangle of another sample of the batch, its label included; the area's share is
    drawn from Beta(1, 1)."""

    @field_validator("label_shift")
    @classmethod
    def _within_reach(cls, shift: tuple[float, float] | None) -> tuple[float, float] | None:
        if shift is not None and not all(abs(d) <= 8 for d in shift):
            raise ValueError("augment.label_shift: give (down, right) in pixels, at most 8 each way")
        return shift


class ModelConfig(Strict):
    encoder: str = "tf_efficientnet_lite0"
    """Any timm model that offers `features_only`."""
    pretrained: bool | str = False
    """true: timm's weights from the hub; a path: weights from that file (.pth, .safetensors)."""
    drop_path: float = Field(0.0, ge=0.0, lt=1.0)
    stem_stride: Literal[1] | None = None
    """1: the encoder's first strided convolution does not stride, so every level has twice the resolution."""
    image_size: int | None = Field(None, ge=32)
    """Side in pixels that images are resampled to; logits return to the label's size. null: as stored."""
    freeze: list[Literal["encoder", "batch_norm"]] = Field(default_factory=list)
    """Not trained: the encoder's weights and statistics; the statistics and scales of every batch norm."""
    mixer: Literal["conv3d", "lstm", "mean", "none"] = "none"
    """How the frames of a level become one: residual 3-D blocks, an LSTM, their mean, or the labelled one alone."""
    mix_levels: list[Annotated[int, Field(ge=0)]] | None = None
    """Levels of the pyramid that are mixed, 0 the shallowest; elsewhere the labelled frame alone goes on. null: all."""
    mix_blocks: int = Field(3, ge=1)
    """3-D blocks, or LSTM layers, in a row."""
    decoder: Literal["unet", "fastfcn", "unetplusplus", "manet", "fpn", "deeplabv3plus", "upernet", "segformer"] = (
        "unet"
    )
    decoder_channels: list[Annotated[int, Field(ge=1)]] = Field(
        default_factory=lambda: [256, 128, 64, 32, 16], min_length=1
    )
    """Width of each decoder block, deepest first; as many are used as there are halvings (5 for stride 32). Decoders
    of one width (fastfcn, fpn, deeplabv3plus, upernet, segformer) have the first."""
    upsample: Literal["nearest", "bilinear"] = "nearest"
    """Of the unet; the backward pass of bilinear is not deterministic on CUDA."""
    attention: Literal["scse", "cbam"] | None = None
    """In the blocks of the unet."""
    centre: Literal["fpa", "aspp"] | None = None
    """Between encoder and unet, at the deepest level."""
    norm: Literal["batch", "group"] = "batch"
    """Of decoder and mixer; an encoder has its own."""
    deep_supervision: bool = False
    """Each block of the unet predicts the mask as well, in training."""
    two_class: bool = False
    """Two maps, contrail and not, in place of one: `loss.bce` is then the cross-entropy of their softmax."""
    head: Literal["mask", "record", "both"] = "mask"
    """Predicts contrail pixels; whether a record has any; or both, the mask then learnt from positive records alone."""
    record_dropout: float = Field(0.2, ge=0.0, lt=1.0)
    """In the record head."""

    @model_validator(mode="after")
    def _fits_together(self) -> ModelConfig:
        unet_only = {"attention": self.attention, "centre": self.centre, "deep_supervision": self.deep_supervision}
        if self.decoder != "unet" and (given := [key for key, value in unet_only.items() if value]):
            raise ValueError(f"model.{given[0]}: only model.decoder=unet has it: set one of the two")
        return self


class LossConfig(Strict):
    """Weights of a sum; a zero leaves a term out. The mask's terms, then the record's."""

    bce: float = Field(1.0, ge=0.0)
    pos_weight: float = Field(1.0, gt=0.0)
    """Weight of contrail pixels (records, in the record term) in the cross-entropy."""
    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0)
    """Targets move by this fraction of the way to 1/2, in cross-entropies."""
    dice: float = Field(0.0, ge=0.0)
    """Weight of 1 - global Dice, summed over the whole batch before dividing."""
    symmetric_dice: float = Field(0.0, ge=0.0)
    """Of the mean of that for contrail and for its complement."""
    lovasz: float = Field(0.0, ge=0.0)
    """Of the symmetric Lovász hinge: the mean for contrail and for its complement, over the whole batch."""
    focal: float = Field(0.0, ge=0.0)
    focal_gamma: float = Field(2.0, ge=0.0)
    tversky: float = Field(0.0, ge=0.0)
    tversky_miss: float = Field(0.7, ge=0.0, le=1.0)
    """Cost of a missed pixel; one of a false pixel is 1 less that. 0.5 is Dice."""
    auxiliary: float = Field(0.4, ge=0.0)
    """Weight of the mean loss of a deeply supervised decoder's other maps."""
    record: float = Field(1.0, ge=0.0)
    """Of the record head's cross-entropy."""

    @model_validator(mode="after")
    def _something_to_minimise(self) -> LossConfig:
        if not any((self.bce, self.dice, self.symmetric_dice, self.lovasz, self.focal, self.tversky)):
            raise ValueError("loss.bce and every other term of the mask are 0, nothing to minimise: raise one")
        return self


class OptimConfig(Strict):
    lr: float = Field(1e-3, gt=0.0)
    encoder_lr: float | None = Field(None, gt=0.0)
    """Of the encoder, where it is not `lr`; likewise the mixer and the decoder."""
    mixer_lr: float | None = Field(None, gt=0.0)
    decoder_lr: float | None = Field(None, gt=0.0)
    weight_decay: float = Field(1e-4, ge=0.0)
    """AdamW, decoupled; norms and biases are left out."""
    warmup: float = Field(0.02, ge=0.0, le=1.0)
    """Fraction of all steps over which the learning rate rises linearly; then a cosine to 0."""
    clip: float = Field(2.0, gt=0.0)
    """Largest global gradient norm."""
    ema: float = Field(0.998, ge=0.0, lt=1.0)
    """Decay of the weight average per optimiser step, lower in the first few hundred; 0: no averaging."""
    average_best: int = Field(1, ge=1)
    """The run's weights are the mean of those of this many best epochs; without a hold-out, of the last."""


class RunConfig(Strict):
    preset: str = "unet2d"
    """The preset this came from, for the record."""
    seed: int = Field(0, ge=0, lt=2**32)
    epochs: int = Field(30, ge=1)
    batch_size: int = Field(16, ge=1)
    """Samples an optimiser step, over all processes."""
    micro_batch: int | None = Field(None, ge=1)
    """Samples that go through the model at once, on one device; gradients accumulate. null: all of a step's."""
    start: str | None = None
    """A run directory, or its best.safetensors, to start from: tensors of equal name and shape are taken over."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 autocast on a GPU that has it, float32 elsewhere."""
    compile: bool = False
    """Compile the model with torch.compile."""
    device: str = "auto"
    """auto: cuda where there is one, else cpu."""
    top_k: int = Field(100, ge=1)
    """Record score: mean of the k highest pixel probabilities; the gate compares it with its threshold."""
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()

    @model_validator(mode="after")
    def _fits_together(self) -> RunConfig:
        frames = self.data.frames
        if self.augment.time_reversal and frames != [-f for f in reversed(frames)]:
            raise ValueError(
                f"augment.time_reversal={self.augment.time_reversal} needs as many frames after the labelled one as "
                f"before it, and data.frames={frames}: set augment.time_reversal=0, or other frames"
            )
        if self.model.head == "record" and self.loss.record == 0:
            raise ValueError("loss.record is 0, and model.head=record has no other term: raise it")
        return self
