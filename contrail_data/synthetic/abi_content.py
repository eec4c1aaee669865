"""The content of one synthetic ABI file: packed imagery, flags and attributes like those of NOAA's files.

Names, variables, types, packing, flags and attributes are those of real L1b (Rad), CMIP and MCMIP files;
`abi_files.yaml` holds the fixed ones. What no reader of imagery needs is left out: star looks, focal plane
temperatures, harmonization, solar irradiance, lists of inputs.

Radiances are Planck's law with the constants of the band: L = fk1 / (exp(fk2 / (bc1 + bc2 T)) - 1).
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import yaml

from contrail_data.geo.fixed_grid import FixedGrid

TEMPLATES = yaml.safe_load(files("contrail_data.synthetic").joinpath("abi_files.yaml").read_text())
_EPOCH = np.datetime64("2000-01-01T12:00:00", "ms")
_UNSET = np.float32(-999)
_NO_FILL = {"i1": -127, "i2": -32767, "i4": -2147483647, "f4": 9.969209968386869e36, "f8": 9.969209968386869e36}

PRODUCTS = TEMPLATES["products"]
BANDS, SATELLITES = (
    {number: SimpleNamespace(**constants) for number, constants in TEMPLATES[name].items()}
    for name in ("bands", "satellites")
)


@dataclass(frozen=True, kw_only=True)
class AbiContent:
    """What one file holds."""

    name: str
    product: str
    """A key of `PRODUCTS`."""
    scene: str
    """F, C, M1 or M2."""
    satellite: int
    grid: FixedGrid
    kelvin: Mapping[int, npt.NDArray[np.float32]]
    """Brightness temperature (y, x) by band; NaN off the Earth."""
    times: tuple[np.datetime64, np.datetime64, np.datetime64]
    """When the scan starts and ends and when the file is created."""


@lru_cache(maxsize=1)
def _extent_of(grid: FixedGrid) -> dict[str, np.float32]:
    """Return the bounds of the part of an image that lies on the Earth, and its centre, in degrees by attribute.

    West and east are right across the date line, too.
    """
    middle = grid.projection.longitude
    latitude, longitude = grid.geodetic()
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


def file_bytes(content: AbiContent) -> bytes:
    """Write a file in memory, with the superblock and the order of NOAA's files.

    Args:
        content: What the file holds.

    Returns:
        The bytes of the file.
    """
    in_memory = {"driver": "core", "backing_store": False}
    with h5py.File(content.name, "w", libver=("v108", "v108"), track_order=True, **in_memory) as file:
        start, end, created = (f"{str(time)[:21]}Z" for time in content.times)
        texts = {
            **PRODUCTS[content.product],
            **TEMPLATES["satellites"][content.satellite],
            "satellite": content.satellite,
            "name": content.name,
            "scene": TEMPLATES["scenes"][content.scene],
            "uuid": uuid.uuid5(uuid.NAMESPACE_URL, content.name),
            **{"start": start, "end": end, "created": created},
        }
        for key, text in TEMPLATES["file"].items():
            file.attrs[key] = np.bytes_(text.format(**texts))
        _add_axes(file, content.grid)
        for number, kelvin in content.kelvin.items():
            _add_band(file, content.product, number, kelvin)
        _add_geometry(file, content)
        first, last, _ = ((time - _EPOCH) / np.timedelta64(1, "s") for time in content.times)
        _add(file, "t", np.float64((first + last) / 2), "t")
        _add(file, "time_bounds", np.array([first, last]), "time_bounds", ["number_of_time_bounds"])
        file.flush()
        return bytes(file.id.get_file_image())


def _add(
    file: h5py.File,
    name: str,
    data: Any,
    template: str,
    dimensions: Sequence[str] = (),
    values: Mapping[str, Any] | None = None,
    **storage: Any,
) -> None:
    """Add a netCDF variable with the attributes of a template; `values` fill names in braces and null values.

    As in NOAA's files, numbers among the attributes are arrays of one element, and text is of fixed length.
    """
    values = values or {}
    attributes: dict[str, Any] = {}
    for key, value in TEMPLATES[template].items():
        if isinstance(value, str):
            attributes[key] = np.bytes_(value.format(**values))
        else:
            attributes[key] = np.atleast_1d(values[key] if value is None else np.array(value[1:], value[0]))
    data = np.asarray(data)
    fill = np.asarray(attributes.get("_FillValue", _NO_FILL[data.dtype.str[1:]])).item()
    variable = file.create_dataset(name, data=data, fillvalue=fill, **storage)
    for key, value in attributes.items():
        variable.attrs[key] = value
    for axis, dimension in enumerate(dimensions):
        variable.dims[axis].attach_scale(file[dimension])


def _add_axes(file: h5py.File, grid: FixedGrid) -> None:
    """Add the dimensions, as HDF5 dimension scales."""
    for axis, first, step, count in (("y", grid.y, grid.dy, grid.height), ("x", grid.x, grid.dx, grid.width)):
        texts = {"axis": axis, "capital": axis.upper()}
        packing = {"scale_factor": np.float32(step), "add_offset": np.float32(first)}
        _add(file, axis, np.arange(count, dtype=np.int16), "axis", values=texts | packing)
        file[axis].make_scale(axis)
    lengths = {"number_of_time_bounds": 2, "band": 1, "number_of_image_bounds": 2}
    for name, count in lengths.items():
        # By this name netCDF-C recognises a dimension without a coordinate.
        scale = file.create_dataset(name, (count,), ">f4")
        scale.make_scale(f"This is a netCDF dimension but not a netCDF variable.{count:10d}")
    for number, name in enumerate(("y", "x", *lengths)):
        file[name].attrs["_Netcdf4Dimid"] = np.int32(number)


def _add_band(file: h5py.File, product: str, number: int, kelvin: npt.NDArray[np.float32]) -> None:
    """Add the imagery of a band, its flags, its calibration (not in MCMIP) and the statistics of its pixels."""
    band, radiance = BANDS[number], product == "L1b"
    suffix = f"_C{number:02d}" if product == "MCMIP" else ""
    values: dict[str, Any] = {**PRODUCTS[product], "suffix": suffix}
    chunks = tuple(min(n, 250) for n in kelvin.shape)
    storage = {"chunks": chunks, "compression": "gzip", "compression_opts": 1, "shuffle": True}
    image = kelvin.astype(np.float64)
    if radiance:
        image = band.fk1 / np.expm1(band.fk2 / (band.bc1 + band.bc2 * image))
        scale, offset = np.float32(band.scale), np.float32(band.offset)
        most, fill = 2**band.bits - 2, 2**band.bits - 1
    else:
        scale, offset = np.float32(band.kelvin_scale), np.float32(band.kelvin_offset)
        most, fill = 4095, -1
    counts = np.rint((image - float(offset)) / float(scale))
    flags = np.where((counts < 0) | (counts > most), 2, 0).astype(np.int8)
    flags[np.isnan(kelvin)] = -1
    counts = counts.clip(0, most)
    packed = np.where(flags == -1, fill, counts).astype(np.int16)
    packing = {"_FillValue": np.int16(fill), "sensor_band_bit_depth": np.int8(band.bits if radiance else 12)}
    packing |= {"valid_range": np.array([0, most], np.int16), "scale_factor": scale, "add_offset": offset}
    _add(file, f"{values['variable']}{suffix}", packed, "imagery", ["y", "x"], values | packing, **storage)
    percents = [key for key in TEMPLATES["flags"] if key.startswith("percent_")]
    on_earth = max(int((flags >= 0).sum()), 1)
    shares = {key: np.float32((flags == flag).sum() / on_earth) for flag, key in enumerate(percents)}
    _add(file, f"DQF{suffix}", flags, "flags", ["y", "x"], values | shares, **storage)

    _add(file, f"band_id{suffix}", np.array([number], np.int8), "band_id", ["band"])
    _add(file, f"band_wavelength{suffix}", np.array([band.wavelength], np.float32), "band_wavelength", ["band"])
    if product != "MCMIP":
        for constant, (units, text) in TEMPLATES["planck_constants"].items():
            wording = values | {"text": text, "constant_units": units}
            _add(file, f"planck_{constant}", np.float32(getattr(band, constant)), "planck", values=wording)
    for name, (text, *counted) in TEMPLATES[values["counts"]].items():
        pixels = np.int32(np.isin(flags, counted).sum())
        _add(file, f"{name}{suffix}", pixels, "count", values=values | {"text": text})
    good = counts[flags == 0] * float(scale) + float(offset)
    good = good if good.size else np.array([_UNSET])
    statistics = {"min": "minimum", "max": "maximum", "mean": "mean", "std_dev": "standard deviation of"}
    for name, text in statistics.items():
        value = np.float32(getattr(good, name.removesuffix("_dev"))())
        _add(file, f"{name}_{values['measured']}{suffix}", value, "statistic", values=values | {"text": text})


def _add_geometry(file: h5py.File, content: AbiContent) -> None:
    """Add the projection, the centre and extent of the image, and the nominal place of the satellite."""
    grid, satellite = content.grid, SATELLITES[content.satellite]
    _add(file, "goes_imager_projection", np.int32(_NO_FILL["i4"]), "projection", values=grid.projection.cf_attributes())
    for axis, first, step, count, sides in (
        ("y", grid.y, grid.dy, grid.height, "north/south"),
        ("x", grid.x, grid.dx, grid.width, "west/east"),
    ):
        edges = np.array([first - step / 2, first + step * (count - 0.5)])
        texts = {"axis": axis, "capital": axis.upper(), "sides": sides}
        _add(file, f"{axis}_image", np.float32(edges.mean()), "image_axis", values=texts)
        bounds = edges.astype(np.float32)
        _add(file, f"{axis}_image_bounds", bounds, "image_bounds", ["number_of_image_bounds"], texts)
    values = {**_extent_of(grid), "geospatial_lon_nadir": np.float32(grid.projection.longitude)}
    _add(file, "geospatial_lat_lon_extent", np.float32(_NO_FILL["f4"]), "extent", values=values)
    places = {"subpoint_lat": 0.0, "subpoint_lon": satellite.subpoint, "height": 35786.023}
    for name, (text, quantity, units) in TEMPLATES["nominal_places"].items():
        texts = {"text": text, "quantity": quantity, "units": units}
        _add(file, f"nominal_satellite_{name}", np.float32(places[name]), "nominal", values=texts)
    if content.product == "L1b":
        _add(file, "yaw_flip_flag", np.int8(0), "yaw_flip_flag")
