"""Local copies of remote stores, found by digest."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from contrail_data.errors import ContrailError
from contrail_data.storage.cache import CacheKind, copy_folder, hold, reserve
from contrail_data.storage.place import Place, place_of
from contrail_data.store import journal
from contrail_data.store.manifest import Manifest, read_manifest, read_verified
from contrail_data.store.schema import GROUP

if TYPE_CHECKING:
    import xarray as xr


def cache_place(digest: str) -> Place:
    """Return where the local copy of a store belongs.

    Args:
        digest: Digest of the store.

    Returns:
        A folder in $CONTRAIL_CACHE, or else in the user's cache folder.
    """
    return Place(str(copy_folder(CacheKind.STORES, digest)))


def local_copy(digest: str) -> Place | None:
    """Find the local copy of a store. It is kept from being removed until this process ends.

    Args:
        digest: Digest of the store.

    Returns:
        Where it lies. None if there is no complete copy.
    """
    place = cache_place(digest)
    return place if hold(place.path) and place.size(GROUP) is not None else None


def reserve_copy(digest: str, manifest: Manifest) -> Place:
    """Make room for the local copy of a store, and keep it from being removed until this process ends.

    Args:
        digest: Digest of the store.
        manifest: Its files.

    Returns:
        Where the copy belongs.

    Raises:
        ContrailError: If the cache has no room for it.
    """
    place = cache_place(digest)
    if local_copy(digest) is None:
        size = sum(file.size for file in manifest.values())
        reserve(place.path, size, "copy the store elsewhere with contrail-data pull -o")
        if local_copy(digest) is not None:  # another process has just finished it
            journal.clear_staging(place)
    return place


def fetcher(store: xr.Dataset) -> Callable[[str], str]:
    """Return a function that keeps local copies of the files of a remote store.

    The copies lie where `contrail-data pull` would put them, so that a later pull only fetches the rest.

    Args:
        store: The remote store.

    Returns:
        `fetch(key)`, which downloads and verifies a file at its first use and returns the path of the copy.
    """
    source = place_of(store.attrs["path"])
    manifest = read_manifest(source, store.attrs["manifest"])
    target = reserve_copy(store.attrs["digest"], manifest)
    plan = journal.plan_of(["copy", store.attrs["digest"]])

    def fetch(key: str) -> str:
        try:
            read_verified(target, key, manifest)
        except ContrailError:  # not downloaded yet, or damaged since
            if target.size(GROUP) is None:
                target.write(journal.PLAN, [plan.encode()])
            target.write(key, [read_verified(source, key, manifest)])
        return target.file(key)

    return fetch
