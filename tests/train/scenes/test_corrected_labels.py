"""Detections that a person corrected become the labels of the next training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import shapely
import xarray as xr
from shapely.geometry import mapping, shape

from contrail_data.scans.scene import grid_of
from contrail_data.sources.label_files import read_labels
from contrail_data.store.reader import open_store
from contrail_data.synthetic.abi import write_abi
from contrail_train.contrails.cleaning import EIGHT_CONNECTED
from helpers.abi import START
from helpers.cli import run_data, run_train
from helpers.runs import TINY, set_options

SIZE = (150, 170)


@pytest.mark.slow
def test_corrected_detections_become_the_labels_of_the_next_training(finished: Path, tmp_path: Path) -> None:
    from scipy import ndimage

    abi, detections, corrected = (tmp_path / name for name in ("abi", "detections.geojson", "corrected.geojson"))
    write_abi(abi, START, scans=2, seed=3, size=SIZE)
    outputs = ("-o", detections, "-o", tmp_path / "mask.nc", "-o", tmp_path / "mask.tif")
    done = run_train("predict-scans", finished, abi, "--min-pixels", 4, "--altitude", 11000, *outputs)
    assert done.returncode == 0, done.stderr
    with xr.open_dataset(tmp_path / "mask.nc", mask_and_scale=False) as scene:
        mask_yx, time, grid = scene["mask"].values[0], str(scene["time"].values[0]), grid_of(scene)
    regions, count = ndimage.label(mask_yx == 1, EIGHT_CONNECTED)
    assert count >= 3

    (tiff, _) = sorted(tmp_path.glob("mask-*.tif"))
    shapes = read_labels([tiff]).shapes  # in latitude and longitude
    assert all(str(drawn.time)[:16] == "2024-03-01T12:00" for drawn in shapes)
    assert sum(not drawn.is_area for drawn in shapes) >= count

    # One false contrail is deleted, of another one only the outline; and one that was missed is drawn.
    content = json.loads(detections.read_text())
    first = content["features"][0]["properties"]["time"]
    is_line = {"LineString", "MultiLineString"}
    kept = [
        feature
        for feature in content["features"]
        if (feature["properties"]["id"], feature["properties"]["time"]) != (1, first)
        and not (
            (feature["properties"]["id"], feature["properties"]["time"][:15]) == (2, first[:15])
            and feature["geometry"]["type"] not in is_line
        )
    ]
    row, column = 100, 20
    corners = np.array([(row, column), (row, column + 30), (row + 3, column + 30), (row + 3, column)]) - 0.5
    latitude, longitude = grid.projection.to_geodetic(
        grid.x + grid.dx * corners[:, 1], grid.y + grid.dy * corners[:, 0]
    )
    missed = shapely.Polygon(np.stack([longitude, latitude], -1))
    kept.append({"type": "Feature", "geometry": mapping(missed), "properties": {"time": time}})
    corrected.write_text(json.dumps(content | {"features": kept}))
    assert shape(kept[0]["geometry"]).is_valid

    out = tmp_path / "own.zarr"
    options = ("--labels", corrected, "--label-area", "scan", "--native", "--size", "64")
    frames = ("--before", "0", "--after", "0")
    done = run_data("build-ash", abi, "-o", out, *options, *frames)
    assert done.returncode == 0, done.stderr
    assert "1 detected contrails are left out, as only their centre lines are left" in done.stderr
    store = open_store(out)
    assert store.attrs["label_shift"] == [0.0, 0.0]
    assert set(store["label_source"].values.tolist()) == {"human"}
    expected = regions > 2
    expected[row : row + 3, column : column + 30] = True
    noon = store["time"].values[:, 0] < np.datetime64("2024-03-01T12:05")
    assert noon.any()
    assert not noon.all()
    for sample in np.flatnonzero(noon):
        west, _, _, north, _, _ = store["geotransform"].values[sample] / grid.projection.height
        top, left = round((north - grid.y) / grid.dy + 0.5), round((west - grid.x) / grid.dx + 0.5)
        rows, columns = np.arange(64) + top, np.arange(64) + left
        on_scan = np.ix_((rows >= 0) & (rows < SIZE[0]), (columns >= 0) & (columns < SIZE[1]))
        actual = store["mask"].values[sample][on_scan]
        wanted = expected[np.ix_(rows[(rows >= 0) & (rows < SIZE[0])], columns[(columns >= 0) & (columns < SIZE[1])])]
        np.testing.assert_array_equal(actual > 0, wanted)

    done = run_train("run", "unet2d", "--dry-run", *set_options(*TINY, f"data.train={out}", "data.holdout=0"))
    assert done.returncode == 0, done.stderr
    assert "label shift (0.0, 0.0) px" in done.stdout + done.stderr
