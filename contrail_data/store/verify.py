"""Finds what is wrong with a sealed store.

Every file is compared with the manifest, the manifest and the attributes with the digest, the arrays with the schema,
and the statistics and counts with the samples. For a damaged shard, the records are named whose chunks in it fail
their own checksums.
"""

import json
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from contrail_data.errors import ContrailError
from contrail_data.storage.files import Unreachable
from contrail_data.storage.place import Place
from contrail_data.store import manifest, stats
from contrail_data.store.manifest import Damaged, Manifest
from contrail_data.store.metadata import require_store
from contrail_data.store.reader import open_store, pixel_reader, read_scalars
from contrail_data.store.schema import DIMS, GROUP, MANIFEST, PROVENANCE, SHARD, Kind, checksum_name, kind_of

_THREADS = 4  # reading and checksums release the interpreter lock


@dataclass(frozen=True)
class Damage:
    """One thing that is wrong with a store."""

    path: str
    """Key of the file, or name of the variable."""
    reason: str


def verify(place: Place) -> list[Damage]:
    """Verify a store.

    Args:
        place: The store.

    Returns:
        All that is wrong; empty if the store is intact.

    Raises:
        ContrailError: If there is no sealed store.
        Unreachable: If a file cannot be read that may be intact.
    """
    group, files, damage = _check_group(place)
    if damage and place.remote:  # the network may have done it
        group, files, damage = _check_group(place)
    if any(place.is_link(key) for key in (GROUP, MANIFEST, PROVENANCE)):
        damage.append(Damage(GROUP, "it, the manifest or the provenance is a symbolic link; remove it"))
    if not files:
        return damage or [Damage(MANIFEST, "is empty")]
    reasons = manifest.map_files("verify", files, partial(_check_file, place, files), _THREADS)
    damage += [Damage(key, reason) for key, reason in reasons if reason]
    expected = {*files, GROUP, MANIFEST, PROVENANCE}
    damage += [Damage(key, "is not in the manifest; remove it") for key in place.sizes() if key not in expected]
    if group is not None and not any(item.path.endswith((GROUP, MANIFEST)) for item in damage):
        arrays = {key: manifest.read_verified(place, key, files) for key in files if key.endswith(f"/{GROUP}")}
        if manifest.encode_group(group["attributes"], arrays) not in (place.read(GROUP), place.read(GROUP)):
            damage.append(Damage(GROUP, "is not what was sealed"))
    try:
        manifest.read_verified_provenance(place)
    except Damaged as error:
        damage.append(Damage(PROVENANCE, str(error).removeprefix(f"{place.file(PROVENANCE)}: ")))
    if not all(_has_pixels(item.path) or item.path == PROVENANCE for item in damage):
        return damage
    try:
        store = open_store(place)
        scalars = read_scalars(store)
    except Unreachable:
        raise
    except ContrailError as error:
        return [*damage, Damage(GROUP, str(error))]
    damage += _check_samples(store, scalars)
    return [Damage(item.path, item.reason + _damaged_records(store, scalars, item.path)) for item in damage]


def _check_group(place: Place) -> tuple[Any, Manifest, list[Damage]]:
    """Read and check the group's metadata (None if unreadable) and the manifest (empty if unreadable)."""
    group: Any = None
    files: Manifest = {}
    damage = []
    try:
        group = json.loads(place.read(GROUP))
        attributes = group["attributes"]
        if manifest.store_digest(attributes) != attributes["digest"]:
            damage.append(Damage(GROUP, "attributes are not those that were sealed"))
        files = manifest.read_manifest(place, attributes["manifest"])
    except FileNotFoundError:
        require_store(place)
        damage.append(Damage(GROUP, "missing"))
    except Damaged:
        missing = place.size(MANIFEST) is None
        damage.append(Damage(MANIFEST, "missing" if missing else "is not the one that was sealed"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        damage.append(Damage(GROUP, "is not the metadata of a store"))
    return group, files, damage


def _has_pixels(key: str) -> bool:
    return key.partition("/")[0] in DIMS and not key.endswith(f"/{GROUP}")


def _check_file(place: Place, files: Manifest, key: str) -> str:
    """Return what is wrong with a file; empty if nothing."""
    if (size := place.size(key)) is None:
        return "missing"
    if place.is_link(key):
        return "is reached through a symbolic link"
    if size != files[key].size:
        return f"{size} bytes, expected {files[key].size}"
    try:
        manifest.read_verified(place, key, files)
    except Damaged:
        return "checksum differs"
    except Unreachable:
        raise
    except ContrailError as error:
        return f"cannot be read ({error})"
    return ""


def _check_samples(store: xr.Dataset, scalars: xr.Dataset) -> list[Damage]:
    """Compare arrays, statistics and counts with the samples, for a program that has sealed something wrong."""
    damage = []
    for name in (n for n in DIMS if n in store.variables):
        if store[name].dims != DIMS[name]:
            damage.append(Damage(f"{name}/{GROUP}", f"dimensions are {store[name].dims}, not {DIMS[name]}"))
        if checksum_name(name) not in scalars:
            damage.append(Damage(checksum_name(name), "missing"))
    record_ids = scalars["record_id"].values
    if len(set(record_ids)) != len(record_ids):
        damage.append(Damage("record_id", "a record occurs twice"))
    if kind_of(store) is Kind.SAMPLES and "moments" in scalars:
        train = scalars["moments"].values[scalars["split"].values == "train"]
        channels = [str(channel) for channel in scalars["channel"].values]
        expected = stats.merge(train.tolist(), channels) if len(train) else None
        if expected != store.attrs["statistics"]:
            damage.append(Damage(GROUP, "statistics are not those of the train samples"))
        unlabelled = (scalars["positive_pixels"].values > 0) & (scalars["label_source"].values != "human")
        if count := int(unlabelled.sum()):
            damage.append(Damage("positive_pixels", f"{count} samples without a label count contrail pixels"))
    return damage


def _damaged_records(store: xr.Dataset, scalars: xr.Dataset, key: str) -> str:
    """List the damaged records of a damaged shard, as text to follow the reason."""
    name, _, rest = key.partition("/c.")
    if not _has_pixels(key) or not rest or checksum_name(name) not in scalars:
        return ""
    shard = int(rest.split(".")[0])
    read = pixel_reader(store, name, check=True)
    shape = store[name].shape[1:] if "time" in DIMS[name] else (1, *store[name].shape[1:])
    out = np.empty(shape, store[name].dtype)
    damaged = []
    for sample in range(shard * SHARD, min((shard + 1) * SHARD, len(scalars["record_id"]))):
        try:
            read(sample, list(range(len(out))), out)
        except Damaged:
            damaged.append(str(scalars["record_id"].values[sample]))
    if not damaged:
        return ""
    more = f" and {len(damaged) - 4} more" if len(damaged) > 4 else ""
    return f"; records {', '.join(damaged[:4])}{more}"
