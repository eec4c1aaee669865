"""Which scans a prediction needs: those at its time, and the frames before and after."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from contrail_data.errors import ContrailError
from contrail_data.scans.listing import Scan, assign_frames
from contrail_train.inference.predictor import Predictor
from contrail_train.scenes.tiling import Tiling


def neighbours(model: Predictor, tiling: Tiling) -> dict[str, Any]:
    """Express the frames that a model needs as `assign_frames` and `spans_around` take them.

    Args:
        model: The model.
        tiling: Its tolerance of times is used.

    Returns:
        Keyword arguments.
    """
    return {"before": -model.offsets[0], "after": model.offsets[-1], "tolerance": tiling.tolerance}


def in_seconds(time: np.datetime64) -> str:
    """Write a time for messages.

    Args:
        time: The time, UTC, of any precision.

    Returns:
        The time to the second.
    """
    return str(time.astype("datetime64[s]"))


def scan_at(scans: Sequence[Scan], time: np.datetime64, tiling: Tiling) -> Scan:
    """Find the scan that starts nearest to a time.

    Args:
        scans: Scans to choose from.
        time: The time, UTC.
        tiling: Its tolerance of times is used.

    Returns:
        The scan.

    Raises:
        ContrailError: If it starts too long before or after the time.
    """
    scan = min(scans, key=lambda scan: abs(scan.start - time))
    if abs(scan.start - time) > np.timedelta64(round(60 * tiling.tolerance), "s"):
        reason = f"no scan starts within {tiling.tolerance:g} minutes (nearest: {in_seconds(scan.start)})"
        raise ContrailError(f"{in_seconds(time)}: {reason}; choose another time")
    return scan


def frames_at(model: Predictor, scans: Sequence[Scan], time: np.datetime64, tiling: Tiling) -> list[Scan]:
    """Find the scans that a model needs to predict a time.

    Args:
        model: The model.
        scans: Scans to choose from.
        time: The time, UTC.
        tiling: Its tolerance of times is used.

    Returns:
        A scan for each of the model's offsets, in their order.

    Raises:
        ContrailError: If a scan is missing, or they are not on one grid.
    """
    scan_at(scans, time, tiling)
    window = assign_frames(scans, time, **neighbours(model, tiling))
    frames = []
    for offset in model.offsets:
        if (scan := window[offset - model.offsets[0]]) is None:
            frame = f"frame {offset:+d} of {list(model.offsets)}, 10 minutes apart"
            raise ContrailError(f"{in_seconds(time)}: no scan for {frame}; choose another time, or a 2D model")
        frames.append(scan)
    if any(scan.grid != frames[0].grid for scan in frames):
        raise ContrailError(
            f"{in_seconds(time)}: its scans are on different grids; choose a time when the sector did not move"
        )
    return frames
