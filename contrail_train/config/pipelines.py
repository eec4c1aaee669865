"""Pipelines, in which several runs decide and draw together: the schema, and those named in pipelines.yaml."""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from contrail_data.errors import ContrailError
from contrail_data.labels.predictor import Symmetries
from contrail_data.settings.parse import listed, parse_assignment, validated
from contrail_data.settings.strict import Strict
from contrail_data.storage.documents import read_document
from contrail_train.config.presets import PRESETS, Described, get_config, no_such
from contrail_train.config.schema import Pixels, RunConfig
from contrail_train.config.settings import with_values
from contrail_train.config.training import MASK_TERMS


class Stage(Strict):
    """One run of a pipeline: a preset to train, or a finished run."""

    preset: str | None = None
    """A preset, or a .yaml file of settings."""
    run: str | None = None
    """Directory of a finished run, or a model folder (by path, URL, hf://ORG/NAME@REVISION or catalog name), which is
    copied."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """What differs from the preset, by dotted key."""

    def _check_combination(self) -> None:
        if (self.preset is None) == (self.run is None):
            raise ValueError("a stage needs either preset or run; give one of them")
        if self.run is not None and self.settings:
            raise ValueError(f"run={self.run} is finished, so its settings cannot change; remove them or name a preset")


class PipelineConfig(Strict):
    """All settings of a pipeline."""

    shown_by: ClassVar[str] = "contrail-train presets show unet2d_v2"
    preset: str = "unet2d_v2"
    """Name of the pipeline, or of the file, that these settings started from."""
    stages: dict[str, Stage] = Field(min_length=1)
    """The runs by name."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings of all stages that are trained, by dotted key. A stage's own settings take precedence."""
    gate: list[str] = Field(default_factory=list)
    """Stages that decide whether a record has any contrail: a classifier by its probability, a segmenter by the mean of
    its `top_k` highest pixels. Empty: the mask of every record counts."""
    mask: list[str] = Field(min_length=1)
    """Segmenters whose probabilities are averaged."""
    weights: Literal["equal", "fitted"] = "equal"
    """Weights of the stages in gate and mask: equal, or fitted in quarters together with the thresholds."""
    gate_when: Literal["proven", "best"] = "proven"
    """Whether a gate is used only if the 95 % interval of its gain is above 0, or whenever it scores best."""
    label_grid: Literal["fixed", "learned"] = "fixed"
    """How averaged masks come onto the grid of the labels, as `calibration.label_grid` of a run."""
    top_k: Pixels = 100
    """Number of pixels that a segmenter's score of a record averages."""
    tta: Symmetries = Field(Symmetries.NONE, strict=False)
    """Flips and turns of an image over which predictions are averaged."""
    calibrate_on: list[str] = Field(default_factory=list)
    """Stores on whose records weights and thresholds are fitted, except records that a stage was trained on. Empty: the
    records that the stages hold out."""

    def _check_combination(self) -> None:
        used = (*self.gate, *self.mask)
        if unknown := [name for name in used if name not in self.stages]:
            raise ValueError(f"{unknown[0]!r} is not a stage; the stages are {', '.join(self.stages)}")
        if idle := [name for name in self.stages if name not in used]:
            raise ValueError(f"stage {idle[0]!r} is neither in gate nor in mask; add it to one of them or remove it")
        if self.settings and all(stage.run is not None for stage in self.stages.values()):
            raise ValueError(
                f"settings: {', '.join(self.settings)} have no effect, as all stages are finished runs; remove them"
            )
        if "calibration.label_grid" in self.settings:
            raise ValueError(
                "calibration.label_grid: has no effect, as a pipeline maps the average of its masks; set label_grid"
            )
        if any("/" in name or name.startswith(".") for name in self.stages):
            raise ValueError("stages: a name becomes a folder; remove / and the leading . from it")


@dataclass(frozen=True, kw_only=True)
class PipelinePreset(Described):
    """A named pipeline."""

    settings: dict[str, Any]
    """Plain data of a `PipelineConfig`."""


def _read_pipelines() -> Iterator[tuple[str, PipelinePreset]]:
    kinds = read_document(Path(__file__).with_name("pipelines.yaml"))
    for family in sorted(name.removesuffix("_classifier") for name in PRESETS if name.endswith("_classifier")):
        for kind, entry in kinds.items():
            stages = {}
            for stage in dict.fromkeys([*entry.get("gate", []), *entry["mask"]]):
                soft = f"{family}_{stage}_soft"
                stages[stage] = {"preset": soft if soft in PRESETS else f"{family}_{stage}"}
            name = f"{family}_{kind}"
            described = {key: entry[key] for key in ("about", "verdict", "measured") if key in entry}
            settings = {key: value for key, value in entry.items() if key not in described}
            yield name, PipelinePreset(**described, settings={"preset": name, "stages": stages, **settings})


PIPELINES: dict[str, PipelinePreset] = dict(_read_pipelines())


def get_pipeline(preset_or_file: str) -> PipelineConfig:
    """Find a pipeline by name, or read one from a YAML file.

    Args:
        preset_or_file: Name of a pipeline, or path of a .yaml file: a complete pipeline, or what differs from the one
            that its key `preset` names (the stages all or none).

    Returns:
        The complete settings.

    Raises:
        ContrailError: If it is neither, or the file's settings are not valid.
    """
    if (preset := PIPELINES.get(preset_or_file)) is not None:
        return validated(PipelineConfig, preset.settings, preset_or_file)
    if Path(preset_or_file).is_file() or Path(preset_or_file).suffix in {".yaml", ".yml"}:
        tree = read_document(Path(preset_or_file))
        if isinstance(tree, dict) and (preset := PIPELINES.get(str(tree.get("preset")))):
            tree = preset.settings | tree
        config = validated(PipelineConfig, tree, preset_or_file)
        if "preset" not in config.model_fields_set:
            config.preset = Path(preset_or_file).name
        return config
    raise ContrailError(no_such("pipeline", preset_or_file, PIPELINES, "pipelines"))


def with_pipeline_settings(config: PipelineConfig, settings: Sequence[str], origin: str = "") -> PipelineConfig:
    """Change single settings of a pipeline.

    Args:
        config: The settings to start from, which stay as they are.
        settings: Assignments `key=value`, the value as YAML. A key is one of the pipeline; `STAGE.run` or
            `STAGE.preset`; `STAGE.` and a key of its run; or a key of a run, which then holds for all stages. One about
            the decoder or the loss of masks leaves classifiers as they are, and one about the record head segmenters.
            Stages that a new gate or mask does not name are left out.
        origin: The pipeline or file that the settings come from, for messages; empty for the name that they state.

    Returns:
        The changed settings.

    Raises:
        ContrailError: If an assignment or the combination of settings is not valid.
    """
    tree = config.model_dump(mode="json")
    fields = {key: f for key, f in PipelineConfig.model_fields.items() if key not in ("stages", "settings", "preset")}
    assignments = [parse_assignment(text) for text in settings]
    for key, value in assignments:
        first, _, rest = key.partition(".")
        if key in fields:
            tree[key] = listed(fields[key], value)
        elif first in tree["stages"] and rest in ("run", "preset"):
            tree["stages"][first] = {rest: value}
        elif first in tree["stages"] and rest:
            tree["stages"][first].setdefault("settings", {})[rest] = value
        elif rest and first not in RunConfig.model_fields:
            close = difflib.get_close_matches(first, tree["stages"], 1)
            hint = f"did you mean {close[0]}.{rest}?" if close else f"the stages are {', '.join(tree['stages'])}"
            raise ContrailError(f"--set {key}: {first!r} is neither a stage nor a group of settings; {hint}")
        else:
            tree["settings"][key] = value
    _leave_out_idle_stages(tree, assignments)
    changed = validated(PipelineConfig, tree, " --set ".join([origin or config.preset, *settings]))
    trained = {name: stage for name, stage in changed.stages.items() if stage.preset is not None}
    for key in changed.settings:
        if trained and not any(_concerns(stage, get_config(str(stage.preset)), key) for stage in trained.values()):
            raise ContrailError(f"--set {key}: has no effect in any stage; give STAGE.{key}")
    for name in trained:
        stage_config(changed, name)  # refuses wrong settings of a stage now, not after hours
    return changed


def _leave_out_idle_stages(tree: dict[str, Any], assignments: Sequence[tuple[str, Any]]) -> None:
    """Remove the stages that neither gate nor mask names any more, if one of these was changed."""
    keys = [key for key, _ in assignments]
    if "gate" not in keys and "mask" not in keys:
        return
    used = [name for key in ("gate", "mask") if isinstance(tree[key], list) for name in tree[key]]
    for name in [name for name in tree["stages"] if name not in used]:
        if changes := [key for key in keys if key.startswith(f"{name}.")]:
            raise ContrailError(
                f"--set {changes[0]}: has no effect, as stage {name} is neither in gate nor in mask; omit it, or add "
                f"{name} to one of them"
            )
        del tree["stages"][name]


def stage_config(config: PipelineConfig, name: str) -> RunConfig:
    """Assemble the settings of a stage that is to be trained.

    Args:
        config: The pipeline.
        name: Name of a stage with a preset.

    Returns:
        The settings of its run.

    Raises:
        ContrailError: If they are not valid.
    """
    stage = config.stages[name]
    assert stage.preset is not None
    preset = get_config(stage.preset)
    shared = {key: value for key, value in config.settings.items() if _concerns(stage, preset, key)}
    return with_values(preset, (shared | stage.settings).items(), f"stage {name}")


def _concerns(stage: Stage, preset: RunConfig, key: str) -> bool:
    """Whether a setting for all stages is about one: on what masks learn only if the stage has that head."""
    group = ".".join(key.split(".")[:2])
    if any(own.startswith(group) for own in stage.settings):
        return True
    if group in ("model.decoder", "model.record_head"):
        return key == group or getattr(preset.model, group.removeprefix("model.")) is not None
    of_masks = {"data.teacher", "data.teacher_weight", "data.second_target", "optim.decoder_lr", "model.score_head"}
    of_masks |= {"model.annotator_maps", "loggers.pictures"}
    of_masks |= {f"loss.{term}" for term in (*MASK_TERMS, "second_target", "auxiliary", "score")}
    return preset.model.decoder is not None or group not in of_masks
