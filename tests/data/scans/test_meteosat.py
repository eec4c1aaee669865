"""Meteosat's imagers through satpy: the temperatures of their files, their places and times, and stores of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import dask
import numpy as np
import pytest

from contrail_data.errors import ContrailError
from contrail_data.scans.listing import list_satpy_scans
from contrail_data.scans.satpy_files import group_files, readers_of
from contrail_data.scans.satpy_reader import open_readable
from contrail_data.scans.scene import grid_of, row_times
from contrail_data.store.reader import open_store
from helpers.cli import run_data
from helpers.meteosat import FCI_ROWS, FCI_SIDE, SEVIRI_SCAN, fci_kelvin, seviri_kelvin, write_fci, write_seviri
from helpers.shared import shared

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

pytest.importorskip("satpy")

CHUNK = (
    "W_XX-EUMETSAT-Darmstadt,IMG+SAT,MTI{satellite}+FCI-1C-RRAD-FDHSI-FD--CHK-{kind}--DIS-NC4E_C_EUMT_"
    "{processed}_IDPFI_OPE_20240301{start}_20240301{start}_N_JLS_O_{cycle:04d}_{chunk:04d}.nc"
)


@pytest.fixture(scope="module")
def seviri(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared(tmp_path_factory, "seviri", lambda folder: write_seviri(folder).parent)


@pytest.fixture(scope="module")
def fci(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared(tmp_path_factory, "fci", lambda folder: write_fci(folder)[0].parent)


def test_seviri_has_the_temperatures_that_its_file_encodes(seviri: Path) -> None:
    listing = list_satpy_scans(str(seviri), "auto", (11, 13, 14, 15))
    (scan,) = listing.scans
    assert listing.notes == [
        "SEVIRI lacks some of ABI's channels: band 13 is its channel at 10.8 micrometres, band 14 is its channel at "
        "10.8 micrometres, band 15 is its channel at 12 micrometres"
    ]
    scene = scan.open()
    assert scene["band"].values.tolist() == [11, 13, 14, 15]
    assert (scan.platform, scene.attrs["instrument"], scene.attrs["scene"]) == ("Meteosat-11", "seviri", "full disk")
    kelvin = scene["brightness_temperature"][0].values
    for index, channel in enumerate(("IR_087", "IR_108", "IR_108", "IR_120")):
        expected = seviri_kelvin(channel)[::-1, ::-1]  # north up, west left
        padding = kelvin.shape[2] - expected.shape[1]
        assert np.isnan(kelvin[index][:, :padding]).all()
        assert np.abs(kelvin[index][:, padding:] - expected).max() < 0.12  # half a step of the counts

    from satpy import Scene

    theirs = Scene([str(next(seviri.iterdir()))], reader="seviri_l1b_native")
    theirs.load(["IR_108"])
    np.testing.assert_array_equal(kelvin[1], theirs["IR_108"].values[::-1, ::-1])
    longitude, latitude = theirs["IR_108"].attrs["area"].get_lonlats()
    ours = grid_of(scene).geodetic()
    for actual, expected in zip(ours, (latitude, longitude), strict=True):
        np.testing.assert_allclose(actual, expected[::-1, ::-1], atol=1e-4)
    # The sub-satellite point is the centre of line 1856 from the south and column 1856 from the east.
    grid = grid_of(scene)
    assert grid.y + grid.dy * (3109 - 1856) == pytest.approx(0, abs=1e-8)
    assert grid.x + grid.dx * (padding + 1951 - 1856) == pytest.approx(0, abs=1e-8)


def test_rows_of_meteosat_are_scanned_from_the_south(seviri: Path) -> None:
    (scan,) = list_satpy_scans(str(seviri), "auto", (14,)).scans
    times = row_times(scan.open())[0]
    start, end = (np.datetime64(time, "ns") for time in SEVIRI_SCAN)
    assert (scan.start, scan.end) == (start, end)
    assert (np.diff(times) < np.timedelta64(0)).all()
    assert start < times[-1] < times[0] < end


@pytest.mark.slow
def test_chunks_of_fci_become_one_scan_with_the_temperatures_that_they_encode(fci: Path) -> None:
    listing = list_satpy_scans(str(fci), "auto", (11, 14, 15))
    (scan,) = listing.scans
    assert listing.notes == ["FCI lacks some of ABI's channels: band 14 is its channel at 10.5 micrometres"]
    scene = scan.open()
    assert (scan.platform, scene.attrs["instrument"], scene.attrs["scene"]) == ("Meteosat-12", "fci", "full disk")
    assert str(scan.start) == "2024-03-01T12:00:00.000000000"  # 38 of 40 chunks are missing: the nominal time
    assert scene["brightness_temperature"].shape == (1, 3, FCI_SIDE, FCI_SIDE)
    first, last = FCI_ROWS[0], FCI_ROWS[-1]
    window = slice(FCI_SIDE + 1 - last - 1, FCI_SIDE + 1 - first + 1)
    kelvin = scene["brightness_temperature"][0].isel(y=window).values
    assert np.isnan(kelvin[:, [0, -1]]).all()
    for index, channel in enumerate(("ir_87", "ir_105", "ir_123")):
        assert np.abs(kelvin[index, 1:-1] - fci_kelvin(channel, first, last)[::-1]).max() < 0.02

    from satpy import Scene

    theirs = Scene(sorted(map(str, fci.iterdir())), reader="fci_l1c_nc")
    theirs.load(["ir_105"], upper_right_corner="NE")
    with dask.config.set(scheduler="synchronous"):  # satpy reads by netCDF4 without a lock
        np.testing.assert_array_equal(kelvin[1], theirs["ir_105"].isel(y=window).values.astype(np.float32))
    expected = theirs["ir_105"].attrs["area"][window, 2000:2100].get_lonlats()[::-1]
    actual = grid_of(scene).window(window.start, 2000, window.stop - window.start, 100).geodetic()
    np.testing.assert_allclose(actual, expected, atol=1e-4)
    with pytest.raises(ContrailError, match=r"band 9 is missing"):
        list_satpy_scans(str(fci), "auto", (9, 14))


def test_chunks_are_grouped_by_repeat_cycle_and_the_latest_copy_is_taken() -> None:
    def name(chunk: int, cycle: int = 73, kind: str = "BODY", processed: int = 20240301121000, start: int = 0) -> Path:
        values = {"satellite": 1, "chunk": chunk, "cycle": cycle, "kind": kind, "processed": processed}
        return Path(CHUNK.format(**values, start=f"{120000 + start:06d}"))

    later = name(2, processed=20240301130000, start=15)
    files = [later, name(1), name(2, start=15), name(41, kind="TRAIL"), name(1, cycle=74, start=1000)]
    assert readers_of(files) == ["fci_l1c_nc"]
    assert group_files(files, "fci_l1c_nc", (14,)) == [(name(1), later), (name(1, cycle=74, start=1000),)]
    native = "MSG4-SEVI-MSG15-0100-NA-20240301121240.532000000Z-NA.nat"
    assert readers_of([native, "MSG4-SEVI-MSG15-0100-NA-20240301121240.532000000Z-20240301123000-1-2.nat"]) == [
        "seviri_l1b_native"
    ]


@pytest.mark.slow
def test_damaged_files_are_set_aside_in_one_line(seviri: Path, fci: Path, tmp_path: Path) -> None:
    (original,) = seviri.iterdir()
    for size in (0, 3000, original.stat().st_size // 2):
        broken = tmp_path / original.name
        broken.write_bytes(original.read_bytes()[:size])
        open_readable.cache_clear()
        with pytest.raises(ContrailError, match=f"{original.name}: satpy cannot read it") as error:
            list_satpy_scans(str(tmp_path), "auto", (14,))
        assert "\n" not in str(error.value)
    broken.unlink()
    first, second = sorted(fci.iterdir())
    (tmp_path / first.name).symlink_to(first)
    (tmp_path / second.name).write_bytes(second.read_bytes()[:100_000])
    listing = list_satpy_scans(str(tmp_path), "auto", (14,))
    assert len(listing.scans) == len(listing.problems) == 1
    assert second.name in listing.problems[0]


@pytest.mark.slow
def test_chunks_compressed_as_operational_ones_are_read(fci: Path, tmp_path: Path) -> None:
    """Another process reads them, because netCDF4 looks for decompressors once."""
    hdf5plugin = pytest.importorskip("hdf5plugin")
    import h5py

    path = tmp_path / sorted(fci.iterdir())[0].name
    path.write_bytes(sorted(fci.iterdir())[0].read_bytes())
    with h5py.File(path, "r+") as file:
        group = file["data/ir_105/measured"]
        counts, attributes = group["effective_radiance"][:], dict(group["effective_radiance"].attrs)
        del group["effective_radiance"]
        jpeg_ls = hdf5plugin.FciDecomp()
        copy = group.create_dataset("effective_radiance", data=counts, chunks=counts.shape, fillvalue=65535, **jpeg_ls)
        for name, value in attributes.items():
            if name != "DIMENSION_LIST" and not name.startswith("_Netcdf4"):
                copy.attrs[name] = value
        for axis, name in enumerate("yx"):
            copy.dims[axis].attach_scale(group[name])
    row = FCI_SIDE - FCI_ROWS[0]
    program = (
        "from contrail_data.scans.listing import list_satpy_scans\n"
        f"scene = list_satpy_scans({str(path)!r}, 'auto', (14,)).scans[0].open()\n"
        f"print(scene['brightness_temperature'].isel(y={row}, x=2000).values.item())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(fci_kelvin("ir_105", FCI_ROWS[0], FCI_ROWS[0] + 1)[0, 2000], abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("imager", ["seviri", "fci"])
def test_a_store_is_built_of_meteosat_and_previewed(
    request: pytest.FixtureRequest, tmp_path: Path, imager: str
) -> None:
    folder, out = request.getfixturevalue(imager), tmp_path / "s.zarr"
    place = {"seviri": "35.0,-0.5", "fci": "21.5,5"}[imager]
    options = ("--at", place, "--size", "64", "--pixel", "3000", "--before", "0", "--after", "0", "--reader", "auto")
    done = run_data("build-ash", folder, "-o", out, *options)
    assert done.returncode == 0, done.stderr
    assert f"note: {imager.upper()} lacks some of ABI's channels" in done.stderr
    store = open_store(out)
    assert store["satellite"].values[0] == {"seviri": "Meteosat-11", "fci": "Meteosat-12"}[imager]
    assert store["image"].values[0, 0].std((1, 2)).min() > 2
    assert store["valid"].values.mean() > 0.5 if "valid" in store else True
    done = run_data("preview", out, "-o", tmp_path / "pictures")
    assert done.returncode == 0, done.stderr
    other = run_data("build-ash", folder, "-o", tmp_path / "t.zarr", "--at", place)
    assert other.returncode == 1
    assert f"give --reader {readers_of(folder.iterdir())[0]}, or --reader auto" in other.stderr
