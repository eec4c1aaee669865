"""Charts of lines and points for HTML pages, drawn like those of `charts`."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from contrail_data.reports.charts import STEPS, STYLE, Colour, Numbers, inline_svg, new_axes

_SQUARE = {"width": 350, "height": 350, "left": 44}


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of a chart, with a dot on which one hovers at some or all of its points."""

    x: Numbers
    """Ascending, (point)."""
    y: Numbers
    colour: Colour
    name: str = ""
    """Name in the legend of the chart; empty for none."""
    dots: Sequence[tuple[float, float, str]] = ()
    """Where a dot is drawn, and the text shown on hovering over it."""


@dataclass(frozen=True)
class Marked:
    """A point of a chart that gets a ring and a text next to it."""

    x: float
    y: float
    text: str


def reliability(
    predicted: Numbers, observed: Numbers, weight: Numbers, tooltips: Sequence[str], axis_names: tuple[str, str]
) -> Markup:
    """Draw the observed share of positives over the predicted probability; on the diagonal both are equal.

    Args:
        predicted: Mean predicted probability of each class, (class).
        observed: Share of positives in each class, (class).
        weight: Number of members of each class, (class); larger ones get larger dots.
        tooltips: Text shown on hovering over each dot.
        axis_names: Names of the horizontal and the vertical axis.

    Returns:
        The chart as an `<svg>` element.
    """
    with rc_context(fname=STYLE):
        axes = new_axes(**_SQUARE)
        axes.plot((0, 1), (0, 1), color=Colour.TEXT, linewidth=1, linestyle="--")
        radius = 2 + 5 * np.log10(weight) / np.log10(weight.max() + 1)
        dots = axes.scatter(predicted, observed, (2 * radius) ** 2, color=Colour.POSITIVE, linewidths=0, zorder=3)
        dots.set_urls(list(tooltips))
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel=axis_names[0], ylabel=axis_names[1])
        return inline_svg(axes, f"{axis_names[1]} by {axis_names[0]}")


def curves(
    lines: Sequence[Line],
    marked: Marked | None,
    description: str,
    axis_names: tuple[str, str],
    *,
    unit_square: bool = False,
) -> Markup:
    """Draw lines.

    Args:
        lines: The lines, with at least one point each.
        marked: A point to mark; `None` for none.
        description: What the chart shows, for screen readers.
        axis_names: Names of the horizontal and the vertical axis, with units.
        unit_square: Whether both axes run from 0 to 1 and are equally long. Lines are then steps, each at the height of
            its right end. Otherwise x are whole numbers, such as epochs, and the vertical axis begins at 0.

    Returns:
        The chart as an `<svg>` element.
    """
    with rc_context(fname=STYLE):
        axes = new_axes(**_SQUARE) if unit_square else new_axes()
        for line in lines:
            step = "steps-pre" if unit_square else "default"
            axes.plot(line.x, line.y, color=line.colour, drawstyle=step, label=line.name or None)
            if line.dots:
                x, y, tooltips = zip(*line.dots, strict=True)
                axes.scatter(x, y, 30, color=line.colour, linewidths=0, zorder=3).set_urls(list(tooltips))
        axes.set(xlabel=axis_names[0], ylabel=axis_names[1])
        if unit_square:
            axes.set(xlim=(0, 1), ylim=(0, 1))
        else:
            ends = [float(end(line.x)) for line in lines for end in (np.min, np.max)]
            highest = max(float(np.max(line.y)) for line in lines)
            axes.set(xlim=(min(ends) - 0.5, max(ends) + 0.5), ylim=(0, 1.25 * highest or 1))
            axes.xaxis.set_major_locator(MaxNLocator(8, steps=STEPS, integer=True, min_n_ticks=1))
            axes.yaxis.set_major_locator(MaxNLocator(6, steps=STEPS))
        if marked is not None:
            _mark(axes, marked, falling=unit_square)
        if any(line.name for line in lines):
            axes.legend(loc="upper right", ncols=len(lines), frameon=False, borderaxespad=0, handlelength=1)
        return inline_svg(axes, description)


def _mark(axes: Axes, marked: Marked, *, falling: bool) -> None:
    """Draw a ring around a point, and its text where there is room: above a line that peaks there or that falls."""
    low, high = axes.get_xlim()
    axes.plot(marked.x, marked.y, "o", markersize=9, markerfacecolor="none", color=Colour.TEXT, markeredgewidth=1.5)
    left = marked.x > low + 0.6 * (high - low)
    below = falling and left and marked.y > 0.15
    axes.annotate(
        marked.text,
        (marked.x, marked.y),
        (-8 if left else 8, -8 if below else 8),
        textcoords="offset points",
        color=Colour.TEXT,
        horizontalalignment="right" if left else "left",
        verticalalignment="top" if below else "bottom",
    )
