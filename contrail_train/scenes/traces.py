"""Tracks in pictures: the contrails of one time in the colours of their tracks, with their names and paths so far."""

import re
from colorsys import hsv_to_rgb

import numpy as np
import xarray as xr

from contrail_data.reports.figures import Trace


def traces_of(scene: xr.Dataset) -> list[Trace]:
    """List what to draw for the last time of a scene.

    Args:
        scene: A predicted scene with tracks, see `SceneContrails.labelled`, up to the time to draw.

    Returns:
        A trace for each contrail of the last time.
    """
    track_yx, names, path = scene["track"].values[-1], scene["track_id"].values, scene["track_path"].values
    numbers = np.unique(track_yx[track_yx > 0]).tolist()
    return [
        Trace(
            mask=track_yx == number,
            path=path[~np.isnan(path[:, number - 1, 0]), number - 1],
            label=short_name(names[number - 1]),
            colour=colour_of(names[number - 1]),
        )
        for number in numbers
    ]


def short_name(track_id: str) -> str:
    """Shorten the name of a track.

    Args:
        track_id: Such as `20240301T124030-3`.

    Returns:
        Hour, minute and number: `1240-3`.
    """
    time, number = _parts(track_id)
    return f"{time:04d}-{number}"


def colour_of(track_id: str) -> tuple[float, float, float]:
    """Choose the colour of a track, the same in every picture and in QGIS, by the formula in `contrails.qml`.

    Args:
        track_id: Such as `20240301T124030-3`.

    Returns:
        Red, green and blue, 0 to 1.
    """
    time, number = _parts(track_id)
    return hsv_to_rgb((137 * number + 47 * time) % 360 / 360, 0.75, 1)


def _parts(track_id: str) -> tuple[int, int]:
    """Hour and minute as one number, and the number of the track among those first seen then."""
    match = re.fullmatch(r"\d{8}T(\d{4})\d{2}-(\d+)", track_id)
    if match is None:
        raise ValueError(track_id)
    return int(match[1]), int(match[2])
