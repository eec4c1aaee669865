"""What a catalog states about a store, computed from the store itself."""

import shlex
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.errors import ContrailError
from contrail_data.storage.place import place_of
from contrail_data.store.manifest import read_provenance
from contrail_data.store.reader import read_scalars
from contrail_data.store.schema import Kind, kind_of


def describe(store: xr.Dataset) -> dict[str, Any]:
    """Describe an open store for a catalog.

    Args:
        store: The store.

    Returns:
        In plain types: `digest`; of derived stores `parent` or `parents`, their digests; `kind`, `composite`, `bands`,
        `channels`, `samples`; `label_shift` in pixels; `command` and `contrail`, the version, of the build, unless the
        provenance is damaged. Of stores of samples also `statistics` (mean and std per channel, of train samples) and,
        where known, `positives` (samples in which humans marked contrails), `time` ([first, last] frame, UTC) and
        `area` (latitude [south, north] and longitude [west, east] of the tiles in degrees; west > east across the date
        line).

    Raises:
        ContrailError: If the store is damaged.
    """
    attributes = store.attrs
    names = ("positive_pixels", "label_source", "time", "corner_latitude", "corner_longitude")
    scalars = read_scalars(store[[name for name in names if name in store.variables]])
    try:
        composite = attributes["composite"]
        bands = {channel[key] for channel in composite["channels"] for key in ("band", "minus")} - {None}
        metadata = {
            **{key: attributes[key] for key in ("digest", "parent", "parents") if key in attributes},
            "kind": attributes["kind"],
            "composite": composite["name"],
            "bands": sorted(int(band) for band in bands),
            "channels": [str(channel["name"]) for channel in composite["channels"]],
            "samples": int(attributes.get("samples", store.sizes["sample"])),
        }
        if kind_of(store) is Kind.SAMPLES:
            metadata |= _of_samples(scalars)
        if statistics := attributes.get("statistics"):
            metadata["statistics"] = {key: [float(value) for value in statistics[key]] for key in ("mean", "std")}
        metadata["label_shift"] = [float(pixels) for pixels in attributes["label_shift"]]
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"[:100]
        raise ContrailError(f"{attributes['path']}: metadata is damaged ({reason}); restore the store") from None
    provenance = read_provenance(place_of(attributes["path"]))
    try:
        command = shlex.join(map(str, provenance["command"]))
        return metadata | {"command": command, "contrail": str(provenance["versions"]["contrail"])}
    except (KeyError, TypeError):
        return metadata


def _of_samples(scalars: xr.Dataset) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    human = scalars["label_source"].values == "human"
    if human.any():
        metadata["positives"] = int((scalars["positive_pixels"].values[human] > 0).sum())
    time = scalars["time"].values
    time = time[~np.isnat(time)]
    if len(time):
        metadata["time"] = [f"{np.datetime_as_string(t, 's')}Z" for t in (time.min(), time.max())]
    latitude, longitude = scalars["corner_latitude"].values, scalars["corner_longitude"].values
    placed = ~np.isnan(latitude) & ~np.isnan(longitude)
    if placed.any():
        metadata["area"] = {
            "latitude": [round(float(degrees), 4) for degrees in (latitude[placed].min(), latitude[placed].max())],
            "longitude": [round(degrees, 4) for degrees in shortest_arc(longitude[placed])],
        }
    return metadata


def shortest_arc(longitude: npt.NDArray[np.float64]) -> list[float]:
    """Find the shortest arc that holds all longitudes: it begins east of the widest gap and ends west of it.

    Args:
        longitude: Longitudes in degrees, at least one.

    Returns:
        West and east end in degrees, in [-180, 180).
    """
    ordered = np.unique((longitude + 180) % 360 - 180)
    gap = int(np.argmax(np.diff(ordered, append=ordered[0] + 360)))
    return [float(ordered[(gap + 1) % len(ordered)]), float(ordered[gap])]
