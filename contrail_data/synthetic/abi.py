"""Synthetic scenes written as the ABI files that NOAA publishes; deterministic by seed, byte for byte."""

import math
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np

from contrail_data.errors import ContrailError
from contrail_data.geo.fixed_grid import FixedGrid, Projection
from contrail_data.storage.files import make_folder, write_atomically
from contrail_data.synthetic.abi_content import PRODUCTS, SATELLITES, AbiContent, file_bytes
from contrail_data.synthetic.lines import SCENERIES
from contrail_data.synthetic.scene import checked_bands, synthesize

STEP = 56e-6
"""Radians between pixels of the 2 km grid. Its centre, the sub-satellite point, is the corner of four pixels."""

_CENTRES = {"GOES-East": (29.5, -90.0), "GOES-West": (33.0, -125.0)}  # the Gulf coast, off California
_TENTHS = {"F": 5708, "C": 1573, "M1": 69, "M2": 69}  # duration of a scan in mode 6, in tenths of a second


def write_abi(
    folder: Path,
    start: np.datetime64,
    *,
    scans: int = 8,
    seed: int = 0,
    satellite: int = 16,
    scene: str = "M1",
    product: str = "L1b",
    bands: Sequence[int] = (11, 14, 15),
    centre: tuple[float, float] | None = None,
    size: tuple[int, int] = (500, 500),
    scenery: str = "clear",
) -> list[Path]:
    """Write the frames of a synthetic scene as scans, 10 minutes apart.

    L1b (radiance) and CMIP (brightness temperature) are one file per scan and band, MCMIP one per scan. Scan i is frame
    i of `synthesize(seed, 0)`. Beside the Earth there is no value. Files with the same name are replaced.

    Args:
        folder: Folder to write into.
        start: Start of the first scan, UTC.
        scans: Number of scans, 1 to 8.
        seed: Seed of the scene.
        satellite: Number of the GOES satellite, 16 to 19.
        scene: F, C, M1 or M2; it sets names and duration only.
        product: L1b, CMIP or MCMIP.
        bands: ABI bands, 8 to 16.
        centre: Latitude and longitude of the image in degrees; None is the Gulf coast for GOES-East, and off California
            for GOES-West.
        size: Rows and columns.
        scenery: A key of `SCENERIES`.

    Returns:
        The files in order of scan and band.

    Raises:
        ContrailError: If the start, the product, the bands or the centre are out of range, or the folder cannot be
            written.
    """
    bands = checked_bands(bands)
    if product not in PRODUCTS:
        raise ContrailError(f"product {product}: not available in synthetic files; give one of {', '.join(PRODUCTS)}")
    if not np.datetime64("2000") <= start < np.datetime64("2100"):  # NaT fails too
        raise ContrailError(f"start {start}: out of range; give a numpy.datetime64 from 2000 to 2099")
    begin = start.astype("datetime64[ms]")
    begin -= begin.astype(np.int64) % 100  # file names have tenths of a second
    grid = abi_grid(satellite, centre, size)
    beside_earth = np.isnan(grid.geodetic()[0])
    record = synthesize(seed, 0, size=max(*size, 32), bands=bands, scenery=SCENERIES[scenery])
    make_folder(folder)
    paths: list[Path] = []
    for scan in range(scans):
        first = begin + np.timedelta64(600_000 * scan, "ms")
        for group in [bands] if product == "MCMIP" else [(band,) for band in bands]:
            # The bands of a scan start together, and end and are published some tenths of a second apart.
            end = first + np.timedelta64(100 * (_TENTHS[scene] + max(group) % 5), "ms")
            times = (first, end, end + np.timedelta64(100 * (55 + 7 * group[0] % 35), "ms"))
            stamps = "_".join(f"{letter}{_stamp(time)}" for letter, time in zip("sec", times, strict=True))
            channel = "" if product == "MCMIP" else f"C{group[0]:02d}"
            paths.append(folder / f"OR_ABI-{PRODUCTS[product]['in_names']}{scene}-M6{channel}_G{satellite}_{stamps}.nc")
            frames = {band: record.bands[band][: size[0], : size[1], scan] for band in group}
            content = AbiContent(
                name=paths[-1].name,
                product=product,
                scene=scene,
                satellite=satellite,
                grid=grid,
                kelvin={band: np.where(beside_earth, np.nan, frame) for band, frame in frames.items()},
                times=times,
            )
            write_atomically(paths[-1], [file_bytes(content)])
    return paths


def abi_grid(
    satellite: int = 16, centre: tuple[float, float] | None = None, size: tuple[int, int] = (500, 500)
) -> FixedGrid:
    """Choose the window of the 2 km fixed grid whose middle is nearest to a place.

    Args:
        satellite: Number of the GOES satellite.
        centre: Latitude and longitude in degrees; None as for `write_abi`.
        size: Rows and columns.

    Returns:
        The grid.

    Raises:
        ContrailError: If the satellite does not see the place.
    """
    craft = SATELLITES[satellite]
    projection = Projection(craft.longitude)
    latitude, longitude = centre = _CENTRES[craft.slot] if centre is None else centre
    x, y = (float(a) for a in projection.to_scan_angles(latitude, longitude))
    if not math.isfinite(x + y) or abs(latitude) > 90:
        raise ContrailError(
            f"centre {centre}: not seen by GOES-{satellite}; give latitude and longitude near {craft.slot}"
        )
    rows, columns = size
    # The centres of pixels lie at odd multiples of half a step.
    left = math.floor(x / STEP - (columns - 1) / 2) + 0.5
    top = math.floor(y / STEP + (rows - 1) / 2) + 0.5
    return FixedGrid(projection, left * STEP, top * STEP, STEP, -STEP, rows, columns)


def _stamp(time: np.datetime64) -> str:
    """Format a time as in file names: YYYYJJJHHMMSSt."""
    moment: datetime = time.astype(object)
    return f"{moment:%Y%j%H%M%S}{moment.microsecond // 100_000}"
