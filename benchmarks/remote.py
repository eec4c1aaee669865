"""Many machines and object storage: builds on dask workers, and training from a store that is far away.

    python benchmarks/remote.py [--samples 384] [--side 128] [--latency 0.02] [--workers 1 2 4] [--only TABLE]

The object storage is a process on this machine that answers each request after `--latency` seconds, and counts them.

Tables:

- `cluster`: records on a disk that all workers see to a store on object storage, with `--workers` processes of one
  thread, and with 2 of which one is killed when a quarter of the shards is finished; it is started again by dask.
  Starting the workers is not measured.
- `training`: from opening a run's data to the end of two epochs of labelled frames and masks, with a step that takes
  `--step` seconds and needs no processor. `first batch` is the time from opening until there is one; `waiting` is the
  share of the time in which the step waits for a batch. `kept` is `data.keep`: the first epoch makes the copies. A run
  remembers how far it read ahead in the epoch before; `depth forgotten` begins each epoch as the first one.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from statistics import median

import numpy as np
import torch

from contrail_data.build.build import build
from contrail_data.cli.common import print_table
from contrail_data.composites import COMPOSITES
from contrail_data.sources.open import open_source
from contrail_data.store.schema import SHARD
from contrail_data.store.settings import StoreSettings
from contrail_data.synthetic.records import write_records
from contrail_train.config.data import DataConfig
from contrail_train.data.loader import ReadAhead, epoch_order, load, split_steps
from contrail_train.data.training_data import TrainingData, open_training_data
from object_store import ObjectStore, object_store
from timing import make_parser, medians, run_main, spread

TABLES = ("cluster", "training")
ASH = COMPOSITES["ash"]
BATCH = 16
KILLED = "2, one killed"
"""The row of `cluster` in which a worker is lost."""


@dataclass
class Workplace:
    """Records, object storage, and how to measure."""

    folder: Path
    side: int
    samples: int
    rounds: int
    step: float
    """Seconds of a training step."""
    remote: ObjectStore

    def build(self, out: str | Path, scheduler: str = "threads") -> None:
        """Build a store without showing its progress."""
        with redirect_stderr(StringIO()):
            source, settings = open_source(self.folder / "raw", "train", ASH), StoreSettings(ASH, size=self.side)
            build(source, settings, out, workers=2, scheduler=scheduler)


# ---- dask workers


@dataclass(frozen=True)
class Cluster:
    """Worker processes on this machine."""

    address: str
    worker_ids: Callable[[], list[int]]
    """Process ids of the workers."""


@contextmanager
def cluster_of(workers: int) -> Iterator[Cluster]:
    """Start workers of one thread each."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None, silence_logs=50) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(workers)
        client.run(import_build)
        yield Cluster(cluster.scheduler_address, lambda: list(client.run(os.getpid).values()))


def import_build() -> None:
    """Let a worker import what it needs."""
    import contrail_data.build.shard  # noqa: F401


def build_on(place: Workplace, cluster: Cluster, out: str, kill: bool) -> None:
    """Build a store on a cluster, and kill one of its workers when a quarter of the shards is finished."""
    ended, victim = threading.Event(), cluster.worker_ids()[0]

    def kill_worker() -> None:
        while not ended.wait(0.01):
            entries = (place.folder / "s3/bucket" / out / ".building").glob("0*.json")
            if sum(1 for _ in entries) * 4 * SHARD >= place.samples:
                os.kill(victim, signal.SIGKILL)
                return

    killer = threading.Thread(target=kill_worker)
    if kill:
        killer.start()
    try:
        place.build(f"{place.remote.url}/{out}", cluster.address)
    finally:
        ended.set()
        if kill:
            killer.join()


def compare_workers(place: Workplace, numbers: Sequence[int]) -> None:
    """Print the table `cluster`."""
    rows_of = {str(workers): workers for workers in numbers} | {KILLED: 2}
    seconds: dict[str, list[float]] = {name: [] for name in rows_of}
    requests: dict[str, float] = {}
    for number in range(place.rounds):
        for name, workers in rows_of.items():
            with cluster_of(workers) as cluster:
                before, start = place.remote.requests, time.perf_counter()
                build_on(place, cluster, f"{number}-{workers}-{name[-1]}", kill=name == KILLED)
                seconds[name].append(time.perf_counter() - start)
                requests[name] = (place.remote.requests - before) / place.samples
    typical = medians(seconds)
    rows = []
    for name, workers in rows_of.items():
        efficiency = typical[str(numbers[0])] * numbers[0] / typical[name] / workers
        rows.append(
            [
                name,
                f"{place.samples / typical[name]:.1f}",
                f"{efficiency:.2f}",
                f"{requests[name]:.2f}",
                spread(seconds[name]),
            ]
        )
    header = ["workers", "samples/s", "rate / 1 worker / workers", "requests/sample", "rounds / median"]
    print_table(
        f"cluster: {place.samples} records of {place.side} pixels built on dask to object storage", header, rows
    )


# ---- training


@dataclass
class Pass:
    """What an epoch took."""

    seconds: float
    waited: float
    """Seconds in which the step waited for a batch."""
    requests: int


def epoch_of(
    place: Workplace, data: TrainingData, epoch: int, config: DataConfig, ahead: ReadAhead | None
) -> tuple[Pass, float]:
    """Read an epoch, with steps that only take time; returns also when there was a batch."""
    rows = split_steps(epoch_order(np.ones(len(data.train)), 0, epoch), BATCH)
    before, start, waited, first = place.remote.requests, time.perf_counter(), 0.0, 0.0
    batches = load(data.train, rows, torch.device("cpu"), config.threads, config.prefetch, ahead)
    while True:
        asked = time.perf_counter()
        batch = next(batches, None)
        first = first or time.perf_counter()
        waited += time.perf_counter() - asked
        if batch is None:
            return Pass(time.perf_counter() - start, waited, place.remote.requests - before), first
        time.sleep(place.step)


def train_from(place: Workplace, store: str, keep: bool = False, remembers: bool = True) -> tuple[float, list[Pass]]:
    """Open the data of a run and read two epochs; returns the seconds to the first batch, and the epochs."""
    shutil.rmtree(place.folder / "cache", ignore_errors=True)
    config = DataConfig(train=[store], holdout=0, keep=keep)
    start = time.perf_counter()
    data = open_training_data(config)
    ahead = ReadAhead() if remembers else None
    (first_epoch, first), (second_epoch, _) = (epoch_of(place, data, epoch, config, ahead) for epoch in range(2))
    return first - start, [first_epoch, second_epoch]


def compare_training(place: Workplace) -> None:
    """Print the table `training`."""
    local, remote = place.folder / "local", f"{place.remote.url}/train"
    for out in (local, remote):
        place.build(out)
    variants = {
        "from a disk": partial(train_from, place, str(local)),
        "from object storage": partial(train_from, place, remote),
        "from object storage, depth forgotten": partial(train_from, place, remote, remembers=False),
        "from object storage, kept": partial(train_from, place, remote, keep=True),
    }
    runs = [{name: run() for name, run in variants.items()} for _ in range(place.rounds)]
    rows = []
    for name in variants:
        first = median(run[name][0] for run in runs)
        row = [name, f"{first:.2f} s"]
        for epoch in range(2):
            passes = [run[name][1][epoch] for run in runs]
            row += [
                f"{median(p.waited / p.seconds for p in passes):.1%}",
                f"{median(p.requests for p in passes) / place.samples:.2f}",
            ]
        rows.append(row)
    header = [
        "training",
        "first batch",
        "1st epoch: waiting",
        "requests/sample",
        "2nd epoch: waiting",
        "requests/sample",
    ]
    title = f"training: {place.samples} samples, batches of {BATCH}, steps of {place.step * 1e3:.0f} ms"
    print_table(title, header, rows)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__, TABLES)
    parser.add_argument("--samples", type=int, default=384, help="number of records (384)")
    parser.add_argument("--side", type=int, default=128, help="rows and columns of a record (128)")
    parser.add_argument("--latency", type=float, default=0.02, help="seconds until a request is answered (0.02)")
    parser.add_argument("--step", type=float, default=0.1, help="seconds of a training step (0.1)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of measurements (3)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4], help="numbers of workers (1 2 4)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    with tempfile.TemporaryDirectory(prefix="contrail-benchmark-") as name:
        folder = Path(name)
        os.environ["CONTRAIL_CACHE"] = str(folder / "cache")
        write_records(folder / "raw", options.samples, size=options.side, validation_fraction=0.0, scenery="faint")
        with object_store(folder / "s3", options.latency) as remote:
            place = Workplace(folder, options.side, options.samples, options.rounds, options.step, remote)
            for table in options.only or TABLES:
                if table == "cluster":
                    compare_workers(place, options.workers)
                else:
                    compare_training(place)


if __name__ == "__main__":
    run_main(main)
