"""Stores by name: finding, opening, checking, adding and removing them.

The index of a team is the file `data_catalog.yaml`, in the layout of intake catalogs. Every command that takes a store
takes a path, a URL or a name from this file. A store whose digest is not the one that its entry states is refused.
A name may have several versions: the key `ash` is the newest one and states it as `metadata.version` (1 if absent);
the key `ash@2` is version 2.
"""

import getpass
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import xarray as xr

from contrail_data.catalog.entries import CatalogFile, Entry, catalog_file
from contrail_data.catalog.file import edit_catalog, read_catalog, with_entry, without_entry
from contrail_data.catalog.metadata import describe
from contrail_data.errors import ContrailError, UsageError
from contrail_data.storage.place import Place, place_of
from contrail_data.store.cache import local_copy
from contrail_data.store.reader import open_store
from contrail_data.store.schema import GROUP
from contrail_data.store.verify import verify

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


def find_place(store: str) -> Place:
    """Find out where a store lies.

    Args:
        store: Path, URL, catalog name (its newest version) or `name@version`.

    Returns:
        The place, which need not exist.

    Raises:
        ContrailError: If the name is unknown; the message suggests the nearest one.
    """
    entry = _find_entry(store)
    return place_of(store if entry is None else entry.location)


def open_named(store: str | Path, *, copies: bool = True) -> xr.Dataset:
    """Open a store by path, URL or name.

    Args:
        store: Path, URL, catalog name (its newest version) or `name@version`.
        copies: Whether to open the local copy of a store that has been pulled, instead of what a URL or name leads to.

    Returns:
        The store, as `contrail_data.store.reader.open_store` returns it.

    Raises:
        ContrailError: If the name is unknown (the message suggests the nearest one), if the store cannot be opened, or
            if its digest is not the one that its entry states.
    """
    address = str(store)
    entry = _find_entry(address)
    digest = entry.digest if entry is not None else None
    if copies and digest is not None and (copy := local_copy(digest)) is not None:
        return open_store(copy)
    opened = open_store(address) if entry is None else open_entry(entry)
    if copies and (entry is not None or "://" in address) and (copy := local_copy(opened.attrs["digest"])) is not None:
        return open_store(copy)
    return opened


def open_entry(entry: Entry) -> xr.Dataset:
    """Open the store of a catalog entry.

    Args:
        entry: The entry.

    Returns:
        The store.

    Raises:
        ContrailError: If the store cannot be opened, or its digest is not the stated one; the message names the entry.
    """
    location, stated = entry.location, entry.digest
    if "://" not in location and not os.path.exists(location):
        raise ContrailError(
            f'{entry}: {location} is missing; put the store there, or "contrail-data catalog rm {entry.key}"'
        )
    try:
        store = open_store(location)
    except ContrailError as error:
        raise ContrailError(f"{entry}: {error}") from None
    digest = store.attrs["digest"]
    if stated not in (None, digest):
        raise ContrailError(
            f"{entry}: {location} has digest {digest[:15]}…, the catalog says {stated[:15]}…; restore the store, or "
            'add it as a new version with "contrail-data catalog add"'
        )
    return store


def check_entry(entry: Entry, *, deep: bool = False) -> list[str]:
    """Compare a catalog entry with its store.

    Args:
        entry: The entry.
        deep: Whether to verify every byte of the store, too.

    Returns:
        Notes on what could not be checked.

    Raises:
        ContrailError: If the store cannot be opened, differs from what the entry states, or is damaged.
    """
    if isinstance(entry.content, dict) and entry.content.get("driver", "zarr") != "zarr":
        return [f"driver {str(entry.content['driver'])[:40]!r} is not supported, not checked"]
    stated = entry.metadata | {"version": entry.version}
    store = open_entry(entry)
    for key, value in describe(store).items():
        # Two builds with the same digest may come from different commands and versions.
        if key in stated and key not in ("command", "contrail") and stated[key] != value:
            raise ContrailError(
                f"{entry}: {key} is {str(stated[key])[:60]!r}, that of the store {str(value)[:60]!r}; correct the entry"
            )
    place = place_of(store.attrs["path"])
    if deep and (damage := verify(place)):
        raise ContrailError(
            f"{entry}: {len(damage)} damaged files, such as {place.file(damage[0].path)} ({damage[0].reason}); "
            "repair them with contrail-data verify --repair-from"
        )
    return [] if entry.digest is not None else ["it states no digest"]


def check_name(name: str) -> None:
    """Check the name for a new entry.

    Args:
        name: The name.

    Raises:
        ContrailError: If it is not a plain name, or could be taken for a path or a URL.
    """
    if not _NAME.fullmatch(name) or name.endswith(".zarr"):
        raise ContrailError(
            f"{name!r}: not a name for an entry; use at most 100 letters, digits, '_', '-' and '.', no path and no URL"
        )


def add_entry(catalog: Path, name: str, url: str, store: xr.Dataset, text: str | None) -> int:
    """Add a store to a catalog, as the newest version of a name. Several processes may do so at the same time.

    Nothing changes if a version of the name has the digest of the store already.

    Args:
        catalog: The catalog file, which is created if it does not exist.
        name: Name of the entry.
        url: Path or URL of the store.
        store: The open store.
        text: Description for people. None: kind and composite.

    Returns:
        The version under which the store is found.

    Raises:
        ContrailError: If a catalog may not hold this name or location, or if the file cannot be read or written.
    """
    check_name(name)
    metadata = describe(store)
    content: dict[str, Any] = {
        "driver": "zarr",
        "description": text or f"{metadata['kind']} of composite {metadata['composite']}",
        "metadata": metadata | {"added_by": _user(), "added_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"},
        "args": {
            "urlpath": _portable(catalog, url)
        },  # last: an entry that was cut off leads nowhere, not to any digest
    }
    _ = Entry(catalog, name, content).location  # refuses what could not be read back
    return edit_catalog(catalog, lambda old: with_entry(old, name, content), create=True)


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


def _find_entry(store: str) -> Entry | None:
    """Find the entry of a name; None for a URL, and for a path unless it leads to no store but has an entry.

    Raises:
        ContrailError: If there is no catalog, or no such name in it.
    """
    if "://" in store or os.path.exists(os.path.join(store, GROUP)):
        return None
    catalog = find_catalog()
    if os.path.exists(store) and (catalog is None or store not in read_catalog(catalog).entries):
        return None
    if catalog is None:
        raise ContrailError(
            f"{store}: no such store, and no {CATALOG} in this folder or above; build it, or check the path"
        )
    return read_catalog(catalog).find(store)


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
