"""Frames as a store keeps them, and sums of their levels."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from contrail_data.compiled import compiled
from contrail_data.composites import Composite, evaluate, quantise

_BLOCK_ROWS = 32
"""Number of rows of a record that stay in the processor's cache."""
_NO_BAND = -1
_SUMMED, _COUNTED = 8192, 128
"""Numbers of pixels that add up in 32 bits, squared too, and that a byte can count, so that many are added at once."""


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
    planes = tuple(np.ascontiguousarray(bands[band], np.float32) for band in composite.bands)
    number = {band: plane for plane, band in enumerate(composite.bands)}
    pairs = [(number[c.band], _NO_BAND if c.minus is None else number[c.minus]) for c in composite.channels]
    bounds = [(c.low, c.high - c.low) for c in composite.channels]
    _store_rows(planes, np.array(pairs), np.array(bounds, np.float32), out_tcyx)


@compiled
def _level(kelvin: np.float32, low: np.float32, span: np.float32) -> np.uint8:
    unit = (kelvin - low) / span
    unit = unit if unit > np.float32(0) else np.float32(0)  # NaN becomes 0
    unit = unit if unit < np.float32(1) else np.float32(1)
    return np.uint8(np.int32(np.rint(unit * np.float32(255))))  # to bytes by way of 32 bits: many at once


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
def _store_rows(
    planes: tuple[npt.NDArray[np.float32], ...],
    pairs: npt.NDArray[np.int64],
    bounds: npt.NDArray[np.float32],
    out_tcyx: npt.NDArray[np.uint8],
) -> None:
    """Compute all channels of a row of the bands, (y, x, time) each, while it is in the processor's cache."""
    height, width, frames = planes[0].shape
    row_xt = np.empty(width * frames, np.uint8)
    for y in range(height):
        for channel in range(pairs.shape[0]):
            kelvin_xt, minus = planes[pairs[channel, 0]][y].reshape(-1), pairs[channel, 1]
            low, span = bounds[channel, 0], bounds[channel, 1]
            if minus == _NO_BAND:
                for i in range(row_xt.size):
                    row_xt[i] = _level(kelvin_xt[i], low, span)
            else:
                minus_xt = planes[minus][y].reshape(-1)
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
            for start in range(0, pixels, _SUMMED):
                levels = image_tcp[t, c, start : start + _SUMMED]
                total, squares, lowest, highest = np.int32(0), np.int32(0), np.uint8(255), np.uint8(0)
                for i in range(levels.size):
                    level = np.int32(levels[i])
                    total = np.int32(total + level)
                    squares = np.int32(squares + np.int32(level * level))
                for i in range(levels.size):
                    lowest = levels[i] if levels[i] < lowest else lowest
                    highest = levels[i] if levels[i] > highest else highest
                sums[c, 0] += total
                sums[c, 1] += squares
                sums[c, 2] = min(sums[c, 2], lowest)
                sums[c, 3] = max(sums[c, 3], highest)
                if lowest == 0:
                    sums[c, 4] += _count(levels, np.uint8(0))
                if highest == 255:
                    sums[c, 5] += _count(levels, np.uint8(255))
    return sums


@compiled
def _count(levels: npt.NDArray[np.uint8], level: np.uint8) -> int:
    count = 0
    for start in range(0, levels.size, _COUNTED):
        run, in_run = levels[start : start + _COUNTED], np.uint8(0)
        for i in range(run.size):
            in_run = np.uint8(in_run + np.uint8(run[i] == level))
        count += int(in_run)
    return count
