"""Locks of builders."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from contrail_data.storage import lock
from contrail_data.storage.place import Place
from contrail_data.store import journal


def test_a_stale_lock_on_object_storage_is_recognised(monkeypatch: pytest.MonkeyPatch, s3: str) -> None:
    place = Place(f"{s3}/locked.zarr")
    refused = pytest.raises(lock.Busy, match=f"process {os.getpid()}")
    with journal.building(place, "plan"), refused, journal.building(place, "plan"):
        pass
    place.write(lock.LOCK, [b"elsewhere, process 77"])
    with pytest.raises(lock.Busy, match="elsewhere, process 77"), journal.building(place, "plan"):
        pass
    monkeypatch.setattr(lock, "LEASE_EXPIRY_S", 0.0)
    with journal.building(place, "plan"):
        assert str(os.getpid()) in place.read(lock.LOCK).decode()
    assert place.sizes() == {}


def test_of_two_that_find_an_expired_lock_one_takes_it(monkeypatch: pytest.MonkeyPatch, s3: str) -> None:
    """Both look at its age before either takes it; the one that comes second must not take the lock of the first."""
    place, age_of = Place(f"{s3}/locked.zarr"), lock.age_of
    place.write(lock.LOCK, [b"elsewhere, process 77"])
    monkeypatch.setattr(lock, "LEASE_EXPIRY_S", 0.0)

    def age_before_another_takes_it(place: Place, key: str) -> float:
        seen = age_of(place, key)
        place.write(key, [b"the other, process 78"])
        return seen

    monkeypatch.setattr(lock, "age_of", age_before_another_takes_it)
    with pytest.raises(lock.Busy), journal.building(place, "plan"):
        pass
    assert place.read(lock.LOCK) == b"the other, process 78"


def test_a_lock_that_another_process_took_is_not_renewed(monkeypatch: pytest.MonkeyPatch, s3: str) -> None:
    place, renewals = Place(f"{s3}/locked.zarr"), threading.Semaphore(0)
    version_of = lock.version_of

    def counted(place: Place, key: str) -> dict[str, str] | None:
        renewals.release()
        return version_of(place, key)

    monkeypatch.setattr(lock, "LEASE_RENEWAL_S", 0.01)
    monkeypatch.setattr(lock, "version_of", counted)
    with journal.building(place, "plan"):
        place.write(lock.LOCK, [b"elsewhere, process 77"])
        for _ in range(3):  # of which the last ones began after the lock was taken
            assert renewals.acquire(timeout=60)
        assert place.read(lock.LOCK) == b"elsewhere, process 77"


def test_a_place_where_another_process_begins_meanwhile_is_not_foreign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process writes its plan, and then files, between any two looks at the place."""
    place, size = Place(str(tmp_path / "s.zarr")), Place.size

    def size_before_another_writes(self: Place, key: str) -> int | None:
        seen = size(self, key)
        for written in (journal.PLAN, "image/c.0"):
            (place.path / written).parent.mkdir(parents=True, exist_ok=True)
            (place.path / written).write_text("plan")
        return seen

    monkeypatch.setattr(Place, "size", size_before_another_writes)
    with journal.building(place, "plan"):
        pass
