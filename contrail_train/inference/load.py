"""MISSING DOCSTRING."""

from __future__ import annotations

from pathlib import Path

from contrail_data.errors import ContrailError
from contrail_data.labels.predictor import Symmetries
from contrail_train.inference.predictor import Predictor
from contrail_train.inference.run import load_run
from contrail_train.runs.device import choose_device
from contrail_train.runs.directory import PIPELINE


def load_predictor(path: Path, device: str = "auto", symmetries: Symmetries | None = None) -> Predictor:
    """A finished run or pipeline by its directory, or an exported file.

    symmetries: over which copies of an image to average, as in `detector.Symmetries`; None: none of a run, a
    pipeline's own. Raises ContrailError for what is none of these or not finished.
    """
    from contrail_train.inference.exported import SUFFIXES, load_exported
    from contrail_train.inference.pipeline import load_pipeline

    where = choose_device(device)
    if path.suffix in SUFFIXES:
        if symmetries is not None:
            raise ContrailError(f"{path}: an exported file asks as it was exported to: leave --tta away")
        return load_exported(path, where)
    if (path / PIPELINE).is_file():
        return load_pipeline(path, where, symmetries)
    return load_run(path, where, symmetries or "none")
