"""Builds on a dask cluster."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from contrail_data.errors import ContrailError
from contrail_data.store.reader import open_store
from helpers.places import PROJECT
from helpers.records import write_record
from helpers.stores import build_small, contents


@contextmanager
def cluster(workers: int) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    dask = [sys.executable, "-m", "dask"]
    scheduler = subprocess.Popen(
        [*dask, "scheduler", "--host", "127.0.0.1", "--port", address.rsplit(":", 1)[1], "--no-dashboard"], **quiet
    )
    started = [
        subprocess.Popen(
            [*dask, "worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard"], env=environment, **quiet
        )
        for _ in range(workers)
    ]
    try:
        yield address, started
    finally:
        for process in [*started, scheduler]:
            process.kill()
            process.wait()


def test_a_cluster_that_loses_a_worker_builds_the_same_store(tmp_path: Path) -> None:
    raw, rng = tmp_path / "raw", np.random.default_rng(0)
    for i in range(200):
        write_record(raw / "train" / f"{i:03d}", rng)
    (raw / "train" / "042" / "band_11.npy").unlink()
    whole = build_small(raw, tmp_path / "whole.zarr")
    out = tmp_path / "s.zarr"
    with cluster(3) as (address, workers):
        command = [
            sys.executable,
            "-c",
            "from contrail_data.cli.main import main; main()",
            "build-ash",
            str(raw),
            "-o",
            out,
        ]
        builder = subprocess.Popen(
            [*command, "--size", "32", "--scheduler", address], stderr=subprocess.PIPE, stdout=subprocess.PIPE
        )
        while not list((out / ".building").glob("0*.json")):
            time.sleep(0.005)
            assert builder.poll() is None, builder.communicate()
        workers[0].send_signal(signal.SIGKILL)
        stdout, stderr = builder.communicate(timeout=60)
    assert builder.returncode == 1, stderr  # one record is set aside
    assert "199 samples, 1 set aside" in stdout.decode()
    assert contents(out) == contents(tmp_path / "whole.zarr")
    assert open_store(out).attrs["digest"] == whole.digest


def test_a_scheduler_that_does_not_answer_is_an_error(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(ContrailError, match="use threads, processes or an address"):
        build_small(raw, tmp_path / "s.zarr", scheduler="thread")
