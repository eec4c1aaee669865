"""Select samples of sealed stores, and recover the settings that a store was built with."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.composites import from_dict
from contrail_data.errors import ContrailError
from contrail_data.geo.areas import Area, eastward
from contrail_data.sources.base import LabelFilter
from contrail_data.store.reader import read_layout, read_scalars
from contrail_data.store.samples import as_text, labelled_time
from contrail_data.store.schema import PixelDtype, require_samples
from contrail_data.store.settings import StoreSettings

StoreSelection: TypeAlias = tuple[xr.Dataset, npt.NDArray[np.int64]]
"""An open store and the indices of selected samples."""


def settings_of(store: xr.Dataset) -> StoreSettings:
    """Return the settings that a store was built with.

    Args:
        store: An open store of samples.

    Returns:
        Its settings.

    Raises:
        ContrailError: If it is another kind of store, or this package did not write it.
    """
    path = store.attrs["path"]
    require_samples(store)
    composite, size = from_dict(store.attrs["composite"]), store.sizes["y"]
    sides = store.attrs.get("resized_from", (size, size))
    down, right = (round(d * side / size, 9) for d, side in zip(store.attrs["label_shift"], sides, strict=True))
    spec = read_layout(store, "image").spec
    if size != store.sizes["x"]:
        raise ContrailError(f"{path}: not laid out as a contrail store; build it with build-ash")
    return StoreSettings(composite, PixelDtype(spec.dtype), spec.codec, size, (down, right))


def frames_of(store: xr.Dataset) -> range | None:
    """Return which frames a store keeps, relative to the labelled one.

    Args:
        store: An open store of samples.

    Returns:
        The offsets of its frames; None if its samples differ in them, or have no labelled frame.
    """
    labelled = np.unique(read_scalars(store)["labelled_frame"].values)
    if len(labelled) != 1 or labelled[0] < 0:
        return None
    first = -int(labelled[0])
    return range(first, first + store.sizes["time"])


def select_samples(
    store: xr.Dataset,
    *,
    record_ids: Sequence[str] | None = None,
    without: Sequence[str] = (),
    since: datetime | np.datetime64 | None = None,
    until: datetime | np.datetime64 | None = None,
    area: Area | None = None,
    label: LabelFilter | None = None,
    split: str | None = None,
) -> npt.NDArray[np.int64]:
    """Find the samples that meet all given conditions. Samples of unknown time or place meet no condition on it.

    Args:
        store: An open store of samples.
        record_ids: Only these records.
        without: None of these records.
        since: Earliest time of the labelled frame.
        until: Time that the labelled frame must precede.
        area: South, west, north, east in degrees around the tile's centre, see `eastward`.
        label: Only samples labelled like this.
        split: Only samples of this split.

    Returns:
        Indices of the samples, ascending.

    Raises:
        ContrailError: If a named record is not in the store, or the area or the times are impossible.
    """
    scalars = read_scalars(store)
    ids = as_text(scalars["record_id"].values)
    if absent := sorted({*(record_ids or ()), *without} - set(ids)):
        more = f" (nor {len(absent) - 1} others of the list)" if len(absent) > 1 else ""
        raise ContrailError(f"{store.attrs['path']}: holds no record {absent[0]!r}{more}; correct the list")
    if area is not None:
        try:
            south, west, north, east = eastward(area)
        except ValueError as error:
            raise ContrailError(f"--area {' '.join(f'{limit:g}' for limit in area)}: {error}") from None
    if since is not None and until is not None and not np.datetime64(since) < np.datetime64(until):
        raise ContrailError(f"--since {since}, --until {until}: no time lies between them; correct one")
    times = labelled_time(scalars)
    selected = ~np.isin(ids, list(without))
    if record_ids is not None:
        selected &= np.isin(ids, list(record_ids))
    if since is not None:
        selected &= times >= np.datetime64(since)  # NaT fails
    if until is not None:
        selected &= times < np.datetime64(until)
    if area is not None:
        latitude, longitude = scalars["latitude"].values, scalars["longitude"].values  # NaN lies nowhere
        selected &= (latitude >= south) & (latitude <= north) & ((longitude - west) % 360 <= east - west)
    if label is not None:
        labelled, positive = scalars["label_source"].values != "none", scalars["positive_pixels"].values > 0
        choices = {LabelFilter.NONE: ~labelled, LabelFilter.POSITIVE: labelled & positive}
        selected &= choices.get(label, labelled & ~positive)
    if split is not None:
        selected &= scalars["split"].values == split
    return np.flatnonzero(selected)


def select_distinct(stores: Sequence[xr.Dataset]) -> list[StoreSelection]:
    """Select all samples of several stores; of identical samples only the first.

    Args:
        stores: Open stores of samples.

    Returns:
        A selection of each store.

    Raises:
        ContrailError: If two stores hold a record with different pixels or labels.
    """
    seen: dict[str, tuple[Any, str]] = {}
    selections = []
    for store in stores:
        settings_of(store)  # refuses other kinds of stores before samples are compared
        scalars = read_scalars(store)
        names = [str(name) for name in scalars.variables if str(name).endswith("_checksum")]
        new = []
        for sample, record_id in enumerate(str(r) for r in scalars["record_id"].values):
            content = {name: np.atleast_1d(scalars[name].values[sample]).tolist() for name in names}
            if record_id not in seen:
                seen[record_id] = content, store.attrs["path"]
                new.append(sample)
            elif seen[record_id][0] != content:
                paths = f"{seen[record_id][1]} and {store.attrs['path']}"
                remedy = "remove it from one of them with subset --without"
                raise ContrailError(f"record {record_id}: differs between {paths}; {remedy}")
        selections.append((store, np.array(new, np.int64)))
    return selections
