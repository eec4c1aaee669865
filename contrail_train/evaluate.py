"""Exact global Dice and friends: one pass over labelled frames, integer counts, nothing averaged over batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from contrail_data.progress import progress
from contrail_data.pseudo import top_k_mean
from contrail_train import metrics
from contrail_train.distributed import ALONE, Ranks, gather
from contrail_train.loader import Items, load
from contrail_train.predict import Predictor, View, record_probability, window_probability

Probabilities = Callable[[Tensor], Tensor]
"""Windows of stored frames (b, t, c, h, w) → (b, h, w) float32 probability of each labelled frame on the labels' grid;
of a classifier of records (b, 1, 1), which is scored as a mask of one pixel."""


def predicted(model: nn.Module, view: View, label_shift: tuple[float, float], head: str) -> Probabilities:
    """What `score` asks of a model."""

    def of(window_btchw: Tensor) -> Tensor:
        if head == "record":
            return record_probability(model, window_btchw, view)[:, None, None]
        return window_probability(model, window_btchw, view, label_shift)

    return of


@dataclass(frozen=True)
class Scores:
    """Counts over labelled frames; `n` is the number of records."""

    histogram: npt.NDArray[np.int64]
    """(2, BINS): pixels without and with a label by probability, before any gate."""
    counts: npt.NDArray[np.int64]
    """(3, n): tp, fp, fn of each record at the threshold, before any gate."""
    record_score: npt.NDArray[np.float64]
    """(n): mean of the top-k pixel probabilities, what the gate compares."""
    tolerant: npt.NDArray[np.int64]
    """(4, n): counts of `metrics.tolerant_counts` of each record."""


def score(
    probabilities: Probabilities,
    items: Items,
    *,
    device: torch.device,
    threshold: float,
    top_k: int,
    batch: int = 16,
    threads: int = 2,
    name: str | None = "evaluate",
    ranks: Ranks = ALONE,
) -> Scores:
    """Score human-labelled frames; every process of a run scores its share and gets the scores of all.

    `name` titles the progress display; None shows none.
    """
    histogram = np.zeros((2, metrics.BINS), np.int64)
    own = np.arange(ranks.rank, len(items), ranks.world)
    steps = [own[i : i + batch] for i in range(0, len(own), batch)]
    counts, record_scores = np.zeros((3, len(items)), np.int64), np.zeros(len(items))
    tolerant = np.zeros((4, len(items)), np.int64)

    def run(advance: Callable[..., None]) -> None:
        for rows, loaded in zip(steps, load(items, steps, device, threads, prefetch=2), strict=True):
            with torch.inference_mode():
                p_bhw = probabilities(loaded.image_btchw).cpu().numpy()
            if p_bhw.shape[1:] == (1, 1):
                target_bhw = loaded.positive_b1.cpu().numpy()[:, :, np.newaxis] > 0
            else:
                target_bhw = loaded.target_b1hw[:, 0].cpu().numpy() >= 128
            if loaded.valid_b1hw is None:
                there_bhw = np.ones_like(target_bhw)
            else:
                there_bhw = loaded.valid_b1hw[:, 0].cpu().numpy() > 0
                p_bhw = np.where(there_bhw, p_bhw, 0)
                target_bhw = target_bhw & there_bhw
            histogram[...] += metrics.histograms(p_bhw[there_bhw], target_bhw[there_bhw])
            record_scores[rows] = top_k_mean(p_bhw, top_k)
            for row, p_hw, target_hw in zip(rows, p_bhw, target_bhw, strict=True):
                predicted_hw = p_hw >= threshold
                tp = int((predicted_hw & target_hw).sum())
                counts[:, row] = tp, int(predicted_hw.sum()) - tp, int(target_hw.sum()) - tp
                tolerant[:, row] = metrics.tolerant_counts(predicted_hw, target_hw)
            advance(len(p_bhw))

    if name is None:
        run(lambda n: None)
    else:
        with progress(name, len(items)) as advance:
            run(advance)
    parts = gather((histogram, counts, record_scores, tolerant), ranks)
    # each process left zeros where the others counted
    return Scores(*(sum(column) for column in zip(*parts, strict=True)))


def score_predictor(model: Predictor, items: Items, batch: int = 16) -> Scores:
    """Score a finished run at its own threshold, on items read at its own `offsets`."""
    return score(
        predicted(model.model, model.view, model.label_shift, model.head),
        items,
        device=model.device,
        threshold=model.decision.threshold,
        top_k=model.decision.top_k,
        batch=batch,
    )


def report(scores: Scores, items: Items, threshold: float, gate: float) -> dict[str, Any]:
    """Scores at a threshold and gate that were fitted elsewhere, with a 95 % bootstrap interval over groups."""
    tp, fp, fn = gated = gated_counts(scores, gate)
    shut = scores.record_score < gate
    tolerant = scores.tolerant.copy()
    tolerant[:2, shut] = 0  # nothing is predicted there any more
    tolerant[2, shut] = 0
    total = {k: int(v) for k, v in zip(("tp", "fp", "fn"), gated.sum(1), strict=True)}
    low, high = metrics.bootstrap_interval(tp, fp, fn, groups=items.group)
    ungated = scores.counts.sum(1)
    positive = scores.counts[0] + scores.counts[2] > 0
    return {
        "records": len(items),
        "positive_records": int(positive.sum()),
        "groups": len(np.unique(items.group)),
        "threshold": threshold,
        "gate": gate,
        "dice": float(metrics.dice(*gated.sum(1))),
        "dice_low": low,
        "dice_high": high,
        "precision": float(metrics.ratio(total["tp"], total["tp"] + total["fp"])),
        "recall": float(metrics.ratio(total["tp"], total["tp"] + total["fn"])),
        "auc_pr": metrics.average_precision(scores.histogram) if positive.any() else None,
        "tolerant_dice": metrics.tolerant_dice(*(int(n) for n in tolerant.sum(1))),
        "record_dice": metrics.record_dice(tp + fp > 0, positive),
        "record_auc_pr": _record_auc(scores, positive),
        "dice_without_gate": float(metrics.dice(*ungated)),
        **total,
    }


def _record_auc(scores: Scores, positive: npt.NDArray[np.bool_]) -> float | None:
    """Area under precision-recall of records by their score; None without a positive one."""
    return metrics.average_precision(metrics.histograms(scores.record_score, positive)) if positive.any() else None


def gated_counts(scores: Scores, gate: float) -> npt.NDArray[np.int64]:
    """(3, n) tp, fp, fn when records that score below the gate get an empty mask."""
    tp, fp, fn = scores.counts
    shut = scores.record_score < gate
    return np.stack([np.where(shut, 0, tp), np.where(shut, 0, fp), np.where(shut, fn + tp, fn)])


def calibrate(score_at: Callable[[float], Scores], items: Items) -> tuple[float, float, Scores] | None:
    """(threshold, gate, scores there) that maximise global Dice on held-out frames; None without a positive pixel.

    `score_at(threshold)` scores `items`; it is called twice: for the histogram of probabilities that gives the
    threshold, then for the counts at it that give the gate. On few records the best gate is often best by chance
    and costs Dice elsewhere: it is kept only when its gain holds in 97.5 % of resamplings, else there is none.
    """
    first = score_at(0.5)
    if not first.histogram[1].sum():
        return None
    threshold, _ = metrics.best_threshold(first.histogram)
    scores = score_at(threshold)
    gate, _ = metrics.best_gate(scores.record_score, *scores.counts)
    low, _ = metrics.bootstrap_difference(scores.counts, gated_counts(scores, gate), items.group)
    return threshold, gate if low > 0 else 0.0, scores
