"""Samples cut out of geostationary scans: a tile about a place, frames at 10-minute steps about a time.

What is missing is told and stays missing: a frame without a scan near enough, a scan without a band, a pixel without a
value. The frame that is asked for must be there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.composites import Composite
from contrail_data.errors import BadRecord, ContrailError
from contrail_data.sample import FRAME_STEP, check_record_id, make_sample
from contrail_data.scans.scene import grid_of, row_times
from contrail_data.scans.shots import Shot, abi_shots, frames_of, satpy_shots
from contrail_data.scans.tiles import SIDE_KM, Tile, cut, lattice_sites, native_tile, tile_of_entry, utm_tile
from contrail_data.sources.base import Source
from contrail_data.sources.npy import digest

MAX_ZENITH = 75.0
"""Degrees: sites that are seen under more are passed over."""


@dataclass(frozen=True)
class Wanted:
    """Which samples to cut."""

    times: Sequence[np.datetime64] = ()
    """Of the frame in question; none: the scans' own, `every` minutes apart."""
    every: int = 20
    places: Sequence[tuple[float, float]] = ()
    """Latitude, longitude in degrees; none: the sites of the OpenContrails lattice that the scans show whole."""
    records: Sequence[Mapping[str, Any]] = ()
    """Entries of a metadata file (see `records`), each a tile, a time and an id, in place of times and places."""
    size: int = 256
    pixel: float | None = None
    """Metres of a UTM tile's pixel; None: `size` of them are 500 km, as in OpenContrails."""
    native: bool = False
    before: int = 4
    after: int = 3
    tolerance: float = 5.0
    """Minutes that a scan may start off its frame's time."""

    @property
    def reach(self) -> np.timedelta64:
        """The tolerance."""
        return np.timedelta64(round(self.tolerance * 60), "s")


def scan(
    shots: Sequence[Shot], wanted: Wanted, composite: Composite, split: str, where: str, notes: Iterable[str] = ()
) -> Source:
    """The samples that scans of one imager allow.

    Raises ContrailError for a band that no scan has, a place that is not seen, or when no sample is left.
    """
    check_record_id(split)
    shots = sorted(shots, key=lambda shot: shot.start)
    told = list(notes)
    there = sorted({band for shot in shots for band in shot.bands})
    if absent := [band for band in composite.bands if band not in there]:
        bands = ", ".join(map(str, there)) or "none"
        raise ContrailError(
            f"{where}: no scan has band {absent[0]}, which composite {composite.name!r} needs (there are {bands}): "
            "fetch it, or choose a composite without"
        )
    whole = [shot for shot in shots if set(composite.bands) <= set(shot.bands)]
    if len(whole) < len(shots):
        lacking = next(shot for shot in shots if shot not in whole)
        band = min(set(composite.bands) - set(lacking.bands))
        told.append(
            f"{len(shots) - len(whole)} of {len(shots)} scans lack a band, such as {band} at {_minute(lacking)}"
        )
    if not whole:
        raise ContrailError(f"{where}: no scan has all of bands {', '.join(map(str, composite.bands))}: fetch them")
    first = whole[0].open()
    grid = grid_of(first)
    satellite = str(first.attrs["platform"])
    if wanted.records:
        asked = [
            (_time(entry), [(str(entry["record_id"]), tile_of_entry(entry, wanted.size))]) for entry in wanted.records
        ]
    else:
        tiles = _tiles(grid, wanted, where)
        times = list(wanted.times) or _own_times(whole, wanted.every)
        asked = [(t, [(_record_id(satellite, t, *at, wanted.native), tile) for tile, at in tiles]) for t in times]
    entries: dict[str, Any] = {}
    lost = sure = 0
    for time, tiles_then in asked:
        frames = frames_of(whole, time, wanted.before, wanted.after, wanted.tolerance)
        if frames[wanted.before] is None:
            near = min(whole, key=lambda shot: abs(shot.start - time))
            told.append(f"{time}: no scan within {wanted.tolerance:g} minutes (nearest {_minute(near)}): passed over")
            continue
        lost += sum(frame is None for frame in frames)
        sure += len(frames)
        for name, tile in tiles_then:
            entries[check_record_id(name)] = {"tile": tile, "shots": frames}
    if not entries:
        raise ContrailError(f"{where}: no sample can be cut: {told[-1] if told else 'no time is left'}")
    if lost:
        told.append(f"{lost} of {sure} frames have no scan within {wanted.tolerance:g} minutes: they stay empty")
    choices = [repr(wanted), *sorted({file for shot in whole for file in shot.files})]
    return Source(
        kind="scenes",
        root=where,
        where=where if "://" in where else str(Path(where).absolute()),
        split=split,
        record_ids=list(entries),
        frames=wanted.before + 1 + wanted.after,
        read=partial(read, composite.bands, split, wanted.before),
        files=partial(_files, {name: entry["shots"] for name, entry in entries.items()}),
        entries=entries,
        note="; ".join(told),
        gaps=True,
        choices=choices,
    )


def _tiles(grid: Any, wanted: Wanted, where: str) -> list[tuple[Tile, tuple[float, float]]]:
    def make(latitude: float, longitude: float) -> Tile:
        if wanted.native:
            return native_tile(grid, latitude, longitude, wanted.size)
        return utm_tile(latitude, longitude, wanted.size, wanted.pixel or SIDE_KM * 1000 / wanted.size)

    made = []
    for latitude, longitude in wanted.places or lattice_sites():
        try:
            tile = make(latitude, longitude)
            corners = tile.geometry()
            rows, columns = grid.indices(corners["corner_latitude"], corners["corner_longitude"])
        except (ValueError, BadRecord) as error:
            if wanted.places:
                raise ContrailError(f"--at {latitude:g},{longitude:g}: {error}") from None
            continue
        if wanted.places and np.isnan(rows).all():
            seen_from = f"{abs(grid.projection.longitude):g} {'EW'[grid.projection.longitude < 0]}"
            raise ContrailError(f"--at {latitude:g},{longitude:g}: is not seen from {seen_from}: choose another place")
        inside = (rows > -0.5) & (rows < grid.height - 0.5) & (columns > -0.5) & (columns < grid.width - 0.5)
        if wanted.places or (inside.all() and _zenith(grid, latitude, longitude) <= MAX_ZENITH):
            made.append((tile, (latitude, longitude)))
    if not made:
        raise ContrailError(f"{where}: shows no site of the lattice whole: name places, --at LATITUDE LONGITUDE")
    return made


def _zenith(grid: Any, latitude: float, longitude: float) -> float:
    from contrail_data.geo.geometry import satellite_zenith

    return float(satellite_zenith(latitude, longitude, grid.projection.longitude))


def _own_times(shots: Sequence[Shot], every: int) -> list[np.datetime64]:
    times: list[np.datetime64] = []
    for shot in shots:
        if not times or shot.start - times[-1] >= np.timedelta64(60 * every - 30, "s"):
            times.append(shot.start.astype("datetime64[s]"))
    return times


def _record_id(satellite: str, time: np.datetime64, latitude: float, longitude: float, native: bool) -> str:
    stamp = str(time.astype("datetime64[s]")).replace("-", "").replace(":", "")
    ns, ew = "NS"[latitude < 0], "EW"[longitude < 0]
    place = f"{ns}{abs(latitude) * 100:04.0f}{ew}{abs(longitude) * 100:05.0f}"
    return f"{satellite.replace('GOES-', 'G')}-{stamp}-{place}{'-native' if native else ''}"


def _time(entry: Mapping[str, Any]) -> np.datetime64:
    return np.datetime64(round(entry["timestamp"]), "s")


def _minute(shot: Shot) -> str:
    return str(shot.start.astype("datetime64[m]"))


def _files(shots: Mapping[str, Sequence[Shot | None]], record_id: str) -> list[Path]:
    names = {name for shot in shots[record_id] if shot is not None for name in shot.files}
    return [Path(name) for name in sorted(names) if "://" not in name]  # objects of an archive do not change


def read(
    bands: tuple[int, ...],
    split: str,
    labelled: int,
    record_id: str,
    entry: Mapping[str, Any],
    empty: Callable[..., npt.NDArray[Any]] = np.empty,
) -> xr.Dataset:
    """One sample, in memory from `empty`. Raises BadRecord where nothing is seen, or a file cannot be read."""
    tile: Tile = entry["tile"]
    shots: Sequence[Shot | None] = entry["shots"]
    temperature = empty((len(bands), tile.height, tile.width, len(shots)), np.float32)
    temperature[...] = np.nan
    time = np.full(len(shots), np.datetime64("NaT", "ns"))
    geometry = tile.geometry()
    satellite, longitude = "", float("nan")
    for frame, shot in enumerate(shots):
        if shot is None:
            continue
        try:
            scene = _scene(shot)
            temperature[..., frame] = cut(scene.sel(band=list(bands)), tile)[..., 0]
        except ContrailError as error:
            raise BadRecord(f"{record_id}: {error}") from None
        grid = grid_of(scene)
        row = float(grid.indices(geometry["latitude"], geometry["longitude"])[0])
        row = 0 if np.isnan(row) else int(np.clip(row, 0, grid.height - 1))
        time[frame] = row_times(scene)[0, row]
        satellite, longitude = str(scene.attrs["platform"]), grid.projection.longitude
    valid = ~np.isnan(temperature).any(0)
    if not valid[..., labelled].any():
        raise BadRecord(f"{record_id}: nothing is seen there: choose another place or time")
    return make_sample(
        "brightness_temperature",
        temperature,
        bands,
        record_id=record_id,
        split=split,
        time=time,
        mask=None,
        annotators=None,
        annotator_count=0,
        labelled_frame=labelled,  # the one in question, label or none: as records without labels have it
        source_digest=" ".join(f"{b}:{digest(p)}" for b, p in zip(bands, temperature, strict=True)),
        geometry=geometry,
        valid=valid,
        satellite=satellite,
        satellite_longitude=longitude,
    )


@lru_cache(maxsize=64)
def _scene(shot: Shot) -> xr.Dataset:
    return shot.open()


def open_scan_source(
    where: str,
    wanted: Wanted,
    composite: Composite,
    split: str,
    since: np.datetime64 | None = None,
    until: np.datetime64 | None = None,
    product: str = "L1b-RadF",
    good: Sequence[int] = (0, 1),
    reader: str | None = None,
) -> Source:
    """Samples of ABI files: a folder, a glob, or an archive by time (see `abi.find_files`); or of what a satpy `reader`
    ("auto": guessed) knows.

    Archives are asked for what `wanted.times` need where no `since` and `until` are given. Raises ContrailError as
    `abi.find_files` and `scan` do.
    """
    if reader is not None:
        return scan(satpy_shots(where, reader, composite.bands), wanted, composite, split, where)
    times = [*wanted.times, *(_time(entry) for entry in wanted.records)]
    if times and since is None and until is None:
        since = min(times) - FRAME_STEP * wanted.before - wanted.reach
        until = max(times) + FRAME_STEP * wanted.after + wanted.reach
    shots, notes, problems = abi_shots(where, since, until, product, composite.bands, good)
    source = scan(shots, wanted, composite, split, where, notes)
    return replace(source, problems=problems, choices=[*source.choices, *good])
