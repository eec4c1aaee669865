"""Charts of the HTML pages, drawn by matplotlib and returned as inline SVG.

One SVG serves light mode, dark mode and print, because its colours become CSS variables of the page. Tooltips are set
as the URL of an artist, the only text that matplotlib writes for each element, and become `<title>` elements.
"""

import io
import math
import re
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

STYLE = Path(__file__).with_name("charts.mplstyle")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
Numbers = npt.NDArray[np.integer[Any]] | npt.NDArray[np.floating[Any]]
_WIDTH, _HEIGHT = 400, 206
STEPS = [1, 2, 5, 10]
"""Steps of round ticks, see `matplotlib.ticker.MaxNLocator`."""


class Colour(StrEnum):
    """Colours that charts may use; each stands for a CSS variable of the page."""

    POSITIVE = "#c77700"
    NEGATIVE = "#8fa3b8"
    SECOND = "#0072b2"
    TEXT = "#1d2228"
    MUTED = "#66707b"
    GRID = "#dfe3e8"
    SEA = "#eef3f7"
    COAST = "#7b8794"
    BACKGROUND = "#fefefe"


def new_axes(width: float = _WIDTH, height: float = _HEIGHT, left: float = 58, bottom: float = 42) -> Axes:
    """Create the axes of one chart; call it, and draw, within `rc_context(fname=STYLE)`.

    Args:
        width: Width of the figure in pixels.
        height: Height of the figure in pixels.
        left: Margin for the labels of the vertical axis, in pixels.
        bottom: Margin for the labels of the horizontal axis, in pixels.

    Returns:
        Axes that fill the figure up to the margins.
    """
    figure = Figure(figsize=(width / 72, height / 72))
    return figure.add_axes((left / width, bottom / height, 1 - (left + 8) / width, 1 - (bottom + 10) / height))


def inline_svg(axes: Axes, description: str) -> Markup:
    """Render the figure of some axes as an SVG element that can stand in an HTML page.

    Args:
        axes: Axes from `new_axes`. Clipping is switched off, so everything drawn must lie within their limits.
        description: What the chart shows, for screen readers.

    Returns:
        The `<svg>` element: deterministic, without scripts, metadata or colours of its own.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    for artist in figure.findobj():
        artist.set_clip_on(False)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    width, height = figure.get_size_inches() * 72
    svg = re.sub(r"(?s)^.*?<svg[^>]*>|<style.*?</style>|<!--.*?-->", "", buffer.getvalue())
    svg = re.sub(r'(?<=<g) id="[^"]*"| transform="rotate\(-0 [^"]*"', "", svg)
    svg = re.sub(r"""<a xlink:href=(["'])(.*?)\1[^>]*>""", r"<g><title>\2</title>", svg).replace("</a>", "</g>")
    svg = re.sub(r'(?<= [dxy]=")[^"]*', lambda numbers: re.sub(r"(\.\d)\d+", r"\1", numbers[0]), svg)
    svg = re.sub(r"\s*\n\s*|<defs/>|<g/>", " ", svg)
    for colour in Colour:
        svg = svg.replace(colour, f"var(--{colour.name.lower()})")
    return Markup(f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(description)}">{svg}')


def bars(
    names: Sequence[str],
    series: Sequence[tuple[Numbers, Colour | Sequence[Colour]]],
    description: str,
    axis_names: tuple[str, str],
    *,
    percent: bool = False,
    mirrored: bool = False,
) -> Markup:
    """Draw bars for one or two series of values.

    Args:
        names: Names of the bars. Of many bars, every third is labelled.
        series: Values (name) and colours of each series; one colour, or one for each bar.
        description: What the chart shows, for screen readers.
        axis_names: Names of the horizontal and the vertical axis, with units.
        percent: Whether the values are shares, to be labelled as per cent.
        mirrored: Draw the second series downwards instead of beside the first.

    Returns:
        The chart as an `<svg>` element.
    """
    width = 0.94 if mirrored else 0.94 / len(series)
    with rc_context(fname=STYLE):
        axes = new_axes()
        for i, (values, colours) in enumerate(series):
            centres = np.arange(len(names)) + (0 if mirrored else (i - (len(series) - 1) / 2) * width)
            drawn = axes.bar(centres, -values if mirrored and i else values, width, color=colours)
            for bar, name, value in zip(drawn, names, values.tolist(), strict=True):
                bar.set_url(f"{name}: {value:.1%}" if percent else f"{name}: {value:,}")
        if mirrored:
            axes.axhline(0, color=Colour.MUTED, linewidth=1)
            axes.spines.bottom.set_visible(False)
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=STEPS, integer=not percent))
        axes.yaxis.set_major_formatter(lambda y, _: f"{100 * y:g}%" if percent else f"{abs(y):,.0f}")
        labelled = range(0, len(names), 3 if len(names) > 12 else 1)
        axes.set_xticks(labelled, [names[i].split(" ")[0] for i in labelled])
        axes.set_xlim(-0.5, max(len(names), 4.4) - 0.5)  # a few bars do not fill the whole width
        axes.set(xlabel=axis_names[0], ylabel=axis_names[1])
        return inline_svg(axes, description)


def histogram(
    counts: Numbers,
    limit: tuple[float, str],
    description: str,
    axis_names: tuple[str, str],
    *,
    logarithmic: bool = False,
) -> Markup:
    """Draw how values in [0, 1] are distributed, and which of them reach a limit.

    Args:
        counts: Numbers of values in bins of equal width, (bin).
        limit: A value and its name. Bins that start at or above it get the colour of positives.
        description: What the chart shows, for screen readers.
        axis_names: Names of the horizontal and the vertical axis, with units.
        logarithmic: Whether the counts are drawn on a logarithmic scale.

    Returns:
        The chart as an `<svg>` element.
    """
    value, name = limit
    starts = np.linspace(0, 1, len(counts), endpoint=False)
    with rc_context(fname=STYLE):
        axes = new_axes()
        colours = [Colour.POSITIVE if start >= value else Colour.NEGATIVE for start in starts]
        bottom = 0.8 if logarithmic else 0  # so that a count of 1 is visible
        drawn = axes.bar(
            starts, np.maximum(counts - bottom, 0), 0.94 / len(counts), bottom, align="edge", color=colours
        )
        for bar, start, count in zip(drawn, starts, counts.tolist(), strict=True):
            bar.set_url(f"from {start:g}: {count:,}")
        if logarithmic:
            axes.set_yscale("log")
            axes.set_ylim(bottom, 2 * max(counts.max(), 1))
            axes.yaxis.set_major_formatter(lambda count, _: f"1e{math.log10(count):.0f}")
        else:
            axes.yaxis.set_major_locator(MaxNLocator(6, steps=STEPS, integer=True))
        axes.set(xlim=(0, 1), xlabel=axis_names[0], ylabel=axis_names[1])
        axes.axvline(min(max(value, 0), 1), color=Colour.TEXT, linewidth=1, linestyle="--")
        side = -1 if value > 0.7 else 1
        axes.annotate(
            f"{name} {value:.3g}",
            (min(max(value, 0), 1), 1),
            (4 * side, 0),
            xycoords=axes.get_xaxis_transform(),
            textcoords="offset points",
            horizontalalignment="left" if side > 0 else "right",
        )
        return inline_svg(axes, description)


def distributions(pixels: Numbers, contrail_pixels: Numbers, bounds: tuple[float, float], description: str) -> Markup:
    """Draw the distribution of a channel over all pixels as an area, and over contrail pixels as a line.

    Each is scaled to its own peak. The lowest and the highest level hold clipped pixels, which would dwarf the rest,
    and are left out. The counts are smoothed because those of the few contrail pixels of a small store are noisy.

    Args:
        pixels: Numbers of pixels by level, (256).
        contrail_pixels: Numbers of labelled contrail pixels by level, (256). All zero: no line is drawn.
        bounds: What the lowest and the highest level stand for, in kelvin.
        description: What the chart shows, for screen readers.

    Returns:
        The chart as an `<svg>` element.
    """
    kernel = np.array([1.0, 2, 3, 2, 1])
    weight = np.convolve(np.ones(127), kernel, "same")  # less of the kernel lies inside at the ends
    low, high = bounds
    kelvin = low + (high - low) * (np.arange(127) * 2 + 1.5) / 255

    def smoothed(counts: Numbers) -> npt.NDArray[np.float64]:
        pairs = np.convolve(counts[1:255].reshape(127, 2).sum(1), kernel, "same") / weight
        return pairs / max(pairs.max(), 1)

    with rc_context(fname=STYLE):
        axes = new_axes(left=24)
        axes.fill_between(kelvin, smoothed(pixels), color=Colour.NEGATIVE, linewidth=0)
        if contrail_pixels.any():
            axes.plot(kelvin, smoothed(contrail_pixels), color=Colour.POSITIVE)
        axes.grid(axis="x")
        axes.set(xlim=(low, high), ylim=(0, 1.02), yticks=[], xlabel="kelvin", ylabel="share of pixels, peak 1")
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=STEPS))
        return inline_svg(axes, description)
