"""Satellite scans become a store."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

import contrail_data
from contrail_data.build.inputs import AbiInput
from contrail_data.composites import COMPOSITES
from contrail_data.scans.scene import grid_of
from contrail_data.scans.tiles import lattice_sites, utm_wkt
from contrail_data.sources.scan_tiles import TileRequest
from contrail_data.sources.scans import open_scan_source
from contrail_data.store.reader import open_store
from contrail_data.synthetic.abi import write_abi
from helpers.abi import SIZE, START, add_wedge
from helpers.cli import run_data

CENTRE = "29.5,-92"
SMALL = ["--size", "64", "--pixel", "2000", "--at", CENTRE]


def test_a_missing_band_is_refused_in_one_line(real_data: Path, tmp_path: Path) -> None:
    done = run_data("build-ash", f"{real_data}/abi/*RadC*G16*", "-o", tmp_path / "x.zarr")
    assert done.returncode == 1
    assert "band 14 is missing (available: 11, 15)" in done.stderr.splitlines()[-1]
    done = run_data("build-ash", real_data / "abi", "-o", tmp_path / "x.zarr")
    assert f"{real_data}/abi: files of several kinds" in done.stderr
    assert not (tmp_path / "x.zarr").exists()


@pytest.mark.slow
def test_scans_become_a_store(scans: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.zarr"
    done = run_data("build-ash", scans, "-o", out, "--time", "2024-03-01T12:40", *SMALL)
    assert done.returncode == 0, done.stderr
    store = open_store(out)
    assert store["image"].shape == (1, 8, 3, 64, 64)
    assert str(store["record_id"].values[0]) == "G16-20240301T124000-N2950W09200"
    assert "valid" not in store.variables  # nothing is missing
    step = np.diff(store["time"].values[0]) / np.timedelta64(1, "m")
    np.testing.assert_allclose(step, 10, atol=0.01)
    assert int(store["labelled_frame"].values[0]) == 4
    second = run_data(
        "build-ash", scans, "-o", tmp_path / "t.zarr", "--time", "2024-03-01T12:40", *SMALL, "--workers", "1"
    )
    assert second.returncode == 0
    assert open_store(tmp_path / "t.zarr").attrs["digest"] == store.attrs["digest"]

    # Compare with satpy's calibration and pycontrails' ash.
    from pycontrails.datalib.goes import to_ash
    from satpy import Scene

    theirs = Scene(sorted(map(str, scans.glob("*s20240611240*"))), reader="abi_l1b")
    theirs.load(["C11", "C14", "C15"])
    values = np.stack([theirs[f"C{b}"].values for b in (11, 14, 15)])
    ash = to_ash(xr.DataArray(values, dims=("band_id", "y", "x"), coords={"band_id": [11, 14, 15]}), "SEVIRI")
    native = run_data("build-ash", scans, "-o", tmp_path / "n.zarr", "--time", "2024-03-01T12:40", "--at", CENTRE,
                 "--size", "64", "--native", "--dtype", "float32")  # fmt: skip
    assert native.returncode == 0, native.stderr
    image = open_store(tmp_path / "n.zarr")["image"].values[0, 4]
    scene = contrail_data.open_abi(scans)
    row, column = (float(n) for n in grid_of(scene).indices(29.5, -92.0))
    top, left = round(row + 0.5) - 32, round(column + 0.5) - 32
    expected = np.moveaxis(ash, -1, 0)[:, top : top + 64, left : left + 64]
    np.testing.assert_allclose(image, expected, atol=3e-5)  # 1e-4 K of 6 K


@pytest.mark.slow
def test_missing_pixels_and_scans_stay_missing_and_are_reported(tmp_path: Path) -> None:
    keys = [(scan, band) for scan in range(8) for band in (11, 14, 15)]
    paths = dict(zip(keys, write_abi(tmp_path / "abi", START, size=SIZE, centre=(29.5, -92.0)), strict=True))
    add_wedge(paths[4, 11], 0.3)
    add_wedge(paths[4, 15], 0.6)
    for key in ((2, 11), (2, 14), (2, 15), (1, 14)):
        paths[key].unlink()
    os.truncate(paths[6, 15], paths[6, 15].stat().st_size * 2 // 5)
    stem, _, created = paths[4, 14].stem.rpartition("_c")
    shutil.copy(paths[4, 14], paths[4, 14].with_name(f"{stem}_c{int(created) + 600}.nc"))  # a minute later
    out = tmp_path / "s.zarr"
    done = run_data(
        "build-ash",
        tmp_path / "abi",
        "-o",
        out,
        "--time",
        "2024-03-01T12:40",
        "--size",
        "96",
        "--pixel",
        "2000",
        "--at",
        CENTRE,
    )
    assert done.returncode == 3  # a file could not be read
    assert "cannot be read" in done.stderr
    assert "replaced by a copy created later" in done.stderr
    assert "its scan of 2024-03-01T12:10:00 lacks band 14; fetch it" in done.stderr
    assert done.stderr.count("set aside:") == 2  # the file and the scan, once each
    assert "3 of 8 frames have no scan within 5 minutes" in done.stderr
    store = open_store(out)
    valid = store["valid"].values[0] > 0
    image = store["image"].values[0]
    np.testing.assert_array_equal(
        np.isnat(store["time"].values[0]), [False, True, True, False, False, False, True, False]
    )
    assert not valid[[1, 2, 6]].any()
    assert valid[[0, 3, 5, 7]].all()
    assert 0.1 < (~valid[4]).mean() < 0.6
    assert (image[np.broadcast_to(~valid[:, None], image.shape)] == 255).all()  # white, never a dark contrail
    statistics = store.attrs["statistics"]
    assert statistics["count"] == valid.sum()
    assert run_data("verify", out).returncode == 0
    sub = run_data("subset", out, "-o", tmp_path / "sub.zarr", "--split", "train")
    assert sub.returncode == 0, sub.stderr
    np.testing.assert_array_equal(open_store(tmp_path / "sub.zarr")["valid"].values, store["valid"].values)


def test_tiles_and_times_can_be_taken_from_a_metadata_file(scans: Path, tmp_path: Path) -> None:
    import json

    entry = {"record_id": "77", "projection_wkt": utm_wkt(-92.0), "row_min": 3_330_000.0, "row_size": -2000.0}
    entry |= {"col_min": 540_000.0, "col_size": 2000.0}
    entries = tmp_path / "train_metadata.json"
    entries.write_text(json.dumps([entry | {"timestamp": 1709294400.0}]))
    done = run_data("build-ash", scans, "-o", tmp_path / "r.zarr", "--like", entries, "--size", "48",
               "--before", "0", "--after", "1")  # fmt: skip
    assert done.returncode == 0, done.stderr
    store = open_store(tmp_path / "r.zarr")
    assert store["record_id"].values.tolist() == ["77"]
    np.testing.assert_allclose(store["geotransform"].values[0], [540000, 2000, 0, 3330000, 0, -2000])


@pytest.mark.slow
def test_an_archive_is_read_by_the_role_of_the_satellite_and_the_time(
    scans: Path, s3: str, tmp_path: Path, monkeypatch
) -> None:
    """Use NOAA's layout on a local S3-compatible server and the satellite that was GOES-East at that time."""
    import boto3

    client = boto3.client("s3")
    client.create_bucket(Bucket="noaa-goes16")
    for path in scans.iterdir():
        hour = path.name.split("_s")[1][7:9]
        client.upload_file(str(path), "noaa-goes16", f"ABI-L1b-RadM/2024/061/{hour}/{path.name}")
    out = tmp_path / "s.zarr"
    options = ["--product", "L1b-RadM1", "--time", "2024-03-01T12:40", *SMALL]
    done = run_data("build-ash", "goes-east", "-o", out, *options)
    assert done.returncode == 0, done.stderr
    local = run_data("build-ash", scans, "-o", tmp_path / "local.zarr", "--time", "2024-03-01T12:40", *SMALL)
    assert local.returncode == 0
    np.testing.assert_array_equal(open_store(out)["image"].values, open_store(tmp_path / "local.zarr")["image"].values)
    named = run_data("build-ash", "s3://noaa-goes16", "-o", tmp_path / "t.zarr", *options)
    assert named.returncode == 0, named.stderr
    failed = run_data("build-ash", "goes-east", "-o", tmp_path / "u.zarr", "--time", "2015-01-01T00:00", *SMALL)
    assert "no GOES-R spacecraft" in failed.stderr
    failed = run_data("build-ash", "goes-west", "-o", tmp_path / "u.zarr", *SMALL)
    assert "give --since and --until" in failed.stderr


def test_places_may_be_stated_from_0_to_360_degrees() -> None:
    scans = AbiInput(kind="abi", path="x", at=[(29.5, 270), (-10, 180), (0, -190), (29.5, -90)])
    assert list(scans.request(64).places) == [(29.5, -90), (-10, 180), (0, 170), (29.5, -90)]


def test_the_file_is_named_for_which_a_sample_cannot_be_cut(tmp_path: Path) -> None:
    """Not another one, which was set aside before and whose frame would have been empty."""
    paths = write_abi(tmp_path / "abi", START, scans=2, size=SIZE, centre=(29.5, -92.0), bands=(11, 14, 15))
    os.truncate(paths[3], 5000)
    with h5py.File(paths[0]) as file:
        chunk = file["Rad"].id.get_chunk_info(0)
    with paths[0].open("r+b") as file:
        file.seek(chunk.byte_offset)
        file.write(bytes(chunk.size))
    time = str(START)[:16]
    failed = run_data("build-ash", tmp_path / "abi", "-o", tmp_path / "x.zarr", "--time", time, "--at", CENTRE, *SMALL)
    assert failed.returncode == 1
    assert "none of 1 records is usable; the first: G16-" in failed.stderr
    assert f"{paths[0]}: cannot be read" in failed.stderr.splitlines()[-1]


def test_mistakes_are_refused_in_one_line(scans: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    name = next(scans.glob("*C14*")).name
    (other / name).write_bytes(b"no HDF5")
    mixed = tmp_path / "mixed"
    shutil.copytree(scans, mixed)
    write_abi(mixed, START, scans=1, size=(60, 60), satellite=18)
    for args, message in [
        ((other, "-o", tmp_path / "x.zarr"), "cannot be read"),
        ((mixed, "-o", tmp_path / "x.zarr"), "files of several kinds"),
        ((scans, "-o", tmp_path / "x.zarr"), "give places with --at"),
        ((scans, "-o", tmp_path / "x.zarr", "--at", "29.5"), "give LATITUDE,LONGITUDE"),
        ((scans, "-o", tmp_path / "x.zarr", "--at", "29.5,100"), "not visible from 75 W; choose another place"),
        ((scans, "-o", tmp_path / "x.zarr", "--at", CENTRE, "--time", "2020-01-01T00:00"), "UTC, but of 2024-03-01T1"),
        ((scans, "-o", tmp_path / "x.zarr", "--at", CENTRE, "--quality", "9"), "give flags from 0 to 4"),
        ((scans, "-o", tmp_path / "x.zarr", "--at", CENTRE, "--composite", "ash_cira"), "band 13 is missing"),
        ((scans / "*C14*", "-o", tmp_path / "x.zarr", "--at", CENTRE), "bands 11, 15 are missing"),
        ((tmp_path / "*.nc", "-o", tmp_path / "x.zarr"), "check the path"),
    ]:
        failed = run_data("build-ash", *args)
        assert failed.returncode == 1, args
        last = failed.stderr.splitlines()[-1]
        assert last.startswith("error: "), failed.stderr
        assert message in last, last
        assert not (tmp_path / "x.zarr" / "zarr.json").exists()


def test_a_source_can_be_opened_from_python(scans: Path) -> None:
    request = TileRequest(
        times=[np.datetime64("2024-03-01T12:30")], places=[(29.5, -92.0)], size=64, pixel=2e3, before=0, after=0
    )
    source = open_scan_source(str(scans), request, COMPOSITES["ash"], "train")
    sample = source.read_sample(source.record_ids[0])
    assert sample.attributes["satellite"] == "GOES-16"


def test_files_of_other_instruments_bands_or_times_are_refused(scans: Path, tmp_path: Path) -> None:
    import h5py

    other = tmp_path / "other"
    other.mkdir()
    name = next(scans.glob("*C14*s20240611240*")).name
    with h5py.File(other / name, "w") as file:
        file.attrs["instrument_type"] = "GOES-R Series Geostationary Lightning Mapper"
    failed = run_data("build-ash", other, "-o", tmp_path / "x.zarr", "--at", CENTRE)
    assert "comes from GOES-R Series Geostationary Lightning Mapper, not GOES-R ABI" in failed.stderr.splitlines()[-1]
    shutil.copy(next(scans.glob("*C11*s20240611240*")), other / name)
    failed = run_data("build-ash", other, "-o", tmp_path / "x.zarr", "--at", CENTRE)
    assert "contains band 11" in failed.stderr.splitlines()[-1]
    shutil.copy(next(scans.glob("*C14*s20240611220*")), other / name)
    failed = run_data("build-ash", other, "-o", tmp_path / "x.zarr", "--at", CENTRE)
    assert "contrary to its name" in failed.stderr.splitlines()[-1]
    apart = tmp_path / "apart"
    apart.mkdir()
    for band, minute in ((11, "120"), (14, "121"), (15, "122")):
        shutil.copy(next(scans.glob(f"*C{band}*s2024061{minute}*")), apart)
    failed = run_data("build-ash", apart, "-o", tmp_path / "x.zarr", "--at", CENTRE)
    assert "no scan has all of bands 11, 14, 15" in failed.stderr.splitlines()[-1]


def test_scans_are_also_read_through_satpy(scans: Path) -> None:
    request = TileRequest(
        places=[(29.5, -92.0)], times=[np.datetime64("2024-03-01T12:40")], size=64, pixel=2e3, before=0, after=0
    )
    theirs = open_scan_source(str(scans / "*s20240611240*"), request, COMPOSITES["ash"], "train", reader="abi_l1b")
    ours = open_scan_source(str(scans), request, COMPOSITES["ash"], "train")
    assert theirs.record_ids == ours.record_ids
    expected, kelvin = (source.read_sample(ours.record_ids[0]).pixels for source in (ours, theirs))
    np.testing.assert_allclose(kelvin, expected, atol=2e-3)


def test_sites_are_chosen_on_the_grid_of_each_scan(tmp_path: Path) -> None:
    """A mesoscale sector moves from one site of the lattice to another."""
    first, second = [site for site in lattice_sites() if 28 < site[0] < 33 and -100 < site[1] < -85][:2]
    write_abi(tmp_path, START, scans=2, size=SIZE, centre=first)
    write_abi(tmp_path, START + np.timedelta64(20, "m"), scans=1, size=SIZE, centre=second)
    request = TileRequest(size=32, pixel=2000.0, every=10, before=1, after=0)
    source = open_scan_source(str(tmp_path), request, COMPOSITES["ash"], "train")
    samples = [source.read_sample(record_id).attributes for record_id in source.record_ids]
    places = [(sample["latitude"], sample["longitude"]) for sample in samples]
    np.testing.assert_allclose(places, [first, first, second], atol=0.02)
