"""Writes the arrays' metadata of a new store, and seals it once all chunks are there."""

import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import xarray as xr

from contrail_data import __version__
from contrail_data.process import command_line
from contrail_data.storage.place import Place, sync_folders
from contrail_data.store import manifest, schema
from contrail_data.store.encoding import array_metadata, bytes_codec, variable_files
from contrail_data.store.journal import Row
from contrail_data.store.layout import Layout, compressor_metadata
from contrail_data.store.logits import STEPS
from contrail_data.store.manifest import FileChecksum, Manifest, Provenance
from contrail_data.store.schema import DIMS, GROUP, SHARD, ArraySpec, PixelDtype, checksum_name

_ARRAY_ATTRIBUTES: dict[str, dict[str, Any]] = {
    "image": {"long_name": "composite, 0 and 1 at the channel's bounds in kelvin", "units": "1"},
    "mask": {"long_name": "majority contrail label of the labelled frame", "units": "1"},
    "annotators": {
        "long_name": "annotators who marked the pixel",
        "flag_masks": [1 << r for r in range(8)],
        "flag_meanings": " ".join(f"annotator_{r}" for r in range(8)),
    },
    "instance_masks": {
        "long_name": "annotators who marked the pixel as part of a contrail, for each contrail",
        "flag_masks": [1 << r for r in range(8)],
        "flag_meanings": " ".join(f"annotator_{r}" for r in range(8)),
    },
    "valid": {"long_name": "0 where the pixel is missing, and the image 1 in every channel", "units": "1"},
    "logit": {"long_name": "logit of the contrail probability, rounded down", "units": "1", "scale_factor": 1 / STEPS},
    "frame_mask": {"long_name": "contrail mask of each frame", "units": "1"},
    "frame_instance": {"long_name": "number of the contrail that a pixel belongs to, 0 for none", "units": "1"},
}


@dataclass(frozen=True, kw_only=True)
class SealedContents:
    """All that a store consists of, apart from the bytes of its chunks, which are in place already."""

    arrays: Mapping[str, ArraySpec]
    """Pixel arrays by name."""
    scalars: xr.Dataset
    """Per-sample variables."""
    attributes: Mapping[str, Any]
    """Attributes of the group: kind, composite and so on."""
    chunk_files: Manifest
    """Checksum of every chunk file of the pixel arrays."""
    provenance: Provenance
    """How the store was built, apart from digest, time and versions, which `seal` adds."""


def checksum_variables(rows: Sequence[Row], arrays: Sequence[str]) -> dict[str, Any]:
    """Collect the checksums of all chunks.

    Args:
        rows: Journal rows, one per sample.
        arrays: Names of the pixel arrays.

    Returns:
        The checksum variable of each array, (sample) or (sample, time) uint64, as xarray takes it.
    """
    attributes = {"long_name": "xxh3 (64 bits) of the chunk as it decodes"}
    variables = {}
    for name in arrays:
        values = np.array([row["checksums"][name] for row in rows], np.uint64)
        has_time = "time" in DIMS[name]
        dims = DIMS[name][: 1 + has_time]
        variables[checksum_name(name)] = (dims, values if has_time else values[:, 0], attributes)
    return variables


def create_arrays(place: Place, arrays: Mapping[str, ArraySpec], samples: int) -> dict[str, Layout]:
    """Write the metadata of the pixel arrays.

    Args:
        place: The store.
        arrays: Pixel arrays by name.
        samples: Length of their sample axis.

    Returns:
        Where the chunks of each array belong.
    """
    place.write_all(_pixel_metadata(arrays, samples))
    return {name: Layout(place, name, samples, spec) for name, spec in arrays.items()}


def seal(place: Place, contents: SealedContents) -> str:
    """Turn finished chunks into a store.

    Can be repeated after an interruption: the place is not a store before the group's `zarr.json` exists, which is
    written last, when everything else is on the disk.

    Args:
        place: The store.
        contents: What it consists of.

    Returns:
        Its digest.
    """
    samples = contents.scalars.sizes["sample"]
    files = _scalar_files(contents.scalars) | _pixel_metadata(contents.arrays, samples)
    checksums = contents.chunk_files | {key: FileChecksum.of(content) for key, content in files.items()}
    manifest_file = manifest.encode_manifest(checksums)
    attributes = {
        "format": schema.FORMAT,
        "format_version": schema.FORMAT_VERSIONS[contents.attributes["kind"]],
        **contents.attributes,
    }
    attributes |= {"samples": samples, "manifest": manifest.sha256(manifest_file)}
    digest = manifest.store_digest(attributes)
    provenance: Provenance = {
        "digest": digest,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_line(),
        "samples": samples,
        "versions": {"contrail": __version__, "python": platform.python_version()}
        | {name: sys.modules[name].__version__ for name in ("numpy", "numcodecs", "xarray")},
        **contents.provenance,
    }
    provenance_file = manifest.encode_provenance(provenance)
    place.write_all({**files, schema.MANIFEST: manifest_file, schema.PROVENANCE: provenance_file})
    sync_folders(place)
    place.write(GROUP, [manifest.encode_group({**attributes, "digest": digest}, files)])
    return digest


def _pixel_metadata(arrays: Mapping[str, ArraySpec], samples: int) -> dict[str, bytes]:
    """Encode the metadata of the pixel arrays."""
    return {f"{name}/zarr.json": _array_metadata(name, spec, samples) for name, spec in arrays.items()}


def _array_metadata(name: str, spec: ArraySpec, samples: int) -> bytes:
    """Encode the metadata of a pixel array, see `contrail_data.store.layout`."""
    attributes, is_float = dict(_ARRAY_ATTRIBUTES[name]), np.dtype(spec.dtype).kind == "f"
    if spec.dtype == PixelDtype.UINT8 and name == "image":
        attributes["scale_factor"] = 1 / 255
    sharding = {
        "chunk_shape": [1, 1, *spec.shape[1:]] if "time" in DIMS[name] else [1, *spec.shape],
        "codecs": [bytes_codec(spec.dtype), *compressor_metadata(spec.codec, np.dtype(spec.dtype).itemsize)],
        "index_codecs": [bytes_codec("u8"), {"name": "crc32c"}],
        "index_location": "end",
    }
    return array_metadata(
        [samples, *spec.shape],
        spec.dtype,
        chunk=[SHARD, *spec.shape],
        separator=".",  # one folder of files, not five nested ones each
        fill_value=0.0 if is_float else 0,
        codecs=[{"name": "sharding_indexed", "configuration": sharding}],
        attributes=attributes,
        dims=DIMS[name],
    )


def _scalar_files(scalars: xr.Dataset) -> dict[str, bytes]:
    """Encode the per-sample variables."""
    scalars = scalars.set_coords([name for name in schema.COORDINATES if name in scalars]).drop_encoding()
    if "time" in scalars:
        # float64 seconds are exact here and carry NaT as NaN, which any reader decodes.
        scalars["time"].encoding = {"units": "seconds since 1970-01-01", "dtype": "float64", "_FillValue": np.nan}
    return variable_files(scalars)
