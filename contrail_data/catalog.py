"""The team's index of stores, `data_catalog.yaml`, in the layout of intake catalogs.

Wherever a command takes a store it takes a path, a URL or a name from this file. An entry that states a digest
is held to it.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any

import xarray as xr

from contrail_data.errors import ContrailError
from contrail_data.places import Place, place_of
from contrail_data.store import open_store

CATALOG = "data_catalog.yaml"


def find_catalog(start: Path | None = None) -> Path | None:
    """The file named by CONTRAIL_CATALOG, else the nearest `data_catalog.yaml` at or above the folder."""
    if named := os.environ.get("CONTRAIL_CATALOG"):
        if not Path(named).is_file():
            raise ContrailError(f"{named}: no such catalog: correct CONTRAIL_CATALOG")
        return Path(named)
    start = (start or Path.cwd()).resolve()
    return next((p / CATALOG for p in (start, *start.parents) if (p / CATALOG).is_file()), None)


def read_catalog(path: Path) -> dict[str, Any]:
    """Entries by name. Raises ContrailError for a file that is no catalog."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise ContrailError(f"{path}: not a readable catalog ({reason}): correct the file") from None
    sources = (content or {}).get("sources") if isinstance(content, dict | None) else None
    if not isinstance(sources, dict):
        raise ContrailError(f"{path}: key 'sources' is missing: it holds one entry a store")
    return {str(name): entry for name, entry in sources.items()}


def store_path(path: Path, name: str, entry: Any) -> str:
    """Path or URL of an entry; `{{ CATALOG_DIR }}` is the catalog's own folder, relative paths start there.

    Raises ContrailError for an entry without one.
    """
    try:
        url = str(entry["args"]["urlpath"])
    except (TypeError, KeyError):
        raise ContrailError(f"{path}: entry {name!r} has no args.urlpath: name the store's path there") from None
    folder = str(path.parent.resolve())
    url = url.replace("{{ CATALOG_DIR }}", folder).replace("{{CATALOG_DIR}}", folder)
    return url if "://" in url else str(Path(folder, url))


def find_place(name_or_path: str) -> Place:
    """Where a path, a URL or a catalog name leads. Raises ContrailError for an unknown name."""
    if "://" in name_or_path or Path(name_or_path).exists():
        return place_of(name_or_path)
    catalog = find_catalog()
    entries = read_catalog(catalog) if catalog else {}
    if name_or_path not in entries:
        return place_of(name_or_path)
    assert catalog is not None
    return place_of(store_path(catalog, name_or_path, entries[name_or_path]))


def open_named(name_or_path: str) -> xr.Dataset:
    """`open_store` for a path, a URL or a catalog name.

    Raises ContrailError for an unknown name (with the nearest one) and for a store whose digest is not the entry's.
    """
    if "://" in name_or_path or Path(name_or_path).exists():
        return open_store(name_or_path)
    catalog = find_catalog()
    entries = read_catalog(catalog) if catalog else {}
    if name_or_path not in entries:
        close = difflib.get_close_matches(name_or_path, entries, 1)
        hint = f"did you mean the catalog name {close[0]!r}?" if close else "build it, or check the path"
        raise ContrailError(f"{name_or_path}: no such store or catalog name: {hint}")
    assert catalog is not None
    entry = entries[name_or_path]
    store = open_store(store_path(catalog, name_or_path, entry))
    metadata = entry.get("metadata")
    stated = metadata.get("digest") if isinstance(metadata, dict) else None
    if stated is not None and stated != store.attrs["digest"]:
        raise ContrailError(
            f"{name_or_path}: {store.attrs['path']} has digest {store.attrs['digest'][:15]}…, the catalog says "
            f"{str(stated)[:15]}…: restore the store or correct {catalog}"
        )
    return store
