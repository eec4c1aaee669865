"""MISSING DOCSTRING."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import xarray as xr

from contrail_data.errors import ContrailError
from contrail_data.storage.place import Place, place_of
from contrail_data.store import journal
from contrail_data.store.manifest import read_manifest, sound


def cache_place(digest: str) -> Place:
    """Where a store's local copy belongs: $CONTRAIL_CACHE, else the user's cache folder, by digest."""
    import platformdirs

    root = os.environ.get("CONTRAIL_CACHE") or str(platformdirs.user_cache_path("contrail"))
    return Place(str(Path(root) / "stores" / check_digest(digest).removeprefix("sha256:")[:32]))


def check_digest(digest: str) -> str:
    """The digest itself. Raises ContrailError for one that is none."""
    scheme, _, value = str(digest).partition(":")
    if scheme != "sha256" or len(value) != 64 or set(value) - set("0123456789abcdef"):
        raise ContrailError(f"{str(digest)[:80]!r} is no digest of a store: it is sha256: and 64 hexadecimal digits")
    return digest


def local_copy(digest: str) -> Place | None:
    """The complete local copy of a store, None where there is none."""
    place = cache_place(digest)
    return place if place.size("zarr.json") is not None else None


def fetcher(store: xr.Dataset) -> Callable[[str], str]:
    """`fetch(key)`: path of the local copy of a remote store's file, downloaded and checked at first use.

    What is fetched lies where `pull` would put it, so that a pull later does the rest.
    """
    source, target = place_of(store.attrs["path"]), cache_place(store.attrs["digest"])
    listed = read_manifest(source, store.attrs["manifest"])
    plan = journal.plan_of(["copy", store.attrs["digest"]])

    def fetch(key: str) -> str:
        try:
            sound(target, key, listed)
        except ContrailError:  # not there yet, or no longer what it was
            if target.size("zarr.json") is None:
                target.write(journal.PLAN, [plan.encode()])
            target.write(key, [sound(source, key, listed)])
        return target.file(key)

    return fetch
