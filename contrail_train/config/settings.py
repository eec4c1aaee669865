"""Settings of runs from YAML files and `--set key=value`, and back to YAML."""

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from contrail_data.errors import ContrailError
from contrail_data.settings.fields import fields_of, group_of, setting_fields, takes
from contrail_data.settings.parse import listed, parse_assignment, unknown_setting, validated
from contrail_data.settings.strict import Strict, plain
from contrail_data.storage.documents import read_document
from contrail_train.config.schema import FORMAT, RunConfig

WIDTH = 110  # columns of explanations


def with_settings(config: RunConfig, settings: Sequence[str], origin: str = "") -> RunConfig:
    """Change single settings.

    Args:
        config: The settings to start from, which stay as they are.
        settings: Assignments `key=value`, the value as YAML.
        origin: The preset or file that the settings come from, for messages; empty for the name that they state.

    Returns:
        The changed settings.

    Raises:
        ContrailError: If an assignment or the combination of settings is not valid.
    """
    where = " --set ".join([origin or config.preset, *settings])
    return with_values(config, map(parse_assignment, settings), where)


def with_values(config: RunConfig, values: Iterable[tuple[str, Any]], where: str) -> RunConfig:
    """Change single settings; a key within a group that is null switches the group on.

    Args:
        config: The settings to start from, which stay as they are.
        values: Dotted keys and plain values.
        where: Name of their origin, for messages.

    Returns:
        The changed settings.

    Raises:
        ContrailError: If a key is unknown, or a value or the combination of settings is not valid.
    """
    tree, fields = config.model_dump(mode="json"), setting_fields(RunConfig)
    for key, value in values:
        if key not in fields:
            raise ContrailError(f"{where}: {unknown_setting(RunConfig, key)}")
        branch, (*groups, name) = tree, key.split(".")
        for group in groups:
            if branch[group] is None:
                branch[group] = {}
            branch = branch[group]
        branch[name] = listed(fields[key], value)
    return validated(RunConfig, tree, where)


def read_config(path: Path) -> RunConfig:
    """Read the complete settings that a run directory holds.

    Args:
        path: The run's config.yaml.

    Returns:
        The settings.

    Raises:
        ContrailError: If the file cannot be read, or was written by a version with another layout of the settings.
    """
    tree = read_document(path)
    if isinstance(tree, dict) and (version := tree.get("format", 1)) != FORMAT:
        raise ContrailError(
            f"{path}: settings of format {version}, while this version of contrail-kit reads format {FORMAT}; use the "
            "version in the run's environment.json, or train again"
        )
    return validated(RunConfig, tree, str(path))


def to_yaml(config: Strict) -> str:
    """Write settings as YAML.

    Args:
        config: The settings of a run or a pipeline.

    Returns:
        All of them, in the order of the schema.
    """
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def to_explained_yaml(config: RunConfig) -> str:
    """Write the settings of a run as YAML with comments.

    Args:
        config: The settings.

    Returns:
        All of them, each below its description and followed by the values it takes. The settings of a group that is
        null are comments with their defaults.
    """
    return "\n".join(_explained(RunConfig, config.model_dump(mode="json"))) + "\n"


def _explained(model: type[Strict], values: dict[str, Any], indent: str = "") -> Iterator[str]:
    for name, field in fields_of(model).items():
        group, value = group_of(field), values[name]
        about = (group.__doc__ if group else field.description) or ""
        if group and not indent:
            yield ""
        yield from (f"{indent}# {line}" for line in _wrapped(about))
        if group is None:
            text = yaml.dump(value, Dumper=yaml.CSafeDumper, default_flow_style=True, width=10_000).splitlines()[0]
            yield f"{indent}{name}: {text}  # {takes(field)}"
        elif value is None:
            yield f"{indent}{name}: null  # or a group of settings:"
            defaults = {key: f.get_default(call_default_factory=True) for key, f in fields_of(group).items()}
            yield from _explained(group, defaults, f"{indent}#   ")
        else:
            yield f"{indent}{name}:"
            yield from _explained(group, value, f"{indent}  ")


@cache
def _wrapped(about: str) -> list[str]:
    return textwrap.wrap(" ".join(about.split()), WIDTH)


def differences(before: Strict, config: Strict) -> list[str]:
    """Describe which settings differ from those that a run or a pipeline was begun with.

    Args:
        before: The settings that it was begun with.
        config: The present settings.

    Returns:
        One text per setting: `key=before, not present`.
    """
    theirs, ours = (values_by_key(settings.model_dump(mode="json")) for settings in (before, config))
    keys = dict.fromkeys([*theirs, *ours])
    changed = [key for key in keys if key != "preset" and theirs.get(key) != ours.get(key)]
    return [f"{key}={plain(theirs.get(key))}, not {plain(ours.get(key))}" for key in changed]


def values_by_key(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """List the values of settings, that of a group only if it is null or empty.

    Args:
        tree: Settings as plain data.
        prefix: Put before each key.

    Returns:
        Values by dotted key.
    """
    values: dict[str, Any] = {}
    for key, value in tree.items():
        is_group = isinstance(value, dict) and value
        values |= values_by_key(value, f"{prefix}{key}.") if is_group else {prefix + key: value}
    return values
