import gc
import os
import signal
from pathlib import Path

import pytest

from contrail_data.process import WAIT_POLICY, end_with_parent, exit_on_sigterm, garbage_kept, share_cores
from contrail_data.progress import Advance
from contrail_data.storage.place import STAGING
from contrail_data.store.reader import open_store
from helpers.cli import run_data
from helpers.stores import contents


def test_sigterm_closes_what_is_open_and_is_handled_once() -> None:
    closed = []

    @exit_on_sigterm()
    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            closed.append(True)

    with pytest.raises(SystemExit, match="143"):
        work()
    assert closed


def test_a_child_ends_with_its_parent() -> None:
    reading, writing = os.pipe()
    if not (parent := os.fork()):
        os.close(reading)
        if not os.fork():
            end_with_parent(signal.SIGKILL)
            os.write(writing, b"ready")
        signal.pause()
    os.close(writing)
    assert os.read(reading, 5) == b"ready"
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    assert os.read(reading, 1) == b""  # the child has ended and closed its end


@pytest.mark.parametrize("scheduler", ["threads", pytest.param("processes", marks=pytest.mark.slow)])
def test_sigterm_during_a_build_keeps_the_finished_shards(
    scheduler: str, raw40: Path, sealed40: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "s.zarr"
    command = ("build-ash", raw40, "-o", out, "--size", 32, "--workers", 1, "--scheduler", scheduler)
    with monkeypatch.context() as patch:
        patch.setattr(Advance, "__call__", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        stopped = run_data(*command)
    assert stopped.returncode == 143, stopped.stderr
    remedy = "run the same command again: unfinished stores, copies, runs and series of scans continue"
    assert stopped.stderr.splitlines()[-1] == f"error: terminated by a signal; {remedy}"
    assert list((out / STAGING).glob("*.json"))
    continued = run_data(*command)
    assert continued.returncode == 3, continued.stderr  # a record is set aside
    assert "already finished" in continued.stdout
    assert contents(out) == contents(sealed40)
    assert open_store(out).attrs["digest"] == open_store(sealed40).attrs["digest"]


def test_threads_sleep_while_they_wait_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WAIT_POLICY, "active")
    share_cores()
    assert os.environ[WAIT_POLICY] == "active"
    monkeypatch.delenv(WAIT_POLICY)
    share_cores()
    assert os.environ[WAIT_POLICY] == "passive"


def test_garbage_is_kept_during_imports_only() -> None:
    with garbage_kept():
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.unfreeze()
