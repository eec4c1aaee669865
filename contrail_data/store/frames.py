"""Frames as a store keeps them, and how often they have each level.

Loops over pixels are compiled by numba at their first use. They pass over the bytes once where numpy takes ten passes,
and run without Python's lock, so that the threads of a build do not wait for each other. The machine code is kept in
`__pycache__`, or in the user's cache if that folder cannot be written; `benchmarks/build.py` shows what it saves.
"""

from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import numba
import numpy as np
import numpy.typing as npt

from contrail_data.composites import Composite, evaluate, quantise

_P = ParamSpec("_P")
_R = TypeVar("_R")
_BLOCK_ROWS = 32
"""So many rows of a record stay in the processor's cache."""


def _compiled(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Compile a function at its first call; the same values as in numpy, as no operation is reordered or merged."""
    try:
        compiled = numba.njit(function, nogil=True, cache=True, error_model="numpy")
    except RuntimeError:  # no folder for machine code can be written
        compiled = numba.njit(function, nogil=True, error_model="numpy")
    return compiled


def stored_frames(
    composite: Composite, bands: Mapping[int, npt.NDArray[np.float32]], dtype: npt.DTypeLike
) -> npt.NDArray[Any]:
    """Compute a composite as a store keeps it: `evaluate`, and then `quantise`.

    Args:
        composite: The composite.
        bands: Brightness temperature by band number, (y, x, time) each, kelvin.
        dtype: Data type of the store.

    Returns:
        (time, channel, y, x) of `dtype`. Where a band is NaN the value is undefined until `whiten` sets it.
    """
    height, width, frames = bands[composite.bands[0]].shape
    out_tcyx = np.empty((frames, len(composite.channels), height, width), dtype)
    if out_tcyx.dtype == np.uint8:
        _store_levels(composite, bands, out_tcyx)
        return out_tcyx
    block = np.empty((len(composite.channels), min(_BLOCK_ROWS, height), width, frames), np.float32)
    with np.errstate(invalid="ignore"):  # NaN in float16
        for top in range(0, height, _BLOCK_ROWS):
            rows = slice(top, min(top + _BLOCK_ROWS, height))
            unit = evaluate(composite, {b: bands[b][rows] for b in composite.bands}, out=block[:, : rows.stop - top])
            quantise(np.moveaxis(unit, -1, 0), out_tcyx[:, :, rows])
    return out_tcyx


def _store_levels(
    composite: Composite, bands: Mapping[int, npt.NDArray[np.float32]], out_tcyx: npt.NDArray[np.uint8]
) -> None:
    planes = {band: np.ascontiguousarray(bands[band], np.float32) for band in composite.bands}
    for number, channel in enumerate(composite.channels):
        first, low, span = planes[channel.band], np.float32(channel.low), np.float32(channel.high - channel.low)
        if channel.minus is None:
            _store_band(first, low, span, out_tcyx, number)
        else:
            _store_difference(first, planes[channel.minus], low, span, out_tcyx, number)


@_compiled
def _level(kelvin: np.float32, low: np.float32, span: np.float32) -> np.uint8:
    unit = (kelvin - low) / span
    unit = unit if unit > np.float32(0) else np.float32(0)  # NaN becomes 0
    unit = unit if unit < np.float32(1) else np.float32(1)
    return np.uint8(np.rint(unit * np.float32(255)))


@_compiled
def _transpose(row_xt: npt.NDArray[np.uint8], out_tcyx: npt.NDArray[np.uint8], channel: int, y: int) -> None:
    frames, width = out_tcyx.shape[0], out_tcyx.shape[3]
    for t in range(frames):
        line = out_tcyx[t, channel, y]
        for x in range(width):
            line[x] = row_xt[x * frames + t]


@_compiled
def _store_band(
    band_yxt: npt.NDArray[np.float32], low: np.float32, span: np.float32, out_tcyx: npt.NDArray[np.uint8], channel: int
) -> None:
    height, width, frames = band_yxt.shape
    row_xt = np.empty(width * frames, np.uint8)  # it stays in the processor's cache
    for y in range(height):
        kelvin_xt = band_yxt[y].reshape(-1)
        for i in range(row_xt.size):
            row_xt[i] = _level(kelvin_xt[i], low, span)
        _transpose(row_xt, out_tcyx, channel, y)


@_compiled
def _store_difference(
    band_yxt: npt.NDArray[np.float32],
    minus_yxt: npt.NDArray[np.float32],
    low: np.float32,
    span: np.float32,
    out_tcyx: npt.NDArray[np.uint8],
    channel: int,
) -> None:
    height, width, frames = band_yxt.shape
    row_xt = np.empty(width * frames, np.uint8)
    for y in range(height):
        kelvin_xt, minus_xt = band_yxt[y].reshape(-1), minus_yxt[y].reshape(-1)
        for i in range(row_xt.size):
            row_xt[i] = _level(kelvin_xt[i] - minus_xt[i], low, span)
        _transpose(row_xt, out_tcyx, channel, y)


def count_levels(image_tcyx: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Count the pixels of each level.

    Args:
        image_tcyx: Frames, (time, channel, y, x) uint8.

    Returns:
        (channel, 256) int64.
    """
    frames, channels = image_tcyx.shape[:2]
    return _count_levels(np.ascontiguousarray(image_tcyx).reshape(frames, channels, -1)).sum(1)


@_compiled
def _count_levels(image_tcp: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    frames, channels, pixels = image_tcp.shape
    counts = np.zeros((channels, 4, 256), np.int64)
    for t in range(frames):
        for channel in range(channels):
            levels, counters = image_tcp[t, channel], counts[channel]
            for i in range(pixels):
                counters[i & 3, levels[i]] += 1  # equal neighbours do not wait for each other
    return counts
