"""The store: a zarr v3 group of samples, written once, sealed, and named by the digest of its contents.

While a build is under way the place has no `zarr.json`, so that nothing can take it for a store; `seal` writes
that file last. `xarray.open_zarr(path)` opens a sealed store without this package.

    zarr.json        group attributes and consolidated metadata
    image/           uint8, float16 or float32 (sample, time, channel, y, x), chunk = frame, shard = 16 samples
    mask/            uint8 (sample, y, x), 0/1, chunk = sample, shard = 16 samples
    annotators/      uint8 (sample, y, x) bit field, only where some sample has annotators
    valid/           uint8 (sample, time, y, x), 0/1, chunk = frame, only where some pixel is missing
    ...              per-sample variables, one chunk each; among them the checksum of every chunk of the above
    manifest.txt     xxh3 checksum, size and path of every other file of the store
    provenance.json  command, time, versions: the only file in which two builds of the same input differ
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
import xxhash

from contrail_data.errors import ContrailError
from contrail_data.sample import check_record_id
from contrail_data.storage.place import STAGING, Place, place_of, zarr_store
from contrail_data.store.manifest import cached_manifest, digest_of, sound
from contrail_data.store.schema import DIMS, FORMAT, FORMAT_VERSION, MANIFEST, checksum_name
from contrail_data.store.shards import Reader, parse_layout
from contrail_data.store.untrusted import check_metadata, refuse_bomb


def open_store(address: str | Path | Place, *, times: bool = True) -> xr.Dataset:
    """A sealed store, local or by URL, as named axes of lazily read, undecoded pixels and decoded scalars.

    `image` stays in its stored dtype (uint8 by default); `ds.attrs` holds the composite, statistics, digest. Without
    `times` nothing but metadata is read, and times stay as stored.
    Raises ContrailError for what is no store, an unfinished one, or one that claims what no store of ours holds.
    """
    place = address if isinstance(address, Place) else place_of(address)
    where = place.url
    try:
        content = place.read("zarr.json")
    except (FileNotFoundError, NotADirectoryError):
        if place.size(f"{STAGING}/plan") is not None:
            raise ContrailError(
                f"{where}: an unfinished build: run its command again, which ends it or tells what is in the way"
            ) from None
        there = not place.remote and place.path.exists()
        state = "no store (it has no zarr.json)" if there else "no such store or catalog name"
        raise ContrailError(f"{where}: {state}: check the path") from None
    try:
        group = json.loads(content)
        attributes = group["attributes"]
        version = attributes["format_version"]
        named = all(isinstance(attributes[name], str) for name in ("digest", "manifest"))
        ours = attributes["format"] == FORMAT and named and type(version) is int
    except (ValueError, RecursionError):
        raise ContrailError(f"{where}/zarr.json: cannot be opened (no JSON): restore the store") from None
    except (KeyError, TypeError):
        ours = False
    if not ours:
        raise ContrailError(f"{where}: a zarr group, but no sealed contrail store: build one with build-ash")
    if version != FORMAT_VERSION:
        remedy = "upgrade contrail" if version > FORMAT_VERSION else "build it again"
        raise ContrailError(f"{where}: is of format {str(version)[:20]}, not {FORMAT_VERSION}: {remedy}")
    if digest_of(attributes) != attributes["digest"]:
        raise ContrailError(f"{where}/zarr.json: attributes are not those that were sealed: verify the store")
    check_metadata(group, DIMS, where)
    for name, meta in group["consolidated_metadata"]["metadata"].items():
        if meta.get("dimension_names") == [name]:  # xarray decodes these at once
            key = _chunk_key(name, 1)
            with suppress(FileNotFoundError):
                refuse_bomb(place.file(key), place.read(key, most=2**24), meta["shape"])
    try:
        dataset = xr.open_dataset(
            zarr_store(place), engine="zarr", chunks=None, consolidated=True, mask_and_scale=False, decode_times=False,
        )  # fmt: skip
    except Exception as error:  # xarray and zarr each have their own family
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise ContrailError(f"{where}: cannot be opened as a zarr store ({reason}): restore the store") from None
    dataset.attrs["path"] = where
    needed = {"samples": ("composite", "label_shift", "statistics")}.get(
        dataset.attrs.get("kind", ""), ("parent", "model")
    )
    if absent := [k for k in ("kind", *needed) if k not in dataset.attrs]:
        raise ContrailError(f"{where}: attribute {absent[0]!r} is missing: it is none of ours")
    if times and "time" in dataset.variables:
        stored = xr.Dataset({"time": dataset.variables["time"]}, attrs=dataset.attrs)
        decoded = xr.decode_cf(_load(stored), mask_and_scale=True)
        dataset = dataset.assign_coords(time=decoded["time"])
    return dataset


def _load(dataset: xr.Dataset) -> xr.Dataset:
    """Per-sample variables in memory, their files held to the manifest before they are decoded."""
    place = place_of(dataset.attrs["path"])
    try:
        listed = cached_manifest(place, dataset.attrs["manifest"])
    except FileNotFoundError:
        raise ContrailError(f"{place.file(MANIFEST)}: missing: verify the store, and repair it") from None

    def look(name: str) -> None:
        for key in (f"{name}/zarr.json", _chunk_key(name, dataset[name].ndim)):
            if key in listed:  # a variable of nothing but fill values has no chunk
                content = sound(place, key, listed)
                refuse_bomb(place.file(key), content, dataset[name].shape)

    names = [str(name) for name in dataset.variables]
    if place.remote:
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(look, names))
    else:
        for name in names:
            look(name)
    try:
        return dataset.load()
    except Exception as error:  # each codec has its own
        reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        raise ContrailError(f"{place}: does not decode ({reason}): restore the store") from None


def _chunk_key(name: str, ndim: int) -> str:
    return f"{name}/{'/'.join(['c', *['0'] * ndim])}"


PixelReader = Callable[[int, Sequence[int], npt.NDArray[Any]], None]


def pixel_reader(store: xr.Dataset, name: str = "image", *, check: bool = False, keep: bool = False) -> PixelReader:
    """`read(sample, frames, out)`: frames of one sample of `image`, `probability` or `frame_mask` into `out`,
    (frame, ...) of the stored dtype; for `mask` and `annotators` frames is [0] and `out` (1, y, x).

    Straight from the chunk bytes where the layout is one of ours, through zarr for anything else. Can be called
    from many threads. `check` holds every frame to its checksum; `keep` keeps a local copy of each file that is read
    from object storage. Raises ContrailError naming the file that cannot be read, or the sample that is damaged.
    """
    place = place_of(store.attrs["path"])
    try:
        sound(place, f"{name}/zarr.json", cached_manifest(place, store.attrs["manifest"]))
        layout = parse_layout(place, name)
    except (FileNotFoundError, ValueError):
        raise ContrailError(f"{place}/{name}/zarr.json: missing or damaged: restore the store") from None
    if layout is not None and (layout.shape[1:], layout.dtype) != (store[name].shape[1:], store[name].dtype):
        raise ContrailError(f"{place}/{name}/zarr.json: is not what was sealed: restore the store")
    read: PixelReader
    if layout is not None and (layout.unit_shape[0] == 1) == ("time" in DIMS[name]):
        fetch = None
        if keep and place.remote:
            from contrail_data.store.cache import fetcher

            fetch = fetcher(store)
        read = Reader(layout, fetch)
    else:
        import zarr

        group = zarr.open_group(zarr_store(place), mode="r", zarr_format=3)
        read = partial(_read_through_zarr, group[name], "time" in DIMS[name], f"{place}/{name}")
    if not check:
        return read
    stated = _load(store[[checksum_name(name)]])[checksum_name(name)].values
    return partial(_read_checked, read, stated.reshape(len(stated), -1), f"{place}/{name}")


def _read_checked(
    read: PixelReader,
    stated: npt.NDArray[np.uint64],
    where: str,
    sample: int,
    frames: Sequence[int],
    out: npt.NDArray[Any],
) -> None:
    read(sample, frames, out)
    for frame, pixels in zip(frames, out, strict=True):
        if xxhash.xxh3_64_intdigest(pixels.data) != stated[sample, frame]:
            raise ContrailError(f"{where}: sample {sample}, frame {frame} fails its checksum: verify the store")


def _read_through_zarr(
    array: Any, framed: bool, where: str, sample: int, frames: Sequence[int], out: npt.NDArray[Any]
) -> None:
    try:
        out[...] = array.oindex[sample, list(frames)] if framed else array[sample]
    except (OSError, ValueError, RuntimeError) as error:
        raise ContrailError(f"{where}: sample {sample} cannot be read ({error}): restore the store") from None


def read_scalars(store: xr.Dataset) -> xr.Dataset:
    """The per-sample variables in memory, without the ones with pixels. Raises ContrailError for damaged ones, and for
    record ids that are no plain names.
    """
    scalars = _load(store.drop_vars([n for n in DIMS if n in store.variables]))
    for record_id in scalars["record_id"].values:
        check_record_id(str(record_id))
    return scalars
