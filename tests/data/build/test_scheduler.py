"""Builds on threads and on a dask cluster."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
from distributed.comm import CommClosedError

from contrail_data.errors import ContrailError
from contrail_data.sample import Sample
from contrail_data.sources.records import RecordSource
from contrail_data.store.layout import Layout
from contrail_data.store.reader import open_store
from contrail_data.store.schema import SHARD
from contrail_data.store.shards import ShardWriter, writing_shards
from helpers.cli import run_data
from helpers.kills import environment_with_hooks
from helpers.records import add_records, write_record
from helpers.stores import build_small, contents


@contextmanager
def cluster(environments: Sequence[dict[str, str]]) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """Start a scheduler and one worker in each environment, and wait until all are connected."""
    from distributed import Client

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    dask = [sys.executable, "-m", "dask"]
    port = address.rpartition(":")[2]
    scheduler = subprocess.Popen([*dask, "scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard"], **quiet)
    command = [*dask, "worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard"]
    workers = [subprocess.Popen(command, env=env, start_new_session=True, **quiet) for env in environments]
    try:
        with Client(address, timeout=600) as client:
            client.wait_for_workers(len(workers))
        yield address, workers
    finally:
        for process in [*workers, scheduler]:
            process.kill()
            process.wait()


@pytest.mark.slow
def test_a_cluster_that_loses_a_worker_builds_the_same_store(tmp_path: Path) -> None:
    raw, rng = tmp_path / "raw", np.random.default_rng(0)
    for i in range(100):
        write_record(raw / "train" / f"{i:03d}", rng)
    (raw / "train" / "042" / "band_11.npy").unlink()
    local = build_small(raw, tmp_path / "whole.zarr")
    out = tmp_path / "s.zarr"
    # The first worker is killed within its first shard.
    killed_environment = environment_with_hooks(pattern=f"{out}/*", events=["os.rename"])
    with cluster([killed_environment, dict(os.environ), dict(os.environ)]) as (address, workers):
        done = run_data("build-ash", raw, "-o", out, "--size", 32, "--scheduler", address)
        assert workers[0].wait() == -signal.SIGKILL
    assert done.returncode == 3, done.stderr  # one record is set aside
    assert "99 samples, 1 set aside" in done.stdout
    assert contents(out) == contents(tmp_path / "whole.zarr")
    assert open_store(out).attrs["digest"] == local.digest


@pytest.mark.parametrize("error", [CommClosedError, CancelledError])
def test_a_scheduler_that_dies_ends_the_build_in_one_line(
    error: type[Exception], raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real one was killed to see what the client raises; reconnecting takes it 20 s."""
    client = MagicMock()
    client.__enter__.return_value.map.return_value = ["future"]
    client.__enter__.return_value.cancel.side_effect = CommClosedError
    monkeypatch.setattr("distributed.Client", lambda *_, **__: client)
    monkeypatch.setattr("distributed.wait", MagicMock(side_effect=error))
    with pytest.raises(ContrailError, match="does not answer any more; start it and its workers, and repeat"):
        build_small(raw, tmp_path / "s.zarr", scheduler="tcp://host:8786")


def test_an_unknown_scheduler_is_refused(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(ContrailError, match="give threads, processes or an address"):
        build_small(raw, tmp_path / "s.zarr", scheduler="thread")


def test_a_shard_is_computed_while_another_one_waits_for_the_disk(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_records(raw, 20)
    out, read, next_is_computed = tmp_path / "s.zarr", RecordSource.read_sample, threading.Event()
    finished = []

    def read_sample(source: RecordSource, record_id: str) -> Sample:
        if len(source.record_ids) < SHARD and not next_is_computed.is_set():  # the second and last shard
            finished.extend((out / ".building").glob("*.json"))
            next_is_computed.set()
        return read(source, record_id)

    @contextmanager
    def writing_on_a_slow_disk(layouts: Mapping[str, Layout], number: int) -> Iterator[Mapping[str, ShardWriter]]:
        with writing_shards(layouts, number) as writers:
            yield writers
            assert number == 1 or next_is_computed.wait(60)

    monkeypatch.setattr(RecordSource, "read_sample", read_sample)
    monkeypatch.setattr("contrail_data.build.shard.writing_shards", writing_on_a_slow_disk)
    assert build_small(raw, out, workers=1).samples == 29
    assert not finished  # the journal does not name files that are not on the disk
