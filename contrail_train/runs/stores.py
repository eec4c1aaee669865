"""The data of a finished run, opened again: found where it lay, and used only if it is still the same."""

import os
from pathlib import Path

import xarray as xr

from contrail_data.catalog.catalog import open_named
from contrail_data.errors import ContrailError
from contrail_train.config.settings import read_config
from contrail_train.runs.calibration import read_calibration
from contrail_train.runs.checkpoint import file_digest
from contrail_train.runs.directory import read_environment
from contrail_train.runs.names import CONFIG


def open_run_stores(run: Path) -> dict[str, xr.Dataset]:
    """Open the stores that a finished run was trained and validated on.

    A store is looked for at its place when the run was made, and otherwise under its name as seen from here.

    Args:
        run: Run directory.

    Returns:
        The stores by the names that the run's settings give them.

    Raises:
        ContrailError: If one of them no longer exists, or another store lies there now.
    """
    data, digests = read_config(run / CONFIG).data, read_calibration(run)["stores"]
    places, names = read_environment(run).get("places", {}), (*data.train, *data.validation)
    return {name: _open(run, name, places.get(name, name), digests.get(name)) for name in names}


def find_folds(run: Path) -> str | None:
    """Find the file of folds that a finished run was made with, likewise.

    Args:
        run: Run directory.

    Returns:
        Its path; the setting as it is if the run needs no such file.

    Raises:
        ContrailError: If it no longer exists, or is another one now.
    """
    data, digests = read_config(run / CONFIG).data, read_calibration(run)["stores"]
    if data.folds is None or data.validation:
        return data.folds
    paths = [path for path in (read_environment(run).get("places", {}).get(data.folds), data.folds) if path]
    for path in filter(os.path.isfile, paths):
        if data.folds not in digests or file_digest(Path(path)) == digests[data.folds]:
            return path
    raise ContrailError(f"{run}: was made with another {data.folds} than there is now; restore the file of folds")


def _open(run: Path, name: str, place: str, digest: str | None) -> xr.Dataset:
    """The store of a digest, at a place or else under a name."""
    problem = ""
    for address in dict.fromkeys((place, name)):
        try:
            store = open_named(address)
        except ContrailError as error:
            problem = problem or f"{run}: a store of this run cannot be opened: {error}"
            continue
        if store.attrs["digest"] == digest:
            return store
        difference = f"{address} has digest {store.attrs['digest']}"
        problem = f"{run}: was made with {name} of digest {digest}, but {difference}; restore the store of the run"
    raise ContrailError(problem)
