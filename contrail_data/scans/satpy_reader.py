"""Scenes of other geostationary imagers through satpy: AHI, AMI, FCI, SEVIRI, and what else satpy reads.

satpy unpacks and calibrates the files. This module turns its datasets into a scene (`contrail_data.scans.scene`) on
their own fixed grid, without resampling. Channels are assigned to the ABI band of the same wavelength. Where FCI and
SEVIRI lack one, the nearest channel stands for it (`STAND_INS`). Not supported are swaths and resampled scenes.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
import threading
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.errors import ContrailError
from contrail_data.geo.fixed_grid import FixedGrid, Projection
from contrail_data.scans.satpy_files import CHANNELS, INFRARED, band_of_file
from contrail_data.scans.scene import assemble, remove_impossible, require_bands
from contrail_data.storage.files import first_line

if TYPE_CHECKING:
    from satpy import Scene


WINDOW = (11, 13, 14, 15)
"""ABI bands in atmospheric windows, from which ash composites are made."""
_WINDOW_MICROMETRES = "8.6, 10.4, 11.2 or 12.3 micrometres"
# Lowest and highest central wavelength in µm that count as each ABI band.
_LOWEST = (6.0, 6.8, 7.2, 8.4, 9.5, 10.3, 11.1, 12.25, 13.2)
_HIGHEST = (6.5, 7.1, 7.5, 8.75, 9.8, 10.55, 11.3, 12.45, 13.4)
_CENTRES = dict(zip(INFRARED, zip(_LOWEST, _HIGHEST, strict=True), strict=True))
STAND_INS = {"fci": {14: 10.5}, "seviri": {13: 10.8, 14: 10.8, 15: 12.0}}
"""By instrument, the channel (micrometres) that stands for an ABI band without one of its wavelength."""
_SECTORS = {"FLDK": "full disk", "FD": "full disk", "F": "full disk", "C": "CONUS", "ELA": "extended local area"}
_SECTORS |= {"LA": "local area", "M1": "mesoscale 1", "M2": "mesoscale 2"}
_ORIGIN = ("false_easting", "false_northing", "latitude_of_projection_origin")
_opening = threading.Lock()  # satpy's configuration is global to the process
_LOCKS = {"fci_l1c_nc": threading.Lock()}  # satpy reads FCI by netCDF4, which only one thread may use at a time


def from_satpy(scene: Scene) -> xr.Dataset:
    """Convert the loaded brightness temperatures of a satpy Scene into a scene of one time. Pixels stay lazy.

    Other datasets of the Scene, such as reflectances and modified temperatures, are ignored.

    Args:
        scene: A satpy Scene as its reader makes it, not resampled.

    Returns:
        A scene (see `contrail_data.scans.scene`) on dask arrays. Its attribute `source` names the files, except those
        that satpy had to decompress.

    Raises:
        ContrailError: If no window channel (ABI 11, 13, 14, 15) is loaded, or the datasets are not on one geostationary
            grid whose position is known.
    """
    scan = _scan_of(scene)
    bands = scan["band"].values.tolist()
    if not set(WINDOW) & set(bands):
        remedy = f"load one of {_WINDOW_MICROMETRES} as brightness temperature"
        loaded = ", ".join(map(str, bands))
        raise ContrailError(f"satpy scene: no window channel is loaded (loaded bands: {loaded}); {remedy}")
    return scan


@lru_cache(maxsize=16)
def open_readable(
    paths: tuple[Path, ...], reader: str, bands: tuple[int, ...]
) -> tuple[xr.Dataset | None, tuple[str, ...]]:
    """Open files of one scan through satpy, without those that cannot be read.

    Compressed files are unpacked when they are opened; pixels are read and calibrated on demand.

    Args:
        paths: The files.
        reader: satpy's name of the reader.
        bands: ABI bands; files need not hold all of them.

    Returns:
        A scene (see `contrail_data.scans.scene`) on dask arrays, where missing segments are NaN, or None if no file can
        be read; and one line for each file that is left out.
    """
    try:
        return _read(paths, reader, bands), ()
    except ContrailError as error:
        problem_of_all = str(error)
    problem_of: dict[Path, str] = {}
    for path in paths if len(paths) > 1 else ():
        try:
            _read([path], reader, bands)
        except ContrailError as error:
            problem_of[path] = str(error)
    good = tuple(path for path in paths if path not in problem_of)
    if not good or not problem_of:
        return None, tuple(problem_of.values()) or (problem_of_all,)
    scene, further = open_readable(good, reader, bands)
    return scene, (*problem_of.values(), *further)


def _read(paths: Sequence[Path], reader: str, bands: Sequence[int]) -> xr.Dataset:
    from satpy import Scene

    try:
        with _unpacked_and_unlinked(reader), warnings.catch_warnings(), np.errstate(invalid="ignore"):
            warnings.simplefilter("ignore")  # of orbits that are not needed, and of flags that are cast
            scene = Scene(filenames=list(map(os.fspath, paths)), reader=reader)
            _check_contents(scene, paths[0])
            available = _identifiers(scene)
            requested = [available[band] for band in bands if band in available]
            if not requested:
                require_bands(str(paths[0]), bands, available)
            scene.load(requested, generate=False)
    except ContrailError:
        raise
    except Exception as error:  # readers pass on what their formats' libraries raise, from EOFError to OverflowError
        raise _unreadable(paths, reader, error) from None
    if missing := {str(name["name"]) for name in scene.missing_datasets}:
        raise ContrailError(f"{paths[0]}: satpy cannot load {', '.join(sorted(missing))}; fetch the files again")
    try:
        return _scan_of(scene, paths, reader, bands)
    except ContrailError as error:
        raise ContrailError(f"{paths[0]}: {error}") from None


def _check_contents(scene: Scene, path: Path) -> None:
    """Refuse AHI and AMI files that hold another band than their names say, or more or fewer bytes than they state."""
    for file in _handlers(scene):
        named = CHANNELS.get(file.filetype_info["file_type"].removeprefix("hsd_b"))
        stated = named
        if "channel_center_wavelength" in getattr(getattr(file, "nc", None), "attrs", ()):
            stated = band_of_wavelength((None, file.nc.attrs["channel_center_wavelength"], None))
        elif hasattr(file, "basic_info"):
            header = file.basic_info[0]
            size, actual = (
                int(header["total_header_length"]) + int(header["total_data_length"]),
                os.path.getsize(file.filename),
            )
            if size != actual:
                raise ContrailError(f"{path}: contains {actual:,} bytes, but states {size:,}; fetch it again")
            stated = band_of_file(Path(header["file_name"].decode(errors="replace").strip("\0 ")), "ahi_hsd") or named
        if named is not None and stated != named:
            raise ContrailError(f"{path}: contains band {stated}, contrary to its name; fetch it again")


def _unreadable(paths: Sequence[Path], reader: str, error: Exception) -> ContrailError:
    band = band_of_file(paths[0], reader) if len(paths) == 1 else None
    which = f"{paths[0]}{f' and {len(paths) - 1} more' if len(paths) > 1 else ''}"
    reason = f"{f'band {band}: ' if band else ''}{first_line(error)[:100]}"
    if reader == "fci_l1c_nc" and "undefined filter" in str(error):
        remedy = "run pip install '.[satpy]' in the checkout; in Python, read FCI before anything imports netCDF4"
        return ContrailError(f"{which}: no decompressor of FCI's files is found (hdf5plugin); {remedy}")
    return ContrailError(f"{which}: satpy cannot read it ({reason}); fetch it again")


@contextmanager
def _unpacked_and_unlinked(reader: str) -> Iterator[None]:
    """Make satpy decompress .bz2 files into a folder that is removed at once.

    satpy would keep them until the process ends, 240 MB per full disk. It maps AHI's files into memory when loading, so
    they can be unlinked then, and their space is freed with the scene.
    """
    import satpy

    for logger in ("satpy", "native_msg", "hrit_msg"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)  # what matters is raised
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
    """Return satpy's identifier of each band, at its coarsest resolution, which all bands have."""
    chosen: dict[int, Any] = {}
    for key in sorted(scene.available_dataset_ids(), key=lambda key: -(key.get("resolution") or 0)):
        calibration = getattr(key.get("calibration"), "name", None)
        if calibration == "brightness_temperature" and not key.get("modifiers"):
            for band in bands_of_channel(key.get("wavelength"), scene.sensor_names):
                chosen.setdefault(band, key)
    return chosen


def _scan_of(
    scene: Scene, paths: Sequence[Path] = (), reader: str = "", requested: Sequence[int] = tuple(INFRARED)
) -> xr.Dataset:
    """Convert a Scene into a scene of one time, with those of the requested bands that are loaded."""
    import dask.array as da

    arrays: dict[int, Any] = {}
    for array in scene:
        is_temperature = array.attrs.get("standard_name") == "toa_brightness_temperature"
        if not is_temperature or array.attrs.get("modifiers"):
            continue
        for band in bands_of_channel(array.attrs.get("wavelength"), _sensors(array.attrs)):
            if band in arrays:
                raise ContrailError(f"several datasets of band {band} ({array.attrs.get('name')}); load one resolution")
            if band in requested:
                arrays[band] = array
    if not arrays:
        raise ContrailError(f"no brightness temperature of a window channel; load one ({_WINDOW_MICROMETRES})")
    first = next(iter(arrays.values()))
    area = first.attrs.get("area")
    grid, rows, columns = _grid_of(area, _mirrored(scene, first.attrs))
    for array in arrays.values():
        if array.attrs.get("area") != area:
            names = f"{first.attrs.get('name')}, {array.attrs.get('name')}"
            raise ContrailError(f"areas differ ({names}); load bands of one resolution")
    times = [_times_of(array.attrs) for array in arrays.values()]
    files = (file for file in _handlers(scene) if not getattr(file, "is_zipped", False))
    source = {path.name for path in paths} or {Path(str(file.filename)).name for file in files}
    attributes = {
        "platform": str(first.attrs.get("platform_name") or ""),
        "instrument": ", ".join(sorted(_sensors(first.attrs))),
        "scene": _sector(first.attrs, area),
        "source": sorted(source),
    }
    bands = sorted(arrays)
    planes = [da.asarray(arrays[band].transpose("y", "x").data)[rows, columns].astype(np.float32) for band in bands]
    scan_time = min(start for start, _ in times), max(end for _, end in times)
    checked = _checked(da.stack([da.stack(planes)]), grid, paths, reader)
    return assemble(checked, bands, grid, [scan_time], attributes)


def _checked(stack: Any, grid: FixedGrid, paths: Sequence[Path], reader: str) -> Any:
    """Return satpy's array (time, band, y, x) so that errors name the file, and impossible temperatures are refused."""
    import dask.array as da

    def _block(block_info: Any = None) -> npt.NDArray[np.float32]:
        where = tuple(slice(*limits) for limits in block_info[None]["array-location"])
        try:
            with _LOCKS.get(reader, nullcontext()), np.errstate(invalid="ignore"):
                values = np.array(stack[where].compute(scheduler="synchronous"))
        except Exception as error:  # as in `_read`
            raise _unreadable(paths or [Path("satpy scene")], reader, error) from None
        for plane in values.reshape(-1, *values.shape[2:]):
            remove_impossible(plane, lambda: grid, where[2], where[3], str(paths[0] if paths else "satpy scene"))
        return values

    return da.map_blocks(_block, dtype=np.float32, chunks=stack.chunks, meta=np.empty((0,) * 4, np.float32))


def band_of_wavelength(wavelength: Any) -> int | None:
    """Find the ABI band of a wavelength.

    Args:
        wavelength: satpy's (minimum, central, maximum) in µm, or None.

    Returns:
        The band number; None if the wavelength is not that of an ABI infrared band.
    """
    if wavelength is None:
        return None
    central = float(wavelength[1])
    return next((band for band, (low, high) in _CENTRES.items() if low <= central <= high), None)


def bands_of_channel(wavelength: Any, sensors: Collection[str]) -> list[int]:
    """Find the ABI bands that a channel is read as: that of its wavelength, and those that it stands for.

    Args:
        wavelength: satpy's (minimum, central, maximum) in µm, or None.
        sensors: satpy's names of the instrument.

    Returns:
        The band numbers.
    """
    own = band_of_wavelength(wavelength)
    stands_for = [band for sensor in sensors for band, channel in STAND_INS.get(sensor, {}).items()
                  if wavelength is not None and abs(float(wavelength[1]) - channel) < 0.05]  # fmt: skip
    return [*([] if own is None else [own]), *stands_for]


def note_on_stand_ins(instrument: str, bands: Sequence[int]) -> str:
    """Say which bands are read from channels of another wavelength.

    Args:
        instrument: Attribute `instrument` of a scene.
        bands: ABI bands.

    Returns:
        One line; empty if there are none.
    """
    used = {band: channel for band, channel in STAND_INS.get(instrument, {}).items() if band in bands}
    parts = [f"band {band} is its channel at {channel:g} micrometres" for band, channel in used.items()]
    return f"{instrument.upper()} lacks some of ABI's channels: {', '.join(parts)}" if parts else ""


def _sensors(attributes: Mapping[str, Any]) -> set[str]:
    sensors = attributes.get("sensor") or ()
    return {sensors} if isinstance(sensors, str) else set(map(str, sensors))


def _mirrored(scene: Scene, attributes: Mapping[str, Any]) -> bool:
    """Return whether satpy has put the area on the wrong side of the equator."""
    # satpy 0.60 does so with local areas of AMI, because it applies the line offset to a line factor of the opposite
    # sign, which is only harmless for a full disk. The files state where the centre of their first pixel lies; that
    # decides, whatever later versions of satpy do.
    area: Any = attributes.get("area")
    extent = getattr(area, "area_extent", None)
    if attributes.get("reader") != "ami_l1b" or extent is None:
        return False
    if area.area_id == "ami_geos_fd" or abs(extent[3] + extent[1]) < 100:  # metres; symmetric is right either way
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
    reason = "satpy mirrors it and its files are not at hand"
    raise ContrailError(f"AMI's local area cannot be placed, since {reason}; use from_satpy before you crop")


def _grid_of(area: Any, mirrored: bool) -> tuple[FixedGrid, slice, slice]:
    """Return the fixed grid of an area, and the slices that turn its rows and columns to north up and west left."""
    crs: Any = getattr(area, "crs", None)
    extent = getattr(area, "area_extent", None)
    mapping = crs.to_cf() if crs is not None else {}
    plain = all(mapping.get(key, 0) == 0 for key in _ORIGIN)
    if mapping.get("grid_mapping_name") != "geostationary" or extent is None or not plain:
        raise ContrailError("not on a geostationary grid; give a Scene as its reader makes it, not resampled")
    if any(axis.unit_name != "metre" for axis in crs.axis_info):
        raise ContrailError(f"area in {crs.axis_info[0].unit_name}; give one in metres")
    projection = Projection.from_cf(mapping)
    # The extent holds outer edges in metres at the height of the satellite; row 0 is at the top one.
    west, bottom, east, top = (float(edge) / projection.height for edge in extent)
    if mirrored:
        bottom, top = -top, -bottom
    rows, columns = slice(None, None, -1 if bottom > top else 1), slice(None, None, -1 if west > east else 1)
    west, east, bottom, top = min(west, east), max(west, east), min(bottom, top), max(bottom, top)
    dx, dy = (east - west) / area.width, (bottom - top) / area.height
    return FixedGrid(projection, west + dx / 2, top + dy / 2, dx, dy, area.height, area.width), rows, columns


def _times_of(attributes: Mapping[str, Any]) -> tuple[np.datetime64, np.datetime64]:
    """Return start and end of the scan: the observed ones if satpy knows them, otherwise the nominal ones."""
    times = attributes.get("time_parameters") or {}
    observed: list[Any] = [times.get(f"observation_{end}_time") for end in ("start", "end")]
    nominal: list[Any] = [times.get(f"nominal_{end}_time") for end in ("start", "end")]
    if "fci" in _sensors(attributes) and None not in (*observed, *nominal):
        # Those observed are of the chunks that are there; if many are missing, the nominal times are nearer.
        share = (observed[1] - observed[0]) / (nominal[1] - nominal[0])
        observed = observed if share > 0.8 else nominal
    start = observed[0] or attributes.get("start_time")
    end = observed[1] or attributes.get("end_time") or start
    if start is None:
        raise ContrailError(f"{attributes.get('name')}: no time is known; set its start_time and end_time")
    return np.datetime64(start, "ns"), np.datetime64(end, "ns")


def _sector(attributes: Mapping[str, Any], area: Any) -> str:
    """Name the sector from ABI's abbreviation, or from the end of the area's name ("JP02", "ami_geos_la")."""
    name = str(attributes.get("scene_abbr") or getattr(area, "area_id", ""))
    if re.match(r"fill$|(mtg_fci_fdss|msg_seviri_(fes|iodc))_", name):  # "fill" begins with segments that are missing
        return "full disk"
    if name.startswith("msg_seviri_rss_"):
        return "rapid scan"
    key = name.rpartition("_")[2].upper()
    return "Japan" if re.fullmatch(r"JP\d\d", key) else _SECTORS.get(key, name)


def _handlers(scene: Scene) -> list[Any]:
    """Return satpy's open files of a Scene; none if the Scene was not read from files."""
    readers = getattr(scene, "_readers", {}).values()
    return [file for reader in readers for same in reader.file_handlers.values() for file in same]
