"""A run in Weights & Biases, online or in `wandb/` of its directory; the package is the extra `wandb`."""

import uuid
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import wandb
from PIL import Image

from contrail_data.errors import ContrailError
from contrail_train.config.loggers import WandbConfig
from contrail_train.evaluation.metrics import curve
from contrail_train.training.logger import THRESHOLDS, End, Entry


class WandbLogger:
    """Begins a run in Weights & Biases, or continues it.

    Neither the command line nor what it prints is uploaded, as they may hold secrets.

    Args:
        entry: The run.
        config: Settings of the logger.

    Raises:
        ContrailError: If the run cannot begin, for lack of a key for example.
    """

    def __init__(self, entry: Entry, config: WandbConfig) -> None:
        key = entry.remembered.get("id") or uuid.uuid4().hex[:12]
        entry.remember({"id": key, "project": config.project})
        try:
            self._run = wandb.init(
                dir=entry.out,
                id=key,
                resume=None if config.offline else "allow",
                reinit="create_new",
                name=entry.out.resolve().name,
                project=config.project,
                entity=config.entity,
                mode="offline" if config.offline else "online",
                config=dict(entry.settings),
                allow_val_change=True,
                settings=wandb.Settings(
                    console="off",
                    disable_code=True,
                    disable_git=True,
                    save_code=False,
                    x_disable_meta=True,
                    silent=True,
                ),
            )
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise ContrailError(
                f"loggers.wandb: cannot begin ({reason}); run `wandb login`, or set loggers.wandb.offline=true"
            ) from None
        self._seen = self._run.starting_step
        """Steps that Weights & Biases already has, when a run resumes from a checkpoint before them."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log losses or scores.

        Args:
            step: Number of steps taken.
            values: Scalars by name.
        """
        self._log(step, dict(values))

    def pictures(self, step: int, pictures: Mapping[str, Image.Image]) -> None:
        """Log pictures of held-out records.

        Args:
            step: Number of steps taken.
            pictures: Pictures by record.
        """
        if pictures:
            self._log(step, {"holdout/records": [wandb.Image(picture, caption=r) for r, picture in pictures.items()]})

    def curve(self, step: int, histogram: npt.NDArray[np.int64]) -> None:
        """Log precision and recall as a chart.

        Args:
            step: Number of steps taken.
            histogram: Pixels of the held-out records by probability.
        """
        counts = curve(histogram, THRESHOLDS)
        rows = np.stack([counts.threshold, counts.recall, counts.precision], axis=1).tolist()
        table = wandb.Table(columns=["threshold", "recall", "precision"], data=rows)
        self._log(step, {"holdout/pr": wandb.plot.line(table, "recall", "precision", title="Precision and recall")})

    def scores(self, values: Mapping[str, float]) -> None:
        """Log the scores of the finished run.

        Args:
            values: Scores by name.
        """
        self._run.summary.update(dict(values))

    def close(self, end: End) -> None:
        """End the run, or what this process has of it.

        Args:
            end: How the process ends.
        """
        self._run.finish(exit_code=0 if end == End.FINISHED else 1)

    def _log(self, step: int, values: dict[str, object]) -> None:
        if step >= self._seen:
            self._run.log(values, step=step)
