"""Progress of long work on stderr: a bar with rate and remaining time on a terminal, plain lines in a log."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from contrail_data.messages import Kind, LogFormat, log_format, print_message

_LOG_EVERY_S = 10.0


@dataclass
class Advance:
    """Reports that some items are finished; its first fields are the arguments of `progress`."""

    what: str
    total: int
    done: int
    unit: str
    scale: int
    bar: Any = None
    """The `rich.progress.Progress` of a terminal, with one task."""
    start: float = field(default_factory=time.monotonic, init=False)

    def __post_init__(self) -> None:
        self.count, self.last = self.done, self.start

    def __call__(self, n: int = 1, note: str = "") -> None:
        """Count items and show the progress.

        Args:
            n: Items finished since the last call.
            note: Text to show behind the progress.
        """
        self.count += n
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], advance=n, count=self.counts, rate=self.rate, note=note)
            return
        finished = n > 0 and self.count >= self.total
        if finished or time.monotonic() - self.last >= _LOG_EVERY_S:
            self.last = time.monotonic()
            rate = self.items_per_second
            left = f", {duration((self.total - self.count) / rate)} left" if rate and not finished else ""
            print_message(
                Kind.PROGRESS,
                f"{self.what}: {self.counts}, {self.rate}{left} {note}".rstrip(),
                what=self.what,
                done=self.count // self.scale,
                total=-(-self.total // self.scale),
                unit=self.unit,
                per_second=round(rate / self.scale, 4),
            )

    @property
    def items_per_second(self) -> float:
        """Items finished per second since the start."""
        return (self.count - self.done) / max(time.monotonic() - self.start, 1e-9)

    @property
    def counts(self) -> str:
        """Finished units of all units, as text."""
        return f"{self.count // self.scale}/{-(-self.total // self.scale)} {self.unit}"

    @property
    def rate(self) -> str:
        """Units per second, or seconds per unit, as text."""
        return pace(self.items_per_second / self.scale, self.unit)


def pace(per_second: float, unit: str) -> str:
    """Write a rate.

    Args:
        per_second: Units per second.
        unit: What is counted, in the plural.

    Returns:
        Units per second, or seconds per unit if it is less than one.
    """
    if not per_second or per_second >= 1:
        return f"{per_second:.1f} {unit}/s"
    return f"{1 / per_second:.1f} s per {unit.removesuffix('s')}"


def duration(seconds: float) -> str:
    """Write a duration.

    Args:
        seconds: The duration.

    Returns:
        Hours, minutes and seconds, such as 0:02:13.
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


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
    advance = Advance(what, total, done, unit, scale)
    if log_format() is LogFormat.JSON or not sys.stderr.isatty():
        yield advance
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TimeRemainingColumn

    count, rate, note = "{task.fields[count]}", "{task.fields[rate]}", "{task.fields[note]}"
    columns = ("{task.description}", BarColumn(), count, rate, TimeRemainingColumn(), note)
    with Progress(*columns, console=Console(stderr=True)) as advance.bar:
        advance.bar.add_task(what, total=total, completed=done, count="", rate="", note="")
        yield advance
