"""Synthetic ABI files: how other programs read them, geometry and determinism."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr

from contrail_data.errors import ContrailError
from contrail_data.synthetic.abi import STEP, abi_grid, write_abi
from contrail_data.synthetic.abi_content import BANDS
from contrail_data.synthetic.scene import synthesize

START = np.datetime64("2023-09-13T15:36:17.34")
SIZE = (96, 120)
ENGINES = [
    name for name, module in (("netcdf4", "netCDF4"), ("h5netcdf", "h5netcdf")) if importlib.util.find_spec(module)
]


def write(folder: Path, **options: Any) -> list[Path]:
    return write_abi(folder, START, **{"scans": 1, "size": SIZE, **options})


def counts(path: Path, name: str = "Rad") -> np.ndarray[Any, np.dtype[np.int16]]:
    with h5py.File(path) as file:
        return np.asarray(file[name][:])


def truth(band: int, scan: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    return synthesize(0, 0, size=max(SIZE), bands=(band,)).bands[band][: SIZE[0], : SIZE[1], scan]


def step_of(band: int, kelvin: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the kelvin per count of radiance, from Planck's law."""
    b = BANDS[band]
    effective = b.bc1 + b.bc2 * kelvin
    radiance = b.fk1 / np.expm1(b.fk2 / effective)
    slope = radiance * b.fk2 / effective**2 / -np.expm1(-b.fk2 / effective) * b.bc2
    return np.asarray(b.scale / slope)


def test_file_names_follow_the_naming_scheme_of_noaa(tmp_path: Path) -> None:
    paths = write_abi(tmp_path, START, scans=2, size=(32, 32), bands=(15, 13), scene="C", satellite=18)
    name = r"OR_ABI-L1b-RadC-M6C(\d\d)_G18_s(\d{14})_e(\d{14})_c(\d{14})\.nc"
    matches = [re.fullmatch(name, p.name) for p in paths]
    bands_and_starts = [(f[1], f[2]) for f in matches if f]
    assert bands_and_starts == [(b, s) for s in ("20232561536173", "20232561546173") for b in ("13", "15")]
    assert all(f and f[2] < f[3] < f[4] for f in matches)
    assert [p.name for p in paths] == sorted((p.name for p in paths), key=lambda n: (n[23:37], n))
    only = {"size": (32, 32), "bands": (13,), "scans": 1}
    assert write_abi(tmp_path, START, product="CMIP", **only)[0].name.startswith("OR_ABI-L2-CMIPM1-M6C13_G16_s2023256")
    assert write_abi(tmp_path, START, product="MCMIP", **only)[0].name.startswith("OR_ABI-L2-MCMIPM1-M6_G16_s")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("product", ["L1b", "CMIP", "MCMIP"])
def test_xarray_opens_and_decodes_the_files(tmp_path: Path, product: str, engine: Any) -> None:
    path = write(tmp_path, product=product, bands=(8, 11, 16))[0]
    with xr.open_dataset(path, engine=engine) as ds:
        suffix = "_C08" if product == "MCMIP" else ""
        image = ds["Rad" if product == "L1b" else f"CMI{suffix}"]
        assert image.dims == ("y", "x")
        assert image.shape == SIZE
        assert image.notnull().all()
        assert (ds[f"DQF{suffix}"] == 0).all()
        assert abs(ds.t.values - np.datetime64("2023-09-13T15:36:20.8")) < np.timedelta64(300, "ms")
        assert ds.time_coverage_start == "2023-09-13T15:36:17.3Z"
        assert ds[f"band_id{suffix}"].dims == ("band",)
        assert int(ds[f"band_id{suffix}"][0]) == 8
        if product != "L1b":
            assert abs(image.values - truth(8)).max() <= 0.501 * BANDS[8].kelvin_scale
        steps = np.stack([np.asarray(ds[a].values, np.float64)[0] / STEP % 1 for a in ("x", "y")])
        np.testing.assert_allclose(steps, 0.5, atol=2e-3)  # float32, as in NOAA's files


@pytest.mark.slow
@pytest.mark.parametrize(("reader", "product"), [("abi_l1b", "L1b"), ("abi_l2_nc", "CMIP"), ("abi_l2_nc", "MCMIP")])
def test_satpy_reads_the_brightness_temperature(tmp_path: Path, reader: str, product: str) -> None:
    satpy = pytest.importorskip("satpy")
    bands = (8, 11, 12, 15, 16)
    paths = write(tmp_path, product=product, bands=bands)
    scene = satpy.Scene([str(p) for p in paths], reader=reader)
    scene.load([f"C{b:02d}" for b in bands])
    for band in bands:
        image = scene[f"C{band:02d}"]
        true = truth(band).astype(np.float64)
        step = step_of(band, true) if product == "L1b" else BANDS[band].kelvin_scale
        assert (abs(image.values - true) <= 0.51 * step + 1e-4).all()  # 1e-4: float32
    longitude, latitude = image.attrs["area"].get_lonlats()
    expected = abi_grid(size=SIZE).geodetic()
    assert max(abs(latitude - expected[0]).max(), abs(longitude - expected[1]).max()) < 2e-5


def test_places_agree_with_pyproj(tmp_path: Path) -> None:
    pyproj = pytest.importorskip("pyproj")
    centre = (-33.4, -70.6)
    with xr.open_dataset(write(tmp_path, centre=centre, bands=(14,))[0]) as ds:
        to_map = pyproj.Proj(pyproj.CRS.from_cf(dict(ds.goes_imager_projection.attrs)))
        height = ds.goes_imager_projection.perspective_point_height
        x, y = np.meshgrid(ds.x.values.astype(np.float64) * height, ds.y.values.astype(np.float64) * height)
        extent = ds.geospatial_lat_lon_extent.attrs
    longitude, latitude = to_map(x, y, inverse=True)
    expected = abi_grid(centre=centre, size=SIZE).geodetic()
    assert max(abs(latitude - expected[0]).max(), abs(longitude - expected[1]).max()) < 2e-6  # float32 axes: 10 cm
    middle = latitude[47:49, 59:61].mean(), longitude[47:49, 59:61].mean()
    np.testing.assert_allclose(middle, centre, atol=0.03)
    bounds = [float(extent[f"geospatial_{side}"]) for side in ("southbound_latitude", "westbound_longitude")]
    np.testing.assert_allclose(bounds, [latitude.min(), longitude.min()], atol=1e-4)


@pytest.mark.parametrize("name", ["*C11_G16*", "*C12_G16*", "*C12_G18*", "*C15_G16*", "fieldglass*"])
def test_layout_and_attributes_agree_with_real_files(real_data: Path, tmp_path: Path, name: str) -> None:
    (path,) = (real_data / "abi").glob(f"{name}.nc")
    product = "L1b" if "L1b" in path.name else "CMIP"
    band = int(path.name[19:21]) if product == "L1b" else 13
    synthetic = write(
        tmp_path, product=product, bands=(band,), scene="C", satellite=18 if "_G18_" in path.name else 16
    )[0]
    with h5py.File(path) as real, h5py.File(synthetic) as file:
        shared = sorted(set(real) & set(file))
        assert {"x", "y", "DQF", "goes_imager_projection", "Rad" if product == "L1b" else "CMI"} <= set(shared)
        for variable in shared:
            ours, theirs = file[variable], real[variable]
            assert ours.dtype == theirs.dtype, variable
            assert ours.ndim == theirs.ndim, variable
            assert ours.fillvalue == theirs.fillvalue, variable
            assert (ours.compression, ours.compression_opts) == (theirs.compression, theirs.compression_opts), variable
            for key in set(ours.attrs) & set(theirs.attrs) - {"REFERENCE_LIST", "DIMENSION_LIST", "_Netcdf4Dimid"}:
                our_value, their_value = ours.attrs[key], theirs.attrs[key]
                assert np.shape(our_value) == np.shape(their_value), (variable, key)
                assert isinstance(their_value, bytes) or our_value.dtype == their_value.dtype, (variable, key)
                # These depend on the scene; and GOES-18's constants have wrong units in the real files.
                ignored = (
                    r"geospatial_|percent_|long_name|[xy] add_offset|radiance_value\S* valid_range|planck_\S* units"
                )
                if not re.search(ignored, f"{variable} {key}"):
                    np.testing.assert_array_equal(our_value, their_value, f"{variable} {key}")
        for key in ("orbital_slot", "platform_ID", "instrument_ID", "timeline_id", "spatial_resolution"):
            if key in real.attrs:
                assert file.attrs[key] == real.attrs[key] or path.name.startswith("fieldglass")
        if "_G16_" in path.name and product == "L1b":
            for constant in ("fk1", "fk2", "bc1", "bc2"):
                assert file[f"planck_{constant}"][()] == real[f"planck_{constant}"][()]


def test_planck_constants_agree_with_the_wavelength() -> None:
    for band, b in BANDS.items():
        wavenumber = b.fk2 / 1.4387752  # cm-1, from h c nu / k
        np.testing.assert_allclose(b.fk1, 1.1910428e-5 * wavenumber**3, rtol=2e-5, err_msg=str(band))
        np.testing.assert_allclose(1e4 / wavenumber, b.wavelength, rtol=4e-3, err_msg=str(band))


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = (write(tmp_path / d, scans=2, bands=(11, 15)) for d in "ab")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    other_seed = write(tmp_path / "c", scans=2, bands=(11, 15), seed=1)
    assert [p.name for p in other_seed] == [p.name for p in first]
    assert (counts(other_seed[0]) != counts(first[0])).any()
    assert (counts(first[0]) != counts(first[2])).any()  # another frame


def test_pixels_off_the_earth_have_no_value(tmp_path: Path) -> None:
    path = write(tmp_path, centre=(70.0, -130.0), size=(400, 320), bands=(14,))[0]
    off_earth = np.isnan(abi_grid(centre=(70.0, -130.0), size=(400, 320)).geodetic()[0])
    assert 0 < off_earth.sum() < off_earth.size
    np.testing.assert_array_equal(counts(path, "DQF"), np.where(off_earth, -1, 0))
    np.testing.assert_array_equal(counts(path) == 4095, off_earth)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"product": "L2"}, "product L2"),
        ({"bands": (7,)}, "bands 7"),
        ({"bands": (11, 11)}, "bands 11"),
        ({"bands": ()}, "bands"),
        ({"centre": (0.0, 100.0)}, "centre"),
        ({"centre": (float("nan"), 0.0)}, "centre"),
    ],
)
def test_invalid_options_are_refused_in_one_line(tmp_path: Path, options: Any, message: str) -> None:
    with pytest.raises(ContrailError, match=re.escape(message)) as caught:
        write(tmp_path / "out", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("start", ["NaT", "1969-07-20"])
def test_invalid_start_times_are_refused(tmp_path: Path, start: str) -> None:
    with pytest.raises(ContrailError, match="start"):
        write_abi(tmp_path, np.datetime64(start), size=SIZE)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(ContrailError, match="cannot be written"):
        write(tmp_path / "out")
