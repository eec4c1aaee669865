"""The strict schema of a run: every setting with its type, default, limits and description, and nothing else.

A feature with parameters is a group of settings. Where a group may be null, null switches the feature off and its
parameters with it. A setting that has no effect in combination with the others is refused, never ignored. Groups check
themselves in modules of their own; what several groups have to say about each other is here.

The string below each field is its description: `contrail-train presets show` and the reference documentation print it.
"""

from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from contrail_data.settings.strict import Strict, needs
from contrail_train.config.augment import AugmentConfig
from contrail_train.config.data import DataConfig
from contrail_train.config.loggers import LoggersConfig
from contrail_train.config.model import ModelConfig
from contrail_train.config.training import MASK_TERMS, CalibrationConfig, LossConfig, OptimConfig

FORMAT: Final = 2
"""Version of the layout of the settings. Format 1 had no key `format`."""
Samples = Annotated[int, Field(ge=1, le=65536)]
Pixels = Annotated[int, Field(ge=1, le=2**24)]


class RunConfig(Strict):
    """All settings of a run."""

    shown_by: ClassVar[str] = "contrail-train presets show unet2d"
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
    """A finished run, or its best.safetensors, to start from; or a model folder by path, URL, hf://ORG/NAME@REVISION or
    catalog name. Tensors with the same name and shape are copied."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of the network in training. auto: bf16 autocast on a GPU that computes it (compute capability 8 or
    higher), fp16 autocast on one that computes only that fast (7, such as T4 and V100), float32 elsewhere. fp16 scales
    the loss so that small gradients do not vanish, and skips a step whose gradient overflows."""
    compile: bool = False
    """Compile the model with torch.compile."""
    device: str = "auto"
    """auto: CUDA if available, otherwise the CPU."""
    top_k: Pixels = 100
    """The score of a record is the mean of its k highest pixel probabilities. The gate compares it with a threshold."""
    patience: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """End the run after so many epochs in a row whose hold-out Dice is not above the best before. The learning rate
    still follows the schedule of all epochs. null: never."""
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    calibration: CalibrationConfig = CalibrationConfig()
    loggers: LoggersConfig = LoggersConfig()

    def _check_combination(self) -> None:
        model, data, loss, optim = self.model, self.data, self.loss, self.optim
        mask, record, several = model.decoder is not None, model.record_head is not None, len(data.frames) > 1
        parts = self.micro_batch is None or self.micro_batch <= self.batch_size
        deep = model.decoder is not None and model.decoder.deep_supervision
        augment = self.augment
        needs(parts, "a larger batch_size", self, "micro_batch")
        check_samples(data, augment)
        needs(several, "several data.frames", model, "model.mixer")
        needs(several, "several data.frames", model, "model.flow_stream")
        moving, mixes = data.warp or model.flow_stream is not None, model.mixer is not None or model.takes_clips
        joined = mixes or model.flow_stream is not None
        needs(joined, "model.mixer, model.flow_stream or an encoder of videos", data, "data.frames")
        needs(mixes, "several data.frames and model.mixer", data, "data.warp")
        keys = " ".join(f"data.flow.{key}" for key in type(data.flow).model_fields)
        needs(moving, "data.warp=true or model.flow_stream", data.flow, keys)
        learns = model.mixer is not None and model.mixer.learns
        learns, decodes = learns and "mixer" not in model.freeze, mask and "decoder" not in model.freeze
        needs(learns, "model.mixer with weights that are not in model.freeze", optim, "optim.mixer_lr")
        needs("encoder" not in model.freeze, "an encoder that is not in model.freeze", optim, "optim.encoder_lr")
        needs(decodes, "model.decoder that is not in model.freeze", optim, "optim.decoder_lr")
        needs(mask, "model.decoder", data, "data.teacher")
        needs(mask, "model.decoder", loss, " ".join(f"loss.{term}" for term in MASK_TERMS))
        needs(record, "model.record_head", loss, "loss.record")
        needs(model.score_head is not None, "model.score_head", loss, "loss.score")
        cross_entropy = record or loss.bce > 0
        needs(cross_entropy, "loss.bce or model.record_head", loss, "loss.pos_weight loss.label_smoothing")
        needs(deep, "model.decoder.deep_supervision=true", loss, "loss.auxiliary loss.auxiliary_target")
        needs(loss.auxiliary > 0, "loss.auxiliary above 0", loss, "loss.auxiliary_target")
        points = model.decoder is not None and model.decoder.point_rend is not None
        needs(points, "model.decoder.point_rend", loss, "loss.points")
        needs(mask, "model.decoder", data, "data.second_target")
        needs(data.second_target is not None, "data.second_target", loss, "loss.second_target")
        needs(bool(data.unlabelled), "data.unlabelled", loss, "loss.consistency")
        needs(loss.consistency is not None, "loss.consistency", data, "data.unlabelled")
        human_targets = "data.target data.second_target data.teacher"
        needs(model.annotator_maps is None, "model.annotator_maps=null", data, human_targets)
        needs(mask, "model.decoder", self.calibration, "calibration.label_grid")
        held_out = data.holds_out or bool(self.calibration.from_)
        needs(held_out, "held-out records, or calibration.from", self.calibration, "calibration.label_grid")
        needs(data.holds_out, "held-out records", self, "patience")
        seen = (mask and data.holds_out) or not self.loggers.pictures
        needs(seen, "model.decoder and held-out records", self.loggers, "loggers.pictures")
        self._check_contradictions()

    def _check_contradictions(self) -> None:
        """Raise ValueError if settings of several groups contradict each other."""
        if self.calibration.from_ and self.data.holds_out:
            raise ValueError(
                "calibration.from: has no effect, as thresholds are fitted on the run's own hold-out; set "
                "data.holdout=0 without data.folds and data.validation, or calibration.from=[]"
            )
        if self.patience is not None and self.patience >= self.epochs:
            raise ValueError(
                f"patience={self.patience}: has no effect in {self.epochs} epochs; lower it, or set patience=null"
            )
        model = self.model
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
        if self.loss.consistency is not None and self.optim.ema == 0:
            raise ValueError("loss.consistency: its teacher is the average of the weights; raise optim.ema above 0")
        if model.decoder is None and self.loss.record == 0:
            raise ValueError("loss.record: 0, and a model without a mask has no other term; raise it")


def check_samples(data: DataConfig, augment: AugmentConfig) -> None:
    """Check that settings of what is read and of how it is changed fit together.

    Args:
        data: What is read.
        augment: How it is changed.

    Raises:
        ValueError: If they contradict each other, or one has no effect.
    """
    frames, reversal, several = data.frames, augment.time_reversal, len(data.frames) > 1
    empties = data.records == "all" or bool(augment.erase or data.crop)
    moves = bool(data.crop or augment.affine or augment.turn or augment.multi_scale or augment.cutmix)
    needs(empties, "data.records=all, augment.erase or data.crop", augment, "augment.copy_paste")
    needs(moves, "augment.affine, turn, multi_scale or cutmix, or data.crop", augment, "augment.redraw")
    needs(several, "several data.frames", augment, "augment.time_reversal")
    needs(several, "several data.frames", data, "data.edges")
    if reversal and frames != [-offset for offset in reversed(frames)]:
        raise ValueError(
            f"augment.time_reversal={reversal}: data.frames={frames} is not symmetric about the labelled frame; "
            "set augment.time_reversal=0, or other frames"
        )
