"""What a catalog states about a store, computed from the store itself."""

from __future__ import annotations

import shlex
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.errors import ContrailError
from contrail_data.storage.place import place_of
from contrail_data.store.manifest import read_provenance
from contrail_data.store.reader import read_scalars
from contrail_data.store.schema import Kind, kind_of


class Area(TypedDict):
    """Extent of the tiles' corners, in degrees."""

    latitude: list[float]
    """[south, north]"""
    longitude: list[float]
    """[west, east]; west > east across the date line."""


class StoreMetadata(TypedDict, total=False):
    """Description of a store, in plain types."""

    digest: str
    parent: str
    """Digest of the store of samples that labels were made for."""
    parents: list[str]
    """Digests of the stores that samples were taken from."""
    kind: str
    composite: str
    bands: list[int]
    channels: list[str]
    samples: int
    positives: int
    """Samples in which humans marked contrails; absent without human labels."""
    time: list[str]
    """Time of the first and of the last frame, UTC; absent if all are unknown."""
    area: Area
    """Absent if no position is known."""
    statistics: dict[str, list[float]]
    """Mean and standard deviation per channel, of the train samples."""
    label_shift: list[float]
    """Pixels down and right."""
    command: str
    """Command line of the build; absent if the provenance is damaged."""
    contrail: str
    """Version of the software that built the store; absent if the provenance is damaged."""


def describe(store: xr.Dataset) -> StoreMetadata:
    """Describe an open store for a catalog.

    Args:
        store: The store.

    Returns:
        The description.

    Raises:
        ContrailError: If the store is damaged.
    """
    attributes = store.attrs
    names = ("positive_pixels", "label_source", "time", "corner_latitude", "corner_longitude")
    scalars = read_scalars(store[[name for name in names if name in store.variables]])
    try:
        composite = attributes["composite"]
        bands = {channel[key] for channel in composite["channels"] for key in ("band", "minus")} - {None}
        metadata: StoreMetadata = {"digest": attributes["digest"]}
        if "parent" in attributes:
            metadata["parent"] = attributes["parent"]
        if "parents" in attributes:
            metadata["parents"] = attributes["parents"]
        metadata |= {
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
    provenance: dict[str, Any] = read_provenance(place_of(attributes["path"]))
    try:
        command = shlex.join(map(str, provenance["command"]))
        return metadata | {"command": command, "contrail": str(provenance["versions"]["contrail"])}
    except (KeyError, TypeError):
        return metadata


def _of_samples(scalars: xr.Dataset) -> StoreMetadata:
    metadata: StoreMetadata = {}
    human = scalars["label_source"].values == "human"
    if human.any():
        metadata["positives"] = int((scalars["positive_pixels"].values[human] > 0).sum())
    time = scalars["time"].values
    time = time[~np.isnat(time)]
    if len(time):
        metadata["time"] = [f"{np.datetime_as_string(t, 's')}Z" for t in (time.min(), time.max())]
    latitude, longitude = scalars["corner_latitude"].values, scalars["corner_longitude"].values
    known = ~np.isnan(latitude) & ~np.isnan(longitude)
    if known.any():
        metadata["area"] = {
            "latitude": [round(float(degrees), 4) for degrees in (latitude[known].min(), latitude[known].max())],
            "longitude": [round(degrees, 4) for degrees in shortest_arc(longitude[known])],
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
