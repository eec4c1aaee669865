"""A run in TensorBoard: `tensorboard/` in its directory."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from contrail_data.settings.strict import plain
from contrail_train.evaluation.metrics import curve
from contrail_train.training.logger import End, Entry

BOARD = "tensorboard"
"""The folder of events in a run directory."""
_OBJECTIVE = "holdout/dice"


class TensorBoardLogger:
    """Writes events, beginning with the settings as text and as hyper-parameters.

    Args:
        entry: The run.
    """

    def __init__(self, entry: Entry) -> None:
        board = entry.out / BOARD
        is_new = not board.exists()
        # events of the step itself were logged before its checkpoint was written
        self._writer = SummaryWriter(str(board), purge_step=None if is_new else entry.step + 1)
        if is_new:
            lines = entry.text.splitlines()
            self._writer.add_text("config", "\n".join(f"    {line}" for line in lines))  # a block of code in Markdown
            values = {key: _hyper_parameter(value) for key, value in entry.settings.items()}
            file = self._writer.file_writer
            assert file is not None
            columns, begun, _ = hparams(values, {_OBJECTIVE: 0.0})
            for summary in (columns, begun):  # the writer's own add_hparams adds a second run beside this one
                file.add_summary(summary)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write losses or scores.

        Args:
            step: Number of steps taken.
            values: Scalars by name.
        """
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def pictures(self, step: int, pictures: Mapping[str, Image.Image]) -> None:
        """Write pictures of held-out records.

        Args:
            step: Number of steps taken.
            pictures: Pictures by record.
        """
        for record, picture in pictures.items():
            self._writer.add_image(f"holdout/{record}", np.asarray(picture.convert("RGB")), step, dataformats="HWC")

    def curve(self, step: int, histogram: npt.NDArray[np.int64]) -> None:
        """Write precision and recall, which TensorBoard expects at probabilities that are even from 0 to 1.

        Args:
            step: Number of steps taken.
            histogram: Pixels of the held-out records by probability.
        """
        even = curve(histogram, np.linspace(0, 1, 101))
        counts = (even.tp, even.fp, even.tn, even.fn, even.precision, even.recall)
        self._writer.add_pr_curve_raw("holdout/pr", *counts, step, len(even.threshold))

    def scores(self, values: Mapping[str, float]) -> None:
        """Write the scores of the finished run.

        Args:
            values: Scores by name.
        """
        self.scalars(0, values)

    def close(self, end: End) -> None:
        """Close the file of events.

        Args:
            end: How the process ends; TensorBoard has no place for it.
        """
        self._writer.close()


def _hyper_parameter(value: object) -> object:
    """A value as TensorBoard takes it: numbers and truth values as they are, everything else as text."""
    return value if isinstance(value, int | float | str) else plain(value)
