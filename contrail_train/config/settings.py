"""Settings from YAML files and `--set key=value`, and back to YAML; every refusal says what to give instead."""

import difflib
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from contrail_data.errors import ContrailError
from contrail_data.storage.documents import load_document, read_document
from contrail_train.config.schema import FORMAT, RunConfig
from contrail_train.config.strict import Strict, plain

WIDTH = 110  # columns of explanations
Group = TypeVar("Group", bound=Strict)


def parse_assignment(text: str) -> tuple[str, Any]:
    """Split the `key=value` of a `--set` option.

    Args:
        text: The option's argument; the value is YAML.

    Returns:
        Key and value.

    Raises:
        ContrailError: If there is no key, no `=`, or the value is not YAML.
    """
    key, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not key:
        raise ContrailError(f"--set {text!r}: not a setting; write key=value, for example --set epochs=3")
    try:
        return key, load_document(value)
    except ValueError:
        raise ContrailError(f"--set {key}: {value!r} is not a YAML value; quote it") from None


def with_settings(config: RunConfig, settings: Sequence[str]) -> RunConfig:
    """Change single settings.

    Args:
        config: The settings to start from, which stay as they are.
        settings: Assignments `key=value`, the value as YAML.

    Returns:
        The changed settings.

    Raises:
        ContrailError: If an assignment or the combination of settings is not valid.
    """
    where = " --set ".join([config.preset, *settings])
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
    tree, fields = config.model_dump(mode="json"), dict(setting_fields(RunConfig))
    for key, value in values:
        if key not in fields:
            raise ContrailError(f"{where}: {_unknown(RunConfig, key)}")
        branch, (*groups, name) = tree, key.split(".")
        for group in groups:
            if branch[group] is None:
                branch[group] = {}
            branch = branch[group]
        branch[name] = listed(fields[key], value)
    return validated(RunConfig, tree, where)


def listed(field: FieldInfo, value: Any) -> Any:
    """Let a list of one text be given without brackets.

    Args:
        field: The setting.
        value: Its plain value.

    Returns:
        The value, in a list if it is a text and the setting takes a list.
    """
    return [value] if get_origin(field.annotation) is list and isinstance(value, str) else value


def validated(model: type[Group], tree: Any, where: str) -> Group:
    """Check plain data against a schema; settings that are missing have their defaults.

    Args:
        model: The schema.
        tree: Plain data, as read from YAML.
        where: Name of their origin, for messages.

    Returns:
        An instance of the schema.

    Raises:
        ContrailError: If the data do not fit; the message names the first wrong key and what it takes.
    """
    if not isinstance(tree, dict):
        raise ContrailError(
            f"{where}: not a file of settings; write lines `key: value` as `contrail-train presets show` prints them"
        )
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise ContrailError(f"{where}: {_refusal(model, error)}") from None


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
        yield from (f"{indent}# {line}" for line in textwrap.wrap(" ".join(about.split()), WIDTH))
        if group is None:
            text = yaml.safe_dump(value, default_flow_style=True, width=10_000).splitlines()[0]
            yield f"{indent}{name}: {text}  # {takes(field)}"
        elif value is None:
            yield f"{indent}{name}: null  # or a group of settings:"
            defaults = {key: f.get_default(call_default_factory=True) for key, f in fields_of(group).items()}
            yield from _explained(group, defaults, f"{indent}#   ")
        else:
            yield f"{indent}{name}:"
            yield from _explained(group, value, f"{indent}  ")


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


def known_keys(model: type[Strict]) -> list[str]:
    """List every single setting.

    Args:
        model: The schema.

    Returns:
        Dotted keys in the order of the schema.
    """
    return [key for key, field in setting_fields(model) if group_of(field) is None]


def fields_of(model: type[Strict]) -> dict[str, FieldInfo]:
    """List the settings of a group.

    Args:
        model: The schema of the group.

    Returns:
        Fields by key, which is the field's alias where its name is a word of Python.
    """
    return {field.alias or name: field for name, field in model.model_fields.items()}


def setting_fields(model: type[Strict], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Go through a schema.

    Args:
        model: The schema.
        prefix: Put before each key.

    Yields:
        Every dotted key with its field, a group before its settings.
    """
    for name, field in fields_of(model).items():
        yield prefix + name, field
        if group := group_of(field):
            yield from setting_fields(group, f"{prefix}{name}.")


def group_of(field: FieldInfo) -> type[Strict] | None:
    """Return the schema of a group of settings, or of the groups in a dictionary by name.

    Args:
        field: A field of a schema.

    Returns:
        The schema of the group; None for a single setting.
    """
    kinds = (field.annotation, *get_args(field.annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Strict)), None)


def takes(field: FieldInfo) -> str:
    """Describe the values that a setting takes.

    Args:
        field: The setting.

    Returns:
        Words such as "a whole number from 1, or null".
    """
    return _words(field.annotation, field.metadata)


_KINDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", NoneType: "null"}
_BOUNDS = {"ge": "from {}", "gt": "above {}", "le": "to {}", "lt": "to below {}"}


def _words(kind: Any, limits: Sequence[Any]) -> str:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        limits = [*limits, *parts[1:]]
        return _words(parts[0], [x for limit in limits for x in getattr(limit, "metadata", [limit])])
    if origin is Literal or (isinstance(kind, type) and issubclass(kind, Enum)):
        return " or ".join(", ".join(map(str, parts or kind)).rsplit(", ", 1))
    if origin in (UnionType, Union):
        return ", or ".join(_words(part, limits if part is not NoneType else []) for part in parts)
    if origin is list:
        least = next((n for x in limits if (n := getattr(x, "min_length", None))), 0)
        return f"a list{f' of {least} or more' if least else ''}, each entry {_words(parts[0], [])}"
    if origin is tuple:
        return f"[{', '.join(_KINDS[part] for part in parts)}]"
    bounds = [(text, getattr(x, key, None)) for key, text in _BOUNDS.items() for x in limits]
    words = [
        text.format(f"{bound:g}" if isinstance(bound, float) else bound) for text, bound in bounds if bound is not None
    ]
    return " ".join([_KINDS.get(kind, "a group of settings"), *words])


def _refusal(model: type[Strict], error: ValidationError) -> str:
    """What is wrong with plain data, and what to give instead."""
    errors = error.errors()
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return _unknown(model, key)
    if first["type"] == "value_error":  # by the schema's own validators, whose messages name key and remedy
        return str(first["ctx"]["error"])
    if first["type"] == "missing" and isinstance(first["loc"][-1], str):
        return f"{key}: missing; give it"
    group: type[Strict] | None = model
    path: list[str] = []
    field: FieldInfo | None = None
    for part in first["loc"]:  # which continues beyond the setting in lists and unions
        if group and part in fields_of(group):
            field, path = fields_of(group)[str(part)], [*path, str(part)]
            group = group_of(field) or group
    assert field is not None
    key, value = ".".join(path), plain(first["input"])[:60]
    if (inner := group_of(field)) is None:
        return f"{key}: cannot be {value!r}; give {takes(field)}"
    off = ", or null to switch it off" if NoneType in get_args(field.annotation) else ""
    example = next(iter(fields_of(inner)))
    return f"{key}: is a group of settings, not {value!r}; set {key}.{example} or another of them{off}"


def _unknown(model: type[Strict], key: str) -> str:
    """Refuse a key, naming those that may be meant."""
    keys = known_keys(model)
    by_name: dict[str, list[str]] = {}
    for known in keys:
        by_name.setdefault(known.rpartition(".")[2], []).append(known)
    name = key.rpartition(".")[2]
    names = [name] if name in by_name else difflib.get_close_matches(name, by_name, 2, 0.75)
    near = [full for match in names for full in by_name[match]] or difflib.get_close_matches(key, keys, 1, 0.6)
    show = f"`contrail-train presets show {model.model_fields['preset'].default}`"
    hint = f"did you mean {' or '.join(near)}?" if near else f"{show} prints all keys"
    return f"there is no setting {key!r}; {hint}"
