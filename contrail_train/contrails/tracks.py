"""The same contrail from image to image: instances joined to tracks.

A contrail is expected where the optical flow of the imagery carries its centre line and, from its second sighting,
where its own motion carries it. It is found again in an instance whose line lies along the expected one: what counts is
the share of both lines that is within reach and runs in nearly the same direction. Hungarian assignment chooses the
pairs of an image with the largest sum of shares. Of what is left, an instance along a part of a line that nothing else
continues has split off, and a line along a part of an instance that continues another track has merged into that track.

An image is decided without looking at later ones, so later images change no track of earlier ones.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.ndimage import map_coordinates, median_filter
from scipy.optimize import linear_sum_assignment
from scipy.spatial import KDTree

from contrail_train.contrails.instances import Instances
from contrail_train.contrails.polyline import Points, distances, points_at

Flow = npt.NDArray[np.float32]
"""Displacement (down, right) in pixels of what is at each pixel, (2, y, x)."""
_SMOOTHING = 61
"""Points along a line over which the median of the flow is taken."""


@dataclass(frozen=True, kw_only=True)
class Association:
    """When two sightings are of one contrail. The defaults were chosen with `benchmarks/tracks.py`."""

    reach: float = 5.0
    """Pixels that a line may lie beside where it is expected. A point counts less the farther off it is."""
    turn: float = 45.0
    """Degrees that the line may have turned there."""
    share: float = 0.2
    """Least share of two lines that must lie along each other."""
    part: float = 0.5
    """Least share of a line that must lie along another one to have split off it or merged into it."""
    missed: int = 1
    """Images in a row in which a contrail may be missed."""
    own_motion: bool = True
    """Whether a contrail is also expected where its own motion carries it."""


@dataclass(frozen=True, kw_only=True)
class Sighting:
    """A contrail in one image."""

    image: int
    """Index of the image."""
    index: int
    """Index of the instance in the image's list."""
    step: Points
    """Motion since the sighting before, (down, right) in pixels: across the line as the lines say, along it as the flow
    says. Zero in the first sighting."""


class Began(StrEnum):
    """How a track began."""

    BIRTH = "birth"
    SPLIT = "split"
    """It split off another track."""
    UNKNOWN = "unknown"
    """It was already visible in the first image."""


class Ended(StrEnum):
    """How a track ended."""

    END = "end"
    MERGER = "merger"
    """It merged into another track."""
    UNKNOWN = "unknown"
    """It was still visible in the last image, or may only have been missed there."""


@dataclass(kw_only=True)
class Track:
    """One contrail through the images of a series, from its first sighting to its last."""

    sightings: list[Sighting]
    began: Began
    ended: Ended = Ended.END
    split_from: int | None = None
    """Index of the track that it split off."""
    merged_into: int | None = None
    """Index of the track that it merged into."""


class _Line(NamedTuple):
    """Points about a pixel apart along a centre line."""

    points: Points
    """Rows and columns, (point, 2)."""
    directions: Points
    """Unit vectors, (point, 2)."""


class _Expected(NamedTuple):
    """Where the contrail of a track is expected in the next image."""

    track: int
    line: _Line
    moved: Points
    """Motion since its last sighting, (down, right) in pixels."""
    missed: int


class _Match(NamedTuple):
    """How an expected line and that of an instance lie along each other."""

    share: float
    """Share of both lines that does, weighted by nearness."""
    of_expected: npt.NDArray[np.bool_]
    """Which points of the expected line do."""
    of_instance: npt.NDArray[np.bool_]
    """Which points of the instance's line do."""
    motion: Points
    """Motion since the last sighting, corrected across the line."""


def follow(
    images: Sequence[Instances], flows: Iterable[Flow | None], association: Association | None = None
) -> list[Track]:
    """Join the instances of consecutive images to tracks.

    Args:
        images: The instances of each image, in order of time, on one grid.
        flows: Optical flow from each image to the next, one fewer than images; None where the next one is too much
            later to show the same contrails. They are taken one at a time.
        association: When two sightings are of one contrail; None for the defaults.

    Returns:
        The tracks in order of their first sightings. Each instance is in exactly one track.
    """
    settings = association or Association()
    tracks: list[Track] = []
    expected: list[list[_Expected]] = []
    flow = iter(flows)
    for image, instances in enumerate(images):
        between = next(flow) if image else None
        if between is None:
            _leave_open(tracks, expected)
            expected = []
        else:
            expected = _advanced(expected, between, tracks, settings.own_motion)
        lines = [_resampled(instance.line) for instance in instances.instances]
        first = len(tracks)
        expected = _join(tracks, expected, image, lines, settings)
        if between is None:
            for track in tracks[first:]:
                track.began = Began.UNKNOWN
    _leave_open(tracks, expected)
    return tracks


def _leave_open(tracks: Sequence[Track], expected: Sequence[Sequence[_Expected]]) -> None:
    """Record that nothing is known about the ends of the tracks that are still expected."""
    for each in expected:
        tracks[each[0].track].ended = Ended.UNKNOWN


def _advanced(
    expected: Sequence[Sequence[_Expected]], flow_dyx: Flow, tracks: Sequence[Track], own_motion: bool
) -> list[list[_Expected]]:
    """Where each contrail is expected in the next image: by the flow, and by its own motion if that is known."""
    advanced = []
    for each in expected:
        at = each[0].line.points.T
        flow = np.stack([map_coordinates(part, at, order=1, mode="nearest") for part in flow_dyx], -1)
        options = [_moved(each[0], median_filter(flow.astype(np.float64), (_SMOOTHING, 1), mode="nearest"))]
        sightings = tracks[each[0].track].sightings
        if own_motion and len(sightings) > 1:
            images = sightings[-1].image - sightings[-2].image
            options.append(_moved(each[-1], sightings[-1].step / images))
        advanced.append(options)
    return advanced


def _moved(one: _Expected, motion: Points) -> _Expected:
    points = one.line.points + motion
    return one._replace(line=_Line(points, _directions(points)), moved=one.moved + np.atleast_2d(motion).mean(0))


def _join(
    tracks: list[Track], expected: list[list[_Expected]], image: int, lines: Sequence[_Line], settings: Association
) -> list[list[_Expected]]:
    """Continue and begin tracks with the instances of an image; return where each is before the next step."""
    matches = _matches(expected, lines, settings)
    shares = np.zeros((len(expected), len(lines)))
    for pair, match in matches.items():
        shares[pair] = match.share
    rows, columns = linear_sum_assignment(shares, maximize=True)
    chosen = {int(j): int(i) for i, j in zip(rows, columns, strict=True) if shares[i, j] >= settings.share}
    taken = set(chosen.values())
    track_of = [0] * len(lines)
    for j in range(len(lines)):
        if j in chosen:
            track_of[j] = expected[chosen[j]][0].track
            tracks[track_of[j]].sightings.append(Sighting(image=image, index=j, step=matches[chosen[j], j].motion))
        else:
            track_of[j] = len(tracks)
            parent = _split_from(j, matches, chosen, expected, settings)
            began = Began.BIRTH if parent is None else Began.SPLIT
            first = Sighting(image=image, index=j, step=np.zeros(2))
            tracks.append(Track(sightings=[first], began=began, split_from=parent))
    remaining = []
    for i, each in enumerate(expected):
        if i in taken:
            continue
        into = _merged_into(i, matches, chosen, settings)
        if into is not None:
            tracks[each[0].track].ended, tracks[each[0].track].merged_into = Ended.MERGER, track_of[into]
        elif each[0].missed < settings.missed:
            remaining.append([one._replace(missed=one.missed + 1) for one in each])
    return [[_Expected(track_of[j], line, np.zeros(2), 0)] for j, line in enumerate(lines)] + remaining


def _matches(
    expected: Sequence[Sequence[_Expected]], lines: Sequence[_Line], settings: Association
) -> dict[tuple[int, int], _Match]:
    """The pairs of expected contrails and instances that lie along each other."""
    matches: dict[tuple[int, int], _Match] = {}
    if not lines:
        return matches
    low = np.array([line.points.min(0) for line in lines]) - settings.reach
    high = np.array([line.points.max(0) for line in lines]) + settings.reach
    trees = [KDTree(line.points) for line in lines]
    for i, options in enumerate(expected):
        for one in options:
            points, tree = one.line.points, KDTree(one.line.points)
            close = (low <= points.max(0)).all(1) & (high >= points.min(0)).all(1)
            for j in np.flatnonzero(close).tolist():
                match = _match(one, tree, lines[j], trees[j], settings)
                if match.share > 0 and ((i, j) not in matches or match.share > matches[i, j].share):
                    matches[i, j] = match
    return matches


def _match(one: _Expected, tree: KDTree, line: _Line, line_tree: KDTree, settings: Association) -> _Match:
    weights, nearest = _nearness(one.line, line, line_tree, settings)
    back, _ = _nearness(line, one.line, tree, settings)
    share = (weights.sum() + back.sum()) / (len(weights) + len(back))
    near = weights > 0
    motion = one.moved
    if near.any():
        # The least motion that brings the points onto the line: along a straight line it adds nothing.
        normals = line.directions[nearest[near]][:, ::-1] * (1, -1)
        offsets = ((line.points[nearest[near]] - one.line.points[near]) * normals).sum(-1)
        motion = motion + np.linalg.lstsq(normals, offsets, rcond=0.3)[0]
    return _Match(float(share), near, back > 0, motion)


def _nearness(line: _Line, other: _Line, tree: KDTree, settings: Association) -> tuple[Points, npt.NDArray[np.intp]]:
    """For each point of a line: 1 on the other line to 0 out of reach or across it, and the nearest point there."""
    distance, nearest = tree.query(line.points)
    aligned = np.abs((line.directions * other.directions[nearest]).sum(-1)) >= np.cos(np.radians(settings.turn))
    return np.where(aligned, np.clip(1 - (distance / settings.reach) ** 2, 0, None), 0), nearest


def _split_from(
    j: int,
    matches: dict[tuple[int, int], _Match],
    chosen: dict[int, int],
    expected: Sequence[Sequence[_Expected]],
    settings: Association,
) -> int | None:
    """The track that an instance split off: it lies along a part of a line that the track's own instance does not."""
    best, parent = 0.0, None
    own = {i: j for j, i in chosen.items()}
    for (i, other), match in matches.items():
        if other != j or i not in own:
            continue
        free = match.of_expected & ~matches[i, own[i]].of_expected
        part = match.of_instance.mean() if free.sum() >= settings.part * match.of_expected.sum() else 0.0
        if part >= settings.part and part > best:
            best, parent = part, expected[i][0].track
    return parent


def _merged_into(
    i: int, matches: dict[tuple[int, int], _Match], chosen: dict[int, int], settings: Association
) -> int | None:
    """The instance that a line merged into: it lies along a part of it that the instance's own track does not."""
    best, into = 0.0, None
    for (other, j), match in matches.items():
        if other != i or j not in chosen:
            continue
        free = match.of_instance & ~matches[chosen[j], j].of_instance
        part = match.of_expected.mean() if free.sum() >= settings.part * match.of_instance.sum() else 0.0
        if part >= settings.part and part > best:
            best, into = part, j
    return into


def _resampled(line: Points) -> _Line:
    """Points about a pixel apart along a line."""
    length = distances(line)[-1]
    points = points_at(line, np.linspace(0, length, max(int(np.ceil(length)), 1) + 1))
    return _Line(points, _directions(points))


def _directions(points: Points) -> Points:
    """Unit vectors along a line at each of its points."""
    span = np.gradient(points, axis=0)
    return np.asarray(span / np.maximum(np.hypot(*span.T), 1e-9)[:, np.newaxis])
