"""Training from Python: what `contrail-train run` does, without printing results."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contrail_data.settings.parse import as_plain
from contrail_train.config.presets import get_config
from contrail_train.config.schema import RunConfig
from contrail_train.config.settings import values_by_key, with_values
from contrail_train.runs.calibration import ScoreValues
from contrail_train.training.fit import fit


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """A finished run."""

    path: Path
    """The run directory, for `load_predictor` and every command that takes a model."""
    threshold: float
    """Probability from which on a pixel belongs to a contrail."""
    gate: float
    """Records with a lower score get an empty mask; 0 if there is no gate."""
    holdout: ScoreValues | None
    """Scores of the held-out records, such as `dice`, each at a threshold fitted on others of them. None if no held-out
    record has a contrail."""


def train(
    config: str | Path | RunConfig, out: str | Path, *, checkpoint_minutes: float = 5.0, **settings: Any
) -> TrainedRun:
    """Train a model into a run directory. An interrupted run is resumed by the same call, and a finished one is kept.

    Args:
        config: Name of a preset, a .yaml file with settings, or the settings.
        out: Run directory.
        checkpoint_minutes: Time between checkpoints within an epoch; there is one at the end of each epoch too.
        **settings: Settings that differ from those of `config`; a group of settings is a dictionary of those that
            differ, such as `data={"train": "data/train.zarr"}`.

    Returns:
        The run directory with threshold, gate and scores.

    Raises:
        ContrailError: If a setting is not valid, the data does not fit, or `out` holds something else.

    Examples:
        >>> import contrail_train
        >>> data = {"train": "data/train.zarr", "holdout": 0.3}
        >>> model = {"encoder": "test_resnet", "decoder": {"channels": [8, 8, 8, 8, 8]}}
        >>> run = contrail_train.train("unet2d", "runs/small", epochs=1, data=data, model=model)
        >>> run.path.name, 0 <= run.holdout["dice"] <= 1
        ('small', True)
    """
    start = config if isinstance(config, RunConfig) else get_config(str(config))
    values = values_by_key(as_plain(settings))
    where = start.preset if isinstance(config, RunConfig) else str(config)
    calibration = fit(with_values(start, values.items(), where), Path(out), checkpoint_minutes)
    assert calibration is not None  # as nothing stops the run before its end
    return TrainedRun(
        path=Path(out),
        threshold=calibration["threshold"],
        gate=calibration["gate"],
        holdout=calibration["holdout"],
    )
