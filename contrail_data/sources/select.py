"""MISSING DOCSTRING."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.composites import from_dict
from contrail_data.errors import ContrailError
from contrail_data.storage.place import place_of
from contrail_data.store.reader import read_scalars
from contrail_data.store.samples import labelled_time
from contrail_data.store.schema import Kind, PixelDtype, require_kind
from contrail_data.store.settings import StoreSettings
from contrail_data.store.shards import CODECS, parse_layout


def settings_of(store: xr.Dataset) -> StoreSettings:
    """The settings that a store of samples was built with. Raises ContrailError for another kind or a layout that is
    not ours.
    """
    path = store.attrs["path"]
    require_kind(store, Kind.SAMPLES, remedy="give a store of samples")
    layout = parse_layout(place_of(path), "image")
    codecs = [name for name, codec in CODECS.items() if layout is not None and _same_codec(codec, layout.codec)]
    dtype = store["image"].dtype.name
    if not codecs or dtype not in set(PixelDtype) or store.sizes["y"] != store.sizes["x"]:
        raise ContrailError(f"{path}: is not laid out as our stores are: build it with build-ash")
    return StoreSettings(
        from_dict(store.attrs["composite"]),
        PixelDtype(dtype),
        codecs[0],
        store.sizes["y"],
        tuple(store.attrs["label_shift"]),
    )


def _same_codec(ours: dict[str, Any] | None, theirs: dict[str, Any] | None) -> bool:
    return (ours is None) == (theirs is None) and (ours is None or theirs is None or ours["name"] == theirs["name"])


def choose(
    store: xr.Dataset,
    *,
    record_ids: Sequence[str] | None = None,
    without: Sequence[str] = (),
    since: np.datetime64 | None = None,
    until: np.datetime64 | None = None,
    area: tuple[float, float, float, float] | None = None,
    label: str | None = None,
    split: str | None = None,
) -> npt.NDArray[np.int64]:
    """Indices of the samples that fit everything asked for, in the store's order; none of `without`.

    `since` <= time of the labelled frame < `until`; `area` is (south, west, north, east) in degrees around the
    centres, west > east across the date line; `label` is positive, negative or none. A sample of unknown time or place
    fits no time or area. Raises ContrailError for a record that is not there.
    """
    scalars = read_scalars(store)
    ids = np.array([str(r) for r in scalars["record_id"].values])
    fits = ~np.isin(ids, list(without))
    if absent := sorted({*(record_ids or ()), *without} - set(ids)):
        more = f" (nor {len(absent) - 1} others of the list)" if len(absent) > 1 else ""
        raise ContrailError(f"{store.attrs['path']}: holds no record {absent[0]!r}{more}: correct the list")
    if area is not None and not (-90 <= area[0] <= area[2] <= 90 and all(abs(d) <= 360 for d in area)):  # NaN fails
        raise ContrailError(f"--area {area}: give south, west, north, east in degrees, south below north")
    if since is not None and until is not None and not since < until:
        raise ContrailError(f"--since {since}, --until {until}: no time lies between them: correct one")
    if record_ids is not None:
        fits &= np.isin(ids, list(record_ids))
    times = labelled_time(scalars)
    if since is not None:
        fits &= times >= since  # NaT fails
    if until is not None:
        fits &= times < until
    if area is not None:
        south, west, north, east = area
        latitude, longitude = scalars["latitude"].values, scalars["longitude"].values
        fits &= (latitude >= south) & (latitude <= north)
        within = (longitude >= west) & (longitude <= east)
        across = (longitude >= west) | (longitude <= east)
        fits &= within if west <= east else across & ~np.isnan(longitude)
    labelled = scalars["label_source"].values != "none"
    positive = scalars["positive_pixels"].values > 0
    if label is not None:
        fits &= {"positive": labelled & positive, "negative": labelled & ~positive, "none": ~labelled}[label]
    if split is not None:
        fits &= scalars["split"].values == split
    return np.flatnonzero(fits)


def without_repeats(stores: Sequence[xr.Dataset]) -> list[tuple[xr.Dataset, npt.NDArray[np.int64]]]:
    """All samples of stores, one that several hold with the same bytes once, for `from_stores`.

    Raises ContrailError naming a record that they hold with different pixels or labels.
    """
    seen: dict[str, tuple[Any, str]] = {}
    taken = []
    for store in stores:
        settings_of(store)  # no samples: told before anything is compared
        scalars = read_scalars(store)
        names = [str(name) for name in scalars.variables if str(name).endswith("_checksum")]
        new = []
        for sample, record_id in enumerate(str(r) for r in scalars["record_id"].values):
            content = {name: np.atleast_1d(scalars[name].values[sample]).tolist() for name in names}
            if record_id not in seen:
                seen[record_id] = content, store.attrs["path"]
                new.append(sample)
            elif seen[record_id][0] != content:
                raise ContrailError(
                    f"record {record_id}: differs between {seen[record_id][1]} and {store.attrs['path']}: take one of "
                    "them out with subset --without"
                )
        taken.append((store, np.array(new, np.int64)))
    return taken
