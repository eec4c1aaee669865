"""Single contrails and tracks of scenes: the same in every file, opened by GDAL and GeoPandas, and stable in time."""

from __future__ import annotations

import json
import re
import sys
import warnings
from pathlib import Path
from xml.etree import ElementTree

import geopandas
import numpy as np
import pyarrow.parquet as pq
import pyogrio
import pytest
import rasterio
import xarray as xr
from scipy import ndimage
from scipy.special import expit

from contrail_data.errors import ContrailError
from contrail_data.scans.scene import assemble
from contrail_data.synthetic.abi import abi_grid, write_abi
from contrail_train.contrails.confidence import Confidence
from contrail_train.inference.load import load_model
from contrail_train.scenes.contrails import SceneContrails
from contrail_train.scenes.files import check_outputs, write
from contrail_train.scenes.pictures import picture
from contrail_train.scenes.series import contrail_table
from contrail_train.scenes.traces import colour_of, short_name
from contrail_train.scenes.vectors import geojson, to_geodataframe
from helpers.cli import run_train

START = np.datetime64("2024-03-01T12:00", "ns")
MINUTE = np.timedelta64(1, "m")
SIDE, TIMES = 120, 4
DRIFT = np.array([3, -2])
"""Rows and columns in 10 minutes."""


def drifting_scene(minutes: tuple[int, ...] = (0, 10, 20, 30)) -> xr.Dataset:
    """A predicted scene of a texture that drifts, with two contrails that cross and one that appears later."""
    rng = np.random.default_rng(0)
    texture = ndimage.gaussian_filter(rng.normal(size=(SIDE + 60, SIDE + 60)), 2)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    image = np.zeros((len(minutes), 3, SIDE, SIDE), np.uint8)
    probability = np.zeros((len(minutes), SIDE, SIDE), np.float32)
    for t in range(len(minutes)):
        down, right = 30 - DRIFT * t
        image[t] = np.clip(128 + 600 * texture[down : down + SIDE, right : right + SIDE], 0, 254)
        y, x = rows - DRIFT[0] * t, columns - DRIFT[1] * t
        lines = [(y - 30 - 0.5 * (x - 60), x, 40, 80), (y - 40 + 0.8 * (x - 60), x, 40, 85)]
        lines += [(y - 90, x, 60, 95)] * (t > 0)
        for across, along, first, last in lines:
            inside = (np.abs(across) <= 1.6) & (along >= first) & (along <= last)
            probability[t][inside] = 0.9
            image[t][:, inside] = 40
    grid = abi_grid(16, (40.0, -60.0), (SIDE, SIDE))
    times = [(START + minute * MINUTE, START + (minute + 1) * MINUTE) for minute in minutes]
    blank = np.zeros((len(minutes), 1, SIDE, SIDE), np.float32)
    attributes = {"platform": "GOES-16", "instrument": "ABI"}
    scene = assemble(blank, [14], grid, times, attributes).drop_vars("brightness_temperature")
    pixels = ("time", "y", "x")
    scene = scene.assign(
        probability=(pixels, probability),
        mask=(pixels, (probability > 0.5).astype(np.uint8)),
        valid=(pixels, np.ones(probability.shape, np.uint8)),
        image=(("time", "channel", "y", "x"), image),
    )
    scene["scan_time"] = (("time", "y"), np.repeat(np.array(times)[:, :1], SIDE, axis=1))
    provenance = {"model": "sha256:0", "threshold": 0.5, "gate": 0.0, "composite": "ash", "software": "s"}
    return scene.assign_attrs(**provenance, inputs=["a.nc"])


@pytest.fixture(scope="module")
def found() -> SceneContrails:
    return SceneContrails(scene=drifting_scene(), separated=True, tracked=True)


@pytest.fixture(scope="module")
def files(found: SceneContrails, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for suffix in (".geojson", ".parquet", ".nc", ".zarr"):
        out = folder / f"s{suffix}"
        write([found], out, {found.scene["time"].values[0]: out}, style=True)
    return folder


def test_contrails_of_a_scene_are_followed_by_the_flow_of_its_imagery(found: SceneContrails) -> None:
    names = ["20240301T120030-1", "20240301T120030-2", "20240301T121030-1"]
    assert found.track_ids == names
    assert [len(track.sightings) for track in found.tracks] == [4, 4, 3]
    for track in found.tracks:
        for sighting in track.sightings[1:]:
            np.testing.assert_allclose(sighting.step, DRIFT, atol=0.6)
    scene = found.labelled
    np.testing.assert_array_equal(scene["track"].values > 0, scene["mask"].values > 0)
    np.testing.assert_array_equal(scene["instance"].values > 0, scene["mask"].values > 0)


def test_geojson_and_geoparquet_hold_the_same_contrails(files: Path, found: SceneContrails) -> None:
    table = geopandas.read_parquet(files / "s.parquet")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # GDAL warns of ids that several features share
        features = pyogrio.read_dataframe(files / "s.geojson")  # by GDAL
    lines = features[features.geom_type == "LineString"].reset_index(drop=True)
    outlines = features[features.geom_type == "MultiPolygon"].reset_index(drop=True)
    assert len(table) == len(lines) == len(outlines) == sum(len(image.instances) for image in found.images)
    assert table.geometry.geom_equals(lines.geometry).all()
    assert table["outline"].geom_equals(outlines.geometry).all()
    for name in ("track", "time", "first_seen", "last_seen", "speed_m_s", "heading_deg", "length_km", "began", "ended"):
        assert table[name].tolist() == lines[name].tolist(), name
    assert table.crs.to_epsg() == 4326
    assert table.attrs["model"] == "sha256:0"
    metadata = json.loads(pq.read_schema(files / "s.parquet").metadata[b"geo"])
    assert (metadata["version"], metadata["primary_column"]) == ("1.1.0", "geometry")
    assert set(metadata["columns"]) == {"geometry", "outline"}
    assert set(table["began"]) == {"unknown", "birth"}
    assert table["speed_m_s"].between(17, 21).all()  # 3.6 pixels of 3.2 km in 10 minutes


def test_netcdf_and_zarr_label_the_pixels_of_each_track(files: Path, found: SceneContrails) -> None:
    with xr.open_dataset(files / "s.nc") as cf, xr.open_zarr(files / "s.zarr") as zarr:
        for name in ("instance", "track"):
            np.testing.assert_array_equal(cf[name].values, zarr[name].values)
            assert cf[name].dtype == np.int32
        meanings = cf["track"].attrs["flag_meanings"].split()
        assert meanings == ["none", *found.track_ids]
        assert cf["track"].attrs["flag_values"].tolist() == list(range(len(meanings)))
        features = json.loads((files / "s.geojson").read_text())["features"]
        counts = {(f["properties"]["time"], f["properties"]["track"]): f["properties"]["pixels"] for f in features}
        for (time, name), pixels in counts.items():
            t = int((np.datetime64(time[:-1]) - START) / (10 * MINUTE))
            assert (cf["track"].values[t] == meanings.index(name)).sum() == pixels
    with rasterio.open(f"netcdf:{files / 's.nc'}:track") as file:  # by GDAL
        assert file.crs is not None
        np.testing.assert_array_equal(file.read(2), found.labelled["track"].values[1])


def test_many_tracks_fit_into_the_attributes_of_netcdf(tmp_path: Path, found: SceneContrails) -> None:
    ids = np.array([f"20240301T120030-{number}" for number in range(1, 8001)], np.dtypes.StringDType())
    scene = found.labelled.drop_vars(["track_id", "track_path"])
    scene = scene.assign_coords(track_id=("track_number", ids)).assign(track_path=("track_number", np.zeros(8000)))
    many = SceneContrails(scene=scene)  # its pixels are labelled already
    for suffix in (".nc", ".zarr"):
        write([many], tmp_path / f"s{suffix}", {scene["time"].values[0]: tmp_path / f"s{suffix}"})
    with xr.open_dataset(tmp_path / "s.nc") as cf, xr.open_zarr(tmp_path / "s.zarr") as zarr:
        for opened in (cf, zarr):
            assert opened["track"].attrs["flag_meanings"].split()[-1] == "20240301T120030-8000"


def test_a_series_that_is_continued_keeps_its_names(found: SceneContrails) -> None:
    for count in (2, 3):
        part = SceneContrails(scene=found.scene.isel(time=slice(count)), separated=True, tracked=True)
        assert part.track_ids == found.track_ids[: len(part.track_ids)]
        np.testing.assert_array_equal(part.labelled["track"].values, found.labelled["track"].values[:count])


def test_scans_far_apart_are_other_contrails() -> None:
    apart = SceneContrails(scene=drifting_scene((0, 10, 60, 70)), separated=True, tracked=True)
    assert [len(track.sightings) for track in apart.tracks] == [2, 2, 1, 2, 2, 2]


def test_pictures_show_tracks_in_the_colours_of_the_style(found: SceneContrails) -> None:
    pixels = np.asarray(picture(found.labelled), np.int16)
    for name in found.track_ids:
        colour = np.array(colour_of(name)) * 255
        assert (np.abs(pixels - colour).max(-1) < 40).sum() > 50, name
    assert short_name(found.track_ids[2]) == "1210-1"


def test_the_style_names_existing_properties_and_is_written_only_on_request(files: Path, found: SceneContrails) -> None:
    (properties,) = {frozenset(contrail.properties) for image in found.trace() for contrail in image}
    style = ElementTree.parse(files / "s.qml").getroot()
    texts = [value for element in style.iter() for value in element.attrib.values()]
    fields = {name for text in texts for name in re.findall(r'"(\w+)"', text)}
    assert fields >= {"track", "confidence", "speed_m_s"}
    assert fields <= properties
    assert style.find("temporal").get("startField") in properties
    out = files / "plain.geojson"
    assert write([found], out, {START: out}) == [out]
    assert not (files / "plain.qml").exists()
    with pytest.raises(ContrailError, match=r"s\.qml: exists"):
        check_outputs({files / "s.geojson": {START: files / "new.geojson"}}, False, style=True)


def test_a_table_without_contrails_has_the_same_columns(found: SceneContrails) -> None:
    full = to_geodataframe([contrail for image in found.trace() for contrail in image])
    empty = to_geodataframe([])
    assert full.dtypes.astype(str).to_dict() == empty.dtypes.astype(str).to_dict()
    assert geojson([], {"model": "m"}) == {"type": "FeatureCollection", "features": [], "model": "m"}


def test_a_missing_package_is_named_before_anything_is_predicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "geopandas", None)
    out = tmp_path / "s.parquet"
    with pytest.raises(ContrailError, match=r"s\.parquet: geopandas is not installed; run .*\[geo\]"):
        check_outputs({out: {START: out}}, overwrite=False)


@pytest.mark.slow
def test_tracks_come_from_the_command_and_from_python(finished: Path, tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    write_abi(scans, START, scans=3, seed=3, size=(100, 110))
    out = tmp_path / "p.geojson"
    done = run_train("predict-scans", finished, scans, "--tracks", "--qgis-style", "-o", out, "-o", tmp_path / "p.nc")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-3:] == [str(out), str(tmp_path / "p.qml"), str(tmp_path / "p.nc")]
    table = contrail_table(load_model(finished), str(scans), tracks=True)
    features = json.loads(out.read_text())["features"]
    lines = [f["properties"] for f in features if f["geometry"]["type"] == "LineString"]
    assert len(lines) > 0
    assert table["track"].tolist() == [properties["track"] for properties in lines]
    one = ("--time", "2024-03-01T12:10")
    for args, message in [
        (["--tracks", *one, "-o", tmp_path / "x.nc"], "--tracks: has no effect on 1 time; omit it, or select more"),
        (["--tracks", "-o", tmp_path / "x.tif"], "--tracks: has no effect without an output NAME.nc"),
        (["--instances", "-o", tmp_path / "x.png"], "--instances: has no effect without an output NAME.nc"),
        (["--qgis-style", "-o", tmp_path / "x.nc"], "--qgis-style: has no effect without an output NAME.geojson"),
    ]:
        failed = run_train("predict-scans", finished, scans, *args)
        assert failed.returncode == 2, failed.stderr
        assert message in failed.stderr


def test_a_fitted_confidence_is_that_of_separated_contrails() -> None:
    scene = drifting_scene((0,))
    fitted = Confidence(weights=[0.0, 0.0, 1.0, 0.0], bias=-3.0)  # by length only
    separated = SceneContrails(scene=scene, separated=True, confidence=fitted).images[0].instances
    assert len(separated) == 2
    for one in separated:
        assert one.confidence == pytest.approx(expit(np.log(one.length) - 3))
    connected = SceneContrails(scene=scene, confidence=fitted).images[0].instances
    assert [one.confidence for one in connected] == pytest.approx([0.9])
