"""Threshold, gate and minimum size of a run that trains on all records, from models that held some of them out.

Cross-entropy by itself does not put the best threshold at 0.5. A run without a hold-out cannot fit it, but models that
were trained in the same way on a part of the records can: each predicts the records that it held out, and all of these
together decide.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from contrail_data.errors import ContrailError
from contrail_data.messages import Kind
from contrail_train.config.schema import RunConfig
from contrail_train.config.settings import read_config, values_by_key
from contrail_train.data.training_data import TrainingData
from contrail_train.evaluation.calibrate import GridWhen
from contrail_train.evaluation.held_out import calibrate_on_held_out, held_out_records, load_without_symmetries
from contrail_train.evaluation.score import EvaluationOptions
from contrail_train.inference.detector import Shift
from contrail_train.inference.load import runs_of
from contrail_train.inference.predictor import Predictor
from contrail_train.runs.address import recorded_address
from contrail_train.runs.calibration import Calibration
from contrail_train.runs.distributed import Ranks
from contrail_train.runs.names import CONFIG

_NOT_COMPARED = (
    *("preset", "seed", "device", "compile", "precision", "micro_batch", "data", "calibration", "format"),
    *("loggers", "patience"),
)
"""Settings that a run and those it takes its threshold from are expected to differ in, or that change no weights."""
_MOST = 4  # settings named in a note


def check_sources(config: RunConfig, data: TrainingData, mask_shift: Shift, ranks: Ranks) -> None:
    """Refuse `calibration.from` if its thresholds would not suit the run, before hours go into the training.

    Args:
        config: Settings of the run.
        data: Its data.
        mask_shift: Offset of its masks from the image.
        ranks: The processes of the run.

    Raises:
        ContrailError: If a model is not finished, differs in what its thresholds mean, or held out no contrail, or its
            stores are not at hand.
    """
    ours = _meaning(config, data.composite, data.label_shift, mask_shift)
    positive = False
    for name in config.calibration.from_:
        model = load_without_symmetries(name, "cpu")
        for path in runs_of(model.path).values():
            theirs = read_config(path / CONFIG)
            values = _meaning(theirs, model.composite, model.label_shift, model.mask_shift)
            values["top_k"] = model.decision.top_k  # a pipeline has its own
            if differing := [key for key, value in values.items() if value != ours[key]]:
                raise ContrailError(
                    f"calibration.from={name}: {path} differs from this run in {differing[0]}, so its thresholds mean "
                    "something else; name runs, or a stage of a pipeline, that have the same"
                )
            if changes := _changes(theirs, config):
                more = f" and {len(changes) - _MOST} more" if len(changes) > _MOST else ""
                ranks.say(
                    f"calibration.from={path}: was trained with other settings, whose best threshold may differ: "
                    f"{', '.join(changes[:_MOST])}{more}",
                    Kind.NOTE,
                )
        positive |= bool(held_out_records(model).positive.any())
    if config.calibration.from_ and not positive:
        raise ContrailError(
            f"calibration.from: {', '.join(config.calibration.from_)} held out no record with a contrail, so no "
            "threshold can be fitted; name runs that did"
        )


def with_borrowed_thresholds(
    calibration: Calibration, models: Sequence[Predictor], options: EvaluationOptions, grid_when: GridWhen
) -> Calibration:
    """Fit threshold, gate, minimum size and the map onto the label grid on the held-out records of other models.

    Args:
        calibration: Calibration of a run without a hold-out.
        models: The models, which do not average over symmetries.
        options: How to read the records.
        grid_when: When to map masks onto the label grid by a learned convolution.

    Returns:
        The calibration with these values, and where they come from.
    """
    calibrated = calibrate_on_held_out(models, options, grid_when=grid_when)
    scores = calibrated.holdout["holdout"]
    assert scores is not None  # check_sources refuses models without held-out contrails
    seen = (model.trained_records | model.calibrated_records for model in models)
    return calibration | {
        "threshold": calibrated.choice.threshold,
        "gate": calibrated.choice.gate,
        "label_grid": calibrated.choice.label_grid,
        "min_pixels": calibrated.holdout.get("min_pixels"),
        "min_pixels_dice": calibrated.holdout.get("min_pixels_dice"),
        "confidence": calibrated.holdout.get("confidence"),
        "taken_from": {
            "models": {recorded_address(model.path): model.decision.model for model in models},
            "scores": scores,
        },
        "seen_records": sorted({*calibration["seen_records"]}.union(*seen)),
    }


def _meaning(
    config: RunConfig, composite: Mapping[str, Any], label_shift: Shift, mask_shift: Shift
) -> dict[str, object]:
    """What the probabilities and record scores of a run mean."""
    return {
        "composite": composite["channels"],
        "label shift": [*label_shift, *mask_shift],
        "top_k": config.top_k,
        "targets": config.data.targets,
        "heads": (config.model.head, config.model.score_head is not None, config.model.annotator_maps is not None),
    }


def _changes(theirs: RunConfig, ours: RunConfig) -> list[str]:
    """Keys of the settings that decide on the weights and differ."""
    before, after = (
        values_by_key(config.model_dump(mode="json", exclude=set(_NOT_COMPARED))) for config in (theirs, ours)
    )
    return [key for key in dict.fromkeys([*before, *after]) if before.get(key) != after.get(key)]
