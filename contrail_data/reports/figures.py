"""How pictures of records and scans look: panels with outlines, a title and a legend, in two themes.

The layout is exact to the pixel, so that a frame is enlarged by a whole factor and stays sharp.
"""

import io
import math
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import matplotlib.style
import numpy as np
import numpy.typing as npt
from matplotlib import colormaps, rc_context, rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image
from scipy.ndimage import binary_dilation, find_objects

from contrail_data.reports.choices import Theme
from contrail_data.reports.ground import CASING, Ground, draw_ground
from contrail_data.reports.probability_scale import draw_scale, scaled

Mask = npt.NDArray[np.bool_]
RGB = npt.NDArray[np.uint8]

_DPI = 100
_CHARACTER, _LINE, _TITLE_LINE = 7, 15, 20
"""Width and height of a character of a caption, and height of one of the title, pixels."""
_GAP = 8
_DEGREES, _SCALE = 52, 92
"""Room left of a panel for degrees, and right of it for a colour bar, pixels."""
_NEAR_RIGHT, _NEAR_TOP = 0.9, 0.05
"""Shares of width and height of an image, from right of which and above which a name is written to the other side."""
MISSING = np.array([72, 78, 98], np.uint8)
"""Colour of pixels of scans without data: slate, so that it is neither a grey nor likely in a composite."""
_ARROWS = 18
"""Arrows along a panel."""
_STYLES: dict[Theme | None, list[Any]] = {
    None: ["default", dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "ytick.color"), "#808080")],
    Theme.DARK: ["default", "dark_background", {"figure.facecolor": "#181818"}],
    Theme.LIGHT: ["default"],
}


class Mark(StrEnum):
    """What an outline means."""

    LABEL = "label"
    VOTES = "marked by too few annotators"
    PREDICTION = "predicted"

    @property
    def colour(self) -> str:
        """Colour of the outline; of bright ones those farthest from the colours of 155 real ash frames."""
        return {Mark.LABEL: "#ffe600", Mark.VOTES: "#ffffff", Mark.PREDICTION: "#ff00ff"}[self]


@dataclass(frozen=True, kw_only=True)
class Motion:
    """Displacements to draw as arrows, with a legend for their length."""

    flow_dyx: npt.NDArray[np.float32]
    """Pixels (down, right), (2, y, x)."""
    pixels: float
    """Length of the arrow in the legend, pixels of the image."""
    legend: str
    """What that length means."""


@dataclass(frozen=True, kw_only=True)
class Trace:
    """An object that moves: its outline, where it came from, and its name."""

    mask: Mask
    """Where it is, (y, x)."""
    path: npt.NDArray[np.float64]
    """Where its middle was before and is now, rows and columns, (point, 2)."""
    label: str
    colour: tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """An image with what is drawn over it."""

    image: npt.NDArray[Any]
    """Colours, uint8 (y, x, 3), or probabilities, float (y, x), NaN where nothing was predicted."""
    width: int
    """Width in the picture, pixels."""
    caption: str = ""
    outlines: Mapping[Mark, Mask] = field(default_factory=dict)
    """Masks to outline, (y, x); the last one lies on top."""
    ground: Ground | None = None
    """Where the pixels are on the Earth, to draw coastlines, a graticule and a scale."""
    threshold: float | None = None
    """Threshold of probabilities, which then get a colour bar, even in the logit."""
    motion: Motion | None = None
    traces: Sequence[Trace] = ()

    @property
    def height(self) -> int:
        """Height in the picture, pixels."""
        return round(self.width * self.image.shape[0] / self.image.shape[1])

    @property
    def margins(self) -> tuple[int, int, int]:
        """Room left of the image, right of it and below it, pixels."""
        return (
            _DEGREES * (self.ground is not None),
            _SCALE * (self.threshold is not None),
            20 * (self.ground is not None or self.motion is not None),
        )

    @property
    def lines(self) -> list[str]:
        """The caption in lines that fit."""
        room = max(1, self.width // _CHARACTER)
        return [part for line in self.caption.split("\n") for part in textwrap.wrap(line, room)]


def enlarged(width: int, target: int) -> int:
    """Find the width of an image that is enlarged by a whole factor.

    Args:
        width: Width of the image, pixels.
        target: Width to come near to, pixels.

    Returns:
        The width; that of the image itself if it is larger.
    """
    return width * max(1, round(target / width))


def draw_picture(
    rows: Sequence[Sequence[Panel]], *, title: str = "", marks: Collection[Mark] = (), theme: Theme | None = None
) -> Image.Image:
    """Draw rows of panels.

    Args:
        rows: The panels.
        title: Title above the rows; it may hold line breaks.
        marks: The marks to explain in a legend.
        theme: Colours of text and background; `None` for a transparent background.

    Returns:
        The picture.
    """
    sizes = [_row_size(row) for row in rows]
    border = 0 if theme is None else _GAP
    width = max(row_width for row_width, _, _ in sizes) + 2 * border
    lines = [part for line in title.split("\n") for part in textwrap.wrap(line, max(1, width // 9))]
    top = _TITLE_LINE * (len(lines) + bool(marks)) + _GAP * bool(lines or marks)
    height = top + sum(caption + below for _, caption, below in sizes) + _GAP * (len(rows) - 1) + border
    with matplotlib.style.context(_STYLES[theme]), rc_context({"font.size": 8, "text.parse_math": False}):
        figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
        canvas = FigureCanvasAgg(figure)
        figure.text(_GAP / width, 1 - _GAP / 2 / height, "\n".join(lines), size=11, linespacing=1.25, va="top")
        if marks:
            handles = [_casing(Line2D([], [], color=mark.colour, label=mark.value)) for mark in marks]
            below_title = (0, 1 - _TITLE_LINE * len(lines) / height)
            figure.legend(
                handles=handles, ncols=len(marks), loc="upper left", bbox_to_anchor=below_title, frameon=False
            )
        for row, (_, caption, below) in zip(rows, sizes, strict=True):
            left = border
            for panel in row:
                before, after, _ = panel.margins
                left += before
                bottom = height - top - caption - panel.height
                place = (left / width, bottom / height, panel.width / width, panel.height / height)
                corner = ((left + 2) / width, (bottom + panel.height + 3) / height)
                figure.text(*corner, "\n".join(panel.lines), family="monospace", linespacing=1.2)
                _draw_panel(figure.add_axes(place), panel)
                left += panel.width + after + _GAP
            top += caption + below + _GAP
        if theme is None:
            figure.patch.set_alpha(0)
        canvas.draw()
        picture = Image.fromarray(np.asarray(canvas.buffer_rgba()))
    return picture if theme is None else picture.convert("RGB")


def encode_png(picture: Image.Image) -> bytes:
    """Encode a picture.

    Args:
        picture: The picture.

    Returns:
        The content of a PNG file.
    """
    buffer = io.BytesIO()
    picture.save(buffer, "png")
    return buffer.getvalue()


def _row_size(row: Sequence[Panel]) -> tuple[int, int, int]:
    """Width of a row, height of its captions, and height of what is below them."""
    width = sum(panel.width + sum(panel.margins[:2]) + _GAP for panel in row) - _GAP
    caption = max(len(panel.lines) for panel in row)
    return width, caption * _LINE + 3 * bool(caption), max(panel.height + panel.margins[2] for panel in row)


def _draw_panel(axes: Axes, panel: Panel) -> None:
    rows, columns = panel.image.shape[:2]
    factor = max(1, math.ceil(columns / panel.width))
    image, norm = panel.image, None
    if panel.threshold is not None:
        image, norm = scaled(image, panel.threshold)
    elif factor > 1:
        image = np.asarray(Image.fromarray(image).reduce(factor))
    extent = (-0.5, columns - 0.5, rows - 0.5, -0.5)
    colours = colormaps["inferno"].with_extremes(bad="#" + MISSING.tobytes().hex())
    drawn = axes.imshow(image, extent=extent, norm=norm, cmap=colours, aspect="auto", interpolation="nearest")
    for mark, mask in panel.outlines.items():
        _outline(axes, mask, mark.colour, factor)
    for trace in panel.traces:
        _draw_trace(axes, trace, factor)
    axes.set(xlim=extent[:2], ylim=extent[2:], xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    if panel.ground is not None:
        draw_ground(axes, panel.ground)
    if panel.motion is not None:
        _draw_motion(axes, panel.motion)
    if panel.threshold is not None:
        draw_scale(drawn, panel.width, panel.threshold)


def _draw_motion(axes: Axes, motion: Motion) -> None:
    """Draw an arrow for each cell of a grid, and below the image that of the legend, which is as long as two cells."""
    rows, columns = motion.flow_dyx.shape[1:]
    step = max(1, round(columns / _ARROWS))
    y, x = np.mgrid[step // 2 : rows : step, step // 2 : columns : step]
    down, right = motion.flow_dyx[:, y, x]
    arrows = axes.quiver(
        *(x, y, right, down),
        angles="xy",
        scale_units="xy",
        scale=motion.pixels / (2 * step),
        color="white",
        width=0.0025,
        headwidth=4,
        headlength=4,
        headaxislength=4,
    )
    colour = rcParams["text.color"]
    axes.quiverkey(_casing(arrows), 0.13, -0.03, motion.pixels, motion.legend, labelpos="E", color=colour)


def _draw_trace(axes: Axes, trace: Trace, factor: int) -> None:
    _outline(axes, trace.mask, trace.colour, factor)
    rows, columns = trace.path.T
    axes.add_line(_casing(Line2D(columns, rows, color=trace.colour, linewidth=1, linestyle=(0, (3, 2)))))
    height, width = trace.mask.shape
    at_right, at_top = columns[-1] > width * _NEAR_RIGHT, rows[-1] < height * _NEAR_TOP  # the label stays in the image
    place: dict[str, Any] = {
        "xy": (columns[-1], rows[-1]),
        "xytext": (-6 if at_right else 6, -6 if at_top else 6),
        "textcoords": "offset pixels",
        "horizontalalignment": "right" if at_right else "left",
        "verticalalignment": "top" if at_top else "baseline",
    }
    _casing(axes.annotate(trace.label, **place, color=trace.colour, size=9, weight="bold", clip_on=True))


def _outline(axes: Axes, mask: Mask, colour: Any, factor: int) -> None:
    """Draw a line around a mask. It runs a pixel away, so that what is marked stays visible."""
    if factor > 1:  # a block is marked if any of its pixels is
        mask = np.asarray(Image.fromarray(mask.astype(np.float32)).reduce(factor)) > 0
    window = find_objects(mask.astype(np.uint8))
    if not window:
        return
    outer = np.pad(binary_dilation(np.pad(mask[window[0]], 1), np.ones((3, 3))), 1)
    y, x = ((np.arange(part.start - 2, part.stop + 2)) * factor + (factor - 1) / 2 for part in window[0])
    _casing(axes.contour(x, y, outer, [0.5], colors=[colour], linewidths=1.2))


def _casing(artist: Any) -> Any:
    """Line an artist with black, so that it stands out on any background."""
    artist.set_path_effects(CASING)
    return artist
