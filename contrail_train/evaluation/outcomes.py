"""What became of each record: pixels and contrails that were found, missed or false."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from contrail_train.contrails.cleaning import EIGHT_CONNECTED, Labels, Mask, elongations
from contrail_train.evaluation.metrics import confusion_counts

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Outcome:
    """What became of one record.

    A contrail is a set of connected pixels; pixels that touch at a corner are connected.
    """

    gated: tuple[int, int, int]
    """True positive, false positive and false negative pixels; the mask is empty if the gate rejects the record."""
    ungated: tuple[int, int, int]
    """The same counts without the gate."""
    sizes: Ints
    """Pixels of each labelled contrail."""
    hits: Ints
    """Pixels of each labelled contrail that were found."""
    predicted_sizes: Ints
    """Pixels of each predicted contrail."""
    joined: Ints
    """Number of labelled contrails with which each predicted contrail shares a pixel."""
    outside: Ints
    """Pixels of each predicted contrail that are not labelled."""
    elongation: npt.NDArray[np.float64]
    """Length over width of each predicted contrail."""
    agreement: float
    """Mean share of the annotators that marked a pixel, over the pixels that any of them marked. 0 if none marked any,
    NaN without annotators."""
    predicted: npt.NDArray[np.uint8]
    """The predicted mask, packed by `numpy.packbits`."""


def outcome_of(
    predicted_yx: Mask, ungated_yx: Mask, target_yx: Mask, votes_yx: npt.NDArray[np.uint8] | None, annotators: int
) -> Outcome:
    """Compare the prediction for a record with its label.

    Args:
        predicted_yx: Predicted mask, empty if the gate rejects the record.
        ungated_yx: Predicted mask without the gate.
        target_yx: Label.
        votes_yx: Bit field of the annotators that marked a pixel, as in a store; `None` if there are no votes.
        annotators: Number of annotators of the record.

    Returns:
        What became of the record.
    """
    label, sizes = _connected(target_yx)
    prediction, predicted_sizes = _connected(predicted_yx)
    both_yx = predicted_yx & target_yx
    shared = np.unique(np.stack([prediction[both_yx], label[both_yx]]), axis=1)  # pairs of contrails
    count = len(predicted_sizes)
    agreement = np.nan
    if votes_yx is not None and annotators:
        votes = np.bitwise_count(votes_yx[votes_yx > 0])
        agreement = float(votes.mean()) / annotators if votes.size else 0.0
    return Outcome(
        confusion_counts(predicted_yx, target_yx),
        confusion_counts(ungated_yx, target_yx),
        sizes,
        np.bincount(label[both_yx], minlength=len(sizes) + 1)[1:],
        predicted_sizes,
        np.bincount(shared[0], minlength=count + 1)[1:],
        predicted_sizes - np.bincount(prediction[both_yx], minlength=count + 1)[1:],
        elongations(prediction, count),
        agreement,
        np.packbits(predicted_yx),
    )


def _connected(mask_yx: Mask) -> tuple[Labels, Ints]:
    """Number the contrails of a mask from 1, and count the pixels of each."""
    numbered, count = ndimage.label(mask_yx, EIGHT_CONNECTED)
    return numbered, np.bincount(numbered[mask_yx], minlength=count + 1)[1:]


def worst(outcomes: Sequence[Outcome], count: int) -> list[int]:
    """Choose the records with most errors: alternately by missed and by false pixels, so that neither hides the other.

    Args:
        outcomes: What became of each record.
        count: Largest number of records to choose.

    Returns:
        Indices of records with errors, those with most wrong pixels first.
    """
    _, fp, fn = np.array([outcome.gated for outcome in outcomes], np.int64).reshape(-1, 3).T
    by_missed, by_false = (np.argsort(-n, kind="stable")[: np.count_nonzero(n)].tolist() for n in (fn, fp))
    alternating = dict.fromkeys(i for i in chain.from_iterable(zip_longest(by_missed, by_false)) if i is not None)
    return sorted(list(alternating)[:count], key=lambda i: -(fp[i] + fn[i]))
