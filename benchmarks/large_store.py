"""A store of many samples, written quickly: the samples of a small one again and again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr

from contrail_data.storage.place import place_of
from contrail_data.store.reader import open_store, read_scalars
from contrail_data.store.schema import SHARD, ArraySpec, Codec, PixelDtype
from contrail_data.store.shards import writing_shards
from contrail_data.store.writer import SealedContents, create_arrays, seal


def write_large_store(store: Path, samples: int, out: Path) -> Path:
    """Write a sealed store of many samples, each with its own record, place and day, that repeat those of `store`.

    All of its shards are links to one, so it takes no more room on the disk or in the page cache than that.

    Args:
        store: The small store.
        samples: Number of samples.
        out: Where to write.

    Returns:
        `out`.
    """
    opened = open_store(store)
    scalars = read_scalars(opened)
    few = scalars.sizes["sample"]
    scalars = scalars.isel(sample=np.arange(samples) % few)
    for name in ("record_id", "source_digest"):
        scalars[name] = ("sample", np.array([f"record-{i}" for i in range(samples)], object))
    random = np.random.default_rng(0)
    moved = xr.DataArray(random.uniform(-50, 50, samples), dims="sample") - scalars["latitude"]
    days = xr.DataArray(random.integers(0, 365, samples) * np.timedelta64(24, "h"), dims="sample")
    scalars["latitude"] = scalars["latitude"] + moved
    scalars["corner_latitude"] = scalars["corner_latitude"] + moved
    scalars["time"] = scalars["time"] + days
    scalars = scalars.assign({n: v.astype(object) for n, v in scalars.variables.items() if v.dtype.kind == "T"})
    for variable in scalars.variables.values():
        variable.encoding = {}
    scalars.attrs = {}
    arrays = {
        "image": ArraySpec(opened["image"].shape[1:], PixelDtype.UINT8, Codec.NONE),
        "mask": ArraySpec(opened["mask"].shape[1:], PixelDtype.UINT8, Codec.ZSTD),
    }
    names = ("kind", "composite", "statistics", "label_shift", "resized_from")
    attributes = {name: opened.attrs[name] for name in names if name in opened.attrs}
    contents = SealedContents(arrays=arrays, scalars=scalars, attributes=attributes, chunk_files={}, provenance={})
    layouts = create_arrays(place_of(out), arrays, samples)
    with writing_shards(layouts, 0) as writers:
        for name, writer in writers.items():
            values = opened[name].values
            for position in range(SHARD):
                writer.add(position, values[position % few])
            writer.finish()
    for layout in layouts.values():
        for number in range(1, -(-samples // SHARD)):
            (out / layout.key(number)).hardlink_to(out / layout.key(0))
    seal(place_of(out), contents)
    return out
