"""Reads and edits catalog files.

libyaml reads a catalog, because every command does. ruamel.yaml edits it, because that keeps comments and order.
"""

import fcntl
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml

from contrail_data.catalog.entries import Catalog, CatalogFile
from contrail_data.errors import ContrailError
from contrail_data.storage.documents import load_document, read_remote_text, read_text
from contrail_data.storage.files import first_line, write_atomically

_EMPTY = "# Stores by name, an intake catalog.\nmetadata:\n  version: 1\nsources: {}\n"

T = TypeVar("T")


def read_catalog(path: CatalogFile) -> Catalog:
    """Read a catalog file.

    Args:
        path: The file.

    Returns:
        The catalog.

    Raises:
        ContrailError: If the file cannot be read or is not a catalog.
    """
    return parse_catalog(read_text(path) if isinstance(path, Path) else read_remote_text(path.url), path)


def parse_catalog(text: str, path: CatalogFile) -> Catalog:
    """Parse a catalog.

    Args:
        text: Content of the file.
        path: The file, for error messages and relative paths.

    Returns:
        The catalog.

    Raises:
        ContrailError: If the content is not a catalog.
    """
    try:
        document = load_document(text)
        problem = "" if isinstance(document, dict) and "sources" in document else "key 'sources' is missing"
        if not problem and not isinstance(document["sources"], dict | None):
            problem = "'sources' is not a mapping of names to entries"
    except ValueError as error:
        problem = first_line(error)
    if problem:
        raise ContrailError(f"{path}: not a readable catalog ({problem}); correct the file")
    return Catalog(path, text, document)


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
        with os.fdopen(descriptor, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            locked = os.fstat(descriptor)
            if not os.path.exists(path) or not os.path.samestat(locked, os.stat(path)):
                continue
            content = read_text(path)
            try:
                edited, result = change(parse_catalog(content or _EMPTY, path))
                if edited is not None:
                    write_atomically(path, [edited.text.encode()])
                    path.chmod(locked.st_mode & 0o7777)
            finally:
                if create and path.is_file() and not path.stat().st_size:
                    path.unlink()  # it was created above, only to be locked
            return result


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
    return _edited(catalog, renamed, added={name: content}), newest + 1


def without_entry(catalog: Catalog, name: str) -> tuple[Catalog, tuple[str, str | None]]:
    """Remove an entry. If it was the newest of several versions, the next newest takes its key.

    Args:
        catalog: The catalog, which is not changed.
        name: `name`, for the newest version, or `name@version`.

    Returns:
        The edited catalog; the removed name, with its version if there were several; and the former key of the version
        that took its place, or None.

    Raises:
        ContrailError: If the name is unknown, or the file cannot be edited.
    """
    entry = catalog.find(name)
    others = {} if "@" in entry.key else catalog.versions(entry.key)
    if len(others) < 2:
        return _edited(catalog, {}, removed=entry.key), (entry.key, None)
    del others[entry.version]
    promoted = others[max(others)].key
    removed = f"{entry.key}@{entry.version}"
    return _edited(catalog, {promoted: entry.key}, removed=entry.key), (removed, promoted)


def as_yaml(content: Any) -> str:
    """Format the content of an entry as YAML.

    Args:
        content: Plain data, as read from a catalog.

    Returns:
        The text.
    """
    return yaml.safe_dump(content, default_flow_style=None, sort_keys=False, allow_unicode=True, width=1 << 20)


def _edited(
    catalog: Catalog, renamed: dict[str, str], *, removed: str | None = None, added: dict[str, Any] | None = None
) -> Catalog:
    """Remove, rename and append entries, in this order, keeping comments and the order of the others.

    Raises:
        ContrailError: If the file cannot be edited, or would then differ in anything else.
    """
    expected = {key: entry.content for key, entry in catalog.entries.items() if key != removed}
    expected = {renamed.get(key, key): content for key, content in expected.items()} | (added or {})
    try:
        text = catalog.text.replace("\r\n", "\n")
        if removed is not None:
            text = _without_lines(text, removed)
        editor = _editor()
        editor.explicit_start = text.startswith("---")
        document = editor.load(text)
        document["sources"] = document["sources"] or {}
        sources: Any = document["sources"]
        for old, new in renamed.items():
            sources.insert(list(sources).index(old), new, sources.pop(old))
            if old in sources.ca.items:
                sources.ca.items[new] = sources.ca.items.pop(old)
        sources.update(added or {})
        editor.dump(document, buffer := io.StringIO())
        text = buffer.getvalue().replace("\n", "\r\n" if "\r\n" in catalog.text else "\n")
        edited = parse_catalog(text, catalog.path)
        # As text, where NaN equals itself and 1 is not true.
        if repr(edited.content) == repr({**catalog.content, "sources": expected}):
            return edited
        reason = "it would change more than the entry"
    except Exception as error:  # ruamel.yaml raises errors of many types for files that libyaml accepts
        reason = first_line(error)
    raise ContrailError(f"{catalog.path}: cannot be edited here ({reason}); nothing was written, edit it by hand")


def _without_lines(text: str, key: str) -> str:
    """Remove the lines of an entry; comments after it belong to the next one."""
    document = _editor().load(text)
    lines = text.splitlines(keepends=True)
    starts = sorted(mapping.lc.key(k)[0] for mapping in (document, document["sources"]) for k in mapping)
    start = document["sources"].lc.key(key)[0]
    end = next((line for line in starts if line > start), len(lines))
    while lines[end - 1].lstrip()[:1] in ("", "#"):
        end -= 1
    return "".join(lines[:start] + lines[end:])


def _editor() -> Any:
    from ruamel.yaml import YAML

    editor = YAML()
    editor.preserve_quotes, editor.width, editor.default_flow_style = True, 1 << 20, None
    editor.indent(mapping=2, sequence=4, offset=2)
    return editor
