"""Tiles: the pixel grids that models are trained on, cut out of a scene.

OpenContrails tiles are north-up UTM grids resampled bilinearly from the fixed grid (Ng et al. 2023); a native window is
the fixed grid itself, without resampling.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from scipy.interpolate import RectBivariateSpline

from contrail_data.errors import BadRecord
from contrail_data.geo.fixed_grid import FixedGrid
from contrail_data.geo.geometry import tile_geometry, to_geodetic
from contrail_data.scans.scene import grid_of

Array = npt.NDArray[np.float64]

SIDE_KM = 500.0
"""Of an OpenContrails tile, and the distance of its sites."""
_UTM = (
    'PROJCS["unknown",GEOGCS["unknown",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,298.257223563,'
    'AUTHORITY["EPSG","7030"]],AUTHORITY["EPSG","6326"]],PRIMEM["Greenwich",0,AUTHORITY["EPSG","8901"]],'
    'UNIT["degree",0.0174532925199433,AUTHORITY["EPSG","9122"]]],PROJECTION["Transverse_Mercator"],'
    'PARAMETER["latitude_of_origin",0],PARAMETER["central_meridian",{meridian}],PARAMETER["scale_factor",0.9996],'
    'PARAMETER["false_easting",500000],PARAMETER["false_northing",0],UNIT["metre",1,AUTHORITY["EPSG","9001"]],'
    'AXIS["Easting",EAST],AXIS["Northing",NORTH]]'
)


@dataclass(frozen=True)
class Tile:
    """A projected grid: pixel (i, j) has its centre at row_min + (i + 0.5) row_size, col_min + (j + 0.5) col_size."""

    projection_wkt: str
    row_min: float
    row_size: float
    col_min: float
    col_size: float
    height: int
    width: int
    native: bool = False
    """On the imager's own grid: pixels are taken, not resampled."""

    def geometry(self) -> dict[str, Any]:
        """As `tile_geometry`. Raises BadRecord for a tile that lies outside of its projection."""
        numbers = (self.row_min, self.row_size, self.col_min, self.col_size)
        try:
            return tile_geometry(self.projection_wkt, *numbers, self.height, self.width)
        except ValueError as error:
            raise BadRecord(f"{error}: choose a place that the satellite sees") from None

    def geodetic(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """(latitude, longitude) of the pixels' centres, each (height, width), degrees."""
        y = self.row_min + (np.arange(self.height) + 0.5) * self.row_size
        x = self.col_min + (np.arange(self.width) + 0.5) * self.col_size
        columns, rows = np.meshgrid(x, y)
        longitude, latitude = to_geodetic(self.projection_wkt).transform(columns, rows)
        return np.asarray(latitude), np.asarray(longitude)

    def edge_indices(self, grid: FixedGrid) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Fractional (row, column) on a grid of places along the tile's edge, (n) each; NaN where not seen."""
        low, high = np.zeros(33), np.ones(33)
        even = np.linspace(0, 1, 33)
        i = np.concatenate([low, high, even, even]) * (self.height - 1)
        j = np.concatenate([even, even, low, high]) * (self.width - 1)
        y = self.row_min + (i + 0.5) * self.row_size
        x = self.col_min + (j + 0.5) * self.col_size
        if self.native:
            h = grid.projection.height
            return (y / h - grid.y) / grid.dy, (x / h - grid.x) / grid.dx
        longitude, latitude = to_geodetic(self.projection_wkt).transform(x, y)
        return grid.indices(latitude, longitude)

    def indices_of(self, grid: FixedGrid) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Fractional (row, column) on the tile of each pixel of a grid, each (grid.height, grid.width); NaN beside the
        Earth, any number outside of the tile.
        """
        if self.native:
            h = grid.projection.height
            x, y = (axis * h for axis in grid.axes())
            rows, columns = (y - self.row_min) / self.row_size - 0.5, (x - self.col_min) / self.col_size - 0.5
            i, j = np.broadcast_arrays(rows[:, np.newaxis], columns)
            return i, j
        to_place = to_geodetic(self.projection_wkt)

        def exact(i: Array, j: Array) -> tuple[Array, Array]:
            latitude, longitude = grid.projection.to_geodetic(grid.x + j * grid.dx, grid.y + i * grid.dy)
            x, y = to_place.transform(longitude, latitude, direction="INVERSE")
            x, y = (np.where(np.isfinite(v), v, np.nan) for v in (x, y))
            return (y - self.row_min) / self.row_size - 0.5, (x - self.col_min) / self.col_size - 0.5

        return _smoothly(exact, grid.height, grid.width)


def _smoothly(exact: Callable[[Array, Array], tuple[Array, Array]], height: int, width: int) -> tuple[Array, Array]:
    """`exact(rows, columns)` on a grid of pixels, (height, width) each: computed at every sixteenth, splines between.

    Projections are so smooth that the bicubic spline is within 1e-5 pixel of where a tile's pixels lie on the grid, and
    the way back, at 60 degrees of view zenith, within 1e-2 (a test); it is several times faster. Where one of the
    sixteenth pixels is not seen, all are computed.
    """
    knots = [np.unique(np.append(np.arange(0, n, 16), n - 1)).astype(np.float64) for n in (height, width)]
    every = [np.arange(n, dtype=np.float64) for n in (height, width)]
    if min(map(len, knots)) > 3:
        found = exact(*np.meshgrid(*knots, indexing="ij"))
        if all(np.isfinite(values).all() for values in found):
            first, second = (RectBivariateSpline(*knots, values)(*every) for values in found)
            return first, second
    return exact(*np.meshgrid(*every, indexing="ij"))


def utm_wkt(longitude: float) -> str:
    """The projection of the dataset's records at a longitude: UTM with false northing 0 south of the equator too."""
    return _UTM.format(meridian=6 * math.floor(longitude / 6) + 3)


def utm_tile(latitude: float, longitude: float, size: int = 256, pixel: float | None = None) -> Tile:
    """A north-up UTM tile of `size` x `size` pixels about a place in degrees, in the zone of its western edge: the
    dataset's rule, to which its validation metadata keep.

    pixel: metres; None for that of OpenContrails, of which 256 are 500 km. Raises ValueError for a place that is none.
    """
    if not (abs(latitude) <= 84 and abs(longitude) <= 180):  # NaN fails too; UTM ends at 84 degrees
        raise ValueError(f"latitude {latitude:g}, longitude {longitude:g}: give degrees, at most 84 north or south")
    step = pixel or SIDE_KM * 1000 / 256
    west = longitude - step * size / 2 / (111_320 * math.cos(math.radians(latitude)))
    wkt = utm_wkt(west)
    x, y = to_geodetic(wkt).transform(longitude, latitude, direction="INVERSE")
    return Tile(wkt, y + step * size / 2, -step, x - step * size / 2, step, size, size)


def native_tile(grid: FixedGrid, latitude: float, longitude: float, size: int) -> Tile:
    """The window of `size` x `size` pixels of a fixed grid whose centre is nearest to a place. It may reach beyond the
    grid: pixels there are missing. Raises ValueError for a place that the satellite does not see.
    """
    row, column = (float(index) for index in grid.indices(latitude, longitude))
    if not math.isfinite(row + column):
        raise ValueError(f"latitude {latitude:g}, longitude {longitude:g}: not seen from {grid.projection.longitude:g}")
    window = grid.window(round(row + 0.5) - size // 2, round(column + 0.5) - size // 2, size, size)
    left, col_size, _, top, _, row_size = (float(v) for v in window.geotransform)
    return Tile(grid.projection.crs_wkt, top, row_size, left, col_size, size, size, native=True)


def lattice_sites() -> list[tuple[float, float]]:
    """(latitude, longitude) of the OpenContrails site lattice: rows from 41 S to 40 N over the Americas, sites 500 km
    apart in both directions. Fitted to the 253 sites of the validation metadata, which lie within 0.1 degree of it.
    """
    sites = []
    for k in range(19):
        latitude = -41.0 + 4.499 * k
        step = SIDE_KM / 111.32 / math.cos(math.radians(latitude))
        first = -119.0 - 0.003 * latitude
        sites += [(latitude, first + step * i) for i in range(int((-30.0 - first) / step) + 1)]
    return sites


def cut(scene: xr.Dataset, tile: Tile) -> npt.NDArray[np.float32]:
    """Brightness temperature on a tile, (band, height, width, time) float32, kelvin.

    Bilinear between the four pixels of the fixed grid about each centre; NaN where one of those that count is missing,
    or where the satellite does not see. Only the window that is needed is read.
    """
    grid = grid_of(scene)
    rows, columns = _indices(grid, tile)
    out = np.full((scene.sizes["band"], tile.height, tile.width, scene.sizes["time"]), np.nan, np.float32)
    inside = (rows > -0.5) & (rows < grid.height - 0.5) & (columns > -0.5) & (columns < grid.width - 0.5)  # NaN: no
    if not inside.any():
        return out
    rows, columns = np.clip(rows[inside], 0, grid.height - 1), np.clip(columns[inside], 0, grid.width - 1)
    top, left = int(rows.min()), int(columns.min())
    bottom, right = math.floor(rows.max()) + 2, math.floor(columns.max()) + 2
    window = scene["brightness_temperature"].isel(
        y=slice(top, min(bottom, grid.height)), x=slice(left, min(right, grid.width))
    )
    source = window.values  # (time, band, y, x)
    rows, columns = rows - top, columns - left
    i, j = rows.astype(np.intp), columns.astype(np.intp)
    down, across = (rows - i).astype(np.float32), (columns - j).astype(np.float32)
    total = np.zeros((*source.shape[:2], len(rows)), np.float32)
    for di, dj, weight in (
        *((0, 0, (1 - down) * (1 - across)), (0, 1, (1 - down) * across)),
        *((1, 0, down * (1 - across)), (1, 1, down * across)),
    ):
        counts = weight > 1e-6
        values = source[:, :, np.minimum(i + di, source.shape[2] - 1), np.minimum(j + dj, source.shape[3] - 1)]
        total += np.where(counts, weight * values, 0)
    out[:, inside] = np.moveaxis(total, 0, -1)
    return out


def _indices(grid: FixedGrid, tile: Tile) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Fractional (row, column) of the tile's pixels on the grid, each (height, width)."""
    if not tile.native:
        to_place = to_geodetic(tile.projection_wkt)

        def exact(i: Array, j: Array) -> tuple[Array, Array]:
            x, y = tile.col_min + (j + 0.5) * tile.col_size, tile.row_min + (i + 0.5) * tile.row_size
            longitude, latitude = to_place.transform(x, y)
            return grid.indices(latitude, longitude)

        return _smoothly(exact, tile.height, tile.width)
    left, _, _, top, _, _ = grid.geotransform
    # Whole numbers but for the rounding of metres.
    first = np.rint((tile.row_min - top) / tile.row_size), np.rint((tile.col_min - left) / tile.col_size)
    rows, columns = (f + np.arange(n, dtype=np.float64) for f, n in zip(first, (tile.height, tile.width), strict=True))
    seen = ~np.isnan(grid.projection.to_geodetic(*_angles(grid, rows, columns))[0])
    rows, columns = np.broadcast_arrays(rows[:, np.newaxis], columns)
    return np.where(seen, rows, np.nan), np.where(seen, columns, np.nan)


def _angles(grid: FixedGrid, rows: Any, columns: Any) -> tuple[Any, Any]:
    return (grid.x + grid.dx * columns)[np.newaxis], (grid.y + grid.dy * rows)[:, np.newaxis]


def tile_of_entry(entry: Mapping[str, Any], size: int) -> Tile:
    """The tile of a record's metadata entry (see `sources.records`), of `size` pixels a side."""
    top, row_size, left, col_size = (float(entry[key]) for key in ("row_min", "row_size", "col_min", "col_size"))
    return Tile(str(entry["projection_wkt"]), top, row_size, left, col_size, size, size)
