"""Coastlines of the world, fine enough for a map of one satellite tile and small enough to ship.

Source: Natural Earth 4.1, 1:50m land (naturalearthdata.com, public domain), as packaged in `land-50m.json` of the npm
package world-atlas 2.0.2. Rings below 0.005 square degrees (at the equator) and the seams along the date line and the
south pole were dropped; the rest was simplified (Douglas-Peucker) to 0.015 degree and rounded to 0.01 degree.

`coastline.json` holds one list of integers per line: longitude and latitude of the first point in hundredths of a
degree, then the step to each following point.
"""

from __future__ import annotations

import json
from importlib.resources import files

import numpy as np
import numpy.typing as npt
import shapely


def coastline(tolerance: float = 0.0) -> list[npt.NDArray[np.float64]]:
    """Return the coastlines of the world.

    Args:
        tolerance: Simplify lines to this many degrees and drop those that fit into a box of four times this size; 0
            keeps all points.

    Returns:
        Polylines, float64 (point, 2): longitude and latitude in degrees. None crosses the date line.
    """
    steps = json.loads(files("contrail_data.geo").joinpath("coastline.json").read_bytes())
    lines = [np.cumsum(np.reshape(line, (-1, 2)), axis=0) / 100 for line in steps]
    if tolerance:
        lines = [line for line in lines if np.ptp(line, axis=0).max() > 4 * tolerance]
        lines = [shapely.get_coordinates(shapely.LineString(line).simplify(tolerance)) for line in lines]
    return lines
