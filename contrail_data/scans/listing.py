"""Scans of any imager, listed but not opened, and the choice of scans for the frames of a sample."""

from __future__ import annotations

import glob
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import xarray as xr

from contrail_data.errors import ContrailError
from contrail_data.sample import FRAME_STEP
from contrail_data.scans.abi import GOOD, bands_of, open_abi_scans, read_contents
from contrail_data.scans.abi_files import AbiFile, AbiScan, find_files, group_scans
from contrail_data.scans.satpy_reader import open_satpy
from contrail_data.scans.scene import require_bands


@dataclass(frozen=True)
class Scan:
    """One scan of any imager, not opened yet."""

    start: np.datetime64
    bands: tuple[int, ...]
    """ABI band numbers, ascending."""
    files: tuple[str, ...]
    """Paths or URLs, which identify the scan."""
    open: Callable[[], xr.Dataset] = field(compare=False)
    """Open the scan as a scene of one time (see `contrail_data.scans.scene`)."""


@dataclass(frozen=True)
class ScanListing:
    """The scans that a folder, glob or archive holds."""

    scans: list[Scan]
    notes: list[str] = field(default_factory=list)
    """What the user should know, one line each."""
    problems: list[str] = field(default_factory=list)
    """One line for each file that cannot be read."""


def assign_frames(
    scans: Sequence[Scan], time: np.datetime64, *, before: int, after: int, tolerance: float
) -> list[Scan | None]:
    """Choose the scan nearest to each frame, 10 minutes apart around a time. No scan serves two frames.

    Args:
        scans: The available scans.
        time: Time of the frame in question, UTC.
        before: Number of frames before it.
        after: Number of frames after it.
        tolerance: Maximum difference between the start of a scan and the time of its frame, in minutes.

    Returns:
        A scan for each of the before + 1 + after frames; None if no scan is near enough.
    """
    starts = np.array([scan.start for scan in scans]).astype("datetime64[ns]")
    frames = time.astype("datetime64[ns]") + FRAME_STEP * np.arange(-before, after + 1)
    limit = np.timedelta64(round(tolerance * 60), "s")
    difference = np.abs(starts[np.newaxis] - frames[:, np.newaxis])
    chosen: list[Scan | None] = [None] * len(frames)
    for flat in np.argsort(difference, axis=None, kind="stable"):
        frame, scan = divmod(int(flat), len(scans))
        if difference[frame, scan] > limit:
            break
        if chosen[frame] is None and scans[scan] not in chosen:
            chosen[frame] = scans[scan]
    return chosen


def list_abi_scans(
    where: str,
    bands: tuple[int, ...],
    *,
    since: np.datetime64 | None = None,
    until: np.datetime64 | None = None,
    product: str = "L1b-RadF",
    good: Sequence[int] = GOOD,
) -> ScanListing:
    """List scans of GOES-R ABI files; the contents of each file are checked, except for its pixels.

    Args:
        where: A folder, glob, file, URL or archive, see `find_files`.
        bands: Bands to open; files of other bands are ignored.
        since: Earliest start of a scan; archives need it.
        until: Latest start of a scan; archives need it.
        product: Which product of an archive, see `find_files`.
        good: Accepted data quality flags.

    Returns:
        Scans that have at least one of the bands, in order of time.

    Raises:
        ContrailError: If there are no files, they are of several kinds, or none of them is usable.
    """
    groups, notes = group_scans(find_files(where, since, until, product))
    listed = {file for group in groups for band, file in group.files.items() if band in bands}
    needed = sorted(listed, key=lambda file: file.url)
    with ThreadPoolExecutor(8) as pool:
        broken = {file: problem for file, problem in zip(needed, pool.map(_problem_of, needed), strict=True) if problem}
    scans = []
    for group in groups:
        files = {b: f for b, f in group.files.items() if b in bands and f not in broken and b in bands_of(f)}
        if files:
            names = tuple(sorted({file.url for file in files.values()}))
            open_scan = partial(open_abi_scans, [AbiScan(group.start, group.end, files)], None, tuple(good))
            scans.append(Scan(group.start, tuple(sorted(files)), names, open_scan))
    if not scans and broken:
        raise ContrailError(next(iter(broken.values())))
    if not scans:
        available = {b for group in groups for f in group.files.values() for b in bands_of(f)}
        require_bands(where, bands, available)
    return ScanListing(scans, notes, list(broken.values()))


def _problem_of(file: AbiFile) -> str:
    """Return why a file cannot be used; empty if it can."""
    try:
        read_contents(file)
    except ContrailError as error:
        return str(error)
    return ""


def list_satpy_scans(where: str, reader: str, bands: tuple[int, ...]) -> ScanListing:
    """List scans of files that a satpy reader supports.

    Args:
        where: A folder (searched recursively) or a glob.
        reader: Name of satpy's reader, or `auto` to recognise it by the names of the files.
        bands: Bands to open.

    Returns:
        The scans.

    Raises:
        ContrailError: If there is no file, or `open_satpy` cannot open them.
    """
    candidates = Path(where).rglob("*") if Path(where).is_dir() else map(Path, glob.glob(where, recursive=True))
    paths = tuple(sorted(str(path) for path in candidates if path.is_file()))
    if not paths:
        raise ContrailError(f"{where}: contains no files; check the path")
    scene = _satpy_scene(paths, reader, bands)
    available = tuple(scene["band"].values.tolist())
    return ScanListing(
        [
            Scan(start, available, paths, partial(_satpy_time, paths, reader, bands, i))
            for i, start in enumerate(scene["scan_start"].values)
        ]
    )


@lru_cache(maxsize=4)
def _satpy_scene(paths: tuple[str, ...], reader: str, bands: tuple[int, ...]) -> xr.Dataset:
    return open_satpy([Path(path) for path in paths], None if reader == "auto" else reader, bands)


def _satpy_time(paths: tuple[str, ...], reader: str, bands: tuple[int, ...], index: int) -> xr.Dataset:
    return _satpy_scene(paths, reader, bands).isel(time=[index])
