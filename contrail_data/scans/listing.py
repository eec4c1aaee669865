"""Scans of any imager, listed but not opened, and the choice of scans for the frames of a sample."""

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import xarray as xr

from contrail_data.errors import ContrailError
from contrail_data.geo.fixed_grid import FixedGrid
from contrail_data.sample import FRAME_STEP
from contrail_data.scans.abi import GOOD, bands_of, open_abi_scans, read_contents
from contrail_data.scans.abi_files import (
    ALWAYS,
    SAME_SCAN,
    AbiFile,
    AbiScan,
    Span,
    find_files,
    group_scans,
)
from contrail_data.scans.find import satpy_paths
from contrail_data.scans.satpy_files import group_files
from contrail_data.scans.satpy_reader import note_on_stand_ins, open_readable
from contrail_data.scans.scene import grid_of, require_bands


@dataclass(frozen=True, kw_only=True)
class Scan:
    """One scan of any imager, not opened yet."""

    start: np.datetime64
    end: np.datetime64
    bands: tuple[int, ...]
    """ABI band numbers, ascending."""
    files: tuple[str, ...]
    """Paths or URLs, which identify the scan."""
    platform: str
    grid: FixedGrid
    open: Callable[[], xr.Dataset] = field(compare=False)
    """Open the scan as a scene of one time (see `contrail_data.scans.scene`)."""

    @property
    def middle(self) -> np.datetime64:
        """The time that the scene states."""
        return self.start + (self.end - self.start) / 2


@dataclass(frozen=True)
class ScanListing:
    """The scans that a folder, glob or archive holds."""

    scans: list[Scan]
    notes: list[str] = field(default_factory=list)
    """What the user should know, one line each."""
    problems: list[str] = field(default_factory=list)
    """One line for each file that cannot be read and each scan that lacks a band."""


def assign_frames(
    scans: Sequence[Scan], time: np.datetime64, *, before: int, after: int, tolerance: float
) -> list[Scan | None]:
    """Choose the scan nearest to each frame, 10 minutes apart around a time. No scan serves two frames.

    Args:
        scans: The available scans. Those of other projections than the scan nearest to the time are not used.
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
    projection = scans[int(np.argmin(difference[before]))].grid.projection
    chosen: list[Scan | None] = [None] * len(frames)
    for flat in np.argsort(difference, axis=None, kind="stable"):
        frame, scan = divmod(int(flat), len(scans))
        if difference[frame, scan] > limit:
            break
        if chosen[frame] is None and scans[scan] not in chosen and scans[scan].grid.projection == projection:
            chosen[frame] = scans[scan]
    return chosen


def spans_around(times: Sequence[np.datetime64], *, before: int, after: int, tolerance: float) -> list[Span]:
    """Find when scans for the frames around some times may start.

    Args:
        times: Times of the frames in question, UTC.
        before: Number of frames before them.
        after: Number of frames after them.
        tolerance: As for `assign_frames`.

    Returns:
        A span for each time.
    """
    limit = np.timedelta64(round(tolerance * 60), "s")
    return [(time - FRAME_STEP * before - limit, time + FRAME_STEP * after + limit) for time in times]


def scans_of(scene: xr.Dataset) -> list[Scan]:
    """List the scans of an open scene.

    Args:
        scene: The scene, or a window of it.

    Returns:
        A scan for each of its times, in order of time.
    """
    grid, bands = grid_of(scene), tuple(sorted(scene["band"].values.tolist()))
    scans = [
        Scan(
            start=scene["scan_start"].values[i],
            end=scene["scan_end"].values[i],
            bands=bands,
            files=(f"scan {i} of {', '.join(scene.attrs['source'])}",),
            platform=str(scene.attrs["platform"]),
            grid=grid,
            open=partial(scene.isel, time=[i]),
        )
        for i in range(scene.sizes["time"])
    ]
    return sorted(scans, key=lambda scan: scan.start)


def list_abi_scans(
    where: str,
    bands: tuple[int, ...],
    *,
    spans: Sequence[Span] = (ALWAYS,),
    product: str = "L1b-RadF",
    good: Sequence[int] = GOOD,
) -> ScanListing:
    """List scans of GOES-R ABI files that have all of some bands; files' contents are checked, except for their pixels.

    Args:
        where: A folder, glob, file, URL or archive, see `find_files`.
        bands: The bands; files of others are ignored.
        spans: Times between which scans start; archives need them.
        product: Which product of an archive, see `find_files`.
        good: Accepted data quality flags.

    Returns:
        The scans in order of time.

    Raises:
        ContrailError: If there are no files, they are of several kinds, or no scan has all bands.
    """
    files = find_files(where, spans, product)
    candidates = [file for file in files if file.band in (0, *bands)]
    with ThreadPoolExecutor(8) as pool:
        problem_of = dict(zip(candidates, pool.map(_problem_of, candidates), strict=True))
    readable = [file for file, problem in problem_of.items() if not problem]
    broken = [file for file, problem in problem_of.items() if problem]
    groups, notes = group_scans(readable)
    reported: dict[Scan, set[int]] = {}
    for group in groups:
        if present := {b: f for b, f in group.files.items() if b in bands and b in bands_of(f)}:
            scan = _abi_scan(replace(group, files=present), good)
            reported[scan] = {f.band for f in broken if abs(f.start - group.start) <= SAME_SCAN}
    if len(platforms := sorted({scan.platform for scan in reported})) > 1:
        notes.append(f"{where}: scans of {', '.join(platforms)}, each from the time when it stood there")
    in_files = {file.band for file in files if file.band} | {b for f in readable if not f.band for b in bands_of(f)}
    available = in_files & set(bands) or in_files
    problems = list(filter(None, problem_of.values()))
    return _with_all_bands(where, bands, reported, available, notes, problems)


def _abi_scan(group: AbiScan, good: Sequence[int]) -> Scan:
    first = next(iter(group.files.values()))
    return Scan(
        start=group.start,
        end=group.end,
        bands=tuple(sorted(group.files)),
        files=tuple(sorted({file.url for file in group.files.values()})),
        platform=f"GOES-{first.satellite}",
        grid=read_contents(first).grid,
        open=partial(open_abi_scans, [group], None, tuple(good)),
    )


def _with_all_bands(
    where: str,
    bands: Sequence[int],
    scans: Mapping[Scan, Collection[int]],
    available: Collection[int],
    notes: list[str],
    problems: list[str],
) -> ScanListing:
    """Return the scans that have all bands, and a problem for each of the others, by the bands not reported before."""
    complete = sorted((scan for scan in scans if set(bands) <= set(scan.bands)), key=lambda scan: scan.start)
    if not complete:
        if problems and not scans:
            raise ContrailError(problems[0])
        require_bands(where, bands, available)
        needed = f"{where}: no scan has all of bands {', '.join(map(str, bands))}"
        raise ContrailError(f"{needed}, since {problems[0]}" if problems else f"{needed}; fetch them")
    for scan, reported in scans.items():
        if lacking := sorted(set(bands) - set(scan.bands) - set(reported)):
            time, numbers = scan.start.astype("datetime64[s]"), ", ".join(map(str, lacking))
            problems.append(f"{Path(scan.files[0]).name}: its scan of {time} lacks band {numbers}; fetch it")
    return ScanListing(complete, notes, problems)


def _problem_of(file: AbiFile) -> str:
    """Return why a file cannot be used; empty if it can."""
    try:
        read_contents(file)
    except ContrailError as error:
        return str(error)
    return ""


def list_satpy_scans(where: str, reader: str, bands: tuple[int, ...]) -> ScanListing:
    """List scans of files that a satpy reader supports and that have all of some bands.

    Args:
        where: A folder (searched recursively) or a glob.
        reader: Name of satpy's reader, or `auto` to recognise it by the names of the files.
        bands: The bands.

    Returns:
        The scans in order of time.

    Raises:
        ContrailError: If there are no files of the reader, they are of several satellites or sectors, or no scan has
            all bands.
    """
    paths, reader = satpy_paths(where, reader)
    problems: list[str] = []
    notes: dict[str, None] = {}
    kinds = set()
    reported: dict[Scan, Sequence[int]] = {}
    for group in group_files(paths, reader, bands):
        scene, broken = open_readable(group, reader, bands)
        problems += broken
        if scene is not None:
            kinds.add((scene.attrs["platform"], scene.attrs["scene"]))
            notes[note_on_stand_ins(scene.attrs["instrument"], bands)] = None
            reported[_scan_of(scene, group, reader, bands)] = bands if broken else ()
    if len(kinds) > 1:
        names = ", ".join(sorted(" ".join(kind) for kind in kinds))
        raise ContrailError(f"{where}: files of several kinds ({names}); choose those of one satellite and sector")
    available = {band for scan, missed in reported.items() for band in (*scan.bands, *missed)}
    return _with_all_bands(where, bands, reported, available, list(filter(None, notes)), problems)


def _scan_of(scene: xr.Dataset, files: tuple[Path, ...], reader: str, bands: tuple[int, ...]) -> Scan:
    return Scan(
        start=scene["scan_start"].values[0],
        end=scene["scan_end"].values[0],
        bands=tuple(scene["band"].values.tolist()),
        files=tuple(map(str, files)),
        platform=str(scene.attrs["platform"]),
        grid=grid_of(scene),
        open=partial(_open_satpy_scan, files, reader, bands),
    )


def _open_satpy_scan(files: tuple[Path, ...], reader: str, bands: tuple[int, ...]) -> xr.Dataset:
    scene, problems = open_readable(files, reader, bands)
    if scene is None:
        raise ContrailError(problems[0])
    return scene
