"""The run directory, the unit of sharing: settings, environment, training log, weights and calibration.

- `config.yaml`: every setting
- `environment.json`: stores, device and versions
- `metrics.jsonl`: losses and scores by step
- `tensorboard/`: the same for TensorBoard
- `checkpoints/`: the latest ones, from which the run resumes
- `best.safetensors`: the weights
- `calibration.json`: thresholds and hold-out scores; it marks the run as finished
- `calibration-SYMMETRIES.json`: the same for averages over other symmetries, once they were used
- `lock`: held while a process works in the directory
"""

import fcntl
import importlib.metadata
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter

from contrail_data.errors import ContrailError
from contrail_data.process import command_line
from contrail_data.splits.leaks import Checked
from contrail_data.storage.files import make_folder, write_atomically
from contrail_train.config.schema import RunConfig
from contrail_train.config.settings import differences, read_config, to_yaml
from contrail_train.runs.checkpoint import checkpoints

CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
METRICS = "metrics.jsonl"
CALIBRATION = "calibration.json"
WEIGHTS = "best.safetensors"
LOCK = "lock"
PIPELINE = "pipeline.yaml"
STAGES = "stages"
"""A pipeline's folder of run directories."""


@contextmanager
def locked_directory(out: Path, marker: str, kind: str) -> Iterator[None]:
    """Create a directory or reopen the one written earlier, and keep other processes out of it meanwhile.

    The operating system releases the lock when the process ends, however it ends.

    Args:
        out: The directory.
        marker: Name of the file by which an earlier directory of this kind is recognised.
        kind: What the directory is, for messages.

    Yields:
        None.

    Raises:
        ContrailError: If `out` is something else or not writable, or another process holds the lock.
    """
    before_marker = {LOCK, ENVIRONMENT, f".{ENVIRONMENT}.partial", f".{marker}.partial"}  # all that a kill can leave
    is_ours = (out / marker).is_file() or not out.exists()
    if not is_ours and (not out.is_dir() or any(path.name not in before_marker for path in out.iterdir())):
        raise ContrailError(f"{out}: exists and is not a {kind}; choose another --out")
    make_folder(out)
    with (out / LOCK).open("a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            owner = file.read().strip() or "another process"
            raise ContrailError(f"{out}: in use by {owner}; wait until it has ended") from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def begin_run(
    out: Path,
    config: RunConfig,
    digests: Mapping[str, str],
    device: torch.device,
    *,
    places: Mapping[str, str],
    checked: Mapping[str, Checked],
    processes: int = 1,
) -> None:
    """Write settings and environment of a run, or check that they are those of the run begun in this directory.

    A run that ended before its first checkpoint, for example by a mistake in its settings, may begin with others.

    Args:
        out: Run directory, locked by this process.
        config: Settings of the run.
        digests: Digest by name of its stores and of its file of folds, and of the weights that it starts from or
            averages.
        device: Where it runs; it may resume on another one.
        places: Absolute path or URL of its stores by name, so that they are found again from elsewhere.
        checked: By store, how many records could be compared with others when records were held out.
        processes: Number of processes.

    Raises:
        ContrailError: If the directory holds a run with other settings or data.
    """
    if not (out / CALIBRATION).is_file() and not checkpoints(out):
        packages = ("contrail-kit", "torch", "timm", "segmentation-models-pytorch", "numpy", "zarr", "xarray")
        environment = {
            "command": command_line(),
            "stores": dict(digests),
            "places": dict(places),
            "checked": {name: asdict(counts) for name, counts in checked.items()},
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "processes": processes,
            "cpu_threads": torch.get_num_threads(),
            "git": _git_revision(),
            "python": sys.version.split()[0],
            "versions": {name: importlib.metadata.version(name) for name in packages},
        }
        write_json(out / ENVIRONMENT, environment)
        write_atomically(out / CONFIG, [to_yaml(config).encode()])  # written last: it makes the directory a run
        return
    begun = read_config(out / CONFIG).model_copy(update={"device": config.device})
    if differing := differences(begun, config):
        raise ContrailError(
            f"{out}: holds a run with {'; '.join(differing)}; choose another --out, with start={out} to start from its "
            "weights"
        )
    begun_in = read_environment(out)
    is_finished, by_image = (out / CALIBRATION).is_file(), any(counts.image for counts in checked.values())
    if "checked" not in begun_in and by_image and not is_finished:
        raise ContrailError(
            f"{out}: begun by a version that did not compare images, so its hold-out may leak; choose another --out"
        )
    begun_with = begun_in["stores"]
    if begun_with != {name: digests.get(name) for name in begun_with}:
        raise ContrailError(
            f"{out}: begun with stores or runs that had other digests; restore them or choose another --out"
        )


def read_environment(run: Path) -> dict[str, Any]:
    """Read what a run was made with and from.

    Args:
        run: Run directory.

    Returns:
        The content of `environment.json`; `places` is empty in runs of earlier versions.

    Raises:
        ContrailError: If the file is missing or damaged.
    """
    try:
        environment = json.loads((run / ENVIRONMENT).read_bytes())
        if isinstance(environment["stores"], dict) and isinstance(environment.get("places", {}), dict):
            return {"places": {}, **environment}
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise ContrailError(f"{run / ENVIRONMENT}: missing or damaged; restore it or choose another --out")


def _git_revision() -> str | None:
    """Revision of the checkout that holds this file, followed by `+` if it has local changes."""
    describe = ["git", "describe", "--always", "--abbrev=40", "--dirty=+"]
    try:
        result = subprocess.run(describe, cwd=Path(__file__).parent, capture_output=True, text=True)
    except OSError:
        return None
    return result.stdout.strip() or None


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically.

    Args:
        path: The file.
        value: What it holds.
    """
    write_atomically(path, [json.dumps(value, indent=1).encode()])


class MetricsLog:
    """Scalars by step, as lines of `metrics.jsonl` and as TensorBoard events.

    Args:
        out: Run directory.
        step: Step at which the run resumes: lines that a killed run logged after it are removed.
        enabled: Whether anything is written; only the first process of a run writes.
    """

    def __init__(self, out: Path, step: int, enabled: bool = True):
        self._path = out / METRICS
        self._board = SummaryWriter(str(out / "tensorboard"), purge_step=step) if enabled else None
        if enabled and self._path.exists():
            lines = self._path.read_text().splitlines()
            kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
            write_atomically(self._path, ["".join(line + "\n" for line in kept).encode()])

    def write(self, step: int, **values: float) -> None:
        """Log the scalars of one step.

        Args:
            step: Number of steps taken.
            **values: Scalars by name.
        """
        if self._board is None:
            return
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close the TensorBoard file."""
        if self._board is not None:
            self._board.close()
