"""Where a model folder may be written."""

from pathlib import Path
from urllib.parse import urlparse

from contrail_data.errors import ContrailError, UsageError
from contrail_data.model_folders.hub_address import SCHEME, HubAddress, parse_hub_address
from contrail_data.model_folders.manifest import MANIFEST
from contrail_data.storage.place import Place, place_of

_READ_ONLY = ("http", "https")


def find_target(to: str) -> Place | HubAddress:
    """Find out where a model is to be published, and refuse it before the work if nothing can be written there.

    Args:
        to: A new folder or that of a model, a URL of object storage, or `hf://org/name[@branch]`.

    Returns:
        The place, or the repository.

    Raises:
        ContrailError: If something else lies there.
        UsageError: If it is a commit of the hub, or a web server.
    """
    if to.startswith(SCHEME):
        address = parse_hub_address(to)
        if address.commit is not None:
            raise UsageError(f"{to}: a commit cannot change; name a branch, or omit it")
        return address
    place = place_of(to)
    if place.remote and urlparse(place.url).scheme in _READ_ONLY:
        raise UsageError(
            f"{to}: web servers are only read; give a folder, s3://..., gs://..., az://... or hf://ORG/NAME"
        )
    if not place.remote and place.path.exists() and not _may_be_replaced(place.path):
        raise ContrailError(f"{to}: exists and is not a model folder; choose another place")
    return place


def _may_be_replaced(path: Path) -> bool:
    return path.is_dir() and ((path / MANIFEST).is_file() or not any(path.iterdir()))
