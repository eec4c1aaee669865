"""Scenes through satpy: coordinates of real AHI and AMI files against satpy and the files, and what is refused."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from contrail_data.composites import COMPOSITES, evaluate
from contrail_data.errors import ContrailError
from contrail_data.scans.listing import list_satpy_scans
from contrail_data.scans.satpy_reader import WINDOW, band_of_wavelength, from_satpy, open_readable
from contrail_data.scans.scene import grid_of

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

pytest.importorskip("satpy")


WHOLE = {"ahi": (1200, 1500), "ami": (500, 500)}
INSIDE = {"ahi": (slice(400, 464), slice(600, 664)), "ami": (slice(200, 264), slice(200, 264))}
"""Rows and columns of a window that was scanned."""


def files_of(real_data: Path, imager: str) -> list[Path]:
    if imager == "ami":
        pytest.importorskip("pyspectral", reason="satpy's reader of AMI needs it")
    return sorted((real_data / imager).iterdir())


def open_files(paths: Sequence[Path], bands: tuple[int, ...] = WINDOW, reader: str | None = None) -> xr.Dataset:
    reader = reader or {"HS": "ahi_hsd", "gk": "ami_l1b"}[paths[0].name[:2]]
    scene, problems = open_readable(tuple(paths), reader, bands)
    assert not problems
    assert scene is not None
    return scene


def never(*args: object, **keywords: object) -> None:
    raise AssertionError("something was computed")


@pytest.mark.slow
@pytest.mark.parametrize("imager", ["ahi", "ami"])
def test_real_files_open_as_a_lazy_scene(real_data: Path, imager: str) -> None:
    import dask

    paths = files_of(real_data, imager)
    with dask.config.set(scheduler=never):
        scene = open_files(paths)
    temperature = scene["brightness_temperature"]
    assert temperature.chunks is not None
    assert temperature.dims == ("time", "band", "y", "x")
    assert temperature.shape == (1, 4, *WHOLE[imager])
    assert temperature.dtype == np.float32
    assert temperature.attrs["units"] == "K"
    assert temperature.attrs["standard_name"] == "toa_brightness_temperature"
    mapping = {"ahi": "himawari_imager_projection", "ami": "gk2a_imager_projection"}[imager]
    assert temperature.attrs["grid_mapping"] == mapping
    assert scene["band"].values.tolist() == [11, 13, 14, 15]
    assert scene["x"].attrs["standard_name"] == "projection_x_coordinate"
    assert scene["y"].attrs["units"] == "rad"
    assert (np.diff(scene["x"]) > 0).all()
    assert (np.diff(scene["y"]) < 0).all()
    assert scene["scan_start"][0] < scene["time"][0] < scene["scan_end"][0]
    expected = {"ahi": ("Himawari-9", "ahi", "Japan"), "ami": ("GEO-KOMPSAT-2A", "ami", "local area")}
    assert tuple(scene.attrs[key] for key in ("platform", "instrument", "scene")) == expected[imager]
    assert scene.attrs["source"] == [path.name for path in paths]
    assert scene[mapping].attrs["sweep_angle_axis"] == "y"

    pixels = temperature.values
    assert np.nanmin(pixels) > 180
    assert np.nanmax(pixels) < 340
    missing = np.isnan(pixels).mean()
    assert (0.3 < missing < 0.45) if imager == "ahi" else missing == 0

    rows, columns = INSIDE[imager]
    window = temperature.isel(time=0, y=rows, x=columns)
    ash = evaluate(COMPOSITES["ash"], {int(band): window.sel(band=band).values for band in scene["band"].values})
    assert ash.shape == (3, 64, 64)
    assert np.isfinite(ash).all()
    assert ash.std() > 0.05


@pytest.mark.slow
@pytest.mark.parametrize(("imager", "sweep"), [("ahi", "y"), ("ami", "y"), ("abi", "x")])
def test_coordinates_agree_with_satpy(real_data: Path, imager: str, sweep: str) -> None:
    from satpy import Scene

    paths = files_of(real_data, imager)
    name, reader = {"ahi": ("B14", "ahi_hsd"), "ami": ("IR112", "ami_l1b"), "abi": ("C11", "abi_l1b")}[imager]
    theirs = Scene([str(p) for p in paths if imager != "abi" or "RadC-M6C11_G16" in p.name], reader=reader)
    theirs.load([name])
    grid = grid_of(from_satpy(theirs))
    assert grid.projection.sweep == sweep
    latitude, longitude = grid.geodetic()
    expected_longitude, expected_latitude = theirs[name].attrs["area"].get_lonlats()
    if imager == "ami":  # satpy mirrors local areas at the equator; the next test compares them with the files
        expected_latitude, expected_longitude = -expected_latitude[::-1], expected_longitude[::-1]
    visible = np.isfinite(expected_latitude) & np.isfinite(expected_longitude)
    np.testing.assert_array_equal(np.isfinite(latitude), visible)
    assert np.abs(latitude - expected_latitude)[visible].max() < 1e-4
    assert np.abs(longitude - expected_longitude)[visible].max() < 1e-4


@pytest.mark.slow
def test_local_areas_of_ami_lie_where_their_files_say(real_data: Path) -> None:
    import h5py

    paths = files_of(real_data, "ami")
    scene = open_files(paths)
    grid = grid_of(scene)
    with h5py.File(paths[0]) as file:
        attributes = {key: float(np.ravel(file.attrs[f"image_{key}"])[0]) for key in PLACES}
    latitude, longitude = grid.geodetic()
    assert abs(grid.x - attributes["upperleft_x"]) < 1e-8
    assert abs(grid.y - attributes["upperleft_y"]) < 1e-8
    for index, corner in ((0, "upperleft"), (-1, "lowerright")):
        assert abs(latitude[index, index] - np.degrees(attributes[f"{corner}_latitude"])) < 1e-9
        assert abs(longitude[index, index] - np.degrees(attributes[f"{corner}_longitude"])) < 1e-9
    assert latitude.min() > 19  # typhoon Lan, in the west Pacific


PLACES = [f"upperleft_{c}" for c in ("x", "y", "latitude", "longitude")] + [
    "lowerright_latitude",
    "lowerright_longitude",
]


def test_local_areas_of_ami_without_files_are_refused(real_data: Path) -> None:
    from satpy import Scene

    theirs = Scene([str(path) for path in files_of(real_data, "ami")], reader="ami_l1b")
    theirs.load(["IR112"])
    west, _, east, top = theirs["IR112"].attrs["area"].area_extent
    with pytest.raises(ContrailError, match="use from_satpy before you crop"):
        from_satpy(theirs.crop(xy_bbox=(west, top - 200_000, east, top)))  # a cropped Scene has no files


def test_real_abi_files_give_the_same_scene_as_the_built_in_reader(real_data: Path) -> None:
    from contrail_data.scans.abi import open_abi

    paths = sorted((real_data / "abi").glob("*RadC*G16*.nc"))
    theirs, ours = open_files(paths, (11, 12, 15), "abi_l1b"), open_abi(paths)
    assert theirs.attrs["platform"] == ours.attrs["platform"]
    assert theirs.attrs["scene"] == "CONUS"
    for name in ("x", "y"):
        np.testing.assert_allclose(theirs[name], ours[name], rtol=0, atol=2e-8)
    assert abs(theirs["time"].values[0] - ours["time"].values[0]) < np.timedelta64(2, "s")
    window = {"y": slice(500, 700), "x": slice(1000, 1200)}
    actual, expected = (s["brightness_temperature"].isel(window).values for s in (theirs, ours))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-3)


@pytest.mark.slow
def test_only_the_files_of_requested_bands_are_opened(real_data: Path) -> None:
    (scan,) = list_satpy_scans(str(files_of(real_data, "ahi")[0].parent), "auto", (15, 14)).scans
    assert scan.bands == (14, 15)
    assert [name[21:24] for name in scan.open().attrs["source"]] == ["B14", "B15"]


def test_unpacked_files_are_not_left_behind(real_data: Path, tmp_path: Path) -> None:
    import satpy

    with satpy.config.set(tmp_dir=str(tmp_path)):
        (scan,) = list_satpy_scans(str(files_of(real_data, "ahi")[0].parent), "auto", (14,)).scans
        scene = scan.open()
    assert not list(tmp_path.iterdir())
    assert np.isfinite(scene["brightness_temperature"]).any()


def test_files_that_cannot_be_opened_are_refused_in_one_line(real_data: Path, tmp_path: Path) -> None:
    (tmp_path / "picture.png").touch()

    def refused(match: str, reader: str) -> None:
        with pytest.raises(ContrailError, match=match) as error:
            list_satpy_scans(str(tmp_path), reader, (14,))
        assert "\n" not in str(error.value)

    refused("name another", "abi_l1b")
    refused("satpy has no such reader", "no_such_reader")
    refused("contains no files named like AHI HSD, AMI L1b, FCI L1c or SEVIRI native", "auto")
    (original,) = (path for path in files_of(real_data, "ahi") if "B14" in path.name)
    broken = tmp_path / original.name
    for content in (original.read_bytes()[:5000], b"nothing of the kind", b""):
        broken.write_bytes(content)
        open_readable.cache_clear()
        refused(f"{original.name}: satpy cannot read it", "auto")
    (tmp_path / "gk2a_ami_le1b_ir112_la020ge_202308090034.nc").touch()
    refused("several imagers", "auto")


@pytest.mark.slow
def test_a_damaged_ami_file_is_named_in_the_error(real_data: Path, tmp_path: Path) -> None:
    paths = files_of(real_data, "ami")
    broken = tmp_path / paths[0].name
    for size in (0, 200_000):
        broken.write_bytes(paths[0].read_bytes()[:size])
        open_readable.cache_clear()
        scene, problems = open_readable((broken, *paths[1:]), "ami_l1b", WINDOW)
        assert scene is not None
        assert scene["band"].values.tolist() == [13, 14, 15]
        (problem,) = problems
        assert "ir087" in problem
        assert "satpy cannot read it" in problem
        assert "\n" not in problem
    for path in paths[1:]:
        (tmp_path / path.name).symlink_to(path)
    with pytest.raises(ContrailError, match=f"no scan has all of bands .*, since {broken}: satpy cannot read it"):
        list_satpy_scans(str(tmp_path), "auto", (11, 14, 15))


@pytest.mark.parametrize("module", ["satpy", "pyspectral"])
def test_a_missing_package_is_named_in_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    path = tmp_path / "gk2a_ami_le1b_ir112_la020ge_202308090034.nc"
    path.touch()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ContrailError, match=rf"{module}.*pip install '\.\[satpy\]'"):
        list_satpy_scans(str(path), "auto", (14,))


def area(rows: int = 4, columns: int = 6, *, upright: bool = True, west_first: bool = True, **projection: object):
    from pyresample.geometry import AreaDefinition

    crs = {"proj": "geos", "h": 35786023.0, "lon_0": 100.0, "a": 6378137.0, "b": 6356752.3, "sweep": "y", **projection}
    west, bottom, east, top = 10_000.0, 40_000.0, 10_000.0 + 2000 * columns, 40_000.0 + 2000 * rows
    (west, east), (bottom, top) = (west, east)[:: 1 if west_first else -1], (bottom, top)[:: 1 if upright else -1]
    return AreaDefinition("made_up", "", "", crs, columns, rows, (west, bottom, east, top))


def array(area_definition: object, pixels: np.ndarray, wavelength: float = 11.2, **attributes: object) -> xr.DataArray:
    from satpy.dataset.dataid import WavelengthRange

    defaults = {
        **{"area": area_definition, "standard_name": "toa_brightness_temperature", "units": "K", "sensor": {"ahi"}},
        **{
            "wavelength": WavelengthRange(wavelength - 0.2, wavelength, wavelength + 0.2),
            "platform_name": "Himawari-8",
        },
        **{"start_time": datetime(2024, 1, 1), "end_time": datetime(2024, 1, 1) + timedelta(minutes=10)},
    }
    return xr.DataArray(pixels, dims=("y", "x"), attrs=defaults | attributes)


def scene_of(**arrays: xr.DataArray):
    from satpy import Scene

    scene = Scene()
    for name, one in arrays.items():
        scene[name] = one
    return scene


@pytest.mark.parametrize("upright", [True, False])
@pytest.mark.parametrize("west_first", [True, False])
def test_north_is_up_and_pixels_keep_their_place(upright: bool, west_first: bool) -> None:
    pixels = np.arange(24, dtype=np.float64).reshape(4, 6) + 200
    turned = pixels[:: 1 if upright else -1, :: 1 if west_first else -1]
    area_definition = area(upright=upright, west_first=west_first)
    scene = from_satpy(scene_of(B14=array(area_definition, turned), B15=array(area_definition, turned + 1, 12.4)))
    assert scene["brightness_temperature"].chunks is not None
    np.testing.assert_array_equal(scene["brightness_temperature"].sel(band=14)[0], pixels.astype(np.float32))
    np.testing.assert_allclose(scene["x"], (11_000 + 2000 * np.arange(6)) / 35786023.0, rtol=1e-12)
    np.testing.assert_allclose(scene["y"], (47_000 - 2000 * np.arange(4)) / 35786023.0, rtol=1e-12)
    assert str(scene["time"].values[0]) == "2024-01-01T00:05:00.000000000"
    assert scene.attrs["instrument"] == "ahi"


def test_unsuitable_satpy_scenes_are_refused_in_one_line() -> None:
    pixels = np.full((4, 6), 280.0)
    valid = array(area(), pixels)
    flat = area(proj="merc", h=None, sweep=None)
    for match, arrays in {
        "no window channel is loaded": {"B12": array(area(), pixels, 9.6)},
        "no brightness temperature": {"B14": array(area(), pixels, standard_name="counts")},
        "no brightness.temperature": {"B03": array(area(), pixels, 0.64), "B13": array(area(), pixels, 10.8)},
        "no brightness temperature.": {"B14": array(area(), pixels, modifiers=("co2_corrected",))},
        "not on a geostationary grid": {"B14": array(flat, pixels)},
        "not on a .* grid": {"B14": array(None, pixels)},
        "not on a geostationary": {"B14": array(area(x_0=500.0), pixels)},
        "areas differ": {"B14": valid, "B15": array(area(2, 3), pixels[:2, :3], 12.4)},
        "areas differ .*resolution": {"B14": valid, "B15": array(area(lon_0=101.0), pixels, 12.4)},
        "several datasets of band 14": {"B14": valid, "B14b": array(area(), pixels)},
        "no time is known": {"B14": array(area(), pixels, start_time=None, end_time=None)},
    }.items():
        with pytest.raises(ContrailError, match=match) as error:
            from_satpy(scene_of(**arrays))
        assert "\n" not in str(error.value)


def test_bands_of_the_imagers_are_recognised_by_wavelength() -> None:
    """Compare with the bands and wavelengths in satpy's reader files."""
    import satpy
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("tag:yaml.org,2002:python/name:", lambda *_: None)
    expected = {
        "ahi_hsd": {f"B{band:02d}": band for band in range(8, 17)},
        "abi_l1b": {f"C{band:02d}": band for band in range(8, 17)},
        "ami_l1b": {
            **{"WV063": 8, "WV069": 9, "WV073": 10, "IR087": 11, "IR096": 12},
            **{"IR105": 13, "IR112": 14, "IR123": 15, "IR133": 16},
        },
    }
    folder = Path(satpy.__file__).parent / "etc/readers"
    for reader, bands in expected.items():
        datasets = yaml.load((folder / f"{reader}.yaml").read_text(), Loader)["datasets"].values()
        recognised = {d["name"]: band_of_wavelength(d["wavelength"]) for d in datasets if "wavelength" in d}
        assert {name: band for name, band in recognised.items() if band is not None} == bands


@pytest.mark.slow
@pytest.mark.parametrize(("imager", "named", "held"), [("ahi", "B11", "B14"), ("ami", "ir087", "ir112")])
def test_files_of_another_band_than_their_names_say_are_set_aside(
    real_data: Path, tmp_path: Path, imager: str, named: str, held: str
) -> None:
    first, second = (next(p for p in files_of(real_data, imager) if band in p.name) for band in (named, held))
    swapped = tmp_path / first.name
    shutil.copy(second, swapped)
    reader = {"ahi": "ahi_hsd", "ami": "ami_l1b"}[imager]
    scene, problems = open_readable((swapped, second), reader, (11, 14))
    assert problems == (f"{swapped}: contains band 14, contrary to its name; fetch it again",)
    assert scene is not None
    assert scene["band"].values.tolist() == [14]


@pytest.mark.slow
def test_a_himawari_file_of_another_size_than_it_states_is_set_aside(real_data: Path, tmp_path: Path) -> None:
    import bz2

    path = files_of(real_data, "ahi")[0]
    longer = tmp_path / path.name.removesuffix(".bz2")
    content = bz2.decompress(path.read_bytes())
    longer.write_bytes(content[:2_000_000] + b"abc" + content[2_000_000:])
    scene, (problem,) = open_readable((longer,), "ahi_hsd", (11,))
    assert scene is None
    assert "contains 3,601,546 bytes, but states 3,601,543; fetch it again" in problem
