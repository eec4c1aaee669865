"""Copies of model folders: in the cache for use, at any place for sharing; each file verified, the manifest last."""

import json
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from contrail_data.errors import ContrailError
from contrail_data.messages import Kind, print_message
from contrail_data.model_folders.hub_address import SCHEME, HubAddress, parse_hub_address
from contrail_data.model_folders.manifest import (
    DOCUMENTS,
    MANIFEST,
    Manifest,
    check_file,
    file_keys,
    parse_manifest,
    read_manifest,
    read_manifest_file,
    verify_folder,
)
from contrail_data.storage.cache import CacheKind, cache_folder, copy_folder, hold, reserve
from contrail_data.storage.files import Unreachable, write_atomically
from contrail_data.storage.place import STAGING, Place, place_of

_DOCUMENT_BYTES = 32 << 20
SOURCES = "sources.json"
"""In a cached copy: the addresses that led to it."""
Fetch = Callable[[str, Path], object]
"""Downloads the file of a key into a folder, under its key."""


def fetch_model(address: str, digest: str | None = None) -> Path:
    """Return the local copy of a remote model folder, which is fetched if there is none.

    A branch of the hub is resolved to a commit, which is printed. If the address cannot be reached, the copy that it
    led to last is used, with a note. Copies are kept from being removed until this process ends.

    Args:
        address: `hf://org/name[@revision]`, or a URL of object storage or a web server.
        digest: Digest that the folder must have, as stated by a catalog; a copy with it is used without any request.

    Returns:
        The copy, verified.

    Raises:
        ContrailError: If there is no such model, it has another digest, or it is damaged.
        Unreachable: If it cannot be reached, and there is no copy.
    """
    if digest is not None and (copy := _intact(copy_folder(CacheKind.MODELS, digest))) is not None:
        return copy
    try:
        folder = _fetch_from_hub(address) if address.startswith(SCHEME) else _fetch_from_place(address)
    except Unreachable as error:
        kept = _copy_that_was(address)
        if kept is None or digest is not None:
            raise
        reason = str(error).rpartition("; ")[0]
        print_message(Kind.NOTE, f"{reason}; using the copy of {_sources(kept)[address]['pinned']} in the cache")
        return kept
    if digest is not None and folder != copy_folder(CacheKind.MODELS, digest):
        raise ContrailError(
            f"{address}: is another model than the catalog says ({digest[:15]}…); restore it, or add it as a new "
            'version with "contrail-data catalog add"'
        )
    return folder


class AnotherModel(ContrailError):
    """There is another model at a place already."""


@dataclass(frozen=True)
class InspectedModel:
    """A model folder anywhere, as its manifest describes it."""

    address: str
    """Path or URL; of the hub, with the commit."""
    manifest: Manifest


def inspect_model(address: str) -> InspectedModel | None:
    """Look at what an address leads to.

    Args:
        address: Path or URL.

    Returns:
        The model; None if no model folder lies there.
    """
    if address.startswith(SCHEME):
        folder = fetch_model(address)
        return InspectedModel(pinned_address(folder) or address, read_manifest(Place(str(folder))))
    place = place_of(address)
    return None if place.size(MANIFEST) is None else InspectedModel(place.url, read_manifest(place))


def pinned_address(path: Path) -> str | None:
    """Return the address under which a cached copy was found last, with a commit if it is one of the hub.

    Args:
        path: A local model folder.

    Returns:
        The address; None if the folder is not a copy in the cache.
    """
    if path.parent != cache_folder(CacheKind.MODELS):
        return None
    newest = max(_sources(path).values(), key=lambda source: source["time"], default=None)
    return None if newest is None else str(newest["pinned"])


def copy_model(folder: Path, target: Place, *, overwrite: bool = False) -> None:
    """Copy a local model folder to another place, and verify what arrived.

    Of a model that lies there already, only the files for people are replaced.

    Args:
        folder: The folder.
        target: The place.
        overwrite: Whether to replace another model that lies there.

    Raises:
        AnotherModel: If another model lies there, and is not to be replaced.
        ContrailError: If files of something else lie there, or a file did not arrive as it was sent.
    """
    manifest = verify_folder(folder)
    keys = file_keys(folder, manifest)
    if target.size(MANIFEST) is None:
        if others := [key for key in target.states() if key not in keys]:
            raise ContrailError(f"{target}: holds other files, such as {others[0]}; choose another place")
    elif _digest_at(target) != manifest["digest"]:
        if not overwrite:
            raise AnotherModel(f"{target}: holds another model; choose another place")
        target.remove([MANIFEST])  # first, so that no one takes a mixture for a model
    for key in keys:
        content = (folder / key).read_bytes()
        target.write(key, [content])
        if target.size(key) != len(content):
            raise ContrailError(f"{target.file(key)}: did not arrive as it was sent; repeat the command")
    if not target.remote:
        with suppress(OSError):  # another process writes there
            target.within(STAGING).path.rmdir()
    if _digest_at(target) != manifest["digest"]:
        raise ContrailError(f"{target}: another process has written there; repeat the command")


def _digest_at(place: Place) -> str:
    """The digest of the model folder at a place; empty if it is damaged."""
    try:
        return read_manifest(place)["digest"]
    except ContrailError:
        return ""


def _fetch_from_place(address: str) -> Path:
    source = place_of(address)
    content = read_manifest_file(source)
    manifest = parse_manifest(content, source.file(MANIFEST))

    def fetch(key: str, staging: Path) -> None:
        content = source.read(key, manifest["files"][key]["bytes"] if key in manifest["files"] else _DOCUMENT_BYTES)
        (staging / key).parent.mkdir(parents=True, exist_ok=True)
        (staging / key).write_bytes(content)

    return _keep(address, source.url, content, fetch)


def _fetch_from_hub(address: str) -> Path:
    from contrail_data.model_folders import hub  # its library takes half a second to import

    branch = parse_hub_address(address)
    pinned = HubAddress(branch.repository, hub.find_commit(branch))
    if branch.commit is None:
        print_message(Kind.NOTE, f"{address}: is {pinned}, an address that stays the same")
    if (kept := _copy_that_was(str(pinned))) is not None:
        _note_source(kept, address, str(pinned))
        return kept
    with tempfile.TemporaryDirectory() as folder:
        try:
            content = hub.download(pinned, MANIFEST, Path(folder)).read_bytes()
        except FileNotFoundError:
            raise ContrailError(
                f"{address}: not a model folder (it has no {MANIFEST}); name one that contrail-train publish wrote"
            ) from None
    return _keep(address, str(pinned), content, partial(hub.download, pinned))


def _keep(address: str, pinned: str, content: bytes, fetch: Fetch) -> Path:
    """Complete the copy of the model folder of a manifest in the cache."""
    manifest = parse_manifest(content, f"{pinned}/{MANIFEST}")
    folder = copy_folder(CacheKind.MODELS, manifest["digest"])
    if _intact(folder) is None:
        reserve(folder, sum(entry["bytes"] for entry in manifest["files"].values()))
        staging = folder / STAGING / uuid.uuid4().hex[:12]  # another process may fetch the same
        for key, entry in manifest["files"].items():
            with suppress(ContrailError):  # missing or damaged
                check_file(folder / key, entry)
                continue
            try:
                fetch(key, staging)
            except FileNotFoundError:
                raise ContrailError(f"{pinned}/{key}: missing; publish the model again") from None
            check_file(staging / key, entry, f"{pinned}/{key}")
            (folder / key).parent.mkdir(parents=True, exist_ok=True)
            (staging / key).replace(folder / key)
        for name in DOCUMENTS:
            with suppress(FileNotFoundError):
                fetch(name, staging)
                (staging / name).replace(folder / name)
        write_atomically(folder / MANIFEST, [content])
        shutil.rmtree(staging, ignore_errors=True)
    _note_source(folder, address, pinned)
    return folder


def _intact(folder: Path) -> Path | None:
    """The folder of a copy, if it is complete and intact; of a damaged one, what is missing is fetched again."""
    if not hold(folder) or not (folder / MANIFEST).is_file():
        return None
    try:
        verify_folder(folder)
    except ContrailError:
        (folder / MANIFEST).unlink(missing_ok=True)
        return None
    return folder


def _copy_that_was(address: str) -> Path | None:
    """The copy that an address led to last."""
    root = cache_folder(CacheKind.MODELS)
    times = {
        folder: source["time"]
        for folder in (root.iterdir() if root.is_dir() else ())
        if (source := _sources(folder).get(address)) is not None
    }
    newest = max(times, key=lambda folder: times[folder], default=None)
    return None if newest is None else _intact(newest)


def _sources(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / SOURCES).read_bytes()))
    except (OSError, ValueError):
        return {}


def _note_source(folder: Path, address: str, pinned: str) -> None:
    """Note the addresses that led to a copy, so that it is found again when they cannot be reached."""
    now = {"pinned": pinned, "time": time.time()}
    sources = _sources(folder) | {address: now, pinned: now}
    write_atomically(folder / SOURCES, [json.dumps(sources, indent=1).encode()])
