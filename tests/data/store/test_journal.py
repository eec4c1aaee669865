"""Locks of builders."""

from __future__ import annotations

import os

import pytest

from contrail_data.storage.place import Place
from contrail_data.store import journal


def test_a_stale_lock_on_object_storage_is_recognised(monkeypatch: pytest.MonkeyPatch, s3: str) -> None:
    place = Place(f"{s3}/locked.zarr")
    refused = pytest.raises(journal.Busy, match=f"process {os.getpid()}")
    with journal.building(place, "plan"), refused, journal.building(place, "plan"):
        pass
    place.write(journal.LOCK, [b"elsewhere, process 77"])
    with pytest.raises(journal.Busy, match="elsewhere, process 77"), journal.building(place, "plan"):
        pass
    monkeypatch.setattr(journal, "LEASE_EXPIRY_S", 0.0)
    with journal.building(place, "plan"):
        assert str(os.getpid()) in place.read(journal.LOCK).decode()
    assert place.sizes() == {}
