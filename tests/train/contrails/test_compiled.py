"""Compiled steps of the separation of contrails, compared with the same steps in numpy and scipy."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from contrail_train.contrails.axes import fitted_ends, major_axis, through_means
from contrail_train.contrails.pixel_graph import indices_yx, longest_path, path_lengths, steps_between
from contrail_train.contrails.polyline import densified, distances, length_of, points_at
from contrail_train.contrails.regions import label, pixels_of, region_around
from contrail_train.contrails.skeleton import pieces_of, thin
from contrail_train.contrails.valleys import valleys
from helpers import plain_contrails as plain

MASKS = arrays(np.bool_, st.tuples(st.integers(1, 24), st.integers(1, 24)))
SEEDS = st.integers(0, 2**32 - 1)


def walk_of(rng: np.random.Generator, points: int) -> np.ndarray:
    """Draw a line that wanders."""
    return np.cumsum(rng.normal(size=(points, 2)), axis=0)


@settings(deadline=None, max_examples=60)
@given(SEEDS, st.integers(2, 40))
def test_axes_are_those_of_numpys_covariance_and_eigenvectors(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    pixels = np.unique(rng.integers(0, 12, (count, 2)), axis=0)
    values = np.linalg.eigvalsh(np.cov(pixels.T, bias=True)) if len(pixels) > 1 else np.zeros(2)
    if values[1] - values[0] > 1e-6:  # a region that extends equally in all directions has no axis
        np.testing.assert_allclose(np.sort(major_axis(pixels), 0), np.sort(plain.major_axis(pixels), 0), atol=1e-9)
    line = walk_of(rng, count + 2)
    np.testing.assert_allclose(fitted_ends(line, 12.0), plain.fitted_ends(line, 12.0), atol=1e-9)


@pytest.mark.parametrize(
    "pixels", [[[0, 0]], [[0, 0], [0, 1], [1, 0], [1, 1]], [[0, 1], [1, 0], [1, 1], [1, 2], [2, 1]]]
)
def test_a_region_without_a_direction_lies_along_its_rows(pixels: list[list[int]]) -> None:
    np.testing.assert_array_equal(major_axis(np.array(pixels)), plain.major_axis(np.array(pixels)))


@settings(deadline=None, max_examples=60)
@given(SEEDS, st.integers(2, 6))
def test_a_line_runs_through_the_means_of_bins(seed: int, bins: int) -> None:
    rng = np.random.default_rng(seed)
    pixels = np.argwhere(rng.random((5, 6 * bins)) < 0.7)
    bin_of = pixels[:, 1] // 6 - rng.integers(0, 2)
    bin_of[rng.random(len(pixels)) < 0.1] = bins
    if len(np.unique(bin_of[(bin_of >= 0) & (bin_of < bins)])) > 1:
        expected = plain.through_means(pixels, bin_of, bins)
        np.testing.assert_allclose(through_means(np.ascontiguousarray(pixels), bin_of, bins), expected, atol=1e-9)


@settings(deadline=None, max_examples=60)
@given(SEEDS, st.integers(1, 200))
def test_points_along_a_line_are_those_of_numpys_interpolation(seed: int, vertices: int) -> None:
    rng = np.random.default_rng(seed)
    line = np.round(walk_of(rng, vertices), int(rng.integers(0, 3)))[:: rng.choice([-1, 1])]
    steps = np.hypot(*np.diff(line, axis=0).T)
    along = np.concatenate([[0.0], np.cumsum(steps)])
    assert length_of(line) == steps.sum()
    np.testing.assert_array_equal(distances(line), along)
    at = rng.uniform(-1, along[-1] + 1, (3, 4))
    np.testing.assert_array_equal(points_at(line, at), np.stack([np.interp(at, along, v) for v in line.T], -1))
    at = np.linspace(0, along[-1], max(2, int(np.ceil(2 * along[-1])) + 1))
    np.testing.assert_array_equal(densified(line), np.stack([np.interp(at, along, v) for v in line.T], -1))


@settings(deadline=None, max_examples=60)
@given(SEEDS, st.tuples(st.integers(1, 20), st.integers(1, 20)), st.sampled_from([np.float32, np.float64]))
def test_valleys_are_those_of_scipys_filters(seed: int, shape: tuple[int, int], dtype: type) -> None:
    rng = np.random.default_rng(seed)
    inside = rng.random(shape) < 0.8
    p = np.where(inside, rng.random(shape), 0).astype(dtype)
    np.testing.assert_array_equal(valleys(p, inside), plain.valleys(p, inside))


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


@settings(deadline=None, max_examples=60)
@given(MASKS)
def test_regions_are_numbered_as_by_scipy(mask: np.ndarray) -> None:
    expected, expected_count = ndimage.label(mask, plain.EIGHT)
    labels, count = label(mask)
    assert labels.dtype == np.int32
    assert count == expected_count
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_array_equal(label(mask.T)[0], ndimage.label(mask.T, plain.EIGHT)[0])
