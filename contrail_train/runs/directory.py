"""The run directory, the unit of sharing: settings, environment, training log, weights and calibration.

- `config.yaml`: every setting
- `environment.json`: stores, device and versions
- `metrics.jsonl`: losses and scores by step
- `tensorboard/`, `wandb/`: the same for TensorBoard and Weights & Biases, if `loggers` names them
- `loggers.json`: identifiers by which a resumed run finds its entries in loggers
- `checkpoints/`: the latest ones, from which the run resumes
- `best.safetensors`: the weights
- `raft.safetensors`: the weights of RAFT, if the network needs optical flow by it
- `calibration.json`: thresholds and hold-out scores; it marks the run as finished
- `calibration-SYMMETRIES.json`: the same for averages over other symmetries, once they were used
- `lock`: held while a process works in the directory
"""

import importlib.metadata
import json
import math
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NotRequired

import torch
from typing_extensions import TypedDict  # pydantic does not take that of Python 3.11

from contrail_data.errors import ContrailError
from contrail_data.messages import Kind
from contrail_data.process import command_line
from contrail_data.splits.leaks import Checked
from contrail_data.storage.files import open_regular, write_atomically
from contrail_train.config.schema import RunConfig
from contrail_train.config.settings import to_yaml
from contrail_train.runs.begun import check_settings, is_begun
from contrail_train.runs.distributed import ALONE, Ranks
from contrail_train.runs.names import CALIBRATION, CONFIG, ENVIRONMENT, METRICS
from contrail_train.runs.sealed import read_json, write_json


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
        places: Absolute path or URL of its stores and of other models by name, so that they are found again from
            elsewhere.
        checked: By store, how many records could be compared with others when records were held out.
        processes: Number of processes.

    Raises:
        ContrailError: If the directory holds a run with other settings or data.
    """
    if not is_begun(out):
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
    check_settings(out, config)
    is_finished, by_image = (out / CALIBRATION).is_file(), any(counts.image for counts in checked.values())
    begun_in = read_environment(out)
    if "checked" not in begun_in and by_image and not is_finished:
        raise ContrailError(
            f"{out}: begun by a version that did not compare images, so its hold-out may leak; choose another --out"
        )
    begun_with = begun_in["stores"]
    if changed := [name for name, digest in begun_with.items() if digests.get(name) != digest]:
        raise ContrailError(
            f"{out}: begun with {', '.join(changed)} of another digest; restore what the run was begun with, or choose "
            "another --out"
        )


class Environment(TypedDict):
    """The part of `environment.json` that is read back."""

    stores: dict[str, str]
    """Digest by name, as for `begin_run`."""
    places: NotRequired[dict[str, str]]
    """Place of stores and other models by name; missing in runs of earlier versions."""
    checked: NotRequired[dict[str, Any]]


def read_environment(run: Path) -> Environment:
    """Read what a run was made with and from.

    Args:
        run: Run directory.

    Returns:
        What is read back of `environment.json`.
    """
    return read_json(run / ENVIRONMENT, Environment, "restore it or choose another --out")


def _git_revision() -> str | None:
    """Revision of the checkout that holds this file, followed by `+` if it has local changes."""
    describe = ["git", "describe", "--always", "--abbrev=40", "--dirty=+"]
    try:
        result = subprocess.run(describe, cwd=Path(__file__).parent, capture_output=True, text=True)
    except OSError:
        return None
    return result.stdout.strip() or None


class MetricsLog:
    """Scalars by step, as lines of `metrics.jsonl`.

    Args:
        out: Run directory.
        step: Step at which the run resumes: lines that a killed run logged after it are removed.
        ranks: The processes of the run, of which only the first writes.
    """

    def __init__(self, out: Path, step: int, ranks: Ranks = ALONE):
        self._path, self._writes = out / METRICS, ranks.first
        if ranks.first and self._path.exists():
            kept = []
            with open_regular(self._path) as file:
                lines = file.read().decode(errors="replace").splitlines()
            for number, line in enumerate(lines, 1):
                try:
                    kept += [line] if json.loads(line)["step"] <= step else []
                except (ValueError, TypeError, KeyError):
                    ranks.say(f"{self._path}: line {number} is damaged; it is left out", Kind.WARNING)
            write_atomically(self._path, ["".join(line + "\n" for line in kept).encode()])

    def write(self, step: int, **values: float | None) -> dict[str, float]:
        """Log the scalars of one step.

        Args:
            step: Number of steps taken.
            **values: Scalars by name; those that are None or not finite are left out.

        Returns:
            The scalars that were written.
        """
        finite = {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
        if not self._writes or not finite:
            return {}
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **finite}) + "\n")
        return finite
