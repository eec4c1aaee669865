"""Progress of long work: a rich bar with rate and ETA on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LOG_EVERY_S = 10.0


@contextmanager
def progress(what: str, total: int, done: int = 0, unit: str = "samples") -> Iterator[Callable[..., None]]:
    """Yields `advance(n, note="")`. `done` is what an earlier run had finished; it does not count in the rate."""
    with (_bar if sys.stderr.isatty() else _log)(what, total, done, unit) as advance:
        yield advance


@contextmanager
def _log(what: str, total: int, done: int, unit: str) -> Iterator[Callable[..., None]]:
    start = last = time.monotonic()
    count = done

    def line(note: str) -> None:
        rate = (count - done) / max(time.monotonic() - start, 1e-9)
        left = f", {(total - count) / rate:.0f} s left" if rate and count < total else ""
        print(f"{what}: {count}/{total} {unit}, {rate:.1f}/s{left} {note}".rstrip(), file=sys.stderr, flush=True)

    def advance(n: int = 1, note: str = "") -> None:
        nonlocal count, last
        count += n
        finished = n > 0 and count >= total
        if finished or time.monotonic() - last >= _LOG_EVERY_S:
            last = time.monotonic()
            line(note)

    yield advance


@contextmanager
def _bar(what: str, total: int, done: int, unit: str) -> Iterator[Callable[..., None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    start = time.monotonic()
    count = done
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total, completed=done, rate="", note="")

        def advance(n: int = 1, note: str = "") -> None:
            nonlocal count
            count += n
            rate = (count - done) / max(time.monotonic() - start, 1e-9)
            bar.update(task, advance=n, rate=f"{rate:.1f} {unit}/s", note=note)

        yield advance
