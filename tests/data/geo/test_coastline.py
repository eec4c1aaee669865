"""Coastlines for maps."""

from __future__ import annotations

import numpy as np

from contrail_data.geo.coastline import coastline


def test_coastlines_lie_on_the_globe_and_do_not_cross_the_date_line() -> None:
    lines = coastline()
    for line in lines:
        assert line.shape[1] == 2
        assert (np.abs(line).max(axis=0) <= (180, 90)).all()
        assert np.abs(np.diff(line, axis=0)).max() < 10
    miami_beach = np.array([-80.13, 25.79])
    assert min(np.abs(line - miami_beach).max(axis=1).min() for line in lines) < 0.2


def test_a_tolerance_thins_coastlines() -> None:
    fine, coarse = coastline(), coastline(tolerance=0.25)
    assert sum(map(len, coarse)) < sum(map(len, fine)) / 5
    assert max(np.abs(line).max() for line in coarse) <= 180
