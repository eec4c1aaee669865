"""MISSING DOCSTRING."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import xarray as xr


@dataclass(frozen=True)
class Source:
    """A scanned folder, or samples of stores."""

    kind: str
    root: str
    """The folder or store, for messages."""
    where: str
    """The same, absolute, for provenance."""
    split: str
    record_ids: list[str]
    frames: int
    read: Callable[..., xr.Dataset]
    """`read(record_id, entry, empty)` gives a Sample or raises BadRecord; it can be called from many threads and in
    other processes. Pixels go into `empty(shape, dtype)`, so that a caller who is done with one sample can have the
    next one in its memory."""
    files: Callable[[str], list[Path]]
    """The files a record is read from, so that a resumed build notices when one has changed."""
    entries: Mapping[str, Any] = field(default_factory=dict)
    """What the scan knows of a record, for `read`."""
    problems: list[str] = field(default_factory=list)
    """One line each: what the scan itself had to set aside."""
    note: str = ""
    """What a reader of the build's output should know, said once."""
    reads: list[str] = field(default_factory=list)
    """Stores that samples are taken from."""
    parents: list[str] = field(default_factory=list)
    """Their digests."""
    gaps: bool = False
    """Pixels, or whole frames, may be missing: samples may have `valid`."""
    choices: list[Any] = field(default_factory=list)
    """What else decides the samples, for a resumed build to know."""
    adopt: Callable[..., Iterable[Any]] | None = None
    """`adopt(layouts, done)` puts whole shards of a parent in place, those not done yet, and yields them."""

    def read_sample(self, record_id: str, empty: Callable[..., Any]) -> xr.Dataset:
        return self.read(record_id, self.entries.get(record_id, {}), empty)

    def part(self, record_ids: Sequence[str]) -> Source:
        """The same source with a few of its records: small enough to be sent to another process with each task."""
        entries = {record_id: self.entries[record_id] for record_id in record_ids if record_id in self.entries}
        return replace(self, record_ids=list(record_ids), entries=entries, problems=[], adopt=None)


def missing(paths: Sequence[Path]) -> list[str]:
    """Names of those that do not exist."""
    return [p.name for p in paths if not p.is_file()]
