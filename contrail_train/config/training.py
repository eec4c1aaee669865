"""Settings of `loss`, `optim` and `calibration`."""

from typing import Literal

from pydantic import Field

from contrail_data.settings.strict import Probability, Rate, Strict, Weight, needs

MASK_TERMS = ("bce", "dice", "symmetric_dice", "lovasz", "focal", "tversky")


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
        needs(self.dice > 0, "loss.dice", self, "loss.dice_numerator loss.dice_denominator")
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
        needs(self.schedule == "onecycle", "optim.schedule=onecycle", self, divisors)


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

    def _check_combination(self) -> None:
        if twice := [name for name in self.from_ if self.from_.count(name) > 1]:
            raise ValueError(f"calibration.from: names {twice[0]} twice, whose records would count twice; remove one")
