"""The text of a catalog: read within bounds, searched by name and version, edited in place.

A catalog comes from others: what is too large, too deep or ambiguous is refused before anything is built. Edits change
only the characters they must; the rest of the file, comments and layout with it, stays byte for byte.
"""

from __future__ import annotations

import difflib
import fcntl
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from contrail_data.errors import ContrailError
from contrail_data.storage.files import write_atomically

_BYTES, _NODES, _DEPTH, _DIGITS = 4 << 20, 200_000, 32, 100
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_EMPTY = "# Stores by name, an intake catalog.\nmetadata:\n  version: 1\nsources: {}\n"

T = TypeVar("T")


def read_catalog(path: Path) -> dict[str, Any]:
    """Entries by key, in the file's order. Raises ContrailError for a file that is no catalog."""
    return _parse(_read(path), path).sources


def find_entry(path: Path, entries: Mapping[str, Any], name: str) -> str:
    """The key of `name` or `name@version`.

    Raises ContrailError for an unknown version (with those there are) or name (with the nearest one).
    """
    if name in entries:
        return name
    base, _, version = name.partition("@")
    if there := versions_of(path, entries, base):
        if _VERSION.fullmatch(version) and int(version) in there:
            return there[int(version)]
        told = ", ".join(f"{base}@{v}" for v in sorted(there))
        raise ContrailError(f"{path}: no entry {name!r}: there is {told}")
    close = difflib.get_close_matches(name, entries, 1)
    hint = f"did you mean the catalog name {close[0]!r}?" if close else "check it, or see `contrail-data catalog ls`"
    raise ContrailError(f"{name}: no such store, and no such name in {path}: {hint}")


def metadata_of(path: Path, name: str, entry: Any) -> dict[str, Any]:
    """What an entry states of its store, by key. Raises ContrailError where it is no mapping."""
    metadata = entry.get("metadata") if isinstance(entry, dict) else None
    if metadata is not None and not isinstance(metadata, dict):
        raise ContrailError(f"{path}: entry {name!r}: metadata is no mapping: correct it")
    return metadata or {}


def version_of(path: Path, key: str, entry: Any) -> int:
    """The version that a key is, from 1. Raises ContrailError where it states something else."""
    _, at, number = key.partition("@")
    version = metadata_of(path, key, entry).get("version", 1)
    if type(version) is not int or version < 1 or (at and number != str(version)):
        right = number if _VERSION.fullmatch(number) else "a whole number from 1"
        raise ContrailError(f"{path}: entry {key!r}: metadata.version is not {right}: correct it")
    return version


def versions_of(path: Path, entries: Mapping[str, Any], name: str) -> dict[int, str]:
    """Keys of all versions of a name."""
    keys = (k for k in entries if k == name or (k.startswith(f"{name}@") and _VERSION.fullmatch(k[len(name) + 1 :])))
    return {version_of(path, k, entries[k]): k for k in keys}


@dataclass(frozen=True)
class _Catalog:
    path: Path
    text: str
    content: dict[str, Any]
    root: yaml.MappingNode
    """With the place of every value in `text`."""

    @property
    def sources(self) -> dict[str, Any]:
        return self.content["sources"] or {}


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise ContrailError(f"{path}: no such catalog: check the path")
        with path.open("rb") as file:
            return file.read(_BYTES + 1)
    except OSError as error:
        raise ContrailError(f"{path}: not a readable catalog ({error.strerror}): check permissions") from None


def _parse(content: bytes, path: Path) -> _Catalog:
    """Raises ContrailError for what is no catalog; bounded in time and memory whatever the content."""
    try:
        if len(content) > _BYTES:
            raise ValueError(f"larger than {_BYTES >> 20} MB")
        text = content.decode("utf-8")
        if text.startswith("\ufeff"):
            raise ValueError("starts with a byte order mark")
        _refuse_bombs(text)
        loader = yaml.CSafeLoader(text)
        root = loader.get_single_node()
        _refuse_ambiguous(root)
        data = loader.construct_document(root) if isinstance(root, yaml.MappingNode) else {}
    except UnicodeDecodeError as error:
        raise _unreadable(path, f"not UTF-8 at byte {error.start}") from None
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise _unreadable(path, f"{line}{error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise _unreadable(path, str(error).splitlines()[0]) from None
    if not isinstance(root, yaml.MappingNode) or "sources" not in data:
        raise ContrailError(f"{path}: key 'sources' is missing: it holds one entry a store")
    if not isinstance(data["sources"], dict | None):
        raise ContrailError(f"{path}: 'sources' is no mapping: it holds one entry a store, by name")
    return _Catalog(path, text, data, root)


def _unreadable(path: Path, reason: str) -> ContrailError:
    return ContrailError(f"{path}: not a readable catalog ({reason}): correct the file")


def _refuse_bombs(text: str) -> None:
    """Count values and levels before any is built, aliases written out; tags are refused altogether."""
    anchors: dict[str, tuple[int, int]] = {}  # values and levels
    open_: list[tuple[str | None, int, int]] = [(None, 0, 0)]
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 0
        anchor = getattr(event, "anchor", None)
        if getattr(event, "tag", None) is not None:
            raise ValueError(f"line {line}: tags (!x) are not read")
        if isinstance(event, yaml.CollectionStartEvent):
            open_.append((anchor, 1, 1))
            values, levels = 0, 0
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, values, levels = open_.pop()
        elif isinstance(event, yaml.AliasEvent):
            if anchor not in anchors:
                raise ValueError(f"line {line}: alias {str(anchor)[:40]!r} of nothing that ended before it")
            values, levels = anchors[anchor]
        else:
            values, levels = 1, 0
        if anchor is not None and not isinstance(event, yaml.CollectionStartEvent):
            anchors[anchor] = values, levels
        parent, total, height = open_.pop()
        open_.append((parent, total + values, max(height, levels + 1)))
        if sum(total for _, total, _ in open_) > _NODES:
            raise ValueError(f"more than {_NODES} values")
        if len(open_) + levels > _DEPTH:
            raise ValueError(f"line {line}: more than {_DEPTH} levels deep")


def _refuse_ambiguous(root: yaml.Node | None) -> None:
    text = "tag:yaml.org,2002:str"
    todo = [root]
    while todo:
        node = todo.pop()
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                line = key.start_mark.line + 1
                if key.tag != text:
                    told = repr(key.value[:40]) if isinstance(key, yaml.ScalarNode) else "of several values"
                    raise ValueError(f"line {line}: key {told} is not text, quote it")
                if key.value in seen:
                    raise ValueError(f"line {line}: key {key.value[:40]!r} is there twice")
                seen.add(key.value)
                todo.append(value)
        elif isinstance(node, yaml.SequenceNode):
            todo += node.value
        elif isinstance(node, yaml.ScalarNode) and node.tag != text and len(node.value) > _DIGITS:
            raise ValueError(f"line {node.start_mark.line + 1}: a number of {len(node.value)} digits")


def edit(path: Path, change: Callable[[_Catalog], tuple[_Catalog | None, T]], create: bool) -> T:
    """Replace a catalog by `change` of it, one process at a time, and return what `change` tells.

    The lock is on the file itself, so that none lies about; an edit replaces the file, so that who waited for it
    looks again.
    """
    path = Path(os.path.realpath(path))
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o666)
        except OSError as error:
            raise ContrailError(f"{path}: cannot be written ({error.strerror}): check path and permissions") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            mine = os.fstat(descriptor)
            if not os.path.exists(path) or not os.path.samestat(mine, os.stat(path)):
                continue
            before = _read(path)
            try:
                after, told = change(_parse(before or _EMPTY.encode(), path))
                if after is not None:
                    write_atomically(path, [after.text.encode()])
                    path.chmod(mine.st_mode & 0o7777)
            except BaseException:
                if not before:
                    path.unlink(missing_ok=True)  # created a moment ago to be locked
                raise
            return told
        finally:
            os.close(descriptor)


def with_entry(old: _Catalog, name: str, entry: dict[str, Any]) -> tuple[_Catalog | None, int]:
    """The catalog with a new newest version of a name (None: the digest is there already), and the version."""
    versions = versions_of(old.path, old.sources, name)
    for version, key in versions.items():
        if metadata_of(old.path, key, old.sources[key]).get("digest") == entry["metadata"]["digest"]:
            return None, version
    version = max(versions, default=0) + 1
    entry = {**entry, "metadata": {"version": version, **entry["metadata"]}}
    node, edits, renamed = _sources(old), [], {}
    if name in old.sources:
        if version - 1 not in versions or versions[version - 1] != name:
            raise ContrailError(f"{old.path}: entry {name!r} is not the newest version: correct metadata.version")
        renamed = {name: f"{name}@{version - 1}"}
        edits.append(_renaming(old, name, renamed[name]))
    newline = "\r\n" if "\r\n" in old.text else "\n"
    sources_key, sources = node
    if sources.value:
        indent, at = sources.value[0][0].start_mark.column, _end_of_lines(old.text, sources)
    else:
        indent = sources_key.start_mark.column + 2
        start, end = sources.start_mark.index, sources.end_mark.index  # of {} or null
        edits.append((len(old.text[:start].rstrip(" ")), end, ""))
        at = _line_end(old.text, end)
    lines = yaml.dump({name: entry}, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1 << 20).splitlines()
    block = "".join(f"{' ' * indent if line else ''}{line}{newline}" for line in lines)
    edits.append((at, at, block if old.text[:at].endswith("\n") else newline + block))
    expected = {renamed.get(k, k): v for k, v in old.sources.items()} | {name: entry}
    return _edited(old, edits, expected), version


def without_entry(old: _Catalog, name: str) -> tuple[_Catalog, tuple[str, str | None]]:
    """The catalog without an entry, and what `remove_entry` returns."""
    key = find_entry(old.path, old.sources, name)
    sources_key, sources = _sources(old)
    (key_node, value), *_ = [pair for pair in sources.value if pair[0].value == key]
    start = old.text.rfind("\n", 0, key_node.start_mark.index) + 1
    edits = [(start, _end_of_lines(old.text, value), "")]
    expected = {k: v for k, v in old.sources.items() if k != key}
    if not expected:
        colon = old.text.index(":", sources_key.end_mark.index) + 1
        edits.append((colon, colon, " {}"))
    promoted = None
    if "@" not in key and (others := versions_of(old.path, expected, key)):
        promoted = others[max(others)]
        edits.append(_renaming(old, promoted, key))
        expected = {key if k == promoted else k: v for k, v in expected.items()}
    told = key
    if "@" not in key and len(versions_of(old.path, old.sources, key)) > 1:
        told = f"{key}@{version_of(old.path, key, old.sources[key])}"
    return _edited(old, edits, expected), (told, promoted)


def _sources(old: _Catalog) -> tuple[yaml.ScalarNode, Any]:
    """Key and value of `sources`, where it can be edited by lines."""
    key, value = next(pair for pair in old.root.value if pair[0].value == "sources")
    if old.root.flow_style or (value.value and getattr(value, "flow_style", False)):
        raise ContrailError(f"{old.path}: 'sources' is written within {{ }}: write one entry a line to edit it")
    if not isinstance(value, yaml.MappingNode):  # nothing, which has a place too
        value = yaml.MappingNode(value.tag, [], value.start_mark, value.end_mark)
    return key, value


def _renaming(old: _Catalog, key: str, new: str) -> tuple[int, int, str]:
    node = next(k for k, _ in _sources(old)[1].value if k.value == key)
    start, end = node.start_mark.index, node.end_mark.index
    quote = old.text[start] if old.text[start] in "'\"" else ""
    return start, end, f"{quote}{new}{quote}"


def _line_end(text: str, index: int) -> int:
    found = text.find("\n", index)
    return len(text) if found < 0 else found + 1


def _end_of_lines(text: str, node: Any) -> int:
    """Where the lines of a value end; a block ends with its last value, not with comments that follow."""
    while isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        node = node.value[-1][1] if isinstance(node, yaml.MappingNode) else node.value[-1]
    end = node.end_mark.index
    return end if node.end_mark.column == 0 else _line_end(text, end)


def _edited(old: _Catalog, edits: list[tuple[int, int, str]], expected: dict[str, Any]) -> _Catalog:
    """The catalog after edits (start, end, replacement) of its text; refused unless it holds what is expected."""
    text = old.text
    for start, end, replacement in sorted(edits, reverse=True):
        text = text[:start] + replacement + text[end:]
    try:
        new = _parse(text.encode(), old.path)
        # As text: a NaN equals itself there, and 1 is not true.
        if repr(new.content) == repr({**old.content, "sources": expected if expected else {}}):
            return new
        reason = "it would change more than the entry"
    except (ContrailError, UnicodeEncodeError) as error:
        reason = str(error)
    raise ContrailError(f"{old.path}: cannot be edited here ({reason}): nothing was written, edit it by hand")


class _Dumper(yaml.SafeDumper):
    """Lists on one line, values that are shared written out."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(list, lambda dumper, v: dumper.represent_sequence("tag:yaml.org,2002:seq", v, flow_style=True))


def readable(entry: Any) -> str:
    """An entry as YAML text."""
    return yaml.dump(entry, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1 << 20)
