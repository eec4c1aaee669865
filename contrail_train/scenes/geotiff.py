"""A predicted scene as a cloud-optimised GeoTIFF in latitude and longitude."""

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
import xarray as xr
from rasterio.io import MemoryFile
from rasterio.shutil import copy
from rasterio.transform import from_origin
from scipy import ndimage

from contrail_data.errors import ContrailError
from contrail_data.geo.fixed_grid import FixedGrid
from contrail_data.scans.scene import grid_of
from contrail_data.storage.files import write_atomically
from contrail_train.scenes.rounding import codes

DEGREES = 0.02
"""Side of a GeoTIFF's pixel in degrees."""


def write_geotiff(scene: xr.Dataset, out: Path) -> None:
    """Write one time as a cloud-optimised GeoTIFF in latitude and longitude, 255 where there is no data.

    Band 1 is the probability in steps of 1/250, resampled bilinearly because GeoTIFF has no geostationary projection,
    and band 2 the mask.

    Args:
        scene: One time of a predicted scene with `mask` and `valid`.
        out: The file.
    """
    grid = grid_of(scene)
    south, west, north, east = _degrees_covered(scene, grid, out)
    height, width = north - south, east - west
    profile = {"driver": "GTiff", "width": width, "height": height, "count": 2, "dtype": "uint8", "nodata": 255}
    profile |= {"crs": "EPSG:4326", "tiled": True, "blockxsize": 256, "blockysize": 256}
    corner = from_origin(grid.projection.longitude + west * DEGREES, north * DEGREES, DEGREES, DEGREES)
    with MemoryFile() as memory:
        with memory.open(transform=corner, **profile) as file:
            for top in range(0, height, 256):
                rows = min(256, height - top)
                y = (north - top - 0.5 - np.arange(rows)) * DEGREES
                x = grid.projection.longitude + (west + 0.5 + np.arange(width)) * DEGREES
                p, mask = _resampled(scene, *grid.indices(y[:, np.newaxis], x[np.newaxis]))
                window = rasterio.windows.Window(0, top, width, rows)
                for band, values in ((1, codes(p, scene.attrs["threshold"], 1 / 250)), (2, mask)):
                    file.write(np.where(np.isnan(p), 255, values).astype(np.uint8), band, window=window)
            file.scales = (1 / 250, 1.0)
            file.set_band_description(1, "probability of a contrail")
            file.set_band_description(2, "contrail: 0 no, 1 yes")
            tags = {key: str(scene.attrs[key]) for key in ("platform", "model", "threshold", "composite", "software")}
            times = {name: str(scene[name].values) for name in ("time", "scan_start", "scan_end")}
            file.update_tags(**times, inputs=" ".join(scene.attrs["inputs"]), **tags)
        with MemoryFile(ext=".tif") as optimised:
            copy(memory.name, optimised.name, driver="COG", compress="DEFLATE", overview_resampling="nearest")
            write_atomically(out, [optimised.read()])


def _resampled(
    scene: xr.Dataset, rows: npt.NDArray[np.float64], columns: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Interpolate the probability bilinearly between the pixels that are not missing, and the mask along with it.

    A place is in the mask if one of its pixels is and its probability reaches the threshold, or the least probability
    of these pixels, if that is lower (they may have been added by hysteresis). So without cleaning, mask and
    probability agree everywhere, and regions that were removed stay removed.

    Args:
        scene: One time of a predicted scene.
        rows: Fractional rows of places; NaN where not seen.
        columns: Fractional columns, likewise.

    Returns:
        The probability, NaN where the nearest pixel is missing, and the mask.
    """
    probability, valid, mask = (scene[name].values for name in ("probability", "valid", "mask"))
    seen = grid_of(scene).contains(rows, columns)
    rows, columns = np.where(seen, rows, 0), np.where(seen, columns, 0)
    i, j = np.floor(rows), np.floor(columns)
    total, weights = np.zeros(rows.shape), np.zeros(rows.shape)
    lowest, highest = np.full(rows.shape, np.inf), np.full(rows.shape, -np.inf)
    level, nearest = np.full(rows.shape, np.inf), np.zeros(rows.shape)
    for di, row_weight in enumerate((1 - (rows - i), rows - i)):
        for dj, column_weight in enumerate((1 - (columns - j), columns - j)):
            place = (
                (i + di).clip(0, len(valid) - 1).astype(np.intp),
                (j + dj).clip(0, valid.shape[1] - 1).astype(np.intp),
            )
            weight = row_weight * column_weight
            p, has_value = probability[place], (valid[place] > 0) & (weight > 1e-6)
            total += np.where(has_value, weight * p, 0)
            weights += np.where(has_value, weight, 0)
            lowest, highest = (
                np.where(has_value, limit(bound, p), bound) for limit, bound in ((np.fmin, lowest), (np.fmax, highest))
            )
            level = np.where(has_value & (mask[place] > 0), np.fmin(level, p), level)
            is_nearest = (row_weight >= 0.5) & (column_weight >= 0.5)
            nearest = np.maximum(nearest, is_nearest & has_value)
    seen &= nearest > 0
    with np.errstate(invalid="ignore"):
        p = np.where(seen, np.clip(total / weights, lowest, highest), np.nan).astype(np.float32)
    threshold = np.float32(scene.attrs["threshold"])
    return p, np.isfinite(level) & (p >= np.minimum(level, threshold).astype(np.float32))


def _degrees_covered(scene: xr.Dataset, grid: FixedGrid, out: Path) -> tuple[int, int, int, int]:
    # South, west, north and east of the valid pixels in multiples of `DEGREES`; longitudes relative to the satellite's.
    valid = scene["valid"].values > 0
    if not valid.any():
        raise ContrailError(f"{out}: no pixel of the scene could be predicted; choose another area")
    y, x = np.nonzero(valid & ~ndimage.binary_erosion(valid))  # the extremes lie at the edge
    latitude, longitude = grid.projection.to_geodetic(grid.x + x * grid.dx, grid.y + y * grid.dy)
    east = (longitude - grid.projection.longitude + 180) % 360 - 180
    bottom, left = (math.floor(float(values.min()) / DEGREES) for values in (latitude, east))
    top, right = (math.ceil(float(values.max()) / DEGREES) for values in (latitude, east))
    return bottom, left, max(top, bottom + 1), max(right, left + 1)
