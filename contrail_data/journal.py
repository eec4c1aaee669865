"""What an unfinished store remembers: a journal inside it, a lock, and the plan it was begun with.

A row tells of one finished sample: its place, the checksum and size of every chunk written for it, its values.
Rows are written after the chunks they name, several to a file, so that what a row says is true however the
process ended.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from contrail_data import __version__
from contrail_data.errors import ContrailError
from contrail_data.shards import Layout, write_atomically
from contrail_data.store import BUILDING, FORMAT, PROVENANCE

Row = dict[str, Any]


def plan_of(facts: Sequence[Any]) -> str:
    """Names what is to be built, so that an interrupted build is only ever finished as itself."""
    return hashlib.sha256(json.dumps([__version__, *facts]).encode()).hexdigest()


def finished_store(out: Path, plan: str) -> dict[str, Any] | None:
    """Provenance of the sealed store in `out`, None where there is none.

    Raises ContrailError when `out` holds a store of another plan.
    """
    if not (out / "zarr.json").exists():
        return None
    try:
        provenance: dict[str, Any] = json.loads((out / PROVENANCE).read_bytes())
    except (OSError, ValueError):
        provenance = {}
    if not isinstance(provenance, dict) or provenance.get("plan") != plan:
        raise ContrailError(f"{out}: holds another store already: choose another -o, or add --overwrite")
    shutil.rmtree(out / BUILDING, ignore_errors=True)
    return provenance


def remove_store(out: Path) -> None:
    """Delete a store or an unfinished build, and nothing else. Raises ContrailError for any other folder."""
    out = out.resolve()  # through a link, the store itself
    try:
        ours = json.loads((out / "zarr.json").read_bytes())["attributes"]["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError):
        ours = (out / BUILDING / "plan").exists() and not (out / "zarr.json").exists()
    if not ours:
        raise ContrailError(f"{out}: is no contrail store, and --overwrite removes nothing else: choose another -o")
    with _locked(out):
        (out / "zarr.json").unlink(missing_ok=True)  # from here on it is no store, whatever happens
        shutil.rmtree(out)


@contextmanager
def building(out: Path, plan: str) -> Iterator[Path]:
    """The journal folder of the one build under way in `out`; gone once the block ends without an error.

    Raises ContrailError when `out` is no folder for a store, is being built by another process, or holds an
    unfinished build of another plan.
    """
    journal = out / BUILDING
    if around := next((p for p in out.resolve().parents if (p / "zarr.json").exists()), None):
        raise ContrailError(f"{out}: lies inside the store {around}: choose another -o")
    if out.exists() and not journal.is_dir() and (not out.is_dir() or any(out.iterdir())):
        raise ContrailError(f"{out}: exists and is no store: choose another -o")
    with _locked(out):
        begun = journal / "plan"
        if begun.exists() and begun.read_text() != plan and any(journal.glob("*.json")):
            raise ContrailError(f"{out}: an unfinished build of other input: repeat its command, or add --overwrite")
        write_atomically(begun, [plan.encode()])
        for leftover in out.rglob(".*.partial"):
            leftover.unlink()
        yield journal
        shutil.rmtree(journal)


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """The kernel drops the lock with the process, however it ends: there are no stale ones."""
    try:
        (out / BUILDING).mkdir(parents=True, exist_ok=True)
        lock = (out / BUILDING / "lock").open("a+")
    except OSError as error:
        raise ContrailError(f"{out}: cannot be created ({error.strerror}): choose another -o") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise ContrailError(f"{out}: is being built by {lock.read() or 'another process'}: wait for it") from None
        lock.truncate(0)
        lock.write(f"{socket.gethostname()}, process {os.getpid()}")
        lock.flush()
        yield


def write_rows(journal: Path, rows: Sequence[Row]) -> None:
    write_atomically(journal / f"{rows[0]['index']:08d}.json", [json.dumps(rows).encode()])


def read_rows(journal: Path, layouts: Mapping[str, Layout]) -> Iterator[Row]:
    """Rows whose chunks are all there in full."""
    for path in sorted(journal.glob("*.json")):
        for row in json.loads(path.read_bytes()):
            if "chunks" in row and all(
                _has_size(layouts[name].path(row["index"]), size) for name, (_, size) in row["chunks"].items()
            ):
                yield row


def _has_size(path: str, size: int) -> bool:
    try:
        return os.stat(path).st_size == size
    except OSError:
        return False
