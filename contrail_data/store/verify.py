"""Whether a sealed store is still what was sealed, and putting right what is not.

Every file is held to the manifest, the manifest and the attributes to the digest, the arrays to the schema, and the
statistics and counts to the samples they are of. A damaged shard is named with the records whose chunks in it fail
their own checksums.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
import xxhash

from contrail_data.errors import ContrailError
from contrail_data.progress import progress
from contrail_data.storage.place import Place
from contrail_data.store import stats
from contrail_data.store.manifest import digest_of, group_file, provenance_file, read_manifest
from contrail_data.store.reader import open_store, pixel_reader, read_scalars
from contrail_data.store.schema import DIMS, MANIFEST, PROVENANCE, SHARD, Kind, checksum_name, kind_of

_THREADS = 4  # reading and checksums let others run


@dataclass(frozen=True)
class Damage:
    """One thing found wrong with a store."""

    path: str
    reason: str


def verify(place: Place, threads: int = _THREADS) -> list[Damage]:
    """All that is wrong with a store, nothing where it is whole. Raises ContrailError when it is no sealed store."""
    damage: list[Damage] = []
    listed: dict[str, tuple[str, int]] = {}
    group: Any = None
    try:
        group = json.loads(place.read("zarr.json"))
        attributes = group["attributes"]
        if digest_of(attributes) != attributes["digest"]:
            damage.append(Damage("zarr.json", "attributes are not those that were sealed"))
        listed = read_manifest(place, attributes["manifest"])
    except FileNotFoundError as error:
        lost = MANIFEST if MANIFEST in str(error) else "zarr.json"
        if lost == "zarr.json" and place.size(MANIFEST) is None:
            open_store(place)  # tells what there is instead of a store
        damage.append(Damage(lost, "missing"))
    except ContrailError:
        damage.append(Damage(MANIFEST, "is not the one that was sealed"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        damage.append(Damage("zarr.json", "is no store's metadata"))
    if any(place.is_link(key) for key in ("zarr.json", MANIFEST, PROVENANCE)):
        damage.append(Damage("zarr.json", "a symbolic link stands for it, the manifest or the provenance: remove it"))
    if not listed:
        return damage or [Damage(MANIFEST, "is empty")]
    with progress("verify", sum(size for _, size in listed.values()) // 2**20 or 1, unit="MiB") as advance:
        done = 0
        with ThreadPoolExecutor(threads) as pool:
            for key, problem in pool.map(partial(_check_file, place, listed), sorted(listed)):
                before, done = done // 2**20, done + listed[key][1]
                advance(done // 2**20 - before)
                if problem:
                    damage.append(Damage(key, problem))
    expected = {*listed, "zarr.json", MANIFEST, PROVENANCE}
    damage += [Damage(key, "is not in the manifest: remove it") for key in place.sizes() if key not in expected]
    if group is not None and not any(d.path.endswith(("zarr.json", MANIFEST)) for d in damage):
        files = {key: place.read(key) for key in listed if key.endswith("/zarr.json")}
        if group_file(group["attributes"], files) != place.read("zarr.json"):
            damage.append(Damage("zarr.json", "is not what was sealed"))
    try:
        sound_provenance(place)
    except ContrailError as error:
        damage.append(Damage(PROVENANCE, str(error).removeprefix(f"{place.file(PROVENANCE)}: ")))
    if any(d.path in ("zarr.json", MANIFEST) for d in damage):
        return damage
    if all(_has_pixels(d.path) or d.path == PROVENANCE for d in damage):
        try:
            store = open_store(place)
            samples = read_scalars(store)
        except ContrailError as error:
            return [*damage, Damage("zarr.json", str(error))]
        damage += _check_samples(store, samples)
        return [Damage(d.path, d.reason + _records(store, samples, d.path)) for d in damage]
    return damage


def sound_provenance(place: Place) -> bytes:
    """Its bytes. Raises ContrailError when they are not what was sealed."""
    try:
        content = place.read(PROVENANCE, most=2**26)
        told = json.loads(content)
        told.pop("checksum", None)
        if provenance_file(told) == content:
            return content
        reason = "checksum differs"
    except FileNotFoundError:
        reason = "missing"
    except (ValueError, AttributeError, TypeError, RecursionError):
        reason = "is no JSON"
    raise ContrailError(f"{place.file(PROVENANCE)}: {reason}")


def _has_pixels(key: str) -> bool:
    return key.partition("/")[0] in DIMS and not key.endswith("/zarr.json")


def _check_file(place: Place, listed: dict[str, tuple[str, int]], key: str) -> tuple[str, str]:
    """(key, what is wrong with the file, or nothing)."""
    checksum, size = listed[key]
    try:
        found = place.size(key)
        if found is None:
            return key, "missing"
        if place.is_link(key):
            return key, "a symbolic link stands for it"
        if found != size:
            return key, f"{found} bytes, expected {size}"
        return key, "" if xxhash.xxh3_64_hexdigest(place.read(key)) == checksum else "checksum differs"
    except FileNotFoundError:
        return key, "missing"
    except ContrailError as error:
        return key, f"cannot be read ({error})"


def _check_samples(store: xr.Dataset, samples: xr.Dataset) -> list[Damage]:
    """Statistics and counts against the samples: what a program that sealed nonsense would have got wrong."""
    damage = []
    for name in (n for n in DIMS if n in store.variables):
        if store[name].dims != DIMS[name]:
            damage.append(Damage(f"{name}/zarr.json", f"dimensions are {store[name].dims}, not {DIMS[name]}"))
        if checksum_name(name) not in samples:
            damage.append(Damage(checksum_name(name), "missing"))
    ids = samples["record_id"].values
    if len(set(ids)) != len(ids):
        damage.append(Damage("record_id", "a record comes twice"))
    if kind_of(store) is Kind.SAMPLES and "moments" in samples:
        train = samples["moments"].values[samples["split"].values == "train"]
        channels = [str(c) for c in samples["channel"].values]
        expected = stats.merge(train.tolist(), channels) if len(train) else None
        if expected != store.attrs["statistics"]:
            damage.append(Damage("zarr.json", "statistics are not those of the train samples"))
        human = samples["label_source"].values == "human"
        wrong = (samples["positive_pixels"].values > 0) & ~human
        if wrong.any():
            damage.append(Damage("positive_pixels", f"{int(wrong.sum())} samples without a label count pixels"))
    return damage


def _records(store: xr.Dataset, samples: xr.Dataset, key: str) -> str:
    """Which records of a damaged shard are hurt, as text to follow the reason."""
    name, _, rest = key.partition("/c.")
    if not _has_pixels(key) or not rest or checksum_name(name) not in samples:
        return ""
    number = int(rest.split(".")[0])
    read = pixel_reader(store, name, check=True)
    framed = "time" in DIMS[name]
    shape = store[name].shape[1:] if framed else (1, *store[name].shape[1:])
    out = np.empty(shape, store[name].dtype)
    hurt = []
    for sample in range(number * SHARD, min((number + 1) * SHARD, len(samples["record_id"]))):
        try:
            read(sample, list(range(len(out))), out)
        except ContrailError:
            hurt.append(str(samples["record_id"].values[sample]))
    if not hurt:
        return ""
    more = f" and {len(hurt) - 4} more" if len(hurt) > 4 else ""
    return f"; records {', '.join(hurt[:4])}{more}"
