"""A build that was killed or ran out of disk space resumes and gives the same bytes."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from contrail_data.build.build import build
from contrail_data.errors import BadRecord, ContrailError
from contrail_data.progress import Advance
from contrail_data.sources.open import open_source
from contrail_data.storage.place import Place
from contrail_data.store import journal
from contrail_data.store.reader import open_store
from contrail_data.store.verify import verify
from helpers.cli import run_data
from helpers.kills import environment_with_hooks
from helpers.records import add_records, write_record
from helpers.stores import ASH, SMALL, build_small, contents, remote_contents


def test_shards_finished_before_a_change_of_metadata_are_rebuilt(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_records(raw, 20)
    out, path = tmp_path / "s.zarr", raw / "train_metadata.json"
    bad_file = max((raw / "train").iterdir()) / "band_11.npy"
    content = bad_file.read_bytes()
    bad_file.write_bytes(content[:50])
    with monkeypatch.context() as patch:
        patch.setattr("contrail_data.build.build.run_tasks", lambda tasks, *_: (task() for task in tasks))  # in order
        with pytest.raises(BadRecord):
            build_small(raw, out, strict=True)
    bad_file.write_bytes(content)
    assert len(list((out / ".building").glob("*.json"))) == 1
    entries = json.loads(path.read_text())
    for entry in entries:
        entry["timestamp"] += 86400
    path.write_text(json.dumps(entries))
    build_small(raw, out)
    assert build_small(raw, tmp_path / "fresh.zarr").digest == open_store(out).attrs["digest"]


@pytest.mark.slow
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
    built = build_small(raw40, url)  # the lock of the dead builder is recognised as stale
    assert built.resumed >= 8
    assert remote_contents(Place(url)) == contents(sealed40)


KILLED = """
import json, os, sys
import cv2, dask, dask.threaded, pyproj, scipy.ndimage, zarr
from pathlib import Path
from contrail_data.build.build import build
from contrail_data.composites import COMPOSITES
from contrail_data.labels.flow import propagate
from contrail_data.sources.open import open_source
from contrail_data.sources.select import select_distinct
from contrail_data.sources.stores import appended, from_stores
from contrail_data.store.reader import open_store
from contrail_data.store.settings import StoreSettings
from killing import kill_at_event
settings = StoreSettings(COMPOSITES["ash"], size=32)
for line in sys.stdin:
    operation, out, statement = json.loads(line)
    child = os.fork()
    if child == 0:
        os.setsid()
        sys.stderr = open(os.devnull, "w")
        kill_at_event(f"{out}/*", operation)
        exec(statement)
        os._exit(0)
    print(os.waitpid(child, 0)[1], flush=True)
"""
"""For each line on stdin, run a statement in a forked process that kills itself at a file operation in a store, and
print the exit status. Separate processes would spend most of their time on imports."""
RECORDS = "open_source(Path({!r}), 'train', settings.composite)"


@contextmanager
def killer() -> Iterator[Callable[[int, Path, str], int]]:
    """Yield a function that runs a statement until it is killed at a file operation in a store; returns the status."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", KILLED], env=environment_with_hooks(), **pipes) as process:

        def kill(operation: int, out: Path, statement: str) -> int:
            process.stdin.write(json.dumps([operation, str(out), statement]) + "\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        yield kill
        process.stdin.close()


@pytest.mark.slow
def test_fifty_kills_end_in_the_same_store(tmp_path: Path) -> None:
    raw, rng, moments = tmp_path / "raw", np.random.default_rng(0), random.Random(1)
    for i in range(96):
        write_record(raw / "train" / f"{i:03d}", rng)
    for i in (7, 60, 61, 95):
        (raw / "train" / f"{i:03d}" / "band_11.npy").unlink()
    uninterrupted = build_small(raw, tmp_path / "whole.zarr")
    out = tmp_path / "killed.zarr"
    finished_shards: list[int] = []
    with killer() as kill:
        for _ in range(50):
            # Opening takes about 20 file operations, each of the six shards 13, and sealing 210.
            operation = moments.randint(1, moments.choice([100, 400]))
            status = kill(operation, out, f"build({RECORDS.format(str(raw))}, settings, out, workers=2)")
            if (out / "zarr.json").exists():
                assert open_store(out).attrs["digest"] == uninterrupted.digest
                shutil.rmtree(out)
                continue
            assert status == signal.SIGKILL
            finished_shards.append(len(list((out / ".building").glob("0*.json"))))
            if out.exists():
                with pytest.raises(ContrailError, match="unfinished"):
                    open_store(out)
    assert len(finished_shards) > 25
    assert len(set(finished_shards)) > 3, finished_shards  # killed early, midway and late
    assert run_data("build-ash", raw, "-o", out, "--size", 32).returncode == 3  # four records are set aside
    assert open_store(out).attrs["digest"] == uninterrupted.digest
    assert contents(out) == contents(tmp_path / "whole.zarr")
    assert not (out / ".building").exists()


@pytest.mark.slow
def test_killed_commands_on_stores_end_in_the_same_store(sealed40: Path, tmp_path: Path) -> None:
    raw, new, parent = tmp_path / "raw", tmp_path / "new.zarr", f"open_store({str(sealed40)!r})"
    for i in range(20):
        write_record(raw / "train" / f"new{i}", np.random.default_rng(i))
    build_small(raw, new)
    with killer() as kill:
        for command, source in (
            (("append", sealed40, raw), f"appended({parent}, {RECORDS.format(str(raw))})"),
            (("merge", sealed40, new), f"from_stores(select_distinct([{parent}, open_store({str(new)!r})]))"),
            (("propagate", sealed40), ""),
        ):
            whole, out = tmp_path / f"{command[0]}.zarr", tmp_path / f"killed-{command[0]}.zarr"
            assert run_data(*command, "-o", whole).returncode == 0
            statement = f"build({source}, settings, out, workers=2)" if source else f"propagate({parent}, out)"
            finished_shards = set()
            for operation in (8, 40, 100, 150):
                kill(operation, out, statement)
                finished_shards.add(len(list((out / ".building").glob("0*.json"))))
            assert len(finished_shards) > 1
            assert run_data(*command, "-o", out).returncode == 0
            assert contents(out) == contents(whole)


@pytest.mark.parametrize("command", ["build-ash", "merge", "propagate"])
def test_a_second_command_at_once_is_refused_and_harms_nothing(
    command: str, raw40: Path, sealed40: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (raw40, "--size", 32) if command == "build-ash" else (sealed40,)
    arguments = (command, *source, "-o", tmp_path / "s.zarr")
    others = []
    with monkeypatch.context() as patch:
        patch.setattr(
            Advance, "__call__", lambda *_: others.append(run_data(*arguments, *["--overwrite"] * (len(others) == 1)))
        )
        first = run_data(*arguments)
    assert first.returncode in (0, 3), first.stderr
    assert len(others) > 1
    for other in others:
        assert other.returncode == 1
        assert f"{tmp_path / 's.zarr'}: is being built by" in other.stderr
    assert verify(Place(str(tmp_path / "s.zarr"))) == []


@pytest.mark.slow
def test_a_full_disk_is_an_error_of_one_line_and_the_build_resumes_with_more_space(
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


def test_gaps_left_by_bad_records_are_filled_from_the_end(tmp_path: Path) -> None:
    """Bad records lie within, at the ends of and across shards; pixels must stay with their record."""
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
        for record_id, image in zip(store["record_id"].values, store["image"].values, strict=True):
            band = np.load(raw / "train" / record_id / "band_14.npy")
            np.testing.assert_allclose(image[:, 2] / 255 * 60 + 243, np.moveaxis(band, -1, 0).clip(243, 303), atol=0.13)
        assert verify(Place(str(out))) == []


def test_a_build_that_finished_no_shard_may_restart_with_another_plan(raw: Path, tmp_path: Path) -> None:
    add_records(raw, 20)
    out = tmp_path / "s.zarr"
    source = open_source(raw, "train", ASH)
    place = Place(str(out))
    plan = journal.plan_of(["x"])
    with pytest.raises(KeyboardInterrupt), journal.building(place, plan):
        raise KeyboardInterrupt
    assert (out / ".building").exists()
    built = build(source, SMALL, out, workers=1)  # no shard was finished, so another plan may start
    assert built.resumed == 0
