"""Where and when a synthetic record was taken."""

import math
from typing import Any

from contrail_data.geo.geometry import to_geodetic
from contrail_data.scans.tiles import utm_wkt
from contrail_data.synthetic.noise import generator


def metadata(seed: int, index: int, size: int = 256) -> dict[str, Any]:
    """Make the entry of a record in `{split}_metadata.json`.

    Args:
        seed: Seed of the data.
        index: Index of the record.
        size: Rows and columns of the record.

    Returns:
        record_id; projection_wkt; row_min, row_size, col_min, col_size in metres, where row_size is negative and
        (row_min, col_min) is the outer upper-left corner; timestamp of the labelled frame in POSIX seconds.
    """
    rng = generator(seed, index, 0)
    latitude, longitude = site_of(seed, index)
    wkt = utm_wkt(longitude)
    easting, northing = to_geodetic(wkt).transform(longitude, latitude, direction="INVERSE")
    site = generator(seed, round(latitude * 100) + 10_000, round(longitude * 100) + 40_000)
    row_size, col_size = -site.uniform(1900, 2050), site.uniform(1860, 2060)
    start = 1554336000 + 1200 * int(rng.integers(0, 72 * 366))  # 2019-04-04T00:00Z, 20-minute slots, one year
    return {
        # The factor is coprime to the modulus, so no two records of a seed share an id.
        "record_id": str(
            10**15 + (index * 6364136223846793005 + int(generator(seed, 0, 5).integers(2**62))) % (9998 * 10**15 + 2)
        ),
        "projection_wkt": wkt,
        "row_min": round(northing - row_size * size / 2, 3),
        "row_size": round(row_size, 6),
        "col_min": round(easting - col_size * size / 2, 3),
        "col_size": round(col_size, 6),
        "timestamp": float(start),
    }


def site_of(seed: int, index: int) -> tuple[float, float]:
    """Choose the site of a record on the lattice of the data set: about 4.5 degrees of arc, over the Americas.

    Three records in a row share a site.

    Args:
        seed: Seed of the data.
        index: Index of the record.

    Returns:
        Latitude and longitude of the centre of the tile, in degrees.
    """
    rng = generator(seed, index // 3, 1)
    latitude = -41.0 + 4.5 * int(rng.integers(0, 19))
    step = 4.5 / math.cos(math.radians(latitude))
    return latitude, -119.0 + step * int(rng.integers(0, int(87 / step) + 1))
