"""Locks that keep a second process from writing to a place.

On a disk the kernel holds the lock. On object storage a file is the lock, and requests with conditions make sure that
only one of several processes writes it.
"""

import fcntl
import itertools
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from operator import methodcaller

import psutil

from contrail_data.errors import ContrailError
from contrail_data.storage.files import reported_errors
from contrail_data.storage.object_storage import request
from contrail_data.storage.place import STAGING, Place

LOCK = f"{STAGING}/lock"
LEASE_RENEWAL_S, LEASE_EXPIRY_S = 15.0, 90.0
"""How often the owner of a lock on object storage renews it, and the age at which others ignore it."""

Version = dict[str, str]
"""What a service calls the version of a file: its `e_tag` and, on some, its `version`."""


class Busy(ContrailError):
    """Another process is building in the place."""


def locked(place: Place) -> AbstractContextManager[None]:
    """Lock a place, so that no other process builds in it.

    Args:
        place: The place.

    Returns:
        A context that holds the lock. It raises Busy if another process holds it.
    """
    return _locked_by_lease(place) if place.remote else _locked_by_kernel(place)


def _this_process() -> str:
    return f"{socket.gethostname()}, process {os.getpid()}"


@contextmanager
def _locked_by_kernel(place: Place) -> Iterator[None]:
    """Hold a lock that the kernel releases with the process, however it ends, so that no lock is ever stale.

    Raises:
        Busy: If another process holds it.
        ContrailError: If the place cannot be created.
    """
    for attempt in itertools.count():
        try:
            (place.path / STAGING).mkdir(parents=True, exist_ok=True)
            lock = (place.path / LOCK).open("a+")
        except OSError as error:
            if isinstance(error, FileNotFoundError) and attempt < 100:
                continue  # the owner has just finished and removed the folder
            raise ContrailError(f"{place}: cannot be created ({error.strerror}); choose another -o") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.seek(0)
                owner = lock.read() or "another process"
                raise Busy(f"{place}: is being built by {owner}; wait for it, or stop it") from None
            if os.fstat(lock.fileno()).st_nlink:  # otherwise the build ended meanwhile and removed this file
                lock.truncate(0)
                lock.write(_this_process())
                lock.flush()
                yield
                return


@contextmanager
def _locked_by_lease(place: Place) -> Iterator[None]:
    """Hold a lock file that its owner keeps renewing; others may take it once it has expired.

    Raises:
        Busy: If another process holds it.
    """
    token = f"{_this_process()}\n{uuid.uuid4()}\n"  # of this attempt, not only of this process
    if not create_file(place, LOCK, token.encode()):
        expired = version_of(place, LOCK)
        owner = place.read(LOCK).decode(errors="replace").partition("\n")[0]
        if age_of(place, LOCK) < LEASE_EXPIRY_S and not _ended_on_this_machine(owner):
            raise Busy(f"{place}: is being built by {owner}; wait for it, or stop it")
        if not create_file(place, LOCK, token.encode(), replaced=expired):
            raise Busy(f"{place}: is being built by another process; wait for it, or stop it")
    ended = threading.Event()

    def is_ours() -> bool:
        with suppress(FileNotFoundError):
            return place.read(LOCK).startswith(token.encode())
        return False

    def renew() -> None:
        for number in itertools.count(1):  # a number, so that each renewal is another version
            if ended.wait(LEASE_RENEWAL_S):
                return
            with suppress(ContrailError):  # the next renewal may succeed; the build itself reports what is wrong
                version = version_of(place, LOCK)
                if is_ours():
                    create_file(place, LOCK, f"{token}{number}".encode(), replaced=version)

    renewer = threading.Thread(target=renew, daemon=True)
    renewer.start()
    try:
        yield
    finally:
        ended.set()
        renewer.join()
        if is_ours():  # another process may have taken it while this one was stopped for long
            place.remove([LOCK])


def _ended_on_this_machine(owner: str) -> bool:
    """Return whether the owner of a lock was a process of this machine that has ended."""
    host, _, process = owner.partition(", process ")
    return host == socket.gethostname() and process.isdigit() and not psutil.pid_exists(int(process[:9]))


def create_file(place: Place, key: str, content: bytes, replaced: Version | None = None) -> bool:
    """Write a file on object storage unless it exists. If several processes try at once, one succeeds.

    Args:
        place: Where the file lies.
        key: Its key.
        content: Its content, which differs from what any other process writes.
        replaced: The version that the file may replace.

    Returns:
        Whether it was written.
    """
    from obstore.exceptions import AlreadyExistsError, PreconditionError

    with reported_errors(place.file(key), "written"):
        try:
            request(place.url, methodcaller("put", key, content, mode=replaced or "create"), writes=True)
        except (AlreadyExistsError, PreconditionError):
            return place.read(key) == content  # an earlier try was carried out, but its answer was lost
        return True


def version_of(place: Place, key: str) -> Version | None:
    """Return the version of a file on object storage, which changes whenever its content does.

    Args:
        place: Where the file lies.
        key: Its key.

    Returns:
        The version; None if the file does not exist.
    """
    try:
        with reported_errors(place.file(key), "read"):
            status = request(place.url, methodcaller("head", key))
    except FileNotFoundError:
        return None
    return {name: status[name] for name in ("e_tag", "version") if status[name] is not None}


def age_of(place: Place, key: str) -> float:
    """Return how long ago a file on object storage was written, by the clock of the service.

    Args:
        place: Where the file lies.
        key: Its key.

    Returns:
        Seconds.
    """
    clock = f"{STAGING}/clock"
    place.write(clock, [b""])
    with reported_errors(place.file(key), "read"):
        then, now = (request(place.url, methodcaller("head", k))["last_modified"] for k in (key, clock))
    return float((now - then).total_seconds())
