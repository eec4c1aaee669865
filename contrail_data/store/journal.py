"""Makes the writing of a store resumable: a journal, a lock and a plan, all in the staging folder of the place.

The plan identifies what is being built, the lock keeps a second process out, and the journal has an entry for each
finished shard: the checksum of every file written for it, and a row for each of its samples. An entry is written after
the files that it names are durable, so that it is true however the process, or the machine, ended.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, NotRequired, TypedDict, TypeVar

from contrail_data import __version__
from contrail_data.errors import ContrailError
from contrail_data.storage.files import remove_partial_files, store_around
from contrail_data.storage.lock import Busy, locked
from contrail_data.storage.place import STAGING, Place
from contrail_data.store.manifest import FileChecksum, Provenance, read_attributes, read_provenance
from contrail_data.store.schema import FORMAT, FORMAT_VERSIONS, GROUP, Kind

if TYPE_CHECKING:
    from contrail_data.store.layout import Layout

PLAN = f"{STAGING}/plan"

Files = dict[str, FileChecksum]
"""Checksum of a shard's file by array."""


class Row(TypedDict):
    """What the journal keeps about a sample, as JSON. Builders extend it by what they need for sealing."""

    index: int
    """Position of the sample in the order of the build."""
    checksums: NotRequired[dict[str, list[int]]]
    """64-bit xxh3 of each decoded chunk of the sample, by array. Absent if the sample could not be used."""


R = TypeVar("R", bound=Row)


class Shard(NamedTuple, Generic[R]):
    """A finished shard."""

    number: int
    files: Files
    rows: list[R]


def plan_of(inputs: Sequence[Any], kind: Kind = Kind.SAMPLES) -> str:
    """Identify what is to be built, so that an interrupted build is only ever continued as itself.

    Args:
        inputs: JSON values that determine the store.
        kind: What the store holds.

    Returns:
        A digest of them, and of the versions of this software and of the format.
    """
    return hashlib.sha256(json.dumps([__version__, FORMAT_VERSIONS[kind], *inputs]).encode()).hexdigest()


def finished_store(place: Place, plan: str) -> Provenance | None:
    """Return the provenance of the store that a plan describes, if it is finished already.

    Args:
        place: Where it would lie.
        plan: See `plan_of`.

    Returns:
        The provenance. None if the place holds no sealed store.

    Raises:
        ContrailError: If the place holds the store of another plan.
    """
    if place.size(GROUP) is None:
        return None
    provenance = read_provenance(place)
    if provenance.get("plan") != plan:
        raise ContrailError(f"{place}: holds another store already; choose another -o, or add --overwrite")
    clear_staging(place)
    return provenance


def remove_store(place: Place, kind: Kind) -> None:
    """Delete a store of a kind or an unfinished build, if there is one.

    Args:
        place: Where it lies.
        kind: What the store may hold.

    Raises:
        ContrailError: If the place holds anything else.
    """
    of_others = "logit" if kind is Kind.SAMPLES else "image"
    is_unfinished = place.size(GROUP) is None and place.size(PLAN) is not None
    is_unfinished &= place.size(f"{of_others}/zarr.json") is None
    attributes = read_attributes(place)
    if not is_unfinished and (attributes.get("format") != FORMAT or attributes.get("kind") != kind):
        if not place.sizes():
            return
        raise ContrailError(f"{place}: not a store of {kind}, and --overwrite removes nothing else; choose another -o")
    with locked(place):
        place.remove([GROUP])  # first, so that whatever happens, the rest is not taken for a store
        place.clear()


def check_place(place: Place) -> None:
    """Refuse a place where no store can be built, as it holds something else or lies in a store.

    Args:
        place: Where the store will lie.

    Raises:
        ContrailError: If it is such a place.
    """
    if not place.remote and (store := store_around(place.path)):
        raise ContrailError(f"{place}: lies inside the store {store}; choose another -o")
    is_file = not place.remote and place.path.exists() and not place.path.is_dir()
    # In this order, as another process writes its plan before, and the group after, all other files.
    if (is_file or place.sizes()) and place.size(PLAN) is None and place.size(GROUP) is None:
        raise ContrailError(f"{place}: exists and is not a store; choose another -o")


@contextmanager
def building(place: Place, plan: str) -> Iterator[None]:
    """Hold the lock of a place while its store is built. The journal is removed if the block ends without an error.

    Args:
        place: Where the store will lie.
        plan: See `plan_of`.

    Yields:
        Nothing.

    Raises:
        Busy: If another process is building there, or has just finished.
        ContrailError: If the place holds something else, lies in a store, or holds an unfinished build of another
            plan.
    """
    check_place(place)
    with locked(place):
        if place.size(GROUP) is not None:  # sealed after the caller had looked
            clear_staging(place)
            raise Busy(f"{place}: has just been finished by another process; repeat the command")
        if place.size(PLAN) is not None and place.read(PLAN).decode(errors="replace") != plan and _entry_keys(place):
            raise ContrailError(f"{place}: an unfinished build of other input; repeat its command, or add --overwrite")
        place.write(PLAN, [plan.encode()])
        if not place.remote:
            remove_partial_files(place.path / STAGING)
        yield
        clear_staging(place)


def clear_staging(place: Place) -> None:
    """Remove the staging folder of a finished store.

    Args:
        place: The store.
    """
    place.within(STAGING).clear()


def write_entry(place: Place, shard: Shard[Any]) -> None:
    """Record in the journal that a shard is finished.

    Args:
        place: Where the store is being built.
        shard: The shard, whose files are durable.
    """
    place.write(_entry_key(shard.number), [json.dumps({"files": shard.files, "rows": shard.rows}).encode()])


def drop_entries(place: Place, numbers: Sequence[int]) -> None:
    """Delete journal entries, before their shards are overwritten or removed.

    Args:
        place: Where the store is being built.
        numbers: Numbers of the shards.
    """
    place.remove([_entry_key(number) for number in numbers])


def read_entries(place: Place, layouts: Mapping[str, Layout]) -> Iterator[Shard[Any]]:
    """Read which shards an earlier, interrupted build has finished.

    Args:
        place: Where the store is being built.
        layouts: Layout of each pixel array.

    Yields:
        Each shard whose files exist at full size.
    """
    sizes = place.sizes()
    for key in _entry_keys(place):
        entry = json.loads(place.read(f"{STAGING}/{key}"))
        number = int(key.removesuffix(".json"))
        files = {array: FileChecksum(*checksum) for array, checksum in entry["files"].items()}
        if all(sizes.get(layouts[array].key(number)) == checksum.size for array, checksum in files.items()):
            yield Shard(number, files, entry["rows"])


def _entry_key(number: int) -> str:
    return f"{STAGING}/{number:08d}.json"


def _entry_keys(place: Place) -> list[str]:
    return [key for key in place.within(STAGING).sizes() if key.endswith(".json")]
