"""Finished runs and pipelines as model folders, to be shared: what prediction needs, without what only training needs.

A model folder has the files of a run or pipeline under the same names, so that whatever takes a run takes it too, with
the thresholds for other symmetries if they were fitted.
Checkpoints and logs are left out, and absolute paths of this machine are shortened to the names of what they lead to.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import torch
from torch import Tensor

from contrail_data import __version__
from contrail_data.composites import from_dict
from contrail_data.errors import ContrailError, UsageError
from contrail_data.model_folders.manifest import ModelDescription, ModelScores, seal_folder
from contrail_data.settings.parse import validated
from contrail_data.settings.strict import Strict
from contrail_data.storage.files import write_atomically
from contrail_train.config.loggers import LoggersConfig
from contrail_train.config.pipelines import PipelineConfig
from contrail_train.config.schema import RunConfig
from contrail_train.config.settings import read_config, to_yaml
from contrail_train.inference.load import read_pipeline, runs_of
from contrail_train.runs.calibration import Calibration, finish, read_calibration
from contrail_train.runs.checkpoint import file_digest, read_tensors, save_tensors
from contrail_train.runs.directory import read_environment
from contrail_train.runs.finished import check_model
from contrail_train.runs.names import CONFIG, ENVIRONMENT, FLOW_WEIGHTS, PIPELINE, STAGES, WEIGHTS
from contrail_train.runs.sealed import write_json

Settings = TypeVar("Settings", bound=Strict)


def write_model_folder(model: Path, out: Path, *, half: bool = False) -> str:
    """Write a finished run or pipeline as a model folder, without a card.

    Two calls write the same bytes. In float32 the weights are those of the run, byte for byte.

    Args:
        model: Directory of the run or pipeline.
        out: A new or empty folder.
        half: Whether to store matrices and kernels in half precision, which takes half the room.

    Returns:
        The digest of the folder.

    Raises:
        ContrailError: If the model is not finished or damaged, or its weights do not fit into half precision.
        UsageError: If the model is an exported file.
    """
    if model.is_file():
        raise UsageError(f"{model}: is an exported file, which can be copied as it is; name the run that it is of")
    check_model(model)
    pipeline = read_pipeline(model) if (model / PIPELINE).is_file() else None
    runs = {run.relative_to(model): run for run in runs_of(model).values()}
    configs = {place: read_config(run / CONFIG) for place, run in runs.items()}
    calibrations = {place: read_calibration(run) for place, run in {Path(): model, **runs}.items()}
    environments = {place: _environment(run) for place, run in runs.items()}
    documents = [*([pipeline.model_dump(mode="json")] if pipeline else []), *calibrations.values()]
    documents += [*(config.model_dump(mode="json") for config in configs.values()), *environments.values()]
    shorten = _shortening(documents)
    weights: list[Tensor] = []
    for place, run in runs.items():
        folder = out / place
        folder.mkdir(parents=True, exist_ok=True)
        config = _shortened(RunConfig, configs[place], shorten)
        write_atomically(folder / CONFIG, [to_yaml(config.model_copy(update={"loggers": LoggersConfig()})).encode()])
        write_json(folder / ENVIRONMENT, shorten(environments[place]))
        if config.data.flow.method == "raft":
            shutil.copyfile(run / FLOW_WEIGHTS, folder / FLOW_WEIGHTS)
        weights += _write_weights(run / WEIGHTS, folder / WEIGHTS, half)
        finish(folder, shorten(calibrations[place]) | {"weights": file_digest(folder / WEIGHTS)})
    if pipeline is not None:
        write_atomically(out / PIPELINE, [to_yaml(_shortened(PipelineConfig, pipeline, shorten)).encode()])
        stages = {name: file_digest(out / STAGES / name / WEIGHTS) for name in pipeline.stages}
        finish(out, shorten(calibrations[Path()]) | {"stages": stages})
    if not half:  # otherwise they belong to other weights
        for file in model.glob("calibration-*.json"):
            shutil.copyfile(file, out / file.name)
    return seal_folder(out, _describe(read_calibration(out), list(configs.values()), weights, pipeline))


def _environment(run: Path) -> dict[str, Any]:
    """What a run was made with, without what only describes the machine."""
    read_environment(run)  # refuses a damaged file
    content = json.loads((run / ENVIRONMENT).read_text())
    places = {name: place for name, place in content.get("places", {}).items() if "://" in place}
    kept = {key: value for key, value in content.items() if key not in ("command", "digest")}
    return kept | {"places": places}


def _shortening(documents: Sequence[Mapping[str, Any]]) -> Callable[[Any], Any]:
    """Return a function that replaces absolute paths in plain data by names, by the same ones everywhere."""
    names: dict[str, str] = {}
    for path in sorted({text for document in documents for text in _texts(document) if _is_absolute(text)}):
        name = plain = PurePosixPath(path).name or "path"
        for number in range(2, len(names) + 3):
            if name not in names.values():
                break
            name = f"{number}-{plain}"
        names[path] = name

    def shorten(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {names.get(key, key): shorten(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [shorten(item) for item in value]
        return names.get(value, value) if isinstance(value, str) else value

    return shorten


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield key
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value


def _is_absolute(text: str) -> bool:
    return text.startswith(("/", "~/", "file:///"))


def _shortened(schema: type[Settings], settings: Settings, shorten: Callable[[Any], Any]) -> Settings:
    return validated(schema, shorten(settings.model_dump(mode="json")), "the settings of the model")


def _write_weights(source: Path, target: Path, half: bool) -> list[Tensor]:
    """Copy a file of weights; returns those that are not counters."""
    tensors, metadata = read_tensors(source)
    if half:
        tensors = {name: _halved(name, tensor, source) for name, tensor in tensors.items()}
        save_tensors(target, tensors, metadata)
    else:
        shutil.copyfile(source, target)
    return [tensor for tensor in tensors.values() if tensor.is_floating_point()]


def _halved(name: str, tensor: Tensor, source: Path) -> Tensor:
    """A tensor in half precision; those of norms and biases, which are small and may be large in value, stay."""
    if not tensor.is_floating_point() or tensor.ndim < 2:
        return tensor
    if tensor.abs().max() > torch.finfo(torch.float16).max:
        raise ContrailError(f"{source}: {name} has values beyond half precision; share it in full precision")
    return tensor.half()


def _describe(
    calibration: Calibration, configs: Sequence[RunConfig], weights: Sequence[Tensor], pipeline: PipelineConfig | None
) -> ModelDescription:
    composite = from_dict(calibration["composite"])
    scores = calibration.get("taken_from", {}).get("scores") or calibration["holdout"]
    down, right = calibration["label_shift"]
    holdout: ModelScores | None = None
    if scores is not None:
        holdout = {
            "records": scores["records"],
            "dice": scores["dice"],
            "dice_low": scores["dice_low"],
            "dice_high": scores["dice_high"],
        }
    return {
        "kind": "run" if pipeline is None else "pipeline",
        "preset": configs[0].preset if pipeline is None else pipeline.preset,
        "composite": composite.name,
        "bands": list(composite.bands),
        "channels": composite.channel_names,
        "frames": sorted({frame for config in configs for frame in config.data.frames}),
        "size": calibration["grid"]["size"],
        "label_shift": [float(down), float(right)],
        "parameters": sum(tensor.numel() for tensor in weights),
        "precision": "float16" if any(tensor.dtype == torch.float16 for tensor in weights) else "float32",
        "stores": dict(calibration["stores"]),
        "holdout": holdout,
        "contrail": __version__,
    }
