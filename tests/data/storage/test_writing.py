"""Local files appear whole or not at all, also if several processes write them."""

import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from contrail_data.storage.files import Unreachable, publish, write_atomically, write_csv
from contrail_data.storage.place import Place


@pytest.mark.parametrize(
    "write", [write_atomically, lambda path, parts: Place(str(path.parent)).write(path.name, parts)]
)
def test_readers_see_whole_files_while_several_writers_replace_them(tmp_path: Path, write: Callable) -> None:
    path = tmp_path / "file"
    contents = [bytes([i]) * 50_000 for i in range(4)]
    write(path, [contents[0]])

    def replace_often(content: bytes) -> None:
        for _ in range(40):
            write(path, [content[:20_000], content[20_000:]])

    with ThreadPoolExecutor(4) as pool:
        writers = [pool.submit(replace_often, content) for content in contents]
        while not all(writer.done() for writer in writers):
            assert path.read_bytes() in contents
        for writer in writers:
            writer.result()
    assert path.read_bytes() in contents
    assert not [name for _, _, names in os.walk(tmp_path) for name in names if name != "file"]


def test_files_written_together_appear_when_all_are_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, keys = Place(str(tmp_path)), ["a", "b/c", "b/d"]
    waited_for: list[bytes] = []

    def sync(descriptor: int) -> None:
        assert not place.sizes()
        waited_for.append(Path(f"/proc/self/fd/{descriptor}").read_bytes())

    monkeypatch.setattr(os, "fsync", sync)
    place.write_all({key: key.encode() for key in keys})
    assert sorted(waited_for) == [b"a", b"b/c", b"b/d"]
    assert [place.read(key) for key in keys] == [b"a", b"b/c", b"b/d"]


def test_of_files_written_together_none_appears_if_the_disk_refuses_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(str(tmp_path))

    def sync(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").read_bytes() == b"second":
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", sync)
    with pytest.raises(Unreachable, match=r"b/c: cannot be written \(No space left on device\); make room"):
        place.write_all({"a": b"first", "b/c": b"second", "d": b"third"})
    assert not [name for _, _, names in os.walk(tmp_path) for name in names]


def test_several_writers_can_replace_a_folder(tmp_path: Path) -> None:
    def replace_often(writer: int) -> None:
        for i in range(40):
            staged = tmp_path / f"staged-{writer}-{i}"
            staged.mkdir()
            (staged / "a").write_text(str(writer))
            publish(staged, tmp_path / "folder")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(replace_often, range(4)))
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["a"]


@pytest.mark.parametrize("most", [None, 700_001])
def test_files_are_written_in_whole_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int | None) -> None:
    ends = []

    def write_some(handle: int, parts: list[memoryview]) -> int:
        written = os.write(handle, b"".join(parts)[:most])
        ends.append(os.lseek(handle, 0, os.SEEK_CUR))
        return written

    rng = np.random.default_rng(0)
    parts = [rng.bytes(size) for size in (0, 1, 1_500_000, 1_500_000, 2**21, 7, 5_000_000, 600_000)]
    monkeypatch.setattr(os, "writev", write_some)
    write_atomically(tmp_path / "file", parts)
    assert (tmp_path / "file").read_bytes() == b"".join(parts)
    if most is None:
        assert len(ends) > 3
        assert all(end % 2**21 == 0 for end in ends[:-1])


@pytest.mark.parametrize("room", [0, 5])
def test_a_full_disk_leaves_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    path = tmp_path / "table.csv"
    path.write_text("earlier")

    def write_to_full_disk(handle: int, parts: list[memoryview]) -> int:
        left = room - os.lseek(handle, 0, os.SEEK_CUR)
        if not left:
            raise OSError(errno.ENOSPC, "No space left on device")
        return os.write(handle, b"".join(parts)[:left])

    monkeypatch.setattr(os, "writev", write_to_full_disk)
    with pytest.raises(Unreachable, match=r"table.csv: cannot be written \(No space left on device\); make room"):
        write_csv(path, ["column"], [["value"]])
    with pytest.raises(Unreachable, match="No space left"):
        Place(str(tmp_path)).write("table.csv", [b"much content"])
    monkeypatch.undo()
    assert path.read_text() == "earlier"
    assert not [name for _, _, names in os.walk(tmp_path) for name in names if name != "table.csv"]
