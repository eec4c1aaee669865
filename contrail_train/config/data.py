"""Settings of `data`: the stores to train on, which part is held out, and how they are read."""

from typing import Annotated, Literal

from pydantic import Field

from contrail_data.settings.strict import Probability, Strict, needs

Fold = Annotated[int, Field(ge=0, le=9999)]


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
        needs(self.target == "quantised", "data.pseudo.target=quantised", self, "data.pseudo.step")
        limits = self.min_confidence > 0 or self.min_agreement > 0
        needs(limits, "data.pseudo.min_confidence or min_agreement", self, "data.pseudo.of")


class BalanceConfig(Strict):
    """Draw some records more often, others less often or not at all. The length of an epoch stays the same."""

    by: list[Literal["positive", "place", "hour", "month"]] = Field(default_factory=list)
    """Classes that become equally frequent over all frames to train on (over all records if `data.pseudo.probability`
    draws one frame of each): with and without contrails; cells of 10 degrees; 3-hour intervals of local solar time;
    months. Empty: all are drawn once per epoch."""
    power: float = Field(1.0, gt=0.0, le=1.0)
    """1 makes the classes equally frequent; the closer to 0, the closer they stay to their frequency in the data."""

    def _check_combination(self) -> None:
        needs(bool(self.by), "data.balance.by", self, "data.balance.power")


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
        needs(self.method == "raft", "data.flow.method=raft", self, "data.flow.weights")


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
    """A finished run, a pipeline, a model folder (by path, URL, hf://ORG/NAME@REVISION or catalog name) or an exported
    file whose probabilities the mask learns beside the human labels
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
    """Threads that read and decode chunks. Where they wait for a remote store, there are up to 64."""
    prefetch: int = Field(3, ge=1, le=64)
    """Number of batches that are kept ready ahead of the training step; more, of up to 1 GiB, where it would wait for a
    remote store."""
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
        needs(not file and not stores, "no data.folds or data.validation", self, "data.holdout")
        needs(file, "data.folds", self, "data.leave_out")
        needs(bool(self.teacher), "data.teacher", self, "data.teacher_weight")
        by_fold = file or (self.holdout > 0 and not stores)
        needs(by_fold, "data.folds, or data.holdout above 0 without data.validation", self, "data.fold")
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
