"""The world's coastlines, coarse enough to ship and fine enough for a page-wide map.

Natural Earth 1:110m, public domain (naturalearthdata.com: "free for use in any type of project"), as carried by
geopandas 0.14.4 in `naturalearth_lowres`: countries merged to land, rings under 0.15 square degrees and the seams
at the date line and the south pole left out, simplified (Douglas-Peucker) to 0.3 degree.
"""

from __future__ import annotations

import json
from importlib.resources import files

import numpy as np
import numpy.typing as npt


def coastline() -> list[npt.NDArray[np.float64]]:
    """Polylines, each float64 (point, 2): longitude, latitude in degrees. None crosses the date line."""
    lines = json.loads(files("contrail_data.geo").joinpath("coastline.json").read_bytes())
    return [np.array(line, np.float64) for line in lines]
