"""Synthetic scenes written as the ABI files that NOAA publishes; deterministic by seed, byte for byte.

Radiances are Planck's law with the constants of the band: L = fk1 / (exp(fk2 / (bc1 + bc2 T)) - 1).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from contrail_data.errors import ContrailError
from contrail_data.geo.fixed_grid import FixedGrid, Projection
from contrail_data.sample import RECORD_FRAMES
from contrail_data.storage.files import write_atomically
from contrail_data.synthetic.abi_content import (
    BANDS,
    SATELLITES,
    SCENES,
    AbiContent,
    Image,
    extent_of,
    file_bytes,
    packing,
)
from contrail_data.synthetic.lines import SCENERIES
from contrail_data.synthetic.scene import synthesize

STEP = 56e-6
"""Radians between pixels of the 2 km grid. Its centre, the sub-satellite point, is the corner of four pixels."""

Key = tuple[int, int | None]
"""Scan and band; None stands for all bands of the scan."""


class Faults(TypedDict, total=False):
    """Faults that real archives show, by scan and band."""

    wedge: Mapping[Key, float]
    """Share of the columns of the first row without a value (flag 3), falling to none in the last row. An eclipse gives
    each band its own."""
    blocks: Mapping[Key, Sequence[tuple[int, int, int, int, int]]]
    """(flag, top, left, height, width). Flags 1 and 4 keep the value, 2 is saturated, 3 has none."""
    missing: Collection[Key]
    """Files that were not published. For one band of an MCMIP file, its imagery has no value."""
    truncated: Mapping[Key, float]
    """Share of the bytes of a file that exists."""
    duplicated: Collection[Key]
    """Files of which another copy exists, created a minute later, and complete if the first one is truncated."""


_CENTRES = {"GOES-East": (29.5, -90.0), "GOES-West": (33.0, -125.0)}  # the Gulf coast, off California
_PRODUCTS = {"L1b": "L1b-Rad", "CMIP": "L2-CMIP", "MCMIP": "L2-MCMIP"}
_TENTHS = {"F": 5708, "C": 1573, "M1": 69, "M2": 69}  # duration of a scan in mode 6, in tenths of a second
_TENTHS_FULL_DISK = {3: 6367, 4: 2900}  # duration of a full disk in the other modes


def write_abi(
    folder: Path,
    start: np.datetime64,
    *,
    scans: int = 8,
    minutes: int = 10,
    seed: int = 0,
    satellite: int = 16,
    scene: str = "M1",
    product: str = "L1b",
    bands: Sequence[int] = (11, 14, 15),
    centre: tuple[float, float] | None = None,
    size: tuple[int, int] = (500, 500),
    mode: int = 6,
    scenery: str = "clear",
    faults: Faults | None = None,
) -> list[Path]:
    """Write the frames of a synthetic scene as scans.

    L1b (radiance) and CMIP (brightness temperature) are one file per scan and band, MCMIP one per scan. Scan i is frame
    i of `synthesize(seed, 0)`. Beside the Earth there is no value. Files with the same name are replaced.

    Args:
        folder: Folder to write into.
        start: Start of the first scan, UTC.
        scans: Number of scans.
        minutes: Minutes between scans.
        seed: Seed of the scene.
        satellite: Number of the GOES satellite, 16 to 19.
        scene: F, C, M1 or M2; it sets names and duration only.
        product: L1b, CMIP or MCMIP.
        bands: ABI bands, 8 to 16.
        centre: Latitude and longitude of the image in degrees; None is the Gulf coast for GOES-East, and off California
            for GOES-West.
        size: Rows and columns.
        mode: Scan mode 3, 4 or 6; it sets names and attributes only.
        scenery: A key of `SCENERIES`.
        faults: Faults of the files.

    Returns:
        The files in order of scan and band, a duplicate after the first copy.

    Raises:
        ContrailError: If an argument is out of range, or the folder cannot be written.
    """
    faults = faults or {}
    bands = tuple(sorted(bands))
    _check(scans, seed, scene, product, bands, size, mode, scenery)
    _check_faults(faults, scans, bands, size, product)
    begin = _tenth(start)
    duration = _TENTHS_FULL_DISK.get(mode, _TENTHS["F"]) if scene == "F" else _TENTHS[scene]
    if minutes < (least := math.ceil(duration / 600)):
        raise ContrailError(f"minutes {minutes}: a scan of {scene} takes longer; give at least {least}")
    grid = abi_grid(satellite, centre, size)
    latitude, longitude = grid.geodetic()
    off_earth = np.isnan(latitude)
    if off_earth.all():
        raise ContrailError(f"centre {centre}: no pixel there is on the Earth; give one farther from its edge")
    extent = extent_of(grid, latitude, longitude)
    record = synthesize(seed, 0, size=max(*size, 32), bands=bands, scenery=SCENERIES[scenery])
    paths: list[Path] = []
    for scan in range(scans):
        first = begin + np.timedelta64(minutes * 60_000, "ms") * scan
        for group in [bands] if product == "MCMIP" else [(band,) for band in bands]:
            number = None if product == "MCMIP" else group[0]
            if _fault(faults.get("missing", ()), scan, number):
                continue
            # The bands of a scan start together, and end and are published some tenths of a second apart.
            end = first + np.timedelta64(100 * (duration + max(group) % 5), "ms")
            created = end + np.timedelta64(100 * (55 + 7 * group[0] % 35), "ms")
            images = {
                band: _image(record.bands[band][: size[0], : size[1], scan], band, scan, off_earth, product, faults)
                for band in group
            }
            copies = 2 if _fault(faults.get("duplicated", ()), scan, number) else 1
            for copy in range(copies):
                times = (first, end, created + np.timedelta64(60_000 * copy, "ms"))
                prefix = f"OR_ABI-{_PRODUCTS[product]}{scene}-M{mode}{'' if number is None else f'C{number:02d}'}"
                stamps = "_".join(f"{letter}{_stamp(time)}" for letter, time in zip("sec", times, strict=True))
                content = file_bytes(
                    AbiContent(
                        name=f"{prefix}_G{satellite}_{stamps}.nc",
                        product=product,
                        scene=scene,
                        mode=mode,
                        satellite=satellite,
                        grid=grid,
                        extent=extent,
                        images=images,
                        times=times,
                    )
                )
                share = _fault(faults.get("truncated", {}), scan, number)
                if share is not None and copy == 0:
                    content = content[: int(share * len(content))]
                paths.append(folder / f"{prefix}_G{satellite}_{stamps}.nc")
                _write(paths[-1], content)
    return paths


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, [content])
    except OSError as error:
        reason = f"cannot be written ({error.strerror}); check space and permissions"
        raise ContrailError(f"{path.parent}: {reason}") from None


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
        ContrailError: If the satellite carries no ABI or does not see the place.
    """
    if satellite not in SATELLITES:
        raise ContrailError(f"satellite {satellite}: carries no ABI; give one of {', '.join(map(str, SATELLITES))}")
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


def _check(
    scans: int,
    seed: int,
    scene: str,
    product: str,
    bands: Sequence[int],
    size: tuple[int, int],
    mode: int,
    scenery: str,
) -> None:
    for name, value, allowed, remedy in (
        ("scans", scans, 1 <= scans <= RECORD_FRAMES, f"1 to {RECORD_FRAMES}, the frames of a synthetic scene"),
        ("scene", scene, scene in SCENES, f"one of {', '.join(SCENES)}"),
        ("seed", seed, seed >= 0, "0 or more"),
        ("product", product, product in _PRODUCTS, f"one of {', '.join(_PRODUCTS)}"),
        (
            "bands",
            bands,
            bands and len(set(bands)) == len(bands) and set(bands) <= set(BANDS),
            "distinct bands, 8 to 16",
        ),
        ("size", size, len(size) == 2 and all(2 <= n <= 2048 for n in size), "rows and columns from 2 to 2048"),
        ("mode", mode, mode in (3, 4, 6), "3, 4 or 6"),
        ("scenery", scenery, scenery in SCENERIES, f"one of {', '.join(SCENERIES)}"),
    ):
        if not allowed:
            raise ContrailError(f"{name} {value}: not available in synthetic files; give {remedy}")


def _check_faults(faults: Faults, scans: int, bands: Sequence[int], size: tuple[int, int], product: str) -> None:
    if unknown := set(faults) - set(Faults.__annotations__):
        raise ContrailError(f"fault {min(unknown)!r}: unknown; give some of {', '.join(Faults.__annotations__)}")
    for name, cases in faults.items():
        for key in cases:  # type: ignore[attr-defined]
            scan, band = key if isinstance(key, tuple) and len(key) == 2 else (-1, None)
            if not 0 <= scan < scans or (band is not None and band not in bands):
                raise ContrailError(f"fault {name} of {key}: not written; give a scan from 0 and one of the bands")
            if product == "MCMIP" and name in ("truncated", "duplicated") and band is not None:
                raise ContrailError(f"fault {name} of {key}: an MCMIP file holds all bands; give ({scan}, None)")
    for key, share in [*faults.get("wedge", {}).items(), *faults.get("truncated", {}).items()]:
        if not 0 <= share <= 1:
            raise ContrailError(f"fault of {key}: {share} is not a share; give 0 to 1")
    for key, blocks in faults.get("blocks", {}).items():
        for flag, top, left, height, width in blocks:
            inside = 0 <= top < top + height <= size[0] and 0 <= left < left + width <= size[1]
            if not 1 <= flag <= 4 or not inside:
                block = (flag, top, left, height, width)
                raise ContrailError(f"fault blocks of {key}: {block}; give flag 1 to 4 and a part of the image")


def _fault(faults: Any, scan: int, band: int | None) -> Any:
    """Look up what a mapping or collection of faults holds for a band of a scan, or for all of its bands."""
    for key in ((scan, band), (scan, None)):
        if key in faults:
            return faults[key] if isinstance(faults, Mapping) else True
    return None


def _image(
    kelvin: npt.NDArray[np.float32],
    band: int,
    scan: int,
    off_earth: npt.NDArray[np.bool_],
    product: str,
    faults: Faults,
) -> Image:
    """Pack brightness temperature (y, x) as the product does, with flags and faults."""
    constants, radiance = BANDS[band], product == "L1b"
    rows, columns = kelvin.shape
    values = kelvin.astype(np.float64)
    if radiance:
        values = constants.fk1 / np.expm1(constants.fk2 / (constants.bc1 + constants.bc2 * values))
    scale, offset, most, fill = packing(constants, radiance)
    counts = np.rint((values - float(offset)) / float(scale))
    flags = np.where((counts < 0) | (counts > most), 2, 0).astype(np.int8)
    for flag, top, left, height, width in _fault(faults.get("blocks", {}), scan, band) or ():
        flags[top : top + height, left : left + width] = flag
        if flag == 2:
            counts[top : top + height, left : left + width] = most
    if share := _fault(faults.get("wedge", {}), scan, band):
        flags[np.arange(columns) < share * columns * (1 - np.arange(rows) / (rows - 1))[:, None]] = 3
    if (scan, band) in faults.get("missing", ()):
        flags[:] = 3
    flags[off_earth] = -1
    counts = counts.clip(0, most)
    good = (flags == 0) | (flags == 1)
    packed = np.where((flags == 3) | (flags == -1), fill, counts).astype(np.int16)
    return Image(packed, flags, counts[good] * float(scale) + float(offset))


def _tenth(start: np.datetime64) -> np.datetime64:
    """Round a time down to a tenth of a second, the precision of file names; the result is in milliseconds."""
    if not isinstance(start, np.datetime64) or not np.datetime64("2000") <= start < np.datetime64("2100"):  # or NaT
        raise ContrailError(f"start {start}: out of range; give a numpy.datetime64 from 2000 to 2099")
    milliseconds = start.astype("datetime64[ms]")
    return np.datetime64(int(milliseconds.astype(np.int64)) // 100 * 100, "ms")


def _stamp(time: np.datetime64) -> str:
    """Format a time as in file names: YYYYJJJHHMMSSt."""
    text, day = str(time), time.astype("datetime64[D]")
    number = int((day - day.astype("datetime64[Y]")).astype(np.int64)) + 1
    return f"{text[:4]}{number:03d}{text[11:13]}{text[14:16]}{text[17:19]}{text[20]}"
