"""MISSING DOCSTRING."""

from __future__ import annotations

from dataclasses import dataclass

import xarray as xr

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


def kind(store: xr.Dataset) -> str:
    """What a store is: `samples`, or what was derived from one: `pseudo-labels`, `predictions`."""
    return str(store.attrs["kind"])
