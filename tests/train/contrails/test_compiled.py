"""Compiled steps of the separation of contrails, compared with the same steps in numpy and scipy."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from contrail_train.contrails.axes import major_axis
from contrail_train.contrails.pixel_graph import indices_yx, longest_path, path_lengths, steps_between
from contrail_train.contrails.regions import pixels_of, region_around
from contrail_train.contrails.skeleton import pieces_of, thin
from helpers import plain_contrails as plain

MASKS = arrays(np.bool_, st.tuples(st.integers(1, 24), st.integers(1, 24)))
SEEDS = st.integers(0, 2**32 - 1)


@settings(deadline=None, max_examples=60)
@given(SEEDS, st.integers(2, 40))
def test_the_major_axis_is_that_of_numpys_covariance_and_eigenvectors(seed: int, count: int) -> None:
    points = np.random.default_rng(seed).normal(size=(count, 2)) * [1, 3]
    mean, direction = major_axis(points)
    _, axes = np.linalg.eigh(np.cov(points.T, bias=True))
    np.testing.assert_allclose(mean, points.mean(0))
    assert abs(direction @ axes[:, 1]) > 1 - 1e-9
    assert direction[1] >= 0


@pytest.mark.parametrize(
    "pixels", [[[0, 0]], [[0, 0], [0, 1], [1, 0], [1, 1]], [[0, 1], [1, 0], [1, 1], [1, 2], [2, 1]]]
)
def test_points_without_a_direction_lie_along_their_rows(pixels: list[list[int]]) -> None:
    np.testing.assert_array_equal(major_axis(np.array(pixels))[1], [0, 1])


@settings(deadline=None, max_examples=60)
@given(MASKS)
def test_pieces_are_a_skeleton_without_forks_and_spurs(mask: np.ndarray) -> None:
    radius = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    skeleton = thin(mask)
    while (spurs := plain.spurs_of(skeleton, plain.forks_of(skeleton), radius)).any():
        skeleton = thin(skeleton & ~spurs)
    lines = skeleton & ~plain.forks_of(skeleton)
    pieces = pieces_of(mask, 180.0)
    assert len(pieces) == ndimage.label(lines, plain.EIGHT)[1]
    pixels = np.array([pixel for piece in pieces for pixel in piece.astype(int).tolist()]).reshape(-1, 2)
    np.testing.assert_array_equal(pixels[np.lexsort(pixels.T[::-1])], np.argwhere(lines))
    for piece in pieces:
        assert all(np.abs(one - other).max() == 1 for one, other in pairwise(piece))
        assert tuple(piece[0]) <= tuple(piece[-1])


@settings(deadline=None, max_examples=60)
@given(MASKS)
def test_the_pixels_of_regions_are_in_order_of_rows(mask: np.ndarray) -> None:
    labels, _ = ndimage.label(mask, plain.EIGHT)
    labels[labels == 2] = 0
    regions = pixels_of(labels)
    assert len(regions) == (0 if not labels.any() else labels.max())
    for number, pixels in enumerate(regions, 1):
        np.testing.assert_array_equal(pixels, np.argwhere(labels == number))


@settings(deadline=None, max_examples=60)
@given(MASKS, SEEDS)
def test_a_line_joins_the_pixels_connected_with_its_middle(mask: np.ndarray, seed: int) -> None:
    line = np.random.default_rng(seed).uniform(-6, 30, (1, 2)) + np.outer(np.arange(7), [0.5, 0.7])
    if mask.any():
        joined = np.concatenate([np.argwhere(mask), np.rint(line).astype(int)])
        image = np.zeros(joined.max(0) - joined.min(0) + 1, bool)
        image[tuple((joined - joined.min(0)).T)] = True
        labels, _ = ndimage.label(image, plain.EIGHT)
        region, origin = region_around(np.argwhere(mask), line)
        np.testing.assert_array_equal(origin, joined.min(0))
        middle = tuple(np.rint(line[3]).astype(int) - origin)
        np.testing.assert_array_equal(region, np.argwhere(labels == labels[middle]))


@settings(deadline=None, max_examples=60)
@given(MASKS)
def test_the_longest_path_starts_farthest_from_any_pixel(mask: np.ndarray) -> None:
    pixels = np.ascontiguousarray(np.argwhere(mask))
    if len(pixels):
        image = indices_yx(pixels)
        labels, _ = ndimage.label(mask, plain.EIGHT)
        own = labels[tuple(pixels.T)] == labels[tuple(pixels[0])]
        pixels = np.ascontiguousarray(pixels[own])
        image = indices_yx(pixels)
        start, end, lengths = longest_path(pixels, image)
        assert start == np.argmax(path_lengths(pixels, image, 0))
        np.testing.assert_array_equal(lengths, path_lengths(pixels, image, start))
        assert lengths[end] == lengths.max()


@settings(deadline=None, max_examples=60)
@given(MASKS)
def test_each_pair_of_neighbours_is_listed_once(mask: np.ndarray) -> None:
    pixels = np.ascontiguousarray(np.argwhere(mask))
    steps, others, starts = steps_between(pixels, indices_yx(pixels)) if len(pixels) else ([], [], [0])
    listed = [(i, int(others[k]), float(steps[k])) for i in range(len(pixels)) for k in range(starts[i], starts[i + 1])]
    apart = np.hypot(*(pixels[:, np.newaxis] - pixels).transpose(2, 0, 1)) if len(pixels) else np.zeros((0, 0))
    expected = [(i, j, apart[i, j]) for i, j in np.argwhere(np.triu(apart < 2, 1)).tolist()]
    assert sorted((min(i, j), max(i, j), step) for i, j, step in listed) == sorted(expected)
