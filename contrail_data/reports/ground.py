"""A map over an image: coastlines, a graticule with its degrees and a scale, in the projection of its pixels."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from pyproj import Geod, Transformer

from contrail_data.geo.coastline import coastline

Points = npt.NDArray[np.float64]
CASING = [withStroke(linewidth=2.2, foreground="black", alpha=0.7)]
"""Lines text and lines on an image with black, so that they stand out on any of its colours."""
_STEPS = (0.5, 1, 2, 5, 10, 15, 20, 30)
"""Degrees between the lines of a graticule."""
_GEOD = Geod(ellps="WGS84")


@dataclass(frozen=True)
class Ground:
    """Where the pixels of an image lie on the Earth."""

    crs_wkt: str
    geotransform: npt.NDArray[np.float64]
    """Six numbers in GDAL's order, without rotation."""
    height: int
    width: int

    @cached_property
    def _transformer(self) -> Transformer:
        return Transformer.from_crs("EPSG:4326", self.crs_wkt, always_xy=True)

    def to_degrees(self, pixels: Points) -> Points:
        """Convert pixels to places.

        Args:
            pixels: Fractional columns and rows, (point, 2).

        Returns:
            Longitude and latitude, (point, 2); NaN beyond the Earth's limb.
        """
        metres = self.geotransform[[0, 3]] + (pixels + 0.5) * self.geotransform[[1, 5]]
        degrees = np.stack(self._transformer.transform(metres[:, 0], metres[:, 1], direction="INVERSE"), -1)
        return np.where(np.isfinite(degrees), degrees, np.nan)

    @cached_property
    def extent(self) -> tuple[Points, Points]:
        """Measure what part of the Earth the image shows.

        Returns:
            Longitude and latitude of a pixel near the middle, (2), and how far the image extends from there, (2).
        """
        columns, rows = (np.linspace(0, n - 1, 33) for n in (self.width, self.height))
        degrees = self.to_degrees(np.stack(np.meshgrid(columns, rows), -1).reshape(-1, 2))
        seen = degrees[np.isfinite(degrees).all(1)]
        middle = seen[len(seen) // 2]
        return middle, np.abs(_turned(seen - middle)).max(0)

    @cached_property
    def pixel_km(self) -> float:
        """Measure a pixel near the middle.

        Returns:
            Its width in km.
        """
        pixel = self.to_pixels(self.extent[0][np.newaxis])
        (west, south), (east, north) = self.to_degrees(pixel + np.array([[-0.5, 0], [0.5, 0]]))
        return float(_GEOD.inv(west, south, east, north)[2] / 1000)

    def to_pixels(self, degrees: Points) -> Points:
        """Convert places to pixels.

        Args:
            degrees: Longitude and latitude, (point, 2).

        Returns:
            Fractional columns and rows, (point, 2); NaN for places out of sight and far outside.
        """
        middle, reach = self.extent
        near = (np.abs(_turned(degrees - middle)) <= reach + 1).all(1)
        pixels = np.full(degrees.shape, np.nan)
        metres = np.stack(self._transformer.transform(degrees[near, 0], degrees[near, 1]), -1)
        pixels[near] = (metres - self.geotransform[[0, 3]]) / self.geotransform[[1, 5]] - 0.5
        return np.where(np.isfinite(pixels), pixels, np.nan)


def draw_ground(axes: Axes, ground: Ground) -> None:
    """Draw coastlines, a graticule and a scale over an image.

    Args:
        axes: Axes in pixels of the image, with the limits set.
        ground: Where they lie.
    """
    visible_km = ground.pixel_km * ground.width / axes.bbox.width
    coast = ground.to_pixels(coastline("intermediate" if visible_km < 3 else "low", (4 * visible_km) ** 2))
    axes.plot(*coast.T, color="white", linewidth=0.8, path_effects=CASING)
    _draw_graticule(axes, ground)
    _draw_scale(axes, ground)


def _draw_graticule(axes: Axes, ground: Ground) -> None:
    """Draw meridians and parallels, labelled at the lower and the left edge, or inside if too few reach it."""
    middle, reach = ground.extent
    step = next((step for step in _STEPS if step >= 2 * reach.max() / 7), _STEPS[-1])
    south_west, north_east = middle - reach, middle + reach
    for axis, letters, set_ticks in ((0, "EW", axes.set_xticks), (1, "NS", axes.set_yticks)):
        values = step * np.arange(np.ceil(south_west[axis] / step), north_east[axis] / step)
        places = np.empty((len(values), 721, 2))
        places[..., axis] = values[:, np.newaxis]
        places[..., 1 - axis] = np.linspace(south_west[1 - axis] - 1, north_east[1 - axis] + 1, 721)
        lines = ground.to_pixels(places.reshape(-1, 2)).reshape(places.shape)
        for line in lines:
            axes.plot(*line.T, color="white", linewidth=0.5, alpha=0.6)
        size, across = (ground.width, ground.height)[axis], (ground.height, ground.width)[axis]
        for level in (across - 0.5 if axis == 0 else -0.5, across / 2):
            places_on_level = [_crossing(line, 1 - axis, level) for line in lines]
            texts = [_degrees(value, letters) for value in values]
            labels = [pair for pair in zip(places_on_level, texts, strict=True) if -0.5 <= pair[0] <= size - 0.5]
            if len(labels) > 1:
                break
        if level != across / 2:
            set_ticks([place for place, _ in labels], [text for _, text in labels])
            continue
        for place, text in labels:
            corner = (place, level) if axis == 0 else (level, place)
            axes.annotate(text, corner, (2, 2), textcoords="offset points", color="white", path_effects=CASING)


def _draw_scale(axes: Axes, ground: Ground) -> None:
    longest = ground.width * ground.pixel_km / 4
    power = 10 ** math.floor(math.log10(longest))
    length = max(factor * power for factor in (1, 2, 5) if factor * power <= longest)
    right, y = 0.96 * ground.width, 0.96 * ground.height
    left = right - length / ground.pixel_km
    axes.plot(
        [left, right], [y, y], color="white", linewidth=2.5, path_effects=[withStroke(linewidth=4, foreground="black")]
    )
    axes.annotate(
        f"{length:g} km",
        ((left + right) / 2, y),
        (0, 4),
        textcoords="offset points",
        ha="center",
        color="white",
        path_effects=CASING,
    )


def _turned(degrees: Points) -> Points:
    """Differences in longitude and latitude, with those in longitude from -180 to 180."""
    return np.stack([(degrees[:, 0] + 180) % 360 - 180, degrees[:, 1]], -1)


def _crossing(line: Points, axis: int, level: float) -> float:
    """The other coordinate where a line first crosses a level; NaN if it does not."""
    beyond = line[:, axis] - level
    with np.errstate(invalid="ignore"):
        steps = np.flatnonzero(beyond[:-1] * beyond[1:] <= 0)
    if not len(steps):
        return math.nan
    i = steps[0]
    share = beyond[i] / (beyond[i] - beyond[i + 1]) if beyond[i] != beyond[i + 1] else 0.0
    return float(line[i, 1 - axis] + share * (line[i + 1, 1 - axis] - line[i, 1 - axis]))


def _degrees(value: float, letters: str) -> str:
    value = (value + 180) % 360 - 180 if letters == "EW" else value
    return f"{abs(value):g}°{letters[int(value < 0)] if value % 180 else ''}"
