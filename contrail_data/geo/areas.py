"""Areas between two parallels and two meridians, as options and recipes state them."""

Area = tuple[float, float, float, float]
"""South, west, north, east in degrees."""
HOW_TO_STATE = "in degrees, south below north; across 180 degrees, as in 40,170,50,-160, west is above east"


def eastward(area: Area) -> Area:
    """Check an area, and state it so that east is above west.

    Args:
        area: South, west, north, east in degrees. Where west is above east, the area crosses 180 degrees.

    Returns:
        The same area, whose east may be above 180.

    Raises:
        ValueError: If it is empty, not on the Earth, or crosses 180 degrees and more than half of the Earth, as one
            whose west and east were exchanged.
    """
    south, west, north, east = area
    crosses = west > east
    width = east - west + 360 * crosses
    ordered = -90 <= south < north <= 90 and max(abs(west), abs(east)) <= 360
    if not (ordered and 0 < width <= (180 if crosses else 360)):  # NaN fails too
        raise ValueError(f"not an area; give south, west, north, east {HOW_TO_STATE}")
    return south, west, north, west + width
