"""Records to a store, against the least any program must do: read the needed files, write the store's bytes.

    python benchmarks/build.py [--samples 96] [--rounds 7] [--raw FOLDER --split SPLIT]

Records are 3 bands of 256 x 256 x 8 float32 with masks. The limit reads each needed file of a record (bands side by
side in memory, as the arithmetic needs them, in the same buffer for every record) and writes the bytes that the store
holds for it, 16 records to a file as the store has them, nothing else, with as many threads as the build; `durable` has
the disk confirm each file, as the build does before it calls a shard finished. `cold`: the raw files are dropped from
the page cache before each run. The script is what a notebook does in one process: np.load, arithmetic on whole arrays,
np.save of the result. Every run writes into a fresh folder; removing it is off the clock.

Then the composite alone, on the bands of one record in memory, with satpy and pycontrails; and the most memory that a
build of 200 and of 2,000 records takes, each in a process of its own.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr
from functools import partial
from io import StringIO
from pathlib import Path

import numpy as np
import numpy.typing as npt

from contrail_data.build.build import build
from contrail_data.cli.common import print_table
from contrail_data.composites import COMPOSITES, evaluate, stored_frames
from contrail_data.errors import ContrailError
from contrail_data.sources.open import open_source
from contrail_data.store.schema import SHARD
from contrail_data.store.settings import StoreSettings
from timing import drop_cached, interleaved, medians, spread, verdict, workplace

ASH = COMPOSITES["ash"]
TARGET = 1.3
FEW, MANY = 200, 2000


def read_and_write(inputs: list[list[Path]], stored: list[int], out: Path, threads: int, durable: bool) -> None:
    """The limit. `inputs` are the files of each record, `stored` the bytes its samples take in the store."""
    out.mkdir()
    most = max(*stored, *(sum(path.stat().st_size for path in files) for files in inputs))

    def one_file(first: int) -> None:
        memory = memoryview(bytearray(most))
        with (out / str(first)).open("wb", buffering=0) as to:
            for i in range(first, min(first + SHARD, len(inputs))):
                at = 0
                for path in inputs[i]:
                    with path.open("rb", buffering=0) as file:
                        at += file.readinto(memory[at:])
                to.write(memory[: stored[i]])
            if durable:
                os.fsync(to.fileno())

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one_file, range(0, len(inputs), SHARD)))


def ours(raw: Path, split: str, out: Path, workers: int) -> None:
    with redirect_stderr(StringIO()):
        build(open_source(raw, split, ASH), StoreSettings(ASH), out, workers=workers)


def script(folders: list[Path], out: Path, dtype: type) -> None:
    out.mkdir()
    for folder in folders:
        b11, b14, b15 = (np.load(folder / f"band_{b}.npy") for b in (11, 14, 15))
        channels = [(b15 - b14 + 4) / 6, (b14 - b11 + 4) / 9, (b14 - 243) / 60]
        image = np.clip(np.stack(channels), 0, 1)
        if dtype is np.uint8:
            image = (image * 255).round().astype(np.uint8)
        np.save(out / f"{folder.name}.npy", image)
        np.save(out / f"{folder.name}_mask.npy", np.load(folder / "human_pixel_masks.npy").astype(np.uint8))


def composites(folder: Path) -> dict[str, Callable[[], object]]:
    """Ways to the ash composite of one record, (256, 256, 8) bands in memory."""
    bands = {b: np.load(folder / f"band_{b}.npy") for b in ASH.bands}
    out = np.empty((3, *bands[11].shape), np.float32)
    ways: dict[str, Callable[[], object]] = {
        "ours, float32": partial(evaluate, ASH, bands, out=out),
        "ours, uint8 frames as stored": partial(stored_frames, ASH, bands, np.uint8),
        "pycontrails, to_ash": _pycontrails(bands),
        "satpy, its own ash": _satpy(bands),
    }
    return ways


def _pycontrails(bands: dict[int, npt.NDArray[np.float32]]) -> Callable[[], object]:
    import xarray as xr
    from pycontrails.datalib.goes import to_ash

    used = list(ASH.bands)
    stacked = xr.DataArray(
        np.stack([np.moveaxis(bands[b], -1, 0).reshape(-1, bands[b].shape[1]) for b in used]),
        dims=("band_id", "y", "x"),
        coords={"band_id": used},
    )
    return partial(to_ash, stacked, convention="SEVIRI")


def _satpy(bands: dict[int, npt.NDArray[np.float32]]) -> Callable[[], object]:
    import dask
    import dask.array as da
    import satpy
    import xarray as xr
    from satpy.enhancements.enhancer import get_enhanced_image

    def compute() -> object:
        scene = satpy.Scene()
        for band in (11, 13, 14, 15):
            kelvin = np.moveaxis(bands[band if band != 13 else 14], -1, 0).reshape(-1, bands[11].shape[1])
            attributes = {"name": f"C{band}", "sensor": "abi", "platform_name": "GOES-16", "units": "K"}
            scene[f"C{band}"] = xr.DataArray(da.from_array(kelvin), dims=("y", "x"), attrs=attributes)
        with warnings.catch_warnings(), dask.config.set(scheduler="synchronous"):
            warnings.simplefilter("ignore")
            scene.load(["ash"])
            return get_enhanced_image(scene["ash"]).data.values

    return compute


def peak_memory(folder: Path, raw: Path, split: str, samples: int) -> float:
    """MiB of a process that builds so many records: those of `raw`, again and again under other names."""
    many = folder / f"many-{samples}"
    (many / split).mkdir(parents=True)
    records = sorted(p for p in (raw / split).iterdir() if p.is_dir())
    for i in range(samples):
        (many / split / f"{i:06d}").symlink_to(records[i % len(records)].resolve())
    program = (
        "import resource, sys; from contrail_data.cli import app; app(sys.argv[1:], standalone_mode=False);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    command = [sys.executable, "-c", program, "build-ash", str(many), "--split", split, "--workers", "2"]
    done = subprocess.run([*command, "-o", str(folder / "many.zarr")], capture_output=True, text=True, check=True)
    shutil.rmtree(folder / "many.zarr")
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=96, help="records a run")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--raw", type=Path, help="folder of records, in place of synthetic ones")
    parser.add_argument("--split", default="train", help="split of --raw")
    options = parser.parse_args()
    with workplace(options.samples, options.raw, options.split) as (folder, raw):
        folders = sorted(p for p in (raw / options.split).iterdir() if p.is_dir())
        source = open_source(raw, options.split, ASH)
        inputs = [[path for path in source.files(f.name) if path.exists()] for f in folders]
        out = folder / "out"
        ours(raw, options.split, out, 2)
        pixels = sum(p.stat().st_size for p in out.glob("*/c.*"))
        sizes = [pixels // len(folders)] * len(folders)
        shutil.rmtree(out)
        limit = partial(read_and_write, inputs, sizes, out)

        def cold() -> None:
            for record in folders:
                drop_cached(record.resolve())

        seconds = interleaved(
            {
                "limit, 1 thread": partial(limit, 1, False),
                "limit, 2 threads": partial(limit, 2, False),
                "limit, 2 threads, durable": partial(limit, 2, True),
                "limit, 2 threads, durable, cold": partial(limit, 2, True),
                "build-ash, 1 worker": partial(ours, raw, options.split, out, 1),
                "build-ash, 2 workers": partial(ours, raw, options.split, out, 2),
                "build-ash, 2 workers, cold": partial(ours, raw, options.split, out, 2),
                "script, np.save of uint8": partial(script, folders, out, np.uint8),
                "script, np.save of float32": partial(script, folders, out, np.float32),
            },
            options.rounds,
            before={"limit, 2 threads, durable, cold": cold, "build-ash, 2 workers, cold": cold},
            after=partial(shutil.rmtree, out),
        )
        alone = interleaved(composites(folders[0]), options.rounds, least=0.1)
        memory = {n: peak_memory(folder, raw, options.split, n) for n in (FEW, MANY)}
        read = sum(path.stat().st_size for files in inputs for path in files) / len(folders)
    took = medians(seconds)
    limits = {
        "limit, 1 thread": (
            "limit, 1 thread",
            "build-ash, 1 worker",
            "script, np.save of uint8",
            "script, np.save of float32",
        ),
        "limit, 2 threads": ("limit, 2 threads", "limit, 2 threads, durable", "build-ash, 2 workers"),
        "limit, 2 threads, durable, cold": ("limit, 2 threads, durable, cold", "build-ash, 2 workers, cold"),
    }
    rows = []
    for name, each in took.items():
        ratio = each / took[next(against for against, names in limits.items() if name in names)]
        judged = verdict(ratio, TARGET, at_least=False) if name.startswith("build-ash, 2 workers") else ""
        faster = took["script, np.save of uint8"] / each
        rows.append(
            [name, f"{len(folders) / each:,.0f}", f"{ratio:.2f}", judged, f"{faster:.2f}", spread(seconds[name])]
        )
    title = (
        f"build: {len(folders)} records, {read / 1e6:.2f} MB read and {np.mean(sizes) / 1e6:.2f} MB stored each; "
        f"medians of {options.rounds} shuffled rounds"
    )
    print_table(title, ["what", "samples/s", "time / limit", "target", "rate / script", "rounds / median"], rows)
    took = medians(alone)
    rows = [
        [name, f"{each * 1e3:.2f}", f"{each / took['ours, float32']:.2f}", spread(alone[name])]
        for name, each in took.items()
    ]
    print_table("ash of one record, bands in memory", ["what", "ms", "time / ours", "rounds / median"], rows)
    print(
        "most memory of a build, 2 workers: " + ", ".join(f"{n:,} records {mib:.0f} MiB" for n, mib in memory.items())
    )


if __name__ == "__main__":
    try:
        main()
    except ContrailError as error:
        raise SystemExit(f"error: {error}") from None
