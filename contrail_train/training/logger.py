"""The interface of loggers: the functions that receive values of a run, and what a logger needs to begin."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.special import expit

THRESHOLDS = expit(np.arange(-12, 12.25, 0.25))
"""Thresholds of a curve of precision and recall, even in the logit."""


class End(StrEnum):
    """How a process that trains a run ends."""

    FINISHED = "finished"
    STOPPED = "stopped"
    """It can be resumed."""
    FAILED = "failed"


class Logger(Protocol):
    """Receives the losses, scores and pictures of a run."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Take losses or scores.

        Args:
            step: Number of steps taken.
            values: Scalars by name.
        """

    def pictures(self, step: int, pictures: Mapping[str, Image.Image]) -> None:
        """Take pictures of held-out records.

        Args:
            step: Number of steps taken.
            pictures: Pictures by record.
        """

    def curve(self, step: int, histogram: npt.NDArray[np.int64]) -> None:
        """Take the histogram from which precision and recall at each threshold follow.

        Args:
            step: Number of steps taken.
            histogram: Pixels of the held-out records by probability, see `metrics.histograms`.
        """

    def scores(self, values: Mapping[str, float]) -> None:
        """Take the scores of the finished run.

        Args:
            values: Scores by name.
        """

    def close(self, end: End) -> None:
        """End the entry of the run.

        Args:
            end: How the process ends.
        """


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What a logger needs to begin or to continue the entry of a run."""

    out: Path
    """Run directory."""
    settings: Mapping[str, Any]
    """The settings by dotted key, without secrets."""
    text: str
    """The same as YAML."""
    step: int
    """Step at which the run resumes; 0 for a new one."""
    remembered: Mapping[str, str]
    """The values that `remember` stored when the run began."""
    remember: Callable[[Mapping[str, str]], None]
    """Stores the values by which the entry is found again."""
