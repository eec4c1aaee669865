"""Where a run is followed while it trains: `metrics.jsonl`, and the loggers that its settings name.

A logger takes what an epoch or a step has to show. One that fails while the run trains is reported and left out; the
run goes on, and its metrics.jsonl is complete.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import numpy as np
import numpy.typing as npt
import yaml
from PIL import Image

from contrail_data.errors import ContrailError
from contrail_data.messages import Kind
from contrail_data.process import unhide
from contrail_data.storage.files import write_atomically
from contrail_train.config.loggers import LoggersConfig
from contrail_train.config.schema import RunConfig
from contrail_train.config.settings import values_by_key
from contrail_train.runs.directory import MetricsLog
from contrail_train.runs.distributed import Ranks
from contrail_train.training.logger import End, Entry, Logger
from contrail_train.training.tensorboard_logger import TensorBoardLogger

ENTRIES = "loggers.json"
"""Which entry of each logger belongs to a run, so that a resumed run continues it."""
EXTRAS = {"wandb": "wandb", "mlflow": "mlflow"}
"""Packages by extra, and the setting within `loggers`, of the same name."""


class RunLog:
    """All that follows a run.

    Args:
        metrics: The file that is always written.
        loggers: By the name of the setting.
        ranks: The processes of the run, of which only the first has loggers.
    """

    def __init__(self, metrics: MetricsLog, loggers: Mapping[str, Logger], ranks: Ranks) -> None:
        self._metrics, self._loggers, self._ranks = metrics, dict(loggers), ranks
        self.shows = bool(loggers)
        """Whether curves and pictures are shown anywhere."""

    def write(self, step: int, **values: float | None) -> None:
        """Log the scalars of one step or epoch.

        Args:
            step: Number of steps taken.
            **values: Scalars by name; those that are None or not finite are left out.
        """
        finite = self._metrics.write(step, **values)
        self._each(lambda logger: logger.scalars(step, {tag_of(name): value for name, value in finite.items()}))

    def show(self, step: int, histogram: npt.NDArray[np.int64], pictures: Mapping[str, Image.Image]) -> None:
        """Show an epoch's predictions for the held-out records.

        Args:
            step: Number of steps taken.
            histogram: Their pixels without and with a label by probability, (2, CODES).
            pictures: Some of them by record.
        """
        if histogram[1].any():
            self._each(lambda logger: logger.curve(step, histogram))
        self._each(lambda logger: logger.pictures(step, pictures))

    def finish(self, scores: Mapping[str, Any]) -> None:
        """Log the scores of the finished run.

        Args:
            scores: Scores by name; those that are not numbers are left out.
        """
        values = {f"final/{name}": float(value) for name, value in scores.items() if isinstance(value, float | int)}
        self._each(lambda logger: logger.scores(values))

    def close(self, end: End) -> None:
        """Close all loggers.

        Args:
            end: How the process ends.
        """
        self._each(lambda logger: logger.close(end))

    def _each(self, act: Callable[[Logger], None]) -> None:
        for name, logger in list(self._loggers.items()):
            try:
                act(logger)
            except Exception as error:  # of a package or a server that is not ours
                del self._loggers[name]
                reason = " ".join(str(error).split())[:200] or type(error).__name__
                self._ranks.say(
                    f"loggers.{name}: failed, and is left out from now on ({reason}); metrics.jsonl has all "
                    "values, and the same command continues the entry if it resumes the run",
                    Kind.WARNING,
                )


def tag_of(name: str) -> str:
    """Return the name under which loggers show a scalar, in a section for training and one for the hold-out.

    Args:
        name: Name in metrics.jsonl.

    Returns:
        Such as `holdout/dice`.
    """
    return f"holdout/{name.removeprefix('holdout_')}" if name.startswith("holdout_") else f"train/{name}"


def check_loggers(config: LoggersConfig) -> None:
    """Check that the packages of the loggers are installed and their servers named, before a run begins.

    Args:
        config: The settings.

    Raises:
        ContrailError: If one is missing.
    """
    if config.mlflow is not None and config.mlflow.uri is None and not os.environ.get("MLFLOW_TRACKING_URI"):
        raise ContrailError("loggers.mlflow.uri: null, and MLFLOW_TRACKING_URI is not set; give the server's address")
    for extra, package in EXTRAS.items():
        if getattr(config, extra) is None:
            continue
        unhide(package)
        if find_spec(package) is None:
            raise ContrailError(
                f"loggers.{extra}: {package} is not installed; run \"pip install '.[{extra}]'\" in the checkout of "
                f"contrail, or set loggers.{extra}=null"
            )


@contextmanager
def follow(out: Path, config: RunConfig, step: int, ranks: Ranks) -> Iterator[RunLog]:
    """Begin to follow a run, or continue.

    Args:
        out: Run directory.
        config: Settings of the run.
        step: Step at which it resumes; 0 for a new one.
        ranks: The processes of the run.

    Yields:
        Where it is logged.
    """
    log = RunLog(MetricsLog(out, step, ranks), _open(out, config, step) if ranks.first else {}, ranks)
    end = End.FINISHED
    try:
        yield log
    except BaseException as error:
        end = End.STOPPED if isinstance(error, KeyboardInterrupt | SystemExit) else End.FAILED
        raise
    finally:
        log.close(end)


def _open(out: Path, config: RunConfig, step: int) -> dict[str, Logger]:
    """Open the loggers of a run by the names of their settings."""
    path, loggers = out / ENTRIES, dict[str, Logger]()
    entries: dict[str, dict[str, str]] = json.loads(path.read_text()) if path.is_file() else {}
    tree = without_secrets(config.model_dump(mode="json"))
    settings, text = values_by_key(tree), yaml.safe_dump(tree, sort_keys=False)

    def entry(name: str) -> Entry:
        def remember(values: Mapping[str, str]) -> None:
            entries[name] = dict(values)
            write_atomically(path, [json.dumps(entries, indent=1).encode()])

        own = entries.get(name, {})
        return Entry(out=out, settings=settings, text=text, step=step, remembered=own, remember=remember)

    if config.loggers.tensorboard:
        loggers["tensorboard"] = TensorBoardLogger(entry("tensorboard"))
    if config.loggers.wandb is not None:
        from contrail_train.training.wandb_logger import WandbLogger

        loggers["wandb"] = WandbLogger(entry("wandb"), config.loggers.wandb)
    if config.loggers.mlflow is not None:
        from contrail_train.training.mlflow_logger import MlflowLogger

        loggers["mlflow"] = MlflowLogger(entry("mlflow"), config.loggers.mlflow)
    return loggers


def without_secrets(value: Any) -> Any:
    """Remove from addresses what may be a secret: user name and password, and the query, which may hold a signature.

    Args:
        value: Plain data.

    Returns:
        The same with such addresses shortened.
    """
    if isinstance(value, Mapping):
        return {key: without_secrets(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [without_secrets(entry) for entry in value]
    if isinstance(value, str) and "://" in value:
        parts = urlsplit(value)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    return value
