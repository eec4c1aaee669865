"""Raw records become a sealed store, locally and on object storage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from contrail_data.build.build import build
from contrail_data.composites import evaluate
from contrail_data.errors import ContrailError
from contrail_data.sources.select import settings_of
from contrail_data.sources.stores import from_stores
from contrail_data.storage.place import Place
from contrail_data.store.reader import open_store, pixel_reader, read_scalars
from contrail_data.store.schema import Codec, PixelDtype
from contrail_data.store.settings import StoreSettings
from contrail_data.store.verify import verify
from helpers.cli import run_data
from helpers.records import write_record
from helpers.stores import ASH, build_small, contents, remote_contents


def test_xarray_reads_a_store_with_names_and_units(raw: Path, tmp_path: Path) -> None:
    built = build_small(raw, tmp_path / "s.zarr")
    assert (built.samples, built.set_aside) == (9, [])
    ds = xr.open_zarr(tmp_path / "s.zarr")
    assert ds["image"].dims == ("sample", "time", "channel", "y", "x")
    assert dict(ds.sizes) == {
        "sample": 9,
        "time": 8,
        "channel": 3,
        "y": 32,
        "x": 32,
        "corner": 4,
        "affine": 6,
        "moment": 7,
    }
    assert list(ds["channel"].values) == ["R", "G", "B"]
    record_id = "18446744073709551619"
    record = ds.isel(sample=list(ds["record_id"].values).index(record_id)).load()
    folder = raw / "train" / record_id
    bands = {b: np.load(folder / f"band_{b}.npy") for b in ASH.bands}
    expected = np.moveaxis(evaluate(ASH, bands), -1, 0)
    np.testing.assert_allclose(record["image"], expected, atol=0.5 / 255 + 1e-6)
    np.testing.assert_array_equal(record["mask"], np.load(folder / "human_pixel_masks.npy")[..., 0])
    votes = np.load(folder / "human_individual_masks.npy")[:, :, 0]
    bits = (record["annotators"].values[..., np.newaxis].astype(int) >> np.arange(8)) & 1
    np.testing.assert_array_equal(bits[..., :4], votes)
    assert record["annotator_count"] == 4
    assert record["positive_pixels"] == votes[..., :3].all(-1).sum()
    labelled = np.datetime64(1583980800 + 1200 * 3, "s")
    assert record["time"].values[4] == labelled
    assert record["time"].values[0] == labelled - np.timedelta64(40, "m")
    last = ds.isel(sample=8)
    assert np.isnan(last["latitude"])
    assert np.isnat(last["time"].values).all()


def test_float_stores_hold_the_composite_without_quantisation(raw: Path, tmp_path: Path) -> None:
    settings = StoreSettings(ASH, dtype=PixelDtype.FLOAT32, codec=Codec.LZ4, size=32)
    build_small(raw, tmp_path / "s.zarr", settings=settings)
    folder = sorted((raw / "train").iterdir())[0]
    expected = evaluate(ASH, {b: np.load(folder / f"band_{b}.npy") for b in ASH.bands})
    stored = xr.open_zarr(tmp_path / "s.zarr")["image"].isel(sample=0).transpose("channel", "y", "x", "time")
    np.testing.assert_array_equal(stored, expected)


def test_bytes_do_not_depend_on_the_number_of_workers(raw: Path, tmp_path: Path) -> None:
    one = build_small(raw, tmp_path / "a.zarr", workers=1)
    two = build_small(raw, tmp_path / "b.zarr", workers=3)
    assert one.digest == two.digest
    assert contents(tmp_path / "a.zarr") == contents(tmp_path / "b.zarr")


def test_only_train_stores_have_statistics(raw: Path, tmp_path: Path) -> None:
    build_small(raw, tmp_path / "t.zarr")
    (raw / "train").rename(raw / "validation")
    build_small(raw, tmp_path / "v.zarr", "validation")
    ds = open_store(tmp_path / "t.zarr")
    unit = ds["image"].values / 255
    np.testing.assert_allclose(ds.attrs["statistics"]["mean"], unit.mean((0, 1, 3, 4)), rtol=1e-12)
    np.testing.assert_allclose(ds.attrs["statistics"]["std"], unit.std((0, 1, 3, 4)), rtol=1e-12)
    assert open_store(tmp_path / "v.zarr").attrs["statistics"] is None


def test_records_of_other_sizes_are_resized_and_keep_thin_contrails(raw: Path, tmp_path: Path) -> None:

    big = write_record(raw / "train" / "1", np.random.default_rng(5), size=96)
    diagonal = np.eye(96, dtype="<i4")[..., np.newaxis]
    np.save(big / "human_pixel_masks.npy", diagonal)
    build_small(raw, tmp_path / "s.zarr")
    ds = open_store(tmp_path / "s.zarr")
    record = ds.isel(sample=list(ds["record_id"].values).index("1")).load()
    assert (int(record["height"]), int(record["width"]), int(record["positive_pixels"])) == (96, 96, 96)
    np.testing.assert_array_equal(record["mask"], np.eye(32, dtype=np.uint8))
    smooth = np.load(big / "band_14.npy")[..., 4].reshape(32, 3, 32, 3).mean((1, 3))
    np.testing.assert_allclose(record["image"].values[4, 2] / 255 * 60 + 243, smooth, atol=1.0)


def test_an_output_folder_that_is_locked_or_holds_something_else_is_refused(raw: Path, tmp_path: Path) -> None:
    import fcntl

    out = tmp_path / "s.zarr"
    (out / ".building").mkdir(parents=True)
    with (out / ".building/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("somehost, process 77")
        lock.flush()
        with pytest.raises(ContrailError, match="somehost, process 77"):
            build_small(raw, out)
    build_small(raw, out)
    second = build_small(raw, out)
    assert second.resumed == second.samples == 9
    with pytest.raises(ContrailError, match="another store"):
        build_small(raw, out, settings=StoreSettings(ASH, size=48))
    assert build_small(raw, out, settings=StoreSettings(ASH, size=48), overwrite=True).samples == 9
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    for foreign_metadata in ("", '{"zarr_format": 3, "node_type": "group", "attributes": {}}'):
        if foreign_metadata:
            (tmp_path / "thesis" / "zarr.json").write_text(foreign_metadata)
        with pytest.raises(ContrailError, match="not a store of samples"):
            build_small(raw, tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "chapter.tex").exists()


@pytest.mark.slow
def test_a_store_built_on_object_storage_equals_a_local_one(raw40: Path, sealed40: Path, s3: str) -> None:
    url = f"{s3}/team/s.zarr"
    built = build_small(raw40, url)
    assert built.digest == open_store(sealed40).attrs["digest"]
    assert remote_contents(Place(url)) == contents(sealed40)
    assert Place(url).within(".building").sizes() == {}
    assert verify(Place(url)) == []
    assert build_small(raw40, url).existed
    store, local = open_store(url), open_store(sealed40)
    assert store["image"].values.tobytes() == local["image"].values.tobytes()
    out, expected = np.empty((3, 3, 32, 32), np.uint8), np.empty((3, 3, 32, 32), np.uint8)
    for sample in (0, 16, 38):
        pixel_reader(store, check=True)(sample, [1, 4, 7], out)
        pixel_reader(local)(sample, [1, 4, 7], expected)
        np.testing.assert_array_equal(out, expected)
    Place(url).write("image/c.1.0.0.0.0", [b"rot"])
    assert [d.path for d in verify(Place(url))] == ["image/c.1.0.0.0.0"]
    done = run_data("verify", url, "--repair-from", sealed40)
    assert done.returncode == 0, done.stderr
    assert remote_contents(Place(url)) == contents(sealed40)
    with pytest.raises(ContrailError, match="another store"):
        build_small(raw40, url, settings=StoreSettings(ASH, size=48))
    assert build_small(raw40, url, settings=StoreSettings(ASH, size=48), overwrite=True).samples == 39


@pytest.mark.parametrize("kind", ["records", "frames"])
@pytest.mark.parametrize(("size", "shift"), [(64, 0.5), (128, 1.0), (192, 1.5), (32, 0.25)])
def test_the_label_shift_scales_with_the_size(kind: str, size: int, shift: float, tmp_path: Path) -> None:
    """Discs in the image and in the label, half a pixel further down and right, are compared by their centroids."""
    side, radius, n = 64, 9.0, 12
    for index in range(n):
        y, x = np.random.default_rng(index).uniform(20, 44, 2)
        rows, columns = np.mgrid[:side, :side]
        disc = np.clip(radius - np.hypot(rows - y, columns - x), 0, 1)
        mask = np.hypot(rows - y - 0.5, columns - x - 0.5) < radius - 0.5
        if kind == "frames":
            image = np.repeat(disc[..., None], 3, axis=2)
            np.save(tmp_path / f"{index}.npy", np.concatenate([image, mask[..., None]], axis=2).astype("<f4"))
        else:
            folder = write_record(tmp_path / "train" / str(index), np.random.default_rng(index), size=side)
            np.save(folder / "human_pixel_masks.npy", mask[..., None].astype("<i4"))
            (folder / "human_individual_masks.npy").unlink(missing_ok=True)
            band = np.repeat((250 + 40 * disc)[..., None], 8, axis=2).astype("<f4")
            np.save(folder / "band_14.npy", band)
    build_small(tmp_path, tmp_path / "s.zarr", settings=StoreSettings(ASH, size=size))
    ds = open_store(tmp_path / "s.zarr")
    assert ds.attrs["label_shift"] == [shift, shift]
    assert ds.attrs.get("resized_from") == (None if size == side else [side, side])
    at = np.arange(size)
    image = ds["image"].values[:, -1, 2].astype(float)
    image -= image.min((1, 2), keepdims=True)
    offsets = []
    for axis in (1, 2):
        centroids = [(part.sum(axis=axis) @ at) / part.sum((1, 2)) for part in (ds["mask"].values.astype(float), image)]
        offsets.append((centroids[0] - centroids[1]).mean())
    np.testing.assert_allclose(offsets, shift, atol=0.1)


def test_stores_made_of_resized_ones_keep_their_label_shift(raw: Path, tmp_path: Path) -> None:
    built = build_small(raw, tmp_path / "a.zarr", settings=StoreSettings(ASH, size=48, label_shift=(0.3, -0.7)))
    assert not built.note
    parent = open_store(tmp_path / "a.zarr")
    assert settings_of(parent).label_shift == (0.3, -0.7)
    build(from_stores([(parent, np.arange(3))]), settings_of(parent), tmp_path / "b.zarr", workers=1)
    child = open_store(tmp_path / "b.zarr")
    assert child.attrs["label_shift"] == parent.attrs["label_shift"] == [0.3 * 48 / 32, -0.7 * 48 / 32]
    write_record(raw / "train" / "1", np.random.default_rng(5), size=96)
    mixed = build_small(raw, tmp_path / "c.zarr", settings=StoreSettings(ASH, size=48))
    assert mixed.note.startswith("1 of 10 samples were not 32 x 32 pixels")


def test_a_store_that_an_earlier_version_resized_is_refused(raw: Path, tmp_path: Path) -> None:
    build_small(raw, tmp_path / "s.zarr", settings=StoreSettings(ASH, size=48))
    store = open_store(tmp_path / "s.zarr")
    del store.attrs["resized_from"]
    with pytest.raises(ContrailError, match="resized by an earlier version"):
        read_scalars(store)
