"""The folder of a sweep, begun or opened again; without torch, so that a command is refused before the work."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from contrail_data.errors import ContrailError
from contrail_data.settings.parse import validated
from contrail_data.storage.documents import read_document
from contrail_data.storage.files import check_folder, is_partial, is_stray, write_atomically
from contrail_train.config.settings import differences, to_yaml
from contrail_train.config.sweep import SweepConfig, trial_config
from contrail_train.training.inputs import check_inputs

SWEEP, TRIALS, LOCK = "sweep.yaml", "trials", "lock"
_NAMING = {"data", "start", "calibration", "device"}
"""Settings, and groups of them, by which a run names stores, models and files."""


def begin_sweep(config: SweepConfig, out: Path) -> None:
    """Write the settings of a sweep, or check that they are those of the one in its folder.

    Args:
        config: The sweep.
        out: Its folder.

    Raises:
        ContrailError: If optuna is not installed, or `out` holds another sweep or something else.
    """
    if find_spec("optuna") is None:
        raise ContrailError(
            "sweep: optuna is not installed; run \"pip install '.[sweep]'\" in the checkout of contrail"
        )
    is_new = not (out / SWEEP).is_file()
    if is_new and out.exists() and not (out.is_dir() and all(_may_precede_sweep(path) for path in out.iterdir())):
        raise ContrailError(f"{out}: exists and is not a sweep; choose another --out")
    check_folder(out / TRIALS)
    with locked(out / LOCK):
        if (out / SWEEP).is_file():
            begun = validated(SweepConfig, read_document(out / SWEEP), str(out / SWEEP))
            if differing := differences(begun.model_copy(update={"trials": config.trials}), config):
                raise ContrailError(f"{out}: holds a sweep with {'; '.join(differing)}; choose another --out")
        write_atomically(out / SWEEP, [to_yaml(config).encode()])


def _may_precede_sweep(path: Path) -> bool:
    """Whether a kill, or the operating system, can leave such a file in a folder that has no settings yet."""
    is_empty = path.name == TRIALS and not any(path.iterdir())
    return is_empty or path.name == LOCK or is_partial(path.name) or is_stray(path.name)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait until no other process holds a lock, and hold it.

    Args:
        path: The file that is locked.

    Yields:
        Nothing.
    """
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def check_trials(config: SweepConfig) -> None:
    """Refuse a sweep whose trials all name what is not there; what is searched for is seen trial by trial.

    Args:
        config: The sweep.
    """
    if not any(key.partition(".")[0] in _NAMING for key in config.search):
        check_inputs(trial_config(config, {}))
