"""Threshold and gate of a model that averages over other symmetries than those it was calibrated with.

They are fitted on the model's held-out records when they are first needed, and kept beside its calibration, in
`calibration-SYMMETRIES.json`.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from typing_extensions import TypedDict  # pydantic does not take that of Python 3.11

from contrail_data.catalog.catalog import open_named
from contrail_data.errors import ContrailError
from contrail_data.labels.predictor import Decision, Symmetries
from contrail_train.config.schema import Probability
from contrail_train.config.settings import read_config
from contrail_train.data.items import Items, SampleStores, has_all_frames, human_items, window_config
from contrail_train.evaluation.calibrate import GateWhen, calibrate
from contrail_train.evaluation.score import EvaluationOptions
from contrail_train.inference import load
from contrail_train.inference.predictor import Predictor
from contrail_train.runs.calibration import ScoreValues, read_calibration
from contrail_train.runs.directory import CONFIG, PIPELINE, STAGES
from contrail_train.runs.distributed import ALONE
from contrail_train.runs.sealed import read_json, write_json
from contrail_train.runs.stores import open_run_stores
from contrail_train.workflows.pipeline import sample_stores


class Fitted(TypedDict):
    """The contents of `calibration-SYMMETRIES.json`."""

    model: str
    """Digest of the model with these symmetries."""
    threshold: Probability
    gate: Probability
    min_pixels: int | None
    holdout: ScoreValues | None
    """Cross-fitted scores of the held-out records."""


def load_predictor(path: Path, device: str = "auto", symmetries: Symmetries | None = None) -> Predictor:
    """Load a model as `inference.load.load_model` does, with the threshold and gate that belong to its symmetries.

    Args:
        path: Run or pipeline directory, or an exported file.
        device: Device to load it on.
        symmetries: Transformed copies of an image to average over; None for the model's own setting.

    Returns:
        The predictor.

    Raises:
        ContrailError: If there is no such model, or its held-out records are needed and cannot be read.
    """
    model = load.load_model(path, device, symmetries)
    if symmetries is None or symmetries == load.own_symmetries(path):
        return model
    file = path / f"calibration-{symmetries}.json"
    if (fitted := _kept(file, model.decision)) is None:
        ALONE.say(f"{path}: fitting threshold and gate with --tta {symmetries} on its held-out records")
        fitted = _fit(model, symmetries)
        try:
            write_json(file, fitted)
        except ContrailError:
            ALONE.say(f"{file}: not kept, since the directory cannot be written; the next command fits them again")
    decision = replace(model.decision, threshold=fitted["threshold"], gate=fitted["gate"])
    return replace(model, decision=decision, min_pixels=fitted["min_pixels"])


def _kept(file: Path, decision: Decision) -> Fitted | None:
    """What was fitted, from a file; None if it is missing, damaged or of another model."""
    try:
        kept = read_json(file, Fitted, "it is written again")
    except ContrailError:
        return None
    return kept if kept["model"] == decision.model else None


def _fit(model: Predictor, symmetries: Symmetries) -> Fitted:
    gate_when: GateWhen = "proven"
    if (model.path / PIPELINE).is_file():
        config = load.read_pipeline(model.path)
        gate_when = config.gate_when if config.gate else "never"
    try:
        items = held_out_records(model)
    except ContrailError as error:
        raise ContrailError(
            f"{error} (held-out records are needed to fit threshold and gate with --tta {symmetries}; or omit --tta)"
        ) from None
    options = EvaluationOptions(model.device, title="fit threshold")
    calibrated = calibrate(model.detect, items, options, shift=model.label_offset, gate_when=gate_when)  # type: ignore[arg-type]
    return {
        "model": model.decision.model,
        "threshold": calibrated.choice.threshold,
        "gate": calibrated.choice.gate,
        "min_pixels": calibrated.choice.min_pixels,
        "holdout": calibrated.holdout["holdout"],
    }


def held_out_records(model: Predictor) -> Items:
    """Open the records that a run or pipeline was calibrated on.

    Args:
        model: A run or pipeline.

    Returns:
        The records.

    Raises:
        ContrailError: If a store is missing or another one than before.
    """
    path, calibration = model.path, read_calibration(model.path)
    if (path / PIPELINE).is_file():
        config = load.read_pipeline(path)
        stores = {name: open_named(name) for name in config.calibrate_on}
        stores = stores or sample_stores(open_run_stores(path / STAGES / name) for name in config.stages)
    else:
        stores = open_run_stores(path)
        stores = sample_stores([{name: stores[name] for name in read_config(path / CONFIG).data.validation or stores}])
    digests = calibration["stores"].values()
    if changed := [name for name, store in stores.items() if store.attrs["digest"] not in digests]:
        raise ContrailError(f"{changed[0]}: is not the store that {path} was calibrated on; restore that one")
    records = calibration["holdout_records"]
    datasets = [*stores.values()]
    items = human_items(SampleStores(datasets), window_config(model.offsets, model.repeats_edges))
    items = items[np.flatnonzero(np.isin(items.record_id, records) & has_all_frames(items))]
    if len(items) != len(records):
        raise ContrailError(
            f"{path}: {len(items)} of its {len(records)} held-out records are in its stores; restore them"
        )
    return items
