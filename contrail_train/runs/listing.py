"""The runs in a folder: their settings, scores and state, without opening a store or importing torch."""

import fcntl
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from contrail_data.errors import ContrailError
from contrail_data.storage.documents import read_text
from contrail_train.config.presets import get_config
from contrail_train.config.schema import RunConfig
from contrail_train.config.settings import read_config, values_by_key
from contrail_train.runs.names import CALIBRATION, CHECKPOINTS, CONFIG, ENVIRONMENT, LOCK, METRICS

_FLOCK = "hhqqi"  # struct flock of Linux: type, whence, start, length, process
_LOG_BYTES = 1 << 28


class State(StrEnum):
    """How far a run is."""

    FINISHED = "finished"
    RUNNING = "running"
    STOPPED = "stopped"
    """Its command resumes it from a checkpoint."""
    BEGUN = "begun"
    """No process works on it, and it has no checkpoint yet."""


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """The summary of a run from the files in its directory."""

    path: Path
    config: RunConfig
    state: State
    environment: Mapping[str, Any]
    epochs: Sequence[Mapping[str, float]]
    """Scores and losses by epoch, as in metrics.jsonl: `step`, `holdout_dice`, ...; missing values are left out."""
    scores: Mapping[str, Any]
    """Scores of the held-out records at the end; empty before that, and without contrails among them."""

    @property
    def best(self) -> Mapping[str, float]:
        """The epoch with the highest hold-out Dice; empty if there is none."""
        return max(self.epochs, key=lambda epoch: epoch.get("holdout_dice", -1.0), default={})

    @property
    def dice(self) -> float | None:
        """Dice of the finished run, or of its best epoch so far."""
        return self.scores.get("dice", self.best.get("holdout_dice"))


def find_runs(folder: Path) -> tuple[list[RunSummary], list[str]]:
    """Summarise the runs in a folder.

    Args:
        folder: A folder, below which run directories may lie at any depth, such as the stages of a pipeline.

    Returns:
        The runs by path, and a line for each directory of a run that cannot be read.

    Raises:
        ContrailError: If there is no such folder.
    """
    if not folder.is_dir():
        raise ContrailError(f"{folder}: not a folder; name one that holds runs")
    runs, problems = [], []
    for file in sorted(folder.rglob(CONFIG)):
        if not (file.parent / ENVIRONMENT).is_file():  # someone else's config.yaml
            continue
        try:
            runs.append(summarise(file.parent))
        except ContrailError as error:
            problems.append(str(error))
    return runs, problems


def summarise(run: Path) -> RunSummary:
    """Summarise a run.

    Args:
        run: Its directory.

    Returns:
        The summary.

    Raises:
        ContrailError: If it is not a run directory, or a file in it cannot be read.
    """
    if not run.exists():
        raise ContrailError(f"{run}: no such run directory; name the --out of contrail-train run")
    if not (run / CONFIG).is_file():
        raise ContrailError(f"{run}: not a run directory (it has no {CONFIG}); name the --out of contrail-train run")
    calibration = _read_json(run / CALIBRATION) if (run / CALIBRATION).is_file() else None
    if calibration is not None:
        state = State.FINISHED
    elif _is_locked(run / LOCK):
        state = State.RUNNING
    else:
        state = State.STOPPED if any((run / CHECKPOINTS).glob("*")) else State.BEGUN
    return RunSummary(
        path=run,
        config=read_config(run / CONFIG),
        state=state,
        environment=_read_json(run / ENVIRONMENT),
        epochs=read_epochs(run),
        scores=(calibration or {}).get("holdout") or {},
    )


def read_epochs(run: Path) -> list[dict[str, float]]:
    """Read what a run logged at the end of each epoch.

    Args:
        run: Its directory.

    Returns:
        Scores and losses by epoch, as in metrics.jsonl, without those that a running process has not finished yet;
        empty if there is no such file.

    Raises:
        ContrailError: If the file cannot be read.
    """
    metrics, epochs = run / METRICS, []
    for line in read_text(metrics, _LOG_BYTES).splitlines() if metrics.is_file() else ():
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if isinstance(values, dict) and {"epoch", "holdout_dice"} & values.keys():  # the latter of earlier versions
            epochs.append(values)
    return epochs


def settings_that_differ(runs: Sequence[RunSummary]) -> list[dict[str, Any]]:
    """Find the settings in which runs differ from one another.

    Args:
        runs: The runs.

    Returns:
        Values by dotted key for each run, without keys that have the same value in all.
    """
    left_out = {"format", "preset", "loggers"}
    values = [values_by_key(run.config.model_dump(mode="json", exclude=left_out)) for run in runs]
    keys = dict.fromkeys(key for own in values for key in own)
    differing = [key for key in keys if any(own.get(key) != values[0].get(key) for own in values)]
    return [{key: own[key] for key in differing if key in own} for own in values]


def changed_settings(run: RunSummary) -> dict[str, Any]:
    """Find the settings of a run that are not those of its preset.

    Args:
        run: The run.

    Returns:
        Values by dotted key. Those that differ from the defaults if the preset is not known, such as that of a file
        that lies elsewhere.
    """
    try:
        preset = get_config(run.config.preset)
    except ContrailError:
        preset = RunConfig()
    theirs, own = (values_by_key(config.model_dump(mode="json")) for config in (preset, run.config))
    return {key: value for key, value in own.items() if key != "preset" and theirs.get(key) != value}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(read_text(path, _LOG_BYTES))
        if isinstance(document, dict):
            return document
        reason = "not an object"
    except ValueError as error:
        reason = str(error)[:100]
    raise ContrailError(f"{path}: damaged ({reason}); restore it, or train again")


def _is_locked(path: Path) -> bool:
    """Whether a process holds a lock on a file; asking takes none, so no run is disturbed."""
    try:
        with path.open("rb") as file:
            answer = fcntl.fcntl(file, fcntl.F_GETLK, struct.pack(_FLOCK, fcntl.F_RDLCK, 0, 0, 0, 0))
    except OSError:
        return False
    return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)
