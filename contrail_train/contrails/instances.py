"""Single contrails of an image, in pixels: a number for each in a label image, and what is measured of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Semaphore

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from contrail_data.errors import ContrailError
from contrail_train.contrails.centre_line import centre_line
from contrail_train.contrails.cleaning import EIGHT_CONNECTED, Labels, Mask
from contrail_train.contrails.confidence import FEATURES, Confidence, features
from contrail_train.contrails.linking import Linking
from contrail_train.contrails.pixel_graph import Indices, indices_yx, parts_of
from contrail_train.contrails.polyline import Points, distances, length_of, points_at
from contrail_train.contrails.regions import pixels_of
from contrail_train.contrails.separation import separate_lines

Probability = npt.NDArray[np.floating]
LINKING = Linking()
_two_at_a_time = Semaphore(2)
"""Held while a mask is separated, as most of that is Python's own code: more threads would spend their time handing
Python's lock to each other, and take it from the one that predicts. Four on two cores took 1.5 times the CPU time."""


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One contrail of an image."""

    number: int
    """Its value in the label image, from 1."""
    line: Points
    """Fractional rows and columns along the middle, float64 (vertex, 2)."""
    length: float
    """Length of the line (pixel)."""
    width: float
    """Mean width: number of pixels over length."""
    orientation: float
    """Direction at the middle of the line in degrees, from 0 to below 180: clockwise from straight up, so that 0 runs
    along a column and 90 along a row. On an image with north up, this is the bearing."""
    confidence: float
    """Probability that it is a contrail, 0 to 1: calibrated, or the mean probability of its pixels."""
    pixels: int


@dataclass(frozen=True, kw_only=True)
class Instances:
    """The contrails of an image. No pixel belongs to two of them."""

    labels_yx: Labels
    """Number of the contrail that each pixel belongs to, int32 (y, x); 0 is the background."""
    instances: Sequence[Instance]
    """The contrails, in order of their numbers."""


def connected(mask_yx: Mask, probability_yx: Probability) -> Instances:
    """Take each 8-connected region of a mask as one contrail.

    A centre line follows the longest path through its region: the two longest arms of a fork, half of a ring.

    Args:
        mask_yx: Mask, bool (y, x).
        probability_yx: Probability of a contrail, same shape.

    Returns:
        The contrails, numbered in order of their first pixels.

    Raises:
        ContrailError: If the shapes differ.
    """
    _check_shapes(mask_yx, probability_yx)
    return measured(ndimage.label(mask_yx, EIGHT_CONNECTED)[0], probability_yx)


def measured(labels_yx: Labels, probability_yx: Probability) -> Instances:
    """Measure the contrails of a label image.

    Args:
        labels_yx: Number of the contrail that each pixel belongs to, int32 (y, x), without missing numbers.
        probability_yx: Probability of a contrail, same shape.

    Returns:
        The contrails, each with the centre line of its largest region.

    Raises:
        ContrailError: If the shapes differ.
    """
    _check_shapes(labels_yx, probability_yx)
    regions = pixels_of(labels_yx)
    lines = []
    for pixels in regions:
        origin = pixels.min(0)
        parts = parts_of(pixels - origin, indices_yx(pixels - origin), np.zeros(len(pixels), np.intp))
        largest = parts == np.argmax(np.bincount(parts))
        lines.append(centre_line((pixels - origin)[largest]) + origin)
    return _measured(labels_yx, regions, lines, probability_yx)


def separate(
    probability_yx: Probability, *, threshold: float, linking: Linking = LINKING, confidence: Confidence | None = None
) -> Instances:
    """Separate a probability map into single contrails, also where they cross, touch, run side by side or are broken.

    Args:
        probability_yx: Probability of a contrail, 0 to 1, float (y, x); NaN where there is no data.
        threshold: Probability from which a pixel belongs to a contrail.
        linking: When pieces of lines are taken as one contrail.
        confidence: Fitted model of the confidence; None for the mean probability.

    Returns:
        The contrails, numbered in order of their first pixels.
    """
    mask_yx = probability_yx >= threshold
    return separate_mask(mask_yx, probability_yx, linking=linking, confidence=confidence)


def separate_mask(
    mask_yx: Mask, probability_yx: Probability, *, linking: Linking = LINKING, confidence: Confidence | None = None
) -> Instances:
    """Separate a mask into single contrails as `separate` does. Of threads that call it, two work at a time.

    Args:
        mask_yx: Mask, bool (y, x).
        probability_yx: Probability of a contrail, same shape. It parts lines side by side that the mask joins.
        linking: When pieces of lines are taken as one contrail.
        confidence: As in `separate`.

    Returns:
        The contrails, numbered in order of their first pixels.

    Raises:
        ContrailError: If the shapes differ.
    """
    _check_shapes(mask_yx, probability_yx)
    with _two_at_a_time:
        return _measured(*separate_lines(mask_yx, probability_yx, linking), probability_yx, confidence)


def features_of(contrails: Instances, probability_yx: Probability) -> npt.NDArray[np.float64]:
    """Measure what the confidence of contrails depends on.

    Args:
        contrails: The contrails.
        probability_yx: Probability of a contrail, (y, x).

    Returns:
        Features of each, as of `confidence.features`, (contrail, feature).
    """
    rows = [
        features(probability_yx[pixels[:, 0], pixels[:, 1]], one.length, one.width)
        for one, pixels in zip(contrails.instances, pixels_of(contrails.labels_yx), strict=True)
    ]
    return np.array(rows).reshape(-1, len(FEATURES))


def orientation(line: Points) -> float:
    """Measure the direction of a line at its middle.

    Args:
        line: Rows and columns of at least two vertices.

    Returns:
        Degrees as in `Instance.orientation`, of the chord over the middle 30 % of the length: more than the error of a
        vertex, and less than the length of a bend.
    """
    y, x = points_at(line, distances(line)[-1] * np.array([0.35, 0.65])).T
    degrees = float(np.degrees(np.arctan2(x[1] - x[0], y[0] - y[1]))) % 180
    return degrees if degrees < 180 else 0.0  # the remainder of a tiny negative number is rounded to 180


def _measured(
    labels_yx: Labels,
    regions: Sequence[Indices],
    lines: Sequence[Points],
    probability_yx: Probability,
    confidence: Confidence | None = None,
) -> Instances:
    """Measure the contrails of a label image with the pixels and a centre line of each."""
    instances = []
    for number, (pixels, line) in enumerate(zip(regions, lines, strict=True), 1):
        p, length = probability_yx[pixels[:, 0], pixels[:, 1]], length_of(line)
        width = len(p) / length
        certainty = p.mean(dtype=np.float64) if confidence is None else confidence.of(features(p, length, width))
        instances.append(
            Instance(
                number=number,
                line=line,
                length=length,
                width=width,
                orientation=orientation(line),
                confidence=float(certainty),
                pixels=len(p),
            )
        )
    return Instances(labels_yx=labels_yx, instances=instances)


def _check_shapes(mask_yx: Mask | Labels, probability_yx: Probability) -> None:
    if mask_yx.ndim != 2 or mask_yx.shape != probability_yx.shape:
        shapes = f"mask {mask_yx.shape}, probability {probability_yx.shape}"
        raise ContrailError(f"{shapes}: differ or are not (y, x); cut all of them to one window")
