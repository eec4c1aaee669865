"""Probabilities as 16-bit codes that are even in the logit: in stores of labels, and as the bins of histograms.

The code of a probability p is k where EDGES[k] <= p < EDGES[k + 1], with EDGES[k] = 1 / (1 + exp(-k / STEPS)): its
logit, rounded down to a multiple of 1 / STEPS. Ranks are kept near 0 and 1, where even steps in p would merge them.
"""

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
_NEXT = np.append(EDGES[1:], np.inf)
_CACHED = 2**14
"""Values that are encoded at a time, so that intermediate results stay in the processor's cache."""


def encode(probability: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.int16]:
    """Return the codes of probabilities.

    Args:
        probability: Probabilities in [0, 1], any shape.

    Returns:
        Codes of the same shape.

    Raises:
        ValueError: If a probability is NaN or outside [0, 1].
    """
    # the condition is negated so that NaN, which compares false, is refused as well
    if probability.size and not (probability.min() >= 0 and probability.max() <= 1):
        extent = f"{probability.min()} to {probability.max()}"
        raise ValueError(f"probabilities must lie in [0, 1] and not be NaN; found {extent}")
    flat, code = np.ravel(probability), np.empty(probability.size, np.int16)
    for start in range(0, flat.size, _CACHED):
        part = slice(start, start + _CACHED)
        code[part] = _encode(flat[part])
    return code.reshape(probability.shape)


def _encode(probability: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.int16]:
    with np.errstate(divide="ignore"):  # near enough that a step corrects it, and much faster than a search
        near = (np.log(probability) - np.log1p(-probability)) * STEPS
    index = np.clip(np.floor(near), LOWEST, -LOWEST - 2).astype(np.intp) - LOWEST
    index -= EDGES.take(index) > probability
    while (higher := probability >= _NEXT.take(index)).any():
        index += higher
    return (index + LOWEST).astype(np.int16)


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
