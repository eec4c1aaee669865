"""Whether a model depends on the orientation of images: its Dice on each of their eight flips and turns."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import xarray as xr
from typing_extensions import TypedDict

from contrail_data.labels.predictor import Symmetries
from contrail_data.reports.page import Table
from contrail_train.data.items import Items
from contrail_train.evaluation.intervals import difference_interval
from contrail_train.evaluation.metrics import dice, share
from contrail_train.evaluation.score import MakeMask, gated_counts, score_predictor
from contrail_train.inference.detector import in_orientation
from contrail_train.inference.predictor import Predictor
from contrail_train.inference.turns import symmetry_operations


class OrientationScore(TypedDict):
    """Scores of images in one orientation; None where there is nothing to divide by."""

    orientation: str
    dice: float
    precision: float | None
    recall: float | None
    difference: float
    """Dice less that of images as stored."""
    difference_low: float | None
    difference_high: float | None
    """95 % interval of the difference over groups; None where `difference_interval` has none."""


def score_orientations(model: Predictor, store: xr.Dataset, items: Items, batch: int) -> list[OrientationScore]:
    """Score a model on images that are mirrored and turned. Predictions are turned back before they are compared.

    Args:
        model: The model, adapted to the store. Its own threshold, gate and cleaning are used.
        store: The store of the items.
        items: Labelled frames, read at the model's offsets.
        batch: Records per step.

    Returns:
        The scores of the eight orientations, images as stored first.
    """
    scores: list[OrientationScore] = []
    untouched: npt.NDArray[np.int64] | None = None
    for flip, turns in symmetry_operations(Symmetries.DIHEDRAL):
        detect = in_orientation(model.detect, model.mask_shift, flip=flip, turns=turns)
        turned = replace(model, detect=detect)
        counts = gated_counts(
            score_predictor(turned, items, batch, make_mask=record_masks(turned, store, items)), model.decision.gate
        )
        untouched = counts if untouched is None else untouched
        tp, fp, fn = (int(count) for count in counts.sum(1))
        low, high = difference_interval(untouched, counts, items.group) or (None, None)
        scores.append(
            {
                "orientation": _name(flip, turns),
                "dice": float(dice(tp, fp, fn)),
                "precision": share(tp, tp + fp),
                "recall": share(tp, tp + fn),
                "difference": float(dice(tp, fp, fn)) - float(dice(*untouched.sum(1))),
                "difference_low": low,
                "difference_high": high,
            }
        )
    return scores


def record_masks(model: Predictor, store: xr.Dataset, items: Items) -> MakeMask | None:
    """Return a function that makes the cleaned mask of each of some records.

    Args:
        model: The model, adapted to the store.
        store: The store of the items.
        items: Labelled frames.

    Returns:
        The function; None if masks are not cleaned.
    """
    if (clean := model.mask_maker(store)) is None:
        return None

    def _mask(row: int, p_yx: npt.NDArray[np.float32], valid_yx: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        return clean(int(items.sample[row]), [int(items.frame[row])], p_yx[np.newaxis], valid_yx[np.newaxis])[0]

    return _mask


def orientation_table(scores: Sequence[OrientationScore]) -> Table:
    """Tabulate scores by orientation.

    Args:
        scores: The scores, images as stored first.

    Returns:
        The table.
    """
    rows = []
    for one in scores:
        shares = ("" if value is None else f"{value:.3f}" for value in (one["precision"], one["recall"]))
        low, high = one["difference_low"], one["difference_high"]
        bounds = "" if low is None or high is None else f"{low:+.3f} to {high:+.3f}"
        first = one is scores[0]
        changes = ["", ""] if first else [f"{one['difference']:+.3f}", bounds]
        rows.append([one["orientation"], f"{one['dice']:.3f}", *shares, *changes])
    header = ["images", "Dice", "precision", "recall", "less as stored", "95 %"]
    return Table(header, rows, "Dice by orientation of the images", {1: [one["dice"] for one in scores]})


def _name(flip: bool, turns: int) -> str:
    parts = ["mirrored"] * flip + [f"turned by {90 * turns} degrees"] * (turns > 0)
    return ", ".join(parts) or "as stored"
