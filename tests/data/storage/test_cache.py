"""The cache stays within its limit, and never loses a copy that is in use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from contrail_data.errors import ContrailError
from contrail_data.storage import cache
from contrail_data.storage.cache import CacheKind, cache_entries, cache_limit, reserve
from contrail_data.store.cache import local_copy
from helpers.cli import run_data

HOLDER = """
import sys
from pathlib import Path
from contrail_data.storage.cache import hold
assert hold(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONTRAIL_CACHE", str(tmp_path))
    return tmp_path / "stores"


def add_copy(folder: Path, digit: str, size: int, used: float) -> Path:
    """Add a copy of `size` bytes that was last used at a time."""
    path = folder / (digit * 32)
    path.mkdir(parents=True)
    (path / "zarr.json").write_bytes(bytes(size))
    os.utime(path, (used, used))
    return path


def test_the_least_recently_used_copies_make_room_for_another(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newest, oldest, middle = (add_copy(folder, d, 400_000, used) for d, used in (("a", 300), ("b", 100), ("c", 200)))
    monkeypatch.setenv("CONTRAIL_CACHE_LIMIT", "1.2MB")
    reserve(folder / ("d" * 32), 300_000)
    assert not oldest.exists()
    assert newest.exists()
    assert middle.exists()
    reserve(folder / ("e" * 32), 300_000)  # d claims what it will take, although nothing has been written yet
    assert newest.exists()
    assert not middle.exists()
    assert sum(entry.claimed for entry in cache_entries(CacheKind.STORES)) <= 1_200_000


def test_a_copy_that_another_process_uses_stays_and_one_that_does_not_fit_is_refused_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, idle = add_copy(folder, "a", 400_000, 100), add_copy(folder, "b", 400_000, 200)
    monkeypatch.setenv("CONTRAIL_CACHE_LIMIT", "1MB")
    command = [sys.executable, "-c", HOLDER, str(held)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ContrailError, match=r"700 kB does not fit into 1 MB, of which copies in use take 400 kB"):
            reserve(folder / ("c" * 32), 700_000)
        assert idle.exists()
        assert not (folder / ("c" * 32)).exists()
        reserve(folder / ("c" * 32), 500_000)
        assert held.exists()
        assert not idle.exists()
        listed = json.loads(run_data("cache", "ls", "--json").stdout)
        assert {row["name"][0]: row["state"] for row in listed["entries"]} == {"a": "in use", "c": "in use, partial"}
        done = run_data("cache", "clear", "a")
        assert done.returncode == 1
        assert "is in use" in done.stderr
        done = run_data("cache", "clear")
        assert done.returncode == 0
        assert f"note: {'a' * 32}: kept" in done.stderr
        holder.kill()
    assert run_data("cache", "clear", "sha256:" + "a" * 64).stdout == "removed 1 of 1 entries, 400 kB\n"
    assert not held.exists()


def test_using_a_copy_makes_it_the_most_recent_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used, other = add_copy(folder, "a", 400_000, 100), add_copy(folder, "b", 400_000, 200)
    subprocess.run([sys.executable, "-c", HOLDER, str(used)], stdin=subprocess.DEVNULL, capture_output=True, check=True)
    monkeypatch.setenv("CONTRAIL_CACHE_LIMIT", "1MB")
    reserve(folder / ("c" * 32), 500_000)
    assert used.exists()
    assert not other.exists()


def test_a_copy_that_is_removed_only_in_part_is_not_taken_for_a_store(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = add_copy(folder, "a", 10, 100)
    (copy / "image").touch()

    def failing(path: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(cache.shutil, "rmtree", failing)
    (entry,) = cache_entries(CacheKind.STORES)
    with pytest.raises(ContrailError, match=r"cannot be removed \(Input/output error\); remove it by hand"):
        cache.remove_entry(entry)
    assert local_copy("sha256:" + "a" * 64) is None


def test_clearing_removes_entries_and_nothing_else(folder: Path) -> None:
    add_copy(folder, "a", 10, 100)
    for name in ("stores/notes.txt", "tfrecords/other.json", f"tfrecords/{'0' * 32}.json", "photos/a.jpg"):
        (folder.parent / name).parent.mkdir(exist_ok=True)
        (folder.parent / name).write_bytes(b"x")
    (folder / ("f" * 32)).symlink_to(folder.parent / "photos")
    assert "stores" in run_data("cache", "ls").stdout
    assert run_data("cache", "clear", "9").stderr == "error: 9: not in the cache; see contrail-data cache ls\n"
    assert run_data("cache", "clear").stdout == "removed 2 of 2 entries, 11 bytes\n"
    remaining = sorted(p.relative_to(folder.parent).as_posix() for p in folder.parent.rglob("*.*") if p.is_file())
    assert remaining == ["photos/a.jpg", "stores/notes.txt", "tfrecords/other.json"]


def test_without_a_limit_copies_leave_room_on_the_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = add_copy(folder, "a", 1000, 100)
    usage = cache.shutil.disk_usage(folder)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: usage._replace(free=cache.SPARE_BYTES + 500))
    reserve(folder / ("b" * 32), 400)
    assert old.exists()
    reserve(folder / ("b" * 32), 1200)
    assert not old.exists()


@pytest.mark.parametrize(
    ("text", "size"), [("", None), ("20GB", 20 * 10**9), ("1.5 TB", 15 * 10**11), ("2GiB", 2 << 30)]
)
def test_a_limit_is_a_size_with_its_unit(text: str, size: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTRAIL_CACHE_LIMIT", text)
    assert cache_limit() == size


@pytest.mark.parametrize("text", ["20", "-1GB", "1e9MB", "20 gigabytes", "nanGB"])
def test_what_is_not_a_size_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTRAIL_CACHE_LIMIT", text)
    with pytest.raises(ContrailError, match=r"CONTRAIL_CACHE_LIMIT=.*: not a size; give one such as 20GB"):
        cache_limit()
