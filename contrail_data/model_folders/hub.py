"""Model folders on the Hugging Face hub, or on a mirror of it that HF_ENDPOINT names: `hf://org/name[@revision]`.

Credentials come from HF_TOKEN or from `hf auth login`. With HF_HUB_OFFLINE=1 no request is sent.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import disable_progress_bars
from huggingface_hub.utils import logging as hub_logging

from contrail_data.errors import ContrailError, UsageError
from contrail_data.model_folders.hub_address import HubAddress
from contrail_data.storage.files import Unreachable, first_line

TIMEOUT = 5.0
"""Seconds that the hub may take to answer whether it has something."""


def find_commit(address: HubAddress) -> str:
    """Ask the hub for the commit that a branch or tag leads to.

    Args:
        address: The address.

    Returns:
        The commit.

    Raises:
        Unreachable: If the hub cannot be reached.
        ContrailError: If it has no such repository or revision.
    """
    if address.commit is not None:
        return address.commit
    with _reported_errors(address, "read"):
        commit = _api(address).model_info(address.repository, revision=address.revision, timeout=TIMEOUT).sha
    if HubAddress(address.repository, commit).commit is None:
        raise ContrailError(f"{address}: the hub names no commit of it; check HF_ENDPOINT")
    return str(commit)


def download(address: HubAddress, key: str, folder: Path) -> Path:
    """Download a file.

    Args:
        address: The repository, with a commit as revision.
        key: Path of the file in it.
        folder: Where to put it, under its key.

    Returns:
        The file.

    Raises:
        FileNotFoundError: If there is no such file.
        Unreachable: If the hub cannot be reached.
        ContrailError: If it has no such repository or revision.
    """
    with _reported_errors(address, "read"):
        return Path(
            _api(address).hf_hub_download(
                address.repository, key, revision=address.revision, local_dir=folder, etag_timeout=TIMEOUT
            )
        )


def cached_file(address: HubAddress, key: str, *, refresh: bool = False) -> Path:
    """Download a file of any repository into the hub's own cache, from which it is taken later.

    Args:
        address: The repository.
        key: Path of the file in it.
        refresh: Whether to ask the hub if a branch has another file by now. If it cannot be reached, the file in the
            cache is used.

    Returns:
        The file in the cache.

    Raises:
        FileNotFoundError: If there is no such file.
        Unreachable: If the hub cannot be reached, and the cache does not have the file.
        ContrailError: If it has no such repository or revision.
    """
    kept = try_to_load_from_cache(address.repository, key, revision=address.revision)
    if kept is not None and not (refresh and address.commit is None):
        return _kept(kept, address, key)
    try:
        with _reported_errors(address, "read"):
            return Path(
                _api(address).hf_hub_download(address.repository, key, revision=address.revision, etag_timeout=TIMEOUT)
            )
    except Unreachable:
        if kept is None:
            raise
        return _kept(kept, address, key)


def _kept(kept: object, address: HubAddress, key: str) -> Path:
    """What the hub's cache knows of a file: its path, or something else if the repository has no such file."""
    if isinstance(kept, str):
        return Path(kept)
    raise FileNotFoundError(f"{address}: has no {key}")


def upload(folder: Path, keys: Sequence[str], address: HubAddress, message: str) -> tuple[str, bool]:
    """Upload files in one commit. A repository that does not exist is created, as a private one.

    Args:
        folder: Where the files lie.
        keys: Their paths, in the folder and in the repository.
        address: The repository, and if wanted a branch, which is created if it does not exist.
        message: Subject of the commit.

    Returns:
        The commit, and whether the repository was created.

    Raises:
        UsageError: If the revision is a commit, which cannot change.
        ContrailError: If the hub refuses.
    """
    if address.commit is not None:
        raise UsageError(f"{address}: a commit cannot change; name a branch, or omit it")
    api = _api(address)
    with _reported_errors(address, "written"):
        is_new = not api.repo_exists(address.repository)
        if is_new:
            api.create_repo(address.repository, private=True, exist_ok=True)
        if address.revision not in (None, "main"):
            api.create_branch(address.repository, branch=str(address.revision), exist_ok=True)
        files = [CommitOperationAdd(path_in_repo=key, path_or_fileobj=folder / key) for key in keys]
        commit = api.create_commit(address.repository, files, commit_message=message, revision=address.revision)
    return str(commit.oid), is_new


def _api(address: HubAddress) -> HfApi:
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        raise Unreachable(f"{address}: the hub is not asked, as HF_HUB_OFFLINE is set; unset it to fetch the model")
    hub_logging.set_verbosity_error()
    disable_progress_bars()
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT"))


@contextmanager
def _reported_errors(address: HubAddress, action: str) -> Iterator[None]:
    """Turn errors of the hub into one line."""
    where, remedy = str(address), "check the name, or set HF_TOKEN if the repository is private"
    try:
        yield
    except EntryNotFoundError as error:
        raise FileNotFoundError(f"{where}: {first_line(error)}") from None
    except RevisionNotFoundError:
        raise ContrailError(f"{where}: the repository has no revision of this name; check it") from None
    except GatedRepoError:
        raise ContrailError(
            f"{where}: access is granted on request only; ask for it on the page of the model"
        ) from None
    except RepositoryNotFoundError:
        raise ContrailError(f"{where}: no such repository on the hub; {remedy}") from None
    except HfHubHTTPError as error:
        code = getattr(error.response, "status_code", 0)
        if code in (401, 403):
            raise ContrailError(
                f"{where}: the hub refuses ({code}); set HF_TOKEN to a token that may do this"
            ) from None
        raise Unreachable(f"{where}: cannot be {action} ({first_line(error)}); try again later") from None
    except ContrailError:
        raise
    except Exception as error:  # the HTTP library of the hub, and hence the type, changes with its version
        raise Unreachable(
            f"{where}: the hub cannot be reached ({first_line(error)}); check the network and HF_ENDPOINT"
        ) from None
