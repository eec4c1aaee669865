"""Files in every encoding that netCDF allows mean what the netCDF4 library reads."""

from __future__ import annotations

import itertools
from pathlib import Path

import h5py
import netCDF4
import numpy as np
import pytest

from contrail_data.errors import ContrailError
from contrail_data.scans.abi import read_contents, read_temperature
from contrail_data.scans.abi_files import describe
from contrail_data.synthetic.abi import write_abi
from helpers.abi import START

SHAPE = (24, 30)
WHOLE = (slice(0, 24), slice(0, 30))
PLANCK = {"fk1": 8510.22, "fk2": 1286.27, "bc1": 0.22516, "bc2": 0.9992}
STORAGE = {
    "contiguous": {"contiguous": True},
    "chunked": {"chunksizes": (10, 16)},
    "deflated": {"chunksizes": (10, 16), "zlib": True, "shuffle": False},
    "shuffled": {"chunksizes": (10, 16), "zlib": True, "shuffle": True},
    "checksummed": {"chunksizes": (10, 16), "zlib": True, "fletcher32": True},
}
NAME = "OR_ABI-L1b-RadM1-M6C14_G16_s20240611200000_e20240611200069_c20240611200124.nc"


def write_file(path: Path, rng: np.random.Generator, name: str, dtype: str, storage: str, sign: str | None) -> None:
    """Write an ABI file with the fewest variables; any value of its type is a temperature from 210 to 310 K."""
    kind, bits = dtype[1], 8 * int(dtype[2])
    low, high = 0.0, 1.0
    if kind in "iu":
        unsigned = kind == "u" or sign == "true"
        low, high = (0, 2**bits - 1) if unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    first, last = (210.0, 310.0) if name == "CMI" else (20.0, 140.0)
    scale = (last - first) / (high - low)
    raw = rng.integers(0, 256, (*SHAPE, int(dtype[2])), np.uint8).view(dtype.replace("f", "u"))[..., 0]
    stored = raw.view(dtype) if kind in "iu" else (raw / 2.0**bits).astype(dtype)
    endian = {"<": "little", ">": "big"}[dtype[0]]
    with netCDF4.Dataset(path, "w") as file:
        file.instrument_type = "GOES-R Series Advanced Baseline Imager (ABI)"
        for axis, count, step in (("y", 24, -56e-6), ("x", 30, 56e-6)):
            file.createDimension(axis, count)
            coordinate = file.createVariable(axis, rng.choice(["i2", "f8", "f4"]), (axis,))
            if coordinate.dtype.kind == "i":
                coordinate.scale_factor, coordinate.add_offset = np.float32(step), np.float32(0.01)
            coordinate[:] = 0.01 + step * np.arange(count)
        projection = file.createVariable("goes_imager_projection", "i4")
        projection.perspective_point_height, projection.longitude_of_projection_origin = 35786023.0, -75.0
        projection.semi_major_axis, projection.semi_minor_axis = 6378137.0, 6356752.31414
        projection.sweep_angle_axis = "x"
        for constant, value in PLANCK.items():
            file.createVariable(f"planck_{constant}", "f4")[...] = value
        file.createVariable("band_id", "i1")[...] = 14
        packed = kind in "iu" or rng.random() < 0.5
        fill = stored[3, 4] if rng.random() < 0.6 or dtype[1:] == "i1" else None  # netCDF4 fails without
        variable = file.createVariable(
            name, stored.dtype.newbyteorder("="), ("y", "x"), endian=endian, fill_value=fill, **STORAGE[storage]
        )
        if not packed:
            stored = (first + (last - first) * stored.astype(np.float64)).astype(dtype)
        if sign is not None and kind == "i":
            variable._Unsigned = sign
        if rng.random() < 0.3:
            variable.missing_value = np.array(stored[5, 6]).astype(variable.dtype)
        if rng.random() < 0.4:
            within = stored.view(dtype.replace("i", "u")) if kind == "i" and sign == "true" else stored
            limits = np.quantile(within.astype(np.float64), [0.1, 0.9]).astype(within.dtype.newbyteorder("="))
            variable.valid_range = limits.view(variable.dtype)
        if packed:
            number = rng.choice([np.float32, np.float64])
            variable.scale_factor, variable.add_offset = number(scale), number(first - low * scale)
        if kind in "iu" and bits > 8 and fill is None:
            stored[7, 8] = netCDF4.default_fillvals[variable.dtype.str[1:]]
        variable.set_auto_maskandscale(False)
        variable[:] = stored.astype(variable.dtype)


def as_netcdf4_reads(path: Path, name: str) -> np.ndarray:
    with netCDF4.Dataset(path) as file:
        value = np.ma.filled(np.ma.asarray(file[name][:], np.float64), np.nan)
    if name == "CMI":
        return value
    fk1, fk2, bc1, bc2 = (float(np.float32(PLANCK[k])) for k in ("fk1", "fk2", "bc1", "bc2"))
    return (fk2 / np.log(fk1 / value + 1) - bc1) / bc2


TYPES = [f"{order}{kind}" for order in "<>" for kind in ("i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8")]


@pytest.mark.filterwarnings("ignore:.*cannot be safely cast:UserWarning", "ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("dtype", TYPES)
def test_every_encoding_is_read_as_by_netcdf4(tmp_path: Path, dtype: str) -> None:
    rng = np.random.default_rng(TYPES.index(dtype))
    for number, (name, storage) in enumerate(itertools.product(("Rad", "CMI"), STORAGE)):
        sign = (None, "true", "false")[number % 3] if dtype[1] == "i" else None
        folder = tmp_path / str(number)
        folder.mkdir()
        path = folder / NAME.replace("L1b-Rad", "L1b-Rad" if name == "Rad" else "L2-CMIP")
        write_file(path, rng, name, dtype, storage, sign)
        expected = as_netcdf4_reads(path, name)
        kelvin = read_temperature(str(path), 14, *WHOLE)
        case = (name, storage, sign)
        np.testing.assert_array_equal(np.isnan(kelvin), np.isnan(expected), err_msg=str(case))
        np.testing.assert_allclose(kelvin, expected, atol=3e-3, err_msg=str(case))
        part = read_temperature(str(path), 14, slice(7, 19), slice(5, 28))
        np.testing.assert_array_equal(part, kelvin[7:19, 5:28])
        file = describe(str(path))
        assert file is not None
        grid = read_contents(file).grid
        assert (grid.height, grid.width) == SHAPE
        np.testing.assert_allclose([grid.x, grid.y, grid.dx, grid.dy], [0.01, 0.01, 56e-6, -56e-6], rtol=1e-3)


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file["Rad"].attrs.modify("scale_factor", np.float32(2.0)),  # 708 K, as byte-swapped counts gave
        lambda file: file["Rad"].attrs.modify("add_offset", np.float32(-1e4)),  # no positive radiance
        lambda file: file["planck_fk2"].__setitem__((), np.float32(-999)),
        lambda file: file["planck_bc1"].__setitem__((), np.float32(250)),  # degrees Celsius
    ],
)
def test_what_cannot_be_temperature_is_refused(tmp_path: Path, change) -> None:
    (path,) = write_abi(tmp_path, START, scans=1, size=SHAPE, bands=(14,))
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(ContrailError, match=r"does not contain brightness temperatures: .* fetch the file again"):
        read_temperature(str(path), 14, *WHOLE)


def test_single_impossible_pixels_are_missing(tmp_path: Path) -> None:
    (path,) = write_abi(tmp_path, START, scans=1, size=SHAPE, bands=(14,))
    with h5py.File(path, "r+") as file:
        counts = file["Rad"][:]
        counts[2, 3:6] = 0  # a negative radiance
        file["Rad"][:] = counts
    kelvin = read_temperature(str(path), 14, *WHOLE)
    assert np.argwhere(np.isnan(kelvin)).tolist() == [[2, 3], [2, 4], [2, 5]]


def test_pixels_beside_the_earth_are_not_judged(tmp_path: Path) -> None:
    """Reprocessed full disks hold the radiance of space, which is zero."""
    (path,) = write_abi(tmp_path, START, scans=1, size=(60, 60), bands=(14,), centre=(0.0, -152.5))
    with h5py.File(path, "r+") as file:
        beside = file["Rad"][:] == file["Rad"].fillvalue
        assert 0.2 < beside.mean() < 0.9
        counts, flags = file["Rad"][:], file["DQF"][:]
        counts[beside], flags[beside] = 0, 0
        file["Rad"][:], file["DQF"][:] = counts, flags
    kelvin = read_temperature(str(path), 14, slice(0, 60), slice(0, 60))
    np.testing.assert_array_equal(np.isnan(kelvin), beside)
