"""Pictures of the errors of a model: labels, probabilities, and pixels that were found, missed or false."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from PIL import ImageColor

from contrail_data.reports.figures import RGB, Mark, Mask, Panel, draw_picture, encode_png, enlarged
from contrail_data.reports.page import Picture
from contrail_data.reports.pictures import SampleViewer
from contrail_train.data.items import Items
from contrail_train.evaluation.outcomes import Outcome
from contrail_train.evaluation.score import EvaluationOptions, ScoredRecord, score
from contrail_train.inference.predictor import Predictor

FOUND, FALSE, MISSED = "#009e73", "#e69f00", "#cc79a7"
"""Green, orange and purple of the palette by Okabe and Ito, which colour-blind people can tell apart."""
LEGEND = (
    (Mark.LABEL.colour, "label", True),
    (Mark.PREDICTION.colour, "predicted", True),
    (FOUND, "found", False),
    (FALSE, "false", False),
    (MISSED, "missed", False),
)
"""Colour and meaning, and whether it is an outline."""
_PANEL = 256  # approximate width in pixels


def error_pictures(
    model: Predictor, viewer: SampleViewer, items: Items, outcomes: Mapping[int, Outcome], batch: int
) -> list[Picture]:
    """Draw records with their errors. The model predicts them once more, as all probabilities would fill the memory.

    Args:
        model: The model.
        viewer: Reads the store that the records are in.
        items: Labelled records.
        outcomes: What became of the records to draw, by row of `items`.
        batch: Records per step.

    Returns:
        The pictures, in the order of the outcomes.
    """
    chosen, threshold = items[np.array(list(outcomes), np.int64)], model.decision.threshold
    probabilities: dict[int, npt.NDArray[np.float32]] = {}

    def keep_probability(record: ScoredRecord) -> None:
        probabilities[record.row] = record.probability

    options = EvaluationOptions(model.device, batch, title=None)
    score(model.detect_on_label_grid, chosen, options, threshold, keep_probability)
    pictures = []
    for row, outcome in enumerate(outcomes.values()):
        sample, frame = int(chosen.sample[row]), int(chosen.frame[row])
        target_yx = viewer.store["mask"].variable[sample].values > 0
        predicted_yx = np.unpackbits(outcome.predicted, count=target_yx.size).reshape(target_yx.shape) > 0
        image, label, prediction, errors = error_panels(viewer.rgb(sample, frame), target_yx, predicted_yx)
        probability = replace(prediction, image=probabilities[row], threshold=threshold)
        png = encode_png(draw_picture([[image, label, probability, errors]]))
        place = ", ".join(viewer.caption(sample))
        pictures.append(Picture(png, [str(chosen.record_id[row]), f"{place}; {_counts(outcome)}"]))
    return pictures


def _counts(outcome: Outcome) -> str:
    """Pixels of each kind, and what they would be if the gate had not rejected the record."""
    tp, fp, fn = outcome.gated
    text = f"{tp:,} px found, {fn:,} missed, {fp:,} false"
    if outcome.gated != outcome.ungated:
        tp, fp, fn = outcome.ungated
        text += f"; rejected by the gate, without which it would be {tp:,}, {fn:,} and {fp:,}"
    return text


def error_panels(rgb: RGB, target_yx: Mask, predicted_yx: Mask) -> list[Panel]:
    """Show a record in four panels: the image, the label outlined, the prediction outlined, and the errors.

    Args:
        rgb: The image, (y, x, 3).
        target_yx: The label.
        predicted_yx: The predicted mask.

    Returns:
        The panels. Found pixels are green, false ones orange and missed ones purple.
    """
    errors = np.repeat((rgb.mean(-1, keepdims=True) * 0.5).astype(np.uint8), 3, -1)
    for colour, pixels_yx in (
        (FOUND, target_yx & predicted_yx),
        (FALSE, predicted_yx & ~target_yx),
        (MISSED, target_yx & ~predicted_yx),
    ):
        errors[pixels_yx] = ImageColor.getrgb(colour)
    plain = Panel(image=rgb, width=enlarged(rgb.shape[1], _PANEL))
    outlined = [
        replace(plain, outlines={mark: mask_yx})
        for mark, mask_yx in ((Mark.LABEL, target_yx), (Mark.PREDICTION, predicted_yx))
    ]
    return [plain, *outlined, replace(plain, image=errors)]
