"""The projection of GOES-East."""

from __future__ import annotations

from contrail_data.geo.fixed_grid import Projection

EAST = Projection(-75.0)
