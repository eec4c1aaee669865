"""Coastlines for maps."""

import numpy as np
import pytest

from contrail_data.geo.coastline import Resolution, coastline


@pytest.mark.parametrize("resolution", ["crude", "low", "intermediate"])
def test_coastlines_lie_on_the_globe_and_do_not_cross_the_date_line(resolution: Resolution) -> None:
    points = coastline(resolution)
    assert (np.nanmax(np.abs(points), axis=0) <= (180, 90)).all()
    steps = np.abs(np.diff(points, axis=0))
    assert np.nanmax(steps[:, 0][np.abs(points[1:, 1]) < 60]) < 10


def test_the_finest_coastline_is_exact_to_a_pixel_and_large_areas_can_be_chosen() -> None:
    miami_beach = np.array([-80.13, 25.79])
    distances = np.abs(coastline() - miami_beach).max(axis=1)
    assert np.nanmin(distances) < 0.03
    assert len(coastline("low", 5000.0)) < len(coastline("low")) / 1.5
