"""One strict schema of a run: every setting, its type, its default, and nothing else.

A preset (`presets.py`) returns a complete `RunConfig`; `--set key=value` changes single keys of it;
the whole of it is written into the run directory before the first step.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from contrail_data.errors import ContrailError


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_assignment=True)


class PseudoConfig(Strict):
    """How pseudo-labelled frames count beside human-labelled ones."""

    weight: float = Field(0.5, ge=0.0)
    """Weight of a pseudo-labelled frame in the loss; a human-labelled one weighs 1."""
    target: Literal["soft", "quantised", "hard"] = "soft"
    """The probability itself; the probability rounded to `step`; or the stored gated mask."""
    step: float = Field(0.25, gt=0.0, le=0.5)


class DataConfig(Strict):
    train: list[str] = Field(default_factory=list)
    """Stores to train on: paths, URLs or catalog names; pseudo-label stores join theirs by record id."""
    holdout: float = Field(0.15, ge=0.0, lt=1.0)
    """Fraction of the human-labelled records, whole (site, day) groups, that is never trained on:
    the checkpoint is chosen and the threshold fitted there."""
    pseudo: PseudoConfig = PseudoConfig()
    threads: int = Field(2, ge=1)
    """Threads that read and decode chunks."""
    prefetch: int = Field(3, ge=1)
    """Batches kept ready ahead of the step."""
    keep: bool = False
    """Keep a local copy of each file that is read from a remote store, where `contrail-data pull` would put it."""
    check: bool = False
    """Hold every frame to its checksum as it is read: a damaged store stops the run."""


class AugmentConfig(Strict):
    """Probabilities are per sample; every drawn transform composes into one affine matrix."""

    flip: float = Field(0.5, ge=0.0, le=1.0)
    """Probability of each of the horizontal and the vertical flip."""
    rot90: float = Field(0.5, ge=0.0, le=1.0)
    affine: float = Field(0.5, ge=0.0, le=1.0)
    """Probability of one joint draw of shift, scale and rotation within the limits below."""
    shift: float = Field(0.1, ge=0.0, le=0.5)
    """Largest shift, as a fraction of the image side."""
    scale: float = Field(0.3, ge=0.0, lt=1.0)
    """Scale factor is drawn from [1 - scale, 1 + scale]."""
    rotate: float = Field(15.0, ge=0.0, le=180.0)
    """Largest rotation, degrees."""
    label_shift: tuple[float, float] | None = None
    """(dy, dx): labels lie this many pixels down and right of the image, at most 8. None: as the store says."""

    @field_validator("label_shift")
    @classmethod
    def _within_reach(cls, shift: tuple[float, float] | None) -> tuple[float, float] | None:
        if shift is not None and not all(abs(d) <= 8 for d in shift):
            raise ValueError("pixels, at most 8 each way")
        return shift


class ModelConfig(Strict):
    encoder: str = "tf_efficientnet_lite0"
    """Any timm model that offers `features_only`."""
    pretrained: bool | str = False
    """True: timm's weights from the hub; a path: weights from that file (.pth, .safetensors)."""
    drop_path: float = Field(0.0, ge=0.0, lt=1.0)
    decoder_channels: list[Annotated[int, Field(ge=1)]] = Field(
        default_factory=lambda: [256, 128, 64, 32, 16], min_length=1
    )
    """Width of each UNet decoder block, deepest first; as many are used as there are halvings (5 for stride 32)."""
    attention: Literal["scse"] | None = None


class LossConfig(Strict):
    """Weights of a sum; a zero leaves a term out."""

    bce: float = Field(1.0, ge=0.0)
    dice: float = Field(0.0, ge=0.0)
    """Weight of 1 - global Dice, summed over the whole batch before dividing."""

    @model_validator(mode="after")
    def _something_to_minimise(self) -> LossConfig:
        if self.bce == 0 and self.dice == 0:
            raise ValueError("loss.bce and loss.dice are both 0: nothing to minimise")
        return self


class OptimConfig(Strict):
    lr: float = Field(1e-3, gt=0.0)
    weight_decay: float = Field(1e-4, ge=0.0)
    """AdamW, decoupled; norms and biases are left out."""
    warmup: float = Field(0.02, ge=0.0, le=1.0)
    """Fraction of all steps over which the learning rate rises linearly; then a cosine to 0."""
    clip: float = Field(2.0, gt=0.0)
    """Largest global gradient norm."""
    ema: float = Field(0.998, ge=0.0, lt=1.0)
    """Decay of the weight average per optimiser step, lower in the first few hundred; 0: no averaging."""


class RunConfig(Strict):
    preset: str = "unet2d"
    """The preset this came from, for the record."""
    seed: int = Field(0, ge=0, lt=2**32)
    epochs: int = Field(30, ge=1)
    batch_size: int = Field(16, ge=1)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 autocast on a GPU that has it, float32 elsewhere."""
    device: str = "auto"
    """auto: cuda where there is one, else cpu."""
    top_k: int = Field(100, ge=1)
    """Record score: mean of the k highest pixel probabilities; the gate compares it with its threshold."""
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()


def with_settings(config: RunConfig, settings: list[str]) -> RunConfig:
    """A copy with single keys changed, each given as `key=value`, the value as YAML.

    Raises ContrailError for a setting that is no `key=value`, an unknown key or a value of the wrong kind.
    """
    tree = config.model_dump(mode="json")
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key.strip():
            raise ContrailError(f"--set {setting!r}: write key=value, for example --set epochs=3")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ContrailError(f"--set {key}: {text!r} is no YAML value: quote it") from None
        branch, *path = tree, *key.strip().split(".")
        for i, part in enumerate(path):
            if not isinstance(branch, dict) or part not in branch:
                _refuse_key(key, ".".join(path[: i + 1]))
            if i < len(path) - 1:
                branch = branch[part]
        if path == ["data", "train"] and isinstance(value, str):
            value = [value]  # one store needs no brackets
        branch[path[-1]] = value
    return parse_config(tree, "--set")


def parse_config(tree: Any, where: str) -> RunConfig:
    """A checked config from plain data. Raises ContrailError naming the first key that does not fit."""
    if not isinstance(tree, dict):
        raise ContrailError(f"{where}: holds no settings: write key: value lines as `presets show` prints them")
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            _refuse_key(where, key)
        given = f" (given: {str(first['input'])[:60]!r})" if first["type"] != "value_error" else ""
        raise ContrailError(f"{where}: {key}: {first['msg']}{given}: correct the value") from None


def read_config(path: Path) -> RunConfig:
    """A config from a YAML file, as `presets show` prints it. Raises ContrailError."""
    try:
        return parse_config(yaml.safe_load(path.read_text()), str(path))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ContrailError(f"{path}: no readable YAML file ({str(error).splitlines()[0]}): check it") from None


def to_yaml(config: RunConfig) -> str:
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def known_keys() -> list[str]:
    """Every key that can be set, dotted."""

    def walk(tree: dict[str, Any], prefix: str) -> list[str]:
        return [
            dotted
            for name, value in tree.items()
            for dotted in (walk(value, f"{prefix}{name}.") if isinstance(value, dict) else [prefix + name])
        ]

    return walk(RunConfig().model_dump(), "")


def _refuse_key(where: str, key: str) -> NoReturn:
    close = difflib.get_close_matches(key, known_keys(), 1, 0.4)
    hint = f"did you mean {close[0]}?" if close else "see `contrail-train presets show unet2d` for all keys"
    raise ContrailError(f"{where}: there is no setting {key!r}: {hint}")
