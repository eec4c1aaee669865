"""Prediction on whole scans: tiling, output files and refusals."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
import torch
import xarray as xr
from rasterio.warp import transform

from contrail_data.composites import COMPOSITES
from contrail_data.labels.predictor import Predicted
from contrail_data.scans import abi_chunks
from contrail_data.scans.abi import open_abi_scans
from contrail_data.scans.abi_files import describe, group_scans
from contrail_data.scans.listing import list_abi_scans
from contrail_data.scans.scene import composite_of, grid_of
from contrail_data.scans.tiles import Tile
from contrail_data.synthetic.abi import write_abi
from contrail_train.inference.load import load_model
from contrail_train.scenes import predict
from contrail_train.scenes.predict import predict_scan
from contrail_train.scenes.tiling import Tiling
from helpers.abi import add_wedge
from helpers.cli import run_train

START = np.datetime64("2024-03-01T12:00")
NOON = "2024-03-01T12:20"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Five scans; the third has an eclipse wedge."""
    folder = tmp_path_factory.mktemp("abi")
    paths = write_abi(folder, START, scans=5, seed=3, size=(150, 170))
    add_wedge(paths[3 * 2 + 1], 0.3)
    return folder


def red(run: Path, **changes):
    """Return a predictor whose probability is the composite's red channel, so that the expected output is known."""

    class Red(type(load_model(run))):
        def predict(self, window_btchw, valid_bhw=None):
            p_bhw = window_btchw[:, self.offsets.index(0), 0].astype(np.float32) / 255
            return Predicted(p_bhw, p_bhw.max((1, 2)), np.ones(len(p_bhw), np.float32))

    model = load_model(run)
    return Red(**{**vars(model), "pixel": 2000.0, "size": 64, "native": False, **changes})


def scans_of(folder: Path):
    return list_abi_scans(str(folder), (11, 14, 15)).scans


@pytest.mark.slow
@pytest.mark.parametrize("native", [False, True])
def test_predictions_return_to_their_place_on_the_scan(folder: Path, finished: Path, native: bool) -> None:
    """Two bilinear resamplings of a smooth field change little; a native tile is not resampled."""
    model = red(finished, native=native)
    predicted = predict_scan(model, scans_of(folder), np.datetime64(NOON), Tiling(64))
    files = [describe(str(path)) for path in sorted(folder.iterdir())]
    scan = group_scans([f for f in files if f is not None])[0][2]
    scene = open_abi_scans([scan])
    expected = composite_of(scene, COMPOSITES["ash"]).values[0, 0]
    got = predicted["probability"].values[0]
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    assert 0.05 < np.isnan(got).mean() < 0.3  # the wedge
    off = np.abs(got - expected)[~np.isnan(got)]
    if native:
        assert off.max() <= 0.5 / 255 + 1e-6
    else:
        assert np.median(off) < 0.01
        assert np.quantile(off, 0.99) < 0.1
    x, y = predicted["x"].values, predicted["y"].values
    np.testing.assert_array_equal(x, scene["x"].values)
    assert grid_of(predicted) == grid_of(scene)
    assert y[0] > y[-1]


def test_chunks_of_a_small_scan_are_unpacked_once_and_predictions_of_a_large_one_are_the_same(
    folder: Path, finished: Path, monkeypatch
) -> None:
    unpacked: list[int] = []
    original = abi_chunks.deflate.zlib_decompress
    monkeypatch.setattr(abi_chunks.deflate, "zlib_decompress", lambda *data: unpacked.append(1) or original(*data))
    held = predict_scan(red(finished), scans_of(folder), np.datetime64(NOON), Tiling(64))["probability"].values
    assert len(unpacked) == 6  # a chunk of values and one of flags of each band
    monkeypatch.setattr(predict, "MOST_HELD", 0)
    parts = predict_scan(red(finished), scans_of(folder), np.datetime64(NOON), Tiling(64))["probability"].values
    assert len(unpacked) > 12
    np.testing.assert_allclose(parts, held, rtol=0, atol=1e-6)


def test_the_pixels_of_a_tile_are_located_once_for_all_of_its_frames(folder: Path, finished: Path, monkeypatch) -> None:
    counts, pixel_indices = [], Tile.pixel_indices

    def count(*arguments):
        counts[-1] += 1
        return pixel_indices(*arguments)

    monkeypatch.setattr(Tile, "pixel_indices", count)
    for offsets in ((0,), (-1, 0)):
        counts.append(0)
        predict_scan(red(finished, offsets=offsets), scans_of(folder), np.datetime64(NOON), Tiling(64))
    assert counts[0] == counts[1] > 0


def test_no_more_than_a_few_groups_are_predicted_before_the_first_is_blended(
    folder: Path, finished: Path, monkeypatch
) -> None:
    started, limits, observed, too_many = [], [], [], threading.Event()
    load_windows, add = predict.load_windows, predict.Mosaic.add

    def count(*arguments):
        started.append(1)
        if limits and len(started) >= limits[0]:
            too_many.set()
        return load_windows(*arguments)

    def slowly(*arguments):
        if not observed:
            limits.append(len(started) + 8)
            observed.append(too_many.wait(timeout=0.5))  # it would come at once
        add(*arguments)

    monkeypatch.setattr(predict, "load_windows", count)
    monkeypatch.setattr(predict.Mosaic, "add", slowly)
    predict_scan(red(finished), scans_of(folder), np.datetime64(NOON), Tiling(32), batch=1)
    assert observed == [False]
    assert len(started) > limits[0]


def test_all_cores_read_tiles_for_another_device_but_few_predict_at_once(
    folder: Path, finished: Path, monkeypatch
) -> None:
    reading, at_once, most, lock = set(), [0], [0], threading.Lock()
    all_read, load_windows = threading.Event(), predict.load_windows

    def read(*arguments):
        reading.add(threading.get_ident())
        if len(reading) == 5:
            all_read.set()
        assert all_read.wait(timeout=10)
        return load_windows(*arguments)

    def predict_slowly(model, window_btchw, valid_bhw=None):
        with lock:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
        time.sleep(0.01)
        with lock:
            at_once[0] -= 1
        p_bhw = window_btchw[:, 0, 0].astype(np.float32)
        return Predicted(p_bhw, p_bhw[:, 0, 0], p_bhw[:, 0, 0])

    model = red(finished, offsets=(0,))
    monkeypatch.setattr(type(model), "predict", predict_slowly)
    arguments = scans_of(folder), np.datetime64(NOON), Tiling(32)
    expected = predict_scan(model, *arguments, batch=1)
    monkeypatch.setattr(predict, "load_windows", read)
    monkeypatch.setattr(predict.os, "cpu_count", lambda: 5)
    xr.testing.assert_identical(
        predict_scan(replace(model, device=torch.device("meta")), *arguments, batch=1), expected
    )
    assert len(reading) == 5
    assert most[0] <= predict.WORKERS


def test_a_scan_without_its_image_is_otherwise_the_same(folder: Path, finished: Path) -> None:
    whole, bare = (
        predict_scan(red(finished), scans_of(folder), np.datetime64(NOON), Tiling(64), with_image=with_image)
        for with_image in (True, False)
    )
    xr.testing.assert_identical(bare, whole.drop_vars(["image", "channel"]))


def test_a_shifted_tiling_gives_nearly_the_same_probabilities(folder: Path, finished: Path) -> None:
    """The model sees the surroundings of a pixel: the median changes by less than 0.01, 99 of 100 by less than 0.1."""
    model = replace(load_model(finished), pixel=2000.0, size=64)
    unshifted, shifted = (
        predict_scan(model, scans_of(folder), np.datetime64(NOON), Tiling(64, shift=shift))["probability"].values
        for shift in ((0.0, 0.0), (0.5, 0.37))
    )
    off = np.abs(unshifted - shifted)
    np.testing.assert_array_equal(np.isnan(unshifted), np.isnan(shifted))
    assert np.nanmedian(off) < 0.01
    assert np.nanquantile(off, 0.99) < 0.1


@pytest.mark.slow
def test_output_files_are_readable_by_other_software(folder: Path, finished: Path, tmp_path: Path) -> None:
    names = [tmp_path / f"scene.{suffix}" for suffix in ("nc", "zarr", "tif", "geojson", "png", "gif")]
    options = [part for name in names for part in ("-o", name)]
    done = run_train(
        "predict-scans", finished, folder, "--time", NOON, "--min-pixels", 2, "--altitude", 11000, *options
    )
    assert done.returncode == 0, done.stderr
    assert "contrail pixels" in done.stdout
    with xr.open_dataset(names[0], engine="netcdf4") as cf, xr.open_zarr(names[1]) as zarr:
        xr.testing.assert_equal(cf.load().drop_vars("projection").drop_attrs(), zarr.load().drop_attrs())
        assert cf.attrs["model"].startswith("sha256:")
        assert "OR_ABI-L1b-RadM1-M6C14_G16_s2024061122" in cf.attrs["inputs"]
        mask, valid, probability = (cf[name].values[0] for name in ("mask", "valid", "probability"))
        np.testing.assert_array_equal(np.isnan(probability), valid == 0)
        assert np.isnan(mask[valid == 0]).all()  # missing, not clear
        row = cf["scan_time"].values[0]
        assert START + np.timedelta64(20, "m") <= row[0] < row[-1] < START + np.timedelta64(21, "m")
        latitude, longitude = grid_of(cf).geodetic()
    with rasterio.open(f"netcdf:{names[0]}:valid") as file:  # as in QGIS: only GDAL determines the coordinates
        i, j = 40, 70
        xs, ys = transform(file.crs, "EPSG:4326", *([v] for v in file.xy(i, j)))
        assert (xs[0], ys[0]) == (pytest.approx(longitude[i, j], abs=1e-6), pytest.approx(latitude[i, j], abs=1e-6))
    with rasterio.open(names[2]) as file:
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert file.crs.to_epsg() == 4326
        warped, warped_mask = file.read(1), file.read(2)
        assert ((warped_mask == 255) == (warped == 255)).all()
        for i, j in np.argwhere(valid)[::997]:
            value = next(file.sample([(longitude[i, j], latitude[i, j])]))[0]
            near = probability[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
            assert value == 255 or np.nanmin(near) - 0.01 <= value / 250 <= np.nanmax(near) + 0.01
    features = json.loads(names[3].read_text())["features"]
    assert {f["geometry"]["type"] for f in features} <= {"LineString", "MultiPolygon"}
    assert all(shapely.from_geojson(json.dumps(f["geometry"])).is_valid for f in features)
    again = run_train("predict-scans", finished, folder, "--time", NOON, "-o", names[0])
    assert "exists; choose another -o" in again.stderr


@pytest.mark.slow
def test_all_times_are_predicted_and_invalid_options_are_refused(folder: Path, finished: Path, tmp_path: Path) -> None:
    done = run_train("predict-scans", finished, folder, "-o", tmp_path / "all.nc", "-o", tmp_path / "p.png")
    assert done.returncode == 0, done.stderr
    with xr.open_dataset(tmp_path / "all.nc") as cf:
        assert cf.sizes["time"] == 5
        ends = [str(time)[:16] for time in cf["time"].values[[0, -1]]]
    assert len(list(tmp_path.glob("p-*.png"))) == 5
    assert f"scan of {NOON}: " in done.stderr
    limits = ("--since", f"{str(START)[:16]}Z", "--until", NOON)
    some = run_train("predict-scans", finished, folder, *limits, "-o", tmp_path / "some.nc")
    assert some.returncode == 0, some.stderr
    with xr.open_dataset(tmp_path / "some.nc") as cf, xr.open_dataset(tmp_path / "all.nc") as every:
        starts = every["time_bounds"].values[:, 0]
        asked = (starts >= START) & (starts <= np.datetime64(NOON))
        assert 0 < asked.sum() < 5
        assert (cf["time"].values == every["time"].values[asked]).all()
    part = run_train(
        "predict-scans", finished, folder, "--time", NOON, "--area", 29, -93, 30, -92, "-o", tmp_path / "part.nc"
    )
    assert part.returncode == 0, part.stderr
    with xr.open_dataset(tmp_path / "part.nc") as cf:
        assert cf.sizes["y"] < 80
    for args, message in [
        (["-o", tmp_path / "x.jpg"], "not a format of scenes"),
        (["-o", tmp_path / "x.nc", "--time", "2024-03-01T15:00"], "UTC, but of 2024-03-01T1"),
        (["-o", tmp_path / "x.nc", "--since", "2024-03-01T15:00"], "UTC, but of 2024-03-01T1"),
        (["-o", tmp_path / "x.nc", "--area", 60, -93, 61, -92], "lies outside of the scan"),
        (["-o", tmp_path / "x.nc", "--max-zenith", 5], "nothing is visible within 5 degrees"),
        (["-o", tmp_path / "x.nc", "--hysteresis", 1], "above the threshold"),
        (["-o", tmp_path / "x.nc", "--time", ends[1], "--time", ends[0], "--consistent", 3], "no effect on 1 time"),
    ]:
        failed = run_train("predict-scans", finished, folder, *args)
        assert failed.returncode == (2 if {"--hysteresis", "--consistent"} & set(args) else 1), args
        assert message in failed.stderr.splitlines()[-1], failed.stderr
        assert "00000" not in failed.stderr  # nanoseconds
        assert not (tmp_path / "x.nc").exists()
    failed = run_train("predict-scans", finished, folder, "-o", tmp_path / "x.nc", "--area", 30, -92, 29, -93)
    assert failed.returncode == 2
    assert "--area" in failed.stderr
    assert "30 -92 29 -93: not an area; " in failed.stderr
    few = tmp_path / "few"
    write_abi(few, START, scans=1, size=(100, 100), bands=(11, 15))
    failed = run_train("predict-scans", finished, few, "-o", tmp_path / "x.nc")
    assert "band 14 is missing (available: 11, 15)" in failed.stderr


@pytest.mark.slow
def test_a_scan_of_meteosat_is_predicted(finished: Path, tmp_path: Path) -> None:
    pytest.importorskip("satpy")
    from helpers.meteosat import write_seviri

    out = tmp_path / "scene.nc"
    scan = write_seviri(tmp_path / "seviri")
    done = run_train(
        "predict-scans", finished, scan.parent, "--reader", "auto", "-o", out, "-o", out.with_suffix(".png")
    )
    assert done.returncode == 0, done.stderr
    with xr.open_dataset(out) as scene:
        assert scene.attrs["platform"] == "Meteosat-11"
        assert 0.9 < scene["valid"].values.mean() < 1  # the padding of a file's columns is missing
        rows = scene["scan_time"].values[0]
        assert rows[0] > rows[-1]  # from south to north
