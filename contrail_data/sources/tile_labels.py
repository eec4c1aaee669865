"""Drawn contrails in the pixels of a tile.

A label has no grid of its own. Its shape is taken to where the scan shows it (parallax included), and from there to the
pixels of a tile, so that labels fit the image whatever the size of its pixels.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from contrail_data.errors import UsageError
from contrail_data.geo.fixed_grid import Projection
from contrail_data.geo.geometry import to_geodetic
from contrail_data.scans.tiles import Tile, utm_wkt
from contrail_data.sources.drawn_shapes import Points, with_infinity

Geometries = npt.NDArray[np.object_]
"""Shapely geometries."""
_THIN = 0.4
"""Polygons narrower than this mark every pixel that they touch, as they cover the centres of few; pixels."""
_MARGIN = 1.0
"""Degrees around a tile within which shapes are considered."""
_LIMB = 85.0
"""Satellite zenith angle in degrees up to which shapes are considered; off the Earth, they have no pixels."""
_STEP = 0.02
"""Longest straight piece of a shape in degrees; what is straight on a map is not on a satellite's grid."""


@dataclass(frozen=True)
class LineWidth:
    """Width of a drawn line."""

    number: float
    in_pixels: bool

    @classmethod
    def parse(cls, text: str) -> LineWidth:
        """Parse a width.

        Args:
            text: Such as 4km or 2px.

        Returns:
            The width.

        Raises:
            UsageError: If it is not a width.
        """
        match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(km|px)", text)
        if match is None or not 0 < float(match[1]) <= 200:
            raise UsageError(f"--line-width {text!r}: not a width; give kilometres or pixels, as in 4km or 2px")
        return cls(float(match[1]), match[2] == "px")


@dataclass(frozen=True)
class TileLabels:
    """What was drawn on a tile, in its pixels: columns to the right, rows down from the outer upper left corner."""

    contrails: tuple[Any, ...]
    """Shapely polygons."""
    area: Any | None = None
    """What was looked at; None for the whole tile."""

    def mask(self, height: int, width: int) -> npt.NDArray[np.uint8]:
        """Mark the pixels whose centre a contrail covers; one that is too thin for that marks all that it touches.

        Args:
            height: Rows of the tile.
            width: Columns.

        Returns:
            The mask, (y, x) 0/1.
        """
        thin = [shape for shape in self.contrails if 2 * shape.area < _THIN * shape.length]
        return _burn(self.contrails, height, width) | _burn(thin, height, width, all_touched=True)

    def looked_at(self, height: int, width: int) -> npt.NDArray[np.bool_]:
        """Find the pixels that were looked at.

        Args:
            height: Rows of the tile.
            width: Columns.

        Returns:
            Whether they were, (y, x).
        """
        return np.ones((height, width), bool) if self.area is None else _burn([self.area], height, width) > 0


def _burn(shapes: Sequence[Any], height: int, width: int, *, all_touched: bool = False) -> npt.NDArray[np.uint8]:
    if not shapes:
        return np.zeros((height, width), np.uint8)
    from rasterio.features import rasterize  # takes a while to import, which a build without labels need not wait for

    return np.asarray(rasterize(shapes, out_shape=(height, width), all_touched=all_touched, dtype="uint8"))


class TilePlace:
    """Where a tile lies, for shapes in degrees.

    Args:
        tile: The tile.
        projection: Where the imager looks from.
    """

    def __init__(self, tile: Tile, projection: Projection):
        self.tile, self.projection = tile, projection
        even = np.linspace(0, 1, 33)
        down = np.concatenate([np.zeros(33), np.ones(33), even, even]) * tile.height * tile.row_size
        right = np.concatenate([even, even, np.zeros(33), np.ones(33)]) * tile.width * tile.col_size
        longitude, latitude = to_geodetic(tile.projection_wkt).transform(tile.col_min + right, tile.row_min + down)
        on_earth = np.isfinite(longitude) & np.isfinite(latitude)
        if on_earth.all():
            longitude = longitude[0] + (longitude - longitude[0] + 180) % 360 - 180
            west, east, south, north = longitude.min(), longitude.max(), latitude.min(), latitude.max()
        else:  # the limb crosses the tile, so that its edges do not bound it
            west, east, south, north = projection.longitude - 90, projection.longitude + 90, -90, 90
        middle = (west + east) / 2
        surroundings = shapely.box(west - _MARGIN, south - _MARGIN, east + _MARGIN, north + _MARGIN)
        self.box = shapely.intersection(surroundings, _visible(projection, middle))
        self._metres = to_geodetic(utm_wkt(middle))

    def pieces(self, geometries: Geometries) -> tuple[Geometries, npt.NDArray[np.intp]]:
        """Cut shapes to the surroundings of the tile.

        Args:
            geometries: Shapely lines and polygons in degrees, (n).

        Returns:
            The parts that lie there, of the same dimensions, in short straight pieces; and the index of the shape that
            each is a part of.
        """
        bounds, dimensions = shapely.bounds(geometries).reshape(-1, 4), shapely.get_dimensions(geometries)
        west, south, east, north = self.box.bounds
        parts, owners = [np.empty(0, object)], [np.empty(0, np.intp)]
        for turn in (-360.0, 0.0, 360.0):
            across = (bounds[:, 0] + turn <= east) & (bounds[:, 2] + turn >= west)
            near = np.flatnonzero(across & (bounds[:, 1] <= north) & (bounds[:, 3] >= south))
            moved = shapely.transform(geometries[near], partial(_turned, degrees=turn)) if turn else geometries[near]
            pieces, index = shapely.get_parts(shapely.intersection(moved, self.box), return_index=True)
            owner = near[index]
            alike = (shapely.get_dimensions(pieces) == dimensions[owner]) & ~shapely.is_empty(pieces)
            parts.append(pieces[alike])
            owners.append(owner[alike])
        return shapely.segmentize(np.concatenate(parts), _STEP), np.concatenate(owners)

    def apparent(self, points: Points, altitude: float) -> Points:
        """Take places to where the scan shows them.

        Args:
            points: Longitude and latitude (n, 2).
            altitude: Metres.

        Returns:
            Longitude and latitude (n, 2); infinite where they are not seen.
        """
        latitude, longitude = self.projection.with_parallax(points[:, 1], points[:, 0], altitude)
        return with_infinity(longitude, latitude)

    def to_pixels(self, points: Points) -> Points:
        """Take places to the pixels of the tile.

        Args:
            points: Longitude and latitude (n, 2).

        Returns:
            Columns and rows (n, 2) from the outer upper left corner; infinite where that is not defined.
        """
        rows, columns = self.tile.indices(points[:, 1], points[:, 0])
        return with_infinity(columns + 0.5, rows + 0.5)

    def widened(self, lines: Geometries, width_km: Points, width_px: Points) -> Geometries:
        """Give lines their width.

        Args:
            lines: Shapely lines in degrees, (n).
            width_km: Width of each, 0 if it is stated in pixels.
            width_px: Width of each in pixels, at least 1.

        Returns:
            Polygons in pixels of the tile, (n).
        """
        narrow = shapely.buffer(shapely.transform(lines, self.to_pixels), width_px / 2, cap_style="flat")
        wide = shapely.buffer(shapely.transform(lines, self._to_metres), width_km * 500, cap_style="flat")
        return shapely.union(narrow, shapely.transform(wide, lambda points: self.to_pixels(self._to_degrees(points))))

    def _to_metres(self, points: Points) -> Points:
        return with_infinity(*self._metres.transform(points[:, 0], points[:, 1], direction="INVERSE"))

    def _to_degrees(self, points: Points) -> Points:
        return with_infinity(*self._metres.transform(points[:, 0], points[:, 1]))


def _visible(projection: Projection, near: float) -> Any:
    """Return the outline of what a satellite sees up to `_LIMB`, in degrees of longitude near a meridian."""
    ratio = projection.equator_radius / (projection.equator_radius + projection.height)
    limb = np.deg2rad(_LIMB)
    radius = limb - np.arcsin(ratio * np.sin(limb))  # around the point below the satellite, as an angle
    bearing = np.linspace(0, 2 * np.pi, 361)
    latitude = np.rad2deg(np.arcsin(np.sin(radius) * np.cos(bearing)))
    east = np.rad2deg(np.arctan2(np.sin(radius) * np.sin(bearing), np.cos(radius)))
    centre = near + (projection.longitude - near + 180) % 360 - 180
    return shapely.Polygon(np.stack([centre + east, latitude], -1))


def _turned(points: Points, degrees: float) -> Points:
    return np.asarray(points + np.array([degrees, 0.0]))
