"""Models by name: finding them in a catalog, opening them and adding them."""

from pathlib import Path

from contrail_data.catalog.entries import MODEL_DRIVER, Entry
from contrail_data.catalog.file import read_catalog
from contrail_data.catalog.index import add_content, find_catalog, is_name
from contrail_data.errors import ContrailError
from contrail_data.model_folders.copies import fetch_model
from contrail_data.model_folders.hub_address import SCHEME
from contrail_data.model_folders.manifest import MANIFEST, Manifest, verify_folder
from contrail_data.storage.place import place_of


def find_model_entry(name: str, *, or_store: bool = False) -> Entry | None:
    """Find the entry of a model by name.

    Args:
        name: Catalog name (its newest version) or `name@version`.
        or_store: Whether the name may be that of a store.

    Returns:
        The entry. None if there is no catalog, no such name in it, or if it is the name of a store.

    Raises:
        ContrailError: If it is the name of a store and may not be.
    """
    if (catalog := find_catalog()) is None or not is_name(name.partition("@")[0]):
        return None
    contents = read_catalog(catalog)
    if name not in contents.entries and not contents.versions(name.partition("@")[0]):
        return None
    entry = contents.find(name)
    if not entry.is_model and or_store:
        return None
    if not entry.is_model:
        raise ContrailError(f"{name}: is a store in {catalog}, not a model; name a model, see contrail-data catalog ls")
    return entry


def open_model_entry(entry: Entry) -> Path:
    """Return the local folder of the model of a catalog entry, which is fetched if it lies elsewhere.

    Args:
        entry: The entry.

    Returns:
        The folder, verified.

    Raises:
        ContrailError: If there is no such model, it is damaged, or its digest is not the stated one; the message names
            the entry.
    """
    location, stated = entry.location, entry.digest
    try:
        if "://" in location:
            return fetch_model(location, stated)
        digest = verify_folder(Path(location))["digest"]
    except ContrailError as error:
        raise ContrailError(f"{entry}: {error}") from None
    if stated not in (None, digest):
        raise ContrailError(
            f"{entry}: {location} has digest {digest[:15]}…, the catalog says {stated[:15]}…; restore the model, or "
            'add it as a new version with "contrail-data catalog add"'
        )
    return Path(location)


def fetch_named(address: str) -> Path | None:
    """Return the local folder of a model, which is fetched if it lies elsewhere.

    Args:
        address: Path, URL, address of the hub or catalog name.

    Returns:
        The folder, verified; None if the address leads to no model folder.
    """
    if address.startswith(SCHEME):
        return fetch_model(address)
    place = place_of(address)
    if place.size(MANIFEST) is None:
        entry = None if place.remote else find_model_entry(address, or_store=True)
        return None if entry is None else open_model_entry(entry)
    if place.remote:
        return fetch_model(address)
    verify_folder(place.path)
    return place.path


def add_model(catalog: Path, name: str, url: str, manifest: Manifest, text: str | None) -> int:
    """Add a model folder to a catalog, as the newest version of a name.

    Args:
        catalog: The catalog file, which is created if it does not exist.
        name: Name of the entry.
        url: Path or URL of the folder.
        manifest: Its manifest.
        text: Description for people. None: preset and composite.

    Returns:
        The version under which the model is found.
    """
    about = manifest["about"]
    metadata = {"digest": manifest["digest"], **about}
    text = text or f"{about['kind']} of preset {about['preset']} for composite {about['composite']}"
    return add_content(catalog, name, url, MODEL_DRIVER, metadata, text)
