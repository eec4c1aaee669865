"""Plain data and `--set key=value` against a strict schema; every refusal says what to give instead.

A schema is a subclass of `Strict`. An entry of a list may be one of several groups, which its key `kind` distinguishes;
such an entry is addressed by its index, as in `sources.0.path`.
"""

import copy
import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from types import NoneType
from typing import Any, NamedTuple, TypeVar, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from contrail_data.errors import ContrailError
from contrail_data.settings.fields import fields_of, group_of, known_keys, takes, variants_of
from contrail_data.settings.strict import Strict, plain
from contrail_data.storage.documents import load_document

_FEW_KEYS = 24
"""Largest number of keys that a message lists."""

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
        raise ContrailError(f"--set {text!r}: not a setting; write key=value")
    try:
        return key, load_document(value)
    except ValueError:
        raise ContrailError(f"--set {key}: {value!r} is not a YAML value; quote it") from None


def as_plain(value: Any) -> Any:
    """Convert what Python code gives as a setting to what YAML would give.

    Args:
        value: A value of a setting, or a group of settings.

    Returns:
        The same with paths as texts, tuples, ranges and arrays as lists, and scalars of numpy as those of Python.
    """
    if isinstance(value, Mapping):
        return {str(key): as_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | range):
        return [as_plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy and torch, which are not imported for this
        return value.tolist()
    return str(value) if isinstance(value, PurePath) else value


def assigned(tree: Any, values: Iterable[tuple[str, Any]]) -> Any:
    """Change values of plain data, which are not checked against a schema.

    Args:
        tree: Plain data, as read from YAML, which stay as they are.
        values: Dotted keys and plain values; the entries of a list have the keys 0, 1 and so on.

    Returns:
        The changed data.

    Raises:
        ContrailError: If a key leads into a value that has no keys, or to an entry that a list does not have.
    """
    tree = copy.deepcopy(tree)
    for key, value in values:
        branch: Any = tree
        *groups, name = key.split(".")
        for depth, part in enumerate([*groups, name]):
            within = ".".join(groups[:depth]) or "the file"
            if isinstance(branch, list):
                if not part.isdecimal() or int(part) >= len(branch):
                    entries = f"the entries 0 to {len(branch) - 1}" if branch else "no entries"
                    raise ContrailError(f"--set {key}: {within} has {entries}; correct the key")
                index: Any = int(part)
            elif isinstance(branch, dict):
                index = part
            else:
                raise ContrailError(f"--set {key}: {within} is {plain(branch)[:60]!r}, without keys; set that as one")
            if depth == len(groups):
                branch[index] = value
            elif isinstance(branch, dict):
                branch = branch.setdefault(index, {})
            else:
                branch = branch[index]
    return tree


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
            f"{where}: not a file of settings; write lines `key: value` as `{model.shown_by}` prints them"
        )
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise ContrailError(f"{where}: {_refusal(model, error)}") from None


class _Key(NamedTuple):
    """A key of plain data that was refused, and what the schema says of it."""

    path: list[str]
    """Parts of the dotted key, as far as the schema has it."""
    field: FieldInfo | None
    """The innermost setting or group on the path."""
    entry: type[Strict] | None
    """Schema of the entry of a list that the path leads into."""


def _locate(model: type[Strict], location: Sequence[int | str]) -> _Key:
    """Follow pydantic's location of an error, which also names kinds of entries, and parts of lists and unions."""
    group: type[Strict] | None = model
    path: list[str] = []
    field: FieldInfo | None = None
    entry: type[Strict] | None = None
    variants: dict[str, type[Strict]] = {}
    for part in location:
        if isinstance(part, str) and part in variants:
            group, entry, variants = variants[part], variants[part], {}
        elif variants and isinstance(part, int):
            path.append(str(part))
        elif group and part in fields_of(group):
            field = fields_of(group)[str(part)]
            path.append(str(part))
            variants = variants_of(field)
            group = group_of(field) or group
    return _Key(path, field, entry)


def _refusal(model: type[Strict], error: ValidationError) -> str:
    """What is wrong with plain data, and what to give instead."""
    errors = error.errors()
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    path, field, entry = _locate(model, first["loc"])
    if first["type"] == "extra_forbidden":
        if entry is None:
            return unknown_setting(model, ".".join(str(part) for part in first["loc"]))
        return unknown_setting(entry, str(first["loc"][-1]), prefix=f"{'.'.join(path)}.", shown_by=model.shown_by)
    if first["type"] == "value_error":  # by the schema's own validators, whose messages name key and remedy
        return f"{'.'.join(path)}: " * (entry is not None) + str(first["ctx"]["error"])
    if first["type"] in ("union_tag_not_found", "union_tag_invalid"):
        assert field is not None
        kinds = " or ".join(", ".join(variants_of(field)).rsplit(", ", 1))
        state = f"cannot be {first['ctx']['tag'][:60]!r}" if "tag" in first["ctx"] else "missing"
        return f"{'.'.join(path)}.kind: {state}; give {kinds}"
    if first["type"] == "missing" and isinstance(first["loc"][-1], str):
        return f"{'.'.join(path)}: missing; give it"
    assert field is not None
    key, value = ".".join(path), plain(first["input"])[:60]
    if variants := variants_of(field):
        return f"{key}: cannot be {value!r}; give groups of settings, each with a kind ({', '.join(variants)})"
    if (inner := group_of(field)) is None:
        return f"{key}: cannot be {value!r}; give {takes(field)}"
    off = ", or null to switch it off" if NoneType in get_args(field.annotation) else ""
    example = next(iter(fields_of(inner)))
    return f"{key}: is a group of settings, not {value!r}; set {key}.{example} or another of them{off}"


def unknown_setting(model: type[Strict], key: str, *, prefix: str = "", shown_by: str = "") -> str:
    """Refuse a key, naming those that may be meant.

    Args:
        model: The schema.
        key: The dotted key.
        prefix: What leads to the group of this schema.
        shown_by: The command that prints all keys; empty for that of the schema.

    Returns:
        The message of an error.
    """
    keys = known_keys(model)
    by_name: dict[str, list[str]] = {}
    for full in keys:
        by_name.setdefault(full.rpartition(".")[2], []).append(full)
    name = key.rpartition(".")[2]
    names = [name] if name in by_name else difflib.get_close_matches(name, by_name, 2, 0.75)
    near = [full for match in names for full in by_name[match]] or difflib.get_close_matches(key, keys, 1, 0.6)
    meant = " or ".join(prefix + full for full in near)
    if near:
        hint = f"did you mean {meant}?"
    elif len(keys) <= _FEW_KEYS:
        hint = f"use one of {', '.join(keys)}"
    else:
        hint = f"`{shown_by or model.shown_by}` prints all keys"
    return f"there is no setting {prefix + key!r}; {hint}"
