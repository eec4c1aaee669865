"""Named runs, read from presets.yaml: a preset is its parent with a few settings changed.

Sizes and costs of their models are shipped in preset_costs.json, which `python tests/helpers/costs.py` writes.
"""

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from contrail_data.errors import ContrailError
from contrail_data.settings.parse import validated
from contrail_data.storage.documents import read_document
from contrail_train.config.schema import RunConfig
from contrail_train.config.settings import values_by_key, with_values

COSTS = Path(__file__).with_name("preset_costs.json")
NOT_THE_NETWORK = {"pretrained", "freeze", "freeze_epochs", "checkpoint_activations"}
"""Settings of the model that change neither its size nor its cost."""


@dataclass(frozen=True, kw_only=True)
class Described:
    """The description of a named run or pipeline."""

    about: str
    """What it is."""
    verdict: str | None = None
    """What the notes say of it, in our words."""
    measured: str | None = None
    """What we measured of it."""
    dice: float | None = None
    """Validation global Dice of a single model in the notes."""

    @property
    def remarks(self) -> list[str]:
        """What it is, what the notes say of it, and what we measured, a text each."""
        texts = [self.about]
        if self.verdict is not None:
            texts.append(f"The notes: {self.verdict}")
        if self.dice is not None:
            texts.append(f"Validation Dice in the notes: {self.dice:.4f}.")
        if self.measured is not None:
            texts.append(f"Measured by us: {self.measured}")
        return texts


@dataclass(frozen=True, kw_only=True)
class Preset(Described):
    """A named run."""

    name: str
    family: str
    parent: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What differs from the parent: values by dotted key."""


@dataclass(frozen=True)
class Family:
    """Presets of one encoder or one purpose."""

    name: str
    about: str
    presets: tuple[Preset, ...]
    """The first one represents the family."""


@dataclass(frozen=True)
class Cost:
    """Size of a model, and cost of its forward pass on a sample of 3 channels and 256 x 256 pixels."""

    parameters: int
    flop: int
    """Floating-point operations per sample, over all its frames. A multiplication and an addition are two."""


def _read_families() -> dict[str, Family]:
    data = read_document(Path(__file__).with_name("presets.yaml"))
    stages, families = data["stages"], {}
    for name, entry in data["families"].items():
        about, parent = entry["about"], entry.get("parent")
        if "presets" in entry:
            rows = {preset: {"parent": parent, **row} for preset, row in entry["presets"].items()}
        else:
            rows = {
                f"{name}_{stage}": {
                    "about": about,
                    "verdict": entry.get("verdict"),
                    "parent": f"{stages['parent']}_{stage}",
                    "settings": entry["settings"] | (entry.get("mask_settings", {}) if has_mask else {}),
                    "dice": entry.get("dice", {}).get(stage),
                }
                for has_mask, names in ((True, stages["of_masks"]), (False, stages["of_records"]))
                for stage in names
            }
        presets = tuple(Preset(name=preset, family=name, **row) for preset, row in rows.items())
        families[name] = Family(name, about, presets)
    return families


FAMILIES: dict[str, Family] = _read_families()
PRESETS: dict[str, Preset] = {preset.name: preset for family in FAMILIES.values() for preset in family.presets}


def cost_key(config: RunConfig) -> str:
    """Identify the network that settings describe, regardless of its weights.

    Args:
        config: The settings.

    Returns:
        A digest of the settings of the model that are not defaults, so that a new setting changes no key, and of the
        frames.
    """
    model = config.model.model_dump(mode="json", exclude=NOT_THE_NETWORK, exclude_defaults=True)
    described = [model, config.data.frames]
    if config.data.second_target is not None:
        described.append("two maps")
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


@cache
def shipped_costs() -> dict[str, Cost]:
    """Read the costs of the models of all presets.

    Returns:
        Costs by `cost_key`.
    """
    return {key: Cost(**row) for key, row in json.loads(COSTS.read_text()).items()}


def get_config(preset_or_file: str) -> RunConfig:
    """Find settings by the name of a preset, or read them from a YAML file.

    Args:
        preset_or_file: Name of a preset, or path of a .yaml file with what differs from the preset that its key
            `preset` names, or from the defaults.

    Returns:
        The complete settings, which the caller may change.

    Raises:
        ContrailError: If it is neither, or the file's settings are not valid.
    """
    if (preset := PRESETS.get(preset_or_file)) is not None:
        return _config_of(preset)
    if Path(preset_or_file).is_file() or Path(preset_or_file).suffix in {".yaml", ".yml"}:
        tree = read_document(Path(preset_or_file))
        if isinstance(tree, dict) and str(tree.get("preset")) in PRESETS:
            return with_values(get_config(tree["preset"]), values_by_key(tree).items(), preset_or_file)
        config = validated(RunConfig, tree, preset_or_file)
        if "preset" not in config.model_fields_set:
            config.preset = Path(preset_or_file).name
        return config
    raise ContrailError(no_such("preset", preset_or_file, PRESETS, "ls"))


def _config_of(preset: Preset) -> RunConfig:
    parent = RunConfig() if preset.parent is None else _parent_config(preset.parent)
    return with_values(parent.model_copy(update={"preset": preset.name}), preset.settings.items(), preset.name)


@cache
def _parent_config(name: str) -> RunConfig:
    return _config_of(PRESETS[name])  # `with_values` leaves it as it is, so that it can be shared


def no_such(kind: str, name: str, names: Iterable[str], command: str) -> str:
    """Say that a preset or a pipeline does not exist.

    Args:
        kind: What it should be.
        name: The name.
        names: Those that exist.
        command: The one of `contrail-train presets` that lists them.

    Returns:
        The message of an error.
    """
    close = difflib.get_close_matches(name, names, 1)
    listing = f"`contrail-train presets {command}` lists them; or name a .yaml file"
    return f"{name}: no such {kind}; {f'did you mean {close[0]}?' if close else listing}"
