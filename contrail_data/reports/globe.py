"""Maps of the HTML pages: the Earth as a geostationary satellite sees it, with one mark for each place."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.markers import MarkerStyle
from matplotlib.patches import Circle
from matplotlib.path import Path

from contrail_data.geo.coastline import coastline
from contrail_data.geo.fixed_grid import Projection
from contrail_data.geo.geometry import GOES_EAST_LONGITUDE
from contrail_data.reports.charts import STYLE, Colour, inline_svg, new_axes

Floats = npt.NDArray[np.float64]
CELL = 0.5
"""Size of the cells that records are counted in, in degrees: marks nearer to each other would hide one another."""
_SIDE = 640
_MARGIN = 12
CIRCLE = MarkerStyle("o")
LEFT_HALF = MarkerStyle(Path.wedge(90, 270))
RIGHT_HALF = MarkerStyle(Path.wedge(270, 90))


@dataclass(frozen=True)
class Layer:
    """Marks of one colour on a map, one for each cell with records of the layer."""

    member: npt.NDArray[np.bool_]
    """Whether a record belongs to the layer, (record)."""
    colour: Colour
    marker: MarkerStyle = CIRCLE
    """Or half of a circle."""
    weight: float = 1.0
    """What one record adds to the area of its mark, relative to those of other layers."""


@dataclass(frozen=True)
class RecordMap:
    """A map of records, for a page."""

    svg: Markup
    centre: float
    """Longitude that the map is seen from, in degrees east."""
    hidden: int
    """Number of records on the far side of the Earth."""
    unplaced: int
    """Number of records without a place."""


def view_from(longitude: Floats, latitude: Floats, centre: float) -> tuple[Floats, Floats]:
    """Project places onto the disk of the Earth as seen by a geostationary satellite.

    Args:
        longitude: Degrees east, any shape.
        latitude: Degrees north, of the same shape.
        centre: Longitude of the satellite, in degrees east.

    Returns:
        The coordinates x and y (y points north), both within [-1, 1]; NaN for places that cannot be seen.
    """
    projection = Projection(centre)
    x, y = projection.to_scan_angles(latitude, longitude)
    limb = math.asin(projection.equator_radius / projection.distance)
    return x / limb, y / limb


def _centre_of_view(longitude: Floats, latitude: Floats) -> float:
    """Return the longitude of GOES-East if it sees most of the places, otherwise their mean in steps of 10 degrees."""
    if np.isfinite(view_from(longitude, latitude, GOES_EAST_LONGITUDE)[0]).mean() > 0.5:
        return GOES_EAST_LONGITUDE
    angle = np.radians(longitude)
    return float(round(math.degrees(math.atan2(np.sin(angle).mean(), np.cos(angle).mean())) / 10) * 10)


def record_map(longitude: Floats, latitude: Floats, layers: Sequence[Layer], tooltip: str) -> RecordMap | None:
    """Draw where records are: the area of a mark is proportional to the weight of the records in its cell.

    Args:
        longitude: Degrees east, (record), NaN if unknown.
        latitude: Degrees north, (record), NaN if unknown.
        layers: The marks to draw, from below to above.
        tooltip: Format string of the text shown on hovering over a mark, with one field for the count of each layer.

    Returns:
        The map, or `None` if no record has a place.
    """
    placed = np.isfinite(longitude) & np.isfinite(latitude)
    if not placed.any():
        return None
    centre = _centre_of_view(longitude[placed], latitude[placed])
    places = np.stack([longitude[placed], latitude[placed]], 1)
    cells, cell_of = np.unique(np.rint(places / CELL), axis=0, return_inverse=True)
    counts = np.stack([np.bincount(cell_of[layer.member[placed]], minlength=len(cells)) for layer in layers])
    area = counts * np.array([[layer.weight] for layer in layers])
    radius = np.clip(75 / math.sqrt(len(cells)), 2.5, 9) * np.sqrt(area / area.max())
    radius = np.where(counts > 0, np.maximum(np.rint(radius * 2) / 2, 1), 0)  # few sizes: each is defined once
    x, y = view_from(cells[:, 0] * CELL, cells[:, 1] * CELL, centre)
    visible = np.isfinite(x)
    texts = [
        f"{latitude:.1f}, {longitude:.1f}: {tooltip.format(*numbers)}"
        for (longitude, latitude), numbers in zip((cells * CELL).tolist(), counts.T.tolist(), strict=True)
    ]
    with rc_context(fname=STYLE):
        axes = _globe(centre)
        for size in np.unique(radius)[:0:-1]:  # small marks lie above large ones
            for layer, radii in zip(layers, radius, strict=True):
                shown = visible & (radii == size)
                marks = axes.scatter(x[shown], y[shown], (2 * size) ** 2, marker=layer.marker, zorder=3)
                marks.set(facecolor=layer.colour, edgecolor=Colour.BACKGROUND, linewidth=0.4)
                marks.set_urls([text for text, show in zip(texts, shown, strict=True) if show])
        svg = inline_svg(axes, "map of the records")
    hidden = int((~visible[cell_of]).sum())
    return RecordMap(svg, centre, hidden, int((~placed).sum()))


def _globe(centre: float) -> Axes:
    """Draw coastlines, and a graticule with lines every 20 degrees."""
    axes = new_axes(_SIDE, _SIDE, 0, 0)
    axes.set_position((0, 0, 1, 1))
    axes.set_axis_off()
    limit = _SIDE / (_SIDE - 2 * _MARGIN)
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit))
    axes.add_patch(Circle((0, 0), 1, facecolor=Colour.SEA, edgecolor=Colour.GRID))
    degrees = np.append(np.linspace(-180, 180, 181), np.nan)
    graticule = [np.stack([degrees, np.full(182, parallel)], 1) for parallel in range(-60, 61, 20)]
    graticule += [np.stack([np.full(182, meridian), degrees / 2], 1) for meridian in range(-180, 180, 20)]
    coast = coastline("crude", 2000)
    for points, colour, width in ((np.concatenate(graticule), Colour.GRID, 0.7), (coast, Colour.COAST, 0.8)):
        axes.plot(*view_from(points[:, 0], points[:, 1], centre), color=colour, linewidth=width)
    return axes
