"""The axis along which points extend most."""

import math

import numpy as np
import numpy.typing as npt

from contrail_train.contrails.polyline import Points


def major_axis(points: npt.NDArray[np.number]) -> tuple[Points, Points]:
    """Find the mean of points and the direction of their largest variance.

    The direction is the eigenvector of the larger eigenvalue of their covariance, in closed form.

    Args:
        points: Rows and columns (point, 2).

    Returns:
        Row and column of the mean (2); a unit vector (2) with a positive or no column, (0, 1) if the variance is the
        same in all directions.
    """
    mean = points.mean(0)
    y, x = (points - mean).T
    angle = math.atan2(2 * (y * x).sum(), (x * x).sum() - (y * y).sum()) / 2
    return mean, np.array([math.sin(angle), math.cos(angle)])
