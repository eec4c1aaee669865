"""Frames as a store keeps them, and sums of their levels."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from contrail_data.compiled import compiled
from contrail_data.composites import Composite, evaluate, quantise

_BLOCK_ROWS = 32
"""So many rows of a record stay in the processor's cache."""
_RUN = 128
"""Pixels that are counted in a byte, so that many are added up at once."""


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


@compiled
def _level(kelvin: np.float32, low: np.float32, span: np.float32) -> np.uint8:
    unit = (kelvin - low) / span
    unit = unit if unit > np.float32(0) else np.float32(0)  # NaN becomes 0
    unit = unit if unit < np.float32(1) else np.float32(1)
    return np.uint8(np.rint(unit * np.float32(255)))


@compiled
def _transpose(row_xt: npt.NDArray[np.uint8], out_tcyx: npt.NDArray[np.uint8], channel: int, y: int) -> None:
    frames, width = out_tcyx.shape[0], out_tcyx.shape[3]
    if frames == 8:  # a pixel is a word, and many words are shifted at once
        words = row_xt.view(np.uint64)
        for t in range(frames):
            line = out_tcyx[t, channel, y]
            for x in range(width):
                line[x] = np.uint8(words[x] >> np.uint64(8 * t))
    else:
        for t in range(frames):
            line = out_tcyx[t, channel, y]
            for x in range(width):
                line[x] = row_xt[x * frames + t]


@compiled
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


@compiled
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


def sum_levels(image_tcyx: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Sum the levels of each channel.

    Args:
        image_tcyx: Frames, (time, channel, y, x) uint8.

    Returns:
        (channel, 6) int64: sum of the levels and of their squares, lowest and highest level, pixels at 0 and at 255.
    """
    frames, channels = image_tcyx.shape[:2]
    return _sum_levels(np.ascontiguousarray(image_tcyx).reshape(frames, channels, -1))


@compiled
def _sum_levels(image_tcp: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    frames, channels, pixels = image_tcp.shape
    sums = np.zeros((channels, 6), np.int64)
    sums[:, 2] = 255
    for t in range(frames):
        for c in range(channels):
            for start in range(0, pixels, _RUN):
                run = image_tcp[t, c, start : start + _RUN]
                total, squares = np.uint32(0), np.uint32(0)
                for i in range(run.size):
                    level = np.uint32(run[i])
                    total += level
                    squares += level * level
                lowest, highest, at_low, at_high = np.uint8(255), np.uint8(0), np.uint8(0), np.uint8(0)
                for i in range(run.size):
                    lowest = run[i] if run[i] < lowest else lowest
                    highest = run[i] if run[i] > highest else highest
                    at_low = np.uint8(at_low + np.uint8(run[i] == 0))
                    at_high = np.uint8(at_high + np.uint8(run[i] == 255))
                sums[c, 0] += total
                sums[c, 1] += squares
                sums[c, 2] = min(sums[c, 2], lowest)
                sums[c, 3] = max(sums[c, 3], highest)
                sums[c, 4] += at_low
                sums[c, 5] += at_high
    return sums
