"""Tiles: the pixel grids that models are trained on, and how to cut them out of a scene.

OpenContrails tiles are north-up UTM grids, resampled bilinearly from the satellite's fixed grid (Ng et al. 2023). A
native tile is a window of the fixed grid itself, without resampling.
"""

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.geo.fixed_grid import FixedGrid
from contrail_data.geo.geometry import Footprint, to_geodetic
from contrail_data.sample import RECORD_SIDE_KM
from contrail_data.scans.resample import interpolate, interpolated, spline_of_scipy, spline_of_weights
from contrail_data.scans.scene import grid_of

Array = npt.NDArray[np.float64]

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
    """Whether the grid is a window of the satellite's own, so that pixels are copied and not resampled."""

    def footprint(self) -> Footprint:
        """Compute where the tile lies.

        Returns:
            The footprint.

        Raises:
            ValueError: If PROJ cannot read the projection, a number is not finite, the tile is empty, or it lies
                outside the projection.
        """
        top, left, row_size, col_size = self.row_min, self.col_min, self.row_size, self.col_size
        if not all(map(math.isfinite, (top, left, row_size, col_size))):
            raise ValueError(f"tile numbers are not finite: rows {top}, {row_size}, columns {left}, {col_size}")
        if self.height < 1 or self.width < 1 or row_size == 0 or col_size == 0:
            raise ValueError(f"empty tile: {self.height} x {self.width} pixels of {row_size} x {col_size}")
        bottom, right = top + row_size * self.height, left + col_size * self.width
        x = np.array([(left + right) / 2, left, right, right, left])
        y = np.array([(top + bottom) / 2, top, top, bottom, bottom])
        transformer = to_geodetic(self.projection_wkt)
        longitude, latitude = transformer.transform(x, y)
        back = transformer.transform(longitude, latitude, direction="INVERSE")
        # Far outside a projection PROJ returns numbers that do not lead back.
        if not np.allclose(back, [x, y], rtol=0, atol=min(abs(row_size), abs(col_size))):
            raise ValueError(f"tile lies outside its projection: rows from {top}, columns from {left}")
        return Footprint(
            latitude=float(latitude[0]),
            longitude=float(longitude[0]),
            corner_latitude=latitude[1:],
            corner_longitude=longitude[1:],
            geotransform=np.array([left, col_size, 0.0, top, 0.0, row_size], np.float64),
            crs_wkt=self.projection_wkt,
        )

    def _on_grid(self, grid: FixedGrid, i: Array, j: Array) -> tuple[Array, Array]:
        """Return rows and columns of a satellite's grid for rows and columns of the tile, all fractional."""
        x, y = self.col_min + (j + 0.5) * self.col_size, self.row_min + (i + 0.5) * self.row_size
        if self.native:
            h = grid.projection.height
            return (y / h - grid.y) / grid.dy, (x / h - grid.x) / grid.dx
        longitude, latitude = to_geodetic(self.projection_wkt).transform(x, y)
        return grid.indices(latitude, longitude)

    def edge_indices(self, grid: FixedGrid) -> tuple[Array, Array]:
        """Find points along the edge of the tile on a satellite's grid.

        Args:
            grid: The grid.

        Returns:
            Fractional rows and columns of the points, (n) each; NaN where not visible.
        """
        low, high = np.zeros(33), np.ones(33)
        even = np.linspace(0, 1, 33)
        i = np.concatenate([low, high, even, even]) * (self.height - 1)
        j = np.concatenate([even, even, low, high]) * (self.width - 1)
        return self._on_grid(grid, i, j)

    def pixel_indices(self, grid: FixedGrid) -> tuple[Array, Array]:
        """Find the pixels of the tile on a satellite's grid.

        Args:
            grid: The grid.

        Returns:
            Fractional rows and columns on the grid, (height, width) each; NaN where not visible.
        """
        if not self.native:
            return interpolated(partial(self._on_grid, grid), self.height, self.width, spline_of_scipy)
        # Whole numbers except for the rounding of metres.
        rows, columns = map(np.rint, self._on_grid(grid, *np.indices((self.height, self.width), np.float64)))
        visible = ~np.isnan(grid.projection.to_geodetic(grid.x + grid.dx * columns, grid.y + grid.dy * rows)[0])
        return np.where(visible, rows, np.nan), np.where(visible, columns, np.nan)

    def indices(self, latitude: npt.ArrayLike, longitude: npt.ArrayLike) -> tuple[Array, Array]:
        """Find places on the tile. Arguments broadcast.

        Args:
            latitude: Degrees north.
            longitude: Degrees east.

        Returns:
            Fractional rows and columns, beyond the range of indices outside the tile; NaN outside the projection.
        """
        x, y = to_geodetic(self.projection_wkt).transform(longitude, latitude, direction="INVERSE")
        x, y = (np.where(np.isfinite(v), v, np.nan) for v in (x, y))
        return (y - self.row_min) / self.row_size - 0.5, (x - self.col_min) / self.col_size - 0.5

    def indices_of(self, grid: FixedGrid) -> tuple[Array, Array]:
        """Find the pixels of a satellite's grid on the tile.

        Args:
            grid: The grid.

        Returns:
            Fractional rows and columns on the tile, (grid.height, grid.width) each; NaN off the Earth, and beyond the
            range of indices outside the tile.
        """

        def _exact(i: Array, j: Array) -> tuple[Array, Array]:
            x, y = grid.x + j * grid.dx, grid.y + i * grid.dy
            if not self.native:
                return self.indices(*grid.projection.to_geodetic(x, y))
            x, y = x * grid.projection.height, y * grid.projection.height
            return (y - self.row_min) / self.row_size - 0.5, (x - self.col_min) / self.col_size - 0.5

        if self.native:
            return _exact(*np.indices((grid.height, grid.width), np.float64))
        return interpolated(_exact, grid.height, grid.width, spline_of_weights)


def utm_wkt(longitude: float) -> str:
    """Return the projection of OpenContrails records: UTM with a false northing of 0 in both hemispheres.

    Args:
        longitude: Degrees east, which selects the zone.

    Returns:
        The projection as well-known text.
    """
    return _UTM.format(meridian=6 * math.floor(longitude / 6) + 3)


def utm_tile(latitude: float, longitude: float, size: int = 256, pixel: float | None = None) -> Tile:
    """Lay a north-up UTM tile around a place.

    The tile is in the zone of its western edge, as in the OpenContrails metadata.

    Args:
        latitude: Degrees north of the centre.
        longitude: Degrees east of the centre.
        size: Rows and columns.
        pixel: Pixel size in metres; None for that of OpenContrails, 500 km / 256.

    Returns:
        The tile.

    Raises:
        ValueError: If UTM is not defined there.
    """
    if not (abs(latitude) <= 84 and abs(longitude) <= 180):  # NaN fails too
        raise ValueError(f"latitude {latitude:g}, longitude {longitude:g}: not in UTM, which ends at 84 degrees")
    step = pixel or RECORD_SIDE_KM * 1000 / 256
    west = longitude - step * size / 2 / (111_320 * math.cos(math.radians(latitude)))
    wkt = utm_wkt(west)
    x, y = to_geodetic(wkt).transform(longitude, latitude, direction="INVERSE")
    return Tile(wkt, y + step * size / 2, -step, x - step * size / 2, step, size, size)


def native_tile(grid: FixedGrid, latitude: float, longitude: float, size: int) -> Tile:
    """Lay a window of a satellite's grid around a place. Pixels beyond the edge of the grid are missing.

    Args:
        grid: The grid.
        latitude: Degrees north of the centre.
        longitude: Degrees east of the centre.
        size: Rows and columns.

    Returns:
        The tile.

    Raises:
        ValueError: If the satellite does not see the place.
    """
    row, column = (float(index) for index in grid.indices(latitude, longitude))
    if not math.isfinite(row + column):
        place, satellite = f"latitude {latitude:g}, longitude {longitude:g}", f"{grid.projection.longitude:g}"
        raise ValueError(f"{place}: not visible from {satellite}")
    top, left = (round(index - (size - 1) / 2) for index in (row, column))
    window = grid.window(top, left, size, size)
    west, col_size, _, north, _, row_size = (float(v) for v in window.geotransform)
    return Tile(grid.projection.crs_wkt, north, row_size, west, col_size, size, size, native=True)


def lattice_sites() -> list[tuple[float, float]]:
    """Return the sites of the OpenContrails lattice: rows from 41 S to 40 N over the Americas, 500 km apart.

    Returns:
        Latitude and longitude in degrees. The lattice was fitted to the 253 sites of the validation metadata, which lie
        within 0.1 degree of it.
    """
    sites = []
    for k in range(19):
        latitude = -41.0 + 4.499 * k
        step = RECORD_SIDE_KM / 111.32 / math.cos(math.radians(latitude))
        first = -119.0 - 0.003 * latitude
        sites += [(latitude, first + step * i) for i in range(int((-30.0 - first) / step) + 1)]
    return sites


def cut(scene: xr.Dataset, tile: Tile) -> npt.NDArray[np.float32]:
    """Cut a tile out of a scene. Only the window that the tile touches is read.

    Args:
        scene: The scene.
        tile: The tile.

    Returns:
        Brightness temperature, (band, height, width, time) float32, kelvin: interpolated bilinearly between four pixels
        of the scene; NaN where one of them that contributes is missing, and off the Earth.
    """
    return cut_window(scene["brightness_temperature"].variable, grid_of(scene), tile)


def cut_window(
    kelvin_tbyx: xr.Variable | npt.NDArray[np.float32], grid: FixedGrid, tile: Tile
) -> npt.NDArray[np.float32]:
    """Cut a tile out of an array on a grid, see `cut`.

    Args:
        kelvin_tbyx: Brightness temperature, (time, band, y, x) float32, kelvin, NaN where missing; read on demand, or
            in memory.
        grid: The grid of its rows and columns.
        tile: The tile.

    Returns:
        Brightness temperature, (band, height, width, time) float32, kelvin.
    """
    rows, columns = tile.pixel_indices(grid)
    times, bands = kelvin_tbyx.shape[:2]
    out = np.full((bands, tile.height, tile.width, times), np.nan, np.float32)
    if (window := grid.window_around(rows, columns)) is None:
        return out
    of_rows, of_columns = window
    source_tbyx = np.ascontiguousarray(kelvin_tbyx[:, :, of_rows, of_columns])
    interpolate(source_tbyx, rows, columns, (of_rows.start, of_columns.start), (grid.height, grid.width), out)
    return out
