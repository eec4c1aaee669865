"""A run on an MLflow tracking server; the package is the extra `mlflow`, of which `mlflow-skinny` suffices."""

import os
import time
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from PIL import Image

from contrail_data.errors import ContrailError
from contrail_data.settings.strict import plain
from contrail_train.config.loggers import MlflowConfig
from contrail_train.evaluation.metrics import curve
from contrail_train.training.logger import THRESHOLDS, End, Entry

_ENVIRONMENT = {  # a run does not wait for minutes for a server that has gone
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_STATUS = {End.FINISHED: "FINISHED", End.STOPPED: "KILLED", End.FAILED: "FAILED"}
_MOST_PARAMETERS, _LONGEST = 100, 500  # of a request, and characters of a value


class MlflowLogger:
    """Begins a run on a server, or continues it.

    Args:
        entry: The run.
        config: Settings of the logger.

    Raises:
        ContrailError: If the server cannot be used.
    """

    def __init__(self, entry: Entry, config: MlflowConfig) -> None:
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        try:
            self._client = MlflowClient(config.uri)
            self._begin(entry, config)
        except Exception as error:
            uri = config.uri or "the server of MLFLOW_TRACKING_URI"  # whose value may hold a password
            reason = " ".join(str(error).split())[:200]
            raise ContrailError(
                f"loggers.mlflow: cannot use {uri} ({reason}); start the server or correct loggers.mlflow.uri, or set "
                "loggers.mlflow=null"
            ) from None

    def _begin(self, entry: Entry, config: MlflowConfig) -> None:
        client, address = self._client, config.uri or ""
        if entry.remembered.get("uri") == address and entry.remembered.get("experiment") == config.experiment:
            self._run = entry.remembered["run"]
            client.update_run(self._run, status="RUNNING")
            return
        experiment = client.get_experiment_by_name(config.experiment)
        number = experiment.experiment_id if experiment else client.create_experiment(config.experiment)
        self._run = client.create_run(number, run_name=entry.out.resolve().name).info.run_id
        entry.remember({"run": self._run, "uri": address, "experiment": config.experiment})
        parameters = [Param(key, plain(value)[:_LONGEST]) for key, value in entry.settings.items()]
        for start in range(0, len(parameters), _MOST_PARAMETERS):
            client.log_batch(self._run, params=parameters[start : start + _MOST_PARAMETERS])
        client.log_text(self._run, entry.text, "config.yaml")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log losses or scores.

        Args:
            step: Number of steps taken.
            values: Scalars by name.
        """
        now = int(1000 * time.time())
        self._client.log_batch(self._run, [Metric(name, value, now, step) for name, value in values.items()])

    def pictures(self, step: int, pictures: Mapping[str, Image.Image]) -> None:
        """Upload pictures of held-out records.

        Args:
            step: Number of steps taken.
            pictures: Pictures by record.
        """
        for record, picture in pictures.items():
            self._client.log_image(self._run, picture.convert("RGB"), f"holdout/{record}/step-{step:08d}.png")

    def curve(self, step: int, histogram: npt.NDArray[np.int64]) -> None:
        """Upload a chart of precision and recall.

        Args:
            step: Number of steps taken.
            histogram: Pixels of the held-out records by probability.
        """
        counts = curve(histogram, THRESHOLDS)
        axes = (figure := Figure(figsize=(5, 4), layout="constrained")).add_subplot()
        axes.plot(counts.recall, counts.precision)
        axes.set(xlabel="recall", ylabel="precision", title=f"held-out records, step {step}", xlim=(0, 1), ylim=(0, 1))
        self._client.log_figure(self._run, figure, f"holdout/pr/step-{step:08d}.png")

    def scores(self, values: Mapping[str, float]) -> None:
        """Log the scores of the finished run.

        Args:
            values: Scores by name.
        """
        self.scalars(0, values)

    def close(self, end: End) -> None:
        """End the run, or what this process has of it.

        Args:
            end: How the process ends.
        """
        self._client.set_terminated(self._run, _STATUS[end])
