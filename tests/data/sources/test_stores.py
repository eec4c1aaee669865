"""Appended, merged and reduced stores keep every bit of their parents."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from contrail_data.build.build import build
from contrail_data.errors import ContrailError
from contrail_data.reports.diff import diff
from contrail_data.sources.open import open_source
from contrail_data.sources.select import select_distinct, settings_of
from contrail_data.sources.stores import appended, from_stores
from contrail_data.storage.place import Place
from contrail_data.store.reader import open_store
from contrail_data.store.schema import Codec, PixelDtype
from contrail_data.store.settings import StoreSettings
from contrail_data.store.verify import verify
from helpers.cli import run_data
from helpers.records import add_records, write_record
from helpers.stores import ASH, SMALL, build_small, contents, flip


@pytest.mark.slow
def test_appending_links_the_files_of_the_old_store_and_keeps_it_unchanged(raw: Path, tmp_path: Path) -> None:
    add_records(raw, 31)  # forty
    old = build_small(raw, tmp_path / "v1.zarr")
    before = contents(tmp_path / "v1.zarr")
    (tmp_path / "new").mkdir()
    rng = np.random.default_rng(9)
    for i in range(10):
        write_record(tmp_path / "new/train" / f"new{i}", rng)
    shutil.copytree(raw / "train/more003", tmp_path / "new/train/more003")  # is already in the store
    done = run_data("append", tmp_path / "v1.zarr", tmp_path / "new", "-o", tmp_path / "v2.zarr")
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
    # The result equals a build of all records, in another order.
    everything = build_small(tmp_path / "all", tmp_path / "all.zarr") if _union(raw, tmp_path) else None
    differences = diff(open_store(everything.place), v2)
    assert differences.only_a == differences.only_b == []
    assert differences.records == {}
    repeated = build(
        appended(v1, open_source(tmp_path / "new", "train", ASH)), settings_of(v1), tmp_path / "v2b.zarr", workers=1
    )
    assert repeated.digest == v2.attrs["digest"]
    with pytest.raises(ContrailError, match="nothing to append"):
        appended(v2, open_source(tmp_path / "new", "train", ASH))


def _union(raw: Path, tmp_path: Path) -> bool:
    shutil.copytree(raw, tmp_path / "all")
    shutil.copytree(tmp_path / "new", tmp_path / "all", dirs_exist_ok=True)
    return True


@pytest.mark.slow
def test_appending_works_on_object_storage(raw: Path, tmp_path: Path, s3: str) -> None:
    add_records(raw, 11)
    build_small(raw, f"{s3}/v1.zarr")
    write_record(tmp_path / "new/train/zz", np.random.default_rng(9))
    parent = open_store(f"{s3}/v1.zarr")
    build(appended(parent, open_source(tmp_path / "new", "train", ASH)), SMALL, f"{s3}/v2.zarr", workers=2)
    assert open_store(f"{s3}/v2.zarr").sizes["sample"] == 21
    assert verify(Place(f"{s3}/v2.zarr")) == []


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "codec"), [("uint8", "none"), ("float16", "lz4"), ("float32", "zstd")])
def test_subset_and_merge_keep_every_bit(raw: Path, tmp_path: Path, dtype: str, codec: str) -> None:
    settings = StoreSettings(ASH, dtype=PixelDtype(dtype), codec=Codec(codec), size=32)
    build_small(raw, tmp_path / "s.zarr", settings=settings)
    store = open_store(tmp_path / "s.zarr")
    halves = []
    for name, samples in (("a", [0, 3, 4, 8]), ("b", [1, 2, 4, 5, 6, 7])):  # sample 4 is in both
        source = from_stores([(store, np.array(samples))])
        halves.append(build(source, settings_of(store), tmp_path / name, workers=2))
        assert settings_of(store) == settings
    shutil.move(tmp_path / "s.zarr", tmp_path / "away.zarr")  # the parent is not needed any more
    a, b = (open_store(half.place) for half in halves)
    assert verify(halves[0].place) == []
    assert a.attrs["statistics"]["samples"] == 4
    built = build(from_stores(select_distinct([a, b])), settings_of(a), tmp_path / "m.zarr", workers=1)
    merged, parent = open_store(built.place), open_store(tmp_path / "away.zarr")
    differences = diff(parent, merged)
    assert not differences
    order = [list(merged["record_id"].values).index(r) for r in parent["record_id"].values]
    np.testing.assert_array_equal(merged["image"].values[order], parent["image"].values)


@pytest.mark.slow
def test_merging_refuses_different_records_with_the_same_id(raw: Path, tmp_path: Path) -> None:
    build_small(raw, tmp_path / "a.zarr")
    folder = sorted((raw / "train").iterdir())[2]
    np.save(folder / "human_pixel_masks.npy", 1 - np.load(folder / "human_pixel_masks.npy"))
    build_small(raw, tmp_path / "b.zarr")
    stores = [open_store(tmp_path / "a.zarr"), open_store(tmp_path / "b.zarr")]
    with pytest.raises(ContrailError, match=folder.name):
        select_distinct(stores)
    differences = diff(*stores)
    assert differences.records == {folder.name: ["mask", "positive_pixels"]}
    done = run_data("diff", tmp_path / "a.zarr", tmp_path / "b.zarr")
    assert done.returncode == 4
    assert f"1 records differ in mask, positive_pixels: {folder.name}" in done.stdout
    assert run_data("diff", tmp_path / "a.zarr", tmp_path / "a.zarr").returncode == 0


def test_damage_is_not_copied_into_a_subset(sealed40: Path, tmp_path: Path) -> None:
    shutil.copytree(sealed40, tmp_path / "s.zarr")
    path = tmp_path / "s.zarr/image/c.0.0.0.0.0"
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    source = from_stores([(open_store(tmp_path / "s.zarr"), np.arange(39))])
    with pytest.raises(ContrailError, match="sample 0, frame 0 fails its checksum"):
        build(source, SMALL, tmp_path / "copy.zarr", workers=1)
    assert not (tmp_path / "copy.zarr/zarr.json").exists()


def test_damage_is_not_copied_by_appending(sealed40: Path, tmp_path: Path) -> None:
    write_record(tmp_path / "new/train/zz", np.random.default_rng(9))
    for key in ("image/c.1.0.0.0.0", "moments/c/0/0/0"):
        store = tmp_path / "s.zarr"
        shutil.copytree(sealed40, store)
        flip(store / key)
        done = run_data("append", store, tmp_path / "new", "-o", tmp_path / "v2.zarr")
        assert done.returncode == 1
        assert f"{key}: fails its checksum" in done.stderr
        assert not (tmp_path / "v2.zarr/zarr.json").exists()
        shutil.rmtree(store)
