"""Areas between parallels and meridians."""

import math

import pytest

from contrail_data.geo.areas import Area, eastward


@pytest.mark.parametrize(
    ("area", "expected"),
    [
        ((25, -100, 35, -80), (25, -100, 35, -80)),
        ((40, 170, 50, -160), (40, 170, 50, 200)),  # across 180 degrees, as in GeoJSON
        ((40, 170, 50, 200), (40, 170, 50, 200)),
        ((40, -190, 50, -160), (40, -190, 50, -160)),
        ((-90, -180, 90, 180), (-90, -180, 90, 180)),
    ],
)
def test_areas_may_cross_180_degrees(area: Area, expected: Area) -> None:
    assert eastward(area) == expected


@pytest.mark.parametrize(
    "area",
    [
        (50, 170, 40, -160),
        (25, -80, 35, -100),  # west and east were exchanged
        (25, -80, 35, -80),
        (25, -200, 35, 200),
        (-100, 25, -80, 35),  # longitude before latitude
        (25, 100, 35, 400),
        (25, math.nan, 35, 10),
    ],
)
def test_what_is_not_an_area_is_refused(area: Area) -> None:
    with pytest.raises(ValueError, match="not an area; give south, west, north, east in degrees"):
        eastward(area)
