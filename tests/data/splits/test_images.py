"""Images show which records are related where place or time is unknown."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from scipy.ndimage import gaussian_filter
from scipy.signal import fftconvolve
from typer.testing import CliRunner

from contrail_data.build.build import build
from contrail_data.cli.main import app
from contrail_data.composites import COMPOSITES
from contrail_data.sources.open import open_source
from contrail_data.splits.groups import group_records
from contrail_data.splits.images import Similar, similar_records, thumbnail
from contrail_data.store.reader import open_store, read_scalars
from contrail_data.store.settings import StoreSettings
from contrail_data.synthetic.noise import power_law_noise
from contrail_data.synthetic.records import write_records
from helpers.stores import build_composite

RNG = np.random.default_rng(5)


def scene(size: int = 192) -> np.ndarray:
    """Return a cloudy scene, (channel, y, x) in [0, 1]."""
    fields = [power_law_noise(RNG, size, slope)[0] for slope in (1.4, 1.7, 2.0)]
    return np.clip(0.5 + 0.15 * np.stack([fields[0] + fields[1], fields[1], fields[2]]), 0, 1)


def store_of(folder: Path, images: dict[str, np.ndarray], size: int | None = None) -> xr.Dataset:
    """Build a store of ash frames."""
    (folder / "frames").mkdir(parents=True)
    for name, image in images.items():
        mask = np.zeros((1, *image.shape[1:]))
        np.save(folder / f"frames/{name}.npy", np.concatenate([image, mask]).transpose(1, 2, 0).astype("<f2"))
    settings = StoreSettings(COMPOSITES["ash"], size=size or next(iter(images.values())).shape[1])
    build(open_source(folder / "frames", "train", COMPOSITES["ash"]), settings, folder / "s.zarr", workers=1)
    return open_store(folder / "s.zarr")


def found(*stores: xr.Dataset) -> tuple[Similar, set[tuple[str, str]]]:
    """Return what is similar, and the pairs of ids."""
    records = [read_scalars(store) for store in stores]
    similar = similar_records(stores, records)
    ids = np.concatenate([scalars["record_id"].values for scalars in records])
    return similar, {(ids[i], ids[j]) for i, j in zip(*similar.joined(), strict=True)}


def best_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return the highest correlation of two images over all shifts by up to a quarter, by its definition."""
    a, b = (x - gaussian_filter(x, (0, 8, 8)) for x in (a, b))
    ones = np.ones_like(a[0])

    def cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return fftconvolve(x, y[::-1, ::-1])

    products = sum(cross(x, y) for x, y in zip(a, b, strict=True))
    power = sum(cross(x**2, ones) for x in a) * sum(cross(ones, y**2) for y in b)
    middle, reach = len(ones) - 1, len(ones) // 4
    inside = (slice(middle - reach, middle + reach + 1),) * 2
    return float((products[inside] / np.sqrt(power[inside])).max())


@pytest.mark.slow
def test_the_pairs_are_those_that_correlate_at_some_shift_by_definition(tmp_path):
    images = {}
    for number in range(8):
        whole = scene(128)
        images[f"s{number}"] = whole[:, :96, :96]
        if number < 5:
            down, right = RNG.integers(0, 23, 2)
            images[f"t{number}"] = whole[:, down : down + 96, right : right + 96]
    similar, pairs = found(store_of(tmp_path, images))
    names = sorted(images)
    by_definition = {
        (a, b) for i, a in enumerate(names) for b in names[i + 1 :] if best_correlation(images[a], images[b]) > 0.7
    }
    assert by_definition == {(f"s{number}", f"t{number}") for number in range(5)}
    assert pairs == by_definition
    assert similar.compared[0].all()


def test_copies_are_found_mirrored_turned_resized_noisy_and_in_another_store(tmp_path):
    images = {f"s{number}": scene(128) for number in range(9)}
    noisy = np.clip(images["s8"] + RNG.normal(0, 0.02, (3, 128, 128)), 0, 1)
    changed = [
        *(
            images["s0"][:, ::-1],
            images["s1"][:, :, ::-1],
            images["s2"].swapaxes(1, 2),
            np.rot90(images["s3"], 1, (1, 2)),
        ),
        *(np.rot90(images["s4"], 2, (1, 2)), np.rot90(images["s5"], 3, (1, 2)), images["s6"][:, ::-1].swapaxes(1, 2)),
        *(images["s7"], noisy),
    ]
    a = store_of(tmp_path / "a", images)
    b = store_of(tmp_path / "b", {f"t{number}": image for number, image in enumerate(changed)}, size=64)
    similar, pairs = found(a, b)
    assert pairs == {(f"s{number}", f"t{number}") for number in range(9)}
    assert similar.matches[0, 1].moved.tolist() == [True] * 7 + [False] * 2


def test_threads_find_the_pairs_that_are_found_without_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = [scene(96) for _ in range(3)]
    images = {f"s{number}": image for number, image in enumerate([*shown, *(np.roll(x, 6, 2) for x in shown)])}
    store = store_of(tmp_path, images)
    similar, pairs = found(store)
    monkeypatch.setattr("contrail_data.splits.images.FEW", 0)
    threaded, _ = found(store)
    assert pairs == {(f"s{number}", f"s{number + 3}") for number in range(3)}
    for one, other in zip(similar.between(0, 0), threaded.between(0, 0), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("count", [1, 2])
def test_copies_of_one_image_are_listed_by_a_first_one(tmp_path, count):
    whole = scene(96)
    one, shifted = whole[:, :64, :64], whole[:, 4:68, 6:70]
    images = [{f"c{number}": one for number in range(6)} | {"shifted": shifted, "other": scene(64)}]
    if count == 2:
        images.append({f"d{number}": one for number in range(4)} | {"moved": shifted})
    stores = [store_of(tmp_path / str(number), each) for number, each in enumerate(images)]
    records = [read_scalars(store) for store in stores]
    last = count - 1
    complete, short = (
        similar_records(stores, records, combinations=[(0, last)], listed=listed) for listed in (None, 4)
    )
    of_all, listed = complete.between(0, last), short.between(0, last)
    pairs_of_all, pairs = ([*zip(m.a.tolist(), m.b.tolist(), strict=True)] for m in (of_all, listed))
    assert len(pairs_of_all) == (15 + 6 if count == 1 else 6 * 4 + 6 + 4 + 1)
    assert len(pairs) == (5 + 6 if count == 1 else 6 + 3 + 6 + 4 + 1)
    at = [pairs_of_all.index(pair) for pair in pairs]
    np.testing.assert_allclose(listed.correlation, of_all.correlation[at], atol=1e-5)
    assert listed.moved.tolist() == of_all.moved[at].tolist()
    for side in ("a", "b"):  # every record that leaks is listed
        assert set(getattr(listed, side)) == set(getattr(of_all, side))
    assert [*map(tuple, short.groups[0, last])] == [(0, 6, 4 * last)]
    assert complete.groups[0, last] == []


def test_flat_and_mostly_missing_images_resemble_nothing(tmp_path):
    flat = np.full((3, 64, 64), 0.4)
    similar, pairs = found(store_of(tmp_path, {"a": flat, "b": flat + 0.1, "c": scene(64)}))
    assert pairs == set()
    assert similar.compared[0].tolist() == [False, False, True]


def test_the_shape_of_missing_pixels_is_no_likeness():
    valid = np.arange(96) >= 36 + np.arange(96)[:, None] // 4
    a, b = (thumbnail(np.where(valid, scene(96), 1).astype("f4"), valid) for _ in range(2))
    assert (a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()) < 0.4
    assert not thumbnail(scene(96).astype("f4"), np.arange(96) >= np.full((96, 1), 60)).any()


@pytest.fixture(scope="module")
def unplaced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic records in bands 8 to 16 without metadata."""
    root = tmp_path_factory.mktemp("unplaced")
    write_records(root / "raw", 8, size=64, bands=range(8, 17), validation_fraction=0)
    (root / "raw/train_metadata.json").unlink()
    return root


@pytest.mark.parametrize("composite", ["ash_cira", "ash_wide", "bands_diffs"])
def test_other_composites_of_one_record_are_similar(unplaced, composite):
    a, b = (build_composite(unplaced / "raw", unplaced / f"{composite}-{c}", c, 64) for c in ("ash", composite))
    similar, pairs = found(a, b)
    assert {pair for pair in pairs if pair[0] != pair[1]} == set()
    assert len(similar.matches[0, 1].a) == 8


def test_images_are_compared_only_where_place_or_time_is_unknown(tmp_path, monkeypatch):
    write_records(tmp_path / "raw", 4, size=64, validation_fraction=0)
    placed = build_composite(tmp_path / "raw", tmp_path / "placed.zarr", size=64)
    groups = group_records([read_scalars(placed)])[0].tolist()
    entries = json.loads((tmp_path / "raw/train_metadata.json").read_text())
    ids = {entry["record_id"]: f"copy{number}" for number, entry in enumerate(entries)}
    for old, new in ids.items():
        (tmp_path / f"raw/train/{old}").rename(tmp_path / f"raw/train/{new}")
    (tmp_path / "raw/train_metadata.json").write_text(json.dumps([]))
    copies = build_composite(tmp_path / "raw", tmp_path / "copies.zarr", size=64)
    similar, pairs = found(placed, copies)
    assert pairs == set(ids.items())
    first, second = group_records([read_scalars(s) for s in (placed, copies)], images=[similar.joined()])
    assert first.tolist() == groups
    assert dict(zip(copies["record_id"].values, second, strict=True)) == {
        ids[old]: group for old, group in zip(placed["record_id"].values, groups, strict=True)
    }
    monkeypatch.setattr("contrail_data.splits.images.thumbnail", None)  # placed records are not even read
    assert found(placed)[1] == set()


def test_shifted_frames_share_a_fold_and_are_counted(tmp_path):
    whole = scene()
    images = {f"s{number}": scene()[:, :160, :160] for number in range(6)}
    images |= {"a": whole[:, :160, :160], "b": whole[:, 4:164, 8:168]}
    store_of(tmp_path, images)
    store = str(tmp_path / "s.zarr")
    result = CliRunner().invoke(app, ["splits", store, "-k", "4", "-o", str(tmp_path / "folds.csv")])
    assert result.exit_code == 0
    assert " 8 8 8 0 8 " in " ".join(result.output.split())
    rows = {row["record_id"]: row for row in csv.DictReader((tmp_path / "folds.csv").open())}
    assert rows["a"]["fold"] == rows["b"]["fold"]
    assert len({row["group"] for row in rows.values()}) == 7
    audited = CliRunner().invoke(app, ["audit", store, "-o", str(tmp_path / "leaks.csv")])
    assert audited.exit_code == 4
    (leak,) = csv.DictReader((tmp_path / "leaks.csv").open())
    assert (leak["kind"], leak["record_a"], leak["record_b"], leak["dice"]) == ("image", "a", "b", "")
    assert float(leak["similarity"]) > 0.7
