"""Calibration of ABI files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import contrail_data
from contrail_data.composites import from_dict
from contrail_data.scans import abi, abi_chunks
from contrail_data.synthetic.abi import write_abi
from helpers.abi import SIZE, START, flag_pixels


@pytest.mark.slow
def test_real_files_are_calibrated_as_in_satpy(real_data: Path) -> None:
    from satpy import Scene

    files = sorted(map(str, (real_data / "abi").glob("*RadC*G16*.nc")))
    ours = contrail_data.open_abi(files)
    assert ours["brightness_temperature"].chunks is not None
    theirs = Scene(files, reader="abi_l1b")
    theirs.load(["C11", "C12", "C15"])
    for band in (11, 12, 15):
        actual = ours["brightness_temperature"].sel(band=band).isel(time=0).values
        expected = theirs[f"C{band}"].values
        np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))
        assert np.nanmax(np.abs(actual - expected)) <= 1e-4
    _, latitude = theirs["C11"].attrs["area"].get_lonlats()
    corner = ours["latitude"].isel(y=slice(0, None, 50), x=slice(0, None, 50)).values
    expected = latitude[::50, ::50]
    visible = ~np.isnan(corner)
    np.testing.assert_array_equal(visible, np.isfinite(expected))
    np.testing.assert_allclose(corner[visible], expected[visible], atol=1e-6)
    assert 20 < float(ours["solar_zenith"].isel(time=0, y=700, x=1200)) < 60  # morning over the United States
    middle = ours["scan_time"].isel(time=0, y=750).values
    assert np.datetime64("2023-09-13T15:37:30") < middle < np.datetime64("2023-09-13T15:37:40")


def test_composites_without_dask_are_those_of_dask_arrays(tmp_path: Path) -> None:
    """Also where a scan lacks a band, and for windows that begin within a block of rows."""
    paths = write_abi(tmp_path, START, scans=2, size=(600, 40), bands=(11, 14))
    flag_pixels(paths[0], 3, np.s_[250:300, 5:9])
    paths[-1].unlink()
    lazy, read = (contrail_data.open_abi(tmp_path, dask=dask) for dask in (True, False))
    assert read["brightness_temperature"].chunks is None
    assert read["latitude"].chunks == lazy["latitude"].chunks
    composite = from_dict({"name": "two", "channels": [{"name": "a", "band": 14, "minus": 11, "low": -9, "high": 9}]})
    for window in ({}, {"time": 1, "y": slice(30, 520), "x": slice(3, 30)}, {"y": slice(None, None, -2)}):
        for clip in (True, False):
            expected = contrail_data.composite_of(lazy.isel(window), composite, clip=clip)
            assert expected.chunks is not None
            ours = contrail_data.composite_of(read.isel(window), composite, clip=clip)
            assert ours.chunks is None
            xr.testing.assert_identical(ours, expected)
    assert "standard_name" not in ours.attrs  # that of temperatures


def test_only_the_chunks_of_a_window_are_read(real_data: Path, monkeypatch) -> None:
    (path,) = (real_data / "abi").glob("*RadC*C11*G16*.nc")
    full_image = abi.read_temperature(str(path), 11, slice(0, 1500), slice(0, 2500))
    unpacked: list[int] = []
    original = abi_chunks.deflate.zlib_decompress
    monkeypatch.setattr(abi_chunks.deflate, "zlib_decompress", lambda *data: unpacked.append(1) or original(*data))
    window = abi.read_temperature(str(path), 11, slice(600, 700), slice(1240, 1260))
    np.testing.assert_array_equal(window, full_image[600:700, 1240:1260])
    assert len(unpacked) == 4  # two chunks of values and two of flags


@pytest.mark.slow
@pytest.mark.parametrize("product", ["L1b", "CMIP", "MCMIP"])
def test_products_agree_with_each_other(scans: Path, tmp_path: Path, product: str) -> None:
    write_abi(tmp_path, START, scans=1, size=SIZE, centre=(29.5, -92.0), product=product)
    ours = contrail_data.open_abi(tmp_path)["brightness_temperature"]
    radiance = contrail_data.open_abi(scans, bands=(11, 14, 15)).isel(time=[0])["brightness_temperature"]
    assert ours.sel(band=[11, 14, 15]).shape == radiance.shape
    # the quantisation step in kelvin, which is largest for the radiances of cold pixels
    assert float(np.abs(ours.sel(band=[11, 14, 15]).values - radiance.values).max()) < 0.6


def test_quality_flags_select_the_pixels_that_are_used(tmp_path: Path) -> None:
    (path,) = write_abi(tmp_path, START, scans=1, size=SIZE, bands=(14,))
    for flag, top, side in ((1, 0, 10), (2, 20, 5), (3, 40, 7)):
        flag_pixels(path, flag, np.s_[top : top + side, top : top + side])

    def missing(*good: int) -> int:
        scene = contrail_data.open_abi(tmp_path, bands=[14], good=good)
        return int(np.isnan(scene["brightness_temperature"].values).sum())

    assert missing(0, 1) == 25 + 49
    assert missing(0) == 100 + 25 + 49
    assert missing(0, 1, 2, 3, 4) == 49  # a pixel without a value is always missing


HELD_FOREVER = """
import ctypes, gc, sys
import h5py
from contrail_data.scans.abi import read_contents
from contrail_data.scans.abi_files import describe

read_contents(describe(sys.argv[1]))
(file,) = (thing for thing in gc.get_objects() if isinstance(thing, h5py.File))
pixels = file["Rad"]
for thing in (file, file.id, pixels, pixels.id):
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
"""


@pytest.mark.slow
def test_remote_files_are_closed_before_python_ends_whoever_holds_them(s3: str, tmp_path: Path) -> None:
    """HDF5 crashes where it closes a file over a Python object after the end of Python."""
    import boto3

    (path,) = write_abi(tmp_path, START, scans=1, size=(24, 30), bands=(14,))
    boto3.client("s3").upload_file(str(path), s3.removeprefix("s3://"), path.name)
    done = subprocess.run([sys.executable, "-c", HELD_FOREVER, f"{s3}/{path.name}"], check=False)
    assert done.returncode == 0
