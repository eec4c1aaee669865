"""How a scan is covered with tiles, what they need of it, and how predicted tiles are blended back onto its grid."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from scipy import ndimage

from contrail_data.compiled import compiled
from contrail_data.errors import ContrailError
from contrail_data.geo.areas import Area, eastward
from contrail_data.geo.fixed_grid import FixedGrid
from contrail_data.scans.scene import grid_of
from contrail_data.scans.tiles import Tile, utm_tile

Field = npt.NDArray[np.float32]
_ROWS = 256
"""Rows that are averaged at once, to bound memory."""
_MAX_LATITUDE = 83.0
"""Degrees; UTM ends at 84."""


@dataclass(frozen=True)
class Tiling:
    """How a scan is covered with tiles."""

    size: int = 256
    """Side of a tile in pixels."""
    overlap: float = 0.25
    """Fraction of its side that a tile shares with each neighbour."""
    shift: tuple[float, float] = (0.0, 0.0)
    """Offset of the tiling down and right, as fractions of the distance between tiles."""
    max_zenith: float = 70.0
    """Satellite zenith angle in degrees beyond which nothing is predicted."""
    tolerance: float = 5.0
    """Minutes by which a neighbouring scan may start before or after the time of its frame."""


def window_of_area(grid: FixedGrid, area: Area | None) -> tuple[slice, slice]:
    """Find the window of a grid that covers an area.

    Args:
        grid: The grid of a scan.
        area: South, west, north, east in degrees, see `eastward`; None for all of the grid.

    Returns:
        Rows and columns.

    Raises:
        ContrailError: If the area is empty or lies outside the scan.
    """
    if area is None:
        return slice(0, grid.height), slice(0, grid.width)
    option = f"--area {' '.join(f'{limit:g}' for limit in area)}"
    try:
        south, west, north, east = eastward(area)
    except ValueError as error:
        raise ContrailError(f"{option}: {error}") from None
    edge = np.linspace(0, 1, 65)
    latitudes, longitudes = np.meshgrid(south + (north - south) * edge, west + (east - west) * edge)
    rows, columns = grid.indices(latitudes, longitudes)
    inside = grid.contains(rows, columns)
    window = grid.window_around(rows[inside], columns[inside]) if inside.any() else None
    if window is None:
        raise ContrailError(f"{option}: lies outside of the scan; choose another area or scan")
    return window


def strips(grid: FixedGrid, tiling: Tiling, *, native: bool, pixel: float) -> list[list[Tile]]:
    """List the tiles that cover the visible part of a grid.

    Each pixel (every fourth is enough) needs the nearest tile of a regular pattern.

    Args:
        grid: The grid to cover.
        tiling: Size, overlap and offset of the tiles.
        native: Whether tiles are windows of the grid itself, rather than UTM grids.
        pixel: Pixel size of UTM tiles in metres.

    Returns:
        The tiles from north to south; each strip lists tiles that lie side by side.
    """
    x, y = (axis[::4] for axis in grid.axes())
    latitude, longitude = grid.projection.to_geodetic(x[np.newaxis], y[:, np.newaxis])
    with np.errstate(invalid="ignore"):
        visible = grid.projection.zenith(x[np.newaxis], y[:, np.newaxis]) <= tiling.max_zenith
    step = tiling.size * (1 - tiling.overlap)
    down, right = tiling.shift
    degrees = step * pixel / 111_320
    if native:
        rows, columns = np.nonzero(visible)
        i, j = (np.rint(4 * n / step - s).astype(int) for n, s in ((rows, down), (columns, right)))
    else:
        i = np.rint(-latitude[visible] / degrees - down).astype(int)
        step_east = degrees / np.cos(np.radians(_latitude(i + down, degrees)))
        j = np.rint(longitude[visible] / step_east - right).astype(int)
    tiles: dict[int, list[Tile]] = {}
    first, width = (int(j.min()), int(np.ptp(j)) + 1) if j.size else (0, 1)
    for code in np.unique(i * width + (j - first)).tolist():  # ten times as fast as with an axis of pairs
        row, column = code // width, code % width + first
        if native:
            tile = _native_tile(grid, tiling.size, step * (row + down), step * (column + right))
        else:
            centre = float(_latitude(row + down, degrees))
            east = (column + right) * degrees / math.cos(math.radians(centre))
            tile = utm_tile(centre, (east + 180) % 360 - 180, tiling.size, pixel)
        tiles.setdefault(row, []).append(tile)
    return [strip for _, strip in sorted(tiles.items())]


def _latitude(row: Any, degrees: float) -> Any:
    """Latitude of the centres of a row of UTM tiles."""
    return np.clip(-row * degrees, -_MAX_LATITUDE, _MAX_LATITUDE)


def _native_tile(grid: FixedGrid, size: int, row: float, column: float) -> Tile:
    """The window of a grid around a fractional row and column."""
    window = grid.window(round(row) - size // 2, round(column) - size // 2, size, size)
    left, col_size, _, top, _, row_size = (float(v) for v in window.geotransform)
    return Tile(grid.projection.crs_wkt, top, row_size, left, col_size, size, size, native=True)


def load_windows(scenes: Sequence[xr.Dataset], strip: Sequence[Tile]) -> tuple[npt.NDArray[np.float32], FixedGrid]:
    """Load the rows and columns of scenes that a strip of tiles needs.

    Args:
        scenes: Scenes of one time each, on one grid.
        strip: The tiles.

    Returns:
        Brightness temperature of the window, (time, band, y, x) float32, kelvin, and its grid.
    """
    grid = grid_of(scenes[0])
    edges = [tile.edge_indices(grid) for tile in strip]
    rows, columns = (np.concatenate([edge[axis] for edge in edges]) for axis in (0, 1))
    window = grid.window_around(rows, columns, margin=2) or (slice(0, 1), slice(0, 1))
    y, x = (slice(part.start, max(part.stop, part.start + 2)) for part in window)
    windows = [scene.isel(y=y, x=x) for scene in scenes]
    kelvin = [window["brightness_temperature"].values for window in windows]
    return kelvin[0] if len(kelvin) == 1 else np.concatenate(kelvin), grid_of(windows[0])


def fill_missing(bands_byxt: npt.NDArray[np.float32], valid_tyx: npt.NDArray[np.bool_]) -> None:
    """Give missing pixels the values of the nearest valid one, in place.

    Otherwise the model would see a line at the edge of the missing part. No prediction is kept there.

    Args:
        bands_byxt: Temperatures of each band and frame.
        valid_tyx: Where a frame has pixels.
    """
    for frame, valid_yx in enumerate(valid_tyx):
        if valid_yx.any() and not valid_yx.all():
            # The nearest valid pixel lies within a rim of one pixel around the missing part.
            missing_yx = ~valid_yx
            places = (np.flatnonzero(missing_yx.any(axis)) for axis in (1, 0))
            y, x = (slice(max(one[0] - 1, 0), one[-1] + 2) for one in places)
            missing_yx = missing_yx[y, x]
            row, column = ndimage.distance_transform_edt(missing_yx, return_distances=False, return_indices=True)
            for part_yx in bands_byxt[:, y, x, frame]:
                part_yx[missing_yx] = part_yx[row[missing_yx], column[missing_yx]]


class Mosaic:
    """Predicted tiles blended back onto the satellite's grid.

    Where tiles overlap, probabilities and scores are averaged with weights that fall to zero at a tile's edge, so that
    no seam is left. They are weighted sums until `average` divides them by the weights.

    Args:
        grid: The grid to blend onto.
        tiling: How it is covered with tiles.
        with_score: Whether to blend the tiles' record scores as well.
    """

    def __init__(self, grid: FixedGrid, tiling: Tiling, with_score: bool):
        self.grid, self.tiling = grid, tiling
        shape = grid.height, grid.width
        self._totals = np.zeros((2 if with_score else 1, *shape), np.float32)
        self._weight = np.zeros(shape, np.float32)

    def add(self, tile: Tile, p_hw: Field, score: float) -> None:
        """Add the prediction of a tile.

        Args:
            tile: The tile.
            p_hw: Its probabilities, float32 (h, w).
            score: Its record score.
        """
        window = self.grid.window_around(*tile.edge_indices(self.grid))
        if window is None:
            return
        rows, columns = window
        y, x = tile.indices_of(
            self.grid.window(rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start)
        )
        ramp = max(self.tiling.overlap * self.tiling.size / 2, 1.0)
        planes_nhw = np.stack([p_hw, np.full_like(p_hw, score)][: len(self._totals)])
        _blend(planes_nhw, y, x, ramp, self._totals[:, *window], self._weight[window])

    def within(self, rows: slice) -> npt.NDArray[np.bool_]:
        """Find the pixels that lie within the largest zenith angle.

        Args:
            rows: Rows of the grid.

        Returns:
            Whether each pixel does, (rows, x), not to be changed.
        """
        part = self.grid.window(rows.start, 0, rows.stop - rows.start, self.grid.width)
        return _within(part, self.tiling.max_zenith)

    def average(self, valid_yx: npt.NDArray[np.bool_]) -> Field:
        """Turn sums into means, in place.

        Args:
            valid_yx: Where predictions are wanted, (y, x).

        Returns:
            Probabilities and, if they are blended, record scores, (plane, y, x); NaN elsewhere, or where no tile lies.
        """
        for top in range(0, self.grid.height, _ROWS):
            rows = slice(top, min(top + _ROWS, self.grid.height))
            predicted = valid_yx[rows] & (self._weight[rows] > 1e-3)
            for total in self._totals:
                total[rows] = np.where(predicted, total[rows] / np.maximum(self._weight[rows], 1e-6), np.nan)
        return self._totals


@lru_cache(maxsize=32)
def _within(part: FixedGrid, max_zenith: float) -> npt.NDArray[np.bool_]:
    """Where the satellite's zenith angle is small enough, kept for the next scan of a series: a bool takes little."""
    with np.errstate(invalid="ignore"):
        return np.asarray(part.zenith() <= max_zenith)


@compiled
def _blend(
    planes_nhw: Field,
    y: npt.NDArray[np.float64],
    x: npt.NDArray[np.float64],
    ramp: float,
    totals_nyx: Field,
    weight_yx: Field,
) -> None:
    """Add planes of a tile, interpolated bilinearly at fractional rows y and columns x, with weights to their sums."""
    count, height, width = planes_nhw.shape
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            row, column = y[i, j], x[i, j]
            depth = min(min(row, height - 1 - row), min(column, width - 1 - column)) + 0.5
            if not depth > 0:  # NaN too
                continue
            weight = np.float32(1)
            if depth < ramp:
                weight = np.float32(0.5 - 0.5 * math.cos(math.pi * depth / ramp))
            row, column = min(max(row, 0.0), height - 1.0), min(max(column, 0.0), width - 1.0)
            top, left = min(int(row), max(height - 2, 0)), min(int(column), max(width - 2, 0))
            below, right = min(top + 1, height - 1), min(left + 1, width - 1)
            down, across = row - top, column - left
            for n in range(count):
                upper = (1 - across) * planes_nhw[n, top, left] + across * planes_nhw[n, top, right]
                lower = (1 - across) * planes_nhw[n, below, left] + across * planes_nhw[n, below, right]
                totals_nyx[n, i, j] += np.float32((1 - down) * upper + down * lower) * weight
            weight_yx[i, j] += weight
