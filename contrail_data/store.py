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

import hashlib
import json
import platform
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
import xxhash

from contrail_data import __version__
from contrail_data.errors import ContrailError
from contrail_data.places import STAGING, Place, check_key, place_of, sync_folders, zarr_store
from contrail_data.sample import check_record_id
from contrail_data.shards import CODECS, Layout, Reader, parse_layout
from contrail_data.untrusted import check_metadata, refuse_bomb

FORMAT = "contrail-store"
FORMAT_VERSION = 2
MANIFEST = "manifest.txt"
PROVENANCE = "provenance.json"
SHARD = 16
"""Samples a file: few files and requests, little to do again after a kill, 25 MB of uint8 records."""

DIMS = {
    "image": ("sample", "time", "channel", "y", "x"),
    "mask": ("sample", "y", "x"),
    "annotators": ("sample", "y", "x"),
    "valid": ("sample", "time", "y", "x"),
    "probability": ("sample", "time", "y", "x"),
    "frame_mask": ("sample", "time", "y", "x"),
}
"""Variables with pixels: one chunk file a sample, written by the sample."""

_PIXEL_ATTRIBUTES: dict[str, dict[str, Any]] = {
    "image": {"long_name": "composite, 0 and 1 at the channel's bounds in kelvin", "units": "1"},
    "mask": {"long_name": "majority contrail label of the labelled frame", "units": "1"},
    "annotators": {
        "long_name": "annotators who marked the pixel",
        "flag_masks": [1 << r for r in range(8)],
        "flag_meanings": " ".join(f"annotator_{r}" for r in range(8)),
    },
    "valid": {"long_name": "0 where the pixel is missing, and the image 1 in every channel", "units": "1"},
    "probability": {"long_name": "contrail probability", "units": "1"},
    "frame_mask": {"long_name": "contrail mask of each frame", "units": "1"},
}

COORDINATES = ("record_id", "split", "label_source", "time", "latitude", "longitude", "channel")


@dataclass(frozen=True)
class Array:
    """How one variable with pixels is stored."""

    shape: tuple[int, ...]
    """Of one sample, without the sample axis."""
    dtype: str
    codec: str


def checksum_name(array: str) -> str:
    """The variable with xxh3 (64 bits) of each decoded chunk of an array with pixels, bytes in C order."""
    return f"{array}_checksum"


def checksum_variables(rows: Sequence[Mapping[str, Any]], arrays: Sequence[str]) -> dict[str, Any]:
    """The variables with the checksum of every chunk; `rows`, one a sample, hold them as `checksums` by array."""
    about = {"long_name": "xxh3 (64 bits) of the chunk as it decodes"}
    found = {}
    for name in arrays:
        values = np.array([row["checksums"][name] for row in rows], np.uint64)
        framed = "time" in DIMS[name]
        found[checksum_name(name)] = (DIMS[name][: 1 + framed], values if framed else values[:, 0], about)
    return found


def array_metadata(name: str, array: Array, samples: int) -> dict[str, bytes]:
    """`zarr.json` of a variable with pixels, as zarr itself writes it."""
    import zarr
    from zarr.storage import MemoryStore

    memory = MemoryStore()
    attributes = dict(_PIXEL_ATTRIBUTES[name])
    if array.dtype == "uint8" and name in ("image", "probability"):
        attributes["scale_factor"] = 1 / 255
    codec = CODECS[array.codec]
    if codec is not None and codec["name"] == "blosc":
        codec = {**codec, "configuration": {**codec["configuration"], "typesize": np.dtype(array.dtype).itemsize}}
    zarr.create_array(
        memory,
        name=name,
        shape=(samples, *array.shape),
        shards=(SHARD, *array.shape),
        chunks=(1, 1, *array.shape[1:]) if "time" in DIMS[name] else (1, *array.shape),
        dtype=array.dtype,
        compressors=None if codec is None else [codec],
        fill_value=0,
        dimension_names=DIMS[name],
        attributes=attributes,
        chunk_key_encoding={"name": "default", "separator": "."},  # one folder of files, not five nested ones each
        zarr_format=3,
    )
    return {key: content for key, content in _contents(memory).items() if key != "zarr.json"}  # not the group's


def _contents(memory: Any) -> dict[str, bytes]:
    return {key: buffer.to_bytes() for key, buffer in memory._store_dict.items()}


def create_arrays(place: Place, arrays: Mapping[str, Array], samples: int) -> dict[str, Layout]:
    """Write the metadata of the variables with pixels and return where their chunks go."""
    layouts = {}
    for name, array in arrays.items():
        for key, content in array_metadata(name, array, samples).items():
            place.write(key, [content])
        layout = parse_layout(place, name)
        assert layout is not None, f"{name}: our own layout must be one we can write"
        layouts[name] = layout
    return layouts


def seal(
    place: Place,
    arrays: Mapping[str, Array],
    scalars: xr.Dataset,
    attributes: dict[str, Any],
    chunk_files: Mapping[str, tuple[str, int]],
    command: Sequence[str],
    extra_provenance: dict[str, Any],
) -> str:
    """Turn finished chunks into a store and return its digest.

    `scalars` holds the per-sample variables, `chunk_files` (checksum, bytes) of every chunk file by its key. Can be
    repeated: nothing counts before the group's `zarr.json`, which comes last, when all else is on the disk.
    """
    import zarr
    from zarr.storage import MemoryStore

    samples = scalars.sizes["sample"]
    memory = MemoryStore()
    zarr.create_group(memory, zarr_format=3)
    scalars = scalars.set_coords([c for c in COORDINATES if c in scalars])
    encoding: dict[str, dict[str, Any]] = {
        str(name): {"chunks": tuple(max(1, n) for n in variable.shape)} for name, variable in scalars.variables.items()
    }
    if "time" in scalars:
        # float64 seconds are exact here and carry NaT as NaN, which any reader decodes.
        encoding["time"] |= {"units": "seconds since 1970-01-01", "dtype": "float64", "_FillValue": np.nan}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="zarr")
        scalars.to_zarr(memory, mode="a", zarr_format=3, consolidated=False, encoding=encoding)
    files = _contents(memory)
    del files["zarr.json"]  # the group's own
    for name, array in arrays.items():
        files |= array_metadata(name, array, samples)
    checksums = {
        **chunk_files,
        **{key: (xxhash.xxh3_64_hexdigest(content), len(content)) for key, content in files.items()},
    }
    manifest = "".join(f"{checksum} {size} {path}\n" for path, (checksum, size) in sorted(checksums.items())).encode()

    attrs = {"format": FORMAT, "format_version": FORMAT_VERSION, **scalars.attrs, **attributes}
    attrs |= {"samples": samples, "manifest": f"sha256:{hashlib.sha256(manifest).hexdigest()}"}
    digest = digest_of(attrs)
    provenance = {
        "digest": digest,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": list(command),
        "versions": {"contrail": __version__, "python": platform.python_version()}
        | {name: sys.modules[name].__version__ for name in ("numpy", "zarr", "xarray")},
        **extra_provenance,
    }
    for key, content in files.items():
        place.write(key, [content])
    place.write(MANIFEST, [manifest])
    place.write(PROVENANCE, [provenance_file(provenance)])
    sync_folders(place)
    place.write("zarr.json", [group_file({**attrs, "digest": digest}, files)])
    return digest


def group_file(attributes: Mapping[str, Any], files: Mapping[str, bytes]) -> bytes:
    """The group's `zarr.json`; `files` are the arrays' own, by key, among others."""
    arrays = {key.removesuffix("/zarr.json"): json.loads(files[key]) for key in sorted(files) if "/zarr.json" in key}
    consolidated = {"kind": "inline", "must_understand": False, "metadata": arrays}
    group = {"zarr_format": 3, "node_type": "group", "attributes": attributes, "consolidated_metadata": consolidated}
    return json.dumps(group, indent=1).encode()


def provenance_file(facts: Mapping[str, Any]) -> bytes:
    """`provenance.json`, which carries its own checksum, being outside of the manifest."""
    content = json.dumps(facts, sort_keys=True).encode()
    return json.dumps({**facts, "checksum": xxhash.xxh3_64_hexdigest(content)}, indent=1).encode()


def digest_of(attributes: Mapping[str, Any]) -> str:
    """What names a store: over its attributes, of which one is the manifest's digest, and that is over all the rest."""
    facts = {k: v for k, v in attributes.items() if k != "digest"}
    canonical = json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()
    return "sha256:" + hashlib.sha256(canonical).hexdigest()


def read_manifest(place: Place, stated: str) -> dict[str, tuple[str, int]]:
    """(xxh3 checksum, bytes) of every file by key; `stated` is the manifest's digest in the store's attributes.

    Raises ContrailError for a manifest that is not the one sealed, FileNotFoundError where there is none.
    """
    content = place.read(MANIFEST, most=2**28)
    if "sha256:" + hashlib.sha256(content).hexdigest() != stated:
        raise ContrailError(f"{place.file(MANIFEST)}: checksum differs: verify the store, and repair it")
    found = {}
    for line in content.decode(errors="replace").splitlines():
        checksum, size, key = (*line.split(" ", 2), "", "")[:3]
        if not size.isdecimal() or len(size) > 15 or len(checksum) != 16:
            raise ContrailError(f"{place.file(MANIFEST)}: holds the line {line[:40]!r}: it is none of ours")
        found[check_key(key)] = (checksum, int(size))
    return found


_known_manifest = lru_cache(maxsize=16)(read_manifest)  # what was sealed once does not change


def sound(place: Place, key: str, listed: Mapping[str, tuple[str, int]]) -> bytes:
    """A file's bytes. Raises ContrailError when they are not those of the manifest."""
    if key not in listed:
        raise ContrailError(f"{place.file(key)}: is not in the manifest: verify the store")
    checksum, size = listed[key]
    try:
        content = bytes(place.read_range(key, 0, size + 1))  # one byte more would tell
    except FileNotFoundError:
        raise ContrailError(f"{place.file(key)}: missing: verify the store, and repair it") from None
    if len(content) != size or xxhash.xxh3_64_hexdigest(content) != checksum:
        raise ContrailError(f"{place.file(key)}: fails its checksum: verify the store, and repair it")
    return content


def read_provenance(place: Place) -> dict[str, Any]:
    """What `provenance.json` tells; nothing where it is missing or unreadable, being no part of the digest."""
    try:
        told = json.loads(place.read(PROVENANCE))
    except (FileNotFoundError, ContrailError, ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


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
        listed = _known_manifest(place, dataset.attrs["manifest"])
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


def kind(store: xr.Dataset) -> str:
    """What a store is: `samples`, or what was derived from one: `pseudo-labels`, `predictions`."""
    return str(store.attrs["kind"])


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
        sound(place, f"{name}/zarr.json", _known_manifest(place, store.attrs["manifest"]))
        layout = parse_layout(place, name)
    except (FileNotFoundError, ValueError):
        raise ContrailError(f"{place}/{name}/zarr.json: missing or damaged: restore the store") from None
    if layout is not None and (layout.shape[1:], layout.dtype) != (store[name].shape[1:], store[name].dtype):
        raise ContrailError(f"{place}/{name}/zarr.json: is not what was sealed: restore the store")
    read: PixelReader
    if layout is not None and (layout.unit_shape[0] == 1) == ("time" in DIMS[name]):
        fetch = None
        if keep and place.remote:
            from contrail_data.sharing import fetcher

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
    record ids that are no plain names."""
    scalars = _load(store.drop_vars([n for n in DIMS if n in store.variables]))
    for record_id in scalars["record_id"].values:
        check_record_id(str(record_id))
    return scalars


def as_text(values: npt.NDArray[Any]) -> npt.NDArray[np.str_]:
    """Strings of any numpy kind (zarr gives variable-length ones) as fixed-width ones."""
    return np.array([str(value) for value in values], np.str_)
