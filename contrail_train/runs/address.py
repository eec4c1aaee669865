"""Addresses of models: what a command or a setting names is resolved to a run, pipeline, model folder or file here.

An address is a path, the URL of a model folder (`hf://org/name[@revision]`, `s3://`, `gs://`, `az://`, `https://`), a
name in the catalog, or `builtin:` and the name of a model that the package ships.
"""

from pathlib import Path, PurePosixPath

from contrail_data.catalog.models import find_model_entry, open_model_entry
from contrail_data.errors import UsageError
from contrail_data.model_folders.copies import fetch_model, pinned_address
from contrail_data.model_folders.hub_address import SCHEME, parse_hub_address
from contrail_data.model_folders.manifest import MANIFEST, verify_folder
from contrail_data.storage.place import place_of
from contrail_train.runs.finished import check_model
from contrail_train.runs.names import CONFIG, PIPELINE

BUILTIN = "builtin:"
"""Prefix of the names of model folders that the package ships."""
_SHIPPED = Path(__file__).parents[1] / "builtin"


def check_address(address: str) -> str:
    """Refuse what is not the address of a model, as far as that can be said without a request.

    Args:
        address: The address.

    Returns:
        The same address.

    Raises:
        UsageError: If it is a page of the hub, or the package ships no such model.
    """
    if address.startswith(BUILTIN):
        _shipped_folder(address)
    elif address.startswith(SCHEME):
        parse_hub_address(address)
    elif address.startswith("https://huggingface.co/"):
        name = "/".join(address.split("/")[3:5])
        raise UsageError(f"{address}: is a page of the hub; write hf://{name}")
    else:
        place = place_of(address)
        if not place.remote and (place.path.exists() or find_model_entry(address) is None):
            check_model(place.path)
    return address


def local_path(address: str | Path) -> Path | None:
    """Find out where on this machine a model lies, without verifying or fetching it.

    Args:
        address: The address.

    Returns:
        The path, which need not exist. None if it lies elsewhere.
    """
    text = str(address)
    if text.startswith(BUILTIN):
        return _shipped_folder(text)
    if text.startswith(SCHEME) or place_of(text).remote:
        return None
    path = place_of(text).path
    if not path.exists() and (entry := find_model_entry(text)) is not None:
        return None if "://" in entry.location else Path(entry.location)
    return path


def local_model(address: str | Path) -> Path:
    """Find the local folder or file of a model, fetching it if it lies elsewhere.

    Args:
        address: The address.

    Returns:
        Path of a run, a pipeline, a model folder or an exported file. A model folder has been verified.
    """
    text = str(address)
    if text.startswith(BUILTIN):
        text = str(_shipped_folder(text))
    if text.startswith(SCHEME) or place_of(text).remote:
        return fetch_model(text)
    path = place_of(text).path
    if path.exists():
        if (path / MANIFEST).is_file():
            verify_folder(path)
    elif (entry := find_model_entry(text)) is not None:
        return open_model_entry(entry)
    return path


def names_model(address: str) -> bool:
    """Return whether an address leads to a model rather than to a store.

    Args:
        address: The address.

    Returns:
        Whether it does.
    """
    if address.startswith((BUILTIN, SCHEME)):
        return True
    place = place_of(address)
    if place.remote:
        return place.size(MANIFEST) is not None
    path = place.path
    if path.exists():
        return path.is_file() or (path / CONFIG).is_file() or (path / PIPELINE).is_file()
    return find_model_entry(address, or_store=True) is not None


def recorded_address(path: Path) -> str:
    """Return the address under which a model that `local_model` returned is found again.

    Args:
        path: Its local folder or file.

    Returns:
        The URL from which a copy in the cache was fetched, with a commit if it is one of the hub; `builtin:` and the
        name of a model that the package ships; otherwise the absolute path.
    """
    return _shipped_name(path) or pinned_address(path) or str(path.absolute())


def folder_for_results(path: Path) -> tuple[Path, str]:
    """Return where results about a model are written if no folder is named.

    Args:
        path: Its local folder or file.

    Returns:
        The model's own folder, or the one with its file, or for a copy in the cache and what the package ships the
        current folder; and how names of files begin, so that they show what they are about.
    """
    if (name := _shipped_name(path)) is not None:
        return Path(), f"{name.removeprefix(BUILTIN)}-"
    if (address := pinned_address(path)) is not None:
        return Path(), f"{PurePosixPath(address).name.partition('@')[0]}-"
    return (path, "") if path.is_dir() else (path.parent, f"{path.name}-")


def _shipped_folder(address: str) -> Path:
    """The folder of a model that the package ships."""
    names = sorted(path.parent.name for path in _SHIPPED.glob(f"*/{MANIFEST}"))
    if (name := address.removeprefix(BUILTIN)) in names:
        return _SHIPPED / name
    known = " or ".join(BUILTIN + name for name in names)
    raise UsageError(f"{address}: the package ships no such model; choose {known}")


def _shipped_name(path: Path) -> str | None:
    """The address of a model that the package ships, by its folder; None for others."""
    return BUILTIN + path.name if path.absolute().parent == _SHIPPED else None
