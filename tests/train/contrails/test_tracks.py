"""Contrails joined through images: motion, crossings, misses, splits, mergers; later images change no earlier track."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod, Transformer

from contrail_data.geo.fixed_grid import FixedGrid, Projection
from contrail_train.contrails.instances import Instance, Instances, connected
from contrail_train.contrails.motion import add_tracks, track_ids
from contrail_train.contrails.shapes import trace
from contrail_train.contrails.tracks import Began, Ended, Track, follow

SIZE = 200
Segment = tuple[float, float, float, float]
"""Row and column of both ends."""


def image_of(*segments: Segment) -> Instances:
    instances = [
        Instance(
            number=number,
            line=np.array([segment[:2], segment[2:]], float),
            length=float(np.hypot(segment[2] - segment[0], segment[3] - segment[1])),
            width=3.0,
            orientation=0.0,
            confidence=0.9,
            pixels=10,
        )
        for number, segment in enumerate(segments, 1)
    ]
    return Instances(labels_yx=np.zeros((SIZE, SIZE), np.int32), instances=instances)


def flow_of(down: float, right: float) -> np.ndarray:
    return np.broadcast_to(np.float32([[[down]], [[right]]]), (2, SIZE, SIZE))


def shifted(segment: Segment, down: float, right: float) -> Segment:
    return (segment[0] + down, segment[1] + right, segment[2] + down, segment[3] + right)


def seen(track: Track) -> list[tuple[int, int]]:
    return [(sighting.image, sighting.index) for sighting in track.sightings]


def test_contrails_that_cross_keep_their_tracks() -> None:
    falling, rising = (40, 40, 90, 90), (90, 40, 40, 90)
    images = [image_of(shifted(falling, 0, 6 * t), shifted(rising, 0, 60 - 6 * t)) for t in range(11)]
    tracks = follow(images, [np.zeros((2, SIZE, SIZE), np.float32)] * 10)
    assert [seen(track) for track in tracks] == [[(t, n) for t in range(11)] for n in (0, 1)]
    assert {(track.began, track.ended) for track in tracks} == {(Began.UNKNOWN, Ended.UNKNOWN)}


@given(st.floats(-8, 8), st.floats(-8, 8), st.floats(0, 180))
@settings(max_examples=40)
def test_steps_are_across_the_line_as_it_moves_and_along_it_as_the_flow_says(
    down: float, right: float, degrees: float
) -> None:
    """The flow misses 3 pixels of the motion across the line, which it cannot know better."""
    along = np.array([np.sin(np.radians(degrees)), np.cos(np.radians(degrees))])
    across = along[::-1] * (1, -1)
    start = (*(100 - 30 * along), *(100 + 30 * along))
    images = [image_of(shifted(start, t * down, t * right)) for t in range(3)]
    (track,) = follow(images, [flow_of(*((down, right) - 3 * across))] * 2)
    for sighting in track.sightings[1:]:
        np.testing.assert_allclose(sighting.step, (down, right), atol=0.4)


def test_a_contrail_that_is_missed_once_keeps_its_track_and_twice_does_not() -> None:
    line = (40, 40, 60, 100)
    images = [image_of(shifted(line, 3 * t, 2 * t)) for t in range(7)]
    images[2] = images[4] = images[5] = image_of()
    first, second = follow(images, [flow_of(3, 2)] * 6)
    assert seen(first) == [(0, 0), (1, 0), (3, 0)]
    np.testing.assert_allclose(first.sightings[2].step, (6, 4), atol=0.01)
    assert (first.ended, second.began) == (Ended.END, Began.BIRTH)
    assert seen(second) == [(6, 0)]


def test_splits_and_mergers_are_told_from_births_and_ends() -> None:
    whole, left, right, beside = (50, 20, 50, 100), (50, 20, 50, 62), (50, 70, 50, 100), (54, 20, 54, 100)
    split = follow([image_of(whole), image_of(left, right)], [flow_of(0, 0)])
    assert [(track.began, track.split_from) for track in split] == [(Began.UNKNOWN, None), (Began.SPLIT, 0)]
    merged = follow([image_of(left, right), image_of(whole)], [flow_of(0, 0)])
    assert [(track.ended, track.merged_into) for track in merged] == [(Ended.UNKNOWN, None), (Ended.MERGER, 0)]
    new = follow([image_of(whole), image_of(whole, beside)], [flow_of(0, 0)])
    assert (new[1].began, new[1].split_from) == (Began.BIRTH, None)
    # as the neighbour ends, its instance is not taken for a part of the one that remains
    gone = follow([image_of(whole, beside), image_of(whole), image_of(whole)], [flow_of(0, 0)] * 2)
    assert (gone[1].ended, gone[1].merged_into) == (Ended.END, None)


def test_a_gap_in_time_ends_all_tracks_with_nothing_known() -> None:
    line = image_of((40, 40, 60, 100))
    tracks = follow([line, line, line], [flow_of(0, 0), None])
    assert [seen(track) for track in tracks] == [[(0, 0), (1, 0)], [(2, 0)]]
    assert tracks[0].ended == tracks[1].ended == Ended.UNKNOWN
    assert tracks[1].began == Began.UNKNOWN


@given(st.integers(0, 10_000))
@settings(max_examples=8)
def test_later_images_change_no_track_of_earlier_ones(seed: int) -> None:
    """Lines at random that move, break, vanish and appear; and each instance is in one track."""
    rng = np.random.default_rng(seed)
    images, moving = [], rng.uniform(20, 180, (8, 4))
    for _ in range(6):
        moving = moving + rng.normal((2, -3, 2, -3), 0.7, moving.shape)
        shown = moving[rng.random(len(moving)) < 0.8]
        middle = shown[:4, :2] + 0.5 * (shown[:4, 2:] - shown[:4, :2])
        halves = [np.concatenate([shown[:4, :2], middle - 2], 1), np.concatenate([middle + 2, shown[:4, 2:]], 1)]
        images.append(image_of(*map(tuple, np.concatenate([*halves, shown[4:]]).tolist())))
    flows = [flow_of(2, -3)] * 5
    times = np.datetime64("2024-03-01T12:00") + np.arange(6) * np.timedelta64(10, "m")
    every = follow(images, flows)
    assert sorted(pair for track in every for pair in seen(track)) == [
        (t, n) for t, image in enumerate(images) for n in range(len(image.instances))
    ]
    ids = track_ids(every, times)
    assert len(set(ids)) == len(ids)
    for count in range(1, 6):
        some = follow(images[:count], flows[: count - 1])
        assert track_ids(some, times[:count]) == ids[: len(some)]
        assert [seen(track) for track in some] == [
            [pair for pair in seen(track) if pair[0] < count] for track in every[: len(some)]
        ]
        assert [track.split_from for track in some] == [track.split_from for track in every[: len(some)]]


@pytest.fixture(scope="module")
def drifting() -> list[dict]:
    """Properties of a contrail that grows and drifts by 3 rows down and 4 columns to the right in 10 minutes."""
    grid = FixedGrid(Projection(-75.2), -0.02, 0.09, 56e-6, -56e-6, SIZE, SIZE)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    images, traced = [], []
    for t in range(4):
        along = (rows - 80 - 3 * t) * 0.6 + (columns - 80 - 4 * t) * 0.8
        across = (rows - 80 - 3 * t) * 0.8 - (columns - 80 - 4 * t) * 0.6
        mask = (np.abs(along) <= 20 + 3 * t) & (np.abs(across) <= 1.5)
        images.append(connected(mask, mask * np.float32(0.8)))
        scanned = np.full(SIZE, np.datetime64("2024-03-01T12:00") + t * np.timedelta64(10, "m"))
        traced.append(trace(images[-1], mask * np.float32(0.8), grid, row_time=scanned, satellite="GOES-16"))
    tracks = follow(images, [flow_of(3, 4)] * 3)
    ids = track_ids(tracks, np.datetime64("2024-03-01T12:00") + np.arange(4) * np.timedelta64(10, "m"))
    return [contrail.properties for image in add_tracks(traced, images, tracks, ids, grid) for contrail in image]


def test_speed_and_heading_are_those_of_the_motion_on_the_earth(drifting: list[dict]) -> None:
    """By PROJ: where pixels on the path lie."""
    projection = Projection(-75.2)
    to_degrees = Transformer.from_crs(projection.crs_wkt, "+proj=longlat +ellps=GRS80", always_xy=True)
    rows, columns = np.array([80, 83, 86, 89]), np.array([80, 84, 88, 92])
    x, y = (-0.02 + 56e-6 * columns) * projection.height, (0.09 - 56e-6 * rows) * projection.height
    longitude, latitude = to_degrees.transform(x, y)
    for k, properties in enumerate(drifting):
        first, last = max(k - 1, 0), min(k + 1, 3)
        heading, _, metres = Geod(ellps="GRS80").inv(longitude[first], latitude[first], longitude[last], latitude[last])
        assert properties["speed_m_s"] == pytest.approx(metres / (600 * (last - first)), rel=0.03)
        assert abs((properties["heading_deg"] - heading + 180) % 360 - 180) < 2
    assert 6 < drifting[0]["speed_m_s"] < 25


def test_a_heading_just_west_of_north_is_0_rather_than_360() -> None:
    """One row up in 10 minutes, in the column below the satellite, and a few metres to the west."""
    grid = FixedGrid(Projection(-75.2), -0.004, 0.09, 56e-6, -56e-6, SIZE, SIZE)
    images = [image_of((100 - t, 61.43 - 8e-4 * t, 100 - t, 81.43 - 8e-4 * t)) for t in range(2)]
    for image in images:
        image.labels_yx[100, 61:82] = 1
    time = np.datetime64("2024-03-01T12:00") + np.arange(2) * np.timedelta64(10, "m")
    traced = [
        trace(image, np.ones((SIZE, SIZE), np.float32), grid, row_time=np.full(SIZE, t), satellite="GOES-16")
        for image, t in zip(images, time, strict=True)
    ]
    tracks = follow(images, [flow_of(-1, -8e-4)])
    (first,), (second,) = add_tracks(traced, images, tracks, track_ids(tracks, time), grid)
    assert first.properties["heading_deg"] == second.properties["heading_deg"] == 0


def test_history_and_growth_are_those_of_the_track(drifting: list[dict]) -> None:
    assert {properties["track"] for properties in drifting} == {"20240301T120000-1"}
    assert {properties["first_seen"] for properties in drifting} == {"2024-03-01T12:00:00Z"}
    assert {properties["last_seen"] for properties in drifting} == {"2024-03-01T12:30:00Z"}
    lengths = [properties["length_km"] for properties in drifting]
    assert drifting[1]["length_growth_km_h"] == pytest.approx((lengths[2] - lengths[0]) * 3, abs=0.2)
    assert drifting[1]["length_growth_km_h"] > 30  # 6 pixels in 10 minutes
    assert abs(drifting[1]["width_growth_km_h"]) < 3
