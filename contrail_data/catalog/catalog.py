"""The team's index of stores, `data_catalog.yaml`, in the layout of intake catalogs.

Wherever a command takes a store it takes a path, a URL or a name from this file. An entry that states a digest
is held to it. A name may have versions: the key `ash` is the newest and carries `metadata.version` (absent: 1), the
key `ash@2` is version 2. Nothing in a catalog is executed or expanded but a leading `{{ CATALOG_DIR }}/`.
"""

from __future__ import annotations

import getpass
import os
import re
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.catalog.file import (
    edit,
    find_entry,
    metadata_of,
    read_catalog,
    version_of,
    with_entry,
    without_entry,
)
from contrail_data.errors import ContrailError
from contrail_data.storage.place import SCHEMES, Place, place_of
from contrail_data.store.cache import check_digest, local_copy
from contrail_data.store.manifest import read_provenance
from contrail_data.store.reader import open_store, read_scalars
from contrail_data.store.verify import verify

CATALOG = "data_catalog.yaml"

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_HERE = re.compile(r"\{\{ *CATALOG_DIR *\}\}/+")


def find_catalog(start: Path | None = None) -> Path | None:
    """The file named by CONTRAIL_CATALOG, else the nearest `data_catalog.yaml` at or above the folder."""
    if named := os.environ.get("CONTRAIL_CATALOG"):
        if not Path(named).is_file():
            raise ContrailError(f"{named}: no such catalog: correct CONTRAIL_CATALOG")
        return Path(named)
    start = (start or Path.cwd()).resolve()
    return next((p / CATALOG for p in (start, *start.parents) if (p / CATALOG).is_file()), None)


def store_path(path: Path, name: str, entry: Any) -> str:
    """Path or URL of an entry; `{{ CATALOG_DIR }}/` and relative paths start at the catalog's own folder.

    Raises ContrailError for an entry without one, or with one that a catalog may not name.
    """
    where = f"{path}: entry {name!r}"
    arguments = entry.get("args") if isinstance(entry, dict) else None
    url = arguments.get("urlpath") if isinstance(arguments, dict) else None
    if not isinstance(url, str) or not url:
        raise ContrailError(f"{where} has no args.urlpath: name the store's path there")
    rest = _HERE.sub("", url, count=1) if _HERE.match(url) else url
    if any(mark in rest for mark in ("{{", "{%", "{#")):
        raise ContrailError(f"{where}: {url[:80]!r}: only a leading {{{{ CATALOG_DIR }}}}/ is expanded: write it out")
    if "::" in rest or not rest.isprintable():
        raise ContrailError(f"{where}: {url[:80]!r}: chained or unprintable: write a plain path or URL")
    scheme, remote, address = rest.partition("://")
    if remote:
        if rest != url or scheme not in SCHEMES:
            raise ContrailError(f"{where}: {url[:80]!r} is no URL of {', '.join(SCHEMES)}: write one, or a path")
        if scheme != "file":
            return url
        if not address.startswith("/"):
            raise ContrailError(f"{where}: {url[:80]!r}: names a host: write file:///absolute/path")
        rest = address
    if ".." in rest.split("/"):
        raise ContrailError(f"{where}: {url[:80]!r} goes up by '..': write an absolute path or a URL")
    return str(Path(path.parent.resolve(), rest))


def find_place(name_or_path: str) -> Place:
    """Where a path, a URL, a catalog name (its newest version) or `name@version` leads.

    Raises ContrailError for an unknown name (with the nearest one).
    """
    catalog, key, entry = _find(name_or_path)
    return place_of(name_or_path if catalog is None else store_path(catalog, key, entry))


def open_named(name_or_path: str, *, copies: bool = True) -> xr.Dataset:
    """`open_store` for a path, a URL, a catalog name (its newest version) or `name@version`.

    With `copies`, what has been pulled is opened in place of what a URL or a name leads to. Raises ContrailError for an
    unknown name (with the nearest one) and for a store whose digest is not the entry's.
    """
    catalog, key, entry = _find(name_or_path)
    if catalog is not None:
        digest = _stated_digest(catalog, key, entry)
        if copies and digest is not None and (copy := _copy(digest)) is not None:
            return copy
        store = open_entry(catalog, key, entry)
    else:
        store = open_store(name_or_path)
        if "://" not in name_or_path:
            return store
    return (_copy(store.attrs["digest"]) if copies else None) or store


def _copy(digest: str) -> xr.Dataset | None:
    place = local_copy(digest)
    return None if place is None else open_store(place)


def _find(name_or_path: str) -> tuple[Path | None, str, Any]:
    """(catalog, key, entry) of a name; no catalog for a path or URL."""
    if "://" in name_or_path or os.path.exists(name_or_path):
        return None, name_or_path, None
    catalog = find_catalog()
    if catalog is None:
        raise ContrailError(
            f"{name_or_path}: no such store, and no {CATALOG} here or above: build it, or check the path"
        )
    entries = read_catalog(catalog)
    key = find_entry(catalog, entries, name_or_path)
    return catalog, key, entries[key]


def _stated_digest(path: Path, name: str, entry: Any) -> str | None:
    stated = metadata_of(path, name, entry).get("digest")
    try:
        return None if stated is None else check_digest(stated)
    except ContrailError as error:
        raise ContrailError(f"{path}: entry {name!r}: digest: {error}: correct it") from None


def open_entry(path: Path, name: str, entry: Any) -> xr.Dataset:
    """The store of an entry. Raises ContrailError, naming the entry, where it is not there or not the one stated."""
    where = f"{path}: entry {name!r}"
    location = store_path(path, name, entry)
    stated = _stated_digest(path, name, entry)
    if "://" not in location and not os.path.exists(location):
        raise ContrailError(
            f"{where}: {location} is missing: put the store there, or `contrail-data catalog rm {name}`"
        )
    try:
        store = open_store(location)
    except ContrailError as error:
        raise ContrailError(f"{where}: {error}") from None
    if stated is not None and stated != store.attrs["digest"]:
        raise ContrailError(
            f"{where}: {location} has digest {store.attrs['digest'][:15]}…, the catalog says "
            f"{stated[:15]}…: restore the store, or `contrail-data catalog add` it as a new version"
        )
    return store


def check_entry(path: Path, name: str, entry: Any, deep: bool = False) -> list[str]:
    """Hold an entry to its store: reachable, digest and facts as stated, and, if `deep`, every byte.

    Returns what could not be checked. Raises ContrailError for what is not as stated.
    """
    where = f"{path}: entry {name!r}"
    if isinstance(entry, dict) and entry.get("driver", "zarr") != "zarr":
        return [f"driver {str(entry['driver'])[:40]!r} is not ours, not checked"]
    metadata = metadata_of(path, name, entry)
    version_of(path, name, entry)
    store = open_entry(path, name, entry)
    for key, fact in describe(store).items():
        # Two builds of one digest may come from different commands.
        if key in metadata and key not in ("command", "contrail") and metadata[key] != fact:
            raise ContrailError(
                f"{where}: {key} is {str(metadata[key])[:60]!r}, the store's is {str(fact)[:60]!r}: correct the entry"
            )
    unchecked = [] if "digest" in metadata else ["it states no digest"]
    place = place_of(store.attrs["path"])
    if deep and (damage := verify(place)):
        raise ContrailError(
            f"{where}: {len(damage)} files damaged, such as {place.file(damage[0].path)} ({damage[0].reason}): "
            "repair it with contrail-data verify --repair-from"
        )
    return unchecked


def describe(store: xr.Dataset) -> dict[str, Any]:
    """What a catalog tells of an open store, in plain types.

    digest, parent or parents (of derived stores), kind, composite, bands, channels, samples; of stores of samples also
    positives (records in which humans marked contrails; absent without labels), time ([first, last] frame, UTC), area
    (latitude [south, north] and longitude [west, east] in degrees; west > east across the date line) and statistics
    (mean and std a channel, of train samples); label_shift in pixels; command and contrail version of the build.
    Raises ContrailError for a damaged store.
    """
    attributes = store.attrs
    names = ("positive_pixels", "label_source", "time", "corner_latitude", "corner_longitude")
    records = read_scalars(store[[n for n in names if n in store.variables]])
    try:
        composite = attributes["composite"]
        bands = {c[k] for c in composite["channels"] for k in ("band", "minus")} - {None}
        facts: dict[str, Any] = {"digest": attributes["digest"]}
        facts |= {k: attributes[k] for k in ("parent", "parents") if k in attributes}
        facts |= {
            "kind": attributes["kind"],
            "composite": composite["name"],
            "bands": sorted(int(b) for b in bands),
            "channels": [str(c["name"]) for c in composite["channels"]],
            "samples": int(attributes.get("samples", store.sizes["sample"])),
        }
        if attributes["kind"] == "samples":
            facts |= _of_records(records)
        if statistics := attributes.get("statistics"):
            facts["statistics"] = {k: [float(v) for v in statistics[k]] for k in ("mean", "std")}
        facts["label_shift"] = [float(v) for v in attributes["label_shift"]]
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"[:100]
        raise ContrailError(f"{attributes['path']}: metadata is damaged ({reason}): restore the store") from None
    return facts | _provenance(str(attributes["path"]))


def _of_records(records: xr.Dataset) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    human = records["label_source"].values == "human"
    if human.any():
        facts["positives"] = int((records["positive_pixels"].values[human] > 0).sum())
    times = records["time"].values
    known = times[~np.isnat(times)]
    if len(known):
        facts["time"] = [f"{np.datetime_as_string(t, 's')}Z" for t in (known.min(), known.max())]
    latitude, longitude = (records[f"corner_{n}"].values for n in ("latitude", "longitude"))
    known = ~np.isnan(latitude) & ~np.isnan(longitude)
    if known.any():
        extremes = [latitude[known].min(), latitude[known].max()], _arc(longitude[known])
        south_north, west_east = ([round(float(v), 4) for v in pair] for pair in extremes)
        facts["area"] = {"latitude": south_north, "longitude": west_east}
    return facts


def _arc(longitude: npt.NDArray[np.float64]) -> list[float]:
    """West and east end of the shortest arc that holds all longitudes: beyond the widest gap, and before it."""
    ordered = np.unique((longitude + 180) % 360 - 180)
    gap = int(np.argmax(np.diff(ordered, append=ordered[0] + 360)))
    return [ordered[(gap + 1) % len(ordered)], ordered[gap]]


def _provenance(where: str) -> dict[str, str]:
    """Command and version of the build; nothing where the store has lost them."""
    told = read_provenance(place_of(where))
    try:
        return {"command": shlex.join(map(str, told["command"])), "contrail": str(told["versions"]["contrail"])}
    except (KeyError, TypeError):
        return {}


def check_name(name: str) -> None:
    """Raises ContrailError for what is no name of a new entry, or could be taken for a path or a URL."""
    if not _NAME.fullmatch(name) or name.endswith(".zarr"):
        raise ContrailError(
            f"{name!r}: no name for an entry: give letters, digits, '_', '-' and '.', at most 100, no path and no URL"
        )


def add_entry(catalog: Path, name: str, url: str, store: xr.Dataset, text: str | None) -> int:
    """Enter an open store, which lies at `url` (or path), under a name, and return the version it has there.

    A digest that the name has already, in whatever version, changes nothing. Another one becomes the newest version.
    The catalog is created if need be. Processes may add at the same time. Raises ContrailError for a name or location
    that a catalog may not hold, and for a file that cannot be read or written.
    """
    check_name(name)
    facts = describe(store)
    entry = {
        "driver": "zarr",
        "description": text or f"{facts['kind']} of composite {facts['composite']}",
        "args": {"urlpath": _portable(catalog, url)},
        "metadata": {
            **facts,
            "added_by": _user(),
            "added_at": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        },
    }
    store_path(catalog, name, entry)  # what cannot be read back is not written
    return edit(catalog, lambda old: with_entry(old, name, entry), create=True)


def remove_entry(catalog: Path, name: str) -> tuple[str, str | None]:
    """Remove the entry of `name` (its newest version) or `name@version`; its data stays.

    Returns the name with its version, and, if the next newest took its place, that one's key before. Raises
    ContrailError for an unknown name and for a file that cannot be read or written.
    """
    return edit(catalog, lambda old: without_entry(old, name), create=False)


def _portable(catalog: Path, url: str) -> str:
    """A URL as it is, a path under the catalog's folder from there, another one absolute."""
    if "://" in url:
        return url
    path, folder = (os.path.abspath(p) for p in (url, catalog.parent))
    return f"{{{{ CATALOG_DIR }}}}/{os.path.relpath(path, folder)}" if path.startswith(f"{folder}/") else path


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container may run under an id without a name
        return str(os.getuid())
