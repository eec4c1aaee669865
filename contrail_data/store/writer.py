"""MISSING DOCSTRING."""

from __future__ import annotations

import hashlib
import platform
import sys
import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import xarray as xr
import xxhash

from contrail_data import __version__
from contrail_data.storage.place import Place, sync_folders
from contrail_data.store.manifest import digest_of, group_file, provenance_file
from contrail_data.store.schema import (
    COORDINATES,
    DIMS,
    FORMAT,
    FORMAT_VERSION,
    MANIFEST,
    PROVENANCE,
    SHARD,
    ArraySpec,
    checksum_name,
)
from contrail_data.store.shards import CODECS, Layout, parse_layout

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


def checksum_variables(rows: Sequence[Mapping[str, Any]], arrays: Sequence[str]) -> dict[str, Any]:
    """The variables with the checksum of every chunk; `rows`, one a sample, hold them as `checksums` by array."""
    about = {"long_name": "xxh3 (64 bits) of the chunk as it decodes"}
    found = {}
    for name in arrays:
        values = np.array([row["checksums"][name] for row in rows], np.uint64)
        framed = "time" in DIMS[name]
        found[checksum_name(name)] = (DIMS[name][: 1 + framed], values if framed else values[:, 0], about)
    return found


def array_metadata(name: str, array: ArraySpec, samples: int) -> dict[str, bytes]:
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


def create_arrays(place: Place, arrays: Mapping[str, ArraySpec], samples: int) -> dict[str, Layout]:
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
    arrays: Mapping[str, ArraySpec],
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
