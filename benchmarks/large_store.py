"""A store of many samples, written quickly: the samples of a small one again and again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr

from contrail_data.storage.place import place_of
from contrail_data.store.layout import Layout
from contrail_data.store.manifest import FileChecksum
from contrail_data.store.moments import moments
from contrail_data.store.reader import open_store, read_scalars
from contrail_data.store.schema import SHARD, ArraySpec, Codec, PixelDtype
from contrail_data.store.shards import writing_shards
from contrail_data.store.stats import merge
from contrail_data.store.writer import SealedContents, create_arrays, seal
from contrail_data.synthetic.noise import power_law_noise


def write_large_store(store: Path, samples: int, out: Path, *, different: bool = False) -> Path:
    """Write a sealed store of many samples, each with its own record, place and day, that repeat those of `store`.

    All of its shards are links to one, so it takes no more room on the disk or in the page cache than that.

    Args:
        store: The small store.
        samples: Number of samples.
        out: Where to write.
        different: Give each sample an image of its own, clouds that do not move, and each shard a file.

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
    turned = xr.DataArray(random.uniform(-180, 180, samples), dims="sample")
    for name in ("longitude", "corner_longitude"):
        scalars[name] = (scalars[name] + turned + 180) % 360 - 180
    scalars["time"] = scalars["time"] + days
    scalars = scalars.assign({n: v.astype(object) for n, v in scalars.variables.items() if v.dtype.kind == "T"})
    for variable in scalars.variables.values():
        variable.encoding = {}
    scalars.attrs = {}
    arrays = {
        "image": ArraySpec(opened["image"].shape[1:], PixelDtype.UINT8, Codec.NONE),
        "mask": ArraySpec(opened["mask"].shape[1:], PixelDtype.UINT8, Codec.ZSTD),
    }
    layouts, files = create_arrays(place_of(out), arrays, samples), {}
    for name, layout in layouts.items():
        with writing_shards({name: layout}, 0) as writers:
            values = opened[name].values
            for position in range(SHARD):
                writers[name].add(position, values[position % few])
            file = writers[name].finish()
        if name == "image" and different:
            files |= _write_clouds(layout, scalars)
            continue
        for number in range(-(-samples // SHARD)):
            files[layout.key(number)] = file
            if number:
                (out / layout.key(number)).hardlink_to(out / layout.key(0))
    names = ("kind", "composite", "label_shift", "resized_from")
    attributes = {name: opened.attrs[name] for name in names if name in opened.attrs}
    attributes["statistics"] = merge(scalars["moments"].values.tolist(), scalars["channel"].values.tolist())
    seal(
        place_of(out),
        SealedContents(arrays=arrays, scalars=scalars, attributes=attributes, chunk_files=files, provenance={}),
    )
    return out


def _write_clouds(layout: Layout, scalars: xr.Dataset) -> dict[str, FileChecksum]:
    """Write images that differ, and replace what the scalars say of them; returns the files."""
    frames, channels, side, _ = layout.spec.shape
    random, files = np.random.default_rng(0), {}
    samples = scalars.sizes["sample"]
    for number in range(-(-samples // SHARD)):
        with writing_shards({"image": layout}, number) as writers:
            for position in range(min(SHARD, samples - number * SHARD)):
                fields = [power_law_noise(random, side, slope)[0] for slope in np.linspace(1.4, 2.0, channels)]
                image = np.clip(128 + 40 * np.stack(fields), 0, 255).astype(np.uint8)
                images = np.broadcast_to(image, (frames, *image.shape)).copy()
                index = number * SHARD + position
                scalars["image_checksum"].values[index] = writers["image"].add(position, images)
                scalars["moments"].values[index] = moments(images)
            files[layout.key(number)] = writers["image"].finish()
    return files
