"""Where samples come from: a source lists its records once and then reads one sample at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import xarray as xr

from contrail_data.composites import Composite
from contrail_data.errors import ContrailError
from contrail_data.sample import check_record_id


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


def open_source(root: Path, split: str, composite: Composite, kind: str = "auto") -> Source:
    """Scan `root` as OpenContrails records (it holds folders `train`, `validation`, `test`) or as ash frames
    (it holds `*.npy`).

    Raises ContrailError when it is neither or the split is absent.
    """
    from contrail_data.sources import frames, records

    check_record_id(split)
    if not root.is_dir():
        raise ContrailError(f"{root}: no such folder: give the folder that holds the records")
    if kind == "auto":
        kind = "frames" if any(root.glob("*.npy")) and not (root / split).is_dir() else "records"
    scan = frames.scan if kind == "frames" else records.scan
    return scan(root, split, composite)


def is_abi(where: str) -> bool:
    """Whether this names scans of a satellite: an archive, a glob, or a folder with ABI files."""
    if "://" in where or where.startswith("goes") or any(c in where for c in "*?[") or where.endswith(".nc"):
        return not Path(where).is_dir() or _holds_abi(Path(where))
    return Path(where).is_dir() and _holds_abi(Path(where))


def _holds_abi(folder: Path) -> bool:
    return next(folder.rglob("OR_ABI-*.nc"), None) is not None


def missing(paths: Sequence[Path]) -> list[str]:
    """Names of those that do not exist."""
    return [p.name for p in paths if not p.is_file()]
