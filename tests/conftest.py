"""Records small enough for tests, and the real data where it is there."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

# Torch's threads wait for one another by spinning: beside another process of the tests, two of them took 4 to 6 times
# as long as one. Before anything imports torch; subprocesses inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import xxhash

from contrail_data.store.manifest import digest_of

WKT = (
    'PROJCS["unknown",GEOGCS["unknown",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,298.257223563]],'
    'PRIMEM["Greenwich",0],UNIT["degree",0.0174532925199433]],PROJECTION["Transverse_Mercator"],'
    'PARAMETER["latitude_of_origin",0],PARAMETER["central_meridian",-63],PARAMETER["scale_factor",0.9996],'
    'PARAMETER["false_easting",500000],PARAMETER["false_northing",0],UNIT["metre",1]]'
)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data beside the project, or the one named by CONTRAIL_REAL_DATA."""
    path = Path(os.environ.get("CONTRAIL_REAL_DATA", Path(__file__).parents[2] / "shared/data"))
    if not (path / "opencontrails").is_dir():
        pytest.skip("the real data is not here")
    return path


def write_record(folder: Path, rng: np.random.Generator, *, size: int = 32, bands: tuple[int, ...] = (11, 14, 15)):
    """One record of plausible kelvin with a streak; returns its folder."""
    folder.mkdir(parents=True)
    for band in bands:
        field = 280 + 5 * rng.standard_normal((size, size, 8)).cumsum(0) / size - (band - 14) * 0.5
        np.save(folder / f"band_{band:02d}.npy", field.astype("<f4"))
    votes = np.zeros((size, size, 1, 4), "<i4")
    votes[size // 2, 3 : size // 2, 0, :3] = 1
    votes[size // 4, 3 : size // 2, 0, :2] = 1  # a 2-2 tie is no contrail
    np.save(folder / "human_individual_masks.npy", votes)
    np.save(folder / "human_pixel_masks.npy", (votes.mean(-1) > 0.5).astype("<i4"))
    return folder


def reseal(store: Path) -> None:
    """What an attacker does who has changed a store: manifest and digest that fit what is there now."""
    lines = []
    for path in sorted(p for p in store.rglob("*") if p.is_file()):
        key = path.relative_to(store).as_posix()
        if key not in ("zarr.json", "manifest.txt", "provenance.json"):
            content = path.read_bytes()
            lines.append(f"{xxhash.xxh3_64_hexdigest(content)} {len(content)} {key}\n")
    (store / "manifest.txt").write_text("".join(lines))
    restate(store)


def restate(store: Path) -> None:
    """The same for the manifest and attributes as they are."""
    tree = json.loads((store / "zarr.json").read_text())
    if isinstance(tree, dict) and isinstance(tree.get("attributes"), dict):
        digest = hashlib.sha256((store / "manifest.txt").read_bytes()).hexdigest()
        tree["attributes"]["manifest"] = f"sha256:{digest}"
        tree["attributes"]["digest"] = digest_of(tree["attributes"])
        (store / "zarr.json").write_text(json.dumps(tree))


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Nine train records with metadata, the last without."""
    rng = np.random.default_rng(0)
    root = tmp_path / "raw"
    entries = []
    for i in range(9):
        record_id = str(18446744073709551616 + i)  # over 2^63: never an integer
        write_record(root / "train" / record_id, rng)
        entry = {"record_id": record_id, "projection_wkt": WKT, "row_min": 2686377.25, "row_size": -1984.9}
        entry |= {"col_min": 466287.28, "col_size": 1929.8, "timestamp": 1583980800.0 + 1200 * i}
        entries.append(entry)
    (root / "train_metadata.json").write_text(json.dumps(entries[:-1]))
    return root


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
