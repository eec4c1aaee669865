"""The per-sample variables of a store of samples: from samples to journal rows, and from those to variables."""

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.geo.geometry import local_solar_hour, satellite_zenith, solar_zenith
from contrail_data.lazy import recognise_dask_lazily
from contrail_data.sample import reference_frame
from contrail_data.store.journal import Row
from contrail_data.store.settings import StoreSettings
from contrail_data.store.stats import Moments
from contrail_data.store.writer import checksum_variables

recognise_dask_lazily()

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class StoredSample(TypedDict, total=False):
    """What the journal keeps about a sample that has been stored."""

    checksums: dict[str, list[int]]
    """As in `Row`."""
    moments: list[Moments]
    """By channel."""
    values: dict[str, Any]
    """Per-sample variables, see `stored_values`."""


class SampleRow(Row, StoredSample):
    """Journal row of a sample, or of a record that could not be used."""

    record_id: str
    stamp: NotRequired[list[int]]
    """Size and time of each file of the record, by which a resumed build notices that one has changed."""
    error: NotRequired[str]
    """Why the record could not be used; moments and values are then absent."""


_VARIABLES: dict[str, tuple[tuple[str, ...], str, dict[str, str]]] = {
    "record_id": (("sample",), "str", {}),
    "split": (("sample",), "str", {}),
    "label_source": (("sample",), "str", {"long_name": "none, human or pseudo"}),
    "labelled_frame": (("sample",), "int8", {"long_name": "index of the frame the label belongs to, -1: none"}),
    "annotator_count": (("sample",), "uint8", {}),
    "instance_count": (("sample",), "uint8", {"long_name": "contrails that were marked one by one"}),
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
"""Dimensions, dtype and attributes of each variable."""


def stored_values(
    attributes: Mapping[str, Any], time: npt.NDArray[np.datetime64], missing_pixels: int
) -> dict[str, Any]:
    """Convert the metadata of a sample for its journal row.

    Args:
        attributes: Attributes of the sample (see `contrail_data.sample`).
        time: (time) datetime64, UTC.
        missing_pixels: Missing pixels of all frames of the stored grid.

    Returns:
        The per-sample variables, for JSON; times in milliseconds since 1970, NaT as the smallest integer.
    """
    values = {
        name: attributes[name] if dtype == "str" else np.array(attributes[name], dtype).tolist()
        for name, (_, dtype, _) in _VARIABLES.items()
        if name not in ("record_id", "missing_pixels")
    }
    milliseconds = time.astype("datetime64[ms]").astype(np.int64).tolist()
    return {**values, "time": milliseconds, "missing_pixels": missing_pixels}


def stack_scalars(rows: Sequence[SampleRow], settings: StoreSettings) -> xr.Dataset:
    """Assemble the per-sample variables of a store.

    Args:
        rows: Journal rows, one per sample.
        settings: The store's settings.

    Returns:
        The variables.
    """
    variables: dict[str, Any] = {"channel": ("channel", np.array(settings.composite.channel_names, object))}
    for name, (dims, dtype, attributes) in _VARIABLES.items():
        values = [row["record_id"] if name == "record_id" else row["values"][name] for row in rows]
        variables[name] = (dims, np.array(values, object if dtype == "str" else dtype), attributes)
    milliseconds = np.array([row["values"]["time"] for row in rows])
    time = milliseconds.astype("datetime64[ms]").astype("datetime64[ns]")
    variables["time"] = (("sample", "time"), time, {"long_name": "nominal scan time, UTC"})
    latitude, longitude, satellite, labelled = (
        variables[name][1] for name in ("latitude", "longitude", "satellite_longitude", "labelled_frame")
    )
    moment = time[np.arange(len(rows)), reference_frame(labelled, time.shape[1])]
    for name, angle, units, long_name in (
        ("solar_zenith", solar_zenith(latitude, longitude, moment), "degree", "at the centre, labelled frame"),
        ("satellite_zenith", satellite_zenith(latitude, longitude, satellite), "degree", "at the centre"),
        ("local_solar_hour", local_solar_hour(longitude, moment), "h", "true solar time at the centre"),
    ):
        variables[name] = (("sample",), angle.astype(np.float32), {"units": units, "long_name": long_name})
    long_name = "pixels, mean, sum of squared deviations, minimum, maximum, pixels at 0, pixels at 1"
    moments = np.array([row["moments"] for row in rows])
    variables["moments"] = (("sample", "channel", "moment"), moments, {"long_name": long_name})
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


def label_of(records: xr.Dataset) -> Ints:
    """Return whether humans marked contrails.

    Args:
        records: Scalars of a store.

    Returns:
        (sample) int64: 1 if a human marked a contrail, 0 if none was found, -1 without a human label.
    """
    human = records["label_source"].values == "human"
    return np.where(human, records["positive_pixels"].values > 0, -1).astype(np.int64)


def site_of(records: xr.Dataset) -> npt.NDArray[np.str_]:
    """Return where the tiles lie.

    Args:
        records: Scalars of a store.

    Returns:
        (sample) latitude and longitude of the centre to a tenth of a degree, as text; empty if unknown.
    """
    centres = zip(records["latitude"].values, records["longitude"].values, strict=True)
    return np.array([f"{a:.1f} {o:.1f}" if np.isfinite(a + o) else "" for a, o in centres], np.str_)


def as_text(values: npt.NDArray[Any]) -> npt.NDArray[np.str_]:
    """Convert strings of any numpy type (zarr returns variable-length ones) to fixed width.

    Args:
        values: (n) strings.

    Returns:
        (n) fixed-width strings.
    """
    return np.array([str(value) for value in values], np.str_)
