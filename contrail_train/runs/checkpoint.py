"""Weights and checkpoints as safetensors files, each written atomically and verified when it is read."""

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from contrail_data.errors import ContrailError
from contrail_data.storage.files import open_regular, remove_partial_files, reported_errors, write_atomically
from contrail_train.runs.begun import checkpoints
from contrail_train.runs.names import CHECKPOINTS

KEEP = 2
"""How many checkpoints are kept."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What training changes in place, and a checkpoint holds."""

    model: nn.Module
    average: nn.Module
    """Moving average of the model's weights."""
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    """Scales the loss; it has a state only if it is enabled."""


@dataclass
class TrainingState:
    """What changes from step to step, apart from tensors."""

    micro_batch: int
    """Samples that pass through the model at once."""
    step: int = 0
    """Optimiser steps taken so far."""
    best: Sequence[tuple[float, int]] = ()
    """(hold-out Dice, step) of the best epochs so far, the best first."""
    gained: int = 0
    """Step at which the hold-out Dice last rose above that of all epochs before."""
    unscored: bool = False
    """Whether an epoch ends at this step that has not been scored yet."""
    seconds: float = 0.0
    """Time spent on these steps, by all processes that trained one after the other."""
    scaler: Mapping[str, Any] = field(default_factory=dict)
    """State of the scaler of the loss as of the latest checkpoint; empty unless the run computes in fp16."""

    def __post_init__(self) -> None:
        self._start = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds spent on these steps up to now."""
        return time.monotonic() - self._start

    def save(self, out: Path, trained: Trained) -> None:
        """Write a checkpoint and delete all but the latest ones.

        Args:
            out: Run directory.
            trained: What it holds.
        """
        self.seconds = self.elapsed
        self.scaler = trained.scaler.state_dict()
        tensors = {f"model.{key}": value for key, value in trained.model.state_dict().items()}
        tensors |= {f"average.{key}": value for key, value in trained.average.state_dict().items()}
        for index, values in trained.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{key}": value for key, value in values.items()}
        (out / CHECKPOINTS).mkdir(exist_ok=True)
        save_tensors(out / CHECKPOINTS / f"step-{self.step:08d}.safetensors", tensors, asdict(self))
        remove_partial_files(out / CHECKPOINTS)
        for old in checkpoints(out)[:-KEEP]:
            old.unlink()

    def load(self, out: Path, trained: Trained, warn: Callable[[str], None]) -> bool:
        """Restore the latest readable checkpoint.

        Args:
            out: Run directory.
            trained: Receives what the checkpoint holds.
            warn: Reports checkpoints that are passed over.

        Returns:
            Whether there was one.
        """
        for path in reversed(checkpoints(out)):
            try:
                tensors, metadata = read_tensors(path)
            except ContrailError as error:
                warn(f"checkpoint passed over: {error}")  # this is why more than one is kept
                continue
            trained.model.load_state_dict(_part(tensors, "model."))
            trained.average.load_state_dict(_part(tensors, "average."))
            moments: dict[int, dict[str, Tensor]] = defaultdict(dict)
            for key, value in _part(tensors, "optimiser.").items():
                index, name = key.split(".", 1)
                moments[int(index)][name] = value
            trained.optimiser.load_state_dict(trained.optimiser.state_dict() | {"state": moments})
            if scaler := metadata.get("scaler"):
                trained.scaler.load_state_dict(scaler)
            self.micro_batch, self.step = metadata["micro_batch"], metadata["step"]
            self.best = [(dice, step) for dice, step in metadata["best"]]
            self.unscored, self.seconds = metadata.get("unscored", False), metadata.get("seconds", 0.0)
            self.gained = metadata.get("gained", 0)
            self._start -= self.seconds
            return True
        return False


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def load_weights(path: Path, model: nn.Module) -> None:
    """Load the weights of a run into its model.

    Args:
        path: A file of weights, such as `best.safetensors` of a run.
        model: Receives the weights.

    Raises:
        ContrailError: If the file is missing, damaged or of another model.
    """
    try:
        model.load_state_dict(read_tensors(path)[0])
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ContrailError(f"{path}: does not fit the model in its config ({reason}); restore the file") from None


def save_mean(path: Path, sources: Sequence[Path], metadata: Mapping[str, Any]) -> None:
    """Write the mean of several files of weights; counters are taken from the first.

    Args:
        path: File to write.
        sources: Files of weights of one model.
        metadata: What to store with it, as JSON.
    """
    first, *others = (read_tensors(source)[0] for source in sources)
    for key, tensor in first.items():
        if tensor.is_floating_point() and others:
            mean = torch.stack([tensor, *(other[key] for other in others)]).double().mean(0)
            first[key] = mean.to(tensor.dtype)
    save_tensors(path, first, metadata)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write named tensors and metadata into one file.

    Args:
        path: File to write.
        tensors: Tensors on any device, by name.
        metadata: What to store with them, as JSON.
    """
    plain = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    header = json.dumps({**metadata, "checksum": _checksum(plain, metadata)})
    write_atomically(path, [save(plain, {"facts": header})])  # one key, since safetensors writes several in any order


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> str:
    checksum = xxhash.xxh3_128(json.dumps(metadata).encode())
    for name, tensor in sorted(tensors.items()):
        checksum.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        checksum.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return checksum.hexdigest()


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a file that `save_tensors` wrote.

    Args:
        path: The file.

    Returns:
        Tensors on the CPU by name, and the metadata.

    Raises:
        ContrailError: If the file is missing, damaged, or was not written by `save_tensors`.
    """
    try:
        open_regular(path).close()
        with safe_open(path, "pt") as file:
            metadata = json.loads((file.metadata() or {})["facts"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        if metadata.pop("checksum", None) in (None, _checksum(tensors, metadata)):  # None in files of earlier versions
            return tensors, metadata
        reason = "its content is not what was written"
    except FileNotFoundError:
        raise ContrailError(f"{path}: missing; train the run to its end first") from None
    except PermissionError as error:
        raise ContrailError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        reason = str(error)[:100]
    raise ContrailError(f"{path}: damaged ({reason}); restore it or train again")


def file_digest(path: Path) -> str:
    """Return the digest by which a file of weights is identified.

    Args:
        path: The file.

    Returns:
        `sha256:` and the hexadecimal digest.
    """
    with reported_errors(str(path), "read"), open_regular(path) as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
