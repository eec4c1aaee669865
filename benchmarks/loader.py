"""Reading samples, against copying the same bytes out of an np.memmap.

    python benchmarks/loader.py [--samples 96] [--rounds 5] [--raw FOLDER --split SPLIT]
    pip install -e '.[bench]'; pip install --no-deps mosaicml-streaming    # the optional peers

uint8 samples of (8, 3, 256, 256) in random order: whole, five frames, and the labelled frame alone. The limit copies
them from one mapped file of the same bytes into a buffer that is used again. Ours is `pixel_reader`, which the trainer,
previews and pseudo-labels share, into such a buffer; `codec alone` decodes chunks that lie in memory; `peers.py` says
how each peer reads. Every way is checked to read the right bytes, or there is no table. Files are opened, stores parsed
and workers started off the clock.

Two threads are two callers, each with its own reader, of half of the order; tensorstore and zarrs, held to one thread
of their own where one calls, then have theirs too. A DataLoader with 2 workers is judged beside two threads, with 0 or
1 beside one. Cold: the page cache is emptied of every file right before each pass; the disk's own cache and that of a
virtual machine's host are not. The limit is none there: a map waits for its page faults one by one.

Then the trainer's own batches (labelled frame and mask), opening a sealed store, and the loader's start: from opening a
run's data to its first batch. mosaicml-streaming asks for an older numpy and transformers than ours, and runs with ours
(0.13.0 with numpy 2.4.6 and transformers 5.23): it is measured in this process like the others.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
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
from contrail_data.storage.place import place_of
from contrail_data.store.reader import open_store, read_scalars
from contrail_data.store.schema import ArraySpec, Codec, PixelDtype
from contrail_data.store.settings import StoreSettings
from contrail_data.store.shards import CODECS
from contrail_data.store.writer import seal
from contrail_train.config.schema import DataConfig
from contrail_train.data.items import Items, open_labelled
from contrail_train.data.loader import epoch_order, load, step_rows, steps_per_epoch
from contrail_train.data.training_data import open_training_data
from peers import PEERS, Batches, zarr_batches
from timing import Run, cached, drop_cached, interleaved, medians, spread, verdict, workplace
from ways import SAMPLE, Read, Way, buffer, codec_alone, mapped, memmap, ours, unusable

ASH = COMPOSITES["ash"]
WHOLE, FRAME = "whole sample", "labelled frame"
PATTERNS: dict[str, Any] = {WHOLE: slice(None), "frames 2 to 6": slice(2, 7), FRAME: 4}
BATCH, PREFETCH = 16, 3
PASSES = 2  # of the order, in one pass of a DataLoader: its first batches come late
MANY = 20_000
LIMIT, OURS, DECODER = "np.memmap, the limit", "ours", "codec alone"
WAYS = {
    LIMIT: Way(memmap, ("none",), (1, 2), cold=True),
    OURS: Way(ours, threads=(1, 2), cold=True),
    DECODER: Way(codec_alone, [codec for codec in CODECS if CODECS[codec] is not None], (1, 2)),
    **PEERS,
}


class Key(NamedTuple):
    """One variant of reading: what is compared has all of these but `name` in common."""

    cache: str
    pattern: str
    codec: str
    threads: int
    name: str


@dataclass
class Plan:
    """What is to be measured."""

    runs: dict[Key | str, Run] = field(default_factory=dict)
    before: dict[Key | str, Run] = field(default_factory=dict)
    samples: dict[Key | str, int] = field(default_factory=dict)
    """Read by one call of a run; 0 where its seconds are the figure."""
    absent: dict[Key, str] = field(default_factory=dict)
    """Why a row has no figures."""

    def add(self, key: Key | str, run: Run, samples: int = 0) -> None:
        self.runs[key] = run
        self.samples[key] = samples


def plan_readers(plan: Plan, folder: Path, order: Sequence[int], pool: ThreadPoolExecutor) -> None:
    """Every way of reading samples one by one, each checked to read the right bytes."""
    for pattern, (name, way) in product(PATTERNS, WAYS.items()):
        if reason := unusable(way):
            plan.absent[Key("warm", pattern, "", 1, name)] = reason
            continue
        for codec, threads in product(way.codecs, way.threads):
            key = Key("warm", pattern, codec, threads, name)
            readers = open_readers(way, folder, key)
            check(key, readers[0], folder)
            if way.restore is not None:
                plan.before[key] = partial(way.restore, folder, codec)
            plan.add(key, partial(read_all, readers, order, pool), len(order))


def plan_cold_readers(plan: Plan, folder: Path, order: Sequence[int], pool: ThreadPoolExecutor) -> None:
    """The same of copies in `folder`/cold, opened anew for every pass: pages of an open map cannot be dropped."""
    held: list[Read] = []
    where = folder / "cold"

    def drop() -> None:
        held.clear()
        drop_cached(where)

    def reopen(way: Way, key: Key) -> None:
        drop()
        held.extend(open_readers(way, where, key))

    for pattern, (name, way) in product(PATTERNS, WAYS.items()):
        if not way.cold:
            continue
        if reason := unusable(way):
            plan.absent[Key("cold", pattern, "", 1, name)] = reason
            continue
        for codec in way.codecs:
            key = Key("cold", pattern, codec, 1, name)
            reopen(way, key)
            check(key, held[0], folder)
            drop()
            if cached(where) > 0.01:
                plan.absent[key] = "not possible here"
                continue
            plan.before[key] = partial(reopen, way, key)
            plan.add(key, partial(read_all, held, order, pool), len(order))


def open_readers(way: Way, where: Path, key: Key) -> list[Read]:
    return [way.open(where, key.codec, PATTERNS[key.pattern], key.threads) for _ in range(key.threads)]


def check(key: Key, read: Read, folder: Path) -> None:
    """The right bytes, of every sample, before its speed counts. In sequence, as some know no other order."""
    for i, sample in enumerate(mapped(folder)):
        if not np.array_equal(read(i), sample[PATTERNS[key.pattern]]):
            raise ContrailError(f"{key}: reads other bytes than were stored: its speed means nothing")


def read_all(readers: Sequence[Read], order: Sequence[int], pool: ThreadPoolExecutor) -> None:
    def one_part(k: int) -> None:
        read = readers[k]
        for i in order[k :: len(readers)]:
            read(i)

    if len(readers) == 1:
        one_part(0)
    else:
        list(pool.map(one_part, range(len(readers))))


def plan_loaders(plan: Plan, folder: Path, order: Sequence[int]) -> None:
    """zarr-python in torch DataLoaders; their first pass, which starts the workers, is the check."""
    for workers in (0, 1, 2):
        batches = zarr_batches(folder, workers, BATCH)
        for pattern, codec in product(PATTERNS, CODECS):
            pick = PATTERNS[pattern]
            name = f"zarr, DataLoader, {workers} worker{'s' * (workers != 1)}"
            key = Key("warm", pattern, codec, max(1, workers), name)
            batch = iter(np.concatenate([b.numpy() for b in batches(codec, pick, range(len(order)))]))
            check(key, lambda _, batch=batch: next(batch), folder)  # type: ignore[misc]
            plan.add(key, partial(drain, batches, codec, pick, [*order] * PASSES), PASSES * len(order))


def drain(batches: Batches, codec: str, pick: Any, order: Sequence[int]) -> None:
    for _ in batches(codec, pick, order):
        pass


def trainer_pass(items: Items, threads: int) -> None:
    order = epoch_order(len(items), 0, 0)
    rows = [step_rows(order, s, BATCH) for s in range(steps_per_epoch(len(items), BATCH))]
    for _ in load(items, rows * 8, torch.device("cpu"), threads, PREFETCH):
        pass


def first_batch(store: Path, present: int) -> None:
    """What a run does before its first step; only the first `present` samples of the store have pixels."""
    config = DataConfig(train=[str(store)])
    items = open_training_data(config).train
    order = epoch_order(len(items), 0, 0)
    rows = order[items.sample[order] < present][:BATCH]
    for _ in load(items, [rows], torch.device("cpu"), config.threads, config.prefetch):
        pass


def prepare(folder: Path, raw: Path, split: str) -> None:
    """The stores, the raw file and the peers' formats, all of the same samples; and copies to be read cold."""
    (folder / "cold").mkdir()
    for codec in CODECS:
        with redirect_stderr(StringIO()):
            build(open_source(raw, split, ASH), StoreSettings(ASH, codec=codec), folder / codec, workers=2)
        shutil.copytree(folder / codec, folder / "cold" / codec)
    open_store(folder / "none")["image"].values.tofile(folder / "image.raw")
    shutil.copy(folder / "image.raw", folder / "cold")
    for way in WAYS.values():
        if way.write is not None and not unusable(way):
            for codec in way.codecs:
                way.write(folder, codec)


def sealed(store: Path, samples: int, out: Path) -> Path:
    """A sealed store of this many samples: values repeated from `store`, each its own record at a place of its own;
    the pixels of `store` for the first samples, none for the others."""
    opened = open_store(store)
    scalars = read_scalars(opened)
    scalars = scalars.isel(sample=np.arange(samples) % scalars.sizes["sample"])
    scalars["record_id"] = ("sample", np.array([f"record-{i}" for i in range(samples)], object))
    scalars["latitude"] = ("sample", np.linspace(-60, 60, samples))
    scalars = scalars.assign({n: v.astype(object) for n, v in scalars.variables.items() if v.dtype.kind == "T"})
    for variable in scalars.variables.values():
        variable.encoding = {}
    scalars.attrs = {}
    arrays = {
        "image": ArraySpec(SAMPLE, PixelDtype.UINT8, Codec.NONE),
        "mask": ArraySpec(SAMPLE[2:], PixelDtype.UINT8, Codec.ZSTD),
    }
    attributes = {name: opened.attrs[name] for name in ("kind", "composite", "statistics", "label_shift")}
    seal(place_of(out), arrays, scalars, attributes, {}, [], {})
    for name in arrays:
        for chunks in (store / name).glob("c.*"):
            (out / name / chunks.name).hardlink_to(chunks)
    return out


# ------------------------------------------------------------------------------------------------------- report


def judged(key: Key, rate: dict[Key, float]) -> str:
    if key.name != OURS:
        return ""
    if key.codec != "none":
        alone = rate.get(key._replace(name=DECODER))
        return "" if alone is None else f"{rate[key] / alone:.2f} of codec alone"
    if key.pattern == FRAME:
        part = rate[key._replace(pattern=WHOLE)] / rate[key]
        return f"{part:.3f} of whole, {verdict(part, 1 / 6, at_least=False)}"
    limit = rate[key._replace(name=LIMIT)]
    return verdict(rate[key] / limit, 0.9, at_least=True) if key.cache == "warm" else ""


def report_readers(plan: Plan, seconds: dict[Key | str, list[float]], title: str) -> None:
    """A table for each pattern, warm and cold; then whether ours is ahead of every peer."""
    took = medians(seconds)
    rate = {key: plan.samples[key] / took[key] for key in took if isinstance(key, Key)}
    for state, pattern in product(("warm", "cold"), PATTERNS):
        nbytes = buffer(PATTERNS[pattern]).nbytes
        rows = []
        for key in sorted((k for k in (*rate, *plan.absent) if k[:2] == (state, pattern)), key=_place):
            first = [key.name, key.codec, f"{key.threads}"]
            if key in plan.absent:
                rows.append([*first, plan.absent[key], "", "", "", ""])
                continue
            limit = rate.get(key._replace(codec="none", name=LIMIT))
            ratio = f"{rate[key] / limit:.3f}" if limit else ""
            figures = [f"{rate[key]:,.0f}", f"{rate[key] * nbytes / 1e6:,.0f}", ratio, judged(key, rate)]
            rows.append([*first, *figures, spread(seconds[key])])
        columns = ["what", "codec", "threads", "samples/s", "MB/s", "rate / limit", "target", "rounds / median"]
        print_table(f"{pattern}, page cache {state}: {title}", columns, rows)
    for state, pattern in product(("warm", "cold"), PATTERNS):
        ahead = []
        for key in rate:
            if key[:2] == (state, pattern) and key.name not in (LIMIT, OURS, DECODER):
                base = rate.get(key._replace(name=OURS))
                ahead += [(rate[key] / base, key)] if base else []
        faster = [f"{k.name} ({k.codec}, {k.threads}) {r:.2f}" for r, k in sorted(ahead, reverse=True) if r > 1]
        outcome = f"MISSED, times ours: {'; '.join(faster)}" if faster else "met"
        print(f"{pattern}, {state}: ahead of every peer, {len(ahead)} comparisons: {outcome}")
    print()


def _place(key: Key) -> tuple[bool, bool, int, int, str]:
    """Limit, ours and codec alone first; then peers, by codec."""
    reference = [LIMIT, OURS, DECODER]
    codec = [*CODECS].index(key.codec) if key.codec else len(CODECS)
    return key.name not in reference, key.name != LIMIT, codec, key.threads, key.name


def report_rest(plan: Plan, seconds: dict[Key | str, list[float]], targets: dict[str, float]) -> None:
    rows = []
    for name, each in medians(seconds).items():
        if isinstance(name, Key):
            continue
        samples = plan.samples[name]
        shown = f"{samples / each:,.0f} samples/s" if samples else f"{each * 1e3:.1f} ms"
        target = verdict(each, targets[name], at_least=False) + " (s)" if name in targets else ""
        rows.append([name, shown, target, spread(seconds[name])])
    print_table("loader and opening", ["what", "figure", "target", "rounds / median"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--raw", type=Path, help="folder of records, in place of synthetic ones")
    parser.add_argument("--split", default="train", help="split of --raw")
    options = parser.parse_args()
    with (
        workplace(options.samples, options.raw, options.split) as (folder, raw),
        ThreadPoolExecutor(2) as pool,
    ):
        prepare(folder, raw, options.split)
        few = len(mapped(folder))
        order = np.random.default_rng(0).permutation(few).tolist()
        plan = Plan()
        targets: dict[str, float] = {}
        plan_readers(plan, folder, order, pool)
        plan_cold_readers(plan, folder, order, pool)
        plan_loaders(plan, folder, order)
        items = open_labelled([open_store(folder / "none")])
        for threads in (1, 2):
            name = f"trainer, batches of {BATCH}: {threads} thread{'s' * (threads > 1)}"
            plan.add(name, partial(trainer_pass, items, threads), 8 * len(items))
        plan.add(f"open_store of {few:,} samples", partial(open_store, folder / "none"))
        warm, cold = (sealed(folder / part, MANY, folder / f"many-{i}") for i, part in enumerate(("none", "cold/none")))
        for state, store in (("warm", warm), ("cold", cold)):
            for what, run, target in (
                ("open_store", partial(open_store, store), 0.5),
                ("start: open_training_data to the first batch", partial(first_batch, store, few), 1.0),
            ):
                name = f"{what}, {MANY:,} samples, {state}"
                targets[name] = target
                plan.add(name, run)
                if state == "cold":
                    plan.before[name] = partial(drop_cached, store)
        seconds = interleaved(plan.runs, options.rounds, least=0.1, before=plan.before)
        shares = [sum(p.stat().st_size for p in (folder / codec / "image").glob("c.*")) for codec in CODECS]
        stored = ", ".join(f"{c} {n / mapped(folder).nbytes:.2f}" for c, n in zip(CODECS, shares, strict=True))
    title = f"{few} samples, medians of {options.rounds} shuffled rounds; stored bytes of image: {stored}"
    report_readers(plan, seconds, title)
    report_rest(plan, seconds, targets)


if __name__ == "__main__":
    try:
        main()
    except ContrailError as error:
        raise SystemExit(f"error: {error}") from None
