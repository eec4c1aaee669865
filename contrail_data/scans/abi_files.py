"""GOES-R ABI files by their names: parse them, find them in folders and archives, and group them into scans."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from contrail_data.errors import ContrailError
from contrail_data.storage.place import place_of

_NAME = re.compile(
    r"OR_ABI-(?P<product>L1b-Rad|L2-CMIP|L2-MCMIP)(?P<scene>F|C|M1|M2)-M\d+(?:C(?P<band>\d\d))?"
    r"_G(?P<satellite>\d\d)_s(?P<start>\d{14})_e(?P<end>\d{14})_c(?P<created>\d{14})\.nc"
)
SAME_SCAN = np.timedelta64(30, "s")
"""Files that start within this time belong to one scan; the bands of a scan start within a second of each other."""

ROLES = {
    "goes-east": ((16, "2017-12-18T00:00", "2025-04-07T15:00"), (19, "2025-04-07T15:00", "2100-01-01T00:00")),
    "goes-west": ((17, "2019-02-12T00:00", "2023-01-04T18:00"), (18, "2023-01-04T18:00", "2100-01-01T00:00")),
}
"""Which spacecraft was operational where and when (NOAA OSPO, GOES operational status), UTC."""


@dataclass(frozen=True, order=True)
class AbiFile:
    """A file, described by its name."""

    satellite: int
    scene: str
    """F (full disk), C (CONUS, PACUS), M1 or M2 (mesoscale)."""
    start: np.datetime64
    end: np.datetime64
    product: str
    """L1b-Rad, L2-CMIP or L2-MCMIP."""
    band: int
    """Band number; 0 for a file of all bands (MCMIP)."""
    created: np.datetime64
    url: str

    @property
    def name(self) -> str:
        """Name without the folder."""
        return self.url.rpartition("/")[2]


def parse_name(url: str) -> AbiFile | None:
    """Parse the name of an ABI file.

    Args:
        url: Path or URL of the file.

    Returns:
        The description, or None if the name is not that of a supported ABI file.
    """
    match = _NAME.fullmatch(url.rpartition("/")[2])
    if match is None or (match["band"] is None) != (match["product"] == "L2-MCMIP"):
        return None
    start, end, created = (_time(match[key]) for key in ("start", "end", "created"))
    band = int(match["band"] or 0)
    return AbiFile(int(match["satellite"]), match["scene"], start, end, match["product"], band, created, url)


def _time(text: str) -> np.datetime64:
    """Parse YYYYJJJHHMMSSt: year, day of the year, time, tenths of a second."""
    day = np.datetime64(text[:4], "D") + (int(text[4:7]) - 1)
    seconds = int(text[7:9]) * 3600 + int(text[9:11]) * 60 + int(text[11:13])
    return day.astype("datetime64[ns]") + np.timedelta64(seconds * 1000 + int(text[13]) * 100, "ms")


def find_files(
    where: str, since: np.datetime64 | None = None, until: np.datetime64 | None = None, product: str = "L1b-RadF"
) -> list[AbiFile]:
    """Find ABI files.

    Args:
        where: A folder (searched recursively), a glob, a file, a bucket in NOAA's layout (`s3://noaa-goes16`), or
            one of NOAA's public archives: `goes-east`, `goes-west`, `goes16` to `goes19`.
        since: Earliest start of a scan; archives need it.
        until: Latest start of a scan, inclusive; archives need it.
        product: Product and scene to take from an archive: L1b-RadF, L2-CMIPC, L2-MCMIPM1 and so on.

    Returns:
        The files, ordered so that those of one scan are adjacent.

    Raises:
        ContrailError: If there are none, or an archive cannot be searched with these arguments.
    """
    if "://" in where or where in ROLES or re.fullmatch(r"goes1[6-9]", where):
        urls = list(_archived(where, since, until, product))
    elif Path(where).is_dir():
        urls = [str(path) for path in Path(where).rglob("OR_ABI-*.nc")]
    else:
        urls = glob.glob(where, recursive=True)
    files = [file for url in sorted(urls) if (file := parse_name(url)) is not None]
    low = since or np.datetime64("0001-01-01", "us")
    high = until or np.datetime64("9999-01-01", "us")
    chosen = sorted(file for file in files if low <= file.start.astype("datetime64[us]") <= high)
    if not chosen:
        between = f" between {since} and {until}" if since is not None or until is not None else ""
        names = "OR_ABI-L1b-Rad..., OR_ABI-L2-CMIP..., OR_ABI-L2-MCMIP..."
        raise ContrailError(f"{where}: contains no ABI files ({names}){between}; check the path and the times")
    return chosen


def _archived(where: str, since: np.datetime64 | None, until: np.datetime64 | None, product: str) -> Iterator[str]:
    if since is None or until is None:
        raise ContrailError(f"{where}: archives are searched by time; give --since and --until")
    if not re.fullmatch(r"(L1b-Rad|L2-CMIP|L2-MCMIP)(F|C|M1|M2)", product):
        remedy = "give L1b-Rad, L2-CMIP or L2-MCMIP with F, C, M1 or M2, as in L1b-RadF"
        raise ContrailError(f"product {product!r}: unknown; {remedy}")
    hour = since.astype("datetime64[h]")
    while hour <= until:
        folder = f"ABI-{re.sub('[12]$', '', product)}"  # one folder for both mesoscale sectors
        bucket = where if "://" in where else f"s3://noaa-goes{spacecraft_of(where, hour)}"
        place = place_of(f"{bucket.rstrip('/')}/{folder}/{hour.astype(datetime):%Y/%j/%H}")
        yield from (place.file(key) for key in place.sizes() if f"ABI-{product}-" in key)
        hour += np.timedelta64(1, "h")


def spacecraft_of(role: str, time: np.datetime64) -> int:
    """Return the number of the spacecraft in a role at a time.

    Args:
        role: `goes-east`, `goes-west`, or a satellite such as `goes16`.
        time: Time in UTC, rounded down to the hour.

    Returns:
        Number of the GOES-R satellite, 16 to 19.

    Raises:
        ContrailError: If no GOES-R satellite had the role.
    """
    if role not in ROLES:
        return int(role.removeprefix("goes"))
    for number, begin, end in ROLES[role]:
        if np.datetime64(begin) <= time + np.timedelta64(1, "h") and time < np.datetime64(end):
            return number
    raise ContrailError(f"{role}: no GOES-R spacecraft at {time}; choose a later time, or a satellite such as goes16")


@dataclass(frozen=True)
class AbiScan:
    """The files of one scan."""

    start: np.datetime64
    end: np.datetime64
    files: dict[int, AbiFile]
    """By band; a file of all bands occurs under each of them."""


def group_scans(files: Sequence[AbiFile]) -> tuple[list[AbiScan], list[str]]:
    """Group the files of one satellite, scene and product into scans.

    Args:
        files: The files, in any order.

    Returns:
        The scans in order of time, and a note for each file that a copy created later replaces.

    Raises:
        ContrailError: If the files are of several satellites, scenes or products.
    """
    kinds = sorted({(f.satellite, f.scene, f.product) for f in files})
    if len(kinds) > 1:
        names = ", ".join(f"G{satellite} {product}{scene}" for satellite, scene, product in kinds)
        raise ContrailError(f"files of several kinds ({names}); choose one with a glob such as 'FOLDER/*RadC*G16*.nc'")
    replaced: list[str] = []
    scans: list[AbiScan] = []
    for file in sorted(files, key=lambda f: (f.start, f.band, f.created)):
        if not scans or file.start - scans[-1].start > SAME_SCAN:
            scans.append(AbiScan(file.start, file.end, {}))
        bands = range(1, 17) if file.band == 0 else [file.band]
        if (older := scans[-1].files.get(bands[0])) is not None:
            replaced.append(f"{older.name}: replaced by a copy created later")
        scans[-1].files.update(dict.fromkeys(bands, file))
    return scans, replaced
