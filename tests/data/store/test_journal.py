"""Locks of builders."""

from __future__ import annotations

import os
from pathlib import Path

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
