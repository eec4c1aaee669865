"""MISSING DOCSTRING."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from contrail_data.errors import ContrailError
from contrail_data.storage.place import place_of

_NAME = re.compile(
    r"OR_ABI-(?P<product>L1b-Rad|L2-CMIP|L2-MCMIP)(?P<scene>F|C|M1|M2)-M(?P<mode>\d+)(?:C(?P<band>\d\d))?"
    r"_G(?P<satellite>\d\d)_s(?P<start>\d{14})_e(?P<end>\d{14})_c(?P<created>\d{14})\.nc"
)
SAME_SCAN = np.timedelta64(30, "s")  # bands of one scan start within a second of each other

ROLES = {
    "goes-east": (
        (16, "2017-12-18T00:00", "2025-04-07T15:00"),
        (19, "2025-04-07T15:00", "2100-01-01T00:00"),
    ),
    "goes-west": (
        (17, "2019-02-12T00:00", "2023-01-04T18:00"),
        (18, "2023-01-04T18:00", "2100-01-01T00:00"),
    ),
}
"""Which spacecraft was operational where and when (NOAA OSPO, GOES operational status), UTC."""


@dataclass(frozen=True, order=True)
class AbiFile:
    """What a file's name tells."""

    satellite: int
    scene: str
    """F (full disk), C (CONUS, PACUS), M1 or M2 (mesoscale)."""
    start: np.datetime64
    end: np.datetime64
    product: str
    """L1b-Rad, L2-CMIP or L2-MCMIP."""
    band: int
    """0: all bands (MCMIP)."""
    mode: int
    created: np.datetime64
    url: str

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


def parse_name(url: str) -> AbiFile | None:
    """What the name of a file tells; None where it is no ABI file that is read here."""
    found = _NAME.fullmatch(url.rpartition("/")[2])
    if found is None or (found["band"] is None) != (found["product"] == "L2-MCMIP"):
        return None
    start, end, created = (_time(found[key]) for key in ("start", "end", "created"))
    return AbiFile(
        satellite=int(found["satellite"]),
        scene=found["scene"],
        start=start,
        end=end,
        product=found["product"],
        band=int(found["band"] or 0),
        mode=int(found["mode"]),
        created=created,
        url=url,
    )


def _time(text: str) -> np.datetime64:
    """YYYYJJJHHMMSSt: year, day of the year, time, tenths of a second."""
    day = np.datetime64(text[:4], "D") + (int(text[4:7]) - 1)
    seconds = int(text[7:9]) * 3600 + int(text[9:11]) * 60 + int(text[11:13])
    return day.astype("datetime64[ns]") + np.timedelta64(seconds * 1000 + int(text[13]) * 100, "ms")


# ----------------------------------------------------------------------------------------------- which files there are


def find_files(
    where: str, since: np.datetime64 | None = None, until: np.datetime64 | None = None, product: str = "L1b-RadF"
) -> list[AbiFile]:
    """The ABI files of a folder (and those below it), a glob, one file, a bucket in NOAA's layout
    (`s3://noaa-goes16`), or of `goes-east`, `goes-west` or `goes16` to `goes19` by time; ordered, whole scans in a row.

    since, until: scans that start in between, ends included; archives need both. product: which one of an archive, with
    its scene: L1b-RadF, L2-CMIPC, L2-MCMIPM1 ... Raises ContrailError where there is none.
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
        what = "no ABI file (OR_ABI-L1b-Rad..., OR_ABI-L2-CMIP..., OR_ABI-L2-MCMIP...)"
        raise ContrailError(f"{where}: holds {what}{between}: check the path and the times")
    return chosen


def _archived(where: str, since: np.datetime64 | None, until: np.datetime64 | None, product: str) -> Iterator[str]:
    if since is None or until is None:
        raise ContrailError(f"{where}: an archive is read by time: give --since and --until")
    if not re.fullmatch(r"(L1b-Rad|L2-CMIP|L2-MCMIP)(F|C|M1|M2)", product):
        raise ContrailError(f"product {product!r}: give L1b-Rad, L2-CMIP or L2-MCMIP with F, C, M1 or M2: L1b-RadF")
    hour = since.astype("datetime64[h]")
    while hour <= until:
        folder = f"ABI-{re.sub('[12]$', '', product)}"  # both mesoscale sectors lie in one
        day = hour.astype("datetime64[D]")
        number = int((day - day.astype("datetime64[Y]")).astype(int)) + 1
        bucket = where if "://" in where else f"s3://noaa-goes{_spacecraft(where, hour)}"
        place = place_of(f"{bucket.rstrip('/')}/{folder}/{str(day)[:4]}/{number:03d}/{str(hour)[11:13]}")
        yield from (place.file(key) for key in place.sizes() if f"ABI-{product}-" in key)
        hour += np.timedelta64(1, "h")


def _spacecraft(role: str, time: np.datetime64) -> int:
    if role not in ROLES:
        return int(role.removeprefix("goes"))
    for number, begin, end in ROLES[role]:
        if np.datetime64(begin) <= time + np.timedelta64(1, "h") and time < np.datetime64(end):
            return number
    raise ContrailError(f"{role}: had no GOES-R spacecraft on {time}: choose a later time, or a satellite by number")


@dataclass(frozen=True)
class Scan:
    """The files of one scan, by band; a multi-band file stands under each of its bands."""

    start: np.datetime64
    end: np.datetime64
    files: dict[int, AbiFile]

    @property
    def middle(self) -> np.datetime64:
        return self.start + (self.end - self.start) / 2


def scans(files: Sequence[AbiFile]) -> tuple[list[Scan], list[str]]:
    """The scans of one satellite, scene and product in the order of time, and a line for each file that another copy of
    it, made later, replaces. Raises ContrailError for files of several satellites, scenes or products.
    """
    kinds = sorted({(f.satellite, f.scene, f.product) for f in files})
    if len(kinds) > 1:
        told = ", ".join(f"G{satellite} {product}{scene}" for satellite, scene, product in kinds)
        raise ContrailError(f"files of several kinds ({told}): choose one, by a glob such as 'FOLDER/*RadC*G16*.nc'")
    replaced: list[str] = []
    found: list[Scan] = []
    for file in sorted(files, key=lambda f: (f.start, f.band, f.created)):
        if not found or file.start - found[-1].start > SAME_SCAN:
            found.append(Scan(file.start, file.end, {}))
        bands = range(1, 17) if file.band == 0 else [file.band]
        if (before := found[-1].files.get(bands[0])) is not None:
            replaced.append(f"{before.name}: a copy made later is taken")
        found[-1].files.update(dict.fromkeys(bands, file))
    return found, replaced
