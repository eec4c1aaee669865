"""Drawn contrails on scans: which scan a shape belongs to, where a scan was looked at, and the tiles that follow."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from shapely.affinity import translate

from contrail_data.errors import ContrailError, UsageError
from contrail_data.geo.areas import Area, eastward
from contrail_data.geo.fixed_grid import FixedGrid
from contrail_data.geo.geometry import satellite_zenith, to_geodetic
from contrail_data.scans.listing import Scan
from contrail_data.scans.tiles import Tile
from contrail_data.sources.drawn_shapes import DrawnShape
from contrail_data.sources.label_files import DrawnLabels
from contrail_data.sources.tile_labels import Geometries, LineWidth, TileLabels, TilePlace

LINE_WIDTH = "4km"
MAX_ZENITH = 75.0
"""Satellite zenith angle in degrees beyond which no tile is chosen, and labels do not count as looked at."""
_ENOUGH = 0.5
"""Share of a tile that must have been looked at."""
_SHOWN = 0.1
"""Share of a tile that the scan must show."""
_OFF_EDGE = 50
"""Pixels outside a scan within which a label may lie: parallax moves what is seen at its edge."""
_PROBES = 32
"""Places of a tile, along rows and columns, at which it is decided how much of it was looked at."""


@dataclass(frozen=True, kw_only=True)
class LabelRequest:
    """Which labels to draw on tiles, and what they cover."""

    files: Sequence[Path]
    line_width: str | None = None
    """Width of lines that state none, such as 4km or 2px; None for `LINE_WIDTH`."""
    whole_scans: bool = False
    """Whether the labelled scans were looked at everywhere."""
    area: Area | None = None
    """South, west, north and east of where they were looked at, see `eastward`; None if the files have areas."""
    shift: tuple[float, float] = (0.0, 0.0)
    """Pixels down and right by which labels are drawn off the image, to fit a data set whose labels are."""


@dataclass(frozen=True, kw_only=True)
class ScanLabels:
    """The labels of one scan."""

    grid: FixedGrid
    contrails: list[DrawnShape]
    area: Any | None
    """Shapely polygons in degrees; None if the scan was looked at everywhere."""
    line_width: LineWidth
    shift: tuple[float, float] = (0.0, 0.0)
    drawn: set[int] = field(default_factory=set)
    """Indices of the contrails that lie on a tile."""

    @cached_property
    def _geometries(self) -> Geometries:
        return np.array([shape.geometry for shape in self.contrails], object)

    @cached_property
    def _altitudes(self) -> npt.NDArray[np.float64]:
        return np.array([shape.altitude for shape in self.contrails], np.float64)

    @cached_property
    def _widths(self) -> npt.NDArray[np.float64]:
        """Width of lines in km and in pixels, (2, n); they are at least one pixel wide."""
        default = (0.0, self.line_width.number) if self.line_width.in_pixels else (self.line_width.number, 0.0)
        widths = [default if shape.width_km is None else (shape.width_km, 0.0) for shape in self.contrails]
        return np.maximum(np.array(widths, np.float64).reshape(-1, 2), (0.0, 1.0)).T

    def on_tile(self, tile: Tile) -> TileLabels | None:
        """Take the labels to the pixels of a tile.

        Args:
            tile: The tile.

        Returns:
            The labels; None if less than half of what the scan shows of the tile was looked at.
        """
        place = TilePlace(tile, self.grid.projection)
        area = None
        if self.area is not None:
            pieces, _ = place.pieces(np.array([self.area], object))
            area = shapely.union_all(shapely.make_valid(shapely.transform(pieces, place.to_pixels)))
        if self._share_looked_at(tile, area) < _ENOUGH:
            return None
        polygons, owners = self._in_pixels(place)
        on_tile = shapely.intersects(polygons, shapely.box(0, 0, tile.width, tile.height))
        self.drawn.update(owners[on_tile].tolist())
        return TileLabels(tuple(polygons[on_tile]), area)

    def _share_looked_at(self, tile: Tile, area: Any | None) -> float:
        """Return how much was looked at of what the scan shows of a tile; 0 if it hardly shows any of it."""
        rows, columns = ((np.arange(_PROBES) + 0.5) * side / _PROBES for side in (tile.height, tile.width))
        rows, columns = (values.ravel() for values in np.meshgrid(rows, columns, indexing="ij"))
        x, y = tile.col_min + columns * tile.col_size, tile.row_min + rows * tile.row_size
        longitude, latitude = to_geodetic(tile.projection_wkt).transform(x, y)
        with np.errstate(invalid="ignore"):  # off the Earth
            shown = self.grid.contains(*self.grid.indices(latitude, longitude))
            shown &= satellite_zenith(latitude, longitude, self.grid.projection.longitude) <= MAX_ZENITH
        if shown.mean() < _SHOWN:
            return 0.0
        looked_at = shown if area is None else shown & shapely.contains_xy(area, columns, rows)
        return float(looked_at.sum() / shown.sum())

    def _in_pixels(self, place: TilePlace) -> tuple[Geometries, npt.NDArray[np.intp]]:
        """Return the polygons near a tile in its pixels, lines with their width; and which contrail each belongs to."""
        pieces, owners = place.pieces(self._geometries)
        altitudes = self._altitudes[owners]
        for altitude in np.unique(altitudes[altitudes > 0]):
            same = altitudes == altitude
            pieces[same] = shapely.transform(pieces[same], partial(place.apparent, altitude=float(altitude)))
        finite = np.isfinite(shapely.bounds(pieces).reshape(-1, 4)).all(1)
        pieces, owners = pieces[finite], owners[finite]
        is_line = shapely.get_dimensions(pieces) == 1
        in_pixels = np.empty_like(pieces)
        in_pixels[~is_line] = shapely.transform(pieces[~is_line], place.to_pixels)
        in_pixels[is_line] = place.widened(pieces[is_line], *self._widths[:, owners[is_line]])
        down, right = self.shift
        moved = shapely.transform(in_pixels, lambda points: points + np.array([right, down]))
        finite = np.isfinite(shapely.bounds(moved).reshape(-1, 4)).all(1)
        return shapely.make_valid(moved[finite]), owners[finite]

    def sites(self, side_km: float) -> list[tuple[float, float]]:
        """Lay places side by side over what was looked at.

        Args:
            side_km: Side of a tile, km.

        Returns:
            Latitude and longitude in degrees, to 0.01 degree.
        """
        south, west, north, east = self._extent()
        degrees = side_km / 111.32
        rows = max(1, math.ceil((north - south) / degrees - 0.05))
        sites = []
        for row in range(rows):
            latitude = south + (north - south) * (row + 0.5) / rows
            columns = max(1, math.ceil((east - west) * math.cos(math.radians(latitude)) / degrees - 0.05))
            longitudes = west + (east - west) * (np.arange(columns) + 0.5) / columns
            sites += [(round(latitude, 2), round((float(x) + 180) % 360 - 180, 2)) for x in longitudes]
        return sites

    def _extent(self) -> tuple[float, float, float, float]:
        """Return south, west, north and east of what was looked at and is seen."""
        step = max(1, min(self.grid.height, self.grid.width) // 200)
        x, y = (axis[::step] for axis in self.grid.axes())
        latitude, longitude = self.grid.projection.to_geodetic(x[np.newaxis], y[:, np.newaxis])
        centre = self.grid.projection.longitude
        with np.errstate(invalid="ignore"):
            seen = satellite_zenith(latitude, longitude, centre) <= MAX_ZENITH
        if not seen.any():
            return 0.0, centre, 0.0, centre
        east = centre + (longitude[seen] - centre + 180) % 360 - 180
        south, west, north, east = latitude[seen].min(), east.min(), latitude[seen].max(), east.max()
        frame = shapely.box(west, south, east, north)
        if self.area is not None:
            within = [shapely.intersection(translate(self.area, turn), frame) for turn in (-360, 0, 360)]
            if not (joined := shapely.union_all(within)).is_empty:
                west, south, east, north = joined.bounds
        return float(south), float(west), float(north), float(east)


def match_labels(
    request: LabelRequest,
    drawn: DrawnLabels,
    scans: Sequence[Scan],
    chosen: Sequence[Scan] = (),
    *,
    tolerance: float = 5.0,
) -> tuple[dict[Scan, ScanLabels], list[str], list[str]]:
    """Find the scan that each label was drawn on.

    A label belongs to the scan that was under way at its time, or else to the one that starts nearest to it.

    Args:
        request: What the labels cover, and how wide lines are.
        drawn: The shapes.
        scans: The scans.
        chosen: Those that were looked at; empty: all on which a label or an area was drawn.
        tolerance: Maximum difference between the time of a label and the start of a scan that was not under way,
            in minutes.

    Returns:
        The labels of each scan that was looked at, in order of time; one line for each label that fits no scan, and
        for each scan of which nothing says where it was looked at; and notes.

    Raises:
        ContrailError: If no scan has labels.
        UsageError: If the request contradicts the files.
    """
    line_width, areas = _checked(request, drawn.shapes)
    problems: list[str] = []
    contrails_on: dict[Scan, list[DrawnShape]] = {}
    areas_on: dict[Scan, list[DrawnShape]] = {}
    outside: list[str] = []
    others = 0
    for shape in drawn.shapes:
        if shape.time is None:
            continue
        if (scan := scan_at(chosen or scans, shape.time, tolerance)) is not None:
            if shape.is_area or _is_near(shape.geometry, scan.grid):
                (areas_on if shape.is_area else contrails_on).setdefault(scan, []).append(shape)
            else:
                outside.append(
                    f"{shape.where}: lies outside of the scan of {_second(scan.start)}; check its coordinates"
                )
        elif chosen:
            others += not shape.is_area
        else:
            problems.append(f"{shape.where}: no scan of {_second(shape.time)}; add it, or correct the time")
    problems = [*outside, *problems]
    looked_at = set(chosen) or {*contrails_on, *areas_on}
    labels: dict[Scan, ScanLabels] = {}
    for scan in sorted(looked_at, key=lambda scan: scan.start):
        own = [*areas, *(area.geometry for area in areas_on.get(scan, []))]
        if not own and not request.whole_scans:
            remedy = "draw a polygon with the property area=true, or give --label-area"
            problems.append(f"{_second(scan.start)}: nothing states where this scan was looked at; {remedy}")
            continue
        area = None if request.whole_scans else shapely.union_all(own)
        labels[scan] = ScanLabels(
            grid=scan.grid,
            contrails=contrails_on.get(scan, []),
            area=area,
            line_width=line_width,
            shift=request.shift,
        )
    if not labels or (outside and not contrails_on):
        empty = f"{request.files[0]}: holds no labels; draw contrails, each with a property time"
        reason = [*problems, *drawn.problems, "no label states a time" if drawn.shapes else empty][0]
        raise ContrailError(f"--labels: no scan can be labelled: {reason}")
    notes = [f"labels of other times than those requested: {others}"] if others else []
    return labels, list(dict.fromkeys(problems)), notes


def _checked(request: LabelRequest, shapes: Iterable[DrawnShape]) -> tuple[LineWidth, list[Any]]:
    """Return the width of lines that state none, and the areas of all scans; refuse options without effect."""
    line_width = LineWidth.parse(request.line_width or LINE_WIDTH)
    shapes = list(shapes)
    if request.line_width is not None and not any(shape.is_line and shape.width_km is None for shape in shapes):
        raise UsageError("--line-width: has no effect on these labels, in which every line states its width; omit it")
    areas = [shape.geometry for shape in shapes if shape.is_area and shape.time is None]
    if request.area is None and not request.whole_scans:
        return line_width, areas
    if any(shape.is_area for shape in shapes):
        raise UsageError("--label-area: contradicts the areas in the labels, which state what was looked at; omit it")
    if request.area is None:
        return line_width, []
    south, west, north, east = eastward(request.area)
    return line_width, [shapely.box(west, south, east, north)]


def scan_at(scans: Sequence[Scan], time: np.datetime64, tolerance: float) -> Scan | None:
    """Find the scan that shows what was to be seen at a time.

    Args:
        scans: The scans.
        time: The time, UTC.
        tolerance: Maximum difference to the start of a scan that was not under way, in minutes.

    Returns:
        The last scan that was under way, or else the one that starts nearest; None if there is none.
    """
    if under_way := [scan for scan in scans if scan.start <= time <= scan.end]:
        return max(under_way, key=lambda scan: scan.start)
    nearest = min(scans, key=lambda scan: abs(scan.start - time))
    return nearest if abs(nearest.start - time) <= np.timedelta64(round(60 * tolerance), "s") else None


def _is_near(shape: Any, grid: FixedGrid) -> bool:
    """Return whether a scan shows a part of a shape, or nearly so."""
    longitude, latitude = shapely.get_coordinates(shapely.segmentize(shape, 0.1)).T
    rows, columns = grid.indices(latitude, longitude)
    near_rows = (rows > -_OFF_EDGE) & (rows < grid.height + _OFF_EDGE)
    return bool((near_rows & (columns > -_OFF_EDGE) & (columns < grid.width + _OFF_EDGE)).any())


def _second(time: np.datetime64) -> str:
    return str(np.datetime_as_string(time, "s"))
