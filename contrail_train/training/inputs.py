"""What the settings of a run name, checked before the work: stores, models and files, without torch, timm or xarray.

What lies elsewhere is checked when it is opened, as it takes a request.
"""

from pathlib import Path

from contrail_data.catalog.stores import check_store
from contrail_data.errors import ContrailError
from contrail_data.labels.predictor import check_device
from contrail_train.config.schema import RunConfig
from contrail_train.data.named import check_stores
from contrail_train.models.encoder_names import check_name
from contrail_train.models.raft_weights import check_weights
from contrail_train.runs.address import check_address, local_path, names_model
from contrail_train.runs.names import CALIBRATION, PIPELINE, STAGES, WEIGHTS


def check_inputs(config: RunConfig) -> None:
    """Refuse settings of a run that name what is not there, or what does not fit together.

    Args:
        config: The settings.

    Raises:
        ContrailError: If they do.
    """
    check_device(config.device)
    check_name(config.model.encoder)
    if config.start is not None:
        if (path := local_path(config.start)) is None:
            check_address(config.start)
        else:
            weights_file(path)
    for name in config.calibration.from_:
        if (path := local_path(name)) is None:
            check_address(name)
        else:
            _check_finished(name, path)
    if config.data.flow.method == "raft":
        check_weights(config.data.flow.weights)
    check_stores(config.data)
    for name in config.data.teacher:
        if "://" not in name and not names_model(name):
            check_store(name)


def weights_file(path: Path) -> Path:
    """Find the file of weights that the setting `start` names.

    Args:
        path: A run directory, or the file itself.

    Returns:
        The file.

    Raises:
        ContrailError: If there is none.
    """
    file = path / WEIGHTS if path.is_dir() else path
    if not file.is_file():
        raise ContrailError(f"start={path}: not a finished run or its weights; name the --out of a finished run")
    return file


def _check_finished(name: str, path: Path) -> None:
    """Refuse a name of `calibration.from` that leads to an unfinished run, or to a pipeline with one."""
    is_pipeline = (path / PIPELINE).is_file()
    for run in sorted((path / STAGES).glob("*/")) if is_pipeline else [path]:
        if not (run / CALIBRATION).is_file():
            raise ContrailError(f"calibration.from={name}: {run} is not a finished run; finish it, or name another")
