"""Scores of a detector on labelled frames: one pass, integer counts, nothing averaged over batches.

Thresholds, gates and weights are fitted by `calibrate` only, on held-out records, and cross-fitted there: what a record
is scored with was fitted on other groups (site, day) of records.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from contrail_data.errors import ContrailError
from contrail_data.progress import progress
from contrail_data.splits.folds import make_folds
from contrail_data.store.logits import CODES
from contrail_train.contrails.cleaning import Mask
from contrail_train.data.items import Items, Rows
from contrail_train.data.loader import ReadAhead, load
from contrail_train.evaluation import metrics
from contrail_train.evaluation.counting import CountingThreads
from contrail_train.evaluation.intervals import dice_interval
from contrail_train.inference.detector import Detect, Prediction
from contrail_train.inference.predictor import Predictor
from contrail_train.runs.calibration import ScoreValues
from contrail_train.runs.distributed import ALONE, Ranks, gather
from contrail_train.runs.names import CALIBRATION

Probability = npt.NDArray[np.float32]
FOLDS = 5


class ScoredRecord(NamedTuple):
    """A record with its prediction."""

    row: int
    """Row of the items."""
    probability: Probability
    """(h, w), NaN where there are no pixels."""
    predicted: Mask
    """Mask (h, w) before any gate."""
    target: Mask
    """Label (h, w)."""
    score: float
    """Record score."""


OnRecord = Callable[[ScoredRecord], None]
"""Receives each scored record, in any order and from several threads at a time."""
MakeMask = Callable[[int, Probability, Mask], Mask]
"""Makes the mask of a record: row of the items, probability (h, w), where there are pixels (h, w). Likewise called from
several threads at a time."""


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
    ahead: ReadAhead = field(default_factory=ReadAhead, compare=False)
    """How far frames are read ahead, kept from one pass over them to the next."""


@dataclass(frozen=True)
class LabelledBatch:
    """Windows of frames with the labels of their predicted frames, all on the device but for the rows."""

    rows: npt.NDArray[np.int64]
    """Indices (b) of the items."""
    window_btchw: Tensor
    valid_bhw: Tensor | None
    """Where the predicted frame has pixels; None for everywhere."""
    target_bhw: Tensor
    """The labels, bool; False where there are no pixels."""
    positive_b: Tensor
    """Whether a record has any contrail, bool."""

    def paired(
        self, probability_bhw: Tensor, part: slice = slice(None)
    ) -> Iterator[tuple[int, Probability, Mask, Mask]]:
        """Pair predictions with their labels.

        Args:
            probability_bhw: Predictions of the batch; (b, 1, 1) of a classifier, whose records are masks of one pixel.
            part: Which records of the batch to pair.

        Yields:
            Row, probability, label and where there are pixels, the last three (h, w). The probability is NaN, which
            reaches no threshold, where there are none.
        """
        p_bhw = probability_bhw[part].float().cpu().numpy()
        is_record = p_bhw.shape[1:] == (1, 1)
        target_bhw = (self.positive_b[:, None, None] if is_record else self.target_bhw)[part].cpu().numpy()
        if is_record or self.valid_bhw is None:
            valid_bhw = np.ones_like(target_bhw)
        else:
            valid_bhw = self.valid_bhw[part].cpu().numpy()
            p_bhw = np.where(valid_bhw, p_bhw, np.float32(np.nan))
        yield from zip(self.rows[part].tolist(), p_bhw, target_bhw, valid_bhw, strict=True)


@dataclass(frozen=True)
class Scores:
    """Counts over labelled frames; n is the number of records."""

    histogram: npt.NDArray[np.int64]
    """(folds, 2, CODES): pixels without and with a label by probability, before any gate; see `assign_folds`."""
    counts: npt.NDArray[np.int64]
    """(3, n): tp, fp, fn of each record at its threshold, before any gate."""
    record_score: npt.NDArray[np.float64]
    """(n): what the gate compares."""
    tolerant: npt.NDArray[np.int64]
    """(4, n): counts of `metrics.tolerant_counts` of each record."""


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
    batches = load(items, steps, options.device, options.threads, prefetch=2, ahead=options.ahead)
    with progress(options.title or "", len(own)) if shown else nullcontext(lambda _: None) as advance:
        for rows, batch in zip(steps, batches, strict=True):
            valid_bhw = None if batch.valid_b1hw is None else batch.valid_b1hw[:, 0] > 0
            target_bhw = batch.target_bkhw[:, 0] >= 128
            if valid_bhw is not None:
                target_bhw &= valid_bhw
            yield LabelledBatch(rows, batch.image_btchw, valid_bhw, target_bhw, batch.positive_b1[:, 0] > 0)
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


def score(
    detect: Detect,
    items: Items,
    options: EvaluationOptions,
    threshold: float,
    on_record: OnRecord | None = None,
    make_mask: MakeMask | None = None,
) -> Scores:
    """Score human-labelled frames.

    Args:
        detect: A detector that answers on the grid of the labels.
        items: The frames.
        options: How to read them.
        threshold: Probability from which a pixel is predicted.
        on_record: Called with each record, in any order and from several threads at a time.
        make_mask: Makes the masks; None for the threshold only.

    Returns:
        The counts.
    """
    fold = assign_folds(items)
    histogram = np.zeros((int(fold.max(initial=0)) + 1, 2, CODES), np.int64)
    counts, record_score = np.zeros((3, len(items)), np.int64), np.zeros(len(items))
    tolerant = np.zeros((4, len(items)), np.int64)
    adding = Lock()

    def count(batch: LabelledBatch, prediction: Prediction, part: slice) -> None:
        record_score[batch.rows[part]] = prediction.score_b[part].cpu().numpy()
        for row, p_hw, target_hw, valid_hw in batch.paired(prediction.probability_bhw, part):
            of_record = metrics.histograms(p_hw, target_hw, valid_hw)
            with adding:
                histogram[fold[row]] += of_record
            predicted_hw = p_hw >= threshold if make_mask is None else make_mask(row, p_hw, valid_hw)
            counts[:, row] = metrics.confusion_counts(predicted_hw, target_hw)
            tolerant[:, row] = metrics.tolerant_counts(predicted_hw, target_hw)
            if on_record is not None:
                on_record(ScoredRecord(row, p_hw, predicted_hw, target_hw, float(record_score[row])))

    with CountingThreads() as counting:
        for batch in labelled_batches(items, options):
            with torch.inference_mode():
                prediction = detect(batch.window_btchw, batch.valid_bhw)
            counting.submit(partial(count, batch, prediction), len(batch.rows))
    return Scores(*sum_over_ranks((histogram, counts, record_score, tolerant), options.ranks))


def unseen(items: Items, models: Sequence[Predictor]) -> Items:
    """Select the records that no model was trained on or calibrated by, the only ones that may be scored.

    Args:
        items: Labelled records.
        models: The models to score.

    Returns:
        The unseen records.

    Raises:
        ContrailError: If there are none.
    """
    seen = frozenset().union(*(model.trained_records | model.calibrated_records for model in models))
    new = np.array([record_id not in seen for record_id in items.record_id.tolist()])
    if not new.any():
        where = f"{models[0].path / CALIBRATION}" if models[0].path.is_dir() else "its run's calibration.json"
        raise ContrailError(
            f"all {len(items)} labelled records were used to train or calibrate the model: score other records; the "
            f"cross-fitted scores of the held-out ones are in {where}"
        )
    return items[np.flatnonzero(new)]


def score_predictor(
    model: Predictor,
    items: Items,
    batch: int = 16,
    on_record: OnRecord | None = None,
    make_mask: MakeMask | None = None,
) -> Scores:
    """Score a finished model at its own threshold.

    Args:
        model: The model.
        items: Labelled frames, read at the model's offsets.
        batch: Windows that are predicted at once.
        on_record: See `score`.
        make_mask: See `score`.

    Returns:
        The counts.
    """
    options = EvaluationOptions(model.device, batch)
    return score(model.detect_on_label_grid, items, options, model.decision.threshold, on_record, make_mask)


def score_values(
    scores: Scores, items: Rows, threshold: float, gate: float, gates: npt.NDArray[np.float64] | None = None
) -> ScoreValues:
    """Summarise counts as scores, with a 95 % interval over groups.

    Args:
        scores: The counts.
        items: The records counted.
        threshold: Threshold that the model will be used with, stated with the scores.
        gate: Likewise its gate.
        gates: Gate (n) of each record, if gates were cross-fitted; None if all records meet `gate`.

    Returns:
        The scores; None for a ratio without a denominator, and for the interval where `dice_interval` has none.
    """
    gate_n = np.full(len(items), gate) if gates is None else gates
    gated = gated_counts(scores, gate_n)
    tp, fp, fn = (int(count) for count in gated.sum(1))
    tolerant = scores.tolerant.copy()
    tolerant[:3, scores.record_score < gate_n] = 0  # these masks are empty
    groups = len(np.unique(items.group))
    low, high = dice_interval(gated, items.group) or (None, None)
    positive = scores.counts[0] + scores.counts[2] > 0
    auc_pr = record_auc_pr = None
    if positive.any():
        auc_pr = metrics.average_precision(scores.histogram.sum(0))
        record_auc_pr = metrics.average_precision(metrics.rank_histograms(scores.record_score, positive))
    return {
        "records": len(items),
        "positive_records": int(positive.sum()),
        "groups": groups,
        "threshold": threshold,
        "gate": gate,
        "dice": float(metrics.dice(tp, fp, fn)),
        "dice_low": low,
        "dice_high": high,
        "precision": metrics.share(tp, tp + fp),
        "recall": metrics.share(tp, tp + fn),
        "auc_pr": auc_pr,
        "tolerant_dice": metrics.tolerant_dice(*(int(count) for count in tolerant.sum(1))),
        "record_dice": float(metrics.dice(*metrics.confusion_counts(gated[0] + gated[1] > 0, positive))),
        "record_auc_pr": record_auc_pr,
        "dice_without_gate": float(metrics.dice(*scores.counts.sum(1))),
        "tp": tp,
        "fp": fp,
        "fn": fn,
    }


def gated_counts(scores: Scores, gate: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Count pixels when records that score below the gate get an empty mask.

    Args:
        scores: Counts before any gate.
        gate: Of all records, or (n) of each.

    Returns:
        tp, fp and fn of each record, shape (3, n).
    """
    return metrics.empty_masks(scores.counts, scores.record_score < np.asarray(gate))


def assign_folds(items: Rows) -> npt.NDArray[np.int64]:
    """Divide records into folds of whole groups (site, day).

    Args:
        items: The records.

    Returns:
        Fold (n) of each record, from 0; `FOLDS` folds, or as many as there are groups.
    """
    groups = len(np.unique(items.group))
    return make_folds(items.group, items.positive, min(FOLDS, groups)) if groups else np.zeros(0, np.int64)


class EpochScores(NamedTuple):
    """How good a network is on held-out records, before its threshold is fitted; None where that is not defined."""

    dice: float | None
    """Global Dice, as are precision and recall at thresholds cross-fitted between folds."""
    precision: float | None
    recall: float | None
    auc_pr: float | None
    loss: float | None
    """Mean binary cross-entropy of pixels; of records for a classifier of records."""


def epoch_scores(scores: Scores) -> EpochScores:
    """Compute the scores by which epochs are compared.

    Args:
        scores: Counts of the held-out records.

    Returns:
        The scores; without a positive pixel only the loss.
    """
    histogram = scores.histogram.sum(0)
    loss = metrics.cross_entropy(histogram) if histogram.any() else None
    if not histogram[1].any():
        return EpochScores(None, None, None, None, loss)
    _, (tp, fp, fn) = metrics.cross_fitted_counts(scores.histogram)
    precision, recall = metrics.share(tp, tp + fp), metrics.share(tp, tp + fn)
    return EpochScores(float(metrics.dice(tp, fp, fn)), precision, recall, metrics.average_precision(histogram), loss)
