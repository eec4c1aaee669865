"""The team's index file: where it is, which names it may hold, and adding and removing entries.

It needs no xarray, so that the command lines can look a name up before anything else.
"""

import getpass
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from contrail_data.catalog.entries import Catalog, CatalogFile, Entry, catalog_file
from contrail_data.catalog.file import edit_catalog, with_entry, without_entry
from contrail_data.errors import ContrailError, UsageError

CATALOG = "data_catalog.yaml"

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


def find_catalog() -> CatalogFile | None:
    """Find the catalog file.

    Returns:
        The file named by the environment variable CONTRAIL_CATALOG, which may be a URL, or else the nearest
        `data_catalog.yaml` in the current folder or above it. None if there is none.

    Raises:
        ContrailError: If CONTRAIL_CATALOG names no file.
    """
    if named := os.environ.get("CONTRAIL_CATALOG"):
        file = catalog_file(named)
        if isinstance(file, Path) and not file.is_file():
            raise ContrailError(f"{named}: no such catalog; correct CONTRAIL_CATALOG")
        return file
    folder = Path.cwd().resolve()
    return next((p / CATALOG for p in (folder, *folder.parents) if (p / CATALOG).is_file()), None)


def writable_catalog(catalog: CatalogFile | None = None) -> Path:
    """Return the catalog file to change.

    Args:
        catalog: The catalog; None: the one that `find_catalog` finds, or else a new one in the current folder.

    Returns:
        The file, which need not exist.

    Raises:
        UsageError: If the catalog lies at a URL.
    """
    catalog = catalog or find_catalog() or Path(CATALOG)
    if not isinstance(catalog, Path):
        remedy = f"change the file from which it is published, with --catalog or CONTRAIL_CATALOG, such as {CATALOG}"
        raise UsageError(f"{catalog}: a catalog at a URL is only read; {remedy}")
    return catalog


def is_name(text: str) -> bool:
    """Return whether a text may be the name of an entry, rather than a path or a URL.

    Args:
        text: The text.

    Returns:
        Whether it may.
    """
    return _NAME.fullmatch(text) is not None and not text.endswith(".zarr")


def check_name(name: str) -> None:
    """Check the name for a new entry.

    Args:
        name: The name.

    Raises:
        ContrailError: If it is not a plain name, or could be taken for a path or a URL.
    """
    if not is_name(name):
        raise ContrailError(
            f"{name!r}: not a name for an entry; use at most 100 letters, digits, '_', '-' and '.', no path and no URL"
        )


def add_content(catalog: Path, name: str, url: str, driver: str, metadata: dict[str, Any], text: str) -> int:
    """Add an entry to a catalog, as the newest version of a name.

    Args:
        catalog: The catalog file, which is created if it does not exist.
        name: Name of the entry.
        url: Path or URL that it leads to.
        driver: Kind of what lies there.
        metadata: What is stated about it, with its digest.
        text: Description for people.

    Returns:
        The version.

    Raises:
        ContrailError: If a catalog may not hold this name or location, if the name is that of another kind of entry,
            or if the file cannot be read or written.
    """
    check_name(name)
    content: dict[str, Any] = {
        "driver": driver,
        "description": text,
        "metadata": metadata | {"added_by": _user(), "added_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"},
        "args": {
            "urlpath": _portable(catalog, url)
        },  # last: an entry that was cut off leads nowhere, not to any digest
    }
    added = Entry(catalog, name, content)
    _ = added.location  # refuses what could not be read back

    def change(old: Catalog) -> tuple[Catalog | None, int]:
        for other in old.versions(name).values():
            if other.is_model != added.is_model:
                kind = "model" if other.is_model else "store"
                raise ContrailError(f"{catalog}: {name!r} is the name of a {kind}; choose another name")
        return with_entry(old, name, content)

    return edit_catalog(catalog, change, create=True)


def remove_entry(catalog: Path, name: str) -> tuple[str, str | None]:
    """Remove an entry from a catalog. Its data stays.

    Args:
        catalog: The catalog file.
        name: `name`, for the newest version, or `name@version`.

    Returns:
        The removed name, with its version if there were several, and the former key of the version that took its place,
        or None.

    Raises:
        ContrailError: If the name is unknown, or the file cannot be read or written.
    """
    return edit_catalog(catalog, lambda old: without_entry(old, name), create=False)


def _portable(catalog: Path, url: str) -> str:
    """Write a path below the catalog's folder relative to it, so that the folder can move; others absolute."""
    if "://" in url:
        return url
    path, folder = (os.path.abspath(p) for p in (url, catalog.parent))
    return f"{{{{ CATALOG_DIR }}}}/{os.path.relpath(path, folder)}" if path.startswith(f"{folder}/") else path


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container may run under an id without a name
        return str(os.getuid())
