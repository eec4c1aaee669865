"""MISSING DOCSTRING."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NoReturn, Union, get_args, get_origin

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from contrail_data.errors import ContrailError
from contrail_train.config.schema import RunConfig, Strict


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
        if path in (["data", "train"], ["data", "validation"], ["data", "balance"]) and isinstance(value, str):
            value = [value]  # one store needs no brackets
        branch[path[-1]] = value
    return parse_config(tree, f"{config.preset} with --set {' --set '.join(settings)}" if settings else config.preset)


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
        if first["type"] == "value_error":  # ours: names its key and, mostly, the remedy
            raise ContrailError(f"{where}: {first['ctx']['error']}") from None
        raise ContrailError(_refusal(where, key, first["input"])) from None


def read_config(path: Path) -> RunConfig:
    """A config from a YAML file; what it leaves out has its default. Raises ContrailError."""
    return parse_config(read_tree(path), str(path))


class _OnceEach(yaml.SafeLoader):
    """YAML whose keys come once: of two the last would win without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise yaml.YAMLError(f"{twice[0]} comes twice")
        return dict(super().construct_mapping(node, deep))


def read_tree(path: Path) -> Any:
    """What a YAML file holds. Raises ContrailError for one that cannot be read."""
    try:
        return yaml.load(path.read_text(), _OnceEach)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ContrailError(f"{path}: no readable YAML file ({str(error).splitlines()[0]}): check it") from None


def to_yaml(config: RunConfig) -> str:
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def to_explained_yaml(config: RunConfig) -> str:
    """The same, with what each key means and takes as comments above it."""
    lines: list[str] = []
    for key, field in _fields():
        *branches, name = key.split(".")
        indent = "  " * len(branches)
        value = value_of(config, key)
        about = " ".join((field.description or "").split())
        if isinstance(value, Strict):
            about = "" if type(value).__doc__ == Strict.__doc__ else (type(value).__doc__ or "")
            lines += ["", *(f"{indent}# {line}" for line in textwrap.wrap(about, 110)), f"{indent}{name}:"]
            continue
        lines += [f"{indent}# {line}" for line in textwrap.wrap(about, 110)]
        plain = value_of(config, ".".join(branches)) if branches else config
        told = yaml.safe_dump(plain.model_dump(mode="json")[name], default_flow_style=True, width=10_000)
        lines.append(f"{indent}{name}: {told.splitlines()[0]}  # {takes(field)}")
    return "\n".join(lines) + "\n"


def value_of(config: RunConfig, key: str) -> Any:
    """The value under a dotted key."""
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def differences(before: RunConfig, config: RunConfig) -> list[str]:
    """What a run was begun with that it is not now, in words."""
    pairs = [(key, value_of(before, key), value_of(config, key)) for key in known_keys()]
    return [f"{key}={theirs}, not {ours}" for key, theirs, ours in pairs if ours != theirs]


def known_keys() -> list[str]:
    """Every key that can be set, dotted."""
    return [key for key, field in _fields() if _branch(field) is None]


def _fields(model: type[Strict] | None = None, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every dotted key with its field, a branch before what is in it."""
    for name, field in (model or RunConfig).model_fields.items():
        yield prefix + name, field
        if branch := _branch(field):
            yield from _fields(branch, f"{prefix}{name}.")


def _branch(field: FieldInfo) -> type[Strict] | None:
    """The schema of a group of settings; None for a single one."""
    kind: Any = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Strict) else None


def takes(field: FieldInfo) -> str:
    """The values a field takes, in words."""
    return _words(field.annotation, field.metadata)


_KINDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", NoneType: "null"}
_BOUNDS = {"ge": "from {}", "gt": "above {}", "le": "to {}", "lt": "below {}"}


def _words(kind: Any, limits: Sequence[Any]) -> str:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        limits = [*limits, *parts[1:]]
        return _words(parts[0], [x for limit in limits for x in getattr(limit, "metadata", [limit])])
    if origin is Literal:
        return " or ".join(", ".join(map(str, parts)).rsplit(", ", 1))
    if origin in (UnionType, Union):
        return ", or ".join(_words(part, limits if part is not NoneType else []) for part in parts)
    if origin is list:
        least = next((n for x in limits if (n := getattr(x, "min_length", None))), 0)
        return f"a list{f' of {least} or more' if least else ''}, of {_words(parts[0], [])}"
    if origin is tuple:
        return f"[{', '.join(_KINDS[part] for part in parts)}]"
    found = [(text, getattr(x, key, None)) for key, text in _BOUNDS.items() for x in limits]
    bounds = [text.format(f"{b:g}" if isinstance(b, float) else b) for text, b in found if b is not None]
    return " ".join([_KINDS[kind], *bounds])


def _refusal(where: str, key: str, given: Any) -> str:
    """What to say of a value of the wrong kind, or out of bounds."""
    known = dict(_fields())
    while key not in known:  # within a list or a union, the path goes on beyond the setting
        key = key.rpartition(".")[0]
    if _branch(known[key]):
        first = next(name for name in known if name.startswith(f"{key}."))
        return f"{where}: {key} is a group of settings, not {str(given)[:60]!r}: set one of them, such as {first}"
    return f"{where}: {key} cannot be {str(given)[:60]!r}: give {takes(known[key])}"


def _refuse_key(where: str, key: str) -> NoReturn:
    keys = known_keys()
    ends: dict[str, list[str]] = {}
    for known in keys:
        ends.setdefault(known.rpartition(".")[2], []).append(known)
    last = key.rpartition(".")[2]
    likely = [last] if last in ends else difflib.get_close_matches(last, ends, 2, 0.75)
    near = [full for end in likely for full in ends[end]]
    near = near or difflib.get_close_matches(key, keys, 1, 0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else "see `contrail-train presets show unet2d` for all keys"
    raise ContrailError(f"{where}: there is no setting {key!r}: {hint}")
