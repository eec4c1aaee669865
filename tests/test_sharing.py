"""Stores from hand to hand: object storage, clusters, copies, versions, subsets."""

from __future__ import annotations

import json
import os
import shutil
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
import xarray as xr
from conftest import write_record
from test_build import ASH, SMALL, add_records, build_small, cli, contents
from test_safety import raw40, sealed40  # noqa: F401 - fixtures

from contrail_data.build.build import build
from contrail_data.catalog.catalog import open_named
from contrail_data.errors import ContrailError
from contrail_data.reports.diff import diff
from contrail_data.sources.open import open_source
from contrail_data.sources.select import choose, settings_of, without_repeats
from contrail_data.sources.stores import appended, from_stores
from contrail_data.storage.place import Place, place_of
from contrail_data.store.cache import cache_place, local_copy
from contrail_data.store.reader import open_store, pixel_reader
from contrail_data.store.settings import Settings
from contrail_data.store.transfer import copy_store
from contrail_data.store.verify import verify


def remote_contents(place: Place) -> dict[str, bytes]:
    return {key: place.read(key) for key in place.sizes() if key != "provenance.json"}


# ---- object storage ------------------------------------------------------------------------------------------------


def test_a_store_built_on_object_storage_is_the_same_store(raw40: Path, sealed40: Path, s3: str) -> None:  # noqa: F811
    url = f"{s3}/team/s.zarr"
    made = build_small(raw40, url)
    assert made.digest == open_store(sealed40).attrs["digest"]
    assert remote_contents(Place(url)) == contents(sealed40)
    assert Place(url).within(".building").sizes() == {}
    assert verify(Place(url)) == []
    assert build_small(raw40, url).was_there
    store, local = open_store(url), open_store(sealed40)
    assert store["image"].values.tobytes() == local["image"].values.tobytes()
    out, expected = np.empty((3, 3, 32, 32), np.uint8), np.empty((3, 3, 32, 32), np.uint8)
    for sample in (0, 16, 38):
        pixel_reader(store, check=True)(sample, [1, 4, 7], out)
        pixel_reader(local)(sample, [1, 4, 7], expected)
        np.testing.assert_array_equal(out, expected)
    Place(url).write("image/c.1.0.0.0.0", [b"rot"])
    assert [d.path for d in verify(Place(url))] == ["image/c.1.0.0.0.0"]
    done = cli("verify", url, "--repair-from", sealed40)
    assert done.returncode == 0, done.stderr
    assert remote_contents(Place(url)) == contents(sealed40)
    with pytest.raises(ContrailError, match="another store"):
        build_small(raw40, url, settings=Settings(ASH, size=48))
    assert build_small(raw40, url, settings=Settings(ASH, size=48), overwrite=True).samples == 39


def test_a_build_on_object_storage_resumes_after_a_kill(raw40: Path, sealed40: Path, s3: str) -> None:  # noqa: F811
    url = f"{s3}/killed.zarr"
    command = [
        sys.executable,
        "-c",
        "from contrail_data.cli.main import main; main()",
        "build-ash",
        str(raw40),
        "-o",
        url,
    ]
    process = subprocess.Popen([*command, "--size", "32", "--workers", "1"], stderr=subprocess.DEVNULL)
    while not any(key.endswith(".json") for key in Place(url).within(".building").sizes()):
        time.sleep(0.01)
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    with pytest.raises(ContrailError, match="unfinished"):
        open_store(url)
    made = build_small(raw40, url)  # the dead builder's lock is known for what it is
    assert made.resumed >= 8
    assert remote_contents(Place(url)) == contents(sealed40)


def test_what_cannot_be_reached_is_an_error_in_one_line(s3: str, tmp_path: Path) -> None:
    for address, told in [
        (f"{s3}/nothing.zarr", "no such store"),
        ("simplecache::s3://bucket/x.zarr", "kind of URL"),
        ("ftp://host/x.zarr", "kind of URL"),
    ]:
        with pytest.raises(ContrailError, match=told) as refused:
            open_store(address)
        assert "\n" not in str(refused.value)


# ---- clusters ------------------------------------------------------------------------------------------------------


@contextmanager
def cluster(workers: int) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
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


# ---- versions, subsets, merges -------------------------------------------------------------------------------------


def test_append_links_the_old_bytes_and_the_old_store_stays(raw: Path, tmp_path: Path) -> None:
    add_records(raw, 31)  # forty
    old = build_small(raw, tmp_path / "v1.zarr")
    before = contents(tmp_path / "v1.zarr")
    (tmp_path / "new").mkdir()
    rng = np.random.default_rng(9)
    for i in range(10):
        write_record(tmp_path / "new/train" / f"new{i}", rng)
    shutil.copytree(raw / "train/more003", tmp_path / "new/train/more003")  # is there already
    done = cli("append", tmp_path / "v1.zarr", tmp_path / "new", "-o", tmp_path / "v2.zarr")
    assert done.returncode == 0, done.stderr
    v1, v2 = open_store(tmp_path / "v1.zarr"), open_store(tmp_path / "v2.zarr")
    assert v1.attrs["digest"] == old.digest
    assert contents(tmp_path / "v1.zarr") == before
    assert v2.attrs["parents"] == [old.digest]
    assert v2.sizes["sample"] == 50
    assert list(v2["record_id"].values[:40]) == list(v1["record_id"].values)
    np.testing.assert_array_equal(v2["image"].values[:40], v1["image"].values)
    np.testing.assert_array_equal(v2["time"].values[:40], v1["time"].values)
    for key in ("image/c.0.0.0.0.0", "image/c.1.0.0.0.0", "mask/c.1.0.0"):
        assert (tmp_path / "v1.zarr" / key).samefile(tmp_path / "v2.zarr" / key)
    assert verify(Place(str(tmp_path / "v2.zarr"))) == []
    # The same as a build of all, in another order.
    everything = build_small(tmp_path / "all", tmp_path / "all.zarr") if _union(raw, tmp_path) else None
    found = diff(open_store(everything.place), v2)
    assert found["only_a"] == found["only_b"] == []
    assert found["records"] == {}
    again = build(
        appended(v1, open_source(tmp_path / "new", "train", ASH)), settings_of(v1), tmp_path / "v2b.zarr", workers=1
    )
    assert again.digest == v2.attrs["digest"]
    with pytest.raises(ContrailError, match="nothing to append"):
        appended(v2, open_source(tmp_path / "new", "train", ASH))


def _union(raw: Path, tmp_path: Path) -> bool:
    shutil.copytree(raw, tmp_path / "all")
    shutil.copytree(tmp_path / "new", tmp_path / "all", dirs_exist_ok=True)
    return True


def test_append_on_object_storage(raw: Path, tmp_path: Path, s3: str) -> None:
    add_records(raw, 11)
    build_small(raw, f"{s3}/v1.zarr")
    write_record(tmp_path / "new/train/zz", np.random.default_rng(9))
    parent = open_store(f"{s3}/v1.zarr")
    build(appended(parent, open_source(tmp_path / "new", "train", ASH)), SMALL, f"{s3}/v2.zarr", workers=2)
    assert open_store(f"{s3}/v2.zarr").sizes["sample"] == 21
    assert verify(Place(f"{s3}/v2.zarr")) == []


@pytest.mark.parametrize(("dtype", "codec"), [("uint8", "none"), ("float16", "lz4"), ("float32", "zstd")])
def test_subset_and_merge_keep_every_bit(raw: Path, tmp_path: Path, dtype: str, codec: str) -> None:
    settings = Settings(ASH, dtype=dtype, codec=codec, size=32)
    build_small(raw, tmp_path / "s.zarr", settings=settings)
    store = open_store(tmp_path / "s.zarr")
    halves = []
    for name, samples in (("a", [0, 3, 4, 8]), ("b", [1, 2, 4, 5, 6, 7])):  # 4 is in both
        source = from_stores([(store, np.array(samples))])
        halves.append(build(source, settings_of(store), tmp_path / name, workers=2))
        assert settings_of(store) == settings
    shutil.move(tmp_path / "s.zarr", tmp_path / "away.zarr")  # nothing of the parent is needed any more
    a, b = (open_store(half.place) for half in halves)
    assert verify(halves[0].place) == []
    assert a.attrs["statistics"]["samples"] == 4
    made = build(from_stores(without_repeats([a, b])), settings_of(a), tmp_path / "m.zarr", workers=1)
    merged, parent = open_store(made.place), open_store(tmp_path / "away.zarr")
    found = diff(parent, merged)
    assert not any(found.values())
    order = [list(merged["record_id"].values).index(r) for r in parent["record_id"].values]
    np.testing.assert_array_equal(merged["image"].values[order], parent["image"].values)


def test_merge_refuses_two_records_of_one_name(raw: Path, tmp_path: Path) -> None:
    build_small(raw, tmp_path / "a.zarr")
    folder = sorted((raw / "train").iterdir())[2]
    np.save(folder / "human_pixel_masks.npy", 1 - np.load(folder / "human_pixel_masks.npy"))
    build_small(raw, tmp_path / "b.zarr")
    stores = [open_store(tmp_path / "a.zarr"), open_store(tmp_path / "b.zarr")]
    with pytest.raises(ContrailError, match=folder.name):
        without_repeats(stores)
    found = diff(*stores)
    assert found["records"] == {folder.name: ["mask", "positive_pixels"]}
    done = cli("diff", tmp_path / "a.zarr", tmp_path / "b.zarr")
    assert done.returncode == 1
    assert f"1 records differ in mask, positive_pixels: {folder.name}" in done.stdout
    assert cli("diff", tmp_path / "a.zarr", tmp_path / "a.zarr").returncode == 0


def test_a_subset_hands_no_damage_on(sealed40: Path, tmp_path: Path) -> None:  # noqa: F811
    shutil.copytree(sealed40, tmp_path / "s.zarr")
    path = tmp_path / "s.zarr/image/c.0.0.0.0.0"
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    source = from_stores([(open_store(tmp_path / "s.zarr"), np.arange(39))])
    with pytest.raises(ContrailError, match="sample 0, frame 0 fails its checksum"):
        build(source, SMALL, tmp_path / "copy.zarr", workers=1)
    assert not (tmp_path / "copy.zarr/zarr.json").exists()


def test_conditions_of_a_subset(raw: Path, tmp_path: Path) -> None:
    folder = sorted((raw / "train").iterdir())[2]
    np.save(folder / "human_pixel_masks.npy", 0 * np.load(folder / "human_pixel_masks.npy"))
    build_small(raw, tmp_path / "s.zarr")
    store = open_store(tmp_path / "s.zarr")
    times = store["time"].values[:, 4]
    latitude, longitude = float(store["latitude"][0]), float(store["longitude"][0])
    assert choose(store, since=times[2], until=times[5]).tolist() == [2, 3, 4]
    assert choose(store, label="negative").tolist() == [2]
    assert choose(store, label="positive").tolist() == [0, 1, 3, 4, 5, 6, 7, 8]
    assert choose(store, area=(latitude - 1, longitude - 1, latitude + 1, longitude + 1)).tolist() == list(range(8))
    assert choose(store, area=(latitude - 1, longitude + 1, latitude + 1, longitude - 1)).tolist() == []
    assert choose(store, area=(latitude - 1, 170, latitude + 1, longitude + 1)).tolist() == list(range(8))  # across 180
    ids = [str(r) for r in store["record_id"].values]
    assert choose(store, record_ids=ids[3:5], without=[ids[3]]).tolist() == [4]
    with pytest.raises(ContrailError, match="no record 'nobody'"):
        choose(store, record_ids=["nobody"])
    (tmp_path / "ids.txt").write_text("\n".join(ids[:3]) + "\n")
    done = cli("subset", tmp_path / "s.zarr", "--records", tmp_path / "ids.txt", "--label", "positive", "-o", "x.zarr",
               cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list(open_store(tmp_path / "x.zarr")["record_id"].values) == ids[:2]
    done = cli("subset", tmp_path / "s.zarr", "--since", "noon", "-o", tmp_path / "y.zarr")
    assert done.returncode == 1
    assert "--since 'noon'" in done.stderr


# ---- pull and push -------------------------------------------------------------------------------------------------


def test_pull_is_verified_resumes_and_serves_by_digest(sealed40: Path, tmp_path: Path, s3: str) -> None:  # noqa: F811
    url, digest = f"{s3}/s.zarr", open_store(sealed40).attrs["digest"]
    done = cli("push", sealed40, url)
    assert done.returncode == 0, done.stderr
    target = cache_place(digest)
    target.path.mkdir(parents=True)
    good = Place(url).read("image/c.1.0.0.0.0")
    Place(url).write("image/c.1.0.0.0.0", [good[:-1] + b"\0"])
    done = cli("pull", url)
    assert done.returncode == 1
    assert "image/c.1.0.0.0.0: fails its checksum" in done.stderr
    assert local_copy(digest) is None
    Place(url).write("image/c.1.0.0.0.0", [good])
    done = cli("pull", url)
    assert done.returncode == 0, done.stderr
    assert "files were there" in done.stdout
    assert contents(target.path) == contents(sealed40)
    assert verify(target) == []
    assert open_named(url).attrs["path"] == str(target.path)
    Place(url).write("image/c.1.0.0.0.0", [b"gone"])  # the copy is what is read
    out = np.empty((1, 3, 32, 32), np.uint8)
    pixel_reader(open_named(url), check=True)(17, [4], out)


def test_several_processes_pull_at_once(sealed40: Path, tmp_path: Path) -> None:  # noqa: F811
    environment = {**os.environ, "CONTRAIL_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", "from contrail_data.cli.main import main; main()", "pull", str(sealed40)]
    pulls = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in "abc"]
    told = [p.communicate()[1].decode() for p in pulls]
    assert [p.returncode for p in pulls] == [0, 0, 0], told
    (copy,) = (tmp_path / "cache/stores").iterdir()
    assert contents(copy) == contents(sealed40)


def test_a_remote_store_keeps_what_was_read_when_asked(sealed40: Path, s3: str) -> None:  # noqa: F811
    url, digest = f"{s3}/s.zarr", open_store(sealed40).attrs["digest"]
    copy_store(place_of(sealed40), Place(url))
    store = open_store(url)
    read = pixel_reader(store, keep=True)
    out, expected = np.empty((2, 3, 32, 32), np.uint8), np.empty((2, 3, 32, 32), np.uint8)
    for sample in (0, 17, 1):
        read(sample, [0, 4], out)
        pixel_reader(open_store(sealed40))(sample, [0, 4], expected)
        np.testing.assert_array_equal(out, expected)
    kept = cache_place(digest)
    assert list(kept.sizes()) == ["image/c.0.0.0.0.0", "image/c.1.0.0.0.0"]
    Place(url).remove(["image/c.0.0.0.0.0"])
    pixel_reader(store, keep=True)(3, [0, 4], out)  # from the local copy
    Place(url).take("image/c.0.0.0.0.0", kept)
    assert copy_store(Place(url), kept) == 2  # a pull does the rest
    assert verify(kept) == []


def test_other_programs_open_it(sealed40: Path, tmp_path: Path, s3: str) -> None:  # noqa: F811
    copy_store(place_of(sealed40), Place(f"{s3}/s.zarr"))
    local = xr.open_zarr(sealed40)
    tensorstore = pytest.importorskip("tensorstore")
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{sealed40}/image"}}
    image = tensorstore.open(spec, read=True).result()
    stored = xr.open_zarr(sealed40, mask_and_scale=False)["image"]
    np.testing.assert_array_equal(image[17].read().result(), stored[17])
    assert local["image"].dtype == np.float64
    assert json.loads((sealed40 / "zarr.json").read_text())["zarr_format"] == 3
