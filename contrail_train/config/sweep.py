"""The schema of a sweep: which settings of a run are searched, and how."""

from pathlib import Path
from typing import Any

from pydantic import Field

from contrail_data.errors import ContrailError
from contrail_data.settings.fields import setting_fields
from contrail_data.settings.parse import validated
from contrail_data.settings.strict import Strict
from contrail_data.storage.documents import read_document
from contrail_train.config.presets import get_config
from contrail_train.config.schema import RunConfig
from contrail_train.config.settings import with_values


class Range(Strict):
    """Numbers from `low` to `high`, both included: whole ones if both are."""

    low: int | float
    high: int | float
    log: bool = False
    """Search evenly in the logarithm."""
    step: int | float | None = None
    """Only multiples of this above `low`. null: any number, or any whole one."""

    def _check_combination(self) -> None:
        if self.low >= self.high:
            raise ValueError(f"low={self.low}: must be below high={self.high}; correct them")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log: needs a low above 0 and no step; correct them")

    @property
    def is_whole(self) -> bool:
        """Whether only whole numbers are meant."""
        return all(isinstance(value, int) for value in (self.low, self.high, 1 if self.step is None else self.step))


class PruneConfig(Strict):
    """End trials early whose best hold-out Dice is below the median of earlier trials after as many epochs."""

    trials: int = Field(5, ge=1, le=10_000)
    """Finished trials before the first one may be ended."""
    epochs: int = Field(5, ge=1, le=100_000)
    """Epochs that each trial has at least."""


class SweepConfig(Strict):
    """All settings of a sweep."""

    preset: str = "unet2d"
    """A preset, or a .yaml file of settings, from which all trials start."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """What differs from it in all trials, by dotted key."""
    search: dict[str, Range | list[Any]] = Field(min_length=1)
    """What is searched by dotted key: a range, or a list of values to choose from."""
    trials: int = Field(20, ge=1, le=100_000)
    """Number of trials, over all processes. It may be raised later."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Seed of the search. That of the runs is a setting of theirs."""
    prune: PruneConfig | None = None

    def _check_combination(self) -> None:
        for key, values in self.search.items():
            if isinstance(values, list) and len(values) < 2:
                raise ValueError(f"search.{key}: {len(values)} values are nothing to choose from; give two or more")
            if key in self.settings:
                raise ValueError(f"settings.{key}: has no effect, as {key} is searched; remove it from one of them")


def read_sweep(path: Path) -> SweepConfig:
    """Read the settings of a sweep.

    Args:
        path: A YAML file.

    Returns:
        The settings.

    Raises:
        ContrailError: If the file cannot be read, names a setting that runs do not have, or holds out no records.
    """
    config = validated(SweepConfig, read_document(path), str(path))
    keys = setting_fields(RunConfig).keys()
    for key in config.search:
        if key not in keys:
            with_values(get_config(config.preset), [(key, None)], f"{path}: search")  # names the key that may be meant
    if not trial_config(config, {}).data.holds_out:
        raise ContrailError(f"{path}: trials are compared on held-out records; set data.holdout, validation or folds")
    return config


def trial_config(config: SweepConfig, chosen: dict[str, Any]) -> RunConfig:
    """Assemble the settings of a trial.

    Args:
        config: The sweep.
        chosen: Values of the searched settings by dotted key.

    Returns:
        The settings of its run.

    Raises:
        ContrailError: If they are not valid.
    """
    return with_values(get_config(config.preset), (config.settings | chosen).items(), "trial")
