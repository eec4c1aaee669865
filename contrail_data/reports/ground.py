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
        degrees = np.stack(self._transformer.transform(*metres.T, direction="INVERSE"), -1)
        return np.where(np.isfinite(degrees), degrees, np.nan)

    @cached_property
    def visible(self) -> tuple[Points, Points]:
        """Fractional columns and rows of some pixels that show the Earth, and their longitude and latitude."""
        columns, rows = (np.linspace(0, n - 1, 33) for n in (self.width, self.height))
        pixels = np.stack(np.meshgrid(columns, rows), -1).reshape(-1, 2)
        degrees = self.to_degrees(pixels)
        seen = np.isfinite(degrees).all(1)
        return pixels[seen], degrees[seen]

    @cached_property
    def extent(self) -> tuple[Points, Points]:
        """A place near the middle, and how far the image extends from there to either side: longitude and latitude."""
        _, degrees = self.visible
        middle = degrees[len(degrees) // 2]
        return middle, np.abs(_turned(degrees - middle)).max(0)

    @cached_property
    def pixel_km(self) -> float:
        """Width of a pixel near the middle, in km."""
        pixels, _ = self.visible
        (west, south), (east, north) = self.to_degrees(pixels[len(pixels) // 2] + np.array([[-0.5, 0], [0.5, 0]]))
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
        metres = np.stack(self._transformer.transform(*degrees[near].T), -1)
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
    for axis, letters, edge in ((0, "EW", ground.height - 0.5), (1, "NS", -0.5)):
        first, last = np.ceil((middle - reach) / step)[axis], np.floor((middle + reach) / step)[axis]
        values = step * np.arange(first, last + 1)
        places = np.empty((len(values), 721, 2))
        places[..., axis] = values[:, np.newaxis]
        places[..., 1 - axis] = np.linspace(*(middle + [[-1], [1]] * (reach + 1))[:, 1 - axis], 721)
        lines = ground.to_pixels(places.reshape(-1, 2)).reshape(places.shape)
        for line in lines:
            axes.plot(*line.T, color="white", linewidth=0.5, alpha=0.6)
        texts = [_degrees(value, letters) for value in values]
        at_edge = [_crossing(line, 1 - axis, edge) for line in lines]
        size = (ground.width, ground.height)[axis]
        shown = [(at, text) for at, text in zip(at_edge, texts, strict=True) if -0.5 <= at <= size - 0.5]
        if len(shown) > 1:
            (axes.set_xticks, axes.set_yticks)[axis](*zip(*shown, strict=True))
            continue
        for line, text in zip(lines, texts, strict=True):
            inside = np.array([0.0, 0.0])
            inside[1 - axis] = (ground.height, ground.width)[axis] / 2
            inside[axis] = _crossing(line, 1 - axis, inside[1 - axis])
            if -0.5 <= inside[axis] <= size - 0.5:
                axes.annotate(text, inside, (2, 2), textcoords="offset points", color="white", path_effects=CASING)


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
