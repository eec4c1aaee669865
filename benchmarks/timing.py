"""What the benchmarks share: interleaved repeats and their medians, records to work on, how a target is judged."""

from __future__ import annotations

import ctypes
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np

from contrail_data.errors import ContrailError
from contrail_data.synthetic.records import write_records

Run = Callable[[], object]
Name = TypeVar("Name", bound=Hashable)


def interleaved(
    variants: Mapping[Name, Run],
    rounds: int,
    *,
    least: float = 0.0,
    before: Mapping[Name, Run] | None = None,
    after: Run | None = None,
) -> dict[Name, list[float]]:
    """Seconds a call of each variant, by round. In every round each runs in turn, in a new order.

    A round before them goes unmeasured. A variant quicker than `least` seconds is called several times in a
    round, so that the clock and a single interruption do not decide. Its own `before` precedes and `after` follows
    every call, off the clock.
    """
    prepare = before or {}
    calls = {}
    for name, run in variants.items():
        for _ in range(2):  # the first call also imports and fills caches
            seconds = _seconds(run, prepare.get(name), after)
        calls[name] = max(1, round(least / seconds))
    order, found = list(variants), {name: [0.0] * rounds for name in variants}
    chance = random.Random(0)
    for r in range(rounds):
        chance.shuffle(order)
        for name in order:
            each = [_seconds(variants[name], prepare.get(name), after) for _ in range(calls[name])]
            found[name][r] = sum(each) / calls[name]
    return found


def _seconds(run: Run, before: Run | None, after: Run | None) -> float:
    if before is not None:
        before()
    start = time.perf_counter()
    run()
    seconds = time.perf_counter() - start
    if after is not None:
        after()
    return seconds


def medians(seconds: Mapping[Name, list[float]]) -> dict[Name, float]:
    return {name: statistics.median(values) for name, values in seconds.items()}


def spread(seconds: list[float]) -> str:
    """How far the rounds lay apart, as multiples of their median: how noisy the machine was."""
    middle = statistics.median(seconds)
    return f"{min(seconds) / middle:.2f} to {max(seconds) / middle:.2f}"


def verdict(value: float, target: float, *, at_least: bool) -> str:
    met = value >= target if at_least else value <= target
    return f"{'>=' if at_least else '<='} {target:.2f} {'met' if met else 'MISSED'}"


def drop_cached(folder: Path) -> None:
    """Ask the kernel to forget the contents of a folder's files; pages that some process has mapped stay."""
    for path in _files(folder):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)  # what is not on disk yet cannot be forgotten
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def cached(folder: Path) -> float:
    """The share of a folder's pages that the page cache holds."""
    held = pages = 0
    for path in _files(folder):
        content = np.memmap(path, np.uint8, "r")
        count = -(-content.nbytes // os.sysconf("SC_PAGE_SIZE"))
        state = np.zeros(count, np.uint8)
        address, length = ctypes.c_void_p(content.ctypes.data), ctypes.c_size_t(content.nbytes)
        if ctypes.CDLL(None).mincore(address, length, ctypes.c_void_p(state.ctypes.data)) != 0:
            return 1.0
        held, pages = held + int((state & 1).sum()), pages + count
    return held / pages


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]


@contextmanager
def workplace(samples: int, raw: Path | None, split: str) -> Iterator[tuple[Path, Path]]:
    """(temporary folder, root of records): synthetic train records, or the first ones of `raw`. Gone at the end."""
    with tempfile.TemporaryDirectory(prefix="contrail-benchmark-") as name:
        folder = Path(name)
        root = folder / "raw"
        if raw is None:
            write_records(root, samples, validation_fraction=0.0)
        else:
            records = sorted(p for p in (raw / split).iterdir() if p.is_dir()) if (raw / split).is_dir() else []
            if not records:
                raise ContrailError(f"{raw / split}: holds no records: check --raw and --split")
            (root / split).mkdir(parents=True)
            for record in records[:samples]:
                (root / split / record.name).symlink_to(record.resolve())
            metadata = raw / f"{split}_metadata.json"
            if metadata.exists():
                (root / metadata.name).symlink_to(metadata.resolve())
        yield folder, root
