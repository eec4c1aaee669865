"""The infrared bands, and what they and their differences see.

Numbers and wavelengths are those of GOES-R's ABI. Himawari's AHI has the same numbers and GK-2A's AMI the same order,
at wavelengths that differ by up to 0.3 micrometres.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Band:
    """An infrared band."""

    number: int
    wavelength: float
    """Centre, in micrometres."""
    name: str
    sees: str


BANDS = {
    band.number: band
    for band in (
        Band(8, 6.2, "upper-level water vapour", "humidity around 350 hPa, where contrails form and persist"),
        Band(9, 6.9, "mid-level water vapour", "humidity around 450 hPa; jet streams and dry slots"),
        Band(10, 7.3, "lower-level water vapour", "humidity around 600 hPa; also sulphur dioxide"),
        Band(11, 8.4, "cloud-top phase", "surface and clouds; ice, water, ash and sulphur dioxide absorb differently"),
        Band(12, 9.6, "ozone", "ozone of the stratosphere, in front of surface and clouds"),
        Band(13, 10.3, "clean window", "surface and cloud tops, with the least absorption by water vapour"),
        Band(14, 11.2, "window", "temperature of surface and cloud tops"),
        Band(
            15, 12.3, "dirty window", "surface and cloud tops; water vapour and thin ice cloud absorb more than at 11.2"
        ),
        Band(16, 13.3, "carbon dioxide", "height of clouds, by the carbon dioxide above them"),
    )
}
"""The bands by number."""

_SPLIT_WINDOW = (
    "split window: negative where thin ice cloud, such as contrails, or moist air absorbs more at 12.3; near 0 for "
    "thick cloud; positive for volcanic ash and dust"
)
_PHASE = (
    "cloud phase: negative for thin ice cloud, which absorbs more at the longer wavelength; positive for clear sky, "
    "water cloud and sulphur dioxide"
)
DIFFERENCES = {(15, 14): _SPLIT_WINDOW, (15, 13): _SPLIT_WINDOW, (14, 11): _PHASE, (13, 11): _PHASE}
"""What the difference of two bands sees, by the band and the one that is subtracted."""
