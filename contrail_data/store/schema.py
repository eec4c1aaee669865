"""Names, constants and kinds of the store format.

Command lines import this module for the choices in their help texts, so it must stay free of numpy, xarray and zarr.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from contrail_data.errors import ContrailError

FORMAT = "contrail-store"
GROUP = "zarr.json"
MANIFEST = "manifest.txt"
PROVENANCE = "provenance.json"
SHARD = 16
"""Samples per shard file: few files and requests, little to repeat after a kill, 25 MB for uint8 records."""

DIMS = {
    "image": ("sample", "time", "channel", "y", "x"),
    "mask": ("sample", "y", "x"),
    "annotators": ("sample", "y", "x"),
    "instance_masks": ("sample", "instance", "y", "x"),
    "valid": ("sample", "time", "y", "x"),
    "logit": ("sample", "time", "y", "x"),
    "frame_mask": ("sample", "time", "y", "x"),
    "frame_instance": ("sample", "time", "y", "x"),
}
"""Dimensions of the pixel arrays: the variables that are chunked by sample (and by frame, if they have a time axis)."""

COORDINATES = ("record_id", "split", "label_source", "time", "latitude", "longitude", "channel")


class Kind(StrEnum):
    """What a store holds."""

    SAMPLES = "samples"
    """Images, with labels where there are any."""
    PSEUDO_LABELS = "pseudo-labels"
    """Probabilities predicted for a store of samples, to train on."""
    PREDICTIONS = "predictions"
    """Probabilities predicted for a store of samples, to evaluate or submit."""


FORMAT_VERSIONS = {Kind.SAMPLES: 2, Kind.PSEUDO_LABELS: 3, Kind.PREDICTIONS: 3}
"""Version of the format by kind. Version 2 of labels held probabilities in steps of 1/255."""


class Codec(StrEnum):
    """Compressor of the image array."""

    NONE = "none"
    LZ4 = "lz4"
    ZSTD = "zstd"


class PixelDtype(StrEnum):
    """Data type of the image array."""

    UINT8 = "uint8"
    FLOAT16 = "float16"
    FLOAT32 = "float32"


LOGIT_DTYPE = "int16"
"""Data type of `logit`, see `contrail_data.store.logits`."""
INSTANCE_DTYPE = "int16"
"""Data type of `frame_instance`."""


@dataclass(frozen=True)
class ArraySpec:
    """How one pixel array is stored."""

    shape: tuple[int, ...]
    """Shape of one sample, without the sample axis."""
    dtype: str
    """A `PixelDtype`, `LOGIT_DTYPE` or `INSTANCE_DTYPE`."""
    codec: Codec


def checksum_name(array: str) -> str:
    """Name the variable that holds the checksums of a pixel array.

    Args:
        array: Name of a pixel array, a key of `DIMS`.

    Returns:
        Name of the variable with the 64-bit xxh3 checksum of each decoded chunk, its bytes in C order.
    """
    return f"{array}_checksum"


class Stated(Protocol):
    """A store with what it states about itself: an open one, or only its header."""

    @property
    def attrs(self) -> Mapping[str, Any]:
        """Attributes of its group, and `path`, its address."""


def kind_of(store: Stated) -> Kind:
    """Return what a store holds.

    Args:
        store: The store or its header.

    Returns:
        The kind stated in the store's attributes.
    """
    return Kind(store.attrs["kind"])


def require_samples(store: Stated) -> None:
    """Check that a store is one of samples.

    Args:
        store: The store or its header.
    """
    require_kind(store, Kind.SAMPLES, remedy="give the store it was made from")


def require_predictions(store: Stated) -> None:
    """Check that a store is one of predictions.

    Args:
        store: The store or its header.
    """
    require_kind(store, Kind.PREDICTIONS, remedy="give a store that contrail-train predict wrote")


def require_kind(store: Stated, *kinds: Kind, remedy: str) -> None:
    """Check that a store is of one of the kinds that the caller can use.

    Args:
        store: The store or its header.
        *kinds: The accepted kinds.
        remedy: What the user should do instead; it ends the error message.

    Raises:
        ContrailError: If the store is of another kind; the message names the store, its kind and the remedy.
    """
    if kind_of(store) not in kinds:
        raise ContrailError(f"{store.attrs['path']}: holds {kind_of(store)}, not {' or '.join(kinds)}; {remedy}")
