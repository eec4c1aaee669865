"""Object storage that misbehaves: requests are repeated, and what cannot be reached is not called damaged."""

import builtins
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from contrail_data.build.build import build
from contrail_data.errors import ContrailError
from contrail_data.sources.open import open_source
from contrail_data.storage import lock, object_storage
from contrail_data.storage.files import Unreachable
from contrail_data.storage.place import Place, place_of
from contrail_data.store import journal
from contrail_data.store.manifest import Damaged
from contrail_data.store.reader import open_store, pixel_reader, read_scalars
from contrail_data.store.schema import GROUP
from contrail_data.store.transfer import copy_store
from contrail_data.store.verify import verify
from helpers.faults import Choose, Fault, faulty_proxy
from helpers.records import write_record
from helpers.stores import ASH, SMALL, contents, remote_contents


@pytest.fixture
def faulty(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Choose], None]]:
    """Reach the object storage through a proxy from now on; call the result to choose its faults."""
    faults: list[Choose] = [lambda method, path: None]
    # long enough for a busy machine; only a stalled reply is waited for
    monkeypatch.setattr(object_storage, "READ_TIMEOUTS_S", (60.0, 60.0, 300.0))
    monkeypatch.setattr(object_storage, "WRITE_TIMEOUTS_S", (60.0, 60.0, 300.0))
    with faulty_proxy(os.environ["AWS_ENDPOINT_URL"], lambda *request: faults[0](*request)) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        yield lambda choose: faults.__setitem__(0, choose)


def once_each(fault: Fault, only: str = "") -> Choose:
    """Inject a fault into the first request for each file by each method."""
    lock = threading.Lock()
    seen: set[tuple[str, str]] = set()

    def choose(method: str, path: str) -> Fault | None:
        with lock:
            first = (method, path) not in seen
            seen.add((method, path))
        return fault if first and only in method else None

    return choose


@pytest.mark.parametrize("fault", [Fault.RESET, Fault.LOST, Fault.CUT, Fault.STALL, Fault.ERROR])
def test_every_request_is_repeated_after_a_fault(
    s3: str, faulty: Callable[[Choose], None], fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault is Fault.STALL:
        for timeouts in ("READ_TIMEOUTS_S", "WRITE_TIMEOUTS_S"):
            monkeypatch.setattr(object_storage, timeouts, (0.2, 0.2, 300.0))
    inject, requests = once_each(fault), Counter[str]()
    faulty(lambda method, path: requests.update([method]) or inject(method, path))
    place = Place(f"{s3}/folder")
    assert lock.create_file(place, "lock", b"ours")
    assert not lock.create_file(place, "lock", b"another's")
    place.write("a/b", [b"content"])
    assert place.read("a/b") == b"content"
    assert bytes(place.read_range("a/b", 2, 3)) == b"nte"
    assert place.size("a/b") == 7
    assert list(place.sizes()) == ["a/b", "lock"]
    place.remove(["a/b", "lock"])
    assert place.sizes() == {}
    assert set(requests) == {"PUT", "GET", "HEAD", "POST"}


def test_a_service_that_never_answers_is_reported_in_time(
    s3: str, faulty: Callable[[Choose], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_storage, "READ_TIMEOUTS_S", (0.1, 0.1))
    tries = []
    faulty(lambda method, path: tries.append(method) or Fault.STALL)
    with pytest.raises(Unreachable, match=r"cannot be read \(no answer in time\); check the address, the network"):
        Place(f"{s3}/folder").read("file")
    assert len(tries) >= 2


def test_what_the_service_refuses_is_not_repeated(s3: str, faulty: Callable[[Choose], None]) -> None:
    requests: list[str] = []
    faulty(lambda method, path: requests.append(method))
    with pytest.raises(ContrailError, match="no such bucket"):
        Place("s3://no-such-bucket/x").sizes()
    assert requests == ["GET"]


@pytest.mark.parametrize("fault", [Fault.LOST, Fault.ERROR])
def test_a_lock_that_was_written_unnoticed_is_our_own(s3: str, faulty: Callable[[Choose], None], fault: Fault) -> None:
    faulty(once_each(fault))
    place = Place(f"{s3}/locked.zarr")
    refused = pytest.raises(lock.Busy, match="is being built by")
    with journal.building(place, "plan"), refused, journal.building(place, "plan"):
        pass
    assert place.sizes() == {}


@pytest.mark.slow
def test_the_age_of_a_lock_does_not_depend_on_the_clock_of_this_machine(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(f"{s3}/locked.zarr")
    place.write(lock.LOCK, [b"elsewhere, process 77"])
    for seconds in (-1e9, 1e9):
        monkeypatch.setattr("time.time", lambda seconds=seconds: seconds)
        with pytest.raises(lock.Busy), journal.building(place, "plan"):
            pass


@pytest.mark.slow
def test_a_build_passes_though_first_requests_fail(tmp_path: Path, s3: str, faulty: Callable[[Choose], None]) -> None:
    write_record(tmp_path / "raw/train/1", np.random.default_rng(0))
    source = open_source(tmp_path / "raw", "train", ASH)
    inject = once_each(Fault.LOST)
    parts = ("/c.0", ".building", "manifest", "s.zarr/zarr.json", "?delete", "list-type")
    faulty(lambda method, path: inject(method, path) if any(part in path for part in parts) else None)
    build(source, SMALL, f"{s3}/s.zarr", workers=2)
    build(source, SMALL, tmp_path / "s.zarr", workers=2)
    assert remote_contents(Place(f"{s3}/s.zarr")) == contents(tmp_path / "s.zarr")


@contextmanager
def uploaded(store: Path, url: str) -> Iterator[Place]:
    copy_store(place_of(store), Place(url))
    yield Place(url)


@pytest.mark.slow
def test_flipped_bytes_are_read_again_and_never_pass(sealed40: Path, s3: str, faulty: Callable[[Choose], None]) -> None:
    out, expected = np.empty((2, 3, 32, 32), np.uint8), np.empty((2, 3, 32, 32), np.uint8)
    pixel_reader(open_store(sealed40))(17, [0, 4], expected)
    with uploaded(sealed40, f"{s3}/s.zarr") as remote:
        faulty(once_each(Fault.FLIP, only="GET"))
        store = open_store(remote)
        read = pixel_reader(store)
        for _ in range(2):  # the index of the shard is damaged at first, and a frame then
            read(17, [0, 4], out)
            np.testing.assert_array_equal(out, expected)
            faulty(once_each(Fault.FLIP, only="GET"))
        faulty(once_each(Fault.FLIP, only="GET"))
        np.testing.assert_array_equal(store["image"][17, [0, 4]], expected)  # as xarray reads it
        assert read_scalars(store).identical(read_scalars(open_store(sealed40)).assign_attrs(path=remote.url))
        assert verify(remote) == []
        faulty(lambda method, path: Fault.FLIP if "image/c.1" in path else None)
        with pytest.raises(Damaged, match="sample 17, frame 0 fails its checksum"):
            read(17, [0, 4], out)


@pytest.mark.slow
def test_a_copy_is_exact_though_replies_are_flipped(
    sealed40: Path, tmp_path: Path, s3: str, faulty: Callable[[Choose], None]
) -> None:
    with uploaded(sealed40, f"{s3}/s.zarr") as remote:
        faulty(once_each(Fault.FLIP, only="GET"))
        copy_store(remote, place_of(tmp_path / "copy.zarr"))
    assert contents(tmp_path / "copy.zarr") == contents(sealed40)
    assert verify(place_of(tmp_path / "copy.zarr")) == []


@pytest.mark.slow
def test_what_cannot_be_reached_is_not_damaged(
    sealed40: Path, s3: str, faulty: Callable[[Choose], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with uploaded(sealed40, f"{s3}/s.zarr") as remote:
        monkeypatch.setattr(object_storage, "READ_TIMEOUTS_S", (0.05,))
        for part in (GROUP, "provenance.json", "image/c.1"):
            faulty(
                lambda method, path, part=part: Fault.STALL if path.endswith(part) or f"s.zarr/{part}" in path else None
            )
            with pytest.raises(Unreachable, match="no answer in time"):
                verify(remote)


def test_what_may_not_be_read_is_not_damaged(sealed40: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(function: Callable, part: str) -> Callable:
        def without_permission(path, *arguments, **options):
            if part in str(path):  # the tests may run as root, whom no permission stops
                raise PermissionError(13, "Permission denied", str(path))
            return function(path, *arguments, **options)

        return without_permission

    shutil.copytree(sealed40, tmp_path / "s.zarr")
    read = pixel_reader(open_store(tmp_path / "s.zarr"))
    for part in (f"s.zarr/{GROUP}", "manifest.txt", "image/c.1.0.0.0.0", "record_id/c/0"):
        with monkeypatch.context() as patch:
            patch.setattr(builtins, "open", refuse(open, part))
            patch.setattr(os, "open", refuse(os.open, part))
            with pytest.raises(Unreachable, match=r"cannot be read \(Permission denied\); check the address"):
                verify(place_of(tmp_path / "s.zarr"))
            if part.startswith("image"):
                with pytest.raises(Unreachable, match="Permission denied"):
                    read(17, [0], np.empty((1, 3, 32, 32), np.uint8))
    monkeypatch.setattr(os, "stat", refuse(os.stat, "s.zarr/image/"))  # of a folder that may not be entered
    with pytest.raises(Unreachable, match="Permission denied"):
        verify(place_of(tmp_path / "s.zarr"))
