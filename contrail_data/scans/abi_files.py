"""GOES-R ABI files: described by name or contents, found in folders and archives, and grouped into scans."""

import glob
import os
import re
from bisect import bisect
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import numpy as np

from contrail_data.errors import ContrailError, UsageError
from contrail_data.scans.satpy_files import readers_of
from contrail_data.storage.files import is_stray, open_regular, reported_errors
from contrail_data.storage.place import Place, place_of

Span: TypeAlias = tuple[np.datetime64, np.datetime64]
"""First and last start of a scan, UTC."""
ALWAYS: Span = (np.datetime64("0001-01-01", "us"), np.datetime64("9999-01-01", "us"))
_ALTERED_NAME = re.compile(
    r"OR_ABI-(?P<product>L1b-Rad|L2-CMIP|L2-MCMIP)(?P<scene>F|C|M1|M2)-M\d+(?:C(?P<band>\d\d))?"
    r"_G(?P<satellite>\d\d)_s(?P<start>\d{14})_e(?P<end>\d{14})_c(?P<created>\d{14})"
)
_NAME = re.compile(rf"{_ALTERED_NAME.pattern}\.nc")
_LIKELY_NAME = re.compile(r"abi|\.nc|\.h5|\.hdf", re.IGNORECASE)
_SCENES = {"Full Disk": "F", "CONUS": "C", "PACUS": "C", "Mesoscale": "M1"}
SAME_SCAN = np.timedelta64(30, "s")
"""Files that start within this time belong to one scan; the bands of a scan start within a second of each other."""
_HOUR, _SECOND = np.timedelta64(1, "h"), np.timedelta64(1, "s")

ROLES = {
    "goes-east": ((16, "2017-12-18T00:00", "2025-04-07T15:00"), (19, "2025-04-07T15:00", "2100-01-01T00:00")),
    "goes-west": ((17, "2019-02-12T00:00", "2023-01-04T18:00"), (18, "2023-01-04T18:00", "2100-01-01T00:00")),
}
"""Which spacecraft was operational where and when (NOAA OSPO, GOES operational status), UTC."""
ARCHIVES = ROLES | {f"goes{n}": ((n, "2000-01-01T00:00", "2100-01-01T00:00"),) for n in range(16, 20)}
"""NOAA's archives, and the spacecraft in whose bucket the scans of each time lie."""


class NoScans(ContrailError):
    """No file of scans lies where they were looked for, or none of the requested times."""


@dataclass(frozen=True, order=True)
class AbiFile:
    """A file, described by its name or its attributes."""

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


def describe(url: str) -> AbiFile | None:
    """Describe an ABI file by its name, or by its contents if it is a local file that was renamed.

    Args:
        url: Path or URL of the file.

    Returns:
        The description, or None if it is not a supported ABI file. A renamed file that cannot be read is described by
        what is left of its name.
    """
    name = url.rpartition("/")[2]
    if match := _NAME.fullmatch(name):
        return _from_name(match, url)
    if "://" in url or not _LIKELY_NAME.search(name):
        return None
    try:
        with reported_errors(url, "read"):
            open_regular(url).close()
        with h5py.File(url) as content:
            return _from_contents(content, url)
    except (OSError, KeyError, ValueError):
        match = _ALTERED_NAME.search(name)
        return _from_name(match, url) if match else None


def _from_name(match: re.Match[str], url: str) -> AbiFile | None:
    if (match["band"] is None) != (match["product"] == "L2-MCMIP"):
        return None
    start, end, created = (_time(match[key]) for key in ("start", "end", "created"))
    band = int(match["band"] or 0)
    return AbiFile(int(match["satellite"]), match["scene"], start, end, match["product"], band, created, url)


def _from_contents(content: Any, url: str) -> AbiFile | None:
    products = {"Rad": "L1b-Rad", "CMI": "L2-CMIP"}
    variable = next((name for name in content if name in products or re.fullmatch(r"CMI_C\d\d", name)), None)
    if variable is None or "goes_imager_projection" not in content:
        return None
    attributes = {key: attribute_text(value) for key, value in content.attrs.items()}
    if match := _ALTERED_NAME.search(attributes.get("dataset_name", "")):
        return _from_name(match, url)
    scene = _SCENES[attributes["scene_id"]]
    sector = re.search(r"(?:Rad|CMIP)(M[12])", f"{attributes.get('dataset_name')} {url}")
    times = [attributes[f"time_coverage_{end}"] for end in ("start", "end")]
    start, end, created = (
        np.datetime64(text.rstrip("Z"), "ns") for text in (*times, attributes.get("date_created", times[1]))
    )
    return AbiFile(
        satellite=int(attributes["platform_ID"].lstrip("G")),
        scene=sector[1] if sector and scene == "M1" else scene,
        start=start,
        end=end,
        product=products.get(variable, "L2-MCMIP"),
        band=int(np.ravel(content["band_id"][()])[0]) if variable in products else 0,
        created=created,
        url=url,
    )


def attribute_text(value: Any) -> str:
    """Return a text attribute of an HDF5 file, which may be an array of one element.

    Args:
        value: The attribute.

    Returns:
        Its text.
    """
    value = np.ravel(value)[0] if np.size(value) else b""
    return value.decode() if isinstance(value, bytes) else str(value)


def _time(text: str) -> np.datetime64:
    """Parse YYYYJJJHHMMSSt: year, day of the year, time, tenths of a second."""
    day = np.datetime64(text[:4], "D") + (int(text[4:7]) - 1)
    seconds = int(text[7:9]) * 3600 + int(text[9:11]) * 60 + int(text[11:13])
    return day.astype("datetime64[ns]") + np.timedelta64(seconds * 1000 + int(text[13]) * 100, "ms")


def find_files(where: str, spans: Sequence[Span] = (ALWAYS,), product: str = "L1b-RadF") -> list[AbiFile]:
    """Find ABI files.

    Args:
        where: A folder (searched recursively, without hidden files), a glob, a file, a bucket in NOAA's layout
            (`s3://noaa-goes16`), or one of `ARCHIVES`, if nothing local has that name.
        spans: Times between which scans start, both inclusive; archives need them, and only their hours are listed.
        product: Product and scene to take from an archive: L1b-RadF, L2-CMIPC, L2-MCMIPM1 and so on.

    Returns:
        The files in order of satellite, scene and time.

    Raises:
        NoScans: If there are none.
        ContrailError: If they are of several kinds or of another imager, or an archive cannot be searched with these
            arguments.
    """
    archive = is_archive(where)
    in_turn = archive and where in ROLES  # its spacecraft follow one another; anything else holds files of one
    urls = _archived(where, spans, product) if archive else sorted(local_paths(where))
    firsts, lasts = np.array(sorted(spans), "datetime64[us]").T
    lasts = np.maximum.accumulate(lasts)  # spans may overlap
    files, others = [], []
    for file in filter(None, map(describe, urls)):
        start = file.start.astype("datetime64[us]")
        i = bisect(firsts, start) - 1
        if i >= 0 and start <= lasts[i] and (not in_turn or file.satellite in _spacecraft(where, start, start)):
            files.append(file)
        else:
            others.append(file.start)
    if not files and (readers := readers_of(urls)):
        remedy = f"which satpy reads; give --reader {readers[0]}, or --reader auto"
        raise ContrailError(f"{where}: contains files of another imager, {remedy}")
    if not files:
        first, last = (np.datetime_as_string(time, "m") for time in (firsts[0], lasts[-1]))
        between = "" if ALWAYS in spans else f" between {first} and {last}"
        if others:
            there = " to ".join(dict.fromkeys(str(time.astype("datetime64[m]")) for time in (min(others), max(others))))
            raise NoScans(f"{where}: contains no ABI files{between} UTC, but of {there}; choose other times")
        products = "OR_ABI-L1b-Rad..., OR_ABI-L2-CMIP..., OR_ABI-L2-MCMIP..."
        raise NoScans(f"{where}: contains no ABI files ({products}){between}; check the path and the times")
    if not in_turn:
        require_one_kind(files)
    return sorted(files)


def local_paths(where: str) -> Iterator[str]:
    """List local files. Named pipes, sockets and devices are left out, as are files that operating systems leave.

    Args:
        where: A folder (searched recursively, without hidden files), a glob, or a file; also as a URL `file://`.

    Yields:
        The path of each file, in any order.

    Raises:
        ContrailError: If a folder cannot be searched.
    """
    local = place_of(where).url
    with reported_errors(local, "listed"):
        if os.path.isdir(local):
            yield from _files_in(local)
        elif os.path.lexists(local):
            yield from [local] if os.path.isfile(local) else []
        else:
            folder = Path(local)
            while glob.has_magic(str(folder)):
                folder = folder.parent
            if folder.is_dir():
                os.scandir(folder).close()  # raises if that is not allowed, where glob finds nothing
            yield from filter(os.path.isfile, glob.iglob(local, recursive=True))


def _files_in(folder: str) -> Iterator[str]:
    with reported_errors(folder, "listed"), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or is_stray(entry.name):  # such as what rsync has not finished
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _files_in(entry.path)
            elif entry.is_file(follow_symlinks=False) or (entry.is_symlink() and _is_file_or_broken(entry.path)):
                yield entry.path


def _is_file_or_broken(link: str) -> bool:
    """Return whether a link leads to a file, or to nothing, which is reported when it is opened."""
    return os.path.isfile(link) or not os.path.exists(link)


def is_archive(where: str) -> bool:
    """Return whether scans are searched for in an archive.

    Args:
        where: As for `find_files`.

    Returns:
        True for a URL of object storage and for one of `ARCHIVES`, unless a local file has that name.
    """
    return place_of(where).remote or (where in ARCHIVES and not Path(where).exists())


def check_archive(where: str, product: str, *, timed: bool) -> None:
    """Refuse arguments with which an archive cannot be searched.

    Args:
        where: The archive.
        product: Which product of it, see `find_files`.
        timed: Whether times are given.

    Raises:
        UsageError: If no times are given.
        ContrailError: If there is no such product.
    """
    if not timed:
        raise UsageError(f"{where}: archives are searched by time; give --since and --until, or --time")
    if not re.fullmatch(r"(L1b-Rad|L2-CMIP|L2-MCMIP)(F|C|M1|M2)", product):
        remedy = "give L1b-Rad, L2-CMIP or L2-MCMIP with F, C, M1 or M2, as in L1b-RadF"
        raise ContrailError(f"product {product!r}: unknown; {remedy}")


def _archived(where: str, spans: Sequence[Span], product: str) -> list[str]:
    """List the hours that the spans touch, many at a time."""
    check_archive(where, product, timed=not any(first == ALWAYS[0] or last == ALWAYS[1] for first, last in spans))
    folder = f"ABI-{re.sub('[12]$', '', product)}"  # one folder for both mesoscale sectors
    places = []
    for first, last in spans:
        for hour in np.arange(first.astype("datetime64[h]"), last.astype("datetime64[h]") + _HOUR):
            buckets = [where.rstrip("/")]
            if where in ARCHIVES:  # two buckets in the hour of a change of spacecraft
                buckets = [f"s3://noaa-goes{n}" for n in _spacecraft(where, hour, hour + _HOUR - _SECOND)]
            places += [place_of(f"{bucket}/{folder}/{hour.astype(datetime):%Y/%j/%H}") for bucket in buckets]
    if not places:
        remedy = "choose a later time, or a satellite such as goes16"
        raise ContrailError(f"{where}: no GOES-R spacecraft at {min(spans)[0]}; {remedy}")

    def _listed(place: Place) -> list[str]:
        return [place.file(key) for key in place.sizes() if f"ABI-{product}-" in key]

    with ThreadPoolExecutor(16) as pool:
        return [name for names in pool.map(_listed, dict.fromkeys(places)) for name in names]


def _spacecraft(archive: str, first: np.datetime64, last: np.datetime64) -> list[int]:
    """Return the satellites that scanned for an archive between two times, both inclusive."""
    return [
        satellite
        for satellite, begin, end in ARCHIVES[archive]
        if np.datetime64(begin) <= last and first < np.datetime64(end)
    ]


@dataclass(frozen=True)
class AbiScan:
    """The files of one scan."""

    start: np.datetime64
    end: np.datetime64
    files: dict[int, AbiFile]
    """By band; a file of all bands occurs under each of them."""


def require_one_kind(files: Sequence[AbiFile]) -> None:
    """Check that files are of one satellite, scene and product.

    Args:
        files: The files.

    Raises:
        ContrailError: If they are of several.
    """
    kinds = sorted({(f.satellite, f.scene, f.product) for f in files})
    if len(kinds) > 1:
        names = ", ".join(f"G{satellite} {product}{scene}" for satellite, scene, product in kinds)
        folder = os.path.dirname(files[0].url)
        remedy = "choose one with a glob such as 'FOLDER/*RadC*G16*.nc'"
        raise ContrailError(f"{folder}: files of several kinds ({names}); {remedy}")


def group_scans(files: Sequence[AbiFile]) -> tuple[list[AbiScan], list[str]]:
    """Group files of one scene and product into scans.

    Args:
        files: The files, in any order.

    Returns:
        The scans in order of satellite and time, and a note for each file that another one of the same scan and band
        replaces: the one created last, of equal ones that with the shortest name.
    """
    replaced: list[tuple[AbiFile, dict[int, AbiFile]]] = []
    scans: list[AbiScan] = []
    previous = None
    for file in sorted(files, key=lambda f: (f.satellite, f.start, f.band, f.created, -len(f.name), f.url)):
        if file.satellite != previous or file.start - scans[-1].start > SAME_SCAN:
            scans.append(AbiScan(file.start, file.end, {}))
        previous = file.satellite
        bands = range(1, 17) if file.band == 0 else [file.band]
        if (older := scans[-1].files.get(bands[0])) is not None:
            replaced.append((older, scans[-1].files))
        scans[-1].files.update(dict.fromkeys(bands, file))
    return scans, [_note_on_copy(older, files[older.band or 1]) for older, files in replaced]


def _note_on_copy(file: AbiFile, used: AbiFile) -> str:
    reason = "created later" if used.created > file.created else "of the same scan and band"
    return f"{file.url}: replaced by a copy {reason}, {used.url if used.name == file.name else used.name}"
