"""What the benchmarks share: interleaved repeats and their medians, records to work on."""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from contrail_data.sources.synthetic import write_records


def medians(variants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each variant: in every round each runs once, in a new order, after one round unmeasured."""
    order, seconds = list(variants), {name: [0.0] * rounds for name in variants}
    for run in variants.values():
        run()
    chance = random.Random(0)
    for r in range(rounds):
        chance.shuffle(order)
        for name in order:
            start = time.perf_counter()
            variants[name]()
            seconds[name][r] = time.perf_counter() - start
    return {name: statistics.median(values) for name, values in seconds.items()}


@contextmanager
def workplace(records: int) -> Iterator[Path]:
    """A temporary folder with synthetic train records under `raw`; gone at the end."""
    with tempfile.TemporaryDirectory(prefix="contrail-benchmark-") as name:
        folder = Path(name)
        write_records(folder / "raw", records, validation_fraction=0.0)
        yield folder


def verdict(value: float, target: float, at_least: bool) -> str:
    met = value >= target if at_least else value <= target
    return f"{'>=' if at_least else '<='} {target:.2f}: {'met' if met else 'missed'}"
