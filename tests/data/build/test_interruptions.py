"""A build that was killed, or ran out of disk, resumes to the same bytes."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from contrail_data.build.build import build
from contrail_data.errors import BadRecord, ContrailError
from contrail_data.sources.open import open_source
from contrail_data.storage.place import Place
from contrail_data.store import journal
from contrail_data.store.reader import open_store
from contrail_data.store.verify import verify
from helpers.cli import run_data
from helpers.kills import environment_with_hooks
from helpers.records import add_records, write_record
from helpers.stores import ASH, SMALL, build_small, contents, remote_contents


def test_changed_metadata_is_not_mixed_with_old(raw: Path, tmp_path: Path) -> None:
    add_records(raw, 20)
    out, path = tmp_path / "s.zarr", raw / "train_metadata.json"
    bad = sorted((raw / "train").iterdir())[2] / "band_11.npy"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:50])
    with pytest.raises(BadRecord):
        build_small(raw, out, workers=1, strict=True)
    bad.write_bytes(whole)
    assert any((out / ".building").glob("*.json"))
    entries = json.loads(path.read_text())
    for entry in entries:
        entry["timestamp"] += 86400
    path.write_text(json.dumps(entries))
    build_small(raw, out)
    assert build_small(raw, tmp_path / "fresh.zarr").digest == open_store(out).attrs["digest"]


def test_a_build_on_object_storage_resumes_after_a_kill(raw40: Path, sealed40: Path, s3: str) -> None:
    url = f"{s3}/killed.zarr"
    program = """
import os, signal
from contrail_data.cli.main import main
from contrail_data.storage.place import Place
write = Place.write

def write_or_die(place, key, parts):
    if place.remote and key.startswith(".building/00000001"):  # the journal entry of the second shard
        os.kill(os.getpid(), signal.SIGKILL)
    write(place, key, parts)

Place.write = write_or_die
main()
"""
    command = [sys.executable, "-c", program, "build-ash", raw40, "-o", url, "--size", "32", "--workers", "1"]
    assert subprocess.run([*map(str, command)], stderr=subprocess.DEVNULL).returncode == -signal.SIGKILL
    with pytest.raises(ContrailError, match="unfinished"):
        open_store(url)
    made = build_small(raw40, url)  # the dead builder's lock is known for what it is
    assert made.resumed >= 8
    assert remote_contents(Place(url)) == contents(sealed40)


BUILDER = """
import os, sys
from pathlib import Path
import dask, dask.threaded, pyproj, scipy.ndimage, zarr
from contrail_data.build.build import build
from contrail_data.composites import COMPOSITES
from contrail_data.sources.open import open_source
from contrail_data.store.settings import StoreSettings
from killing import kill_at_event
raw, out = sys.argv[1:]
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os.setsid()
        sys.stderr = open(os.devnull, "w")
        kill_at_event(f"{out}/*", int(line))
        ash = COMPOSITES["ash"]
        build(open_source(Path(raw), "train", ash), StoreSettings(ash, size=32), out, workers=2)
        os._exit(0)
    print(os.waitpid(child, 0)[1], flush=True)
"""
"""For each number on stdin, build in a forked process that kills itself at its file operation of that number, and print
the exit status. Fifty processes of their own would spend most of their time importing."""


@pytest.mark.slow
def test_fifty_kills_end_in_the_same_store(tmp_path: Path) -> None:
    raw, rng, moments = tmp_path / "raw", np.random.default_rng(0), random.Random(1)
    for i in range(96):
        write_record(raw / "train" / f"{i:03d}", rng)
    for i in (7, 60, 61, 95):
        (raw / "train" / f"{i:03d}" / "band_11.npy").unlink()
    whole = build_small(raw, tmp_path / "whole.zarr")
    out = tmp_path / "killed.zarr"
    builders = subprocess.Popen(
        [sys.executable, "-c", BUILDER, str(raw), str(out)],
        env=environment_with_hooks(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert builders.stdin
    assert builders.stdout
    finished_shards: list[int] = []
    for _ in range(50):
        # Opening takes about 20 file operations, each of the six shards 20, and sealing 230.
        builders.stdin.write(f"{moments.randint(1, moments.choice([100, 400]))}\n")
        builders.stdin.flush()
        status = int(builders.stdout.readline())
        if (out / "zarr.json").exists():
            assert open_store(out).attrs["digest"] == whole.digest
            shutil.rmtree(out)
            continue
        assert status == signal.SIGKILL
        finished_shards.append(len(list((out / ".building").glob("0*.json"))))
        if out.exists():
            with pytest.raises(ContrailError, match="unfinished"):
                open_store(out)
    builders.stdin.close()
    builders.wait()
    assert len(finished_shards) > 25
    assert len(set(finished_shards)) > 3, finished_shards  # killed early, midway and late
    assert run_data("build-ash", raw, "-o", out, "--size", 32).returncode == 1  # four records are set aside
    assert open_store(out).attrs["digest"] == whole.digest
    assert contents(out) == contents(tmp_path / "whole.zarr")
    assert not (out / ".building").exists()


@pytest.mark.slow
def test_a_full_disk_ends_in_one_line_and_resumes_when_there_is_room(
    raw40: Path, sealed40: Path, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk]).returncode:
        pytest.skip("needs to mount a tmpfs")
    try:
        done = run_data("build-ash", raw40, "--size", 32, "-o", disk / "s.zarr")
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith("error: ")
        assert "No space left on device" in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
        with pytest.raises(ContrailError, match="unfinished"):
            open_store(disk / "s.zarr")
        subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
        done = run_data("build-ash", raw40, "--size", 32, "-o", disk / "s.zarr")
        assert open_store(disk / "s.zarr").attrs["digest"] == open_store(sealed40).attrs["digest"], done.stderr
    finally:
        subprocess.run(["umount", disk], check=True)


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
