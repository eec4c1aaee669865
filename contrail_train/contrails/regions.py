"""The pixels of the regions of a label image, as lists of rows and columns."""

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from contrail_train.contrails.pixel_graph import Indices


def pixels_of(labels_yx: npt.NDArray[np.integer]) -> list[Indices]:
    """List the pixels of each region.

    Args:
        labels_yx: Number of the region that each pixel belongs to, (y, x); 0 is the background.

    Returns:
        Rows and columns of the pixels of each region from number 1 on, by rows, (pixel, 2); empty for missing numbers.
    """
    flat = np.flatnonzero(labels_yx > 0)
    numbers = labels_yx.ravel()[flat]
    pixels = np.stack(np.divmod(flat[np.argsort(numbers, kind="stable")], labels_yx.shape[1]), -1)
    ends = np.cumsum(np.bincount(numbers)).tolist()
    return [pixels[start:end] for start, end in pairwise(ends)]
