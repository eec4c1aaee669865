"""What the benchmarks share: their options, interleaved repeats and medians, targets, and records to work on."""

from __future__ import annotations

import argparse
import ctypes
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np

from contrail_data.errors import ContrailError
from contrail_data.process import WAIT_POLICY, share_cores

Run = Callable[[], object]
Name = TypeVar("Name", bound=Hashable)
clock = time.perf_counter
"""Measures seconds; `step.py --cpu-time` replaces it."""


def make_parser(description: str | None, tables: Sequence[str], rounds: int | None = None) -> argparse.ArgumentParser:
    """Create a parser with the options that all benchmarks have.

    Args:
        description: Text of `--help`: the docstring of the benchmark.
        tables: Names for `--only`.
        rounds: Default of `--rounds`; None for a benchmark without rounds.

    Returns:
        A parser, to which a benchmark adds its own options.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only",
        action="append",
        choices=tables,
        metavar="TABLE",
        help=f"print only this table; can be given several times: {', '.join(tables)}",
    )
    if rounds is not None:
        parser.add_argument("--rounds", type=int, default=rounds, help=f"rounds of measurements (default {rounds})")
        parser.add_argument(
            "--shortest", type=float, default=0.1, help="seconds to repeat a quick variant for in each round (0.1)"
        )
    return parser


def add_record_options(parser: argparse.ArgumentParser, samples: int) -> None:
    """Add the options of benchmarks that read records.

    Args:
        parser: The parser of the benchmark.
        samples: Default number of records.
    """
    parser.add_argument("--samples", type=int, default=samples, help=f"number of records (default {samples})")
    parser.add_argument("--raw", type=Path, help="folder of records to use instead of synthetic ones")
    parser.add_argument("--split", default="train", help="split of --raw")


def run_main(main: Callable[[], None], *, shares_cores: bool = False) -> None:
    """Run a benchmark as a program: an error that it expects ends in one line.

    Args:
        main: The benchmark.
        shares_cores: Whether its threads sleep while they wait, as those of commands that predict.

    Raises:
        SystemExit: With the message, if the benchmark raises ContrailError.
    """
    if shares_cores and WAIT_POLICY not in os.environ:  # it comes too late for torch, which has been imported
        share_cores()
        os.execv(sys.executable, sys.orig_argv)
    try:
        main()
    except ContrailError as error:
        raise SystemExit(f"error: {error}") from None


def measure(
    variants: Mapping[Name, Run],
    rounds: int,
    *,
    shortest: float = 0.0,
    before: Mapping[Name, Run] | None = None,
    after: Run | None = None,
) -> dict[Name, list[float]]:
    """Measure variants in turn: in every round each of them runs once, in a new order.

    An unmeasured round precedes the others.

    Args:
        variants: What to measure.
        rounds: Number of rounds.
        shortest: A variant that is quicker than this is called several times in a round, in seconds, so that neither
            the clock nor a single interruption decides.
        before: Called before every call of a variant, outside the measurement.
        after: Called after every call, outside the measurement.

    Returns:
        Seconds per call of each variant, by round.
    """
    prepare = before or {}
    calls = {}
    for name, run in variants.items():
        for _ in range(2 if shortest else 1):  # the first call also imports and fills caches
            seconds = _seconds(run, prepare.get(name), after)
        calls[name] = max(1, round(shortest / seconds))
    order, results = list(variants), {name: [0.0] * rounds for name in variants}
    shuffler = random.Random(0)
    for r in range(rounds):
        shuffler.shuffle(order)
        for name in order:
            each = [_seconds(variants[name], prepare.get(name), after) for _ in range(calls[name])]
            results[name][r] = sum(each) / calls[name]
    return results


def _seconds(run: Run, before: Run | None, after: Run | None) -> float:
    if before is not None:
        before()
    start = clock()
    run()
    seconds = clock() - start
    if after is not None:
        after()
    return seconds


def medians(seconds: Mapping[Name, list[float]]) -> dict[Name, float]:
    """Take the median over the rounds of each variant."""
    return {name: statistics.median(values) for name, values in seconds.items()}


def spread(seconds: list[float]) -> str:
    """Say how far the rounds lie apart, as multiples of their median: how noisy the machine was."""
    middle = statistics.median(seconds)
    return f"{min(seconds) / middle:.2f} to {max(seconds) / middle:.2f}"


def verdict(value: float, target: float, *, at_least: bool) -> str:
    """Say whether a value meets its target."""
    met = value >= target if at_least else value <= target
    return f"{'>=' if at_least else '<='} {target:.2f} {'met' if met else 'MISSED'}"


def drop_cached(folder: Path) -> None:
    """Ask the kernel to drop the contents of a folder's files from the page cache.

    Pages that some process has mapped stay.
    """
    for path in _files(folder):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)  # the kernel keeps what is not on disk yet
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def cached_share(folder: Path) -> float:
    """Return the share of a folder's pages that the page cache holds."""
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
def record_folder(samples: int, raw: Path | None = None, split: str = "train") -> Iterator[tuple[Path, Path]]:
    """Provide records in a temporary folder.

    Args:
        samples: Number of records.
        raw: Folder of records to take the first ones from; None for synthetic ones.
        split: Split of `raw`.

    Yields:
        The temporary folder, which is removed at the end, and the root of the records in it.

    Raises:
        ContrailError: If `raw` has no records of this split.
    """
    from contrail_data.synthetic.records import write_records

    with tempfile.TemporaryDirectory(prefix="contrail-benchmark-") as name:
        folder = Path(name)
        root = folder / "raw"
        if raw is None:
            write_records(root, samples, validation_fraction=0.0, scenery="faint")
        else:
            records = sorted(p for p in (raw / split).iterdir() if p.is_dir()) if (raw / split).is_dir() else []
            if not records:
                raise ContrailError(f"{raw / split}: holds no records; check --raw and --split")
            (root / split).mkdir(parents=True)
            for record in records[:samples]:
                (root / split / record.name).symlink_to(record.resolve())
            metadata = raw / f"{split}_metadata.json"
            if metadata.exists():
                (root / metadata.name).symlink_to(metadata.resolve())
        yield folder, root
