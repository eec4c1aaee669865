"""What must survive: rot, kills, full disks, two builders, hostile stores."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numcodecs
import numpy as np
import pytest
import zarr
from conftest import reseal, restate, write_record
from test_build import ASH, SMALL, add_records, build_small, cli, contents

from contrail_data.build.build import build
from contrail_data.errors import ContrailError
from contrail_data.sources.open import open_source
from contrail_data.storage.place import Place
from contrail_data.store import journal
from contrail_data.store.reader import open_store, pixel_reader, read_scalars
from contrail_data.store.settings import Settings
from contrail_data.store.verify import Damage, verify


@pytest.fixture(scope="session")
def raw40(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty records, three shards; one record lacks a band."""
    raw, rng = tmp_path_factory.mktemp("forty"), np.random.default_rng(0)
    for i in range(40):
        write_record(raw / "train" / f"{i:03d}", rng)
    (raw / "train" / "007" / "band_11.npy").unlink()
    return raw


@pytest.fixture(scope="session")
def sealed40(raw40: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sealed") / "s.zarr"
    build_small(raw40, path)
    return path


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def damage_at_random(store: Path, chance: random.Random) -> set[str]:
    """Harm a random file in a random way; returns the keys that must be named."""
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


def test_two_hundred_corruptions_are_all_found_named_and_repaired(sealed40: Path, tmp_path: Path) -> None:
    chance, whole = random.Random(20261123), contents(sealed40)
    store = tmp_path / "s.zarr"
    shutil.copytree(sealed40, store)
    assert verify(Place(str(store))) == []
    for _ in range(200):
        hurt = damage_at_random(store, chance)
        found = {d.path for d in verify(Place(str(store)))}
        # Where what names the others is itself hurt, that is what is told.
        blind = hurt & {"zarr.json", "manifest.txt"}
        assert (blind & found) if blind else hurt <= found, (hurt, found)
        for key in hurt:
            target = store / key
            shutil.copyfile(sealed40 / key, target)
    assert verify(Place(str(store))) == []
    assert contents(store) == whole


def test_damage_is_named_by_record_and_repaired_from_a_copy_or_the_raw_data(
    raw40: Path, sealed40: Path, tmp_path: Path
) -> None:
    store = tmp_path / "s.zarr"
    shutil.copytree(sealed40, store)
    path = store / "image/c.1.0.0.0.0"
    content = bytearray(path.read_bytes())
    content[5 * 8 * 3 * 32 * 32 + 100] ^= 4  # the sixth sample of the second shard
    path.write_bytes(content)
    hurt = str(open_store(store)["record_id"].values[21])
    assert verify(Place(str(store))) == [Damage("image/c.1.0.0.0.0", f"checksum differs; records {hurt}")]
    out = np.empty((8, 3, 32, 32), np.uint8)
    with pytest.raises(ContrailError, match="fails its checksum"):
        pixel_reader(open_store(store), check=True)(21, range(8), out)
    (store / "mask/c.0.0.0").unlink()
    done = cli("verify", store)
    assert done.returncode == 1
    assert {line.split(": ")[0] for line in done.stdout.splitlines()} == {str(path), str(store / "mask/c.0.0.0")}
    done = cli("verify", store, "--repair-from", raw40)
    assert done.returncode == 0, done.stderr
    assert contents(store) == contents(sealed40)
    for key in ("record_id/c/0", "image/c.2.0.0.0.0", "provenance.json", "manifest.txt", "zarr.json"):
        (store / key).write_bytes(b"rot")
        assert cli("verify", store, "--repair-from", sealed40).returncode == 0, key
        assert contents(store) == contents(sealed40)
    assert not (store / ".building").exists()
    build_small(raw40, tmp_path / "other.zarr", settings=Settings(ASH, size=48))
    (store / "mask/c.0.0.0").unlink()
    done = cli("verify", store, "--repair-from", tmp_path / "other.zarr")
    assert done.returncode == 1
    assert "another store" in done.stderr


def test_fifty_kills_of_the_process_group_end_in_the_same_store(tmp_path: Path) -> None:
    raw, rng, chance = tmp_path / "raw", np.random.default_rng(0), random.Random(1)
    for i in range(400):
        write_record(raw / "train" / f"{i:03d}", rng)
    for i in (7, 100, 101, 399):
        (raw / "train" / f"{i:03d}" / "band_11.npy").unlink()
    settings = Settings(ASH, size=32)
    whole = build_small(raw, tmp_path / "whole.zarr", settings=settings)
    out = tmp_path / "killed.zarr"
    # A server forks the builders, so that fifty of them need not import everything fifty times.
    program = """
import os, signal, sys
from pathlib import Path
from contrail_data import composites
from contrail_data.build.build import build
from contrail_data.build import repair
from contrail_data.sources.open import open_source
from contrail_data.store.settings import Settings
import dask, dask.threaded, zarr, pyproj, scipy.ndimage
raw, out = sys.argv[1:]
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os.setsid()
        sys.stderr = open(os.devnull, "w")
        ash = composites.COMPOSITES["ash"]
        source = open_source(Path(raw), "train", ash)
        build(source, Settings(ash, size=32), out, workers=2)
        os._exit(0)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""
    server = subprocess.Popen(
        [sys.executable, "-c", program, str(raw), str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdin
    assert server.stdout
    finished: list[int] = []
    for _ in range(50):
        server.stdin.write("\n")
        server.stdin.flush()
        child = int(server.stdout.readline())
        while f"process {child}" not in _text(out / ".building/lock"):
            time.sleep(0.001)
        time.sleep(chance.uniform(0.0, 0.8))
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        status = int(server.stdout.readline())
        if status == signal.SIGKILL:
            finished.append(len(list((out / ".building").glob("0*.json"))))
        if (out / "zarr.json").exists():
            assert open_store(out).attrs["digest"] == whole.digest
            shutil.rmtree(out)
    server.stdin.close()
    server.wait()
    print(finished)
    assert len(finished) > 25
    assert len(set(finished)) > 4  # of the 25 shards; killed early, midway and late, however busy the machine
    made = build_small(raw, out, settings=settings)
    assert made.digest == whole.digest
    assert contents(out) == contents(tmp_path / "whole.zarr")
    assert not (out / ".building").exists()


def test_a_full_disk_ends_in_one_line_and_resumes_when_there_is_room(
    raw40: Path, sealed40: Path, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk]).returncode:
        pytest.skip("needs to mount a tmpfs")
    try:
        done = cli("build-ash", raw40, "--size", 32, "-o", disk / "s.zarr")
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith("error: ")
        assert "No space left on device" in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
        with pytest.raises(ContrailError, match="unfinished"):
            open_store(disk / "s.zarr")
        subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
        done = cli("build-ash", raw40, "--size", 32, "-o", disk / "s.zarr")
        assert open_store(disk / "s.zarr").attrs["digest"] == open_store(sealed40).attrs["digest"], done.stderr
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_stale_lock_on_object_storage_is_recognised(monkeypatch: pytest.MonkeyPatch, s3: str) -> None:
    place = Place(f"{s3}/locked.zarr")
    told = pytest.raises(journal.Busy, match=f"process {os.getpid()}")
    with journal.building(place, "plan"), told, journal.building(place, "plan"):
        pass
    place.write(journal.LOCK, [b"elsewhere, process 77"])
    with pytest.raises(journal.Busy, match="elsewhere, process 77"), journal.building(place, "plan"):
        pass
    monkeypatch.setattr(journal, "_STALE_S", 0.0)
    with journal.building(place, "plan"):
        assert str(os.getpid()) in place.read(journal.LOCK).decode()
    assert place.sizes() == {}


HOSTILE = {
    "a pickle codec": lambda t: t["consolidated_metadata"]["metadata"]["record_id"]["codecs"].insert(
        0, {"name": "numcodecs.pickle", "configuration": {}}
    ),
    "a codec within shards": lambda t: t["consolidated_metadata"]["metadata"]["image"]["codecs"][0]["configuration"][
        "codecs"
    ].append({"name": "numcodecs.python", "configuration": {}}),
    "10^12 records": lambda t: [
        t["attributes"].update(samples=10**12),
        *[m["shape"].__setitem__(0, 10**12) for m in t["consolidated_metadata"]["metadata"].values() if m["shape"]],
    ],
    "10^12 pixels": lambda t: t["consolidated_metadata"]["metadata"]["latitude"].update(shape=[10**12]),
    "negative sizes": lambda t: t["consolidated_metadata"]["metadata"]["latitude"].update(shape=[-5]),
    "zarr 2": lambda t: t["consolidated_metadata"]["metadata"]["latitude"].update(zarr_format=2),
    "no codecs": lambda t: t["consolidated_metadata"]["metadata"]["latitude"].update(codecs=None),
    "arrays of a list": lambda t: t["consolidated_metadata"].update(metadata=[1, 2]),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_store_is_refused_before_anything_is_decoded(sealed40: Path, tmp_path: Path, kind: str) -> None:
    shutil.copytree(sealed40, tmp_path / "s.zarr")
    tree = json.loads((tmp_path / "s.zarr/zarr.json").read_text())
    HOSTILE[kind](tree)
    (tmp_path / "s.zarr/zarr.json").write_text(json.dumps(tree))
    restate(tmp_path / "s.zarr")
    with pytest.raises(ContrailError) as refused:
        open_store(tmp_path / "s.zarr")
    assert "\n" not in str(refused.value)
    assert "not those that were sealed" not in str(refused.value)


def test_a_manifest_that_leads_elsewhere_is_refused(sealed40: Path, tmp_path: Path) -> None:
    shutil.copytree(sealed40, tmp_path / "s.zarr")
    manifest = tmp_path / "s.zarr/manifest.txt"
    good = manifest.read_text()
    for name in ("../../escape", "/etc/escape", ".ssh/escape", "a/../../escape", "a\\escape"):
        manifest.write_text(good + f"{'0' * 16} 4 {name}\n")
        restate(tmp_path / "s.zarr")
        done = cli("pull", tmp_path / "s.zarr", "-o", tmp_path / "copy.zarr")
        assert done.returncode == 1
        assert "leads out" in done.stderr
        assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*escape*"))


def test_a_bomb_among_the_values_is_not_decoded(sealed40: Path, tmp_path: Path) -> None:
    shutil.copytree(sealed40, tmp_path / "s.zarr")
    for name, key in (("height", "height/c/0"), ("record_id", "record_id/c/0"), ("channel", "channel/c/0")):
        path = tmp_path / "s.zarr" / key
        whole = path.read_bytes()
        path.write_bytes(numcodecs.Zstd().encode(bytes(2**28)))  # 10 kB that become 256 MB
        reseal(tmp_path / "s.zarr")
        with pytest.raises(ContrailError, match=rf"{name}/c.* claims 268,435,456 bytes"):
            read_scalars(open_store(tmp_path / "s.zarr"))
        path.write_bytes(whole)
    reseal(tmp_path / "s.zarr")
    assert len(read_scalars(open_store(tmp_path / "s.zarr"))["record_id"]) == 39


def test_a_foreign_shard_index_takes_no_memory(sealed40: Path, tmp_path: Path) -> None:
    """Sizes that lie in an index are an error of that file."""
    from google_crc32c import value as crc32c

    shutil.copytree(sealed40, tmp_path / "s.zarr")
    path = tmp_path / "s.zarr/mask/c.0.0.0"
    content = bytearray(path.read_bytes())
    index = np.frombuffer(content[-16 * 16 - 4 : -4], "<u8").copy()
    index[1] = 10**15
    content[-16 * 16 - 4 :] = index.tobytes() + crc32c(index.tobytes()).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(ContrailError, match="does not decode"):
        pixel_reader(open_store(tmp_path / "s.zarr"), "mask")(0, [0], np.empty((1, 32, 32), np.uint8))


def test_zarr_alone_checks_the_same_bytes(sealed40: Path) -> None:
    group = zarr.open_group(sealed40, mode="r")
    store = open_store(sealed40)
    read = pixel_reader(store, check=True)
    out = np.empty((8, 3, 32, 32), np.uint8)
    for sample in (0, 7, 15, 16, 38):
        read(sample, range(8), out)
        np.testing.assert_array_equal(out, group["image"][sample])


def test_a_hole_is_filled_from_the_end_whatever_the_holes(tmp_path: Path) -> None:
    """Holes within, at the ends of and across shards; the pixels go with their record."""
    rng = np.random.default_rng(3)
    for bad in ([0], [15, 16], [17, 33], [31, 32, 33], list(range(16, 34)), list(range(16)), [33]):
        raw = tmp_path / f"raw{len(list(tmp_path.iterdir()))}"
        for i in range(34):
            write_record(raw / "train" / f"{i:03d}", rng, size=32)
        for i in bad:
            (raw / "train" / f"{i:03d}" / "band_14.npy").unlink()
        out = raw / "s.zarr"
        built = build_small(raw, out)
        assert built.samples == 34 - len(bad)
        store = open_store(out)
        assert sorted(store["record_id"].values) == [f"{i:03d}" for i in range(34) if i not in bad]
        for sample, record_id in enumerate(store["record_id"].values):
            band = np.load(raw / "train" / record_id / "band_14.npy")
            np.testing.assert_allclose(
                store["image"].values[sample, :, 2] / 255 * 60 + 243, np.moveaxis(band, -1, 0).clip(243, 303), atol=0.13
            )
        assert verify(Place(str(out))) == []


def test_what_changes_between_kill_and_resume_is_built_again(raw: Path, tmp_path: Path) -> None:
    add_records(raw, 20)
    out = tmp_path / "s.zarr"
    source = open_source(raw, "train", ASH)
    place = Place(str(out))
    plan = journal.plan_of(["x"])
    with pytest.raises(KeyboardInterrupt), journal.building(place, plan):
        raise KeyboardInterrupt
    assert (out / ".building").exists()
    made = build(source, SMALL, out, workers=1)  # nothing was finished: another plan may begin
    assert made.resumed == 0


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_no_command_overwrites_what_it_reads(sealed40: Path, tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    shutil.copytree(sealed40, store)
    (tmp_path / "link.zarr").symlink_to(store)
    write_record(tmp_path / "new/train/zz", np.random.default_rng(9))
    for args in (
        ("subset", store, "-o", store),
        ("subset", store, "-o", tmp_path / "link.zarr"),
        ("merge", store, sealed40, "-o", store),
        ("append", store, tmp_path / "new", "-o", store),
    ):
        done = cli(*args, "--overwrite")
        assert done.returncode == 1, args
        assert "store to read from: choose another -o" in done.stderr
    assert contents(store) == contents(sealed40)
    assert cli("subset", sealed40, "--records", "001", "-o", tmp_path / "link.zarr", "--overwrite").returncode == 0
    assert open_store(store).sizes["sample"] == 1  # through a link, the store itself
    done = cli("build-ash", tmp_path / "new", "-o", tmp_path / "new/train/x.zarr")
    assert "lies among the records" in done.stderr


def test_repair_only_from_a_copy_of_the_same_store(sealed40: Path, raw40: Path, tmp_path: Path) -> None:
    build_small(raw40, tmp_path / "other.zarr", settings=Settings(ASH, dtype="float16", size=32))
    for harm in (
        lambda s: flip(s / "manifest.txt"),
        lambda s: (s / "zarr.json").unlink(),
        lambda s: [(s / name).unlink() for name in ("zarr.json", "provenance.json")],
    ):
        store = tmp_path / "s.zarr"
        shutil.copytree(sealed40, store)
        harm(store)
        before = {p: p.read_bytes() for p in store.rglob("*") if p.is_file()}
        done = cli("verify", store, "--repair-from", tmp_path / "other.zarr")
        assert done.returncode == 1
        assert "another store" in done.stderr
        assert {p: p.read_bytes() for p in store.rglob("*") if p.is_file()} == before
        shutil.rmtree(store)


def test_two_damaged_copies_repair_each_other(sealed40: Path, raw40: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one.zarr", tmp_path / "two.zarr"
    for store, hurt in ((one, (0, 2)), (two, (0, 1))):
        shutil.copytree(sealed40, store)
        for shard in hurt:
            flip(store / f"image/c.{shard}.0.0.0.0")
    done = cli("verify", one, "--repair-from", two)
    assert done.returncode == 1
    assert "restored image/c.2.0.0.0.0" in done.stdout
    assert [d.path for d in verify(Place(str(one)))] == ["image/c.0.0.0.0.0"]
    flip(one / "record_id/c/0")  # everything is built anew to restore it
    assert cli("verify", one, "--repair-from", raw40).returncode == 0
    assert contents(one) == contents(sealed40)


def test_a_copy_is_verified_even_when_it_is_there(sealed40: Path, tmp_path: Path) -> None:
    store, copy = tmp_path / "s.zarr", tmp_path / "copy.zarr"
    shutil.copytree(sealed40, store)
    assert cli("pull", store, "-o", copy).returncode == 0
    flip(copy / "image/c.1.0.0.0.0")
    assert cli("pull", store, "-o", copy).returncode == 0
    assert contents(copy) == contents(sealed40)
    flip(store / "provenance.json")
    done = cli("pull", store, "-o", tmp_path / "new.zarr")
    assert done.returncode == 1
    assert "provenance.json" in done.stderr
    assert not (tmp_path / "new.zarr/zarr.json").exists()


def test_links_in_a_store_are_damage_and_nothing_is_written_through_them(sealed40: Path, tmp_path: Path) -> None:
    store, victim = tmp_path / "s.zarr", tmp_path / "victim"
    shutil.copytree(sealed40, store)
    shutil.move(store / "mask", victim)
    (store / "mask").symlink_to(victim)
    before = {p.name: p.read_bytes() for p in victim.iterdir()}
    flip(victim / "c.0.0.0")
    before["c.0.0.0"] = (victim / "c.0.0.0").read_bytes()
    assert "mask/c.1.0.0" in {d.path for d in verify(Place(str(store)))}
    assert cli("verify", store, "--repair-from", sealed40).returncode == 1
    assert {p.name: p.read_bytes() for p in victim.iterdir()} == before


def test_append_hands_no_damage_on(sealed40: Path, tmp_path: Path) -> None:
    write_record(tmp_path / "new/train/zz", np.random.default_rng(9))
    for key in ("image/c.1.0.0.0.0", "moments/c/0/0/0"):
        store = tmp_path / "s.zarr"
        shutil.copytree(sealed40, store)
        flip(store / key)
        done = cli("append", store, tmp_path / "new", "-o", tmp_path / "v2.zarr")
        assert done.returncode == 1
        assert f"{key}: fails its checksum" in done.stderr
        assert not (tmp_path / "v2.zarr/zarr.json").exists()
        shutil.rmtree(store)
