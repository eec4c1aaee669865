"""Scenes of other geostationary imagers, through satpy: Himawari's AHI, GEO-KOMPSAT's AMI, and what else satpy reads.

satpy finds, unpacks and calibrates; here its datasets become a scene as `contrail_data.scene` tells it, on their own
fixed grid: nothing is resampled. Bands go by wavelength to the ABI band they equal. Not supported: imagers whose window
channels lie elsewhere (SEVIRI's 10.8 and 12.0 µm), swaths, resampled scenes.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from contrail_data.errors import ContrailError
from contrail_data.geo.fixed_grid import FixedGrid, Projection
from contrail_data.scans.scene import assemble

if TYPE_CHECKING:
    from satpy import Scene


WINDOW = (11, 13, 14, 15)
"""ABI bands in which the air is clear: what ash composites are made of."""
_CENTRES = {
    **{8: (6.0, 6.5), 9: (6.8, 7.1), 10: (7.2, 7.5), 11: (8.4, 8.75), 12: (9.5, 9.8), 13: (10.3, 10.55)},
    **{14: (11.1, 11.3), 15: (12.25, 12.45), 16: (13.2, 13.4)},
}
"""Central wavelengths, µm, that count as an ABI band."""
_AMI = {
    **{"wv063": 8, "wv069": 9, "wv073": 10, "ir087": 11, "ir096": 12},
    **{"ir105": 13, "ir112": 14, "ir123": 15, "ir133": 16},
}
_NAMES = {
    "ahi_hsd": re.compile(r"HS_H\d\d_\d{8}_\d{4}_B(?P<channel>\d\d)_\w{4}_R\d\d_S\d{4}\.DAT(\.bz2)?"),
    "ami_l1b": re.compile(r"gk2[a-z]_ami_le1b_(?P<channel>[a-z]{2}\d{3})_[a-z]{2}\w*_\d{12}\.nc"),
}
"""Files whose reader and channel are known by name."""
_SECTORS = {"FLDK": "full disk", "FD": "full disk", "F": "full disk", "C": "CONUS", "ELA": "extended local area"}
_SECTORS |= {"LA": "local area", "M1": "mesoscale 1", "M2": "mesoscale 2"}
_INSTALL = "run pip install '.[satpy]' in the checkout of contrail"
_opening = threading.Lock()  # satpy's configuration is the whole process's


@dataclass(frozen=True)
class _Scan:
    """One time; `bands` holds (y, x) dask arrays, float32, kelvin, north up and west left."""

    start: np.datetime64
    end: np.datetime64
    area: Any
    grid: FixedGrid
    bands: Mapping[int, Any]
    about: Mapping[str, str]
    source: tuple[str, ...]


def from_satpy(scene: Scene) -> xr.Dataset:
    """A satpy Scene's loaded brightness temperatures as a scene (see `contrail_data.scene`) of one time, still lazy.

    `brightness_temperature` (time = 1, band, y, x) float32, kelvin, NaN where missing, on dask; bands ascending, north
    up. Other datasets of the Scene, reflectances and modified ones among them, are passed over. `source` names the
    files; those that satpy had to unpack have no name left.

    Raises ContrailError where no window channel (ABI 11, 13, 14, 15) is loaded, or the datasets lie on no geostationary
    grid, on several, or on one that cannot be placed (see `_mirrored`).
    """
    scan = _scan_of(scene)
    if not set(WINDOW) & set(scan.bands):
        raise ContrailError(
            f"satpy scene: no window channel is loaded (there are bands {_list(scan.bands)}): load one of 8.6, 10.4, "
            "11.2 or 12.3 µm as brightness temperature"
        )
    return _joined([scan], sorted(scan.bands), "satpy scene")


def open_satpy(paths: Sequence[Path], reader: str | None = None, bands: Sequence[int] | None = None) -> xr.Dataset:
    """Files of one imager and sector, of one or several times, as a scene (see `contrail_data.scene`) through satpy.

    `brightness_temperature` (time, band, y, x) float32, kelvin, on dask; NaN where missing, in a band that one of the
    times lacks, and in segments that are not there. reader: satpy's name of it; None for what the names tell (AHI HSD,
    AMI L1b), of which only the files of wanted bands are opened. bands: ABI numbers, None for the window bands there
    are. Compressed files are unpacked when opened; pixels are read and calibrated when asked for.

    Raises ContrailError where satpy is not installed, a file cannot be read or is of another imager, a band is in no
    file, or the files' grids differ.
    """
    paths = [Path(path) for path in paths]
    if not paths or (bands is not None and not len(bands)):
        raise ContrailError(f"no {'band' if paths else 'file'} to open with satpy: name one")
    if absent := [path for path in paths if not path.is_file()]:
        raise ContrailError(f"{absent[0]}: is no file that is there: check the path")
    where = str(paths[0].parent)
    reader = reader or _guessed(paths)
    _installed(reader)
    wanted = sorted(set(WINDOW if bands is None else bands))
    if (pattern := _NAMES.get(reader)) is not None:
        channels: dict[Path, int | None] = {}
        for path in paths:
            if (found := pattern.fullmatch(path.name)) is None:
                raise ContrailError(f"{path}: is no file of {reader} by its name: leave it out")
            channels[path] = _band_named(found["channel"])
        _check(where, wanted, {band for band in channels.values() if band is not None}, bands is None)
        # A file beside its compressed copy would be taken for another segment.
        unpacked = {path.name.removesuffix(".bz2"): path for path in sorted(channels, key=lambda p: -len(p.name))}
        paths = [path for path in unpacked.values() if channels[path] in wanted]
    scans = [_read(group, reader, wanted) for group in _grouped(paths, reader, where)]
    there = {band for scan in scans for band in scan.bands}
    _check(where, wanted, there, bands is None)
    scans.sort(key=lambda scan: scan.start)
    return _joined(scans, [band for band in wanted if band in there], where)


def _guessed(paths: Sequence[Path]) -> str:
    readers = {path: next((r for r, name in _NAMES.items() if name.fullmatch(path.name)), None) for path in paths}
    if unknown := [path for path, reader in readers.items() if reader is None]:
        raise ContrailError(
            f"{unknown[0]}: is no AHI HSD or AMI L1b file by its name: name satpy's reader, or leave it out"
        )
    if len(found := sorted({reader for reader in readers.values() if reader is not None})) > 1:
        raise ContrailError(f"{paths[0].parent}: files of several imagers ({', '.join(found)}): choose those of one")
    return found[0]


def _installed(reader: str | None = None) -> None:
    """Raises ContrailError where satpy, or what the reader needs beside it, is missing."""
    for module in ("satpy", *(["pyspectral"] if reader == "ami_l1b" else [])):
        if find_spec(module) is None:
            raise ContrailError(f"{module} is not installed, which reads these files: {_INSTALL}")


def _band_named(channel: str) -> int | None:
    """The ABI band of a channel in a file's name: 14 of AHI's "14" and AMI's "ir112"."""
    return (int(channel) if int(channel) in _CENTRES else None) if channel.isdigit() else _AMI.get(channel)


def _check(where: str, wanted: Sequence[int], there: set[int], any_will_do: bool) -> None:
    absent = [band for band in wanted if band not in there]
    if absent and not (any_will_do and there & set(wanted)):
        what = f"any of bands {_list(wanted)}" if any_will_do else f"band {absent[0]}"
        raise ContrailError(
            f"{where}: no file of {what} (there are {_list(there)}): fetch it, or take a composite without"
        )


def _list(bands: Any) -> str:
    return ", ".join(map(str, sorted(bands))) or "none"


# ------------------------------------------------------------------------------------------------------ files to scans


def _grouped(paths: Sequence[Path], reader: str, where: str) -> list[list[Path]]:
    """Files by scan, as the reader's own configuration tells them apart."""
    from satpy.readers.core.grouping import group_files

    try:
        groups = group_files([os.fspath(path) for path in paths], reader=reader)
    except Exception as error:
        raise ContrailError(f"{where}: not files of satpy's reader {reader} ({_reason(error)}): name another") from None
    return [sorted(map(Path, group[reader])) for group in groups if group[reader]]


def _read(paths: Sequence[Path], reader: str, wanted: Sequence[int]) -> _Scan:
    """The wanted bands that files of one scan hold."""
    from satpy import Scene

    try:
        with _unpacked_unseen(reader):
            scene = Scene(filenames=list(map(os.fspath, paths)), reader=reader)
            available = _identifiers(scene)
            _check(str(paths[0]), wanted, set(available), any_will_do=True)
            scene.load([available[band] for band in wanted if band in available], generate=False)
    except ContrailError:
        raise
    except Exception as error:  # readers raise what their formats' libraries do, from EOFError to OverflowError
        if len(paths) > 1 and reader in _NAMES:  # each of these stands alone: the one at fault names itself
            for path in paths:
                _read([path], reader, wanted)
        which = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
        raise ContrailError(f"{which}: satpy cannot read it ({_reason(error)}): fetch it again") from None
    if lost := {str(name["name"]) for name in scene.missing_datasets}:
        raise ContrailError(f"{paths[0]}: satpy cannot load {', '.join(sorted(lost))}: fetch the files again")
    try:
        return _scan_of(scene, tuple(path.name for path in paths))
    except ContrailError as error:
        raise ContrailError(f"{paths[0]}: {error}") from None


@contextmanager
def _unpacked_unseen(reader: str) -> Iterator[None]:
    """Satpy unpacks .bz2 into files that it leaves there until the process ends, a full disk's 240 MB a time. It maps
    AHI's when loading: from then on they can lose their names, and take no room once the scene is forgotten.
    """
    import satpy

    if reader != "ahi_hsd":
        yield
        return
    with (
        _opening,
        tempfile.TemporaryDirectory(prefix="contrail-", dir=satpy.config.get("tmp_dir", None)) as folder,
        satpy.config.set(tmp_dir=folder),
    ):
        yield


def _identifiers(scene: Scene) -> dict[int, Any]:
    """Satpy's identifier of each band that the files hold, at the coarsest resolution it comes in, which all bands
    have.
    """
    chosen: dict[int, Any] = {}
    for key in scene.available_dataset_ids():
        band = _band_of(key.get("wavelength"))
        calibration = getattr(key.get("calibration"), "name", None)
        if band is not None and calibration == "brightness_temperature" and not key.get("modifiers"):
            best = chosen.get(band)
            if best is None or (key.get("resolution") or 0) > (best.get("resolution") or 0):
                chosen[band] = key
    return chosen


def _reason(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0][:100] if lines else type(error).__name__


# ----------------------------------------------------------------------------------------------------- scans to a scene


def _scan_of(scene: Scene, source: tuple[str, ...] | None = None) -> _Scan:
    import dask.array as da

    found: dict[int, Any] = {}
    for array in scene:
        band = _band_of(array.attrs.get("wavelength"))
        if band is None or array.attrs.get("standard_name") != "toa_brightness_temperature":
            continue
        if array.attrs.get("modifiers"):
            continue
        if band in found:
            raise ContrailError(f"several datasets of band {band} ({array.attrs.get('name')}): load one resolution")
        found[band] = array
    if not found:
        raise ContrailError("no brightness temperature of a window channel: load one (8.6, 10.4, 11.2 or 12.3 µm)")
    first = next(iter(found.values()))
    area = first.attrs.get("area")
    grid, rows, columns = _grid_of(area, _mirrored(scene, first.attrs))
    for array in found.values():
        if array.attrs.get("area") != area:
            raise ContrailError(
                f"areas differ ({first.attrs.get('name')}, {array.attrs.get('name')}): load bands of one resolution"
            )
    times = [_times_of(array.attrs) for array in found.values()]
    bands = {
        band: da.asarray(found[band].transpose("y", "x").data)[rows, columns].astype(np.float32)
        for band in sorted(found)
    }
    return _Scan(
        start=min(start for start, _ in times),
        end=max(end for _, end in times),
        area=area,
        grid=grid,
        bands=bands,
        about={
            "platform": str(first.attrs.get("platform_name") or ""),
            "instrument": _one(first.attrs.get("sensor")),
            "scene": _sector(first.attrs, area),
        },
        source=_files_of(scene) if source is None else source,
    )


def _band_of(wavelength: Any) -> int | None:
    """The ABI band of satpy's (least, central, greatest) µm."""
    if wavelength is None:
        return None
    central = float(wavelength[1])
    return next((band for band, (low, high) in _CENTRES.items() if low <= central <= high), None)


def _mirrored(scene: Scene, attributes: Mapping[str, Any]) -> bool:
    """Whether satpy has put the area on the wrong side of the equator.

    satpy 0.60 does so with AMI's local areas: it takes the line offset against a turned line factor, which only a full
    disk forgives. The files tell where their first pixel's centre lies; that decides, whatever a later satpy does.
    Raises ContrailError where the files are no longer at hand (a cropped Scene), or agree with neither side.
    """
    area: Any = attributes.get("area")
    extent = getattr(area, "area_extent", None)
    if attributes.get("reader") != "ami_l1b" or extent is None:
        return False
    if area.area_id == "ami_geos_fd" or abs(extent[3] + extent[1]) < 100:  # metres; symmetric: either way is right
        return False
    for handler in _handlers(scene):
        whole = handler.get_area_def(None)
        height = whole.crs.to_cf()["perspective_point_height"]
        _, bottom, _, top = whole.area_extent
        pixel = (top - bottom) / whole.height
        stated = float(np.ravel(handler.nc.attrs["image_upperleft_y"])[0]) * height
        if abs(top - pixel / 2 - stated) < pixel / 2:
            return False
        if abs(-bottom - pixel / 2 - stated) < pixel / 2:
            return True
    raise ContrailError(
        "AMI's local area cannot be placed: satpy mirrors it and no file tells: use open_satpy, cut after"
    )


def _grid_of(area: Any, mirrored: bool) -> tuple[FixedGrid, slice, slice]:
    """The fixed grid of an area definition, and how its rows and columns are taken to have north up and west left."""
    crs: Any = getattr(area, "crs", None)
    extent = getattr(area, "area_extent", None)
    mapping = crs.to_cf() if crs is not None else {}
    plain = all(mapping.get(key, 0) == 0 for key in _ORIGIN)
    if mapping.get("grid_mapping_name") != "geostationary" or extent is None or not plain:
        raise ContrailError("not on a geostationary grid: give a Scene as its reader makes it, not resampled")
    if any(axis.unit_name != "metre" for axis in crs.axis_info):
        raise ContrailError(f"area in {crs.axis_info[0].unit_name}: give one in metres")
    height = float(mapping["perspective_point_height"])
    projection = Projection(
        float(mapping["longitude_of_projection_origin"]),
        height,
        float(mapping["semi_major_axis"]),
        float(mapping["semi_minor_axis"]),
        str(mapping["sweep_angle_axis"]),
    )
    # Outer edges, in metres at the height of the satellite; row 0 lies at the last.
    west, bottom, east, top = (float(edge) / height for edge in extent)
    if mirrored:
        bottom, top = -top, -bottom
    dx, dy = (east - west) / area.width, (bottom - top) / area.height
    grid = FixedGrid(projection, west + dx / 2, top + dy / 2, dx, dy, area.height, area.width)
    rows, columns = slice(None, None, -1 if dy > 0 else 1), slice(None, None, -1 if dx < 0 else 1)
    if dy > 0:
        grid = FixedGrid(projection, grid.x, bottom - dy / 2, grid.dx, -dy, area.height, area.width)
    if dx < 0:
        grid = FixedGrid(projection, east - dx / 2, grid.y, -dx, grid.dy, area.height, area.width)
    return grid, rows, columns


_ORIGIN = ("false_easting", "false_northing", "latitude_of_projection_origin")


def _times_of(attributes: Mapping[str, Any]) -> tuple[np.datetime64, np.datetime64]:
    """(start, end) of the scan: when it was observed, where satpy tells, not when it was to be."""
    observed = attributes.get("time_parameters") or {}
    start = observed.get("observation_start_time") or attributes.get("start_time")
    end = observed.get("observation_end_time") or attributes.get("end_time") or start
    if start is None:
        raise ContrailError(f"{attributes.get('name')} tells no time: set its start_time and end_time")
    return np.datetime64(start, "ns"), np.datetime64(end, "ns")


def _one(sensor: Any) -> str:
    return ", ".join(sorted(map(str, sensor))) if isinstance(sensor, (set, frozenset, list)) else str(sensor or "")


def _sector(attributes: Mapping[str, Any], area: Any) -> str:
    """In words where they are known: by ABI's abbreviation, or the end of the area's name ("JP02", "ami_geos_la")."""
    name = str(attributes.get("scene_abbr") or getattr(area, "area_id", ""))
    key = name.rpartition("_")[2].upper()
    return "Japan" if re.fullmatch(r"JP\d\d", key) else _SECTORS.get(key, name)


def _files_of(scene: Scene) -> tuple[str, ...]:
    names = {Path(str(h.filename)).name for h in _handlers(scene) if not getattr(h, "is_zipped", False)}
    return tuple(sorted(names))


def _handlers(scene: Scene) -> list[Any]:
    """Satpy's open files of a Scene, where it keeps them; none of one that was made otherwise."""
    readers = getattr(scene, "_readers", {}).values()
    return [file for reader in readers for same in reader.file_handlers.values() for file in same]


def _joined(scans: Sequence[_Scan], bands: Sequence[int], where: str) -> xr.Dataset:
    import dask.array as da

    first = scans[0]
    for scan in scans:
        if scan.area != first.area or scan.about["platform"] != first.about["platform"]:
            raise ContrailError(
                f"{where}: grids differ ({first.about['platform']} {first.about['scene']}, {scan.about['platform']} "
                f"{scan.about['scene']}, or their place): choose files of one satellite and sector"
            )
    shape = first.grid.height, first.grid.width
    chunks = next(iter(first.bands.values())).chunks
    empty = da.full(shape, np.float32(np.nan), chunks=chunks, dtype=np.float32)
    temperature = da.stack([da.stack([scan.bands.get(band, empty) for band in bands]) for scan in scans])
    return assemble(
        temperature,
        bands,
        first.grid,
        np.array([scan.start for scan in scans]),
        np.array([scan.end for scan in scans]),
        {**first.about, "source": sorted({name for scan in scans for name in scan.source})},
    )
