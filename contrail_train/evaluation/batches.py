"""Labelled frames in batches, as they are shown to a model to score it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from contrail_data.progress import progress
from contrail_train.data.items import Items
from contrail_train.data.loader import load
from contrail_train.runs.distributed import ALONE, Ranks, gather

Mask = npt.NDArray[np.bool_]
Probability = npt.NDArray[np.float32]


@dataclass(frozen=True)
class EvaluationOptions:
    """How labelled frames are read."""

    device: torch.device
    batch: int = 16
    threads: int = 2
    title: str | None = "evaluate"
    """Title of the progress display; None for no display."""
    ranks: Ranks = ALONE
    """Processes that share the work; each gets the sums over all of them."""


@dataclass(frozen=True)
class LabelledBatch:
    """Windows of frames with the labels of their predicted frames."""

    rows: npt.NDArray[np.int64]
    """Indices (b) of the items."""
    window_btchw: Tensor
    valid_bhw: Tensor | None
    """Where the predicted frame has pixels; None for everywhere. Also on the device."""
    target_bhw: Mask
    """The labels; False where there are no pixels."""
    positive_b: Mask
    """Whether a record has any contrail."""

    def paired(self, probability_bhw: Tensor) -> Iterator[tuple[int, Probability, Mask, Mask]]:
        """Pair predictions with their labels.

        Args:
            probability_bhw: Predictions of the batch; (b, 1, 1) of a classifier, whose records are masks of one pixel.

        Yields:
            Row, probability, label and where there are pixels, the last three (h, w).
        """
        p_bhw = probability_bhw.float().cpu().numpy()
        if p_bhw.shape[1:] == (1, 1):
            target_bhw = self.positive_b[:, np.newaxis, np.newaxis]
            valid_bhw = np.ones_like(target_bhw)
        else:
            target_bhw = self.target_bhw
            valid_bhw = np.ones_like(target_bhw) if self.valid_bhw is None else self.valid_bhw.cpu().numpy()
            p_bhw = np.where(valid_bhw, p_bhw, np.float32(0))
        yield from zip(self.rows.tolist(), p_bhw, target_bhw, valid_bhw, strict=True)


def labelled_batches(items: Items, options: EvaluationOptions) -> Iterator[LabelledBatch]:
    """Read this process's share of labelled frames.

    Args:
        items: The frames.
        options: How to read them.

    Yields:
        The batches in order.
    """
    own = np.arange(options.ranks.rank, len(items), options.ranks.world)
    steps = [own[i : i + options.batch] for i in range(0, len(own), options.batch)]
    shown = options.title is not None and options.ranks.first
    with progress(options.title or "", len(own)) if shown else nullcontext(lambda _: None) as advance:
        for rows, batch in zip(steps, load(items, steps, options.device, options.threads, prefetch=2), strict=True):
            valid_bhw = None if batch.valid_b1hw is None else batch.valid_b1hw[:, 0] > 0
            target_bhw = batch.target_b1hw[:, 0].cpu().numpy() >= 128
            if valid_bhw is not None:
                target_bhw &= valid_bhw.cpu().numpy()
            positive_b = batch.positive_b1[:, 0].cpu().numpy() > 0
            yield LabelledBatch(rows, batch.image_btchw, valid_bhw, target_bhw, positive_b)
            advance(len(rows))


def sum_over_ranks(arrays: Sequence[npt.NDArray[Any]], ranks: Ranks) -> list[npt.NDArray[Any]]:
    """Add up arrays over processes, each of which left zeros where the others counted.

    Args:
        arrays: This process's arrays.
        ranks: This process among all.

    Returns:
        The sums, in the same order.
    """
    return [sum(column) for column in zip(*gather(tuple(arrays), ranks), strict=True)]
