"""Combines the masks of a record's annotators."""

import numpy as np
import numpy.typing as npt

from contrail_data.compiled import compiled
from contrail_data.errors import BadRecord
from contrail_data.sample import MAX_ANNOTATORS, Labels


def combined_labels(
    mask_yx: npt.NDArray[np.uint8] | None,
    votes_yxr: npt.NDArray[np.uint8] | None,
    instance_masks: npt.NDArray[np.uint8] | None = None,
) -> Labels:
    """Combine the masks of a record into its labels.

    Args:
        mask_yx: The majority mask, 0/1. If it is missing, it is computed as the data set does: by a strict majority, so
            that two of four are too few.
        votes_yxr: Masks of the annotators, 0/1; None if they are unknown.
        instance_masks: Masks of single contrails, see `Labels`.

    Returns:
        The labels; without a mask if there are neither masks nor votes.
    """
    if votes_yxr is None:
        return Labels(mask_yx)
    count = votes_yxr.shape[-1]
    if mask_yx is None:
        mask_yx = (2 * votes_yxr.sum(-1, dtype=np.int32) > count).astype(np.uint8)
    return Labels(mask_yx, annotator_bits(votes_yxr), count, instance_masks)


def annotator_bits(votes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Pack the masks of annotators into one bit field.

    Args:
        votes: Masks, (..., annotator) 0/1.

    Returns:
        (...), bit r is set where annotator r marked the pixel.

    Raises:
        BadRecord: If there are more annotators than a byte has bits.
    """
    if (count := votes.shape[-1]) > MAX_ANNOTATORS:
        raise BadRecord(f"{count} annotators, but a store holds {MAX_ANNOTATORS}")
    bits = np.empty(votes.shape[:-1], np.uint8)
    _pack(np.ascontiguousarray(votes).reshape(-1, count), bits.reshape(-1))
    return bits


@compiled
def _pack(votes_pr: npt.NDArray[np.uint8], bits_p: npt.NDArray[np.uint8]) -> None:
    if votes_pr.shape[1] == 4:  # as in OpenContrails: a pixel is a word, and many words are packed at once
        words = votes_pr.reshape(-1).view(np.uint32)
        for p in range(words.size):
            bits_p[p] = np.uint8((words[p] | words[p] >> 7 | words[p] >> 14 | words[p] >> 21) & 15)
    else:
        for p in range(votes_pr.shape[0]):
            bits = 0
            for r in range(votes_pr.shape[1]):
                bits |= votes_pr[p, r] << r
            bits_p[p] = bits
