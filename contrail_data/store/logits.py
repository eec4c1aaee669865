"""Probabilities as 16-bit codes that are even in the logit: in stores of labels, and as the bins of histograms.

The code of a probability p is k where EDGES[k] <= p < EDGES[k + 1], with EDGES[k] = 1 / (1 + exp(-k / STEPS)): its
logit, rounded down to a multiple of 1 / STEPS. Ranks are kept near 0 and 1, where even steps in p would merge them.
"""

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

STEPS = 1024
"""Codes per unit of the logit."""
CODES = 65536
LOWEST = -CODES // 2
"""The lowest code. It stands for logits below -32, such as that of 0; the highest code stands for 1 only."""


def _edges() -> npt.NDArray[np.float64]:
    edges = 1 / (1 + np.exp(-np.arange(LOWEST, LOWEST + CODES) / STEPS))
    edges[0], edges[-1] = 0, 1
    # Rounded down to float32, where that keeps them apart: thresholds there compare alike in float32 and float64.
    single = edges.astype(np.float32)
    single = np.where(single > edges, np.nextafter(single, np.float32(0)), single)
    return np.where(edges < 0.999, single, edges)


EDGES = _edges()
"""float64 (CODES): the lowest probability of each code, from code LOWEST; never falling."""
_CELL_BITS = 12
"""Low bits of a float32 that do not matter for its cell. With the other 11 of its fraction, a cell holds one edge at
most."""
_CELLS = 2**18
"""Cells of probabilities up to 0.5. As many follow of higher ones, by 1 - p, which is exact there as a float32."""
_CACHED = 2**14
"""Values that are encoded at a time, so that intermediate results stay in the processor's cache."""


@cache
def _cells() -> tuple[npt.NDArray[np.int16], npt.NDArray[np.float32]]:
    """By cell, the code of its lowest probability, and the lowest float32 that has a higher code."""
    low_bits = np.arange(_CELLS, dtype=np.uint32) << _CELL_BITS
    high_bits = low_bits | (2**_CELL_BITS - 1)
    low, high = (np.minimum(bits.view(np.float32).astype(np.float64), 0.5) for bits in (low_bits, high_bits))
    index = np.searchsorted(EDGES, np.concatenate([low, 1 - high]), side="right") - 1
    next_edge = np.append(EDGES, np.inf)[index + 1]
    single = next_edge.astype(np.float32)
    single = np.where(single < next_edge, np.nextafter(single, np.float32(np.inf)), single)
    return (index + LOWEST).astype(np.int16), single


def encode(probability: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.int16]:
    """Return the codes of probabilities.

    Args:
        probability: Probabilities in [0, 1], any shape. Those in float32 are looked up, others are searched for.

    Returns:
        Codes of the same shape.

    Raises:
        ValueError: If a probability is NaN or outside [0, 1].
    """
    # the condition is negated so that NaN, which compares false, is refused as well
    if probability.size and not (probability.min() >= 0 and probability.max() <= 1):
        extent = f"{probability.min()} to {probability.max()}"
        raise ValueError(f"probabilities must lie in [0, 1] and not be NaN; found {extent}")
    if probability.dtype != np.float32:
        return (np.searchsorted(EDGES, probability, side="right") - 1 + LOWEST).astype(np.int16)
    flat, code = np.ravel(probability), np.empty(probability.size, np.int16)
    for start in range(0, flat.size, _CACHED):
        part = slice(start, start + _CACHED)
        code[part] = _encode(flat[part])
    return code.reshape(probability.shape)


def _encode(probability: npt.NDArray[np.float32]) -> npt.NDArray[np.int16]:
    first_code, next_code_from = _cells()
    cell = np.minimum(probability, 1 - probability).view(np.uint32) >> _CELL_BITS
    cell &= _CELLS - 1  # drops the sign of a zero
    cell |= (probability > 0.5).astype(np.uint32) * _CELLS
    cell = cell.astype(np.intp)
    code = first_code.take(cell, mode="clip")  # all are within; other modes check that
    code += probability >= next_code_from.take(cell, mode="clip")
    return np.asarray(code)


def decode(code: npt.NDArray[np.int16]) -> npt.NDArray[np.float64]:
    """Return the lowest probability of each code.

    Args:
        code: Codes, any shape.

    Returns:
        Probabilities of the same shape.
    """
    return EDGES[code.astype(np.intp) - LOWEST]


def threshold_of(code: int) -> float:
    """Return the threshold that the probabilities of a code and of all higher ones reach.

    Args:
        code: A code.

    Returns:
        The lowest float32 that has such a code.
    """
    edge = float(EDGES[code - LOWEST])
    single = np.float32(edge)
    return float(single if float(single) >= edge else np.nextafter(single, np.float32(1)))
