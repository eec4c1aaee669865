"""Progress of long work on stderr: a bar with rate and remaining time on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

_LOG_EVERY_S = 10.0


class Advance(Protocol):
    """Reports that some items are finished."""

    def __call__(self, n: int = 1, note: str = "") -> None:
        """Count items and show the progress.

        Args:
            n: Items finished since the last call.
            note: Text to show behind the progress.
        """


@contextmanager
def progress(what: str, total: int, done: int = 0, *, unit: str = "samples", scale: int = 1) -> Iterator[Advance]:
    """Show the progress of a block.

    Args:
        what: What is being done, in a word.
        total: Number of items.
        done: Items that an earlier run had finished, which do not count in the rate.
        unit: What is counted, in the plural.
        scale: Items per unit, such as 2**20 for bytes shown in MiB.

    Yields:
        The function to call as items are finished.
    """
    if not sys.stderr.isatty():
        yield _Log(what, total, done, unit, scale)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    texts = [
        TextColumn(f"{{task.{name}}}") for name in ("description", "fields[count]", "fields[rate]", "fields[note]")
    ]
    columns = (texts[0], BarColumn(), texts[1], texts[2], TimeRemainingColumn(), texts[3])
    with Progress(*columns, console=Console(stderr=True)) as display:
        task = display.add_task(what, total=total, completed=done, count="", rate="", note="")
        yield _Bar(what, total, done, unit, scale, display, task)


@dataclass
class _Log:
    what: str
    total: int
    done: int
    unit: str
    scale: int
    start: float = field(default_factory=time.monotonic, init=False)

    def __post_init__(self) -> None:
        self.count, self.last = self.done, self.start

    def __call__(self, n: int = 1, note: str = "") -> None:
        self.count += n
        finished = n > 0 and self.count >= self.total
        if finished or time.monotonic() - self.last >= _LOG_EVERY_S:
            self.last = time.monotonic()
            rate = self.items_per_second
            left = f", {(self.total - self.count) / rate:.0f} s left" if rate and not finished else ""
            print(f"{self.what}: {self.counts}, {self.rate}{left} {note}".rstrip(), file=sys.stderr, flush=True)

    @property
    def items_per_second(self) -> float:
        return (self.count - self.done) / max(time.monotonic() - self.start, 1e-9)

    @property
    def counts(self) -> str:
        return f"{self.count // self.scale}/{-(-self.total // self.scale)} {self.unit}"

    @property
    def rate(self) -> str:
        rate = self.items_per_second / self.scale
        if not rate or rate >= 1:
            return f"{rate:.1f} {self.unit}/s"
        return f"{1 / rate:.1f} s per {self.unit.removesuffix('s')}"


@dataclass
class _Bar(_Log):
    display: Any
    task: Any

    def __call__(self, n: int = 1, note: str = "") -> None:
        self.count += n
        self.display.update(self.task, advance=n, count=self.counts, rate=self.rate, note=note)
