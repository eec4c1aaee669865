"""Stores by name: finding, opening and adding them.

The index of a team is the file `data_catalog.yaml`, in the layout of intake catalogs. Every command that takes a store
or a model takes a path, a URL or a name from this file. One whose digest is not what its entry states is refused.
A name may have several versions: the key `ash` is the newest one and states it as `metadata.version` (1 if absent);
the key `ash@2` is version 2.
"""

from pathlib import Path

import xarray as xr

from contrail_data.catalog.entries import Entry
from contrail_data.catalog.index import add_content
from contrail_data.catalog.metadata import describe
from contrail_data.catalog.stores import find_store_entry, read_entry
from contrail_data.store.cache import local_copy
from contrail_data.store.reader import open_store


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
    entry = find_store_entry(address)
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
    """
    return read_entry(entry, open_store)


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
    """
    metadata = describe(store)
    return add_content(
        catalog, name, url, "zarr", metadata, text or f"{metadata['kind']} of composite {metadata['composite']}"
    )
