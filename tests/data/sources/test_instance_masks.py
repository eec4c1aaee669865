"""Masks of single contrails are recognised by the shape of their array, and by nothing less."""

from __future__ import annotations

import numpy as np
import pytest

from contrail_data.sources.instance_masks import instance_axes, instance_bits

PLANE, ANNOTATORS = (6, 7), 4


@pytest.mark.parametrize(
    "order",
    [(0, 1, 2, 3), (1, 2, 0, 3), (1, 2, 3, 0), (3, 1, 2, 0), (0, 3, 1, 2)],
    ids=["n y x r", "y x n r", "y x r n", "r y x n", "n r y x"],
)
@pytest.mark.parametrize("instances", [1, 3, 5])
def test_every_order_of_the_axes_gives_the_same_masks(order: tuple[int, ...], instances: int) -> None:
    rng = np.random.default_rng(instances)
    masks_nyxr = rng.integers(-1, 2, (instances, *PLANE, ANNOTATORS), np.int32)
    array = masks_nyxr.transpose(order)
    axes = instance_axes("int32", array.shape, PLANE, ANNOTATORS)
    assert axes is not None
    expected = sum((masks_nyxr[..., r] == 1).astype(np.uint8) << r for r in range(ANNOTATORS))
    np.testing.assert_array_equal(instance_bits(array, axes), expected)


def test_an_axis_of_one_behind_the_columns_is_left_out() -> None:
    masks = np.ones((*PLANE, 1, ANNOTATORS, 2), np.int32)
    axes = instance_axes("int32", masks.shape, PLANE, ANNOTATORS)
    assert axes is not None
    bits = instance_bits(masks, axes)
    assert bits is not None
    assert bits.shape == (2, *PLANE)
    assert (bits == 15).all()


@pytest.mark.parametrize(
    ("dtype", "shape", "annotators"),
    [
        ("float32", (3, 6, 7, 4), 4),
        ("int32", (3, 6, 7), 4),
        ("int32", (3, 7, 6, 4), 4),
        ("int32", (3, 6, 7, 5), 4),
        ("int32", (3, 6, 7, 4), 0),
        ("int32", (6, 7, 6, 7), 7),
        ("int32", (256, 6, 7, 4), 4),
        ("int32", (0, 6, 7, 4), 4),
    ],
)
def test_another_shape_is_not_taken_for_masks(dtype: str, shape: tuple[int, ...], annotators: int) -> None:
    assert instance_axes(dtype, shape, PLANE, annotators) is None


def test_other_values_are_not_masks() -> None:
    array = np.full((3, *PLANE, ANNOTATORS), 2, np.int32)
    axes = instance_axes("int32", array.shape, PLANE, ANNOTATORS)
    assert axes is not None
    assert instance_bits(array, axes) is None
