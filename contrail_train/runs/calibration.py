"""MISSING DOCSTRING."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from contrail_data.errors import ContrailError
from contrail_train.runs.checkpoint import file_digest
from contrail_train.runs.directory import CALIBRATION, CONFIG, PIPELINE, STAGES, WEIGHTS, finished


def check_run(path: Path) -> None:
    """Raises ContrailError for what is no run directory."""
    if (path / PIPELINE).is_file():
        raise ContrailError(f"{path}: is a pipeline, not a run: name one of the runs in {path / STAGES}")
    if not (path / CONFIG).is_file():
        raise ContrailError(
            f"{path}: no run directory (it has no {CONFIG}): name the --out of contrail-train run or pipeline, or a "
            "file that export wrote"
        )


def read_calibration(path: Path) -> dict[str, Any]:
    """What a finished run or pipeline knows of itself. Raises ContrailError for one that is not finished, damaged, or
    whose weights are not those that it was calibrated with.
    """
    if (calibration := finished(path)) is None:
        raise ContrailError(f"{path}: is not finished (it has no {CALIBRATION}): repeat its command to finish it")
    needed = ("top_k", "composite", "label_shift", "off", "grid", "holdout_records", "seen_records")
    levels = [calibration.get(key) for key in ("threshold", "gate")]
    sound = all(isinstance(level, float | int) and 0 <= level <= 1 for level in levels)
    if not sound or any(key not in calibration for key in needed):
        raise ContrailError(
            f"{path / CALIBRATION}: damaged, or of another version of contrail: remove it, and repeat the command that "
            "made it"
        )
    whole = (path / WEIGHTS).is_file() and calibration.get("weights") == file_digest(path / WEIGHTS)
    if not whole and not (path / PIPELINE).is_file():
        raise ContrailError(
            f"{path / WEIGHTS}: is not the file that the run ended with: restore it, or remove {path} and train again"
        )
    return calibration
