"""MISSING DOCSTRING."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Symmetries = Literal["none", "flips", "dihedral"]
"""Over which copies of an image a prediction is averaged: itself; its two flips and their product; also all quarter
turns."""


class Predicted(NamedTuple):
    """Of windows of frames."""

    probability: npt.NDArray[np.float32]
    """(b, y, x), on the labels' pixel grid."""
    score: npt.NDArray[np.float32]
    """(b), what the gate compares."""
    agreement: npt.NDArray[np.float32]
    """(b), of the models of an ensemble."""


Predict = Callable[[npt.NDArray[Any], npt.NDArray[np.bool_] | None], Predicted]
"""Windows of frames as stored (b, t, c, y, x), those at the model's offsets from the one it tells of; bool (b, y, x),
where that one has pixels, None for everywhere → what is told of it."""

Tell = Callable[[Sequence[int], npt.NDArray[Any], npt.NDArray[np.bool_] | None], Predicted]
"""The same for who has to know of which samples (indices in the parent) the windows are."""


@dataclass(frozen=True)
class Decision:
    """How probabilities become a mask, and by whom they were made: calibrated with the model, never here."""

    threshold: float
    gate: float
    """Frames whose score is lower get an empty mask; 0: no gate."""
    top_k: int
    """Of the pixels whose mean a score is."""
    model: str
    """The model's digest."""


Frames = Literal["all", "labelled"] | Sequence[int]
"""Of each sample: all, the labelled one, or those at these offsets from it."""
