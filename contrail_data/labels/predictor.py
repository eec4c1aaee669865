"""The seam between this package and whatever predicts contrails: types only.

`contrail_data` knows nothing of torch. A model, a pipeline or optical flow hands over a `Labeller`, and `labels.write`
runs it over the frames of a store. This module imports numpy for type checkers only, because the command lines take
the choices of their options from it and have to answer `--help` at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from contrail_data.errors import ContrailError, UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class Symmetries(StrEnum):
    """The transformed copies of an image over which predictions are averaged."""

    NONE = "none"
    """Only the image itself."""
    FLIPS = "flips"
    """The image, its two mirror images, and the image turned by 180 degrees."""
    DIHEDRAL = "dihedral"
    """All eight combinations of flips and quarter turns."""


class FlowKind(StrEnum):
    """Methods of optical flow."""

    DIS = "dis"
    """Dense inverse search, from OpenCV."""
    RAFT = "raft"
    """A network, from torchvision."""


def check_device(name: str) -> str:
    """Refuse what is not the name of a device; whether this machine has it, only torch knows.

    Args:
        name: `auto`, or a torch device such as `cpu` or `cuda:1`.

    Returns:
        The same name.

    Raises:
        ContrailError: If it is neither `auto` nor a CPU or a CUDA device.
    """
    if not re.fullmatch(r"auto|(cpu|cuda)(:\d{1,3})?", name):
        raise ContrailError(f"device {name!r}: only cpu and cuda are supported; give auto, cpu, cuda or cuda:1")
    return name


def check_min_pixels(text: str) -> str:
    """Refuse what is not a smallest size of regions.

    Args:
        text: A number of pixels, or `fit`.

    Returns:
        The same text.

    Raises:
        UsageError: If it is neither.
    """
    if text != "fit" and not (text.isdecimal() and 0 < int(text) <= 2**24):
        raise UsageError(f"--min-pixels {text}: not a number of pixels from 1; give one, or fit")
    return text


class Predicted(NamedTuple):
    """Predictions for a batch of windows, one frame per window."""

    probability: npt.NDArray[np.float32]
    """(b, y, x) contrail probability, on the pixel grid of the labels."""
    score: npt.NDArray[np.float32]
    """(b) record score, which the gate compares with its threshold."""
    agreement: npt.NDArray[np.float32]
    """(b) agreement between the models of an ensemble, 0 to 1."""


Predict: TypeAlias = "Callable[[Sequence[int], npt.NDArray[Any], npt.NDArray[np.bool_] | None], Predicted]"
"""Predicts one frame from each window of frames. Arguments:

    samples       Indices of the samples in the parent store that the windows come from, in order; each sample
                  contributes the same number of windows.
    window_btchw  Frames as stored, (b, t, c, y, x): the frames at the labeller's offsets.
    valid_bhw     True where the predicted frame has data, (b, y, x). None if no pixel is missing.

Returns the predictions, in the order of the windows."""

MakeMasks: TypeAlias = (
    "Callable[[int, Sequence[int], npt.NDArray[np.float32], npt.NDArray[np.bool_] | None], npt.NDArray[np.bool_]]"
)
"""Turns the probabilities of some frames of a sample into masks, before any gate. Several threads call it at once.
Arguments:

    sample           Index of the sample in the parent store.
    frames           The frames, ascending.
    probability_tyx  Their probabilities.
    valid_tyx        Where they have data. None if no pixel is missing.

Returns the masks, (t, y, x)."""


class SingleContrail(NamedTuple):
    """One contrail of a frame."""

    confidence: float
    """Probability that it is a contrail, 0 to 1."""
    length: float
    width: float
    """Pixels."""
    orientation: float
    """Degrees clockwise from straight up, 0 to below 180."""


SingleContrails: TypeAlias = (
    "Callable[[npt.NDArray[np.bool_], npt.NDArray[np.float32]], tuple[npt.NDArray[np.int32], Sequence[SingleContrail]]]"
)
"""Separates the mask (y, x) of a frame, given its probability, into single contrails. Returns the number of the
contrail that each pixel belongs to, 0 for none, and the contrails in order of their numbers, from 1. Several threads
call it at once."""


@dataclass(frozen=True)
class Decision:
    """How probabilities become a mask, and which model they come from. Calibrated together with the model."""

    threshold: float
    """Probability from which on a pixel belongs to a contrail."""
    gate: float
    """Frames with a lower score get an empty mask; 0 means there is no gate."""
    top_k: int
    """Number of highest pixels whose mean is the score."""
    model: str
    """Digest of the model."""


@dataclass(frozen=True, kw_only=True)
class Labeller:
    """Whatever predicts masks for the frames of a store."""

    predict: Predict
    decision: Decision
    offsets: Sequence[int] = (0,)
    """Input frames relative to the predicted frame, ascending. Frames without these neighbours are not predicted."""
    repeats_edges: bool = False
    """Whether the first and last frame of a sample stand for neighbours beyond its ends, so that all are predicted."""
    address: str = ""
    """Where the model lies, for the provenance; of the hub, with the commit."""
    trained_records: Collection[str] = ()
    """Ids of the records that the model was trained on."""
    masks: MakeMasks | None = None
    """How masks are made; None for the threshold only."""
    cleaning: Mapping[str, float] = field(default_factory=dict)
    """What `masks` does beside the threshold, by step, for the provenance."""
    contrails: SingleContrails | None = None
    """How masks are separated into single contrails; None if they are not."""
    separation: Mapping[str, float] = field(default_factory=dict)
    """Settings of `contrails`, for the provenance."""
    scores_masks: bool = False
    """Whether scores are the Dice that masks are expected to have, which is then the confidence of those not empty."""


MOST_FRAMES = 128
"""More than any sample has, as stores keep the index of a frame in a byte."""


@dataclass(frozen=True)
class FrameSelection:
    """Which frames of each sample are predicted."""

    offsets: tuple[int, ...] | None
    """Offsets from the labelled frame, ascending. None selects every frame."""

    @classmethod
    def parse(cls, text: str) -> FrameSelection:
        """Parse the value of the option `--frames`.

        Args:
            text: `all`, `labelled`, or comma-separated offsets from the labelled frame such as `-1,0,1`.

        Returns:
            The selection.

        Raises:
            ContrailError: If the text is none of these.
        """
        if text == "all":
            return ALL_FRAMES
        if text == "labelled":
            return LABELLED_FRAME
        try:
            offsets = tuple(sorted({int(part) for part in text.split(",")}))
        except ValueError:
            offsets = ()
        if not offsets or max(map(abs, offsets)) >= MOST_FRAMES:
            raise ContrailError(
                f"--frames {text!r}: not a selection of frames; give labelled, all, or offsets from the labelled "
                "frame such as -1,0,1"
            )
        return cls(offsets)


ALL_FRAMES = FrameSelection(None)
LABELLED_FRAME = FrameSelection((0,))
