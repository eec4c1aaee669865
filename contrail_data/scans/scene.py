"""A scene: one or several scans on the satellite's fixed grid, as an xarray.Dataset with a fixed schema.

    brightness_temperature  (time, band, y, x) float32, kelvin, NaN where missing; lazy
    time                    (time) datetime64[ns] UTC, middle of the scan; scan_start, scan_end (time)
    band                    (band) int, ABI band numbers (other imagers: the ABI band of the same wavelength)
    x, y                    (x), (y) float64 radians, scan angles of the pixels' centres
    goes_imager_projection  the CF grid mapping; himawari_, gk2a_, mtg_, msg_imager_projection for other imagers

Attributes: platform, instrument, scene, source (names of the files).
"""

import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.composites import Composite, evaluate, get_composite
from contrail_data.errors import ContrailError
from contrail_data.geo.fixed_grid import FixedGrid, Projection
from contrail_data.geo.geometry import solar_zenith
from contrail_data.lazy import recognise_dask_lazily
from contrail_data.sample import KELVIN_RANGE

recognise_dask_lazily()

GRID_MAPPINGS = {
    "abi": "goes_imager_projection",  # as NOAA names it
    "ahi": "himawari_imager_projection",
    "ami": "gk2a_imager_projection",
    "fci": "mtg_imager_projection",
    "seviri": "msg_imager_projection",
}
"""Names of grid mappings by instrument; others have `imager_projection`."""
_SCANNED_NORTHWARDS = ("fci", "seviri")
"""Instruments that scan from south to north; others scan from north to south."""
_FEW_PIXELS, _SMALL_SHARE = 16, 0.05
"""Impossible pixels of a window, or share of it if that is more, that count as faults of single pixels."""
_BLOCK_ROWS = 256
"""Rows that a thread takes from the bands to the composite at once, if files have no chunks."""
_CACHED_ROWS = 16  # all bands and channels of this many rows fit into the processor's cache


def require_bands(where: str, bands: Iterable[int], available: Collection[int]) -> None:
    """Check that bands are available.

    Args:
        where: What should have them, for the message.
        bands: The required ABI bands.
        available: The available ones.

    Raises:
        ContrailError: If a band is missing.
    """
    if absent := [band for band in bands if band not in available]:
        names = ", ".join(map(str, sorted(available))) or "none"
        lacking = f"band {absent[0]} is" if len(absent) == 1 else f"bands {', '.join(map(str, absent))} are"
        them = "it" if len(absent) == 1 else "them"
        remedy = f"fetch {them}, or use a composite or a model without {them}"
        raise ContrailError(f"{where}: {lacking} missing (available: {names}); {remedy}")


def remove_impossible(
    kelvin_yx: npt.NDArray[np.float32], grid: Callable[[], FixedGrid], rows: slice, columns: slice, where: str
) -> None:
    """Turn brightness temperatures outside of `KELVIN_RANGE` into NaN, in place; refuse a window with many of them.

    Args:
        kelvin_yx: A window of a scan.
        grid: Returns the grid of the scan. Beside the Earth any number of impossible pixels is accepted.
        rows: Rows of the window.
        columns: Columns of the window.
        where: The file, for the message.

    Raises:
        ContrailError: If the window does not hold brightness temperatures.
    """
    lowest, highest = KELVIN_RANGE
    if not kelvin_yx.size:
        return
    smallest, largest = np.fmin.reduce(kelvin_yx, axis=None), np.fmax.reduce(kelvin_yx, axis=None)
    if not (smallest < lowest or largest > highest):
        return
    impossible = (kelvin_yx < lowest) | (kelvin_yx > highest)
    window = grid().window(rows.start, columns.start, *kelvin_yx.shape)
    count = np.count_nonzero(impossible & ~np.isnan(window.geodetic()[0]))
    if count > max(_FEW_PIXELS, _SMALL_SHARE * kelvin_yx.size):
        values = f"{smallest:.4g} to {largest:.4g} K (possible: {lowest:g} to {highest:g})"
        raise ContrailError(f"{where}: does not contain brightness temperatures: {values}; fetch the file again")
    kelvin_yx[impossible] = np.nan


def assemble(
    temperature: Any,
    bands: Sequence[int],
    grid: FixedGrid,
    times: Sequence[tuple[np.datetime64, np.datetime64]],
    attributes: Mapping[str, Any],
) -> xr.Dataset:
    """Assemble a scene.

    Args:
        temperature: Brightness temperature, (time, band, y, x), kelvin; any array that xarray accepts, also a lazy one.
        bands: ABI band numbers.
        grid: The fixed grid.
        times: Start and end of each scan.
        attributes: Attributes of the scene.

    Returns:
        The scene.
    """
    x, y = grid.axes()
    start, end = np.array(times).T
    mapping = GRID_MAPPINGS.get(str(attributes.get("instrument", "")).lower(), "imager_projection")
    temperature_attributes = {
        "units": "K",
        "standard_name": "toa_brightness_temperature",
        "long_name": "brightness temperature",
        "grid_mapping": mapping,
    }
    angle = {"units": "rad", "axis": "", "long_name": "scan angle"}
    return xr.Dataset(
        {"brightness_temperature": (("time", "band", "y", "x"), temperature, temperature_attributes)},
        coords={
            "time": ("time", start + (end - start) / 2, {"long_name": "middle of the scan, UTC"}),
            "scan_start": ("time", start),
            "scan_end": ("time", end),
            "band": ("band", np.asarray(bands, np.int16), {"long_name": "ABI band number"}),
            "x": ("x", x, angle | {"axis": "X", "standard_name": "projection_x_coordinate"}),
            "y": ("y", y, angle | {"axis": "Y", "standard_name": "projection_y_coordinate"}),
            mapping: ((), np.int32(0), grid.projection.cf_attributes()),
        },
        attrs={"Conventions": "CF-1.11", **attributes},
    )


def grid_mapping_of(scene: xr.Dataset) -> str:
    """Return the name of a scene's grid mapping.

    Args:
        scene: The scene.

    Returns:
        The name of the variable, see `GRID_MAPPINGS`.

    Raises:
        ContrailError: If the dataset has no geostationary grid mapping.
    """
    for name, variable in scene.variables.items():
        if variable.attrs.get("grid_mapping_name") == "geostationary":
            return str(name)
    raise ContrailError("scene: no variable is a grid mapping (grid_mapping_name: geostationary); open a scan")


def grid_of(scene: xr.Dataset) -> FixedGrid:
    """Return the fixed grid of a scene or of a window of one, or of a file that was written from one.

    Args:
        scene: The scene; `x` and `y` are scan angles, or have units of "m" and are scan angles times the height.

    Returns:
        The grid.
    """
    projection = Projection.from_cf(scene[grid_mapping_of(scene)].attrs)
    scale = projection.height if scene["x"].attrs.get("units") == "m" else 1.0
    (x, dx, width), (y, dy, height) = (_axis(scene[name].values / scale) for name in ("x", "y"))
    return FixedGrid(projection, x, y, dx, dy, height, width)


def _axis(values: npt.NDArray[np.float64]) -> tuple[float, float, int]:
    step = (values[-1] - values[0]) / (len(values) - 1) if len(values) > 1 else 5.6e-5
    return float(values[0]), float(step), len(values)


def with_geometry(scene: xr.Dataset, rows: int) -> xr.Dataset:
    """Add lazy coordinates to a scene: places, angles and the time of each row.

    Args:
        scene: The scene.
        rows: Rows per dask task.

    Returns:
        The scene with `latitude`, `longitude` and `satellite_zenith` (y, x) and `solar_zenith` (time, y, x), in degrees
        and NaN off the Earth, and `scan_time` (time, y), see `row_times`.
    """
    projection = grid_of(scene).projection
    x, y = (xr.DataArray(scene[name].values, dims=name) for name in ("x", "y"))
    times = xr.DataArray(row_times(scene), dims=("time", "y"), attrs={"long_name": "time of the row's scan, UTC"})
    y, times = y.chunk(y=rows), times.chunk(time=1, y=rows)

    lazily = partial(xr.apply_ufunc, dask="parallelized", keep_attrs=False)
    places: dict[str, Any] = {"output_core_dims": [(), ()], "output_dtypes": [np.float64, np.float64]}
    latitude, longitude = lazily(lambda y, x: projection.to_geodetic(x, y), y, x, **places)
    zenith = lazily(lambda y, x: projection.zenith(x, y), y, x, output_dtypes=[np.float64])
    sun = lazily(lambda t, lat, lon: solar_zenith(lat, lon, t), times, latitude, longitude, output_dtypes=[np.float64])
    angles = {
        "latitude": (latitude, "latitude", "degrees_north"),
        "longitude": (longitude, "longitude", "degrees_east"),
        "satellite_zenith": (zenith, "sensor_zenith_angle", "degree"),
        "solar_zenith": (sun, "solar_zenith_angle", "degree"),
    }
    coordinates = {
        name: angle.assign_attrs(units=unit, standard_name=standard) for name, (angle, standard, unit) in angles.items()
    }
    return scene.assign_coords({**coordinates, "scan_time": times})


def composite_of(scene: xr.Dataset, composite: Composite | str, *, clip: bool = True) -> xr.DataArray:
    """Compute a composite of brightness temperatures.

    Args:
        scene: A scene, or any dataset with `brightness_temperature` in kelvin and its axes `band` (ABI band numbers), y
            and x, with or without time.
        composite: The composite: a name of `contrail_data.composites.COMPOSITES`, a .yaml file, or several joined by +.
        clip: Whether to clip channels to [0, 1].

    Returns:
        (time, channel, y, x) float32, NaN where a band is missing. It is lazy if the scene consists of dask arrays;
        then one dask task takes a block of rows from the files to the composite.

    Raises:
        ContrailError: If the composite is unknown, or the scene lacks a band.

    Examples:
        >>> import contrail_data
        >>> scans = contrail_data.open_abi("data/abi")
        >>> ash = contrail_data.composite_of(scans, "ash")
        >>> ash.dims, ash.channel.values.tolist()
        (('time', 'channel', 'y', 'x'), ['R', 'G', 'B'])
    """
    composite = get_composite(composite) if isinstance(composite, str) else composite
    if "brightness_temperature" not in scene or "band" not in scene.indexes:
        raise ContrailError(
            f"composite {composite.name!r}: the dataset has no brightness_temperature with an index band; open scans "
            "with open_abi"
        )
    require_bands(f"scene for composite {composite.name!r}", composite.bands, scene["band"].values.tolist())

    planes = {
        band: scene["brightness_temperature"].sel(band=band, drop=True).transpose(..., "y", "x")
        for band in composite.bands
    }
    if scene["brightness_temperature"].chunks is None:
        channels = _all_channels(composite, planes, clip)
    else:
        channels = xr.apply_ufunc(
            partial(_channels_last, composite, clip),
            *planes.values(),
            output_core_dims=[["channel"]],
            dask="parallelized",
            output_dtypes=[np.float32],
            dask_gufunc_kwargs={"output_sizes": {"channel": len(composite.channels)}},
        ).transpose(..., "channel", "y", "x")
    attributes = {"long_name": f"composite {composite.name}", "units": "1"}
    mapping = scene["brightness_temperature"].attrs.get("grid_mapping")
    channels.attrs = attributes if mapping is None else attributes | {"grid_mapping": mapping}
    return channels.assign_coords(channel=composite.channel_names).rename(composite.name)


def _all_channels(composite: Composite, planes: Mapping[int, xr.DataArray], clip: bool) -> xr.DataArray:
    """Compute channels from files or memory at once: several threads take some rows each, so that no band is held."""
    first = planes[composite.bands[0]]
    *leading, height, width = first.shape
    out = np.empty((*leading, len(composite.channels), height, width), np.float32)
    rows = first.encoding.get("preferred_chunks", {}).get("y", _BLOCK_ROWS)

    def fill(top: int) -> None:
        part = slice(top, top + rows)
        values = [plane.variable.isel(y=part).values for plane in planes.values()]
        _fill_channels(composite, clip, values, out[..., part, :])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        deque(pool.map(fill, range(0, height, rows)), maxlen=0)
    return xr.DataArray(out, first.coords, (*first.dims[:-2], "channel", "y", "x"))


def _channels_last(composite: Composite, clip: bool, *planes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    *leading, rows, columns = planes[0].shape
    out = np.empty((*leading, len(composite.channels), rows, columns), np.float32)
    _fill_channels(composite, clip, planes, out)
    return np.moveaxis(out, -3, -1)


def _fill_channels(
    composite: Composite, clip: bool, planes: Sequence[npt.NDArray[np.float32]], out: npt.NDArray[np.float32]
) -> None:
    """Compute (..., channel, y, x) from one plane (..., y, x) for each band, a few rows at a time."""
    for leading in np.ndindex(*planes[0].shape[:-2]):
        for top in range(0, out.shape[-2], _CACHED_ROWS):
            part = slice(top, top + _CACHED_ROWS)
            bands = {band: plane[leading][part] for band, plane in zip(composite.bands, planes, strict=True)}
            evaluate(composite, bands, clip=clip, out=out[leading][:, part])


def row_times(scene: xr.Dataset) -> npt.NDArray[np.datetime64]:
    """Estimate when each row was scanned, evenly from the first row to the last, or the other way for Meteosat.

    The error is at most the half minute that the imager takes for a swath of rows.

    Args:
        scene: The scene.

    Returns:
        Times in UTC, (time, y) datetime64[ns].
    """
    start, end = (scene[name].values.astype("datetime64[ns]") for name in ("scan_start", "scan_end"))
    share = (np.arange(scene.sizes["y"]) + 0.5) / scene.sizes["y"]
    if scene.attrs.get("instrument") in _SCANNED_NORTHWARDS:
        share = share[::-1]
    spent = (end - start).astype(np.int64)[:, np.newaxis] * share
    return np.asarray(start[:, np.newaxis] + spent.astype("timedelta64[ns]"))
