"""Predictions of single scans in the cache, with which a command that predicts several continues if it is interrupted.

A file is named by everything that determines its content, so that no other command can mistake it for its own. Files
appear whole, and a command removes those of its scans when it has written its outputs.
"""

import hashlib
import io
import json
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.lib import format as npy_format

from contrail_data import __version__
from contrail_data.errors import BadRecord
from contrail_data.geo.areas import Area
from contrail_data.scans.listing import Scan
from contrail_data.sources.npy import read_npy
from contrail_data.storage.cache import CacheKind, cache_folder
from contrail_data.storage.files import make_folder, write_atomically
from contrail_train.inference.predictor import Predictor
from contrail_train.scenes.tiling import Field, Tiling


def kept_file(model: Predictor, frames: Sequence[Scan], tiling: Tiling, area: Area | None, batch: int) -> Path:
    """Return where the prediction of a scan is kept.

    Args:
        model: A predictor of masks.
        frames: The scans that it sees, see `frames_at`.
        tiling: How the scan is covered with tiles.
        area: South, west, north, east in degrees; None for all that is visible.
        batch: Tiles that are predicted at once, as it decides on the last digits.

    Returns:
        A file in the cache, which need not exist.
    """
    predictor = (model.decision.model, model.decision.gate > 0, model.pixel, model.native, str(model.device))
    files = [(scan.start.astype(int).item(), [*map(_state, scan.files)]) for scan in frames]
    identity = json.dumps([__version__, predictor, files, asdict(tiling), area, batch])
    digest = hashlib.sha256(identity.encode()).hexdigest()
    return cache_folder(CacheKind.PREDICTIONS) / f"{digest[:32]}.npy"


def _state(path: str) -> tuple[str, int, int]:
    """Identify a file; one in an archive has the time of its creation in its name."""
    with suppress(OSError):
        status = os.stat(path)
        return os.path.abspath(path), status.st_size, status.st_mtime_ns
    return path, -1, -1


def read_kept(path: Path) -> Field | None:
    """Read a prediction.

    Args:
        path: As of `kept_file`.

    Returns:
        (plane, y, x) float32, as of `predicted_planes`. None if there is none, or it is damaged.
    """
    try:
        return read_npy(path, kinds="<f4", shape=(None, None, None))
    except BadRecord:
        return None


def keep(path: Path, predicted_nyx: Field) -> None:
    """Keep a prediction.

    Args:
        path: As of `kept_file`.
        predicted_nyx: As of `predicted_planes`.

    Raises:
        ContrailError: If the disk refuses.
    """
    make_folder(path.parent)
    header = io.BytesIO()
    planes = np.ascontiguousarray(predicted_nyx, "<f4")
    npy_format.write_array_header_1_0(header, npy_format.header_data_from_array_1_0(planes))
    write_atomically(path, [header.getvalue(), planes.data.cast("B")])


def forget(paths: Iterable[Path]) -> None:
    """Remove predictions.

    Args:
        paths: As of `kept_file`; they need not exist.
    """
    for path in paths:
        with suppress(OSError):  # it stays in the cache, whose files can be removed at any time
            path.unlink(missing_ok=True)
