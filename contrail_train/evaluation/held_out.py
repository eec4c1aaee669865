"""The records that finished runs and pipelines held out, and thresholds fitted on those of several together."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from contrail_data.catalog.catalog import open_named
from contrail_data.errors import ContrailError
from contrail_data.labels.predictor import Symmetries
from contrail_data.store.schema import Kind, kind_of
from contrail_train.config.settings import read_config
from contrail_train.data.items import Items, SampleStores, has_all_frames, human_items, window_config
from contrail_train.evaluation.calibrate import Calibrated, GateWhen, GridWhen, HeldOut, calibrate
from contrail_train.evaluation.score import EvaluationOptions
from contrail_train.inference.load import load_model, read_pipeline, runs_of
from contrail_train.inference.predictor import Predictor
from contrail_train.runs.address import local_model
from contrail_train.runs.calibration import TakenFrom, read_calibration
from contrail_train.runs.names import CONFIG, PIPELINE
from contrail_train.runs.stores import open_run_stores


def sample_stores(stores_of_runs: Iterable[Mapping[str, xr.Dataset]]) -> dict[str, xr.Dataset]:
    """Collect the stores of samples that runs were trained and validated on.

    Args:
        stores_of_runs: The stores of each run by name.

    Returns:
        The stores, each once, by name; by path if runs gave one name to different stores.
    """
    collected: dict[str, xr.Dataset] = {}
    digests = set()
    for name, store in (item for stores in stores_of_runs for item in stores.items()):
        if kind_of(store) is Kind.SAMPLES and store.attrs["digest"] not in digests:
            digests.add(store.attrs["digest"])
            collected[store.attrs["path"] if name in collected else name] = store
    return collected


def stores_of(path: Path) -> dict[str, xr.Dataset]:
    """Open the stores of samples of a run, or of the stages of a pipeline.

    Args:
        path: Its directory.

    Returns:
        The stores that it was trained and validated on, each once, by name.
    """
    return sample_stores(map(open_run_stores, runs_of(path).values()))


def calibration_stores(path: Path) -> list[xr.Dataset]:
    """Open the stores that hold the records that a run or pipeline was calibrated on.

    Args:
        path: Its directory.

    Returns:
        The stores.

    Raises:
        ContrailError: If a store is missing or another one than before.
    """
    if (path / PIPELINE).is_file():
        config = read_pipeline(path)
        stores = {name: open_named(name) for name in config.calibrate_on} or stores_of(path)
    else:
        stores = open_run_stores(path)
        stores = sample_stores([{name: stores[name] for name in read_config(path / CONFIG).data.validation or stores}])
    digests = read_calibration(path)["stores"].values()
    if changed := [name for name, store in stores.items() if store.attrs["digest"] not in digests]:
        raise ContrailError(f"{changed[0]}: is not the store that {path} was calibrated on; restore that one")
    return [*stores.values()]


def held_out_records(model: Predictor) -> Items:
    """Tabulate the records that a run or pipeline was calibrated on.

    Args:
        model: A run or pipeline.

    Returns:
        The records.

    Raises:
        ContrailError: If a store is missing or another one than before.
    """
    path, datasets = model.path, calibration_stores(model.path)
    records = read_calibration(path)["holdout_records"]
    items = human_items(SampleStores(datasets), window_config(model.offsets, model.repeats_edges))
    items = items[np.flatnonzero(np.isin(items.record_id, records) & has_all_frames(items))]
    if len(items) != len(records):
        raise ContrailError(
            f"{path}: {len(items)} of its {len(records)} held-out records are in its stores; restore them"
        )
    return items


def calibrate_on_held_out(
    models: Sequence[Predictor],
    options: EvaluationOptions,
    gate_when: GateWhen = "proven",
    grid_when: GridWhen = "never",
) -> Calibrated:
    """Fit one threshold and one gate on the held-out records of several models, each predicted by its own model.

    Args:
        models: Runs or pipelines, such as those of several folds.
        options: How to read the records.
        gate_when: When to keep a gate.
        grid_when: When to map masks onto the label grid by a learned convolution.

    Returns:
        The choice, and scores of all these records.

    Raises:
        ContrailError: If a store of a model is missing or another one than before.
    """
    parts = [HeldOut(model.detect, held_out_records(model), model.label_offset) for model in models]  # type: ignore[arg-type]
    return calibrate(parts, options, gate_when=gate_when, grid_when=grid_when)


def load_without_symmetries(address: str | Path, device: str) -> Predictor:
    """Load a model whose held-out records are wanted.

    Args:
        address: Where a finished run or pipeline lies, see `runs.address.local_model`.
        device: Device to load it on.

    Returns:
        The predictor, which does not average over symmetries.

    Raises:
        ContrailError: If it is an exported file, or not finished.
    """
    path = local_model(address)
    if path.is_file():
        raise ContrailError(
            f"{path}: an exported file does not name its held-out records; name the run or pipeline that it was "
            "exported from"
        )
    return load_model(path, device, Symmetries.NONE)


def load_lenders(taken_from: TakenFrom, device: str, symmetries: Symmetries = Symmetries.NONE) -> list[Predictor]:
    """Load the models that a run took its thresholds from.

    Args:
        taken_from: What the run states about them.
        device: Device to load them on.
        symmetries: Transformed copies of an image to average over.

    Returns:
        The predictors.

    Raises:
        ContrailError: If one is missing or another one than before.
    """
    for name, digest in taken_from["models"].items():
        if load_without_symmetries(name, device).decision.model != digest:
            raise ContrailError(f"{name}: is not the model that the run took its threshold from; restore that one")
    return [load_model(name, device, symmetries) for name in taken_from["models"]]
