"""Checkpoints: one safetensors file holds model, weight average and optimiser; written whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from contrail_data.errors import ContrailError
from contrail_data.storage.files import write_atomically

KEEP = 2


def save_checkpoint(
    folder: Path,
    step: int,
    model: nn.Module,
    average: nn.Module,
    optimiser: torch.optim.Optimizer,
    facts: dict[str, Any],
) -> None:
    """Write `step-NNNNNNNN.safetensors` and drop all but the last two."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.state_dict().items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{k}": v for k, v in state.items()}
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / f"step-{step:08d}.safetensors", tensors, {**facts, "step": step})
    for old in sorted(folder.glob("step-*.safetensors"))[:-KEEP]:
        old.unlink()


def load_checkpoint(
    folder: Path, model: nn.Module, average: nn.Module, optimiser: torch.optim.Optimizer
) -> dict[str, Any] | None:
    """Restore the newest readable checkpoint; returns its facts, None where there is none."""
    for path in sorted(folder.glob("step-*.safetensors"), reverse=True):
        try:
            tensors, facts = read_tensors(path)
        except ContrailError:
            continue  # the one before is kept for just this
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimiser": {}}
        for key, value in tensors.items():
            part, name = key.split(".", 1)
            parts[part][name] = value
        model.load_state_dict(parts["model"])
        average.load_state_dict(parts["average"])
        state = optimiser.state_dict()
        state["state"] = {}
        for key, value in parts["optimiser"].items():
            index, name = key.split(".", 1)
            state["state"].setdefault(int(index), {})[name] = value
        optimiser.load_state_dict(state)
        return facts
    return None


def save_weights(path: Path, model: nn.Module, facts: dict[str, Any]) -> None:
    """The weights alone: what prediction needs."""
    _write(path, model.state_dict(), facts)


def load_weights(path: Path, model: nn.Module) -> dict[str, Any]:
    """Restore `save_weights`; returns its facts. Raises ContrailError for a file that is missing, cut or foreign."""
    tensors, facts = read_tensors(path)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ContrailError(
            f"{path}: does not fit the model of its config ({str(error).splitlines()[-1].strip()})"
        ) from None
    return facts


def save_mean(path: Path, sources: Sequence[Path], facts: dict[str, Any]) -> None:
    """The mean of the weights in `sources`, tensor by tensor; counters are those of the first."""
    first, *others = (read_tensors(source)[0] for source in sources)
    for key, tensor in first.items():
        if tensor.is_floating_point() and others:
            mean = torch.stack([tensor, *(other[key] for other in others)]).double().mean(0)
            first[key] = mean.to(tensor.dtype)
    _write(path, first, facts)


def save_batch(path: Path, tensors: dict[str, Tensor | None], facts: dict[str, Any]) -> None:
    """Any named tensors, to be looked at."""
    _write(path, {key: value for key, value in tensors.items() if value is not None}, facts)


def file_digest(path: Path) -> str:
    """sha256 of a file, to name a model by."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    plain = {k: v.detach().to("cpu").contiguous() for k, v in tensors.items()}
    write_atomically(path, [save(plain, {"facts": json.dumps(facts)})])


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of any of our files. Raises ContrailError for one that is missing, cut or foreign."""
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {})["facts"])
            return {key: file.get_tensor(key) for key in file.keys()}, facts  # noqa: SIM118 - no mapping
    except FileNotFoundError:
        raise ContrailError(f"{path}: missing: train the run to its end first") from None
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ContrailError(f"{path}: not a whole checkpoint ({str(error)[:100]}): restore it or train again") from None
