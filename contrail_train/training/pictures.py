"""Pictures of held-out records, which loggers show after an epoch."""

import numpy as np
import torch
from PIL import Image

from contrail_data.reports.choices import Theme
from contrail_data.reports.figures import Mark, Panel, draw_picture, enlarged
from contrail_data.reports.pictures import as_rgb
from contrail_train.evaluation.score import EvaluationOptions, labelled_batches
from contrail_train.inference.detector import on_label_grid
from contrail_train.training.setup import Setup

_WIDTH = 256  # approximate width of a panel in pixels


def held_out_pictures(setup: Setup, count: int, threshold: float) -> dict[str, Image.Image]:
    """Draw held-out records, always the same ones, as the averaged weights see them now.

    Args:
        setup: The run.
        count: Most records to draw; three of four have contrails, where there are so many.
        threshold: Probability to mark in the scale of probabilities.

    Returns:
        Pictures by record: the image, the image with the label outlined, and probabilities with the label outlined.
    """
    holdout, channels = setup.data.holdout, setup.data.composite["channels"]
    positive, negative = np.flatnonzero(holdout.positive), np.flatnonzero(~holdout.positive)
    negatives = min(len(negative), max(count // 4, count - len(positive)))
    chosen = np.concatenate([_spread(positive, count - negatives), _spread(negative, negatives)])
    items = holdout[chosen]
    options = EvaluationOptions(setup.device, setup.config.batch_size, setup.config.data.threads, None)
    detect = on_label_grid(setup.detector, setup.label_shift)
    labelled = setup.config.data.frames.index(0)
    pictures = {}
    for batch in labelled_batches(items, options):
        with torch.inference_mode():
            prediction = detect(batch.window_btchw, batch.valid_bhw)
        images_bchw = batch.window_btchw[:, labelled].cpu().numpy()
        for row, p_yx, label_yx, _ in batch.paired(prediction.probability_bhw):
            rgb = as_rgb(images_bchw[row - batch.rows[0]], channels)
            width, label = enlarged(rgb.shape[1], _WIDTH), {Mark.LABEL: label_yx}
            panels = [
                Panel(image=rgb, width=width, caption="image"),
                Panel(image=rgb, width=width, caption="label", outlines=label),
                Panel(image=p_yx, width=width, caption="probability", outlines=label, threshold=threshold),
            ]
            pictures[str(items.record_id[row])] = draw_picture([panels], theme=Theme.DARK)
    return pictures


def _spread(rows: np.ndarray, count: int) -> np.ndarray:
    """At most so many of the rows, evenly spread."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)] if len(rows) else rows
