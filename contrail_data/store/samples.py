"""MISSING DOCSTRING."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.geo.geometry import local_solar_hour, satellite_zenith, solar_zenith
from contrail_data.sample import reference_frame
from contrail_data.store.settings import StoreSettings
from contrail_data.store.writer import checksum_variables


def stored_values(attributes: Mapping[str, Any], time: npt.NDArray[np.datetime64]) -> dict[str, Any]:
    """Per-sample variables of the store as JSON keeps them: NaN and NaT as null."""
    a = attributes
    plain = ("split", "label_source", "labelled_frame", "annotator_count", "source_digest", "crs_wkt")
    return {
        **{k: a[k] for k in (*plain, "height", "width", "positive_pixels", "satellite", "satellite_longitude")},
        "time": [None if np.isnat(t) else int(t.astype("datetime64[ms]").astype(int)) for t in time],
        "latitude": _number(a["latitude"]),
        "longitude": _number(a["longitude"]),
        **{k: [_number(v) for v in a[k]] for k in ("corner_latitude", "corner_longitude", "geotransform")},
    }


def _number(value: Any) -> float | None:
    return None if math.isnan(value) else float(value)


_VARIABLES: dict[str, tuple[tuple[str, ...], str, dict[str, str]]] = {
    "record_id": (("sample",), "str", {}),
    "split": (("sample",), "str", {}),
    "label_source": (("sample",), "str", {"long_name": "none, human or pseudo"}),
    "labelled_frame": (("sample",), "int8", {"long_name": "index of the frame the label belongs to, -1: none"}),
    "annotator_count": (("sample",), "uint8", {}),
    "latitude": (("sample",), "float64", {"units": "degrees_north", "long_name": "centre of the tile"}),
    "longitude": (("sample",), "float64", {"units": "degrees_east", "long_name": "centre of the tile"}),
    "corner_latitude": (("sample", "corner"), "float64", {"units": "degrees_north"}),
    "corner_longitude": (("sample", "corner"), "float64", {"units": "degrees_east"}),
    "crs_wkt": (("sample",), "str", {"long_name": "projection of the tile, well-known text"}),
    "geotransform": (("sample", "affine"), "float64", {"long_name": "GDAL order, of the stored grid", "units": "m"}),
    "positive_pixels": (("sample",), "int32", {"long_name": "mask pixels before resizing"}),
    "height": (("sample",), "int32", {"long_name": "rows before resizing"}),
    "width": (("sample",), "int32", {"long_name": "columns before resizing"}),
    "satellite": (("sample",), "str", {}),
    "satellite_longitude": (("sample",), "float64", {"units": "degrees_east"}),
    "missing_pixels": (("sample",), "int32", {"long_name": "of all frames of the stored grid"}),
    "source_digest": (("sample",), "str", {"long_name": "xxh3 of the raw data by band"}),
}


def stack_scalars(rows: list[dict[str, Any]], settings: StoreSettings) -> xr.Dataset:
    variables: dict[str, Any] = {"channel": ("channel", np.array(settings.composite.channel_names, object))}
    for name, (dims, dtype, attributes) in _VARIABLES.items():
        column = [row["record_id"] if name == "record_id" else row["values"][name] for row in rows]
        array = np.array(column, object)
        if dtype == "str":
            variables[name] = (dims, array, attributes)
        else:
            variables[name] = (dims, np.where(array == None, np.nan, array).astype(dtype), attributes)  # noqa: E711
    known = [[np.iinfo(np.int64).min if t is None else t for t in row["values"]["time"]] for row in rows]
    times = np.array(known).astype("datetime64[ms]").astype("datetime64[ns]")
    variables["time"] = (("sample", "time"), times, {"long_name": "nominal scan time, UTC"})
    latitude, longitude = variables["latitude"][1], variables["longitude"][1]
    moment = times[np.arange(len(rows)), reference_frame(variables["labelled_frame"][1], times.shape[1])]
    for name, angle, unit, about in (
        ("solar_zenith", solar_zenith(latitude, longitude, moment), "degree", "at the centre, labelled frame"),
        (
            "satellite_zenith",
            satellite_zenith(latitude, longitude, variables["satellite_longitude"][1]),
            *("degree", "at the centre"),
        ),
        ("local_solar_hour", local_solar_hour(longitude, moment), "h", "true solar time at the centre"),
    ):
        variables[name] = (("sample",), angle.astype(np.float32), {"units": unit, "long_name": about})
    told = {"long_name": "pixels, mean, sum of squared deviations, minimum, maximum, pixels at 0, pixels at 1"}
    variables["moments"] = (("sample", "channel", "moment"), np.array([row["moments"] for row in rows]), told)
    return xr.Dataset(variables | checksum_variables(rows, list(rows[0]["checksums"])))


def labelled_time(records: xr.Dataset) -> npt.NDArray[np.datetime64]:
    """Return when the labelled frame was taken, or the middle one of a sample without a labelled frame.

    Args:
        records: Scalars of a store, with `labelled_frame` (sample) and `time` (sample, time).

    Returns:
        Times, (sample) datetime64 in UTC, NaT if unknown.
    """
    times = records["time"].values
    return times[np.arange(len(times)), reference_frame(records["labelled_frame"].values, times.shape[1])]


Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def label_of(records: xr.Dataset) -> Ints:
    """(sample) 1 where a human marked a contrail, 0 where none was found, -1 without a human's label."""
    human = records["label_source"].values == "human"
    return np.where(human, records["positive_pixels"].values > 0, -1).astype(np.int64)


def site_of(records: xr.Dataset) -> npt.NDArray[np.str_]:
    """(sample) the tile's centre to a tenth of a degree; empty where unknown."""
    where = zip(records["latitude"].values, records["longitude"].values, strict=True)
    return np.array([f"{a:.1f} {o:.1f}" if np.isfinite(a + o) else "" for a, o in where], np.str_)


def as_text(values: npt.NDArray[Any]) -> npt.NDArray[np.str_]:
    """Strings of any numpy kind (zarr gives variable-length ones) as fixed-width ones."""
    return np.array([str(value) for value in values], np.str_)
