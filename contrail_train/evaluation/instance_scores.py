"""Predicted contrails against labelled ones: which match, precision, recall and average precision, by length.

Two contrails match if their intersection over union reaches a limit, where pixels within a tolerance of the other
contrail count as shared. Each is matched at most once, in the pairs with the largest sum of intersections over union.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, TypedDict

import numpy as np
import numpy.typing as npt
import scipy  # which imports its submodules at their first use
from scipy import ndimage

from contrail_data.reports.page import Table
from contrail_train.contrails.cleaning import Labels

if TYPE_CHECKING:
    from contrail_train.contrails.instances import Instances

TOLERANCE = 2
"""Rows and columns by which a pixel may lie off the other contrail."""
LIMIT = 0.5
"""Intersection over union from which two contrails match."""
_CLASSES = 10
"""Classes of confidence."""
TITLE = f"Single contrails that match within {TOLERANCE} pixels, by length"
LENGTHS = (20.0, 50.0)
"""Limits between short, medium and long contrails (pixel)."""


@dataclass(frozen=True, kw_only=True)
class Matched:
    """The contrails of some images, predicted and labelled ones."""

    confidence: npt.NDArray[np.float64]
    """Of each predicted contrail."""
    length: npt.NDArray[np.float64]
    """Of each predicted contrail (pixel)."""
    is_hit: npt.NDArray[np.bool_]
    """Whether each predicted contrail matches a labelled one."""
    labelled_length: npt.NDArray[np.float64]
    """Of each labelled contrail (pixel)."""
    is_found: npt.NDArray[np.bool_]
    """Whether each labelled contrail matches a predicted one."""


class InstanceScores(TypedDict):
    """Scores of contrails of some length; None where there is nothing to divide by."""

    length: str
    labelled: int
    predicted: int
    precision: float | None
    """Share of predicted contrails, of this length, that match."""
    recall: float | None
    """Share of labelled contrails, of this length, that match."""
    average_precision: float | None
    """Mean precision over recall, by confidence: of predicted and labelled contrails of this length."""


class InstanceValues(TypedDict):
    """Scores of the single contrails of a store."""

    scores: list[InstanceScores]
    """Of all contrails, then by length."""
    reliability: list[list[float]]
    """As of `reliability_classes`."""
    brier: float | None
    """Mean squared difference of confidence and match; None without predicted contrails."""
    is_fitted: bool
    """Whether the confidence was fitted, or is the mean probability."""


def match(predicted: Instances, labelled: Instances, tolerance: int = TOLERANCE, limit: float = LIMIT) -> Matched:
    """Match the predicted contrails of an image to the labelled ones.

    Args:
        predicted: Predicted contrails.
        labelled: Labelled contrails on the same grid.
        tolerance: Rows and columns by which a pixel may lie off the other contrail.
        limit: Intersection over union from which two contrails match.

    Returns:
        Which contrails match.
    """
    iou_pl = tolerant_iou(predicted.labels_yx, labelled.labels_yx, tolerance)
    rows, columns = scipy.optimize.linear_sum_assignment(np.where(iou_pl >= limit, iou_pl, 0), maximize=True)
    matches = iou_pl[rows, columns] >= limit
    is_hit, is_found = np.zeros(iou_pl.shape[0], bool), np.zeros(iou_pl.shape[1], bool)
    is_hit[rows[matches]] = is_found[columns[matches]] = True
    return Matched(
        confidence=np.array([one.confidence for one in predicted.instances], np.float64),
        length=np.array([one.length for one in predicted.instances], np.float64),
        is_hit=is_hit,
        labelled_length=np.array([one.length for one in labelled.instances], np.float64),
        is_found=is_found,
    )


def tolerant_iou(predicted_yx: Labels, labelled_yx: Labels, tolerance: int) -> npt.NDArray[np.float64]:
    """Measure the overlap of each predicted with each labelled contrail.

    Args:
        predicted_yx: Number of the predicted contrail of each pixel, (y, x).
        labelled_yx: Number of the labelled contrail of each pixel, same shape.
        tolerance: Rows and columns by which a pixel may lie off the other contrail.

    Returns:
        Intersection over union, 0 to 1, float64 (predicted, labelled). The intersection is the mean of the pixels of
        either contrail within the tolerance of the other; the union also has the pixels of both beyond it.
    """
    predicted, labelled = (np.bincount(yx[yx > 0])[1:] for yx in (predicted_yx, labelled_yx))
    predicted_near_pl = _pixels_near(labelled_yx, predicted_yx, tolerance).T
    labelled_near_pl = _pixels_near(predicted_yx, labelled_yx, tolerance)
    shared_pl = (predicted_near_pl + labelled_near_pl) / 2
    beyond_pl = (predicted[:, np.newaxis] - predicted_near_pl) + (labelled - labelled_near_pl)
    return np.asarray(shared_pl / np.maximum(shared_pl + beyond_pl, 1))


def _pixels_near(yx: Labels, other_yx: Labels, tolerance: int) -> npt.NDArray[np.int64]:
    """Number of pixels of each contrail of the other image near each contrail of the first, (first, other)."""
    count = int(other_yx.max(initial=0))
    near = np.zeros((int(yx.max(initial=0)), count), np.int64)
    for number, window in enumerate(ndimage.find_objects(yx), 1):
        if window is None:
            continue
        grown = tuple(slice(max(side.start - tolerance, 0), side.stop + tolerance) for side in window)
        inside = ndimage.maximum_filter((yx[grown] == number).view(np.uint8), 2 * tolerance + 1, mode="constant") > 0
        near[number - 1] = np.bincount(other_yx[grown][inside], minlength=count + 1)[1:]
    return near


def join(parts: Sequence[Matched]) -> Matched:
    """Join the contrails of several images.

    Args:
        parts: The contrails of each image.

    Returns:
        All of them, in order.
    """
    return Matched(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in Matched.__annotations__}
    )


def score(matched: Matched) -> list[InstanceScores]:
    """Score contrails: all of them, and those of each length.

    Args:
        matched: The contrails of all images.

    Returns:
        Scores of all contrails first, then of short, medium and long ones.
    """
    classes = {"all": (0.0, np.inf)}
    for low, high in pairwise((0.0, *LENGTHS, np.inf)):
        name = f"from {low:g} px" if high == np.inf else f"{low:g} to {high:g} px" if low else f"below {high:g} px"
        classes[name] = (low, high)
    return [_score(name, matched, low, high) for name, (low, high) in classes.items()]


def _score(name: str, matched: Matched, low: float, high: float) -> InstanceScores:
    predicted = (matched.length >= low) & (matched.length < high)
    labelled = (matched.labelled_length >= low) & (matched.labelled_length < high)
    hits, found = matched.is_hit[predicted], matched.is_found[labelled]
    return {
        "length": name,
        "labelled": len(found),
        "predicted": len(hits),
        "precision": float(hits.mean()) if len(hits) else None,
        "recall": float(found.mean()) if len(found) else None,
        "average_precision": average_precision(matched.confidence[predicted], hits, len(found)) if len(found) else None,
    }


def average_precision(confidence: npt.NDArray[np.float64], is_hit: npt.NDArray[np.bool_], labelled: int) -> float:
    """Compute the area under the curve of precision over recall.

    Args:
        confidence: Of each predicted contrail.
        is_hit: Whether it matches.
        labelled: Number of labelled contrails, at least 1.

    Returns:
        The mean precision at each hit, among the predicted contrails of at least its confidence, where a labelled
        contrail that is not found counts 0. At most 1.
    """
    order = np.argsort(-confidence, kind="stable")
    level, hits = confidence[order], np.cumsum(is_hit[order])
    last = np.flatnonzero(np.append(np.diff(level) != 0, True)) if len(level) else np.zeros(0, np.intp)  # of ties
    gained = np.diff(hits[last], prepend=0)
    return min(float(gained @ (hits[last] / (last + 1))) / labelled, 1.0)


def reliability_classes(confidence: npt.NDArray[np.float64], is_hit: npt.NDArray[np.bool_]) -> list[list[float]]:
    """Compare confidence with the share of contrails that match, in classes of confidence of equal width.

    Args:
        confidence: Of each contrail.
        is_hit: Whether each matches.

    Returns:
        Mean confidence, share that matches and number of contrails of each class that has any.
    """
    number = np.minimum((confidence * _CLASSES).astype(int), _CLASSES - 1)
    classes = [number == k for k in np.unique(number)]
    return [[float(confidence[rows].mean()), float(is_hit[rows].mean()), int(rows.sum())] for rows in classes]


def instance_values(matched: Matched, *, is_fitted: bool) -> InstanceValues:
    """Summarise the contrails of all images.

    Args:
        matched: The contrails.
        is_fitted: Whether their confidence was fitted.

    Returns:
        Scores, and whether the confidence can be trusted.
    """
    reliability = reliability_classes(matched.confidence, matched.is_hit)
    brier = float(np.square(matched.confidence - matched.is_hit).mean()) if len(matched.is_hit) else None
    return {"scores": score(matched), "reliability": reliability, "brier": brier, "is_fitted": is_fitted}


def score_table(scores: Sequence[InstanceScores]) -> Table:
    """Tabulate scores by length.

    Args:
        scores: As of `score`.

    Returns:
        The table.
    """

    def _text(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    keys: tuple[Literal["precision", "recall", "average_precision"], ...] = ("precision", "recall", "average_precision")
    rows = [
        [s["length"], f"{s['labelled']:,}", f"{s['predicted']:,}", *(_text(s[key]) for key in keys)] for s in scores
    ]
    return Table(["length", "labelled", "predicted", "precision", "recall", "average precision"], rows, TITLE)
