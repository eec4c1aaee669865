"""Contrails and their lookalikes in a synthetic scene, and what annotators mark of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from contrail_data.sample import RECORD_LABELLED_FRAME
from contrail_data.synthetic.noise import Field, Rng

Mask = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class Scenery:
    """How often contrails and their lookalikes occur, and how well they can be seen."""

    contrail_share: float
    """Share of records with contrails in the scene; the visible ones among them are labelled."""
    optical_depth: tuple[float, float]
    """Bounds of the factor on the crest's optical depth that the contrails of a group share."""
    depth_spread: float
    """Standard deviation of the logarithm of the optical depth within a group."""
    sigma: tuple[float, float]
    """Bounds of the half-width (standard deviation) of a new contrail, in pixels."""
    latest_birth: float
    """Latest birth of a contrail, in frames after the labelled one."""
    lee_waves: float
    """Mean number of groups of lee waves in the records that have any, per 256 x 256 pixels. They look like contrails
    in a single frame, but stand still in the wind."""
    wind: tuple[float, float] = (1.5, 4.0)
    """Bounds of the wind at the height of the ice, in pixels per frame. 3.3 m/s are 1 pixel of 2 km in 10 minutes."""
    twins: bool = False
    """Whether lee waves have the small crystals of contrails, and hence their colour."""


SCENERIES = {
    "clear": Scenery(
        contrail_share=0.6,
        optical_depth=(1.2, 2.4),
        depth_spread=0.35,
        sigma=(0.9, 1.6),
        latest_birth=1.0,
        lee_waves=0.3,
    ),
    "faint": Scenery(
        contrail_share=0.52,
        optical_depth=(0.5, 1.2),
        depth_spread=0.5,
        sigma=(0.55, 1.0),
        latest_birth=6.0,
        lee_waves=1.2,
    ),
    "moving": Scenery(
        contrail_share=0.9,
        optical_depth=(1.2, 2.4),
        depth_spread=0.35,
        sigma=(0.9, 1.6),
        latest_birth=-3.0,
        lee_waves=8.0,
        wind=(4.0, 9.0),
        twins=True,
    ),
}
"""`clear` is solved by a small model within minutes. `faint` is as hard as real data, and many of its lookalikes can
be distinguished from contrails only by their motion. In `moving` half of the sharp lines at 64 pixels, and
seven in ten at 256, are lee waves of the same colour, which only stand still."""


@dataclass(frozen=True)
class Line:
    """A thin curved object that drifts, spreads and decays. Lengths are in pixels, times in frames."""

    row: float
    """Row of the centre in the labelled frame."""
    column: float
    """Column of the centre in the labelled frame."""
    angle: float
    """Radians from the column axis towards increasing rows."""
    half: float
    """Half of the length."""
    bend: float
    """Amplitude of the quadratic part of the curved axis."""
    wave: float
    """Amplitude of the sinusoidal part of the curved axis."""
    phase: float
    """Phase of the sinusoidal part, in radians."""
    sigma: float
    """Standard deviation of the cross section at birth."""
    growth: float
    """Increase of sigma per frame."""
    tau: float
    """Optical depth of the crest at birth."""
    decay: float
    """Time in which the ice content falls to 1/e."""
    birth: float
    """Frame of birth."""
    drift: tuple[float, float]
    """Rows and columns per frame."""
    contrail: bool
    """Whether annotators should mark it."""
    small_crystals: bool = True
    """Whether it has the colour of young contrails."""


_END = 5.0  # largest distance in pixels between the end that an annotator draws and the end of the line


def make_lines(rng: Rng, size: int, streak_angle: float, wind: tuple[float, float], scenery: Scenery) -> list[Line]:
    """Draw the lines of a scene at random.

    There are groups of nearly parallel contrails, or none, and two kinds of lookalikes: wide fuzzy streaks of cirrus,
    and groups of lee waves, which look like contrails in a single frame but stand still in the wind.

    Args:
        rng: Random generator of the scene.
        size: Rows and columns of the scene, in pixels.
        streak_angle: Direction of the cirrus streaks, in radians.
        wind: Wind at the height of the ice, in rows and columns per frame.
        scenery: How often lines occur, and how well they can be seen.

    Returns:
        The lines: contrails and lee waves by group, then streaks.
    """
    lines = []
    scale = size / 256
    groups = 1 + int(rng.poisson(1.2 * scale)) if rng.random() < scenery.contrail_share else 0
    waves = int(rng.poisson(scenery.lee_waves * scale)) if rng.random() < 0.6 else 0
    for group in range(groups + waves):
        contrail = group < groups
        angle, spot = rng.uniform(0, np.pi), rng.uniform(0.1, 0.9, 2) * size
        strength = rng.uniform(*scenery.optical_depth)
        for _ in range(rng.geometric(1 / (1 + 4.0 * scale))):
            sigma, birth = rng.uniform(*scenery.sigma), rng.uniform(-7, scenery.latest_birth)
            drift = (wind[0] + rng.normal(0, 0.15), wind[1] + rng.normal(0, 0.15)) if contrail else (0.0, 0.0)
            half = float(np.clip(22 * min(scale, 1) ** 0.5 * rng.lognormal(0, 0.65), 7, 110))
            row, column = spot + rng.normal(0, 28 * min(scale, 2), 2)
            lines.append(
                Line(
                    row=float(row),
                    column=float(column),
                    angle=angle + rng.normal(0, 0.12),
                    half=half,
                    bend=rng.normal(0, 0.04) * half,
                    wave=rng.normal(0, 0.02) * min(half, 30),
                    phase=rng.uniform(0, 2 * np.pi),
                    sigma=sigma,
                    growth=rng.uniform(0.02, 0.14),
                    tau=strength * rng.lognormal(-1.5, scenery.depth_spread),
                    decay=rng.uniform(5, 16),
                    birth=birth,
                    drift=drift,
                    contrail=contrail,
                    small_crystals=contrail or scenery.twins,
                )
            )
    for _ in range(rng.poisson(1.2)):
        half = rng.uniform(15, 70)
        lines.append(
            Line(
                row=rng.uniform(0, size),
                column=rng.uniform(0, size),
                angle=streak_angle + rng.normal(0, 0.3),
                half=half,
                bend=rng.normal(0, 0.15) * half,
                wave=rng.normal(0, 3),
                phase=rng.uniform(0, 2 * np.pi),
                sigma=rng.uniform(2.5, 6),
                growth=0.05,
                tau=rng.uniform(0.03, 0.15),
                decay=40.0,
                birth=-10.0,
                drift=wind,
                contrail=False,
                small_crystals=False,
            )
        )
    return lines


def _near(
    line: Line, shape: tuple[int, int], frame: float, reach: float, shift: tuple[float, float] = (0.0, 0.0)
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """List the pixels within `reach` across the line, each once.

    Returns rows, columns, and the distances along the line from its centre and across it from its curved axis. `shift`
    moves the line by rows and columns.
    """
    uy, ux = math.sin(line.angle), math.cos(line.angle)
    t = frame - RECORD_LABELLED_FRAME
    row, column = line.row + line.drift[0] * t + shift[0], line.column + line.drift[1] * t + shift[1]
    steep = abs(uy) > abs(ux)
    (major, minor), (um, un) = ((row, column), (uy, ux)) if steep else ((column, row), (ux, uy))
    span = (line.half + reach + _END) * abs(um)
    first = max(math.floor(major - span), 0)
    last = min(math.ceil(major + span), shape[0 if steep else 1] - 1)
    m = np.arange(first, last + 1)[:, None]
    side = -um if steep else um  # of the unit vector across the line, (ux, -uy) in (rows, columns)
    centre = minor + (m - major) * (un / um) + _axis(line, (m - major) / um) / side
    k = math.ceil(reach / abs(um)) + 1
    other = np.rint(centre).astype(np.intp) + np.arange(-k, k + 1)
    rows, columns = np.broadcast_arrays(*((m, other) if steep else (other, m)))
    inside = (other >= 0) & (other < shape[1 if steep else 0])
    rows, columns = rows[inside], columns[inside]
    along = (rows - row) * uy + (columns - column) * ux
    across = (rows - row) * ux - (columns - column) * uy - _axis(line, along)
    return rows, columns, along, across


def axis_points(line: Line, frame: float) -> npt.NDArray[np.float64]:
    """List points along the curved axis of a line, about a pixel apart.

    Args:
        line: The line.
        frame: The frame.

    Returns:
        Fractional rows and columns, float64 (point, 2).
    """
    along = np.linspace(-line.half, line.half, max(round(2 * line.half), 2))
    across = _axis(line, along)
    uy, ux = math.sin(line.angle), math.cos(line.angle)
    centre = np.array([line.row, line.column]) + np.array(line.drift) * (frame - RECORD_LABELLED_FRAME)
    return np.asarray(centre + np.stack([along * uy + across * ux, along * ux - across * uy], -1))


def _axis(line: Line, along: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Distance of the curved axis from the straight one."""
    u = along / line.half
    return np.asarray(line.bend * (u**2 - 1 / 3) + line.wave * np.sin(4 * u + line.phase))


def profile_of(line: Line, frame: float) -> tuple[float, float]:
    """Compute the cross section of a line: spreading dilutes the ice, and the ice decays.

    Args:
        line: The line.
        frame: The frame.

    Returns:
        Optical depth of the crest, 0 before birth, and sigma in pixels.
    """
    age = frame - line.birth
    if age < 0:
        return 0.0, line.sigma
    sigma = line.sigma + line.growth * age
    return line.tau * line.sigma / sigma * math.exp(-age / line.decay), sigma


def draw_line(tau: Field, line: Line, frame: int) -> None:
    """Add the optical depth of a line in a frame to a field.

    Args:
        tau: Optical depth, float32 (y, x); changed in place.
        line: The line.
        frame: The frame.
    """
    depth, sigma = profile_of(line, frame)
    if depth < 0.003:
        return
    rows, columns, along, across = _near(line, (tau.shape[0], tau.shape[1]), frame, 3 * sigma)
    u = along / line.half
    ends = np.clip((1 - np.abs(u)) * line.half / (3 * sigma) + 0.5, 0, 1)
    gaps = 1 + 0.3 * np.sin(line.half / 4 * u + 7 * line.phase)
    tau[rows, columns] += depth * np.exp(-0.5 * (across / sigma) ** 2) * ends * gaps


@dataclass(frozen=True)
class Marks:
    """What the annotators of a record marked."""

    individual: Mask
    """Marks of each annotator, int32 0/1 (y, x, 1, annotator)."""
    lines: list[npt.NDArray[np.bool_]]
    """The same for each line that any of them marked, bool (y, x, annotator)."""


def annotate(rng: Rng, lines: Sequence[Line], contrast: Field, shift: tuple[float, float]) -> Marks:
    """Mark what 4 to 6 annotators see in the labelled frame.

    Each annotator misses faint lines and places ends and edges on their own. A few streaks are taken for contrails by
    some of them.

    Args:
        rng: Random generator of the annotators.
        lines: The lines of the scene.
        contrast: Kelvin by which opaque ice would darken a pixel, (y, x).
        shift: Rows and columns by which labels lie off the image.

    Returns:
        The marks.
    """
    shape = (contrast.shape[0], contrast.shape[1])
    count = int(rng.choice([4, 5, 6], p=[0.7, 0.2, 0.1]))
    marked_lines = []
    for line in lines:
        depth, sigma = profile_of(line, RECORD_LABELLED_FRAME)
        draws = np.clip(rng.normal(size=(count, 5)), -2.5, 2.5)
        streak = rng.random(count) < (0.4 if rng.random() < 0.06 else 0.0)
        # What is visible is decided in the image, without the label shift.
        rows, columns, along, across = _near(line, shape, RECORD_LABELLED_FRAME, 1.0)
        on = (np.abs(across) <= 0.71) & (np.abs(along) <= line.half)
        if on.sum() < 9:  # the labelling guide asks for at least 10 pixels of length
            continue
        marks = np.zeros((*shape, count), np.bool_)
        signal = float(contrast[rows[on], columns[on]].mean()) * -math.expm1(-depth)
        for r in range(count):
            if not (streak[r] if not line.contrail else signal > 2.8 * math.exp(0.3 * draws[r, 0])):
                continue
            width = (0.8 + 0.75 * sigma) * math.exp(0.3 * draws[r, 1])
            rows, columns, along, across = _near(line, shape, RECORD_LABELLED_FRAME, width + 1.25, shift)
            start, stop = -line.half + _END / 2.5 * draws[r, 2], line.half + _END / 2.5 * draws[r, 3]
            marked = (np.abs(across - 0.5 * draws[r, 4]) <= width) & (along >= start) & (along <= stop)
            marks[rows[marked], columns[marked], r] = True
        if marks.any():
            marked_lines.append(marks)
    individual = np.zeros((*shape, 1, count), np.int32)
    for marks in marked_lines:
        individual[:, :, 0] |= marks
    return Marks(individual, marked_lines)
