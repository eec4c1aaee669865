"""MISSING DOCSTRING."""

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
from contrail_data.scans.abi_files import Scan, find_files, scans


@dataclass(frozen=True)
class Shot:
    """One scan, of whatever imager, not opened yet."""

    start: np.datetime64
    bands: tuple[int, ...]
    files: tuple[str, ...]
    open: Callable[[], xr.Dataset] = field(compare=False)
    """A scene of this scan alone."""


def frames_of(
    shots: Sequence[Shot], time: np.datetime64, before: int, after: int, tolerance: float
) -> list[Shot | None]:
    """For each frame, 10 minutes apart about a time, the scan that starts nearest, at most `tolerance` minutes off; no
    scan serves two frames.
    """
    starts = np.array([shot.start for shot in shots]).astype("datetime64[ns]")
    frames = time.astype("datetime64[ns]") + FRAME_STEP * np.arange(-before, after + 1)
    reach = np.timedelta64(round(tolerance * 60), "s")
    off = np.abs(starts[np.newaxis] - frames[:, np.newaxis])
    chosen: list[Shot | None] = [None] * len(frames)
    for flat in np.argsort(off, axis=None, kind="stable"):
        frame, shot = divmod(int(flat), len(shots))
        if off[frame, shot] > reach:
            break
        if chosen[frame] is None and shots[shot] not in chosen:
            chosen[frame] = shots[shot]
    return chosen


# ----------------------------------------------------------------------------------------------- the imagers' own files


def abi_shots(
    where: str,
    since: np.datetime64 | None,
    until: np.datetime64 | None,
    product: str,
    bands: tuple[int, ...],
    good: Sequence[int],
) -> tuple[list[Shot], list[str], list[str]]:
    """(scans, notes, problems: a line for each file that cannot be read) of ABI files; see `abi.find_files`."""
    from contrail_data.scans import abi

    found, notes = scans(find_files(where, since, until, product))
    broken: dict[str, str] = {}
    names = sorted({file.url for scan in found for band, file in scan.files.items() if band in bands})

    def check(url: str) -> None:
        try:
            abi.read_contents(url)
        except ContrailError as error:
            broken[url] = str(error)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(check, names))
    shots = []
    for one in found:
        files = {b: f for b, f in one.files.items() if b in bands and f.url not in broken and b in abi.bands_of(f)}
        if files:
            whole = Scan(one.start, one.end, files)
            urls = tuple(sorted({file.url for file in files.values()}))
            shots.append(
                Shot(one.start, tuple(sorted(files)), urls, partial(abi.open_scans, [whole], None, tuple(good)))
            )
    if not shots and broken:
        raise ContrailError(next(iter(broken.values())))
    if not shots:
        have = sorted({b for scan in found for f in scan.files.values() for b in abi.bands_of(f)})
        raise ContrailError(
            f"{where}: no scan has band {bands[0]} (there are {', '.join(map(str, have))}): fetch it, or choose a "
            "composite without"
        )
    return shots, notes, [broken[url] for url in sorted(broken)]


def satpy_shots(where: str, reader: str, bands: tuple[int, ...]) -> list[Shot]:
    """Scans of files that a satpy reader knows: a folder or a glob. Raises ContrailError as `open_satpy` does."""
    found = Path(where).rglob("*") if Path(where).is_dir() else map(Path, glob.glob(where, recursive=True))
    paths = tuple(sorted(str(path) for path in found if path.is_file()))
    if not paths:
        raise ContrailError(f"{where}: holds no file: check the path")
    return shots_in(_satpy_scene(paths, reader, bands), paths, partial(_satpy_time, paths, reader, bands))


def shots_in(
    scene: xr.Dataset, files: Sequence[str] = (), open_time: Callable[[int], xr.Dataset] | None = None
) -> list[Shot]:
    """The scans of a scene that is open already, such as `satpy_scene.from_satpy` makes of a satpy Scene.

    files, open_time: where it came from and how to open one time of it anew, for other processes.
    """
    bands = tuple(scene["band"].values.tolist())
    name = (*files, str(scene.attrs.get("platform", "")), str(id(scene)) if open_time is None else "")
    return [
        Shot(t, bands, (*name, str(i)), partial(open_time, i) if open_time else partial(scene.isel, time=[i]))
        for i, t in enumerate(scene["scan_start"].values)
    ]


@lru_cache(maxsize=4)
def _satpy_scene(paths: tuple[str, ...], reader: str, bands: tuple[int, ...]) -> xr.Dataset:
    from contrail_data.scans.satpy_reader import open_satpy

    return open_satpy([Path(path) for path in paths], None if reader == "auto" else reader, bands)


def _satpy_time(paths: tuple[str, ...], reader: str, bands: tuple[int, ...], index: int) -> xr.Dataset:
    return _satpy_scene(paths, reader, bands).isel(time=[index])
