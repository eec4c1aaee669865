"""What tests of labels share."""

from __future__ import annotations

from pathlib import Path

import pytest

from contrail_data.geo.fixed_grid import FixedGrid
from contrail_data.scans.abi import open_abi
from contrail_data.scans.scene import grid_of


@pytest.fixture(scope="session")
def grid(scans: Path) -> FixedGrid:
    """The grid of the synthetic scans."""
    return grid_of(open_abi(scans))
