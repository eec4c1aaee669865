"""The run directory, the unit of sharing: what a run is, on what it was trained, and what it logged."""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import torch
from torch.utils.tensorboard import SummaryWriter

from contrail_data.errors import ContrailError
from contrail_data.storage.files import make_folder, write_atomically
from contrail_train.config.schema import RunConfig
from contrail_train.config.settings import differences, read_config, to_yaml

CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
METRICS = "metrics.jsonl"
CALIBRATION = "calibration.json"
WEIGHTS = "best.safetensors"
LOCK = "lock"
PIPELINE = "pipeline.yaml"
STAGES = "stages"
"""A pipeline's folder of run directories."""


def claim(out: Path, mark: str, what: str) -> None:
    """A folder is there afterwards, one with `mark` in it or a new one. Raises ContrailError for one that holds
    something else or takes no files.
    """
    ours = (out / mark).is_file() or not out.exists()
    if not ours and (not out.is_dir() or any(path.name != LOCK for path in out.iterdir())):
        raise ContrailError(f"{out}: exists and is no {what}: choose another --out")
    make_folder(out)


def begin_run(
    out: Path, config: RunConfig, digests: Mapping[str, str], device: torch.device, command: Sequence[str], world: int
) -> None:
    """Write config and environment before the first step, or check that they are those of the run begun here.

    digests: of the stores, and of the weights it starts from or is made of. A run that ended before its first
    checkpoint, by a mistake in its settings say, is begun anew. Raises ContrailError where `out` holds anything else.
    """
    claim(out, CONFIG, "run directory")
    if finished(out) is not None or list((out / "checkpoints").glob("step-*")):
        before = read_config(out / CONFIG).model_copy(update={"device": config.device})  # it may go on elsewhere
        if differs := differences(before, config):
            raise ContrailError(
                f"{out}: holds a run with {'; '.join(differs)}: choose another --out (start={out} goes on from its "
                "weights)"
            )
        try:
            stores = json.loads((out / ENVIRONMENT).read_bytes())["stores"]
        except (OSError, ValueError, KeyError, TypeError):
            raise ContrailError(
                f"{out / ENVIRONMENT}: missing or damaged: restore it, or choose another --out"
            ) from None
        if stores != digests:
            raise ContrailError(
                f"{out}: was made of stores or runs with other digests: restore them, or choose another --out"
            )
        return
    environment = {
        "command": list(command),
        "stores": dict(digests),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "processes": world,
        "cpu_threads": torch.get_num_threads(),
        "git": git_revision(),
        "python": sys.version.split()[0],
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("contrail-kit", "torch", "timm", "segmentation-models-pytorch", "numpy", "zarr", "xarray")
        },
    }
    write_atomically(out / ENVIRONMENT, [json.dumps(environment, indent=1).encode()])
    write_atomically(out / CONFIG, [to_yaml(config).encode()])  # last: with it the directory is a run


def hold(out: Path) -> IO[str]:
    """The run directory's lock, held until the file is closed or the process ends, however it does. Raises
    ContrailError naming who has it.
    """
    file = (out / LOCK).open("a+")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        raise ContrailError(
            f"{out}: {file.read().strip() or 'another process'} is at work there: wait for it"
        ) from None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    return file


def git_revision() -> str | None:
    """Revision of the checkout this code runs from, `+` when it has changes; None outside one."""
    here = Path(__file__).parent
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+"], cwd=here, capture_output=True, text=True
        )
    except OSError:
        return None
    return told.stdout.strip() or None


class Log:
    """Scalars by step, as lines of metrics.jsonl and as TensorBoard events; does nothing on ranks but the first."""

    def __init__(self, out: Path, step: int, first: bool) -> None:
        """What a killed run logged after its last checkpoint, at `step`, is dropped: it will be logged again."""
        self.path = out / METRICS
        self.board = SummaryWriter(str(out / "tensorboard"), purge_step=step) if first else None
        if first and self.path.exists():
            lines = self.path.read_text().splitlines()
            kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
            write_atomically(self.path, ["".join(line + "\n" for line in kept).encode()])

    def __call__(self, step: int, **values: float) -> None:
        if self.board is None:
            return
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def close(self) -> None:
        if self.board is not None:
            self.board.close()


def finished(out: Path) -> dict[str, Any] | None:
    """The calibration of a finished run, else None. Raises ContrailError for a damaged one."""
    if not (out / CALIBRATION).is_file():
        return None
    try:
        return dict(json.loads((out / CALIBRATION).read_bytes()))
    except (OSError, ValueError, TypeError):
        raise ContrailError(f"{out / CALIBRATION}: damaged: remove it, and repeat the command that made it") from None
