"""Stores by name, before they are opened: where they lie, and what they state about themselves.

It does not need xarray, so that the command lines can refuse anything but an intact store before all other work.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from contrail_data.catalog.entries import Entry
from contrail_data.catalog.file import read_catalog
from contrail_data.catalog.index import CATALOG, find_catalog
from contrail_data.errors import ContrailError
from contrail_data.storage.place import Place, place_of
from contrail_data.store.cache import local_copy
from contrail_data.store.metadata import read_metadata
from contrail_data.store.schema import GROUP, Stated

T = TypeVar("T", bound=Stated)


@dataclass(frozen=True)
class Header:
    """What a sealed store states about itself; pixels and per-sample variables are not looked at."""

    attrs: Mapping[str, Any]
    """The attributes, as an open store has them."""


def find_store_entry(store: str) -> Entry | None:
    """Find the entry of a store by name.

    Args:
        store: Path, URL, catalog name (its newest version) or `name@version`.

    Returns:
        The entry. None for a URL, for the path of a store, and for any other existing path that is not the key of an
        entry.

    Raises:
        ContrailError: If there is no catalog, or no such name in it (the message suggests the nearest one), or it is
            that of a model.
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
    entry = read_catalog(catalog).find(store)
    if entry.is_model:
        raise ContrailError(
            f"{store}: is a model in {catalog}, not a store; name a store, see contrail-data catalog ls"
        )
    return entry


def find_place(store: str) -> Place:
    """Find out where a store lies.

    Args:
        store: Path, URL, catalog name (its newest version) or `name@version`.

    Returns:
        The place, which need not exist if it is not that of an entry.
    """
    entry = find_store_entry(store)
    return place_of(store if entry is None else _location_of(entry))


def _location_of(entry: Entry) -> str:
    """Path or URL of the store of an entry.

    Raises:
        ContrailError: If nothing lies there, as far as that can be said without a request.
    """
    if "://" not in entry.location and not os.path.exists(entry.location):
        raise ContrailError(
            f'{entry}: {entry.location} is missing; put the store there, or "contrail-data catalog rm {entry.key}"'
        )
    return entry.location


def read_entry(entry: Entry, read: Callable[[str], T]) -> T:
    """Read the store of a catalog entry.

    Args:
        entry: The entry.
        read: Reads the store at a path or URL.

    Returns:
        What it returned.

    Raises:
        ContrailError: If the store cannot be read, or its digest is not the stated one; the message names the entry.
    """
    location, stated = _location_of(entry), entry.digest
    try:
        store = read(location)
    except ContrailError as error:
        raise ContrailError(f"{entry}: {error}") from None
    digest = store.attrs["digest"]
    if stated not in (None, digest):
        raise ContrailError(
            f"{entry}: {location} has digest {digest[:15]}…, the catalog says {stated[:15]}…; restore the store, or "
            'add it as a new version with "contrail-data catalog add"'
        )
    return store


def read_header(address: str) -> Header | None:
    """Read what a store states about itself.

    Args:
        address: Path, URL, catalog name (its newest version) or `name@version`.

    Returns:
        Its header; None if it lies elsewhere and has not been pulled, so that nothing can be said without a request.

    Raises:
        ContrailError: As `contrail_data.catalog.catalog.open_named`.
    """
    entry = find_store_entry(address)
    digest = None if entry is None else entry.digest
    if digest is not None and (copy := local_copy(digest)) is not None:
        return _header_at(copy.url)
    place = place_of(address if entry is None else entry.location)
    if place.remote:
        return None
    return _header_at(place.url) if entry is None else read_entry(entry, _header_at)


def check_store(address: str) -> str:
    """Refuse what is not the address of an intact store, as far as that can be said without a request.

    Args:
        address: Path, URL, catalog name (its newest version) or `name@version`.

    Returns:
        The same address.
    """
    read_header(address)
    return address


def _header_at(address: str) -> Header:
    place = place_of(address)
    return Header(read_metadata(place)[0]["attributes"] | {"path": place.url})
