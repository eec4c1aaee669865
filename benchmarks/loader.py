"""Reading samples, against copying the same bytes out of an np.memmap.

    python benchmarks/loader.py [--records 128] [--rounds 7]

uint8 samples of (8, 3, 256, 256), random order, one thread, page cache, into one buffer. `ours` is the reader that
loader, preview and pseudo-labels share; the peers get the very store that ours wrote. The trainer's batches (labelled
frame and mask, 16 a batch) come last, with what goes on around the reading.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import partial
from io import StringIO
from pathlib import Path

import numpy as np
import torch
import xarray as xr
import zarr
from timing import medians, verdict, workplace

from contrail_data.build import Settings, build
from contrail_data.command import table
from contrail_data.composites import COMPOSITES
from contrail_data.sources import open_source
from contrail_data.store import Array, PixelReader, open_store, pixel_reader, read_scalars, seal
from contrail_train.config import DataConfig
from contrail_train.loader import Items, epoch_order, load, open_training_data, step_rows, steps_per_epoch

ASH = COMPOSITES["ash"]
FRAME = 4


def peers(store: Path, order: list[int], frames: list[int] | slice) -> dict[str, Callable[[], None]]:
    """Ways to read the store that ours wrote, each a whole pass in the given order."""
    array = zarr.open_group(str(store), mode="r", zarr_format=3)["image"]
    assert isinstance(array, zarr.Array)
    lazy = xr.open_dataset(str(store), engine="zarr", chunks=None, mask_and_scale=False)["image"]

    def by_zarr() -> None:
        for sample in order:
            array[sample, frames]

    def by_xarray() -> None:
        for sample in order:
            lazy[sample, frames].values  # noqa: B018 - reading is the point

    found = {"zarr-python": by_zarr, "xarray": by_xarray}
    try:
        import tensorstore
    except ImportError:
        return found
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(store / "image")}}
    opened = tensorstore.open(spec, read=True).result()

    def by_tensorstore() -> None:
        for sample in order:
            opened[sample, frames].read().result()

    return {**found, "tensorstore": by_tensorstore}


def build_stores(folder: Path) -> dict[str, Path]:
    stores = {}
    for codec in ("none", "lz4", "zstd"):
        stores[codec] = folder / f"{codec}.zarr"
        with redirect_stderr(StringIO()):
            build(open_source(folder / "raw", "train", ASH), Settings(ASH, codec=codec), stores[codec], workers=2)
    return stores


def variants(
    folder: Path, stores: dict[str, Path], order: list[int], frames: list[int]
) -> dict[str, Callable[[], None]]:
    shape = (8, 3, 256, 256)
    mapped = np.memmap(folder / "raw.bin", np.uint8, "r").reshape(-1, *shape)
    out = np.empty((len(frames), *shape[1:]), np.uint8)
    first, last = frames[0], frames[-1] + 1

    def by_memmap() -> None:
        for sample in order:
            np.copyto(out, mapped[sample, first:last])

    def by_npy() -> None:
        for sample in order:
            np.load(folder / "npy" / f"{sample}.npy")[first:last]

    def by_ours(read: PixelReader) -> None:
        for sample in order:
            read(sample, frames, out)

    whole = slice(None) if len(frames) == shape[0] else frames
    return {
        "np.memmap (limit)": by_memmap,
        **{f"ours, {codec}": partial(by_ours, pixel_reader(open_store(path))) for codec, path in stores.items()},
        **peers(stores["none"], order, whole),
        "np.load, a file a sample": by_npy,
    }


def trainer_batches(items: Items, threads: int) -> None:
    order = epoch_order(len(items), 0, 0)
    rows = [step_rows(order, s, 16) for s in range(steps_per_epoch(len(items), 16))]
    for _ in load(items, rows * 8, torch.device("cpu"), threads, 3):
        pass


def opening(store: Path, samples: int, folder: Path) -> float:
    """Seconds to open a sealed store of this many samples: the per-sample values are real, repeated."""
    large = folder / f"open-{samples}.zarr"
    scalars = read_scalars(open_store(store))
    scalars = scalars.isel(sample=np.arange(samples) % scalars.sizes["sample"])
    scalars = scalars.assign({n: v.astype(object) for n, v in scalars.variables.items() if v.dtype.kind == "T"})
    arrays = {"image": Array((8, 3, 256, 256), "uint8", "none", True)}
    attributes = {"kind": "samples", "composite": ASH.to_dict(), "statistics": None, "label_shift": [0.5, 0.5]}
    for variable in scalars.variables.values():
        variable.encoding = {}
    scalars.attrs = {}
    seal(large, arrays, scalars, attributes, {}, [], {})
    took = []
    for _ in range(5):
        start = time.perf_counter()
        open_store(large)
        took.append(time.perf_counter() - start)
    shutil.rmtree(large)
    return sorted(took)[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with workplace(options.records) as folder:
        stores = build_stores(folder)
        image = open_store(stores["none"])["image"].values
        image.tofile(folder / "raw.bin")
        (folder / "npy").mkdir()
        for sample, frames in enumerate(image):
            np.save(folder / "npy" / f"{sample}.npy", frames)
        order = np.random.default_rng(0).permutation(len(image)).tolist()
        whole = medians(variants(folder, stores, order, list(range(8))), options.rounds)
        frame = medians(variants(folder, stores, order, [FRAME]), options.rounds)
        rows = []
        for title, took, size in (("whole sample", whole, image[0].nbytes), ("one frame", frame, image[0, 0].nbytes)):
            limit = took["np.memmap (limit)"]
            for name, seconds in took.items():
                ratio, judged = limit / seconds, ""
                if title == "whole sample" and name in ("ours, none", "ours, lz4"):
                    judged = verdict(ratio, 0.9 if name == "ours, none" else 0.5, at_least=True)
                if title == "one frame" and name == "ours, none":
                    part = seconds / whole["ours, none"]
                    judged = f"{part:.2f} of a whole sample, {verdict(part, 1 / 6, at_least=False)}"
                rate = len(order) / seconds
                rows.append([f"{title}: {name}", f"{rate:,.0f}", f"{rate * size / 1e6:,.0f}", f"{ratio:.2f}", judged])
        items = open_training_data(DataConfig(train=[str(stores["none"])], holdout=0)).train
        batches = medians({f"{n} thread(s)": partial(trainer_batches, items, n) for n in (1, 2)}, 3)
        for name, seconds in batches.items():
            rows.append([f"trainer's batches, frame and mask: {name}", f"{8 * len(order) / seconds:,.0f}", "", "", ""])
        sizes = {codec: sum(p.stat().st_size for p in (s / "image").iterdir()) for codec, s in stores.items()}
        smaller = ", ".join(f"{codec} {size / sizes['none']:.2f}" for codec, size in sizes.items())
        for samples in (200, 20_000):
            seconds = opening(stores["none"], samples, folder)
            judged = verdict(seconds, 0.5, at_least=False)
            rows.append([f"opening a sealed store of {samples:,} samples, s", f"{seconds:.3f}", "", "", judged])
    title = f"loader: {len(order)} samples, medians of {options.rounds} rounds; size of image: {smaller}"
    table(title, ["what", "samples/s", "MB/s", "x limit", "target"], rows)


if __name__ == "__main__":
    main()
