"""Files that are read from a remote store can be cached locally."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from contrail_data.storage.cache import reserve
from contrail_data.storage.place import Place, place_of
from contrail_data.store.cache import cache_place, reserve_copy
from contrail_data.store.manifest import read_manifest
from contrail_data.store.reader import open_store, pixel_reader
from contrail_data.store.transfer import copy_store
from contrail_data.store.verify import verify
from helpers.cli import run_data
from helpers.stores import build_small, contents


@pytest.mark.slow
def test_files_read_from_a_remote_store_are_cached_if_requested(sealed40: Path, s3: str) -> None:
    url, digest = f"{s3}/s.zarr", open_store(sealed40).attrs["digest"]
    copy_store(place_of(sealed40), Place(url))
    store = open_store(url)
    read = pixel_reader(store, keep=True)
    out, expected = np.empty((2, 3, 32, 32), np.uint8), np.empty((2, 3, 32, 32), np.uint8)
    for sample in (0, 17, 1):
        read(sample, [0, 4], out)
        pixel_reader(open_store(sealed40))(sample, [0, 4], expected)
        np.testing.assert_array_equal(out, expected)
    cache = cache_place(digest)
    assert list(cache.sizes()) == ["image/c.0.0.0.0.0", "image/c.1.0.0.0.0"]
    Place(url).remove(["image/c.0.0.0.0.0"])
    pixel_reader(store, keep=True)(3, [0, 4], out)  # from the local copy
    Place(url).write("image/c.0.0.0.0.0", [cache.read("image/c.0.0.0.0.0")])
    assert copy_store(Place(url), cache) == 2  # a pull copies the remaining files
    assert verify(cache) == []


@pytest.mark.slow
def test_a_pull_makes_room_for_its_copy_or_is_refused_before_it_copies(
    sealed40: Path, raw: Path, tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_small(raw, tmp_path / "small.zarr")
    for name, path in (("large", sealed40), ("small", tmp_path / "small.zarr")):
        copy_store(place_of(path), Place(f"{s3}/{name}.zarr"))
    large, small = (cache_place(open_store(f"{s3}/{name}.zarr").attrs["digest"]) for name in ("large", "small"))
    monkeypatch.setenv("CONTRAIL_CACHE_LIMIT", "600 kB")
    done = run_data("pull", f"{s3}/large.zarr")
    assert done.returncode == 1
    assert "does not fit into 600 kB; set CONTRAIL_CACHE_LIMIT higher, or copy the store elsewhere" in done.stderr
    assert not large.path.exists()
    assert run_data("pull", f"{s3}/small.zarr").returncode == 0
    assert verify(small) == []
    done = run_data("pull", f"{s3}/small.zarr")  # it is there already and needs no room
    assert done.returncode == 0, done.stderr
    assert small.size(".building/reserved") is None


def test_a_copy_that_another_process_finishes_meanwhile_stays_as_it_is(
    sealed40: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTRAIL_CACHE", str(tmp_path / "cache"))
    source, store = place_of(sealed40), open_store(sealed40)

    def reserve_late(folder: Path, size: int, remedy: str) -> None:
        copy_store(source, place_of(folder))
        reserve(folder, size, remedy)

    monkeypatch.setattr("contrail_data.store.cache.reserve", reserve_late)
    copy = reserve_copy(store.attrs["digest"], read_manifest(source, store.attrs["manifest"]))
    assert contents(copy.path) == contents(sealed40)
