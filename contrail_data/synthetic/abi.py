"""GOES-R ABI files as NOAA publishes them, made of the synthetic scenes; deterministic by seed, byte for byte.

Names, variables, types, packing, flags and attributes are those of real L1b (Rad), CMIP and MCMIP files. Left out is
what no reader of imagery needs: star looks, focal plane temperatures, harmonization, solar irradiance, lists of inputs.
Radiances are Planck's law backwards, with the band's constants: L = fk1 / (exp(fk2 / (bc1 + bc2 T)) - 1).
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import h5py
import numpy as np
import numpy.typing as npt

from contrail_data.errors import ContrailError
from contrail_data.geo.fixed_grid import FixedGrid, Projection
from contrail_data.sample import RECORD_FRAMES
from contrail_data.storage.files import write_atomically
from contrail_data.synthetic.records import synthesize

STEP = 56e-6
"""Radians between pixels of the 2 km grid; its centre, the sub-satellite point, is the corner of four pixels."""

Key = tuple[int, int | None]
"""(scan, band); band None: all of the scan's."""


class Faults(TypedDict, total=False):
    """What real archives show. Keys are (scan, band), band None for all bands of a scan."""

    wedge: Mapping[Key, float]
    """No value (flag 3) in a wedge: this share of the columns in the first row, none in the last. An eclipse gives
    each band its own."""
    blocks: Mapping[Key, Sequence[tuple[int, int, int, int, int]]]
    """(flag, top, left, height, width): flag 1 and 4 keep the value, 2 is saturated, 3 has none."""
    missing: Collection[Key]
    """Files that were not published; in MCMIP, for one band, its imagery has no value."""
    truncated: Mapping[Key, float]
    """Only this share of the file's bytes is there."""
    duplicated: Collection[Key]
    """The file is there once more, created a minute later, and whole if the first is truncated."""


class _Band(NamedTuple):
    """Of GOES-16, as its files state them, taken for all satellites; the others' differ a little."""

    wavelength: float  # micrometre
    fk1: float
    fk2: float
    bc1: float
    bc2: float
    bits: int  # of packed radiance
    scale: float  # radiance, mW m-2 sr-1 (cm-1)-1
    offset: float
    kelvin_scale: float  # brightness temperature
    kelvin_offset: float


_BANDS = {
    8: _Band(6.19, 50687.1, 2331.58, 1.55228, 0.99667, 12, 0.007104763, -0.5586, 0.042249858, 138.05),
    9: _Band(6.93, 35828.3, 2076.95, 0.34427, 0.99918, 11, 0.022539102, -0.8236, 0.042339109, 137.70),
    10: _Band(7.34, 30174.0, 1961.38, 0.05651, 0.99986, 12, 0.02004128, -0.9561, 0.049889188, 126.91),
    11: _Band(8.44, 19779.9, 1703.83, 0.18733, 0.99948, 12, 0.03335779, -1.3022, 0.052164320, 127.69),
    12: _Band(9.61, 13432.1, 1497.61, 0.09102, 0.99971, 11, 0.05443998, -1.5394, 0.047270339, 117.49),
    13: _Band(10.33, 10803.3, 1392.74, 0.0755, 0.99975, 12, 0.04572892, -1.6443, 0.061453320, 89.62),
    14: _Band(11.19, 8510.22, 1286.27, 0.22516, 0.9992, 12, 0.049492206, -1.7187, 0.059850749, 96.19),
    15: _Band(12.27, 6454.62, 1173.03, 0.21702, 0.99916, 12, 0.05277411, -1.7558, 0.059560820, 97.38),
    16: _Band(13.27, 5101.27, 1084.53, 0.06266, 0.99974, 10, 0.17605852, -5.2392, 0.055081531, 92.70),
}


class _Satellite(NamedTuple):
    slot: str
    longitude: float  # of the fixed grid, degrees
    subpoint: float  # nominal
    instrument: str


_SATELLITES = {
    16: _Satellite("GOES-East", -75.0, -75.2, "FM1"),
    17: _Satellite("GOES-West", -137.0, -137.2, "FM2"),
    18: _Satellite("GOES-West", -137.0, -137.0, "FM3"),
    19: _Satellite("GOES-East", -75.0, -75.2, "FM4"),
}
_CENTRES = {"GOES-East": (29.5, -90.0), "GOES-West": (33.0, -125.0)}  # the Gulf coast, off California
_SCENES = {"F": "Full Disk", "C": "CONUS", "M1": "Mesoscale", "M2": "Mesoscale"}
_TENTHS = {"F": 5708, "C": 1573, "M1": 69, "M2": 69}  # of a second, that a scan takes in mode 6
_TENTHS_F = {3: 6367, 4: 2900}  # that a full disk takes in the others
_EPOCH = np.datetime64("2000-01-01T12:00:00", "ms")
_HOT = "focal_plane_temperature_threshold_exceeded"
_FLAGS = ("good_pixel", "conditionally_usable_pixel", "out_of_range_pixel", "no_value_pixel", _HOT)
_UNSET = np.float32(-999)
_IN_GRID = {"grid_mapping": "goes_imager_projection"}
_NO_FILL = {"i1": -127, "i2": -32767, "i4": -2147483647, "f4": 9.969209968386869e36, "f8": 9.969209968386869e36}


class _Image(NamedTuple):
    """One band of one scan as it is stored."""

    packed: npt.NDArray[np.int16]
    flags: npt.NDArray[np.int8]
    values: npt.NDArray[np.float64]  # of the good and conditionally usable pixels, one axis


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
    faults: Faults | None = None,
) -> list[Path]:
    """Write `scans` scans, `minutes` apart from `start` (UTC), as files of `product` in `folder`.

    L1b (radiance) and CMIP (brightness temperature) are one file a scan and band, MCMIP one a scan. The imagery is that
    of `synthesize(seed, 0, size=max(32, *size), bands=bands)`: scan i is its frame i, cropped to `size` = (rows,
    columns) of 2 km on `abi_grid(satellite, centre, size)`. `centre` is (latitude, longitude), by default on the Gulf
    coast for GOES-East and off California for GOES-West. `scene` (F, C, M1, M2) sets name and duration only, `mode`
    (3, 4, 6) name and attributes. Beside the Earth there is no value. Files of the same name are replaced.
    `faults`: what is wrong with them, see Faults.

    Returns the files in order of scan and band, a duplicate after the first. Raises ContrailError for arguments out of
    range and a folder that cannot be written.
    """
    faults = faults or {}
    bands = tuple(sorted(bands))
    _check(scans, seed, scene, product, bands, size, mode)
    _check_faults(faults, scans, bands, size, product)
    begin = _tenth(start)
    lasts = _TENTHS_F.get(mode, _TENTHS["F"]) if scene == "F" else _TENTHS[scene]
    if minutes < (least := math.ceil(lasts / 600)):
        raise ContrailError(f"minutes {minutes}: a scan of {scene} takes longer: give at least {least}")
    grid = abi_grid(satellite, centre, size)
    latitude, longitude = grid.geodetic()
    off = np.isnan(latitude)
    if off.all():
        raise ContrailError(f"centre {centre}: no pixel there is on the Earth: give one farther from its edge")
    places = _extent(grid, latitude, longitude)
    record = synthesize(seed, 0, size=max(*size, 32), bands=bands)
    names: list[Path] = []
    for scan in range(scans):
        first = begin + np.timedelta64(minutes * 60_000, "ms") * scan
        frames = {b: record.bands[b][: size[0], : size[1], scan].astype(np.float64) for b in bands}
        for group in [bands] if product == "MCMIP" else [(b,) for b in bands]:
            key = (scan, None if product == "MCMIP" else group[0])
            if _of(faults.get("missing", ()), *key):
                continue
            # Bands of a scan start together and end, and are published, some tenths apart.
            end = first + np.timedelta64(100 * (lasts + max(group) % 5), "ms")
            created = end + np.timedelta64(100 * (55 + 7 * group[0] % 35), "ms")
            images = {b: _image(frames[b], b, scan, off, product == "L1b", faults) for b in group}
            copies = [created, created + np.timedelta64(60_000, "ms")]
            for copy, stamp in enumerate(copies if _of(faults.get("duplicated", ()), *key) else copies[:1]):
                name = _name(product, scene, mode, satellite, None if product == "MCMIP" else group[0])
                name = f"{name}_s{_stamp(first)}_e{_stamp(end)}_c{_stamp(stamp)}.nc"
                content = _content(name, product, scene, mode, satellite, grid, places, images, (first, end, stamp))
                share = _of(faults.get("truncated", {}), *key)
                if share is not None and not copy:
                    content = content[: int(share * len(content))]
                try:
                    folder.mkdir(parents=True, exist_ok=True)
                    write_atomically(folder / name, [content])
                except OSError as error:
                    why = f"{folder}: cannot be written ({error.strerror}): check space and permissions"
                    raise ContrailError(why) from None
                names.append(folder / name)
    return names


def abi_grid(
    satellite: int = 16, centre: tuple[float, float] | None = None, size: tuple[int, int] = (500, 500)
) -> FixedGrid:
    """The window of the 2 km fixed grid with `size` = (rows, columns) whose middle is nearest to `centre` = (latitude,
    longitude), degrees. Raises ContrailError for another satellite, and a centre that it does not see.
    """
    if satellite not in _SATELLITES:
        raise ContrailError(f"satellite {satellite}: carries no ABI: give one of 16 to 19")
    craft = _SATELLITES[satellite]
    projection = Projection(craft.longitude)
    latitude, longitude = centre = _CENTRES[craft.slot] if centre is None else centre
    x, y = (float(a) for a in projection.to_scan_angles(latitude, longitude))
    if not math.isfinite(x + y) or abs(latitude) > 90:
        raise ContrailError(
            f"centre {centre}: not seen by GOES-{satellite}: give latitude, longitude near {craft.slot}"
        )
    rows, columns = size
    # Pixels' centres lie at odd multiples of half a step.
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
) -> None:
    if not 1 <= scans <= RECORD_FRAMES:
        raise ContrailError(f"scans {scans}: a synthetic scene has {RECORD_FRAMES} frames: give 1 to {RECORD_FRAMES}")
    if scene not in _SCENES:
        raise ContrailError(f"scene {scene!r}: ABI has no such: give one of {', '.join(_SCENES)}")
    if seed < 0:
        raise ContrailError(f"seed {seed}: not a seed: give a whole number from 0")
    if product not in ("L1b", "CMIP", "MCMIP"):
        raise ContrailError(f"product {product!r}: not made here: give L1b, CMIP or MCMIP")
    if not bands or len(set(bands)) < len(bands) or not set(bands) <= set(_BANDS):
        raise ContrailError(f"bands {','.join(map(str, bands))}: not made here: give different ones of 8 to 16")
    if len(size) != 2 or not all(2 <= n <= 2048 for n in size):
        raise ContrailError(f"size {size}: more than a scene has: give rows, columns from 2 to 2048")
    if mode not in (3, 4, 6):
        raise ContrailError(f"mode {mode}: ABI does not scan so: give 3, 4 or 6")


def _check_faults(faults: Faults, scans: int, bands: Sequence[int], size: tuple[int, int], product: str) -> None:
    if unknown := set(faults) - set(Faults.__annotations__):
        known = ", ".join(Faults.__annotations__)
        raise ContrailError(f"fault {sorted(unknown)[0]!r}: not made here: give some of {known}")
    for name, given in faults.items():
        keys: Any = given
        whole = product == "MCMIP" and name in ("truncated", "duplicated")
        for key in keys:
            scan, band = key if isinstance(key, tuple) and len(key) == 2 else (-1, None)
            if not 0 <= scan < scans or (band is not None and band not in bands):
                raise ContrailError(
                    f"fault {name} of {key}: not written anyway: give a scan from 0 and one of the bands"
                )
            if whole and band is not None:
                raise ContrailError(f"fault {name} of {key}: an MCMIP file holds all bands: give ({scan}, None)")
    for name in ("wedge", "truncated"):
        shares: Any = faults.get(name, {})
        for key, share in shares.items():
            if not 0 <= share <= 1:
                raise ContrailError(f"fault {name} of {key}: {share} is no share: give 0 to 1")
    for key, blocks in faults.get("blocks", {}).items():
        for flag, top, left, height, width in blocks:
            inside = 0 <= top < top + height <= size[0] and 0 <= left < left + width <= size[1]
            if not 1 <= flag <= 4 or not inside:
                block = (flag, top, left, height, width)
                raise ContrailError(
                    f"fault blocks of {key}: {block} cannot be: give flag 1 to 4 and a part of the image"
                )


def _of(faults: Any, scan: int, band: int | None) -> Any:
    """What a mapping or collection of faults holds for a band of a scan, or for all of them; None where nothing."""
    for key in ((scan, band), (scan, None)):
        if key in faults:
            return faults[key] if isinstance(faults, Mapping) else True
    return None


# --------------------------------------------------------------------------------------------------------- the imagery


def _image(
    kelvin: npt.NDArray[np.float64], band: int, scan: int, off: npt.NDArray[np.bool_], radiance: bool, faults: Faults
) -> _Image:
    """Pack brightness temperature (row, column) as radiance or as it is, with flags and faults."""
    b = _BANDS[band]
    rows, columns = kelvin.shape
    values = b.fk1 / np.expm1(b.fk2 / (b.bc1 + b.bc2 * kelvin)) if radiance else kelvin
    scale, offset, most, fill = _packing(b, radiance)
    counts = np.rint((values - float(offset)) / float(scale))
    flags = np.where((counts < 0) | (counts > most), 2, 0).astype(np.int8)
    for flag, top, left, height, width in _of(faults.get("blocks", {}), scan, band) or ():
        flags[top : top + height, left : left + width] = flag
        if flag == 2:
            counts[top : top + height, left : left + width] = most
    if share := _of(faults.get("wedge", {}), scan, band):
        flags[np.arange(columns) < share * columns * (1 - np.arange(rows) / (rows - 1))[:, None]] = 3
    if (scan, band) in faults.get("missing", ()):
        flags[:] = 3
    flags[off] = -1
    counts = counts.clip(0, most)
    good = (flags == 0) | (flags == 1)
    packed = np.where((flags == 3) | (flags == -1), fill, counts).astype(np.int16)
    return _Image(packed, flags, counts[good] * float(scale) + float(offset))


def _packing(b: _Band, radiance: bool) -> tuple[np.float32, np.float32, int, int]:
    """Scale, offset, largest count, the count that says no value."""
    if radiance:
        return np.float32(b.scale), np.float32(b.offset), 2**b.bits - 2, 2**b.bits - 1
    return np.float32(b.kelvin_scale), np.float32(b.kelvin_offset), 4095, -1


# ----------------------------------------------------------------------------------------------------- names and times


def _tenth(start: np.datetime64) -> np.datetime64:
    """In milliseconds, to the tenth of a second below, as names tell it."""
    if not isinstance(start, np.datetime64) or not np.datetime64("2000") <= start < np.datetime64("2100"):  # NaT fails
        raise ContrailError(f"start {start}: no satellite then: give a time from 2000 to 2099 as numpy.datetime64")
    milliseconds = start.astype("datetime64[ms]")
    return np.datetime64(int(milliseconds.astype(np.int64)) // 100 * 100, "ms")


def _stamp(time: np.datetime64) -> str:
    """YYYYJJJHHMMSSt."""
    text, day = str(time), time.astype("datetime64[D]")
    number = int((day - day.astype("datetime64[Y]")).astype(np.int64)) + 1
    return f"{text[:4]}{number:03d}{text[11:13]}{text[14:16]}{text[17:19]}{text[20]}"


def _name(product: str, scene: str, mode: int, satellite: int, band: int | None) -> str:
    kind = {"L1b": "L1b-Rad", "CMIP": "L2-CMIP", "MCMIP": "L2-MCMIP"}[product]
    return f"OR_ABI-{kind}{scene}-M{mode}{'' if band is None else f'C{band:02d}'}_G{satellite}"


def _extent(grid: FixedGrid, latitude: npt.NDArray[Any], longitude: npt.NDArray[Any]) -> dict[str, np.float32]:
    """Bounds of the part on the Earth and middle of the image, degrees; west and east also over the date line."""
    middle = grid.projection.longitude
    x, y = grid.x + grid.dx * (grid.width - 1) / 2, grid.y + grid.dy * (grid.height - 1) / 2
    centre = grid.projection.to_geodetic(x, y)
    east = (longitude - middle + 180) % 360 - 180
    west_most, east_most = ((float(v) + middle + 180) % 360 - 180 for v in (np.nanmin(east), np.nanmax(east)))
    return {
        "geospatial_westbound_longitude": np.float32(west_most),
        "geospatial_northbound_latitude": np.float32(np.nanmax(latitude)),
        "geospatial_eastbound_longitude": np.float32(east_most),
        "geospatial_southbound_latitude": np.float32(np.nanmin(latitude)),
        "geospatial_lat_center": np.float32(centre[0]),
        "geospatial_lon_center": np.float32(centre[1]),
    }


# ------------------------------------------------------------------------------------------------------------ the file


def _content(
    name: str,
    product: str,
    scene: str,
    mode: int,
    satellite: int,
    grid: FixedGrid,
    places: Mapping[str, np.float32],
    images: Mapping[int, _Image],
    times: tuple[np.datetime64, np.datetime64, np.datetime64],
) -> bytes:
    """The bytes of a file; `times` are when the scan starts and ends and when the file is created."""
    # In memory, so that it can be cut short and is put in place at once. Superblock and order as in NOAA's files.
    options: dict[str, Any] = {
        "driver": "core",
        "backing_store": False,
        "libver": ("v108", "v108"),
        "track_order": True,
    }
    with h5py.File(name, "w", **options) as file:
        for key, text in _global(name, product, scene, mode, satellite, times).items():
            file.attrs[key] = np.bytes_(text)
        _axes(file, grid)
        for band, image in images.items():
            suffix = f"_C{band:02d}" if product == "MCMIP" else ""
            _imagery(file, product, band, image, suffix)
            _band(file, product, band, image, suffix)
        _geometry(file, grid, places)
        _spacecraft(file, product, satellite)
        first, end, _ = ((t - _EPOCH) / np.timedelta64(1, "s") for t in times)
        attributes = {
            "long_name": "J2000 epoch mid-point between the start and end image scan in seconds",
            "standard_name": "time",
            "units": "seconds since 2000-01-01 12:00:00",
            "axis": "T",
            "bounds": "time_bounds",
        }
        _add(file, "t", np.float64((first + end) / 2), attributes)
        attributes = {"long_name": "Scan start and end times in seconds since epoch (2000-01-01 12:00:00)"}
        _add(file, "time_bounds", np.array([first, end]), attributes, ["number_of_time_bounds"])
        file.flush()
        return bytes(file.id.get_file_image())


def _add(
    file: h5py.File,
    name: str,
    data: Any,
    attributes: Mapping[str, Any],
    dimensions: Sequence[str] = (),
    storage: Mapping[str, Any] | None = None,
) -> None:
    """A netCDF variable. As in NOAA's files numbers among the attributes are arrays of one, text is of fixed length."""
    data = np.asarray(data)
    fill = attributes.get("_FillValue", _NO_FILL[data.dtype.str[1:]])
    variable = file.create_dataset(name, data=data, fillvalue=fill, **(storage or {}))
    for key, value in attributes.items():
        variable.attrs[key] = np.bytes_(value) if isinstance(value, str) else np.atleast_1d(value)
    for axis, dimension in enumerate(dimensions):
        variable.dims[axis].attach_scale(file[dimension])


def _axes(file: h5py.File, grid: FixedGrid) -> None:
    """The dimensions, as HDF5 dimension scales."""
    for axis, first, step, count in (("y", grid.y, grid.dy, grid.height), ("x", grid.x, grid.dx, grid.width)):
        attributes = {
            "scale_factor": np.float32(step),
            "add_offset": np.float32(first),
            "units": "rad",
            "axis": axis.upper(),
            "long_name": f"GOES fixed grid projection {axis}-coordinate",
            "standard_name": f"projection_{axis}_coordinate",
        }
        _add(file, axis, np.arange(count, dtype=np.int16), attributes)
        file[axis].make_scale(axis)
    lengths = {"number_of_time_bounds": 2, "band": 1, "number_of_image_bounds": 2}
    for name, count in lengths.items():
        scale = file.create_dataset(name, (count,), ">f4")
        # By this name netCDF-C knows that a dimension has no coordinate.
        scale.make_scale(f"This is a netCDF dimension but not a netCDF variable.{count:10d}")
    for number, name in enumerate(("y", "x", *lengths)):
        file[name].attrs["_Netcdf4Dimid"] = np.int32(number)


def _imagery(file: h5py.File, product: str, band: int, image: _Image, suffix: str) -> None:
    """Counts and flags."""
    radiance = product == "L1b"
    scale, offset, most, fill = _packing(_BANDS[band], radiance)
    what = "ABI L1b Radiances" if radiance else "ABI L2+ Cloud and Moisture Imagery brightness temperature"
    common = {
        "_Unsigned": "true",
        "coordinates": f"band_id{suffix} band_wavelength{suffix} t y x",
        **_IN_GRID,
        "cell_methods": "t: point area: point",
    }
    chunks = tuple(min(n, 250) for n in image.packed.shape)
    storage = {"chunks": chunks, "compression": "gzip", "compression_opts": 1, "shuffle": True}
    attributes = {
        "_FillValue": np.int16(fill),
        "long_name": what,
        "standard_name": _quantity(radiance),
        "sensor_band_bit_depth": np.int8(_BANDS[band].bits if radiance else 12),
        "valid_range": np.array([0, most], np.int16),
        "scale_factor": scale,
        "add_offset": offset,
        "units": _units(radiance),
        "resolution": "y: 0.000056 rad x: 0.000056 rad",
        "ancillary_variables": f"DQF{suffix}",
        **common,
    }
    _add(file, f"{'Rad' if radiance else 'CMI'}{suffix}", image.packed, attributes, ["y", "x"], storage)
    on_earth = max(int((image.flags >= 0).sum()), 1)
    attributes = {
        "_FillValue": np.int8(-1),
        "long_name": f"{what} data quality flags",
        "standard_name": "status_flag",
        "valid_range": np.array([0, 4], np.int8),
        "units": "1",
        "flag_values": np.arange(5, dtype=np.int8),
        "flag_meanings": " ".join(f"{flag}_qf" for flag in _FLAGS),
        "number_of_qf_values": np.int8(5),
        **{f"percent_{flag}_qf": np.float32((image.flags == i).sum() / on_earth) for i, flag in enumerate(_FLAGS)},
        **common,
    }
    _add(file, f"DQF{suffix}", image.flags, attributes, ["y", "x"], storage)


def _quantity(radiance: bool) -> str:
    return "toa_outgoing_radiance_per_unit_wavenumber" if radiance else "toa_brightness_temperature"


def _units(radiance: bool) -> str:
    return "mW m-2 sr-1 (cm-1)-1" if radiance else "K"


def _band(file: h5py.File, product: str, band: int, image: _Image, suffix: str) -> None:
    """Which band it is, its calibration (not in MCMIP), statistics of its pixels."""
    b, radiance = _BANDS[band], product == "L1b"
    attributes: dict[str, Any]
    attributes = {"long_name": "ABI band number", "standard_name": "sensor_band_identifier", "units": "1"}
    _add(file, f"band_id{suffix}", np.array([band], np.int8), attributes, ["band"])
    attributes = {
        "long_name": "ABI band central wavelength",
        "standard_name": "sensor_band_central_radiation_wavelength",
        "units": "um",
    }
    _add(file, f"band_wavelength{suffix}", np.array([b.wavelength], np.float32), attributes, ["band"])
    common = {"coordinates": f"band_id{suffix} band_wavelength{suffix}"}
    computes = "used in the ABI emissive band monochromatic brightness temperature computation"
    corrects = "for brightness temperature (B(nu) - bc_1)/bc_2 where B()=planck_function() and nu=wavenumber"
    for name, value, units, text in (
        ("fk1", b.fk1, _units(True), f"wavenumber-dependent coefficient (2 h c2 nu3) {computes}"),
        ("fk2", b.fk2, "K", f"wavenumber-dependent coefficient (h c nu/b) {computes}"),
        ("bc1", b.bc1, "K", f"spectral bandpass correction offset {corrects}"),
        ("bc2", b.bc2, "1", f"spectral bandpass correction scale factor {corrects}"),
    ):
        if product != "MCMIP":
            attributes = {"long_name": text, "_FillValue": _UNSET, "units": units, **common}
            _add(file, f"planck_{name}", np.float32(value), attributes)
    common = {"coordinates": f"{common['coordinates']} t y_image x_image", **_IN_GRID}
    counts: dict[str, tuple[str, tuple[int, ...]]]
    counts = {"outlier_pixel_count": ("number of pixels whose value is outside valid range", (2,))}
    if radiance:
        counts = {
            "valid_pixel_count": ("number of good and conditionally usable pixels", (0, 1)),
            "missing_pixel_count": ("number of missing pixels", (3,)),
            "saturated_pixel_count": ("number of saturated pixels", (2,)),
            f"{_HOT}_count": ("number of pixels whose temperatures exceeded the threshold", (4,)),
        }
    for name, (text, flags) in counts.items():
        attributes = {"long_name": text, "_FillValue": np.int32(-1), "units": "count", **common}
        _add(file, f"{name}{suffix}", np.int32(np.isin(image.flags, flags).sum()), attributes)
    what = "radiance_value_of_valid_pixels" if radiance else "brightness_temperature"
    v = image.values if image.values.size else np.array([_UNSET])
    for name, value, text in (
        ("min", v.min(), "minimum"),
        ("max", v.max(), "maximum"),
        ("mean", v.mean(), "mean"),
        ("std_dev", v.std(), "standard deviation of"),
    ):
        attributes = {
            "long_name": f"{text} {'radiance' if radiance else 'brightness temperature'} value of pixels",
            "standard_name": _quantity(radiance),
            "_FillValue": _UNSET,
            "units": _units(radiance),
            **common,
        }
        _add(file, f"{name}_{what}{suffix}", np.float32(value), attributes)


def _geometry(file: h5py.File, grid: FixedGrid, places: Mapping[str, np.float32]) -> None:
    """The projection, centre and extent of the image."""
    projection = grid.projection
    attributes: dict[str, Any] = {
        "long_name": "GOES-R ABI fixed grid projection",
        **projection.cf_attributes(),
        "inverse_flattening": np.float64(298.2572221),  # as NOAA rounds it
    }
    _add(file, "goes_imager_projection", np.int32(_NO_FILL["i4"]), attributes)
    for axis, first, step, count, sides in (
        ("y", grid.y, grid.dy, grid.height, "north/south"),
        ("x", grid.x, grid.dx, grid.width, "west/east"),
    ):
        edges = np.array([first - step / 2, first + step * (count - 0.5)])
        attributes = {
            "long_name": f"GOES-R fixed grid projection {axis}-coordinate center of image",
            "standard_name": f"projection_{axis}_coordinate",
            "units": "rad",
            "axis": axis.upper(),
        }
        _add(file, f"{axis}_image", np.float32(edges.mean()), attributes)
        text = f"GOES-R fixed grid projection {axis}-coordinate {sides} extent of image"
        attributes = {"long_name": text, "units": "rad"}
        _add(file, f"{axis}_image_bounds", edges.astype(np.float32), attributes, ["number_of_image_bounds"])
    attributes = {
        "long_name": "geospatial latitude and longitude references",
        **places,
        "geospatial_lat_nadir": np.float32(0),
        "geospatial_lon_nadir": np.float32(projection.longitude),
        "geospatial_lat_units": "degrees_north",
        "geospatial_lon_units": "degrees_east",
    }
    _add(file, "geospatial_lat_lon_extent", np.float32(_NO_FILL["f4"]), attributes)


def _spacecraft(file: h5py.File, product: str, satellite: int) -> None:
    """Where the satellite is meant to be, and which way round."""
    for name, value, what, standard, units in (
        ("subpoint_lat", 0.0, "subpoint latitude (platform latitude)", "latitude", "degrees_north"),
        (
            "subpoint_lon",
            _SATELLITES[satellite].subpoint,
            "subpoint longitude (platform longitude)",
            "longitude",
            "degrees_east",
        ),
        (
            "height",
            35786.023,
            "height above GRS 80 ellipsoid (platform altitude)",
            "height_above_reference_ellipsoid",
            "km",
        ),
    ):
        attributes: dict[str, Any] = {
            "long_name": f"nominal satellite {what}",
            "standard_name": standard,
            "_FillValue": _UNSET,
            "units": units,
        }
        _add(file, f"nominal_satellite_{name}", np.float32(value), attributes)
    if product == "L1b":
        attributes = {
            "long_name": "Flag indicating the spacecraft is operating in yaw flip configuration",
            "_Unsigned": "true",
            "_FillValue": np.int8(-1),
            "valid_range": np.array([0, 1], np.int8),
            "units": "1",
            "coordinates": "t",
            "flag_values": np.array([0, 1], np.int8),
            "flag_meanings": "false true",
        }
        _add(file, "yaw_flip_flag", np.int8(0), attributes)


def _global(
    name: str,
    product: str,
    scene: str,
    mode: int,
    satellite: int,
    times: tuple[np.datetime64, np.datetime64, np.datetime64],
) -> dict[str, str]:
    """The file's own attributes. Whoever looks at them learns that it is made up."""
    first, end, created = (f"{str(t)[:21]}Z" for t in times)
    kind = "Multiple emissive band" if product == "MCMIP" else "Single emissive band"
    what = "ABI L1b Radiances" if product == "L1b" else "ABI L2 Cloud and Moisture Imagery"
    return {
        "naming_authority": "gov.nesdis.noaa",
        "Conventions": "CF-1.7",
        "standard_name_vocabulary": "CF Standard Name Table (v35, 20 July 2016)",
        "institution": "none: synthetic data in the form of NOAA's",
        "project": "GOES",
        "production_site": "WCDAS",
        "production_environment": "OE",
        "spatial_resolution": "2km at nadir",
        "Metadata_Conventions": "Unidata Dataset Discovery v1.0",
        "orbital_slot": _SATELLITES[satellite].slot,
        "platform_ID": f"G{satellite}",
        "instrument_type": "GOES-R Series Advanced Baseline Imager (ABI)",
        "scene_id": _SCENES[scene],
        "instrument_ID": _SATELLITES[satellite].instrument,
        "title": what,
        "summary": f"Synthetic: made by contrail_data, no satellite saw it. {kind} {what}.",
        "cdm_data_type": "Image",
        "dataset_name": name,
        "production_data_source": "Simulated",
        "timeline_id": f"ABI Mode {mode}",
        "date_created": created,
        "time_coverage_start": first,
        "time_coverage_end": end,
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, name)),
    }
