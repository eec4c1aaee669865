"""Masks of single contrails, one per contrail and annotator, recognised by the shape of an array.

The data set's later export has them under a name that we do not know, so the shape must say what they are.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from contrail_data.sample import MAX_INSTANCES
from contrail_data.sources.votes import annotator_bits


class InstanceAxes(NamedTuple):
    """Which axis of an array is which."""

    instance: int
    row: int
    annotator: int
    """The column axis follows the row axis."""


def instance_axes(dtype: str, shape: Sequence[int], plane: Sequence[int], annotators: int) -> InstanceAxes | None:
    """Recognise instance masks by the shape of their array.

    Rows and columns are neighbours. Of the other two axes (a third one of length 1 may follow the columns, as in the
    masks of annotators), the one of as many annotators as the record has is theirs; the last one if both are.

    Args:
        dtype: Name of the array's dtype.
        shape: Its shape.
        plane: Rows and columns of the record.
        annotators: Annotators of the record; 0 if unknown.

    Returns:
        Its axes. None if it is something else.
    """
    rows = [axis for axis in range(len(shape) - 1) if list(shape[axis : axis + 2]) == list(plane)]
    if not dtype.startswith(("int", "uint")) or len(rows) != 1 or not annotators:
        return None
    row = rows[0]
    others = [axis for axis in range(len(shape)) if axis not in (row, row + 1)]
    if len(others) == 3 and row + 2 in others and shape[row + 2] == 1:
        others.remove(row + 2)
    if len(others) != 2 or annotators not in (shape[others[0]], shape[others[1]]):
        return None
    annotator = others[1] if shape[others[1]] == annotators else others[0]
    (instance,) = set(others) - {annotator}
    return InstanceAxes(instance, row, annotator) if 0 < shape[instance] <= MAX_INSTANCES else None


def instance_bits(array: npt.NDArray[Any], axes: InstanceAxes) -> npt.NDArray[np.uint8] | None:
    """Combine the masks of the annotators of each contrail.

    Args:
        array: Masks: 1 where an annotator marked the pixel, -1 where one did not mark the contrail at all, else 0.
        axes: Which axis is which.

    Returns:
        (instance, y, x), bit r is set where annotator r marked the pixel. None if there are other values.

    Raises:
        BadRecord: If there are more annotators than a store holds.
    """
    if array.min() < -1 or array.max() > 1:
        return None
    masks = array.transpose(axes.instance, axes.row, axes.row + 1, axes.annotator, *_single(array, axes))
    return annotator_bits((masks.reshape(masks.shape[:4]) == 1).astype(np.uint8))


def _single(array: npt.NDArray[Any], axes: InstanceAxes) -> list[int]:
    return [axis for axis in range(array.ndim) if axis not in (axes.instance, axes.row, axes.row + 1, axes.annotator)]
