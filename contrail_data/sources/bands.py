"""Digests of raw data; bands are hashed and checked block by block, while a block is in the processor's cache."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from contrail_data.compiled import compiled
from contrail_data.sample import KELVIN_RANGE, check_range

_BLOCK = 1 << 17
"""Values of a block, which fits in the cache of a processor's core; smaller ones make threads take turns more often."""

_LOW, _HIGH = map(np.float32, KELVIN_RANGE)


def blocks(array: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """Go through an array.

    Args:
        array: C-contiguous, of any shape.

    Yields:
        Its next values, (n), as a view.
    """
    flat = array.reshape(-1)
    for start in range(0, flat.size, _BLOCK):
        yield flat[start : start + _BLOCK]


def checked_digest(band: int, band_yxt: npt.NDArray[np.float32], arriving: Iterable[npt.NDArray[np.float32]]) -> str:
    """Compute the digest of a band while it is read, and check that its values are possible.

    Args:
        band: Number of the band.
        band_yxt: Where its values arrive, kelvin; all of them have when `arriving` ends.
        arriving: Its values in C order, block by block, see `blocks`.

    Returns:
        Number and digest of the band.

    Raises:
        BadRecord: If values are NaN or outside `KELVIN_RANGE`.
    """
    checksum, is_possible = xxhash.xxh3_128(), True
    for block in arriving:
        checksum.update(block.data)
        is_possible &= _is_within(block, _LOW, _HIGH)
    if not is_possible:
        check_range([band], band_yxt[np.newaxis])
    return f"{band}:{checksum.hexdigest()}"


def digest(array: npt.NDArray[Any]) -> str:
    """Compute the 128-bit xxh3 hash of an array's bytes in C order.

    Args:
        array: Any array.

    Returns:
        The hash in hexadecimal; equal arrays have equal hashes, whatever their memory layout.
    """
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(array).data)


def band_digests(bands: Sequence[int], temperature_byxt: npt.NDArray[np.float32]) -> str:
    """Compute the digest of each band of a sample, which together identify its raw data.

    Args:
        bands: The bands.
        temperature_byxt: Their brightness temperatures, (band, y, x, time) float32 in kelvin.

    Returns:
        Numbers and digests of the bands.
    """
    return " ".join(f"{band}:{digest(plane)}" for band, plane in zip(bands, temperature_byxt, strict=True))


@compiled
def _is_within(values: npt.NDArray[np.float32], low: np.float32, high: np.float32) -> bool:
    is_within = True
    for i in range(values.size):
        is_within &= (values[i] >= low) & (values[i] <= high)  # NaN is not
    return is_within
