"""Calibration of the confidence of single contrails on held-out records."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from contrail_train.contrails.cleaning import EIGHT_CONNECTED, Mask
from contrail_train.contrails.confidence import fit
from contrail_train.evaluation.instance_scores import match, reliability_classes
from contrail_train.runs.calibration import ConfidenceFit

MOST_RECORDS = 1000
"""Held-out records that the confidence is fitted on, evenly chosen: more would take long and change little."""
_MOST_REGIONS = 300
"""A mask with more regions is noise, and is skipped."""
_FEWEST = 20
"""Fewest contrails that match, and fewest that do not, to which a confidence is fitted."""


@dataclass(frozen=True)
class Observed:
    """The predicted contrails of one record."""

    row: int
    """Row of the record."""
    features_nf: npt.NDArray[np.float64]
    mean_probability: npt.NDArray[np.float64]
    is_hit: npt.NDArray[np.bool_]
    """Whether each matches a labelled contrail."""


def observe(row: int, mask_yx: Mask, probability_yx: npt.NDArray[np.float32], target_yx: Mask) -> Observed | None:
    """Match the predicted contrails of a record to the labelled ones, both separated in the same way.

    Args:
        row: Row of the record.
        mask_yx: Predicted mask.
        probability_yx: Predicted probability; NaN where there are no pixels.
        target_yx: Label.

    Returns:
        The predicted contrails and whether each matches; None if there are none, or if the mask is noise.
    """
    from contrail_train.contrails.instances import features_of, separate_mask  # which import numba

    if not 0 < ndimage.label(mask_yx, EIGHT_CONNECTED)[1] <= _MOST_REGIONS:
        return None
    predicted = separate_mask(mask_yx, probability_yx)
    matched = match(predicted, separate_mask(target_yx, target_yx.astype(np.float32)))
    return Observed(row, features_of(predicted, probability_yx), matched.confidence, matched.is_hit)


def calibrate_confidence(observed: Sequence[Observed], fold: npt.NDArray[np.int64]) -> ConfidenceFit | None:
    """Fit the confidence of contrails, and on the other folds of each fold for the scores that are stated.

    Args:
        observed: The predicted contrails of held-out records.
        fold: Fold (n) of each record.

    Returns:
        The fit; None if there are too few contrails.
    """
    if not observed:
        return None
    features_nf = np.concatenate([one.features_nf for one in observed])
    mean, is_hit = (np.concatenate([getattr(one, name) for one in observed]) for name in ("mean_probability", "is_hit"))
    own = np.concatenate([np.full(len(one.is_hit), fold[one.row]) for one in observed])
    folds = np.unique(own)
    others = [own != k for k in folds]
    if len(folds) < 2 or any(min(is_hit[rows].sum(), (~is_hit[rows]).sum()) < _FEWEST for rows in others):
        return None
    cross_fitted = np.zeros(len(own))
    for rows in others:
        cross_fitted[~rows] = fit(features_nf[rows], is_hit[rows]).of(features_nf[~rows])
    final = fit(features_nf, is_hit)
    return {
        "weights": list(final.weights),
        "bias": final.bias,
        "contrails": len(is_hit),
        "hits": int(is_hit.sum()),
        "brier": float(np.square(cross_fitted - is_hit).mean()),
        "brier_of_mean_probability": float(np.square(mean - is_hit).mean()),
        "reliability": reliability_classes(cross_fitted, is_hit),
    }
