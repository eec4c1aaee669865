"""The card of a shared model, `README.md`: what it is, how good it is, where it fails, and how to use it.

Everything on it is read from the run: settings, calibration, and the evaluations that lie in its directory. The front
matter is what the Hugging Face hub reads.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from huggingface_hub import EvalResult, ModelCardData

from contrail_data.errors import ContrailError
from contrail_data.model_folders.manifest import PICTURE, ModelDescription
from contrail_data.reports.choices import Theme
from contrail_data.reports.figures import RGB, Mark, Mask, draw_picture, encode_png
from contrail_data.reports.page import render_page
from contrail_data.reports.pictures import SampleViewer
from contrail_data.store.reader import read_scalars
from contrail_train.config.model import VIDEO_PREFIX
from contrail_train.config.schema import RunConfig
from contrail_train.evaluation.analysis_text import gate_sentences
from contrail_train.evaluation.error_pictures import error_panels
from contrail_train.evaluation.held_out import calibration_stores
from contrail_train.evaluation.metrics import confusion_counts, dice
from contrail_train.inference.predictor import Predictor
from contrail_train.models.encoder import full_name
from contrail_train.runs.calibration import Calibration, read_calibration
from contrail_train.timm_alone import timm

TAGS = ("contrails", "remote-sensing", "satellite-imagery", "goes", "aviation")
_QUANTILES = (0.9, 0.5, 0.1)
"""Held-out records on the picture: a good, a typical and a poor one, by their place in the order of Dice."""
_MOST_CLASSES = 6
_FEWEST_RECORDS = 20
"""Classes of fewer records are not listed as known failures: their Dice says little."""


@dataclass(frozen=True, kw_only=True)
class CardContent:
    """What the card of a model states."""

    name: str
    address: str
    """How others name it in a command."""
    about: ModelDescription
    calibration: Calibration
    configs: Mapping[str, RunConfig]
    """Settings by stage; a run has one, of the name `run`."""
    environment: Mapping[str, Any]
    evaluations: Sequence[Mapping[str, Any]]
    """Contents of the files that `evaluate` wrote."""
    licence: str | None
    """Identifier of the licence of the weights, such as `apache-2.0`; None if the publisher states none."""
    picture: Sequence[str]
    """A line on each record on the picture; empty if there is no picture."""


def write_card(content: CardContent) -> str:
    """Write the card of a model.

    Args:
        content: What it states.

    Returns:
        Markdown with front matter.

    Raises:
        ContrailError: If an evaluation is damaged.
    """
    try:
        body = render_page(
            "card.txt",
            package=__package__,
            content=content,
            held_out=content.calibration.get("taken_from", {}).get("scores") or content.calibration["holdout"],
            trained=len(set(content.calibration["seen_records"]) - set(content.calibration["holdout_records"])),
            failures=[_failures(evaluation) for evaluation in content.evaluations],
            encoders=[_origin(config) for config in content.configs.values()],
            picture=PICTURE,
        )
        results = [
            EvalResult(
                task_type="image-segmentation",
                dataset_type="contrail-store",
                dataset_name=Path(evaluation["store"]["name"]).name,
                dataset_revision=evaluation["store"]["digest"],
                metric_type="dice",
                metric_name="global Dice",
                metric_value=round(evaluation["dice"], 4),
            )
            for evaluation in content.evaluations
        ]
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"[:100]
        raise ContrailError(
            f"an evaluation of the model is damaged ({reason}); repeat contrail-train evaluate"
        ) from None
    data = ModelCardData(
        library_name="contrail-kit",
        license=content.licence,
        pipeline_tag="image-segmentation",
        tags=list(TAGS),
        model_name=content.name if results else None,
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml()}\n---\n\n{body}"


def evaluations_of(model: Predictor) -> list[dict[str, Any]]:
    """Read the evaluations in the directory of a model that are of its present weights, without cleaned masks.

    Args:
        model: A run or pipeline.

    Returns:
        Contents of the files, by name of the file.

    Raises:
        ContrailError: If a file is damaged.
    """
    evaluations = []
    for file in sorted(model.path.glob("evaluation-*.json")):
        try:
            values = json.loads(file.read_text())
            if values["model"] == model.decision.model and not values["cleaning"]:
                evaluations.append(values)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ContrailError(f"{file}: damaged ({type(error).__name__}); repeat contrail-train evaluate") from None
    return evaluations


def draw_held_out(model: Predictor) -> tuple[bytes, list[str]]:
    """Draw held-out records with labels, predictions and errors: one that went well, a typical and a poor one.

    Args:
        model: A run or pipeline whose stores are at hand.

    Returns:
        A PNG file, and a line on each record. The picture is empty if the model draws no masks, or held out no
        contrails.

    Raises:
        ContrailError: If a store is missing or another one than before.
    """
    chosen = _representative(model)
    if not chosen:
        return b"", []
    rows, lines = [], []
    stores = calibration_stores(model.path)
    for record_id in chosen:
        for store in stores:
            if (sample := np.flatnonzero(store["record_id"].values == record_id)).size:
                target_yx, predicted_yx, rgb = _predicted(model, store, int(sample[0]))
                panels = error_panels(rgb, target_yx, predicted_yx)
                rows.append([replace(panels[0], caption=record_id), *panels[1:]])
                counts = confusion_counts(predicted_yx, target_yx)
                lines.append(f"record {record_id}: Dice {float(dice(*counts)):.2f}")
                break
    picture = draw_picture(rows, marks=(Mark.LABEL, Mark.PREDICTION), theme=Theme.LIGHT)
    return encode_png(picture), lines


def _predicted(model: Predictor, store: xr.Dataset, sample: int) -> tuple[Mask, Mask, RGB]:
    """Label, predicted mask and image of the labelled frame of a sample."""
    viewer, own = SampleViewer(store, read_scalars(store)), model.for_store(store)
    frame = viewer.reference_frame(sample)
    valid_bhw = store["valid"].variable[sample, [frame]].values > 0 if "valid" in store.variables else None
    predicted = own.predict(own.window_reader(store)([(sample, frame)]), valid_bhw)
    mask_yx = (predicted.probability[0] >= own.decision.threshold) & (predicted.score[0] >= own.decision.gate)
    target_yx = store["mask"].variable[sample].values > 0
    return target_yx, mask_yx if valid_bhw is None else mask_yx & valid_bhw[0], viewer.rgb(sample, frame)


def _representative(model: Predictor) -> list[str]:
    """Ids of held-out records with contrails, the best first, by the counts of the calibration."""
    calibration = read_calibration(model.path)
    counts = calibration["holdout_counts"]
    if counts is None or model.head == "record":
        return []
    tp, fp, fn = np.array(counts, np.int64)
    positive = np.flatnonzero(tp + fn > 0)
    if not len(positive):
        return []
    score: npt.NDArray[np.float64] = 2 * tp[positive] / (2 * tp + fp + fn)[positive]
    ascending = positive[np.argsort(score, kind="stable")]  # by Dice
    rows = dict.fromkeys(int(ascending[round(q * (len(ascending) - 1))]) for q in _QUANTILES)
    return [calibration["holdout_records"][row] for row in rows]


def _failures(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """What the error analysis of an evaluation found worst; empty lists for a classifier of records."""
    if "analysis" not in evaluation:
        return {"sentences": [], "kinds": [], "classes": []}
    analysis = evaluation["analysis"]
    kinds = sorted((kind for kind in analysis["kinds"] if kind["pixels"]), key=lambda kind: -kind["lost"])
    classes = [
        {"property": name.replace("_", " "), **one}
        for name, of_property in analysis["records"].items()
        for one in of_property
        if one.get("dice") is not None and one["records"] >= _FEWEST_RECORDS and one["dice"] < evaluation["dice"]
    ]
    classes = sorted(classes, key=lambda one: one["dice"])[:_MOST_CLASSES]
    return {"sentences": gate_sentences(analysis["gate"])[-1:], "kinds": kinds[:3], "classes": classes}


def _origin(config: RunConfig) -> str:
    """Where the weights of an encoder came from before training, with their licence; empty for random ones."""
    name, pretrained = config.model.encoder, config.model.pretrained
    if pretrained is True and not name.startswith(VIDEO_PREFIX):
        stated = timm.get_pretrained_cfg(full_name(name))
        licence = (stated.license if stated is not None else None) or "not stated"
        return f"The encoder started from timm's weights `{full_name(name)}` (licence: {licence})."
    if pretrained is True:
        return f"The encoder started from torchvision's weights `{name}`."
    return f"The encoder started from weights of `{Path(pretrained).name}`." if pretrained else ""
