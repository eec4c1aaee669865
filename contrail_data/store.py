"""The store: a zarr v3 group of samples, written once, sealed, and named by the digest of its contents.

While a build is under way the folder has no `zarr.json`, so that nothing can take it for a store; `seal` writes
that file last. `xarray.open_zarr(path)` opens a sealed store without this package.

    zarr.json        group attributes (ATTRIBUTES below) and consolidated metadata
    image/           uint8, float16 or float32 (sample, time, channel, y, x), shard = sample, chunk = frame
    mask/            uint8 (sample, y, x), 0/1
    annotators/      uint8 (sample, y, x) bit field, only where some sample has annotators
    ...              per-sample variables, one chunk each
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
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
import xxhash

from contrail_data import __version__
from contrail_data.errors import ContrailError
from contrail_data.shards import CODECS, Layout, parse_layout, read_sample, write_atomically

FORMAT = "contrail-store"
FORMAT_VERSION = 1
MANIFEST = "manifest.txt"
PROVENANCE = "provenance.json"
BUILDING = ".building"  # holds what a build has finished so far; gone once sealed

DIMS = {
    "image": ("sample", "time", "channel", "y", "x"),
    "mask": ("sample", "y", "x"),
    "annotators": ("sample", "y", "x"),
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
    frames_apart: bool
    """Whether the first axis is the frame and each frame is an inner chunk of its own."""


def array_metadata(name: str, array: Array, samples: int) -> dict[str, bytes]:
    """`zarr.json` of a variable with pixels, as zarr itself writes it."""
    import zarr
    from zarr.storage import MemoryStore

    memory = MemoryStore()
    unit = (1, 1, *array.shape[1:]) if array.frames_apart else (1, *array.shape)
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
        shards=(1, *array.shape) if array.frames_apart else None,
        chunks=unit,
        dtype=array.dtype,
        compressors=None if codec is None else [codec],
        fill_value=0,
        dimension_names=DIMS[name],
        attributes=attributes,
        # One folder of files, not five folders a sample.
        chunk_key_encoding={"name": "default", "separator": "."},
        zarr_format=3,
    )
    return {key: content for key, content in _contents(memory).items() if key != "zarr.json"}  # not the group's


def _contents(memory: Any) -> dict[str, bytes]:
    return {key: buffer.to_bytes() for key, buffer in memory._store_dict.items()}


def create_arrays(root: Path, arrays: Mapping[str, Array], samples: int) -> dict[str, Layout]:
    """Write the metadata of the variables with pixels and return where their chunks go."""
    layouts = {}
    for name, array in arrays.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for key, content in array_metadata(name, array, samples).items():
            write_atomically(root / key, [content])
        layout = parse_layout(root / name)
        assert layout is not None, f"{name}: our own layout must be one we can write"
        layouts[name] = layout
    return layouts


def seal(
    root: Path,
    arrays: Mapping[str, Array],
    scalars: xr.Dataset,
    attributes: dict[str, Any],
    chunk_checksums: Mapping[str, tuple[str, int]],
    command: Sequence[str],
    extra_provenance: dict[str, Any],
) -> str:
    """Turn finished chunks into a store and return its digest.

    `scalars` holds the per-sample variables, `chunk_checksums` (checksum, bytes) of every chunk file by its path in
    the store. Can be repeated: nothing counts before the group's `zarr.json`, which comes last.
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
    group = json.loads(files.pop("zarr.json"))
    for name, array in arrays.items():
        files |= array_metadata(name, array, samples)
    checksums = {
        **chunk_checksums,
        **{key: (xxhash.xxh3_64_hexdigest(content), len(content)) for key, content in files.items()},
    }
    manifest = "".join(f"{checksum} {size} {path}\n" for path, (checksum, size) in sorted(checksums.items())).encode()

    attrs = {"format": FORMAT, "format_version": FORMAT_VERSION, **group["attributes"], **attributes}
    attrs["samples"] = samples
    digest = _digest(manifest, attrs)
    group["attributes"] = {**attrs, "digest": digest}
    group["consolidated_metadata"] = {
        "kind": "inline",
        "must_understand": False,
        "metadata": {
            key.removesuffix("/zarr.json"): json.loads(files[key])
            for key in sorted(files)
            if key.endswith("/zarr.json")
        },
    }
    provenance = {
        "digest": digest,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": list(command),
        "versions": {"contrail": __version__, "python": platform.python_version()}
        | {name: sys.modules[name].__version__ for name in ("numpy", "zarr", "xarray")},
        **extra_provenance,
    }
    for key, content in files.items():
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(root / key, [content])
    write_atomically(root / MANIFEST, [manifest])
    write_atomically(root / PROVENANCE, [json.dumps(provenance, indent=1).encode()])
    write_atomically(root / "zarr.json", [json.dumps(group, indent=1).encode()])
    return digest


def _digest(manifest: bytes, attributes: Mapping[str, Any]) -> str:
    facts = {k: v for k, v in attributes.items() if k != "digest"}
    canonical = json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()
    return "sha256:" + hashlib.sha256(manifest + b"\n" + canonical).hexdigest()


def open_store(path: str | Path) -> xr.Dataset:
    """A sealed store, local or by URL, as named axes of lazily read, undecoded pixels and decoded scalars.

    `image` stays in its stored dtype (uint8 by default); `ds.attrs` holds the composite, statistics, digest.
    Raises ContrailError for what is no store or an unfinished one.
    """
    where = str(path)
    remote = "://" in where
    if not remote:
        local = Path(path)
        if (local / BUILDING).is_dir() and not (local / "zarr.json").exists():
            raise ContrailError(f"{where}: an unfinished build: run the same command again to finish it")
        if not (local / "zarr.json").is_file():
            state = "no store (it has no zarr.json)" if local.exists() else "no such store or catalog name"
            raise ContrailError(f"{where}: {state}: check the path")
    try:
        dataset = xr.open_dataset(
            where, engine="zarr", chunks=None, consolidated=True, mask_and_scale=False, decode_times=False,
        )  # fmt: skip
    except Exception as error:  # xarray, zarr and fsspec each have their own family
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise ContrailError(f"{where}: cannot be opened as a zarr store ({reason}): check the path") from None
    if dataset.attrs.get("format") != FORMAT or "digest" not in dataset.attrs:
        raise ContrailError(f"{where}: a zarr group, but no sealed contrail store: build one with build-ash")
    if dataset.attrs["format_version"] > FORMAT_VERSION:
        raise ContrailError(f"{where}: written by a newer contrail (format {dataset.attrs['format_version']}): upgrade")
    dataset.attrs["path"] = where
    needed = {"samples": ("composite", "label_shift", "statistics")}.get(
        dataset.attrs.get("kind", ""), ("parent", "model")
    )
    if absent := [k for k in ("kind", *needed) if k not in dataset.attrs]:
        raise ContrailError(f"{where}: attribute {absent[0]!r} is missing: restore the store")
    if "time" in dataset.variables:
        decoded = xr.decode_cf(_load(dataset[["time"]], where), mask_and_scale=True)
        dataset = dataset.assign_coords(time=decoded["time"])
    return dataset


def _load(dataset: xr.Dataset, where: str) -> xr.Dataset:
    try:
        return dataset.load()
    except Exception as error:  # each codec has its own
        reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        raise ContrailError(f"{where}: does not decode ({reason}): restore the store") from None


def kind(store: xr.Dataset) -> str:
    """What a store is: `samples`, or what was derived from one: `pseudo-labels`, `predictions`."""
    return str(store.attrs["kind"])


@dataclass(frozen=True)
class Damage:
    """One thing `verify` found wrong with a store."""

    path: str
    reason: str


def verify(path: Path) -> list[Damage]:
    """Check every file of a local sealed store against its manifest, and the manifest against the digest.

    Raises ContrailError when it is no sealed store.
    """
    attributes = open_store(path).attrs
    damage = []
    try:
        manifest = (path / MANIFEST).read_bytes()
    except OSError as error:
        return [Damage(MANIFEST, error.strerror or "cannot be read")]
    group = json.loads((path / "zarr.json").read_bytes())
    if _digest(manifest, group["attributes"]) != attributes["digest"]:
        damage.append(Damage("zarr.json", "attributes and manifest do not give the digest"))
    listed = set()
    for line in manifest.decode(errors="replace").splitlines():
        checksum, size, name = (*line.split(" ", 2), "", "")[:3]
        if not size.isdigit():
            damage.append(Damage(MANIFEST, f"holds the line {line[:40]!r}"))
            continue
        listed.add(name)
        try:
            content = (path / name).read_bytes()
        except OSError as error:
            damage.append(Damage(name, (error.strerror or "cannot be read").lower()))
            continue
        if len(content) != int(size):
            damage.append(Damage(name, f"{len(content)} bytes, expected {size}"))
        elif xxhash.xxh3_64_hexdigest(content) != checksum:
            damage.append(Damage(name, "checksum differs"))
        elif name.endswith("/zarr.json") and json.loads(content) != group["consolidated_metadata"]["metadata"].get(
            name.removesuffix("/zarr.json")
        ):
            damage.append(Damage("zarr.json", f"consolidated metadata differs from {name}"))
    expected = listed | {"zarr.json", MANIFEST, PROVENANCE}
    for found in sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()):
        if found not in expected:
            damage.append(Damage(found, "is not in the manifest"))
    return damage


PixelReader = Callable[[int, Sequence[int], npt.NDArray[Any]], None]


def pixel_reader(store: xr.Dataset, name: str = "image") -> PixelReader:
    """`read(sample, frames, out)`: frames of one sample of `image`, `probability` or `frame_mask` into `out`,
    (frame, ...) of the stored dtype; for `mask` and `annotators` frames is [0] and `out` (1, y, x).

    Straight from the chunk files where the layout is one of ours, through zarr for anything else. Can be called
    from many threads. Raises ContrailError naming the file that cannot be read.
    """
    path = str(store.attrs["path"])
    try:
        layout = None if "://" in path else parse_layout(Path(path) / name)
    except (OSError, ValueError):
        raise ContrailError(f"{path}/{name}/zarr.json: missing or damaged: restore the store") from None
    if layout is not None and (layout.unit_shape[0] == 1) == ("time" in DIMS[name]):
        return partial(read_sample, layout)
    import zarr

    group = zarr.open_group(path, mode="r", zarr_format=3)
    return partial(_read_through_zarr, group[name], "time" in DIMS[name], f"{path}/{name}")


def _read_through_zarr(
    array: Any, framed: bool, where: str, sample: int, frames: Sequence[int], out: npt.NDArray[Any]
) -> None:
    try:
        out[...] = array.oindex[sample, list(frames)] if framed else array[sample]
    except (OSError, ValueError, RuntimeError) as error:
        raise ContrailError(f"{where}: sample {sample} cannot be read ({error}): restore the store") from None


def read_scalars(store: xr.Dataset) -> xr.Dataset:
    """The per-sample variables in memory, without the ones with pixels."""
    return _load(store.drop_vars([n for n in DIMS if n in store.variables]), str(store.attrs["path"]))
