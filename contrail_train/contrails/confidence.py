"""The confidence of predicted contrails: a logistic model of their measurements."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy  # which imports its submodules at their first use
from scipy.special import expit, logit

Floats = npt.NDArray[np.float64]
FEATURES = ("mean probability", "maximum probability", "length", "width")
"""Inputs of the model: logits of probabilities, logarithms of lengths in pixels. The number of pixels is not among
them, as its logarithm is the sum of those of length and width."""
_LEAST = 1e-4
"""Probabilities are clipped to stay this far from 0 and 1."""
_PENALTY = 1.0
"""Penalty on the squared weights of standardised features, which few contrails would otherwise make very large."""


@dataclass(frozen=True)
class Confidence:
    """A fitted model."""

    weights: Sequence[float]
    """Of `FEATURES`, in their order."""
    bias: float

    def of(self, features_nf: Floats) -> Floats:
        """Compute the confidence of contrails.

        Args:
            features_nf: Their features, as of `features`, (contrail, feature).

        Returns:
            Probability that each is a contrail, 0 to 1.
        """
        return np.asarray(expit(features_nf @ np.array(self.weights) + self.bias))


def features(probability: npt.NDArray[np.floating], length: float, width: float) -> Floats:
    """Measure what the confidence of a contrail depends on.

    Args:
        probability: Probabilities of its pixels.
        length: Its length (pixel).
        width: Its mean width (pixel).

    Returns:
        The features (4).
    """
    p = np.clip([probability.mean(dtype=np.float64), probability.max()], _LEAST, 1 - _LEAST)
    return np.concatenate([logit(p), np.log([length, width])])


def fit(features_nf: Floats, is_hit: npt.NDArray[np.bool_]) -> Confidence:
    """Fit a model to contrails, given whether each matches a labelled one.

    Args:
        features_nf: Their features, (contrail, feature).
        is_hit: Whether each matches, with at least one that does and one that does not.

    Returns:
        The model of the largest likelihood, with a penalty on large weights.
    """
    mean, scale = features_nf.mean(0), np.maximum(features_nf.std(0), 1e-6)
    x = np.column_stack([(features_nf - mean) / scale, np.ones(len(is_hit))])
    sign = np.where(is_hit, 1.0, -1.0)

    def _loss(weights: Floats) -> tuple[float, Floats]:
        margin = sign * (x @ weights)
        penalised = np.append(weights[:-1], 0.0)
        loss = np.logaddexp(0, -margin).sum() + _PENALTY * (penalised @ penalised) / 2
        return float(loss), np.asarray(_PENALTY * penalised - x.T @ (sign * expit(-margin)))

    weights = scipy.optimize.minimize(_loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B").x
    return Confidence((weights[:-1] / scale).tolist(), float(weights[-1] - weights[:-1] @ (mean / scale)))
