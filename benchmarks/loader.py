"""Reading samples, compared with copying the same bytes out of an np.memmap.

    python benchmarks/loader.py [--samples 96] [--rounds 5] [--only TABLE] [--raw FOLDER --split SPLIT]
    pip install -e '.[bench]'; pip install --no-deps mosaicml-streaming    # the optional peers

Tables:

- `whole`, `frames`, `labelled`: uint8 samples of (8, 3, 256, 256) in random order, as a whole, five frames of them,
  and only the labelled frame, from the page cache. The limit copies them from one mapped file of the same bytes into a
  buffer that is reused. Ours is `pixel_reader`, which the trainer, previews and pseudo-labels share, into such a
  buffer; `codec alone` decodes chunks that are in memory already; `peers.py` describes how each peer reads. Before any
  method is measured, it is checked to read the right bytes. Opening files, parsing stores and starting workers is not
  measured.
- `cold`: the same from the disk. The page cache is emptied of every file right before each pass; the disk's own cache
  and that of a virtual machine's host are not. The mapped file is no limit there: it waits for its page faults one by
  one.
- `start`: the trainer's own batches (labelled frame and mask), opening a sealed store, and the time from opening a
  run's data to its first batch.

Two threads are two callers, each with its own reader, of half of the order; tensorstore and zarrs, limited to one
thread of their own where one caller reads, then have two as well. A DataLoader with 2 workers is compared with two
threads, with 0 or 1 worker with one. mosaicml-streaming asks for an older numpy and transformers than ours, and runs
with ours (0.13.0 with numpy 2.4.6 and transformers 5.23): it is measured in this process like the others.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from functools import partial
from io import StringIO
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from contrail_data.build.build import build
from contrail_data.cli.common import print_table
from contrail_data.composites import COMPOSITES
from contrail_data.errors import ContrailError
from contrail_data.sources.open import open_source
from contrail_data.store.layout import CODECS
from contrail_data.store.reader import open_store
from contrail_data.store.schema import Codec
from contrail_data.store.settings import StoreSettings
from contrail_train.config.data import DataConfig
from contrail_train.data.items import Items, open_labelled
from contrail_train.data.loader import epoch_order, load, split_steps
from contrail_train.data.training_data import open_training_data
from large_store import write_large_store
from methods import Method, Read, codec_alone, mapped, memmap, new_buffer, ours, why_unusable
from peers import PEERS, Batches, zarr_batches
from timing import (
    Name,
    Run,
    add_record_options,
    cached_share,
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
PATTERNS: dict[str, Any] = {"whole": slice(None), "frames": slice(2, 7), "labelled": 4}
"""What is read of a sample, by the name of its table."""
TITLES = {"whole": "whole samples", "frames": "frames 2 to 6", "labelled": "the labelled frame"}
TABLES = (*PATTERNS, "cold", "start")
BATCH, PREFETCH = 16, 3
PASSES = 2
"""Passes of a DataLoader over the order that are measured together, because its first batches come late."""
LIMIT, OURS, DECODER = "np.memmap, the limit", "ours", "codec alone"
METHODS = {
    LIMIT: Method(memmap, ("none",), (1, 2), cold=True),
    OURS: Method(ours, threads=(1, 2), cold=True),
    DECODER: Method(codec_alone, [codec for codec in CODECS if CODECS[codec] is not None], (1, 2)),
    **PEERS,
}


class Key(NamedTuple):
    """One variant of reading. Variants are compared that differ in their method only."""

    pattern: str
    codec: str
    threads: int
    method: str


@dataclass
class Workplace:
    """Stores of the same samples, and how to measure."""

    folder: Path
    order: list[int]
    """Samples in the order in which they are read."""
    pool: ThreadPoolExecutor
    rounds: int
    shortest: float
    """Seconds to repeat a quick method for in each round."""
    many: int
    """Samples of the large store to open."""
    workers: Sequence[int]
    """Numbers of worker processes of the DataLoaders."""
    loaders: dict[int, Batches] = field(default_factory=dict)
    """DataLoaders on zarr-python by their number of workers. They live as long as this, as workers start slowly."""

    def measure(self, runs: Mapping[Name, Run], before: Mapping[Name, Run]) -> dict[Name, list[float]]:
        """Measure variants; `before` is called before each call of a variant."""
        return measure(runs, self.rounds, shortest=self.shortest, before=before)

    @property
    def title(self) -> str:
        """What was measured."""
        stored = []
        for codec in CODECS:
            size = sum(path.stat().st_size for path in (self.folder / codec / "image").glob("c.*"))
            stored.append(f"{codec} {size / mapped(self.folder).nbytes:.2f}")
        return (
            f"{len(self.order)} samples, medians of {self.rounds} shuffled rounds; "
            f"stored bytes of image: {', '.join(stored)}"
        )


@dataclass
class Plan:
    """What is measured for one table."""

    runs: dict[Key, Run] = field(default_factory=dict)
    before: dict[Key, Run] = field(default_factory=dict)
    samples: dict[Key, int] = field(default_factory=dict)
    """Samples read by one call of a run."""
    absent: dict[Key, str] = field(default_factory=dict)
    """Why a row has no figures."""

    def add(self, key: Key, run: Run, samples: int) -> None:
        """Add a variant."""
        self.runs[key] = run
        self.samples[key] = samples


def plan_readers(plan: Plan, place: Workplace, pattern: str, methods: Sequence[str] = tuple(METHODS)) -> None:
    """Add the methods that read samples one by one, each checked to read the right bytes."""
    for name in methods:
        method = METHODS[name]
        if reason := why_unusable(method):
            plan.absent[Key(pattern, "", 1, name)] = reason
            continue
        for codec, threads in product(method.codecs, method.threads):
            key = Key(pattern, codec, threads, name)
            readers = open_readers(method, place.folder, key)
            check(key, readers[0], place.folder)
            if method.restore is not None:
                plan.before[key] = partial(method.restore, place.folder, codec)
            plan.add(key, partial(read_all, readers, place.order, place.pool), len(place.order))


def plan_cold_readers(plan: Plan, place: Workplace) -> None:
    """Add methods that read copies in `folder`/cold, reopened for every pass: open maps keep their pages."""
    readers: list[Read] = []
    copies = place.folder / "cold"

    def drop() -> None:
        readers.clear()
        drop_cached(copies)

    def reopen(method: Method, key: Key) -> None:
        drop()
        readers.extend(open_readers(method, copies, key))

    for pattern, (name, method) in product(PATTERNS, METHODS.items()):
        if not method.cold:
            continue
        if reason := why_unusable(method):
            plan.absent[Key(pattern, "", 1, name)] = reason
            continue
        for codec in method.codecs:
            key = Key(pattern, codec, 1, name)
            reopen(method, key)
            check(key, readers[0], place.folder)
            drop()
            if cached_share(copies) > 0.01:
                plan.absent[key] = "the page cache cannot be emptied"
                continue
            plan.before[key] = partial(reopen, method, key)
            plan.add(key, partial(read_all, readers, place.order, place.pool), len(place.order))


def plan_loaders(plan: Plan, place: Workplace, pattern: str) -> None:
    """Add zarr-python in torch DataLoaders; their first pass, which starts the workers, is the check."""
    for workers, codec in product(place.workers, CODECS):
        if workers not in place.loaders:
            place.loaders[workers] = zarr_batches(place.folder, workers, BATCH)
        batches, pick = place.loaders[workers], PATTERNS[pattern]
        name = f"zarr, DataLoader, {workers} worker{'s' * (workers != 1)}"
        key = Key(pattern, codec, max(1, workers), name)
        samples = iter(np.concatenate([batch.numpy() for batch in batches(codec, pick, range(len(place.order)))]))
        check(key, lambda _, samples=samples: next(samples), place.folder)  # type: ignore[misc]
        run = partial(drain, batches, codec, pick, [*place.order] * PASSES)
        plan.add(key, run, PASSES * len(place.order))


def open_readers(method: Method, folder: Path, key: Key) -> list[Read]:
    """Open a reader for each thread."""
    return [method.open(folder, key.codec, PATTERNS[key.pattern], key.threads) for _ in range(key.threads)]


def check(key: Key, read: Read, folder: Path) -> None:
    """Check that every sample is read right, in sequence, as some methods know no other order."""
    for i, sample in enumerate(mapped(folder)):
        if not np.array_equal(read(i), sample[PATTERNS[key.pattern]]):
            raise ContrailError(f"{key}: reads other bytes than were stored, so its speed means nothing")


def read_all(readers: Sequence[Read], order: Sequence[int], pool: ThreadPoolExecutor) -> None:
    """Read the samples, with a thread for each reader."""

    def one_part(k: int) -> None:
        read = readers[k]
        for i in order[k :: len(readers)]:
            read(i)

    if len(readers) == 1:
        one_part(0)
    else:
        list(pool.map(one_part, range(len(readers))))


def drain(batches: Batches, codec: str, pick: Any, order: Sequence[int]) -> None:
    """Read all batches."""
    for _ in batches(codec, pick, order):
        pass


# ---- the tables of reading


def compare_warm(place: Workplace, pattern: str) -> None:
    """Print the table of a pattern, from the page cache."""
    plan = Plan()
    plan_readers(plan, place, pattern)
    plan_loaders(plan, place, pattern)
    if pattern == "labelled":  # its target is a share of the time for whole samples
        plan_readers(plan, place, "whole", [OURS])
    print_readers(plan, place, pattern, place.measure(plan.runs, plan.before), "warm")


def compare_cold(place: Workplace) -> None:
    """Print a table for each pattern, from the disk."""
    plan = Plan()
    plan_cold_readers(plan, place)
    seconds = place.measure(plan.runs, plan.before)
    for pattern in PATTERNS:
        print_readers(plan, place, pattern, seconds, "cold")


def print_readers(plan: Plan, place: Workplace, pattern: str, seconds: dict[Key, list[float]], state: str) -> None:
    """Print the table of a pattern; then whether ours is faster than every peer."""
    rate = {key: plan.samples[key] / median for key, median in medians(seconds).items()}
    nbytes = new_buffer(PATTERNS[pattern]).nbytes
    rows = []
    for key in sorted((key for key in (*rate, *plan.absent) if key.pattern == pattern), key=_position):
        first = [key.method, key.codec, f"{key.threads}"]
        if key in plan.absent:
            rows.append([*first, plan.absent[key], "", "", "", ""])
            continue
        limit = rate.get(key._replace(codec="none", method=LIMIT))
        ratio = f"{rate[key] / limit:.3f}" if limit else ""
        figures = [f"{rate[key]:,.0f}", f"{rate[key] * nbytes / 1e6:,.0f}", ratio, _target(key, rate, state)]
        rows.append([*first, *figures, spread(seconds[key])])
    header = ["method", "codec", "threads", "samples/s", "MB/s", "rate / limit", "target", "rounds / median"]
    print_table(f"{TITLES[pattern]}, page cache {state}: {place.title}", header, rows)
    ratios = []
    for key in rate:
        if key.pattern == pattern and key.method not in (LIMIT, OURS, DECODER):
            base = rate.get(key._replace(method=OURS))
            ratios += [(rate[key] / base, key)] if base else []
    faster = [f"{k.method} ({k.codec}, {k.threads}) {r:.2f}" for r, k in sorted(ratios, reverse=True) if r > 1]
    outcome = f"MISSED, rate / ours: {'; '.join(faster)}" if faster else "met"
    print(f"faster than every peer, {len(ratios)} comparisons: {outcome}\n", flush=True)


def _target(key: Key, rate: dict[Key, float], state: str) -> str:
    if key.method != OURS:
        return ""
    if key.codec != "none":
        decoder = rate.get(key._replace(method=DECODER))
        return "" if decoder is None else f"{rate[key] / decoder:.2f} of codec alone"
    if key.pattern == "labelled":
        share = rate[key._replace(pattern="whole")] / rate[key]
        return f"{share:.3f} of whole, {verdict(share, 1 / 6, at_least=False)}"
    limit = rate[key._replace(method=LIMIT)]
    target = 0.95 if key.pattern == "whole" and key.threads == 1 else 0.9
    return verdict(rate[key] / limit, target, at_least=True) if state == "warm" else ""


def _position(key: Key) -> tuple[bool, bool, int, int, str]:
    """Put the limit, ours and the codec first; then peers, by codec."""
    reference = [LIMIT, OURS, DECODER]
    codec = [*CODECS].index(key.codec) if key.codec else len(CODECS)
    return key.method not in reference, key.method != LIMIT, codec, key.threads, key.method


# ---- the table of the loader's start


def compare_start(place: Workplace) -> None:
    """Print the table `start`."""
    few = len(place.order)
    items = open_labelled([open_store(place.folder / "none")])
    runs: dict[str, Run] = {}
    samples: dict[str, int] = {}
    before: dict[str, Run] = {}
    targets: dict[str, float] = {}
    for threads in (1, 2):
        name = f"trainer, batches of {BATCH}: {threads} thread{'s' * (threads > 1)}"
        runs[name] = partial(trainer_pass, items, threads)
        samples[name] = 8 * len(items)
    runs[f"open_store of {few:,} samples"] = partial(open_store, place.folder / "none")
    for state, parent in (("warm", place.folder / "none"), ("cold", place.folder / "cold/none")):
        store = write_large_store(parent, place.many, place.folder / f"many-{state}")
        name = f"open_store, {place.many:,} samples, {state}"
        runs[name], targets[name] = partial(open_store, store), 0.5
        first = f"start: open_training_data to the first batch, {place.many:,} samples, {state}"
        runs[first], targets[first] = partial(read_first_batch, store), 1.0
        if state == "cold":
            before[name] = before[first] = partial(drop_cached, store)
    seconds = place.measure(runs, before)
    rows = []
    for name, each in medians(seconds).items():
        figure = f"{samples[name] / each:,.0f} samples/s" if name in samples else f"{each * 1e3:.1f} ms"
        target = verdict(each, targets[name], at_least=False) + " (s)" if name in targets else ""
        rows.append([name, figure, target, spread(seconds[name])])
    print_table("start: loader and opening", ["variant", "figure", "target", "rounds / median"], rows)


def trainer_pass(items: Items, threads: int) -> None:
    """Read eight epochs in the trainer's batches."""
    order = epoch_order(np.ones(len(items)), seed=0, epoch=0)
    for _ in load(items, split_steps(order, BATCH) * 8, torch.device("cpu"), threads, PREFETCH):
        pass


def read_first_batch(store: Path) -> None:
    """Do what a run does before its first step."""
    config = DataConfig(train=[str(store)])
    items = open_training_data(config).train
    rows = epoch_order(np.ones(len(items)), seed=0, epoch=0)[:BATCH]
    for _ in load(items, [rows], torch.device("cpu"), config.threads, config.prefetch):
        pass


# ---- main


def write_formats(folder: Path, raw: Path, split: str, peers: bool) -> None:
    """Write our stores and the raw file, with copies to be read cold, and the formats of the peers."""
    (folder / "cold").mkdir()
    for codec in CODECS:
        with redirect_stderr(StringIO()):
            settings = StoreSettings(ASH, codec=Codec(codec))
            build(open_source(raw, split, ASH), settings, folder / codec, workers=2)
        shutil.copytree(folder / codec, folder / "cold" / codec)
    open_store(folder / "none")["image"].values.tofile(folder / "image.raw")
    shutil.copy(folder / "image.raw", folder / "cold")
    for method in METHODS.values():
        if peers and method.write is not None and not why_unusable(method):
            for codec in method.codecs:
                method.write(folder, codec)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__, TABLES, rounds=5)
    add_record_options(parser, samples=96)
    parser.add_argument("--many", type=int, default=20_000, help="samples of the large store to open (20000)")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="processes of DataLoaders (0 1 2)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    tables = options.only or TABLES
    with (
        record_folder(options.samples, options.raw, options.split) as (folder, raw),
        ThreadPoolExecutor(2) as pool,
    ):
        write_formats(folder, raw, options.split, peers=any(table in PATTERNS for table in tables))
        place = Workplace(
            folder=folder,
            order=np.random.default_rng(0).permutation(len(mapped(folder))).tolist(),
            pool=pool,
            rounds=options.rounds,
            shortest=options.shortest,
            many=options.many,
            workers=options.workers,
        )
        for table in tables:
            if table in PATTERNS:
                compare_warm(place, table)
            elif table == "cold":
                compare_cold(place)
            else:
                compare_start(place)


if __name__ == "__main__":
    run_main(main)
