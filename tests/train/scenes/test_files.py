"""Files of predicted scenes: mask and probability agree, missing stays missing, and grids have files of their own."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import h5py
import numpy as np
import pytest
import rasterio
import xarray as xr
from PIL import Image

from contrail_data.errors import ContrailError
from contrail_data.scans.scene import grid_of
from contrail_data.synthetic.abi import write_abi
from contrail_train.contrails.cleaning import Cleaning
from contrail_train.scenes.contrails import SceneContrails
from contrail_train.scenes.files import SUFFIXES, output_names, write
from helpers.cli import run_train
from helpers.scenes import START, scene_of, smooth


def geotiff(scene: xr.Dataset, folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Write a scene as GeoTIFF; return its two bands and the places of its pixels on the scene's grid."""
    (path,) = write([SceneContrails(scene=scene)], folder / "s.tif", {scene["time"].values[0]: folder / "s.tif"})
    with rasterio.open(path) as file:
        code, mask = file.read(1), file.read(2)
        x, y = file.transform * np.meshgrid(np.arange(file.width) + 0.5, np.arange(file.height) + 0.5)
    return code, mask, *grid_of(scene).indices(y, x)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_is_one_line_and_leaves_what_was_there(suffix: str, tmp_path: Path) -> None:
    scene = scene_of(smooth(np.random.default_rng(0)), Cleaning(0.5))
    out = tmp_path / f"s{suffix}"
    write([SceneContrails(scene=scene)], out, {START: out})
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # a file that grows beyond it fails as on a full disk
    try:
        with pytest.raises(ContrailError, match=rf"s\{suffix}: cannot be written .*; make room"):
            write([SceneContrails(scene=scene)], out, {START: out})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.12345, 0.999])
def test_mask_and_probability_agree_in_every_file(tmp_path: Path, threshold: float) -> None:
    rng = np.random.default_rng(0)
    probability = smooth(rng)
    probability[50:60] = np.float32(threshold) + rng.uniform(-3e-5, 3e-5, (10, 110)).astype(np.float32)
    scene = scene_of(probability, Cleaning(threshold))
    code, mask, *_ = geotiff(scene, tmp_path)
    seen = code != 255
    np.testing.assert_array_equal(seen, mask != 255)
    for dtype in (np.float32, np.float64):
        decoded = code[seen].astype(dtype) * dtype(1 / 250)
        np.testing.assert_array_equal(mask[seen] == 1, decoded >= np.float64(threshold))
    assert 0 < mask[seen].mean() < 1
    for name in ("s.nc", "s.zarr"):
        write([SceneContrails(scene=scene)], tmp_path / name, {START: tmp_path / name})
    with xr.open_dataset(tmp_path / "s.nc") as cf, xr.open_zarr(tmp_path / "s.zarr") as zarr:
        for opened in (cf, zarr):
            p = opened["probability"].values[0]
            np.testing.assert_array_equal(np.isnan(p), np.isnan(probability))
            np.testing.assert_array_equal(p >= np.float64(threshold), opened["mask"].values[0] == 1)
            assert p.dtype == np.float32
            assert np.nanmax(np.abs(p - probability)) <= 2**-12


def test_missing_pixels_do_not_lower_the_probability_beside_them(tmp_path: Path) -> None:
    """Compare with the mean of the pixels around that are there, by weight."""
    rng = np.random.default_rng(1)
    probability = smooth(rng)
    constant = np.where(np.isnan(probability), np.nan, np.float32(0.8))
    code, mask, *_ = geotiff(scene_of(constant, Cleaning(0.8)), tmp_path)
    assert set(np.unique(code)) == {200, 255}
    assert set(np.unique(mask[code == 200])) == {1}

    code, mask, rows, columns = geotiff(scene_of(probability, Cleaning(0.5)), tmp_path)
    checked = 0
    for place in rng.integers(0, code.size, 3000):
        i, j = rows.flat[place], columns.flat[place]
        if not (1 <= i < 88 and 1 <= j < 108):
            continue
        around = [(int(i) + di, int(j) + dj) for di in (0, 1) for dj in (0, 1)]
        weights = np.array([(1 - abs(i - y)) * (1 - abs(j - x)) for y, x in around])
        values = np.array([probability[place] for place in around], np.float64)
        if np.isnan(probability[round(i), round(j)]):
            assert code.flat[place] == mask.flat[place] == 255
            continue
        there = ~np.isnan(values)
        expected = (weights[there] * values[there]).sum() / weights[there].sum()
        assert abs(code.flat[place] / 250 - expected) <= 1.01 / 250
        checked += 1
    assert checked > 500


@pytest.mark.parametrize(
    "cleaning", [Cleaning(0.6, min_pixels=12), Cleaning(0.8, low=0.3), Cleaning(0.5, elongation=2)]
)
def test_regions_are_cleaned_alike_in_every_file(tmp_path: Path, cleaning: Cleaning) -> None:
    scene = scene_of(smooth(np.random.default_rng(2)), cleaning)
    code, mask, rows, columns = geotiff(scene, tmp_path)
    seen = mask != 255
    nearest = scene["mask"].values[0][np.rint(rows[seen]).astype(int), np.rint(columns[seen]).astype(int)] == 1
    resampled = mask[seen] == 1
    assert (nearest != resampled).mean() < 0.08  # along edges, by less than a pixel
    lowest = cleaning.threshold if cleaning.low is None else cleaning.low
    assert (code[seen][resampled] / 250 >= lowest - 1 / 250).all()
    kept = np.stack(np.nonzero(scene["mask"].values[0]), -1)
    for i, j in np.stack([rows[seen][resampled], columns[seen][resampled]], -1)[::17]:
        assert np.abs(kept - (i, j)).max(1).min() < 1  # nothing of a removed region


def test_a_gate_and_its_score_agree_in_files(tmp_path: Path) -> None:
    score = np.linspace(0.2999, 0.3001, 110, dtype=np.float32) * np.ones((90, 1), np.float32)
    scene = scene_of(np.full((90, 110), 0.9, np.float32), Cleaning(0.5), score)
    write([SceneContrails(scene=scene)], tmp_path / "s.nc", {START: tmp_path / "s.nc"})
    with xr.open_dataset(tmp_path / "s.nc") as cf:
        np.testing.assert_array_equal(cf["gate_score"].values >= np.float64(0.3), cf["mask"].values == 1)
        np.testing.assert_array_equal(cf["mask"].values, scene["mask"].values)


def test_files_of_several_times_are_named_by_them() -> None:
    minute, second = np.timedelta64(1, "m"), np.timedelta64(1, "s")
    grids = [[START, START + minute], [START + 2 * minute]]
    names = output_names(Path("out/p.tif"), grids)
    assert [path.name for path in names.values()] == [f"p-20240301T120{i}.tif" for i in range(3)]
    assert {path.name for path in output_names(Path("p.nc"), grids[:1]).values()} == {"p.nc"}
    assert len({path.name for path in output_names(Path("p.png"), [[START, START + 30 * second]]).values()}) == 2


@pytest.mark.slow
def test_finished_work_is_kept_over_several_grids_and_bad_files(finished: Path, tmp_path: Path) -> None:
    """A sector that moves after two scans, a scan whose pixels are damaged, and one that lacks a band."""
    scans = tmp_path / "scans"
    write_abi(scans, START, scans=4, seed=3, size=(100, 110), centre=(29.5, -92.0))
    bad, lacking = sorted(scans.glob("*C14*"))[2:]
    lacking.unlink()
    with h5py.File(bad) as file:
        offset = file["Rad"].id.get_chunk_info(0).byte_offset
    content = bytearray(bad.read_bytes())
    content[offset : offset + 200] = bytes(200)
    bad.write_bytes(content)
    write_abi(scans, START + np.timedelta64(40, "m"), scans=1, size=(90, 120), centre=(35.0, -100.0))
    outs = [part for suffix in ("nc", "geojson", "png") for part in ("-o", tmp_path / f"p.{suffix}")]
    done = run_train("predict-scans", finished, scans, *outs)
    assert done.returncode == 3, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("set aside: ")]
    assert len(lines) == 2, done.stderr
    assert "its scan of 2024-03-01T12:30:00 lacks band 14; fetch it" in lines[0]
    assert f"{bad}: cannot be read" in lines[1]
    assert "2 grids" in done.stderr
    written = sorted(path.name for path in tmp_path.glob("p*.*"))
    assert written == [
        "p-20240301T1200.nc",
        "p-20240301T1200.png",
        "p-20240301T1210.png",
        "p-20240301T1240.nc",
        "p-20240301T1240.png",
        "p.geojson",
    ]
    sizes = []
    for name in written:
        if name.endswith(".nc"):
            with xr.open_dataset(tmp_path / name) as cf:
                sizes.append((cf.sizes["time"], cf.sizes["y"], cf.sizes["x"]))
    assert sizes == [(2, 100, 110), (1, 90, 120)]
    width, height = Image.open(tmp_path / "p-20240301T1240.png").size
    assert width > 120 * 8
    assert height > 90 * 8  # enlarged by 8, with degrees, a title and a legend
    features = json.loads((tmp_path / "p.geojson").read_text())["features"]
    assert [feature["id"] for feature in features] == list(range(1, len(features) + 1))  # GDAL warns of equal ones
    times = {feature["properties"]["time"][:16] for feature in features}
    assert times <= {"2024-03-01T12:00", "2024-03-01T12:10", "2024-03-01T12:40"}
    times = ("--time", "2024-03-01T12:00", "--time", "2024-03-01T12:04", "--time", "2024-03-01T12:26")
    some = run_train("predict-scans", finished, scans, *times, "-o", tmp_path / "some.nc")
    assert some.returncode == 3, some.stderr
    assert "set aside: 2024-03-01T12:26:00: no scan starts within 5 minutes (nearest: 2024-03-01T12:" in some.stderr
    assert some.stdout.startswith("2024-03-01T12:00:0")  # once, though two times name it
    with xr.open_dataset(tmp_path / "some.nc") as cf:
        assert cf.sizes["time"] == 1
    again = run_train("predict-scans", finished, scans, "-o", tmp_path / "p.png")
    assert "exists; choose another -o" in again.stderr  # before anything is predicted
