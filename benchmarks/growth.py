"""How cost grows with size: records, samples and scans at 1, 4 and 16 times a size, and 1, 2 and 4 workers.

    python benchmarks/growth.py [--rounds 3] [--factors 1 4 16] [--workers 1 2 4] [--only TABLE]

Every run is measured after an unmeasured one on a tiny input, whose cost is the start-up that is subtracted. The
exponent is the slope of the logarithm of what remains over that of the size, by least squares: 1 is proportional. It is
that of seconds or of CPU seconds, whichever is larger; sizes that cost less than half of the start-up more say nothing
about growth and are left out. MiB is the peak of the process's memory above what it held before.

Tables:

- `records`: `build-ash` with 2 workers, of records that are links to a few.
- `samples`: a store of samples of `--side` pixels with different images: opening it, opening the data of a run up to
  its first batch, an epoch of batches, and the commands verify, splits and audit. An audit compares every pair of
  images, so with images its exponent tends to 2.
- `scans`: `predict-scans` of more scans with a tiny network, and the composite of a larger scan.
- `threads`, `processes`, `dask`: a build with 1, 2 and 4 workers; its rate without start-up, divided by that of
  1 worker and the number of workers. Processes are those of the command, whose start-up counts as well. CPU seconds are
  without those of dask's workers, which go on after a build.
- `large`: a store of `--many` samples of 16 pixels; the audit is without images.
- `audit`: an audit of `--audited` records with different images, once.
"""

from __future__ import annotations

import argparse
import gc
import math
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path

import numpy as np
import torch
from typer.testing import CliRunner

from contrail_data.build.build import build
from contrail_data.cli.common import print_table
from contrail_data.cli.main import app
from contrail_data.composites import COMPOSITES
from contrail_data.scans.abi import open_abi
from contrail_data.scans.scene import composite_of
from contrail_data.sources.open import open_source
from contrail_data.store.reader import open_store, read_scalars
from contrail_data.store.settings import StoreSettings
from contrail_data.synthetic.abi import write_abi
from contrail_data.synthetic.records import write_records
from contrail_train.config.data import DataConfig
from contrail_train.contrails.cleaning import Cleaning
from contrail_train.data.loader import load, split_steps
from contrail_train.data.training_data import open_training_data
from contrail_train.inference.load import load_model
from contrail_train.scenes.series import SceneRequest, predict_files
from contrail_train.scenes.tiling import Tiling
from large_store import write_large_store
from remote import cluster_of
from timing import make_parser, run_main, verdict

ASH = COMPOSITES["ash"]
EXPONENT, AUDIT_S, OPENING_S = 1.1, 120.0, 0.5
"""Targets: growth, and seconds to audit `--audited` images and to open the store of `--many` samples."""
BATCH = 16
START = np.datetime64("2024-03-01T12:00")


@dataclass(frozen=True)
class Cost:
    """What a run took."""

    seconds: float
    cpu: float
    """CPU seconds, those of finished child processes included."""
    mebibytes: float
    """Peak memory above what the process held before."""


def measured(run: Callable[[], object]) -> Cost:
    """Run something once."""
    gc.collect()
    with suppress(OSError):  # some containers do not let a process reset its peak
        Path("/proc/self/clear_refs").write_text("5")
    before, cpu, start = _memory("VmRSS"), _cpu_seconds(), time.perf_counter()
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        run()
    seconds = time.perf_counter() - start
    return Cost(seconds, _cpu_seconds() - cpu, max(_memory("VmHWM") - before, 0.0))


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _memory(name: str) -> float:
    """A line of the process's status in MiB."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in status if line.startswith(name)) / 1024


def middle(costs: Sequence[Cost]) -> Cost:
    """Take the medians of each figure."""
    columns = zip(*((cost.seconds, cost.cpu, cost.mebibytes) for cost in costs), strict=True)
    return Cost(*map(statistics.median, columns))


def exponent(sizes: Sequence[float], costs: Sequence[float], start_up: float) -> float | None:
    """Fit how cost grows with size; None if the start-up is nearly all of it."""
    points = [(s, c - start_up) for s, c in zip(sizes, costs, strict=True) if c - start_up > max(start_up / 2, 0.02)]
    if len(points) < 2:
        return None
    return float(np.polyfit(*np.log(np.array(points).T), 1)[0])


Operation = tuple[Callable[[], object], Mapping[float, Callable[[], object]], float]
"""A run on a tiny input, runs by size, and the exponent that is expected."""


def show_growth(title: str, operations: Mapping[str, Operation], rounds: int) -> None:
    """Measure operations at all sizes in turn, and print how they grow."""
    costs: dict[tuple[str, float], list[Cost]] = {}
    jobs = [
        (name, size, run) for name, (tiny, runs, _) in operations.items() for size, run in {0.0: tiny, **runs}.items()
    ]
    for tiny, _, _ in operations.values():
        measured(tiny)  # imports, compiles and fills caches
    shuffler = random.Random(0)
    for _ in range(rounds):
        for name, size, run in shuffler.sample(jobs, len(jobs)):
            costs.setdefault((name, size), []).append(measured(run))
    rows = []
    for name, (_, runs, expected) in operations.items():
        typical = [middle(costs[name, size]) for size in (0.0, *runs)]
        start, *by_size = typical
        fits = [
            exponent([*runs], [getattr(cost, kind) for cost in by_size], getattr(start, kind))
            for kind in ("seconds", "cpu")
        ]
        slope = max((fit for fit in fits if fit is not None), default=None)
        met = "" if slope is None else verdict(slope, expected, at_least=False)
        seconds = costs[name, [*runs][-1]]
        spread = [each.seconds / by_size[-1].seconds for each in seconds]
        rows.append(
            [
                f"{name}: {', '.join(f'{size:,.0f}' for size in runs)}",
                f"{start.seconds:.2f}",
                " ".join(f"{cost.seconds:.2f}" for cost in by_size),
                " ".join(f"{cost.cpu:.2f}" for cost in by_size),
                " ".join(f"{cost.mebibytes:,.0f}" for cost in by_size),
                "start-up" if slope is None else f"{slope:.2f}",
                met,
                f"{min(spread):.2f} to {max(spread):.2f}",
            ]
        )
    header = ["what, by size", "start-up s", "s", "CPU s", "MiB", "exponent", "nothing superlinear", "rounds / median"]
    print_table(f"{title}; medians of {rounds} shuffled rounds", header, rows)


# ---- inputs


def linked_records(folder: Path, records: int, few: Path) -> Path:
    """Make a root of so many records that are links to a few."""
    (folder / "train").mkdir(parents=True, exist_ok=True)
    originals = sorted(path for path in (few / "train").iterdir())
    for number in range(records):
        link = folder / "train" / f"{number:06d}"
        if not link.exists():
            link.symlink_to(originals[number % len(originals)].resolve())
    return folder


def build_records(raw: Path, out: Path, workers: int = 2, scheduler: str = "threads") -> None:
    """Build a store, and remove it."""
    if scheduler == "processes":  # each imports the main module, which is the command's then, without torch
        arguments = [str(raw), "--split", "train", "--size", "128", "-o", str(out)]
        arguments += ["--scheduler", scheduler, "--workers", str(workers)]
        subprocess.run(
            [sys.executable, "-m", "contrail_data", "build-ash", *arguments], check=True, capture_output=True
        )
    else:
        build(open_source(raw, "train", ASH), StoreSettings(ASH, size=128), out, workers=workers, scheduler=scheduler)
    shutil.rmtree(out)


def small_store(folder: Path, side: int) -> Path:
    """Build the store whose samples larger ones repeat."""
    if not (folder / f"few-{side}.zarr").exists():
        write_records(folder / f"raw-{side}", 4, size=max(side, 32), validation_fraction=0.0, scenery="faint")
        source = open_source(folder / f"raw-{side}", "train", ASH)
        build(source, StoreSettings(ASH, size=side), folder / f"few-{side}.zarr", workers=2)
    return folder / f"few-{side}.zarr"


def command(*arguments: str) -> None:
    """Run a command of `contrail-data` in this process."""
    result = CliRunner().invoke(app, arguments)
    if result.exit_code not in (0, 4):  # 4: leaks were found
        raise RuntimeError(f"{arguments[0]}: {result.output}") from result.exception


def first_batch(store: Path) -> None:
    """Open the data of a run, and read a batch."""
    data = open_training_data(DataConfig(train=[str(store)], holdout=0.2))
    next(load(data.train, [np.arange(min(BATCH, len(data.train)))], torch.device("cpu"), 2, 1))


def epoch_of_batches(store: Path) -> None:
    """Read an epoch."""
    data = open_training_data(DataConfig(train=[str(store)], holdout=0))
    for _ in load(data.train, split_steps(data.epochs.rows(0, 0), BATCH), torch.device("cpu"), 2, 3):
        pass


def store_operations(folder: Path) -> dict[str, Callable[[Path], object]]:
    """What is done with a store, without images in the audit."""
    return {
        "open": open_store,
        "open, read scalars": lambda store: read_scalars(open_store(store)),
        "first batch": first_batch,
        "epoch of batches": epoch_of_batches,
        "verify": lambda store: command("verify", str(store)),
        "splits": lambda store: command(
            "splits", str(store), "-k", "2", "-o", str(folder / "folds.csv"), "--overwrite"
        ),
        "audit, no images": lambda store: command("audit", str(store), "--no-images"),
    }


# ---- tables


def show_records(folder: Path, options: argparse.Namespace) -> None:
    few = folder / "few"
    write_records(few, 8, size=128, validation_fraction=0.0, scenery="faint")
    sizes = [options.records * factor for factor in options.factors]
    roots = {size: linked_records(folder / f"raw-{size}", size, few) for size in (1, *sizes)}
    runs = {size: partial(build_records, roots[size], folder / "out.zarr") for size in roots}
    tiny = runs.pop(1)
    title = "records: build-ash of records of 128 px, 2 workers"
    show_growth(title, {"records": (tiny, runs, EXPONENT)}, options.rounds)


def show_samples(folder: Path, options: argparse.Namespace) -> None:
    few, sizes = small_store(folder, options.side), [options.samples * factor for factor in options.factors]
    stores = {n: write_large_store(few, n, folder / f"samples-{n}.zarr", different=True) for n in (16, *sizes)}
    todo = store_operations(folder) | {"audit with images": lambda store: command("audit", str(store))}
    operations: dict[str, Operation] = {}
    for name, run in todo.items():
        runs = {size: partial(run, stores[size]) for size in sizes}
        operations[name] = partial(run, stores[16]), runs, 2.0 if name == "audit with images" else EXPONENT
    show_growth(f"samples: a store of samples of {options.side} px", operations, options.rounds)


def show_scans(folder: Path, options: argparse.Namespace) -> None:
    side, model = options.scan, load_model("builtin:starter", "cpu")
    for number in range(-(-options.factors[-1] // 8)):  # at most eight scans are written at a time
        write_abi(folder / "scans", START + np.timedelta64(80 * number, "m"), size=(side, side), seed=number)
    times = sorted({name.name.split("_s")[1][:11] for name in (folder / "scans").glob("*.nc")})

    def predict(source: Path, tile: int) -> None:
        request = SceneRequest(
            source=str(source),
            outs=[folder / "scans.nc"],
            tiling=Tiling(tile),
            cleaning=Cleaning(model.decision.threshold),
            product="",
            overwrite=True,
        )
        predict_files(model, request)

    for scans in options.factors:
        (folder / f"of-{scans}").mkdir()
        for path in (folder / "scans").glob("*.nc"):
            if path.name.split("_s")[1][:11] in times[:scans]:
                (folder / f"of-{scans}" / path.name).symlink_to(path)
    sides = {side * factor: side * math.isqrt(factor) for factor in options.factors}
    files = {
        s: list(map(str, write_abi(folder / f"side-{s}", START, scans=1, size=(s, s)))) for s in {32, *sides.values()}
    }

    def compose(s: int) -> None:
        composite_of(open_abi(files[s]), ASH).values  # noqa: B018

    operations: dict[str, Operation] = {
        "scans to NetCDF": (
            partial(predict, folder / "side-32", 32),
            {n: partial(predict, folder / f"of-{n}", min(model.size, side)) for n in options.factors},
            EXPONENT,
        ),
        "pixels to a composite": (partial(compose, 32), {s * s: partial(compose, s) for s in sides.values()}, EXPONENT),
    }
    show_growth(f"scans: of {side} px, and composites of larger ones", operations, options.rounds)


def show_workers(scheduler: str, folder: Path, options: argparse.Namespace) -> None:
    few, count = folder / "few", options.records * options.factors[-1]
    write_records(few, 8, size=128, validation_fraction=0.0, scenery="faint")
    roots = [linked_records(folder / f"{scheduler}-{n}", n, few) for n in (1, count)]
    out, costs = folder / "out.zarr", {workers: ([], []) for workers in options.workers}  # type: ignore[var-annotated]
    for _ in range(options.rounds):
        for workers in options.workers:
            if scheduler == "dask":
                with cluster_of(workers) as cluster:
                    pair = [measured(partial(build_records, root, out, scheduler=cluster.address)) for root in roots]
            else:
                pair = [measured(partial(build_records, root, out, workers, scheduler)) for root in roots]
            for own, cost in zip(costs[workers], pair, strict=True):
                own.append(cost)
    rows = []
    seconds = {w: max(middle(own[1]).seconds - middle(own[0]).seconds, 1e-3) for w, own in costs.items()}
    for workers, own in costs.items():
        start, whole = map(middle, own)
        first = options.workers[0]
        efficiency = seconds[first] * first / seconds[workers] / workers
        figures = (f"{count / whole.seconds:.1f}", f"{start.seconds:.2f}", f"{efficiency:.2f}", f"{whole.cpu:.2f}")
        rows.append([f"{workers}", *figures, f"{whole.mebibytes:,.0f}"])
    header = ["workers", "records/s", "start-up s", "rate / 1 worker / workers", "CPU s", "MiB of this process"]
    print_table(f"{scheduler}: {count} records of 128 px on {os.cpu_count()} cores", header, rows)


def show_large(folder: Path, options: argparse.Namespace) -> None:
    few = small_store(folder, 16)
    tiny, store = (write_large_store(few, n, folder / f"large-{n}.zarr") for n in (16, options.many))
    rows = []
    for name, run in store_operations(folder).items():
        if name != "epoch of batches":
            measured(partial(run, tiny))  # imports and compiles
            cost = measured(partial(run, store))
            target = verdict(cost.seconds, OPENING_S, at_least=False) if name == "open" else ""
            rows.append([name, f"{cost.seconds:.2f}", f"{cost.cpu:.2f}", f"{cost.mebibytes:,.0f}", target])
    print_table(f"large: {options.many:,} samples of 16 px, once", ["what", "s", "CPU s", "MiB", "target"], rows)


def show_audit(folder: Path, options: argparse.Namespace) -> None:
    few, count = small_store(folder, options.side), options.audited
    store = write_large_store(few, count, folder / "audited.zarr", different=True)
    cost = measured(partial(command, "audit", str(store)))
    met = verdict(cost.seconds, AUDIT_S, at_least=False)
    row = [f"{count:,}", f"{cost.seconds:.1f}", f"{cost.cpu:.1f}", f"{cost.mebibytes:,.0f}", met]
    print_table("audit: records with different images, once", ["records", "s", "CPU s", "MiB", "target"], [row])


TABLES: dict[str, Callable[[Path, argparse.Namespace], None]] = {
    "records": show_records,
    "samples": show_samples,
    "scans": show_scans,
    "threads": partial(show_workers, "threads"),
    "processes": partial(show_workers, "processes"),
    "dask": partial(show_workers, "dask"),
    "large": show_large,
    "audit": show_audit,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, list(TABLES))
    parser.add_argument("--rounds", type=int, default=3, help="rounds of measurements (3)")
    parser.add_argument(
        "--factors", type=int, nargs="+", default=[1, 4, 16], help="sizes, as multiples of the smallest (1 4 16)"
    )
    parser.add_argument("--records", type=int, default=64, help="records at the smallest size (64)")
    parser.add_argument("--samples", type=int, default=500, help="samples at the smallest size (500)")
    parser.add_argument("--side", type=int, default=32, help="rows and columns of these samples (32)")
    parser.add_argument("--scan", type=int, default=256, help="rows and columns of a scan (256)")
    parser.add_argument("--many", type=int, default=200_000, help="samples of the large store (200000)")
    parser.add_argument("--audited", type=int, default=20_000, help="records of the audit (20000)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4], help="numbers of workers (1 2 4)")
    options = parser.parse_args(arguments)
    gc.freeze()  # else each collection looks through all that was imported
    try:
        for table in options.only or TABLES:
            with tempfile.TemporaryDirectory(prefix="contrail-benchmark-") as name, redirect_stderr(StringIO()):
                TABLES[table](Path(name), options)
    finally:
        gc.unfreeze()


if __name__ == "__main__":
    run_main(main)
