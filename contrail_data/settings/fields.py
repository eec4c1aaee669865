"""The fields of a schema of settings: their dotted keys, the groups that they form, and in words what they take."""

from collections.abc import Mapping, Sequence
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from contrail_data.settings.strict import Strict

_KINDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", NoneType: "null"}
_BOUNDS = {"ge": "from {}", "gt": "above {}", "le": "to {}", "lt": "to below {}"}


def known_keys(model: type[Strict]) -> list[str]:
    """List every single setting.

    Args:
        model: The schema.

    Returns:
        Dotted keys in the order of the schema.
    """
    return [key for key, field in setting_fields(model).items() if group_of(field) is None]


def fields_of(model: type[Strict]) -> dict[str, FieldInfo]:
    """List the settings of a group.

    Args:
        model: The schema of the group.

    Returns:
        Fields by key, which is the field's alias where its name is a word of Python.
    """
    return {field.alias or name: field for name, field in model.model_fields.items()}


@cache
def setting_fields(model: type[Strict]) -> Mapping[str, FieldInfo]:
    """List the settings of a schema and of its groups.

    Args:
        model: The schema.

    Returns:
        Fields by dotted key, a group before its settings.
    """
    fields = {}
    for name, field in fields_of(model).items():
        fields[name] = field
        if group := group_of(field):
            fields |= {f"{name}.{key}": inner for key, inner in setting_fields(group).items()}
    return fields


def group_of(field: FieldInfo) -> type[Strict] | None:
    """Return the schema of a group of settings, or of the groups in a dictionary by name.

    Args:
        field: A field of a schema.

    Returns:
        The schema of the group; None for a single setting.
    """
    kinds = (field.annotation, *get_args(field.annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Strict)), None)


def variants_of(field: FieldInfo) -> dict[str, type[Strict]]:
    """Return the schemas of the groups in a list whose entries are of several kinds.

    Args:
        field: A field of a schema.

    Returns:
        Schemas by the value of their key `kind`; empty for any other setting.
    """
    pending, variants = list(get_args(field.annotation)), {}
    while pending:
        kind = pending.pop(0)
        if isinstance(kind, type) and issubclass(kind, Strict) and "kind" in kind.model_fields:
            variants[str(get_args(kind.model_fields["kind"].annotation)[0])] = kind
        pending += get_args(kind)
    return variants


def takes(field: FieldInfo) -> str:
    """Describe the values that a setting takes.

    Args:
        field: The setting.

    Returns:
        Words such as "a whole number from 1, or null".
    """
    return _words(field.annotation, field.metadata)


def _words(kind: Any, limits: Sequence[Any]) -> str:
    origin, parts = get_origin(kind), get_args(kind)
    if stated := next((limit for limit in limits if isinstance(limit, Takes)), None):
        return stated.words
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
        return f"[{', '.join(_words(part, []) for part in parts)}]"
    bounds = [(text, getattr(x, key, None)) for key, text in _BOUNDS.items() for x in limits]
    words = [
        text.format(f"{bound:g}" if isinstance(bound, float) else bound) for text, bound in bounds if bound is not None
    ]
    return " ".join([_KINDS.get(kind, "a group of settings"), *words])


class Takes(NamedTuple):
    """Annotation of a type that states what it takes."""

    words: str
