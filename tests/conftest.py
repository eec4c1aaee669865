"""Raw records, sealed stores, an object store, and the real data where it is installed.

The process that hands out the tests imports this file before it starts the others: what takes long is imported by the
fixtures.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

# Torch's threads wait for one another by spinning: beside another process of the tests, two of them took 4 to 6 times
# as long as one. This must be set before anything imports torch; subprocesses inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import numpy as np
import pytest

from contrail_data.process import speed_up_imports
from contrail_data.storage import object_storage
from helpers.places import REAL_DATA
from helpers.records import write_record, write_train_split
from helpers.shared import shared

speed_up_imports()
hypothesis.settings.register_profile("any speed", deadline=None)
hypothesis.settings.load_profile("any speed")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let each process begin with its share of the slow tests, so that no long test is left for the end.

    `--dist worksteal` gives each process a contiguous part of the tests; one that is done takes from the others' ends.
    """
    slow = [item for item in items if item.get_closest_marker("slow")]
    quick = [item for item in items if not item.get_closest_marker("slow")]
    items.clear()
    for processes in range(getattr(config, "workerinput", {}).get("workercount", 1), 0, -1):
        share, first = (len(slow) + len(quick)) // processes, len(slow) // processes
        items += slow[:first] + quick[: share - first]
        del slow[:first], quick[: share - first]


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """Leave it to the kernel when files reach the disk: a test run need not survive a power cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _short_pauses_between_tries() -> Iterator[None]:
    """Repeat requests to object storage soon: what makes the tests' servers fail does not go away with time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(object_storage, "PAUSE_S", 0.0)
        yield


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Leave the user's cache alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONTRAIL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data next to the project, or the one named by CONTRAIL_REAL_DATA."""
    if not (REAL_DATA / "opencontrails").is_dir():
        pytest.skip("the real data is not installed")
    return REAL_DATA


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Nine train records with metadata, except for the last."""
    return write_train_split(tmp_path)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of sixteen 64-pixel records in which dark streaks in red are contrails."""
    from helpers.runs import streaked

    return shared(tmp_path_factory, "train", lambda folder: streaked(folder, 0))


@pytest.fixture(scope="session")
def unseen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of sixteen more."""
    from helpers.runs import streaked

    return shared(tmp_path_factory, "unseen", lambda folder: streaked(folder, 100))


@pytest.fixture(scope="session")
def finished(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on `store` that nothing disturbed."""
    from helpers.cli import run_train
    from helpers.runs import TINY, set_options

    def train(folder: Path) -> Path:
        done = run_train("run", "unet2d", "--out", folder / "run", *set_options(*TINY, f"data.train={store}"))
        assert done.returncode == 0, done.stderr
        return folder / "run"

    return shared(tmp_path_factory, "finished", train)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of `small_predictor` by suffix, in the same folder as its predictions for noise."""
    import torch

    from contrail_train.inference.export import export
    from contrail_train.inference.names import SUFFIXES
    from helpers.exports import SIDE, small_predictor

    def write(folder: Path) -> Path:
        model = small_predictor()
        for suffix in SUFFIXES:
            export(model, folder / f"detector{suffix}")
        window = np.random.default_rng(3).integers(0, 256, (3, 1, 3, SIDE, SIDE), np.uint8)
        output = model.detect(torch.from_numpy(window), None)
        is_open = output.score_b >= model.decision.gate
        mask = (output.probability_bhw >= model.decision.threshold) & is_open[:, None, None]
        answers = {"probability": output.probability_bhw.detach().numpy(), "mask": mask.numpy().astype(np.uint8)}
        np.savez(folder / "expected.npz", window=window, **answers)
        return folder

    folder = shared(tmp_path_factory, "exported", write)
    return {suffix: folder / f"detector{suffix}" for suffix in SUFFIXES}


@pytest.fixture(scope="session")
def raw40(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty records, three shards; one record lacks a band."""

    def write(raw: Path) -> Path:
        rng = np.random.default_rng(0)
        for i in range(40):
            write_record(raw / "train" / f"{i:03d}", rng)
        (raw / "train" / "007" / "band_11.npy").unlink()
        return raw

    return shared(tmp_path_factory, "forty", write)


@pytest.fixture(scope="session")
def sealed40(raw40: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of `raw40`; no test may change it."""
    from helpers.stores import build_small

    def write(folder: Path) -> Path:
        build_small(raw40, folder / "s.zarr")
        return folder / "s.zarr"

    return shared(tmp_path_factory, "sealed", write)


@pytest.fixture(scope="session")
def _s3_server() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(_s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket of a local S3-compatible server, reached by the usual environment variables."""
    import boto3

    for name, value in {
        "AWS_ENDPOINT_URL": _s3_server,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CONTRAIL_CACHE", str(tmp_path / "cache"))
    bucket = f"b{uuid.uuid4().hex}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    return f"s3://{bucket}"
