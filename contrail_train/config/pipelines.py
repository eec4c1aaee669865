"""MISSING DOCSTRING."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from contrail_data.errors import ContrailError
from contrail_data.labels.predictor import Symmetries
from contrail_train.config.presets import get_config
from contrail_train.config.schema import RunConfig, Strict
from contrail_train.config.settings import takes, with_settings


class Stage(Strict):
    """A run: a preset to train, with settings of its own, or one that is finished."""

    preset: str | None = None
    """A preset or a .yaml file of settings."""
    run: str | None = None
    """A finished run directory, which is copied."""
    settings: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_of_both(self) -> Stage:
        if (self.preset is None) == (self.run is None):
            raise ValueError("a stage needs either preset or run: give one")
        if self.run is not None and self.settings:
            raise ValueError(f"run={self.run} is finished and takes no settings: leave them away, or name a preset")
        return self


class PipelineConfig(Strict):
    preset: str = "unet2d_v2"
    """The preset this came from, for the record."""
    stages: dict[str, Stage] = Field(min_length=1)
    """By name."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Of all stages that are trained, by dotted key; a stage's own come after."""
    gate: list[str] = Field(default_factory=list)
    """Stages that tell whether a record has any contrail: a classifier by its probability, a segmenter by the mean of
    its `top_k` highest pixels. None: every record's mask counts."""
    mask: list[str] = Field(min_length=1)
    """Segmenters whose probabilities are averaged."""
    weights: Literal["equal", "fitted"] = "equal"
    """Of the stages in gate and mask: all the same, or fitted in quarters with the thresholds."""
    gate_when: Literal["proven", "best"] = "proven"
    """Whether a gate is kept only where its gain holds in resamplings, or always the one that is best."""
    top_k: int = Field(100, ge=1)
    tta: Symmetries = "none"
    """Over which flips and turns of an image predictions are averaged."""
    calibrate_on: list[str] = Field(default_factory=list)
    """Stores whose records, as far as no stage was trained on them, weights and thresholds are fitted on. None: those
    that the stages hold out."""

    @model_validator(mode="after")
    def _names_are_known(self) -> PipelineConfig:
        for name in (*self.gate, *self.mask):
            if name not in self.stages:
                raise ValueError(f"{name!r} is no stage: the stages are {', '.join(self.stages)}")
        if idle := [name for name in self.stages if name not in (*self.gate, *self.mask)]:
            raise ValueError(f"stage {idle[0]!r} is neither in gate nor in mask: name it there, or leave it out")
        if self.settings and all(stage.run is not None for stage in self.stages.values()):
            raise ValueError(
                f"settings: {', '.join(self.settings)}: of stages that are trained, and all are finished runs"
            )
        if any("/" in name or name.startswith(".") for name in self.stages):
            raise ValueError("a stage's name becomes a folder: leave / and a leading . out of it")
        return self


def parse_pipeline(tree: Any, where: str) -> PipelineConfig:
    """A checked pipeline from plain data. Raises ContrailError naming the first key that does not fit."""
    try:
        return PipelineConfig.model_validate(tree)
    except ValidationError as error:
        errors = error.errors()
        first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = Stage.model_fields if key.startswith("stages.") else PipelineConfig.model_fields
            close = difflib.get_close_matches(str(first["loc"][-1]), known, 1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
            raise ContrailError(f"{where}: there is no setting {key!r}: {hint}") from None
        if first["type"] == "value_error":
            raise ContrailError(f"{where}: {f'{key}: ' if key else ''}{first['ctx']['error']}") from None
        if first["type"] == "missing":
            raise ContrailError(
                f"{where}: lacks {key}: give it, or name a preset of `contrail-train presets pipelines`"
            ) from None
        given, field = str(first["input"])[:60], PipelineConfig.model_fields.get(str(first["loc"][0])) if key else None
        if field is None or first["loc"][0] in ("stages", "settings"):
            raise ContrailError(
                f"{where}: {key or 'the file'}: {given!r}: {first['msg'].lower()}: correct it"
            ) from None
        raise ContrailError(f"{where}: {key} cannot be {given!r}: give {takes(field)}") from None


def with_pipeline_settings(config: PipelineConfig, settings: Sequence[str]) -> PipelineConfig:
    """A copy with single keys changed, each `key=value`, the value as YAML: a key of the pipeline, `STAGE.run`,
    `STAGE.preset`, `STAGE.` and a key of a run, or a key of a run for all stages. Raises ContrailError.
    """
    tree = config.model_dump(mode="json")
    own = set(PipelineConfig.model_fields) - {"stages", "settings", "preset"}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ContrailError(f"--set {setting!r}: write key=value, for example --set epochs=3")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ContrailError(f"--set {key}: {text!r} is no YAML value: quote it") from None
        first, _, rest = key.partition(".")
        if key in own:
            one_of_many = key in ("gate", "mask", "calibrate_on") and isinstance(value, str)
            tree[key] = [value] if one_of_many else value
        elif first in tree["stages"] and rest in ("run", "preset"):
            tree["stages"][first] = {rest: value}
        elif first in tree["stages"] and rest:
            tree["stages"][first].setdefault("settings", {})[rest] = value
        elif rest and first not in RunConfig.model_fields:
            close = difflib.get_close_matches(first, tree["stages"], 1)
            hint = f"did you mean {close[0]}.{rest}?" if close else f"the stages are {', '.join(tree['stages'])}"
            raise ContrailError(f"--set {key}: {first!r} is neither a stage nor a group of settings: {hint}")
        else:
            tree["settings"][key] = value
    made = parse_pipeline(tree, f"{config.preset} with --set {' --set '.join(settings)}" if settings else config.preset)
    for name, stage in made.stages.items():
        if stage.preset is not None:
            stage_config(made, name)  # told now, not after hours
    return made


def stage_config(config: PipelineConfig, name: str) -> RunConfig:
    """The run that a stage trains."""
    stage = config.stages[name]
    assert stage.preset is not None
    given = config.settings | stage.settings
    pairs = [f"{key}={yaml.safe_dump(value, default_flow_style=True).splitlines()[0]}" for key, value in given.items()]
    try:
        return with_settings(get_config(stage.preset), pairs)
    except ContrailError as error:
        raise ContrailError(f"stage {name}: {error}") from None


def pipeline_yaml(config: PipelineConfig) -> str:
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
