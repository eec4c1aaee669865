"""TFRecords by URL give the same store as those on the disk, and are read in ranges."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from contrail_data.errors import ContrailError
from contrail_data.sources.base import InputFormat
from contrail_data.sources.open import open_source
from contrail_data.sources.recognise import recognise
from helpers.cli import run_data
from helpers.faults import Fault, faulty_proxy
from helpers.file_server import served
from helpers.stores import ASH, build_small, contents
from helpers.tfrecords import convert

SHARDS = 3


@pytest.fixture
def bucket(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `bucket` in which the nine records of `raw` lie below a prefix, in three shards of a hundred."""
    monkeypatch.setenv("CONTRAIL_CACHE", str(tmp_path / "cache"))
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT", "AWS_ACCESS_KEY_ID"):
        monkeypatch.delenv(name, raising=False)
    folder = convert(raw, tmp_path / "served/bucket/2025/data", shards=SHARDS)
    for path in folder.iterdir():
        path.rename(folder / path.name.replace(f"-of-{SHARDS:05d}", "-of-00100"))
    build_small(folder, tmp_path / "local.zarr")
    return folder.parents[1]


def test_a_bucket_of_google_is_read_without_credentials(
    bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(bucket.parent) as (url, requests):
        monkeypatch.setenv("GOOGLE_BASE_URL", url)
        where = "gs://bucket/2025/data"
        assert recognise(where, "train") is InputFormat.TFRECORDS
        done = run_data("build-ash", where, "-o", tmp_path / "s.zarr", "--size", 32)
        assert done.returncode == 0, done.stderr
        assert f"{SHARDS} of 100 shards of train are there" in done.stderr
        assert contents(tmp_path / "s.zarr") == contents(tmp_path / "local.zarr")
        assert all("bytes=" in request for request in requests if ".tfrecords" in request)
        file = f"{where}/train.tfrecords-00001-of-00100"
        assert open_source(file, "train", ASH, InputFormat.TFRECORDS).record_ids
        requests.clear()
        assert len(open_source(where, "train", ASH).record_ids) == 9  # from the cached index
        assert not any(".tfrecords" in request for request in requests)


def _upload(bucket: Path, url: str) -> None:
    """Write the shards to a bucket."""
    import boto3

    name, _, prefix = url.removeprefix("s3://").partition("/")
    for path in (bucket / "2025/data").iterdir():
        boto3.client("s3").upload_file(str(path), name, f"{prefix}/{path.name}")


def test_an_s3_bucket_is_read_through_a_network_that_fails(
    bucket: Path, tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _upload(bucket, f"{s3}/tf")
    tried: Counter[str] = Counter()

    def choose(method: str, path: str) -> Fault | None:
        tried[f"{method} {path}"] += 1
        faults = {1: Fault.RESET, 5: Fault.CUT, 9: Fault.ERROR}
        return faults.get(tried[f"{method} {path}"]) if ".tfrecords" in path else None

    with faulty_proxy(os.environ["AWS_ENDPOINT_URL"], choose) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        build_small(f"{s3}/tf", tmp_path / "s.zarr")
    assert contents(tmp_path / "s.zarr") == contents(tmp_path / "local.zarr")


def test_a_bit_that_the_network_flips_is_noticed(
    bucket: Path, tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _upload(bucket, f"{s3}/tf")
    armed: list[bool] = []
    flipped: list[str] = []

    def choose(method: str, path: str) -> Fault | None:
        if method == "GET" and "00001-of" in path and armed and not flipped:
            flipped.append(path)
            return Fault.FLIP
        return None

    with faulty_proxy(os.environ["AWS_ENDPOINT_URL"], choose) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        source = open_source(f"{s3}/tf", "train", ASH)
        armed.append(True)
        for record_id in source.record_ids:
            source.read_sample(record_id)
    assert flipped


def test_published_names_are_found_over_https(bucket: Path, tmp_path: Path) -> None:
    with served(bucket.parent) as (url, requests):
        where = f"{url}/bucket/2025/data"
        done = run_data("build-ash", where, "--source", "tfrecords", "-o", tmp_path / "s.zarr", "--size", 32)
        assert done.returncode == 0, done.stderr
        assert contents(tmp_path / "s.zarr") == contents(tmp_path / "local.zarr")
        assert sum(request.startswith("HEAD") and "tfrecords-" in request for request in requests) >= 100
        file = f"{where}/train.tfrecords-00002-of-00100"
        assert recognise(file, "train") is InputFormat.TFRECORDS
        assert len(open_source(file, "train", ASH).record_ids) == 3
        with pytest.raises(ContrailError, match="holds no TFRecords"):
            open_source(f"{url}/bucket", "train", ASH, InputFormat.TFRECORDS)
        with pytest.raises(ContrailError, match="no such file"):
            open_source(f"{where}/train.tfrecords-00007-of-00100", "train", ASH, InputFormat.TFRECORDS)


def test_a_server_without_ranges_is_named(bucket: Path, tmp_path: Path) -> None:
    with served(bucket.parent, ranges=False) as (url, _):
        file = f"{url}/bucket/2025/data/train.tfrecords-00002-of-00100"
        done = run_data("build-ash", file, "-o", tmp_path / "s.zarr", "--size", 32)
    assert done.returncode == 1
    assert "00002-of-00100: the server sends no parts of files; download it and name the copy" in done.stderr
    assert not (tmp_path / "s.zarr").exists()
