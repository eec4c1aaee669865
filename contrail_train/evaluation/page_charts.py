"""Charts of the page of an evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from contrail_data.reports.charts import Colour
from contrail_data.reports.curves import Line, Marked, curves, reliability
from contrail_data.store import logits
from contrail_train.evaluation.instance_scores import InstanceValues
from contrail_train.evaluation.metrics import curve
from contrail_train.inference.load import runs_of
from contrail_train.runs.listing import read_epochs

_CLASSES = 20
_DOTTED = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
"""Thresholds that get a dot on the curve of precision and recall."""
_CELLS = 250
"""Cells along an axis, of which each holds at most one point of that curve."""


@dataclass(frozen=True)
class Training:
    """How a run was trained."""

    name: str
    """Name of the stage of a pipeline; empty for a run."""
    epochs: Sequence[Mapping[str, float]]
    """Losses and scores by epoch, as in metrics.jsonl."""


def read_training(model: Path) -> list[Training]:
    """Read how a model was trained.

    Args:
        model: A run, pipeline, model folder or exported file.

    Returns:
        One entry for a run and for each stage of a pipeline, without those that have no log of epochs, as in a model
        folder.
    """
    trained = [Training("" if run == model else name, read_epochs(run)) for name, run in runs_of(model).items()]
    return [one for one in trained if one.epochs]


def training_charts(training: Training) -> list[tuple[str, Markup, str]]:
    """Draw losses and Dice by epoch, with the epoch of the best Dice marked.

    Args:
        training: How a run was trained.

    Returns:
        Title, chart and caption of each, without those for which nothing was logged.
    """
    charts = []
    trained, held_out, dice = (_line(training, name) for name in ("training", "hold-out", "Dice"))
    if losses := [line for line in (trained, held_out) if line is not None]:
        caption = "Mean of each epoch." if trained else ""
        if held_out is not None:
            caption += " That of the held-out records is a cross-entropy, so the levels of both may differ."
        charts.append(("Loss", curves(losses, None, "losses by epoch", ("epoch", "loss")), caption))
    if dice is not None:
        best = int(np.argmax(dice.y))
        marked = Marked(dice.x[best], dice.y[best], f"best: {dice.y[best]:.3f} in epoch {dice.x[best]:.0f}")
        svg = curves([dice], marked, "hold-out Dice by epoch", ("epoch", "Dice"))
        charts.append(
            ("Dice of held-out records", svg, "After each epoch, at thresholds cross-fitted on these records.")
        )
    return charts


def _line(training: Training, name: str) -> Line | None:
    """What was logged under a key by epoch, or None."""
    key, colour = {
        "training": ("epoch_loss", Colour.NEGATIVE),
        "hold-out": ("holdout_loss", Colour.POSITIVE),
        "Dice": ("holdout_dice", Colour.POSITIVE),
    }[name]
    points = [
        (float(values.get("epoch", i)), values[key]) for i, values in enumerate(training.epochs, 1) if key in values
    ]
    if not points:
        return None
    x, y = np.array(points).T
    dots = [(*point, f"epoch {point[0]:.0f}: {name} {point[1]:.4f}") for point in points]
    return Line(x=x, y=y, colour=colour, name="" if name == "Dice" else name, dots=dots)


def precision_recall_chart(histogram: npt.NDArray[np.int64], threshold: float) -> Markup:
    """Draw precision of pixels over recall at all thresholds. The area below the steps is AUC-PR.

    Args:
        histogram: Pixels without and with a label by probability, (2, bin); at least one has a label.
        threshold: The threshold of the model, to be marked.

    Returns:
        The chart.
    """
    every = curve(histogram, logits.EDGES[::-1])
    points = np.stack([every.recall, every.precision])[:, every.tp + every.fp > 0]
    changes = np.flatnonzero((np.diff(np.rint(points * _CELLS)) != 0).any(0))
    recall, precision = points[:, np.append(changes, -1)]
    at = curve(histogram, np.array([threshold, *_DOTTED]))
    dots = [
        (r, p, f"threshold {t:.3g}: precision {p:.3f}, recall {r:.3f}")
        for t, p, r in zip(at.threshold, at.precision, at.recall, strict=True)
        if r > 0
    ]
    line = Line(x=np.append(0, recall), y=np.append(precision[0], precision), colour=Colour.POSITIVE, dots=dots)
    marked = Marked(at.recall[0], at.precision[0], f"threshold {threshold:.3g}")
    return curves([line], marked, "precision of pixels over recall", ("recall", "precision"), unit_square=True)


def confidence_chart(values: InstanceValues) -> Markup | None:
    """Draw the share of predicted contrails that match over their confidence.

    Args:
        values: Scores of single contrails.

    Returns:
        The chart; None if no contrail was predicted.
    """
    if not values["reliability"]:
        return None
    confidence, share, count = np.array(values["reliability"]).T
    tooltips = [f"{c:.2f}: {s:.2f} of {n:,.0f} contrails" for c, s, n in zip(confidence, share, count, strict=True)]
    return reliability(confidence, share, count, tooltips, ("confidence", "share that match a label"))


def reliability_chart(histogram: npt.NDArray[np.int64]) -> Markup:
    """Draw the share of labelled pixels in classes of probability of equal width, at the mean of each class.

    Args:
        histogram: Pixels without and with a label by probability, (2, bin).

    Returns:
        The chart.
    """
    edges = np.searchsorted(logits.EDGES, np.arange(_CLASSES) / _CLASSES)
    negative, positive = np.add.reduceat(histogram, edges, axis=1)
    probability = np.add.reduceat(histogram.sum(0) * logits.EDGES, edges)
    filled = np.flatnonzero(negative + positive)
    total = (negative + positive)[filled]
    observed = positive[filled] / total
    tooltips = [
        f"{k / _CLASSES:.2f} to {(k + 1) / _CLASSES:.2f}: {share:.3f} of {pixels:,} pixels"
        for k, share, pixels in zip(filled.tolist(), observed, total, strict=True)
    ]
    axis_names = ("predicted probability", "share labelled contrail")
    return reliability(probability[filled] / total, observed, total, tooltips, axis_names)
