"""Records to a store, compared with the least any program must do: read the needed files, write the store's bytes.

    python benchmarks/build.py [--samples 96] [--rounds 7] [--only TABLE] [--raw FOLDER --split SPLIT]

Tables:

- `stores`: records of 3 bands of 256 x 256 x 8 float32 with masks. The limit reads each needed file of a record (bands
  next to each other in memory, as the arithmetic needs them, in the same buffer for every record) and writes the bytes
  that the store holds for it, 16 records to a file as in the store, with as many threads as the build; it does nothing
  else. `durable` waits until the disk has each file, as the build does before it calls a shard finished. `cold` drops
  the raw files from the page cache before each run. The script is what a notebook does in one process: np.load,
  arithmetic on whole arrays, np.save of the result. Every run writes into a new folder; its removal is not measured.
- `parts`: where the time of a build goes if one thread does everything, one thing after the other, from the round with
  the median time; a build with one worker waits for the disk in another thread. Bands are hashed and checked while they
  are read. A part does not include others that happen in it.
- `composite`: only the composite, on the bands of one record in memory, and the same with satpy and pycontrails.
- `memory`: peak memory of builds of few and many records, each in a process of its own.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import partial, wraps
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

import contrail_data.build.build as build_module
import contrail_data.build.shard as shard_module
import contrail_data.sources.records as records_module
import contrail_data.storage.files as files_module
import contrail_data.storage.place as place_module
from contrail_data.build.build import build
from contrail_data.build.shard import ShardTask
from contrail_data.cli.common import print_table
from contrail_data.composites import COMPOSITES, evaluate
from contrail_data.scans.tiles import Tile
from contrail_data.sources.open import open_source
from contrail_data.store.frames import stored_frames
from contrail_data.store.schema import SHARD
from contrail_data.store.settings import StoreSettings
from contrail_data.store.shards import ShardWriter
from timing import (
    add_record_options,
    clock,
    drop_cached,
    make_parser,
    measure,
    medians,
    record_folder,
    run_main,
    spread,
    verdict,
)

ASH = COMPOSITES["ash"]
TARGET = 2.0
LIMITS = {
    "limit, 1 thread": (
        "limit, 1 thread",
        "build-ash, 1 worker",
        "script, np.save of uint8",
        "script, np.save of float32",
    ),
    "limit, 2 threads": ("limit, 2 threads", "limit, 2 threads, durable", "build-ash, 2 workers"),
    "limit, 2 threads, durable, cold": ("limit, 2 threads, durable, cold", "build-ash, 2 workers, cold"),
}
"""The variants that are compared with each limit."""


@dataclass(frozen=True)
class Records:
    """The records to build, and how to measure."""

    folder: Path
    """Where stores are written."""
    raw: Path
    split: str
    rounds: int
    shortest: float
    """Seconds to repeat a quick variant for in each round."""
    memory: Sequence[int]
    """Numbers of records whose builds' memory is compared."""

    @property
    def folders(self) -> list[Path]:
        """The folder of each record."""
        return sorted(path for path in (self.raw / self.split).iterdir() if path.is_dir())

    def build(self, out: Path, workers: int) -> None:
        """Build a store without showing its progress."""
        with redirect_stderr(StringIO()):
            build(open_source(self.raw, self.split, ASH), StoreSettings(ASH), out, workers=workers)


def read_and_write(inputs: list[list[Path]], stored: int, out: Path, threads: int, durable: bool) -> None:
    """Read the files of each record and write as many bytes as the store holds for it: the limit."""
    out.mkdir()
    largest = max(stored, *(sum(path.stat().st_size for path in files) for files in inputs))

    def one_file(first: int) -> None:
        memory = memoryview(bytearray(largest))
        with (out / str(first)).open("wb", buffering=0) as target:
            for files in inputs[first : first + SHARD]:
                position = 0
                for path in files:
                    with path.open("rb", buffering=0) as file:
                        position += file.readinto(memory[position:])
                target.write(memory[:stored])
            if durable:
                os.fsync(target.fileno())

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one_file, range(0, len(inputs), SHARD)))


def run_script(folders: list[Path], out: Path, dtype: type) -> None:
    """Do in a plain script what the build does, without checks."""
    out.mkdir()
    for folder in folders:
        b11, b14, b15 = (np.load(folder / f"band_{b}.npy") for b in (11, 14, 15))
        channels = [(b15 - b14 + 4) / 6, (b14 - b11 + 4) / 9, (b14 - 243) / 60]
        image = np.clip(np.stack(channels), 0, 1)
        if dtype is np.uint8:
            image = (image * 255).round().astype(np.uint8)
        np.save(out / f"{folder.name}.npy", image)
        np.save(out / f"{folder.name}_mask.npy", np.load(folder / "human_pixel_masks.npy").astype(np.uint8))


def compare_stores(records: Records) -> None:
    """Print the table `stores`."""
    folders, out = records.folders, records.folder / "out"
    source = open_source(records.raw, records.split, ASH)
    inputs = [[path for path in map(Path, source.files(folder.name)) if path.exists()] for folder in folders]
    records.build(out, 2)
    stored = sum(path.stat().st_size for path in out.glob("*/c.*")) // len(folders)
    shutil.rmtree(out)
    limit = partial(read_and_write, inputs, stored, out)

    def drop() -> None:
        for record in folders:
            drop_cached(record.resolve())

    seconds = measure(
        {
            "limit, 1 thread": partial(limit, 1, False),
            "limit, 2 threads": partial(limit, 2, False),
            "limit, 2 threads, durable": partial(limit, 2, True),
            "limit, 2 threads, durable, cold": partial(limit, 2, True),
            "build-ash, 1 worker": partial(records.build, out, 1),
            "build-ash, 2 workers": partial(records.build, out, 2),
            "build-ash, 2 workers, cold": partial(records.build, out, 2),
            "script, np.save of uint8": partial(run_script, folders, out, np.uint8),
            "script, np.save of float32": partial(run_script, folders, out, np.float32),
        },
        records.rounds,
        before={"limit, 2 threads, durable, cold": drop, "build-ash, 2 workers, cold": drop},
        after=partial(shutil.rmtree, out),
    )
    median = medians(seconds)
    rows = []
    for name, each in median.items():
        ratio = each / median[next(limit for limit, names in LIMITS.items() if name in names)]
        target = verdict(ratio, TARGET, at_least=False) if name.startswith("build-ash, 2 workers") else ""
        faster = median["script, np.save of uint8"] / each
        rate = f"{len(folders) / each:,.0f}"
        rows.append([name, rate, f"{ratio:.2f}", target, f"{faster:.2f}", spread(seconds[name])])
    read = sum(path.stat().st_size for files in inputs for path in files) / len(folders)
    title = (
        f"stores: {len(folders)} records, {read / 1e6:.2f} MB read and {stored / 1e6:.2f} MB stored each; "
        f"medians of {records.rounds} shuffled rounds"
    )
    header = ["variant", "samples/s", "time / limit", "target", "rate / script", "rounds / median"]
    print_table(title, header, rows)


PARTS: dict[str, list[tuple[Any, str]]] = {
    "bands: read, hash, check": [(records_module, "checked_digest")],
    "labels: read, check, combine": [(records_module, "read_label"), (records_module, "combined_labels")],
    "footprint": [(Tile, "footprint")],
    "composite and frames": [(shard_module, "stored_frames")],
    "statistics": [(shard_module, "moments")],
    "write, compress, checksum": [(ShardWriter, "add"), (ShardWriter, "finish")],
    "wait for the disk": [(files_module, "side_by_side"), (place_module, "side_by_side")],
    "other work on records": [(ShardTask, "__call__")],
    "sealing": [(build_module, "seal")],
}
"""Where each part of a build happens."""


@contextmanager
def timed_parts() -> Iterator[dict[str, float]]:
    """Measure the seconds of each of `PARTS`, without those of other parts in it."""
    seconds = dict.fromkeys(PARTS, 0.0)
    running = threading.local()

    def timed(part: str, function: Callable[..., object]) -> Callable[..., object]:
        @wraps(function)
        def run(*args: object, **kwargs: object) -> object:
            outer = getattr(running, "inner", None)
            if outer is None and part == "wait for the disk":
                return function(*args, **kwargs)
            start, running.inner = clock(), 0.0
            try:
                return function(*args, **kwargs)
            finally:
                elapsed = clock() - start
                seconds[part] += elapsed - running.inner
                running.inner = None if outer is None else outer + elapsed

        return run

    with ExitStack() as stack:
        for part, places in PARTS.items():
            for owner, name in places:
                stack.enter_context(patch.object(owner, name, timed(part, getattr(owner, name))))
        yield seconds


def _run_in_turn(tasks: Sequence[ShardTask], scheduler: str, workers: int) -> Iterator[object]:
    return (task() for task in tasks)


def show_parts(records: Records) -> None:
    """Print the table `parts`."""
    out, rounds = records.folder / "out", []
    for _ in range(records.rounds + 1):  # the first one fills caches
        start = clock()
        with timed_parts() as seconds, patch.object(build_module, "run_tasks", _run_in_turn):
            records.build(out, 1)
        rounds.append((clock() - start, seconds))
        shutil.rmtree(out)
    total, seconds = sorted(rounds[1:], key=lambda each: each[0])[(len(rounds) - 1) // 2]
    seconds["other: open, plan, journal"] = total - sum(seconds.values())
    count = len(records.folders)
    rows = [[part, f"{1e3 * each / count:.2f}", f"{each / total:.0%}"] for part, each in seconds.items()]
    rows.append(["total", f"{1e3 * total / count:.2f}", "100%"])
    print_table(f"parts: {count} records, one thread", ["part", "ms per record", "share"], rows)


def compare_composites(records: Records) -> None:
    """Print the table `composite`."""
    folder = records.folders[0]
    bands = {band: np.load(folder / f"band_{band}.npy") for band in ASH.bands}
    out = np.empty((3, *bands[11].shape), np.float32)
    variants: dict[str, Callable[[], object]] = {
        "ours, float32": partial(evaluate, ASH, bands, out=out),
        "ours, uint8 frames as stored": partial(stored_frames, ASH, bands, np.uint8),
        "pycontrails, to_ash": _pycontrails(bands),
        "satpy, its own ash": _satpy(bands),
    }
    seconds = measure(variants, records.rounds, shortest=records.shortest)
    median = medians(seconds)
    fastest = median["ours, float32"]
    rows = [
        [name, f"{each * 1e3:.2f}", f"{each / fastest:.2f}", spread(seconds[name])] for name, each in median.items()
    ]
    print_table(
        "composite: ash of one record, bands in memory", ["variant", "ms", "time / ours", "rounds / median"], rows
    )


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


def compare_memory(records: Records) -> None:
    """Print the table `memory`."""
    rows = [[f"{count:,}", f"{_peak_memory(records, count):,.0f}"] for count in records.memory]
    print_table("memory: builds with 2 workers", ["records", "peak MiB"], rows)


def _peak_memory(records: Records, count: int) -> float:
    """Build so many records, the same ones under other names, in a process, and return its peak memory in MiB."""
    root = records.folder / f"many-{count}"
    (root / records.split).mkdir(parents=True)
    folders = records.folders
    for i in range(count):
        (root / records.split / f"{i:06d}").symlink_to(folders[i % len(folders)].resolve())
    program = (
        "import resource, sys; from contrail_data.cli.main import app; app(sys.argv[1:], standalone_mode=False);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    command = [sys.executable, "-c", program, "build-ash", str(root), "--split", records.split, "--workers", "2"]
    out = records.folder / "many.zarr"
    done = subprocess.run([*command, "-o", str(out)], capture_output=True, text=True, check=True)
    shutil.rmtree(out)
    return float(done.stdout.splitlines()[-1])


TABLES = {"stores": compare_stores, "parts": show_parts, "composite": compare_composites, "memory": compare_memory}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__, list(TABLES), rounds=7)
    add_record_options(parser, samples=96)
    parser.add_argument("--memory", type=int, nargs="+", default=[200, 2000], help="numbers of records (200 2000)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    with record_folder(options.samples, options.raw, options.split) as (folder, raw):
        records = Records(folder, raw, options.split, options.rounds, options.shortest, options.memory)
        for table in options.only or TABLES:
            TABLES[table](records)


if __name__ == "__main__":
    run_main(main)
