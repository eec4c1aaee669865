"""Damage is found, named and repaired."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from contrail_data.errors import ContrailError
from contrail_data.storage.place import Place
from contrail_data.store.reader import open_store, pixel_reader
from contrail_data.store.schema import PixelDtype
from contrail_data.store.settings import StoreSettings
from contrail_data.store.verify import Damage, verify
from helpers.cli import run_data
from helpers.stores import ASH, build_small, contents, flip


def damage_at_random(store: Path, chance: random.Random) -> set[str]:
    """Damage a random file in a random way and return the keys that verification must report."""
    files = sorted(p for p in store.rglob("*") if p.is_file())
    path = chance.choice(files)
    key = path.relative_to(store).as_posix()
    kind = chance.choice(["flip", "truncate", "remove", "swap", "grow"])
    content = bytearray(path.read_bytes())
    if kind == "swap":
        alike = [p for p in files if p != path and p.parent == path.parent and p.read_bytes() != content]
        if alike:
            other = chance.choice(alike)
            path.write_bytes(other.read_bytes())
            other.write_bytes(content)
            return {key, other.relative_to(store).as_posix()}
        kind = "flip"
    if kind == "flip":
        bit = chance.randrange(len(content) * 8)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
    elif kind == "truncate":
        os.truncate(path, chance.randrange(len(content)))
    elif kind == "grow":
        path.write_bytes(content + b"\0" * chance.randint(1, 100))
    else:
        path.unlink()
    return {key}


@pytest.mark.slow
def test_a_hundred_corruptions_are_all_found_named_and_repaired(sealed40: Path, tmp_path: Path) -> None:
    chance, expected = random.Random(20261123), contents(sealed40)
    store = tmp_path / "s.zarr"
    shutil.copytree(sealed40, store)
    assert verify(Place(str(store))) == []
    for _ in range(100):
        damaged = damage_at_random(store, chance)
        reported = {d.path for d in verify(Place(str(store)))}
        # If a file that lists the other files is damaged, only that file has to be reported.
        damaged_lists = damaged & {"zarr.json", "manifest.txt"}
        assert (damaged_lists & reported) if damaged_lists else damaged <= reported, (damaged, reported)
        for key in damaged:
            target = store / key
            shutil.copyfile(sealed40 / key, target)
    assert verify(Place(str(store))) == []
    assert contents(store) == expected


def test_damage_is_named_by_record_and_repaired_from_a_copy_or_the_raw_data(
    raw40: Path, sealed40: Path, tmp_path: Path
) -> None:
    store = tmp_path / "s.zarr"
    shutil.copytree(sealed40, store)
    path = store / "image/c.1.0.0.0.0"
    content = bytearray(path.read_bytes())
    content[5 * 8 * 3 * 32 * 32 + 100] ^= 4  # the sixth sample of the second shard
    path.write_bytes(content)
    record_id = str(open_store(store)["record_id"].values[21])
    assert verify(Place(str(store))) == [Damage("image/c.1.0.0.0.0", f"checksum differs; records {record_id}")]
    out = np.empty((8, 3, 32, 32), np.uint8)
    with pytest.raises(ContrailError, match="fails its checksum"):
        pixel_reader(open_store(store), check=True)(21, range(8), out)
    (store / "mask/c.0.0.0").unlink()
    done = run_data("verify", store)
    assert done.returncode == 4
    assert {line.split(": ")[0] for line in done.stdout.splitlines()} == {str(path), str(store / "mask/c.0.0.0")}
    done = run_data("verify", store, "--repair-from", raw40)
    assert done.returncode == 0, done.stderr
    assert contents(store) == contents(sealed40)
    for key in ("record_id/c/0", "image/c.2.0.0.0.0", "provenance.json", "manifest.txt", "zarr.json"):
        (store / key).write_bytes(b"rot")
        assert run_data("verify", store, "--repair-from", sealed40).returncode == 0, key
        assert contents(store) == contents(sealed40)
    assert not (store / ".building").exists()
    build_small(raw40, tmp_path / "other.zarr", settings=StoreSettings(ASH, size=48))
    (store / "mask/c.0.0.0").unlink()
    done = run_data("verify", store, "--repair-from", tmp_path / "other.zarr")
    assert done.returncode == 1
    assert "another store" in done.stderr


def test_a_store_is_repaired_only_from_a_copy_of_the_same_store(sealed40: Path, raw40: Path, tmp_path: Path) -> None:
    build_small(raw40, tmp_path / "other.zarr", settings=StoreSettings(ASH, dtype=PixelDtype.FLOAT16, size=32))
    for damage in (
        lambda s: flip(s / "manifest.txt"),
        lambda s: (s / "zarr.json").unlink(),
        lambda s: [(s / name).unlink() for name in ("zarr.json", "provenance.json")],
    ):
        store = tmp_path / "s.zarr"
        shutil.copytree(sealed40, store)
        damage(store)
        before = {p: p.read_bytes() for p in store.rglob("*") if p.is_file()}
        done = run_data("verify", store, "--repair-from", tmp_path / "other.zarr")
        assert done.returncode == 1
        assert "another store" in done.stderr
        assert {p: p.read_bytes() for p in store.rglob("*") if p.is_file()} == before
        shutil.rmtree(store)


def test_two_damaged_copies_repair_each_other(sealed40: Path, raw40: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one.zarr", tmp_path / "two.zarr"
    for store, shards in ((one, (0, 2)), (two, (0, 1))):
        shutil.copytree(sealed40, store)
        for shard in shards:
            flip(store / f"image/c.{shard}.0.0.0.0")
    done = run_data("verify", one, "--repair-from", two)
    assert done.returncode == 4
    assert "restored image/c.2.0.0.0.0" in done.stdout
    assert [d.path for d in verify(Place(str(one)))] == ["image/c.0.0.0.0.0"]
    flip(one / "record_id/c/0")  # everything is rebuilt to restore it
    assert run_data("verify", one, "--repair-from", raw40).returncode == 0
    assert contents(one) == contents(sealed40)


def test_links_in_a_store_count_as_damage_and_are_never_written_through(sealed40: Path, tmp_path: Path) -> None:
    store, victim = tmp_path / "s.zarr", tmp_path / "victim"
    shutil.copytree(sealed40, store)
    shutil.move(store / "mask", victim)
    (store / "mask").symlink_to(victim)
    before = {p.name: p.read_bytes() for p in victim.iterdir()}
    flip(victim / "c.0.0.0")
    before["c.0.0.0"] = (victim / "c.0.0.0").read_bytes()
    assert "mask/c.1.0.0" in {d.path for d in verify(Place(str(store)))}
    assert run_data("verify", store, "--repair-from", sealed40).returncode == 1
    assert {p.name: p.read_bytes() for p in victim.iterdir()} == before
