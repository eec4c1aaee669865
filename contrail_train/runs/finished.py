"""Whether a path holds a finished run, judged by the names of its files: without torch, and before any work."""

from pathlib import Path

from contrail_data.errors import ContrailError
from contrail_train.runs.names import CALIBRATION, CONFIG, PIPELINE, STAGES

_MODELS = (
    "the --out of contrail-train run, pipeline or export, a model that was published, one in the catalog, or "
    "builtin:starter"
)


def check_run(path: Path) -> None:
    """Check that a folder is a run directory.

    Args:
        path: The folder.

    Raises:
        ContrailError: If it is a pipeline or something else.
    """
    if not path.exists():
        raise ContrailError(f"{path}: no such run, file or catalog entry; name {_MODELS}")
    if (path / PIPELINE).is_file():
        raise ContrailError(f"{path}: is a pipeline, not a run; name one of the runs in {path / STAGES}")
    if not (path / CONFIG).is_file():
        raise ContrailError(f"{path}: not a run directory (it has no {CONFIG}); name {_MODELS}")


def check_finished(path: Path) -> None:
    """Check that a run or pipeline is finished.

    Args:
        path: Its directory.

    Raises:
        ContrailError: If it is not.
    """
    if not (path / CALIBRATION).is_file():
        raise ContrailError(f"{path}: not finished (it has no {CALIBRATION}); repeat its command to finish it")


def check_model(path: Path) -> None:
    """Check that a path is what `load_model` takes, as far as the names of files show.

    Args:
        path: Run or pipeline directory, or an exported file.
    """
    if path.is_file():
        return
    if not (path / PIPELINE).is_file():
        check_run(path)
    check_finished(path)
