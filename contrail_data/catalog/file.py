"""Reads and edits catalog files.

A catalog comes from others: a file that is too large, too deep or ambiguous is refused before any value is built.
libyaml reads it, because every command does. ruamel.yaml edits it, because that keeps comments and order.
"""

from __future__ import annotations

import fcntl
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml

from contrail_data.catalog.entries import Catalog
from contrail_data.errors import ContrailError
from contrail_data.storage.files import write_atomically

_BYTES, _VALUES, _LEVELS, _DIGITS = 4 << 20, 200_000, 32, 100
_EMPTY = "# Stores by name, an intake catalog.\nmetadata:\n  version: 1\nsources: {}\n"
_TEXT = "tag:yaml.org,2002:str"

T = TypeVar("T")


class Removal(NamedTuple):
    """What the removal of an entry did."""

    removed: str
    """The name, with its version if there were several."""
    promoted: str | None
    """Former key of the version that took the place of the removed one. None if there was no other version."""


def read_catalog(path: Path) -> Catalog:
    """Read a catalog file.

    Args:
        path: The file.

    Returns:
        The catalog.

    Raises:
        ContrailError: If the file cannot be read or is not a catalog.
    """
    return parse_catalog(_read(path), path)


def parse_catalog(content: bytes, path: Path) -> Catalog:
    """Parse a catalog, in bounded time and memory whatever the content.

    Args:
        content: Bytes of the file.
        path: The file, for error messages and relative paths.

    Returns:
        The catalog.

    Raises:
        ContrailError: If the content is not a catalog.
    """
    try:
        return Catalog(path, *_load(content))
    except UnicodeDecodeError as error:
        reason = f"not UTF-8 at byte {error.start}"
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        reason = f"{line}{error.problem or error.context}"
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        reason = str(error).splitlines()[0]
    raise ContrailError(f"{path}: not a readable catalog ({reason}); correct the file")


def edit_catalog(path: Path, change: Callable[[Catalog], tuple[Catalog | None, T]], *, create: bool) -> T:
    """Replace a catalog file by an edited one; only one process edits at a time.

    The lock is on the file itself, so no lock file is left behind. Since an edit replaces the file, a process that has
    waited for the lock checks that it has locked the current one.

    Args:
        path: The file.
        change: Returns the catalog to write, or None to leave the file as it is, and a result.
        create: Whether to create the file if it does not exist.

    Returns:
        The result of `change`.

    Raises:
        ContrailError: If the file cannot be read or written, is not a catalog, or `change` raises it.
    """
    path = Path(os.path.realpath(path))
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o666)
        except OSError as error:
            raise ContrailError(f"{path}: cannot be written ({error.strerror}); check path and permissions") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            locked = os.fstat(descriptor)
            if not os.path.exists(path) or not os.path.samestat(locked, os.stat(path)):
                continue
            content = _read(path)
            try:
                edited, result = change(parse_catalog(content or _EMPTY.encode(), path))
                if edited is not None:
                    write_atomically(path, [edited.text.encode()])
                    path.chmod(locked.st_mode & 0o7777)
            except BaseException:
                if not content:
                    path.unlink(missing_ok=True)  # it was created above, only to be locked
                raise
            return result
        finally:
            os.close(descriptor)


def with_entry(catalog: Catalog, name: str, content: dict[str, Any]) -> tuple[Catalog | None, int]:
    """Add a store as the newest version of a name.

    Args:
        catalog: The catalog, which is not changed.
        name: Name without a version.
        content: The entry, whose metadata states the digest but not the version.

    Returns:
        The edited catalog, and the version. The catalog is None if some version has this digest already.

    Raises:
        ContrailError: If the entry of this name is not its newest version, or the file cannot be edited.
    """
    versions = catalog.versions(name)
    for version, entry in versions.items():
        if entry.metadata.get("digest") == content["metadata"]["digest"]:
            return None, version
    newest = max(versions, default=0)
    content = {**content, "metadata": {"version": newest + 1, **content["metadata"]}}
    renamed = {}
    if name in catalog.entries:
        if newest not in versions or versions[newest].key != name:
            raise ContrailError(f"{catalog.path}: entry {name!r} is not the newest version; correct metadata.version")
        renamed = {name: f"{name}@{newest}"}
    return _edited(catalog, renamed=renamed, added={name: content}), newest + 1


def without_entry(catalog: Catalog, name: str) -> tuple[Catalog, Removal]:
    """Remove an entry. If it was the newest of several versions, the next newest takes its key.

    Args:
        catalog: The catalog, which is not changed.
        name: `name`, for the newest version, or `name@version`.

    Returns:
        The edited catalog, and what was removed.

    Raises:
        ContrailError: If the name is unknown, or the file cannot be edited.
    """
    entry = catalog.find(name)
    if "@" in entry.key:
        return _edited(catalog, removed=entry.key), Removal(entry.key, None)
    versions = catalog.versions(entry.key)
    removed = f"{entry.key}@{entry.version}" if len(versions) > 1 else entry.key
    versions.pop(entry.version, None)
    promoted = versions[max(versions)].key if versions else None
    renamed = {promoted: entry.key} if promoted else {}
    return _edited(catalog, removed=entry.key, renamed=renamed), Removal(removed, promoted)


def as_yaml(content: Any) -> str:
    """Format the content of an entry as YAML.

    Args:
        content: Plain data, as read from a catalog.

    Returns:
        The text.
    """
    return yaml.safe_dump(content, default_flow_style=None, sort_keys=False, allow_unicode=True, width=1 << 20)


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise ContrailError(f"{path}: no such catalog; check the path")
        with path.open("rb") as file:
            return file.read(_BYTES + 1)
    except OSError as error:
        raise ContrailError(f"{path}: cannot be read ({error.strerror}); check permissions") from None


def _load(content: bytes) -> tuple[str, dict[str, Any]]:
    """Decode a catalog, and load it once its size, depth and keys are known to be harmless.

    Raises:
        ValueError: If they are not, or if it is not a catalog.
    """
    if len(content) > _BYTES:
        raise ValueError(f"larger than {_BYTES >> 20} MB")
    text = content.decode("utf-8")
    if text.startswith("\ufeff"):
        raise ValueError("starts with a byte order mark")
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=yaml.CSafeLoader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _LEVELS:  # the composer is recursive
            raise ValueError(f"line {event.start_mark.line + 1}: more than {_LEVELS} levels deep")
        if count > _VALUES:
            raise ValueError(f"more than {_VALUES} values")
    loader = yaml.CSafeLoader(text)
    root = loader.get_single_node()
    if root is not None:
        _measure(root, {})
    document = loader.construct_document(root) if isinstance(root, yaml.MappingNode) else {}
    if "sources" not in document:
        raise ValueError("key 'sources' is missing")
    if not isinstance(document["sources"], dict | None):
        raise ValueError("'sources' is not a mapping of names to entries")
    return text, document


def _measure(node: yaml.Node, sizes: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Count the values and levels of a node, aliases written out.

    Raises:
        ValueError: If there are too many, a key is ambiguous or a number is very long.
    """
    line = node.start_mark.line + 1
    if id(node) in sizes:
        return sizes[id(node)]
    if isinstance(node, yaml.ScalarNode):
        if node.tag != _TEXT and len(node.value) > _DIGITS:
            raise ValueError(f"line {line}: a number of {len(node.value)} digits")
        return 1, 0
    sizes[id(node)] = _VALUES, _LEVELS  # while it is open: an alias inside its own value never ends
    children = node.value
    if isinstance(node, yaml.MappingNode):
        keys = set()
        for key, _ in node.value:
            if key.tag != _TEXT:
                shown = repr(key.value[:40]) if isinstance(key, yaml.ScalarNode) else "of several values"
                raise ValueError(f"line {key.start_mark.line + 1}: key {shown} is not text, quote it")
            if key.value in keys:
                raise ValueError(f"line {key.start_mark.line + 1}: key {key.value[:40]!r} occurs twice")
            keys.add(key.value)
        children = [value for _, value in node.value]
    values, levels = 1, 0
    for child in children:
        child_values, child_levels = _measure(child, sizes)
        values, levels = values + child_values, max(levels, child_levels)
    if values > _VALUES:
        raise ValueError(f"more than {_VALUES} values with aliases written out")
    if levels >= _LEVELS:
        raise ValueError(f"line {line}: more than {_LEVELS} levels deep with aliases written out")
    sizes[id(node)] = values, levels + 1
    return sizes[id(node)]


def _edited(
    catalog: Catalog,
    *,
    removed: str | None = None,
    renamed: dict[str, str] | None = None,
    added: dict[str, Any] | None = None,
) -> Catalog:
    """Remove, rename and append entries, in this order.

    Raises:
        ContrailError: If the file cannot be edited, or would then differ in anything else.
    """
    renamed = renamed or {}
    expected = {key: entry.content for key, entry in catalog.entries.items() if key != removed}
    expected = {renamed.get(key, key): content for key, content in expected.items()} | (added or {})
    try:
        edited = parse_catalog(_edit_text(catalog.text, removed, renamed, added or {}).encode(), catalog.path)
        # As text, where NaN equals itself and 1 is not true.
        if repr(edited.content) == repr({**catalog.content, "sources": expected}):
            return edited
        reason = "it would change more than the entry"
    except Exception as error:  # ruamel.yaml raises errors of many types for files that libyaml accepts
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    raise ContrailError(f"{catalog.path}: cannot be edited here ({reason}); nothing was written, edit it by hand")


def _edit_text(text: str, removed: str | None, renamed: dict[str, str], added: dict[str, Any]) -> str:
    """Apply an edit to the text of a catalog, keeping comments and order."""
    from ruamel.yaml import YAML

    editor = YAML()
    editor.preserve_quotes, editor.width, editor.default_flow_style = True, 1 << 20, None
    editor.explicit_start = text.startswith("---")
    editor.indent(mapping=2, sequence=4, offset=2)
    document = editor.load(text.replace("\r\n", "\n"))
    if not document["sources"]:
        document["sources"] = {}
    sources = document["sources"]
    comments_at_end = "" if removed is None else _remove(sources, removed)
    if removed is not None and not sources:  # {} cannot hold the comments above its first entry
        document["sources"] = {}
        tokens = document.ca.items.get("sources", [None] * 4)
        comments_at_end = "".join(token.value for token in tokens[3] or []) + comments_at_end
        tokens[3] = None
    for old, new in renamed.items():
        position = list(sources).index(old)
        sources.insert(position, new, sources.pop(old))
        if old in sources.ca.items:
            sources.ca.items[new] = sources.ca.items.pop(old)
    sources.update(added)
    buffer = io.StringIO()
    editor.dump(document, buffer)
    edited = buffer.getvalue() + comments_at_end
    return edited.replace("\n", "\r\n") if "\r\n" in text else edited


def _remove(sources: Any, key: str) -> str:
    """Remove an entry. Comments before and after it go to the next entry, or are returned if there is none."""
    from ruamel.yaml.comments import CommentedMap, CommentedSeq
    from ruamel.yaml.scalarstring import FoldedScalarString, LiteralScalarString
    from ruamel.yaml.tokens import CommentToken

    kept = (sources.ca.items.pop(key, None) or [None, None])[1] or []
    following = list(sources)[list(sources).index(key) + 1 :]
    value, token = sources.pop(key), None
    while isinstance(value, CommentedMap | CommentedSeq) and value:  # the last scalar holds the comments after it
        last = list(value)[-1] if isinstance(value, CommentedMap) else len(value) - 1
        token = value.ca.items.get(last, [None] * 4)[2 if isinstance(value, CommentedMap) else 0]
        value = value[last]
    if token is not None:
        text = token.value
        if not isinstance(value, LiteralScalarString | FoldedScalarString):  # others have a comment on their own line
            text = text.partition("\n")[2]
        kept = [*kept, CommentToken(text, token.start_mark)]
    if not following:
        return "".join(token.value for token in kept)
    if kept:
        comments = sources.ca.items.setdefault(following[0], [None] * 4)
        comments[1] = [*kept, *(comments[1] or [])]
    return ""
