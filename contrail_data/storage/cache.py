"""The user's cache folder: what can be fetched or computed again, and how much room it may take.

A process that uses a copy holds a shared lock on its folder, which the kernel releases with the process, however it
ends. Only copies that no process uses are removed; on a file system without such locks, none are removed
automatically.
"""

import fcntl
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from contrail_data.errors import ContrailError

LIMIT = "CONTRAIL_CACHE_LIMIT"
SPARE_BYTES = 1 << 30
"""Room that stays free on the disk if no limit is set."""
_RESERVED = ".building/reserved"
"""Final size of a copy that is being made, in bytes."""
_UNITS = {"kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


class CacheKind(StrEnum):
    """What the cache keeps, a folder of it for each."""

    STORES = "stores"
    """Copies of remote stores."""
    MODELS = "models"
    """Copies of remote model folders."""
    TFRECORDS = "tfrecords"
    """Where the records of TFRecord files begin."""
    PREDICTIONS = "predictions"
    """Predictions of single scans, of commands that predict several and were interrupted."""


_NAMES = {
    CacheKind.STORES: r"[0-9a-f]{32}",
    CacheKind.MODELS: r"[0-9a-f]{32}",
    CacheKind.TFRECORDS: r"[0-9a-f]{32}\.json",
    CacheKind.PREDICTIONS: r"[0-9a-f]{32}\.npy",
}
"""Names of entries; nothing else is listed or removed, wherever the cache is said to lie."""
COPIES = {CacheKind.STORES: "zarr.json", CacheKind.MODELS: "model.json"}
"""Kinds that are copies of folders, which share the limit, and the file that comes last and makes a copy complete."""


def cache_folder(kind: str) -> Path:
    """Return where files of a kind are kept.

    Args:
        kind: Name of the kind.

    Returns:
        A folder in $CONTRAIL_CACHE, or else in the user's cache folder; it need not exist.
    """
    import platformdirs

    return Path(os.environ.get("CONTRAIL_CACHE") or platformdirs.user_cache_path("contrail")) / kind


def copy_folder(kind: CacheKind, digest: str) -> Path:
    """Return where the copy of a store or model belongs.

    Args:
        kind: What it is.
        digest: Its digest.

    Returns:
        A folder in the cache, which need not exist.
    """
    return cache_folder(kind) / check_digest(digest).removeprefix("sha256:")[:32]


def check_digest(digest: str) -> str:
    """Check that a value is the digest of a store or model.

    Args:
        digest: The value.

    Returns:
        The value.

    Raises:
        ContrailError: If it is not a digest.
    """
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", str(digest)):
        raise ContrailError(f"{str(digest)[:80]!r} is not a digest; write sha256: and 64 hexadecimal digits")
    return digest


@dataclass(frozen=True)
class CacheEntry:
    """A copy, or a file, in the cache."""

    kind: CacheKind
    path: Path
    size: int
    """Bytes."""
    used: float
    """When it was last used, in seconds since 1970."""
    in_use: bool
    """Whether a process uses it now."""

    @property
    def is_partial(self) -> bool:
        """Whether it is a copy that is not complete."""
        return self.kind in COPIES and not (self.path / COPIES[self.kind]).is_file()

    @property
    def claimed(self) -> int:
        """Bytes that it takes, or will take once the process that is making it has ended."""
        if not self.in_use:
            return self.size
        with suppress(OSError, ValueError):
            return max(self.size, int((self.path / _RESERVED).read_text()))
        return self.size


def cache_entries(*kinds: CacheKind) -> list[CacheEntry]:
    """List what is in the cache.

    Args:
        *kinds: Kinds to list; all if none is given.

    Returns:
        The entries, the least recently used first.
    """
    entries = []
    for kind in kinds or CacheKind:
        folder = cache_folder(kind)
        for name in sorted(os.listdir(folder)) if folder.is_dir() else ():
            path = folder / name
            with suppress(FileNotFoundError):  # another process has just removed it
                if re.fullmatch(_NAMES[kind], name) and not path.is_symlink():
                    entries.append(CacheEntry(kind, path, _size(path), path.stat().st_mtime, _is_in_use(path)))
    return sorted(entries, key=lambda entry: entry.used)


def hold(folder: Path) -> bool:
    """Keep a copy from being removed until this process ends, and note that it has been used.

    Args:
        folder: The copy.

    Returns:
        Whether it exists.
    """
    with _HOLDING:
        if (descriptor := _HELD.get(folder)) is not None and not _is_open(descriptor, folder):
            os.close(_HELD.pop(folder))  # it was removed by hand, and may have been made again
        if folder not in _HELD:
            try:
                descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except (FileNotFoundError, NotADirectoryError):
                return False
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_SH)
            if not _is_open(descriptor, folder):
                os.close(descriptor)
                return False
            _HELD[folder] = descriptor
        with suppress(OSError):  # a cache that others own
            os.utime(folder)
        return True


_HELD: dict[Path, int] = {}
_HOLDING = threading.Lock()


def reserve(folder: Path, size: int, remedy: str = "make room with contrail-data cache clear") -> None:
    """Hold the place for a copy, and remove the least recently used copies until there is room for it.

    Args:
        folder: Where the copy belongs.
        size: Its final size in bytes.
        remedy: What else to do if there is no room, for messages.

    Raises:
        ContrailError: If it does not fit in addition to the copies in use, or the cache cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.parent.parent):  # of all kinds
            entries = cache_entries(*COPIES)
            others = [entry for entry in entries if entry.path != folder]
            limit = cache_limit()
            if limit is None:
                limit = sum(entry.size for entry in entries) + shutil.disk_usage(folder.parent).free - SPARE_BYTES
            in_use = sum(entry.claimed for entry in others if entry.in_use)
            if in_use + size > limit:
                taken = f", of which copies in use take {format_bytes(in_use)}" if in_use else ""
                raise ContrailError(
                    f"{folder.parent}: a copy of {format_bytes(size)} does not fit into "
                    f"{format_bytes(max(limit, 0))}{taken}; set {LIMIT} higher, or {remedy}"
                )
            excess = size + sum(entry.claimed for entry in others) - limit
            for entry in others:
                if excess > 0 and remove_entry(entry):
                    excess -= entry.claimed
            reserved = folder / _RESERVED
            reserved.parent.mkdir(parents=True, exist_ok=True)
            while not hold(folder):  # another process has just removed it
                reserved.parent.mkdir(parents=True, exist_ok=True)
            reserved.write_text(str(size))
    except OSError as error:
        raise ContrailError(f"{folder}: cannot be written ({error.strerror}); set CONTRAIL_CACHE") from None


def remove_entry(entry: CacheEntry) -> bool:
    """Remove an entry of the cache, unless a process uses it.

    Args:
        entry: The entry.

    Returns:
        Whether it was removed.

    Raises:
        ContrailError: If the disk refuses.
    """
    if entry.kind not in COPIES:
        entry.path.unlink(missing_ok=True)
        return True
    try:
        with _locked(entry.path, wait=False):
            (entry.path / COPIES[entry.kind]).unlink(missing_ok=True)  # first: the rest is not taken for a copy
            shutil.rmtree(entry.path)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        return True
    except OSError as error:
        raise ContrailError(f"{entry.path}: cannot be removed ({error.strerror}); remove it by hand") from None
    return True


def cache_limit() -> int | None:
    """Return how much room the copies of remote stores and model folders may take together.

    Returns:
        Bytes; None if none is set, so that copies may take what the disk has, except for `SPARE_BYTES`.

    Raises:
        ContrailError: If the environment variable is not a size.
    """
    text = os.environ.get(LIMIT, "").strip()
    if not text:
        return None
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?) ?([A-Za-z]{2,3})", text)
    if match is None or match[2] not in _UNITS:
        raise ContrailError(f"{LIMIT}={text[:40]!r}: not a size; give one such as 20GB, or 500MB")
    return int(float(match[1]) * _UNITS[match[2]])


def format_bytes(count: int) -> str:
    """Format a number of bytes for people.

    Args:
        count: The number.

    Returns:
        The number in the largest unit of which there is one, to three digits.
    """
    unit = next((unit for unit in ("TB", "GB", "MB", "kB") if count >= _UNITS[unit]), "")
    return f"{count / _UNITS[unit]:.3g} {unit}" if unit else f"{count} bytes"


@contextmanager
def _locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold an exclusive lock on a folder; raises BlockingIOError if it is taken and this does not wait."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _is_in_use(path: Path) -> bool:
    if not path.is_dir():
        return False
    try:
        with _locked(path, wait=False):
            return False
    except OSError:  # also where there are no locks
        return True


def _is_open(descriptor: int, folder: Path) -> bool:
    return folder.exists() and os.path.samestat(os.fstat(descriptor), folder.stat())


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total
