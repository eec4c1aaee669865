"""Named pipelines, one set for each family of presets: what the notes ended with, and what it has to beat."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contrail_data.errors import ContrailError
from contrail_train.config.pipelines import PipelineConfig, parse_pipeline
from contrail_train.config.presets import PRESETS
from contrail_train.config.settings import read_tree


@dataclass(frozen=True)
class PipelinePreset:
    name: str
    about: str
    stages: dict[str, str]
    """Preset by stage."""
    keys: dict[str, Any]
    """Of `PipelineConfig`."""


def _family(family: str, soft: str) -> list[PipelinePreset]:
    classifier, everything, positive = f"{family}_classifier", f"{family}_all{soft}", f"{family}_positive{soft}"
    two = {"all": everything, "positive": positive}
    notes = {"gate_when": "best"}
    return [
        PipelinePreset(
            f"{family}_single",
            "One segmenter of all records: what the others have to beat.",
            {"all": everything},
            {"mask": ["all"]},
        ),
        PipelinePreset(
            f"{family}_no_gate",
            "The mean of a segmenter of all records and one of positives, of every record.",
            two,
            {"mask": ["all", "positive"]},
        ),
        PipelinePreset(
            f"{family}_v1",
            "The notes' earlier pipeline: a classifier decides, a segmenter of positives draws.",
            {"classifier": classifier, "positive": positive},
            {"gate": ["classifier"], "mask": ["positive"], **notes},
        ),
        PipelinePreset(
            f"{family}_v2",
            "The notes' last pipeline: classifier and segmenter of all records decide, half and half; both segmenters "
            "draw, half and half.",
            {"classifier": classifier, **two},
            {"gate": ["classifier", "all"], "mask": ["all", "positive"], **notes},
        ),
        PipelinePreset(
            f"{family}_fitted",
            "The same with fitted weights, a gate only where it is proven, and all flips and turns averaged.",
            {"classifier": classifier, **two},
            {"gate": ["classifier", "all"], "mask": ["all", "positive"], "weights": "fitted", "tta": "dihedral"},
        ),
    ]


_FAMILIES = sorted({name.removesuffix("_classifier") for name in PRESETS if name.endswith("_classifier")})
PIPELINES: dict[str, PipelinePreset] = {
    preset.name: preset
    for family in _FAMILIES
    for preset in _family(family, "_soft" if f"{family}_all_soft" in PRESETS else "")
}


def get_pipeline(preset_or_file: str) -> PipelineConfig:
    """A pipeline by the name of its preset, or from a YAML file, which says what differs from the preset that it names
    (stages all or none), or the whole. Raises ContrailError for neither.
    """
    if (preset := PIPELINES.get(preset_or_file)) is not None:
        stages = {name: {"preset": run} for name, run in preset.stages.items()}
        return parse_pipeline({"preset": preset.name, "stages": stages, **preset.keys}, preset.name)
    if Path(preset_or_file).suffix in {".yaml", ".yml"}:
        tree = read_tree(Path(preset_or_file))
        if isinstance(tree, dict) and tree.get("preset") in PIPELINES:
            tree = get_pipeline(tree["preset"]).model_dump(mode="json") | tree
        return parse_pipeline(tree, preset_or_file)
    close = difflib.get_close_matches(preset_or_file, PIPELINES, 1)
    hint = f"did you mean {close[0]}?" if close else "see `contrail-train presets pipelines`, or name a .yaml file"
    raise ContrailError(f"{preset_or_file}: no such pipeline: {hint}")
