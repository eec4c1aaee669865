"""Calibration of ABI files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import contrail_data
from contrail_data.scans import abi
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


def test_only_the_chunks_of_a_window_are_read(real_data: Path, monkeypatch) -> None:
    (path,) = (real_data / "abi").glob("*RadC*C11*G16*.nc")
    full_image = abi.read_temperature(str(path), 11, slice(0, 1500), slice(0, 2500))
    unpacked: list[int] = []
    original = abi.deflate.zlib_decompress
    monkeypatch.setattr(abi.deflate, "zlib_decompress", lambda *data: unpacked.append(1) or original(*data))
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
