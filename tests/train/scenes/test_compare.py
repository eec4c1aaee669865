"""Masks of two files, in our form and in that of Google's Contrails API, compared pixel by pixel."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from contrail_data.errors import ContrailError
from contrail_data.sources.mask_files import open_mask_file
from contrail_train.contrails.cleaning import Cleaning
from contrail_train.scenes.compare import Comparison, compare_masks
from contrail_train.scenes.contrails import SceneContrails
from contrail_train.scenes.files import write
from helpers.cli import run_train
from helpers.scenes import START, scene_of, smooth

SECOND = np.timedelta64(1, "s")


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of two scans, ten minutes apart."""
    out = tmp_path_factory.mktemp("ours") / "ours.nc"
    first, second = (scene_of(smooth(np.random.default_rng(seed)), Cleaning(0.5)) for seed in (0, 1))
    times = ("time", "scan_start", "scan_end")
    second = second.assign_coords({name: second[name] + 600 * SECOND for name in times})
    joined = xr.concat([first, second], "time", data_vars="minimal")
    write([SceneContrails(scene=joined)], out, {START: out})
    return out


def google(ours: Path, out: Path, border: int = 7, height: float = 35786400.0, **changes: object) -> np.ndarray:
    """Write a file as Google's API returns it: of a larger window, with zeros where nothing is seen, and some errors.

    Returns its mask in the window of ours.
    """
    rng = np.random.default_rng(5)
    with xr.open_dataset(ours) as opened:
        mask = opened["mask"].fillna(0).values
        stated = float(opened["goes_imager_projection"].attrs["perspective_point_height"])
        axes = {}
        for name in ("x", "y"):
            values = opened[name].values
            numbers = np.arange(-border, len(values) + border)
            axes[name] = np.float32((values[0] + (values[1] - values[0]) * numbers) * height / stated)
        times = opened["time_bounds"].values[:, 0] + 7 * SECOND
    mask = np.where(rng.random(mask.shape) < 0.05, 1 - mask, mask)
    whole = np.pad(mask, ((0, 0), (border, border), (border, border))).astype(np.float32)
    projection = (
        f"+proj=geos +lon_0=-75 +h={height:.0f} +x_0=0 +y_0=0 +a=6378137 +b=6356752.3 +sweep=x +units=m +no_defs"
    )
    dataset = xr.Dataset(
        {"mask": (("time", "y", "x"), whole), "projection": ((), changes.get("projection", projection))},
        coords={"time": times, **axes},
    )
    changed = changes.get("change", lambda dataset: dataset)
    changed(dataset).to_netcdf(out)
    return mask


def compared(a: Path, b: Path, **options: float) -> Comparison:
    return compare_masks(open_mask_file(a), open_mask_file(b), **options)


@pytest.mark.parametrize("turned", [False, True])
def test_files_of_both_forms_are_compared_pixel_by_pixel(ours: Path, tmp_path: Path, turned: bool) -> None:
    theirs = tmp_path / "theirs.nc"
    other = google(ours, theirs, change=lambda d: d.isel(y=slice(None, None, -1)) if turned else d)
    result = compared(ours, theirs)
    with xr.open_dataset(ours) as opened:
        mask = opened["mask"].values
    valid = ~np.isnan(mask)
    for number, pair in enumerate(result.pairs):
        a, b = mask[number][valid[number]] == 1, other[number][valid[number]] == 1
        expected = [(a & b).sum(), (b & ~a).sum(), (a & ~b).sum(), valid[number].sum()]
        assert [pair.counts.tp, pair.counts.fp, pair.counts.fn, pair.counts.pixels] == expected
        assert pair.counts.dice == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
        assert pair.later_s == 7
    assert len(result.pairs) == 2
    assert not result.notes
    assert compared(theirs, ours).pairs[0].counts.fp == result.pairs[0].counts.fn


def test_our_formats_are_the_same_to_each_other(ours: Path, tmp_path: Path) -> None:
    scene = scene_of(smooth(np.random.default_rng(0)), Cleaning(0.5))
    for out in (tmp_path / "s.zarr", tmp_path / "s.tif"):
        write([SceneContrails(scene=scene)], out, {START: out})
    (pair,) = compared(tmp_path / "s.zarr", ours).pairs
    assert pair.counts.fp == pair.counts.fn == 0 < pair.counts.tp
    assert compared(tmp_path / "s.zarr", ours).unmatched == [
        f"{ours}: 2024-03-01T12:10:00 has no counterpart in {tmp_path / 's.zarr'} within 5 minutes"
    ]
    (pair,) = compared(tmp_path / "s.tif", tmp_path / "s.tif").pairs
    with rasterio.open(tmp_path / "s.tif") as file:
        assert pair.counts.tp == (file.read(2) == 1).sum()
        assert pair.counts.pixels == (file.read(2) != 255).sum()
    assert pair.time == START


def test_axes_that_reach_the_outer_edges_are_paired_by_index_and_reported(ours: Path, tmp_path: Path) -> None:
    """Google's axes run from edge to edge of the scan, though they are meant as centres."""

    def stretched(dataset: xr.Dataset) -> xr.Dataset:
        axes = {}
        for name in ("x", "y"):
            values = dataset[name].values
            half = (values[1] - values[0]) / 2
            axes[name] = np.linspace(values[0] - half, values[-1] + half, len(values), dtype=np.float32)
        return dataset.assign_coords(axes)

    other = google(ours, tmp_path / "theirs.nc", border=0, change=stretched)
    result = compared(ours, tmp_path / "theirs.nc")
    with xr.open_dataset(ours) as opened:
        mask = opened["mask"].values[0]
    assert result.pairs[0].counts.tp == ((mask == 1) & (other[0] == 1)).sum()
    assert result.notes == ["the centres of pixels differ by up to 0.50 pixel between the files"]


@settings(max_examples=60)
@given(st.data())
def test_windows_of_a_scan_are_compared_where_they_overlap(ours: Path, data: st.DataObject) -> None:
    """Against slices of the whole scan."""
    whole = open_mask_file(ours)
    values = whole.read(0, slice(None), slice(None))
    files, covered = [], np.zeros((2, *values.shape), bool)
    for number in range(2):
        slices = []
        for size in values.shape:
            first = data.draw(st.integers(0, size - 2))
            slices.append(slice(first, data.draw(st.integers(first + 2, size))))
        rows, columns = slices
        covered[number][rows, columns] = True
        part = values[rows, columns]
        axes = {
            name: replace(axis, first=axis.first + axis.step * cut.start, size=cut.stop - cut.start)
            for name, axis, cut in (("y", whole.y, rows), ("x", whole.x, columns))
        }
        files.append(
            replace(whole, **axes, times=whole.times[:1], read=lambda _, rows, columns, part=part: part[rows, columns])
        )
    both = covered.all(0) & ~np.isnan(values)
    if not covered.all(0).any():
        with pytest.raises(ContrailError, match="show different parts of the disk"):
            compare_masks(*files)
        return
    (pair,) = compare_masks(*files).pairs
    assert (pair.counts.pixels, pair.counts.tp) == (both.sum(), (both & (values == 1)).sum())
    assert pair.counts.fp == pair.counts.fn == 0


def without(name: str):
    return lambda dataset: dataset.drop_vars(name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"projection": "+proj=geos +lon_0=-137 +h=35786023 +sweep=x"}, "projections differ .*-75.* -137"),
        ({"projection": "+proj=geos +lon_0=-75 +h=35786023"}, "projections differ .*sweep x.*sweep y"),
        ({"projection": "nonsense"}, "projection is unknown to PROJ"),
        ({"change": without("projection")}, "does not state its projection"),
        ({"change": without("mask")}, "has no variable 'mask'"),
        ({"change": without("x")}, "no axes time, y and x"),
        ({"change": lambda d: d.isel(x=slice(None, None, 2))}, "grids differ in x"),
        ({"change": lambda d: d.assign(mask=d["mask"] * 3)}, "holds values from 0 to 3"),
        ({"change": lambda d: d.assign_coords(time=d["time"] + 3600 * SECOND)}, "no time is in both"),
        ({"change": lambda d: d.assign_coords(time=[1, 2])}, "times are not dates"),
        ({"change": without("time")}, "has several masks, but no times"),
        ({"change": lambda d: d.assign_coords(x=d["x"].values ** 3)}, "x is not evenly spaced"),
        ({"change": lambda d: d.assign_coords(x=d["x"] + 1e6)}, "different parts of the disk"),
    ],
)
def test_files_that_do_not_fit_are_refused_with_the_reason(
    ours: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    google(ours, tmp_path / "theirs.nc", **changes)
    with pytest.raises(ContrailError, match=message):
        compared(ours, tmp_path / "theirs.nc")


def test_the_command_prints_a_row_for_each_time(ours: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs.nc"
    google(ours, theirs, change=lambda d: d.assign(mask=d["mask"] * np.float32(0.4)))
    done = run_train("compare-masks", ours, theirs, "--threshold", 0.3)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[3:-1]] == [
        "─" * len(done.stdout.splitlines()[3].strip()),
        "2024-03-01T12:00:00",
        "2024-03-01T12:10:00",
        "all",
    ]
    as_json = json.loads(run_train("compare-masks", ours, theirs, "--threshold", 0.3, "--json").stdout)
    assert as_json["all"]["tp"] == sum(row["tp"] for row in as_json["times"]) > 0
    assert json.loads(run_train("compare-masks", ours, theirs, "--json").stdout)["all"]["tp"] == 0
    refused = run_train("compare-masks", ours, ours, "--threshold", 0.3)
    assert "--threshold: has no effect on files of 0 and 1" in refused.stderr
    broken = tmp_path / "broken.nc"
    broken.write_bytes(theirs.read_bytes()[:3000])
    assert f"error: {broken}: cannot be read as NetCDF (" in run_train("compare-masks", ours, broken).stderr


def test_a_single_column_is_compared(tmp_path: Path) -> None:
    for name, width in (("a", 1), ("b", 4)):
        profile = {"driver": "GTiff", "width": width, "height": 4, "count": 1, "dtype": "uint8", "crs": "EPSG:4326"}
        transform = rasterio.transform.from_origin(10, 50, 0.5, 0.5)
        with rasterio.open(tmp_path / f"{name}.tif", "w", transform=transform, **profile) as file:
            file.write(np.ones((1, 4, width), np.uint8))
    (pair,) = compared(tmp_path / "a.tif", tmp_path / "b.tif").pairs
    assert (pair.counts.tp, pair.counts.pixels) == (4, 4)


def test_damaged_pixels_are_one_line_that_names_the_file(tmp_path: Path) -> None:
    axis = np.arange(300) * 2000.0
    mask = np.random.default_rng(0).integers(0, 2, (1, 300, 300)).astype(np.float32)
    coordinates = {"time": np.array(["2024-03-01"], "datetime64[ns]"), "x": axis, "y": -axis}
    projection = "+proj=geos +lon_0=-75 +h=35786023 +a=6378137 +b=6356752.3 +sweep=x +units=m"
    dataset = xr.Dataset({"mask": (("time", "y", "x"), mask), "projection": ((), projection)}, coords=coordinates)
    path = tmp_path / "damaged.nc"
    dataset.to_netcdf(path, engine="netcdf4", encoding={"mask": {"zlib": True, "chunksizes": (1, 300, 300)}})
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 2000] = bytes(2000)
    path.write_bytes(content)
    with pytest.raises(ContrailError, match=r"damaged\.nc: cannot be read as NetCDF"):
        compared(path, path)
