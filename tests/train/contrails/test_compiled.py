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
from contrail_train.contrails.regions import pixels_of
from contrail_train.contrails.skeleton import pieces_of, thin
from helpers import plain_contrails as plain

MASKS = arrays(np.bool_, st.tuples(st.integers(1, 24), st.integers(1, 24)))
SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=60)
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


@settings(max_examples=60)
@given(MASKS)
def test_pieces_are_a_skeleton_without_forks_and_spurs(mask: np.ndarray) -> None:
    padded = np.pad(mask, 1)
    skeleton, radius = thin(padded), ndimage.distance_transform_edt(padded)
    while (spurs := plain.spurs_of(skeleton, plain.forks_of(skeleton), radius)).any():
        skeleton = thin(skeleton & ~spurs)
    lines = skeleton & ~plain.forks_of(skeleton)
    pieces = pieces_of(mask, 180.0)
    assert len(pieces) == ndimage.label(lines, plain.EIGHT)[1]
    pixels = np.array([pixel for piece in pieces for pixel in piece.astype(int).tolist()]).reshape(-1, 2)
    np.testing.assert_array_equal(pixels[np.lexsort(pixels.T[::-1])], np.argwhere(lines) - 1)
    for piece in pieces:
        assert all(np.abs(one - other).max() == 1 for one, other in pairwise(piece))
        assert tuple(piece[0]) <= tuple(piece[-1])


@settings(max_examples=60)
@given(MASKS)
def test_the_pixels_of_regions_are_in_order_of_rows(mask: np.ndarray) -> None:
    labels, _ = ndimage.label(mask, plain.EIGHT)
    labels[labels == 2] = 0
    regions = pixels_of(labels)
    assert len(regions) == (0 if not labels.any() else labels.max())
    for number, pixels in enumerate(regions, 1):
        np.testing.assert_array_equal(pixels, np.argwhere(labels == number))
