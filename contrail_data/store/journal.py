"""What an unfinished store remembers: a journal inside it, a lock, and the plan it was begun with.

An entry tells of one finished shard: checksum and size of every file written for it, and a row for each of its
samples. It is written after the files that it names and when those are durable, so that what it says is true however
the process, or the machine, ended.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from contrail_data import __version__
from contrail_data.errors import ContrailError
from contrail_data.storage.files import store_around
from contrail_data.storage.place import STAGING, Place
from contrail_data.store.manifest import read_provenance
from contrail_data.store.schema import FORMAT, FORMAT_VERSION
from contrail_data.store.shards import Layout

Row = dict[str, Any]
"""Of one record: `index`, and what was made of it: `checksums` of its chunks by array, values, or an error."""
Files = dict[str, tuple[str, int]]
"""(xxh3 checksum, bytes) of a shard's file by array."""


class Busy(ContrailError):
    """Another process is at work in the place."""


class Shard(NamedTuple):
    """A finished shard: its number, its files and a row for each of its records."""

    number: int
    files: Files
    rows: list[Row]


PLAN, LOCK = f"{STAGING}/plan", f"{STAGING}/lock"
_BEAT_S, _STALE_S = 15.0, 90.0


def plan_of(facts: Sequence[Any]) -> str:
    """Names what is to be built, so that an interrupted build is only ever finished as itself."""
    return hashlib.sha256(json.dumps([__version__, FORMAT_VERSION, *facts]).encode()).hexdigest()


def finished_store(place: Place, plan: str) -> dict[str, Any] | None:
    """Provenance of the sealed store in a place, None where there is none.

    Raises ContrailError when it holds a store of another plan.
    """
    if place.size("zarr.json") is None:
        return None
    provenance = read_provenance(place)
    if provenance.get("plan") != plan:
        raise ContrailError(f"{place}: holds another store already: choose another -o, or add --overwrite")
    forget(place)
    return provenance


def remove_store(place: Place) -> None:
    """Delete a store or an unfinished build, and nothing else; where there is nothing, nothing.

    Raises ContrailError for any other folder.
    """
    if not place.remote and not place.path.exists():
        return
    sealed = place.size("zarr.json") is not None
    begun = place.size(PLAN) is not None
    try:
        ours = begun if not sealed else json.loads(place.read("zarr.json"))["attributes"]["format"] == FORMAT
    except (ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        if not place.sizes():
            return
        raise ContrailError(f"{place}: is no contrail store, and --overwrite removes nothing else: choose another -o")
    with _locked(place):
        place.remove(["zarr.json"])  # from here on it is no store, whatever happens
        if place.remote:
            place.remove([*place.sizes(), *(f"{STAGING}/{key}" for key in place.within(STAGING).sizes())])
        else:
            shutil.rmtree(place.path)


@contextmanager
def building(place: Place, plan: str) -> Iterator[None]:
    """The one build under way in a place; its journal is gone once the block ends without an error.

    Raises ContrailError when the place is not one for a store, is being built by another process, or holds an
    unfinished build of another plan.
    """
    if not place.remote:
        out = place.path.resolve()
        if around := store_around(out):
            raise ContrailError(f"{place}: lies inside the store {around}: choose another -o")
        begun = not out.exists() or (out / STAGING).is_dir() or (out.is_dir() and not any(out.iterdir()))
    else:
        begun = place.size(PLAN) is not None or not place.sizes()
    if not begun and place.size("zarr.json") is None:
        raise ContrailError(f"{place}: exists and is no store: choose another -o")
    with _locked(place):
        if place.size("zarr.json") is not None:  # since the caller looked
            forget(place)
            raise Busy(f"{place}: has just been finished by another process: repeat the command")
        if place.size(PLAN) is not None and place.read(PLAN).decode(errors="replace") != plan and _entries(place):
            raise ContrailError(f"{place}: an unfinished build of other input: repeat its command, or add --overwrite")
        place.write(PLAN, [plan.encode()])
        if not place.remote:
            for leftover in (place.path / STAGING).glob("*.partial"):
                leftover.unlink(missing_ok=True)
        yield
        forget(place)


def forget(place: Place) -> None:
    """Remove what writing left beside the files of a finished store."""
    if place.remote:
        place.remove([f"{STAGING}/{key}" for key in place.within(STAGING).sizes()])
    else:
        shutil.rmtree(place.path / STAGING, ignore_errors=True)


def _locked(place: Place) -> Any:
    return _locked_by_lease(place) if place.remote else _locked_by_kernel(place)


def _who() -> str:
    return f"{socket.gethostname()}, process {os.getpid()}"


@contextmanager
def _locked_by_kernel(place: Place) -> Iterator[None]:
    """The kernel drops the lock with the process, however it ends: there are no stale ones."""
    for attempt in itertools.count():
        try:
            (place.path / STAGING).mkdir(parents=True, exist_ok=True)
            lock = (place.path / LOCK).open("a+")
        except OSError as error:
            if isinstance(error, FileNotFoundError) and attempt < 100:
                continue  # the owner has just finished and tidied up
            raise ContrailError(f"{place}: cannot be created ({error.strerror}): choose another -o") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            owner = lock.read() or "another process"
            lock.close()
            raise Busy(f"{place}: is being built by {owner}: wait for it, or stop it") from None
        if os.fstat(lock.fileno()).st_nlink:
            break
        lock.close()  # of a build that ended meanwhile: no lock any more
    with lock:
        lock.truncate(0)
        lock.write(_who())
        lock.flush()
        yield


@contextmanager
def _locked_by_lease(place: Place) -> Iterator[None]:
    """A lock file that its owner writes anew every 15 s: one that is 90 s old belongs to nobody any more."""
    if not place.create(LOCK, _who().encode()):
        owner = place.read(LOCK).decode(errors="replace")
        if place.age(LOCK, time.time()) < _STALE_S and not _ended_here(owner):
            raise Busy(f"{place}: is being built by {owner}: wait for it, or stop it")
        place.remove([LOCK])
        if not place.create(LOCK, _who().encode()):
            raise Busy(f"{place}: is being built by another process: wait for it, or stop it")
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(_BEAT_S):
            with suppress(ContrailError):  # the next beat may get through; the work itself tells what is wrong
                place.write(LOCK, [_who().encode()])

    keeper = threading.Thread(target=beat, daemon=True)
    keeper.start()
    try:
        yield
    finally:
        ended.set()
        keeper.join()
        place.remove([LOCK])


def _ended_here(owner: str) -> bool:
    """Whether the owner was a process of this machine that is no more."""
    host, _, process = owner.partition(", process ")
    if host != socket.gethostname() or not process.isdigit():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _entry(file: int) -> str:
    return f"{STAGING}/{file:08d}.json"


def _entries(place: Place) -> list[str]:
    return [key for key in place.within(STAGING).sizes() if key.endswith(".json")]


def write_entry(place: Place, shard: Shard) -> None:
    """Tell that a shard is finished."""
    place.write(_entry(shard.number), [json.dumps({"files": shard.files, "rows": shard.rows}).encode()])


def drop_entries(place: Place, files: Sequence[int]) -> None:
    """Forget shards: before one is overwritten or removed, so that no entry ever tells of other bytes."""
    place.remove([_entry(file) for file in files])


def read_entries(place: Place, layouts: Mapping[str, Layout]) -> Iterator[Shard]:
    """The finished shards whose files are there in full."""
    there = place.sizes()
    for name in _entries(place):
        entry = json.loads(place.read(f"{STAGING}/{name}"))
        number = int(name.removesuffix(".json"))
        files: Files = {array: (str(c), int(size)) for array, (c, size) in entry["files"].items()}
        if all(there.get(layouts[array].key(number)) == size for array, (_, size) in files.items()):
            yield Shard(number, files, entry["rows"])
