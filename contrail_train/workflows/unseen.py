"""Records on which several runs can be calibrated together: none of them was trained on these."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from contrail_data.catalog.catalog import open_named
from contrail_data.errors import ContrailError
from contrail_data.store.schema import Kind, kind_of
from contrail_train.config.settings import read_config
from contrail_train.data.items import Items
from contrail_train.inference.predictor import Predictor
from contrail_train.runs.directory import CONFIG


def held_out_by_all(runs: Iterable[Predictor], items: Items, any_unseen: bool = False) -> Items:
    """Select the records that no run was trained on and that at least one run held out.

    Args:
        runs: Finished runs.
        items: Labelled frames.
        any_unseen: Also select records that no run held out or was trained on.

    Returns:
        The items of these records.
    """
    runs = list(runs)
    trained = frozenset().union(*(run.trained_records for run in runs))
    held = frozenset().union(*(run.calibrated_records for run in runs))
    selected = [r not in trained and (any_unseen or r in held) for r in items.record_id.tolist()]
    return items[np.flatnonzero(selected)]


def sample_stores_of(runs: Iterable[Path]) -> list[str]:
    """Return the stores of samples that runs were trained and validated on.

    Args:
        runs: Run directories.

    Returns:
        Their names as the runs' settings give them, each once.

    Raises:
        ContrailError: If one of them no longer exists.
    """
    data = [read_config(run / CONFIG).data for run in runs]
    names = dict.fromkeys(name for one in data for name in (*one.train, *one.validation))
    try:
        return [name for name in names if kind_of(open_named(name)) is Kind.SAMPLES]
    except ContrailError as error:
        raise ContrailError(f"{error} (a stage was trained on it; or --set calibrate_on=STORE)") from None
