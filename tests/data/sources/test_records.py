"""Bad records and metadata are set aside by name; the rest is built."""

from __future__ import annotations

import json
import os
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contrail_data.composites import evaluate
from contrail_data.errors import BadRecord
from contrail_data.sample import Sample
from contrail_data.scans.tiles import Tile
from contrail_data.sources.metadata import RecordMetadata
from contrail_data.sources.records import open_frames, open_records
from contrail_data.storage.place import Place
from contrail_data.store.reader import open_store
from contrail_data.store.settings import StoreSettings
from contrail_data.store.verify import verify
from helpers.records import WKT
from helpers.stores import ASH, build_small


def _edit(name: str, change):
    """Return a function that damages a record: it loads an array, changes it and saves it."""

    def damage(folder: Path) -> None:
        array = np.load(folder / name)
        np.save(folder / name, change(array))

    return damage


def _with_nan(array: np.ndarray) -> np.ndarray:
    array[3, 4, 5] = np.nan
    return array


def _lying_header(folder: Path) -> None:
    path = folder / "band_14.npy"
    path.write_bytes(path.read_bytes().replace(b"(32, 32, 8), }", b"(999999999999, 32, 8), }")[:4096])


DAMAGE = {
    "missing band": (lambda f: (f / "band_15.npy").unlink(), r"missing band_15\.npy"),
    "truncated": (lambda f: os.truncate(f / "band_11.npy", 5000), r"band_11\.npy: truncated"),
    "empty": (lambda f: os.truncate(f / "band_11.npy", 0), r"band_11\.npy: not a readable"),
    "no npy at all": (lambda f: (f / "band_11.npy").write_bytes(b"x" * 9000), r"band_11\.npy: not a readable"),
    "header of a terabyte": (_lying_header, r"band_14\.npy"),
    "wrong dtype": (
        _edit("band_14.npy", lambda a: a.astype("f8")),
        r"band_14\.npy: dtype is float64, expected float32;",
    ),
    "mask of fractions": (
        _edit("human_pixel_masks.npy", lambda a: a.astype("f4")),
        r"human_pixel_masks\.npy: dtype is float32, expected integers or booleans;",
    ),
    "wrong shape": (_edit("band_14.npy", lambda a: a[..., :5]), r"band_14\.npy: shape is \(32, 32, 5\)"),
    "bands of two sizes": (_edit("band_15.npy", lambda a: a[:16]), r"band_15\.npy: shape is \(16, 32, 8\)"),
    "NaN": (_edit("band_15.npy", _with_nan), r"band 15: 1 values are NaN"),
    "impossible kelvin": (
        _edit("band_14.npy", lambda a: a - 273.15),
        r"band 14: values from .* impossible \(expected 150 to 360 K\)",
    ),
    "pickled": (
        lambda f: (f / "human_pixel_masks.npy").write_bytes(_pickled()),
        r"human_pixel_masks\.npy: contains pickled objects",
    ),
    "mask of counts": (_edit("human_pixel_masks.npy", lambda a: a * 3), r"human_pixel_masks\.npy: values other than"),
    "no mask": (
        lambda f: [(f / n).unlink() for n in ("human_pixel_masks.npy", "human_individual_masks.npy")],
        r"human_pixel_masks\.npy: missing",
    ),
    "nine annotators": (
        _edit("human_individual_masks.npy", lambda a: np.repeat(a, 3, -1)[..., :9]),
        r"9 annotators, but a store holds 8",
    ),
}


class _Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


def _pickled() -> bytes:
    import io

    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|O", "fortran_order": False, "shape": (32, 32, 1)})
    return buffer.getvalue() + pickle.dumps(_Bomb())


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_bad_record_is_named_and_the_rest_is_built(raw: Path, tmp_path: Path, kind: str) -> None:
    damage, message = DAMAGE[kind]
    bad = sorted((raw / "train").iterdir())[4]
    damage(bad)
    built = build_small(raw, tmp_path / "s.zarr")
    assert built.samples == 8
    (line,) = built.set_aside
    assert "\n" not in line
    assert re.search(message, line), line
    assert bad.name in line
    ds = open_store(tmp_path / "s.zarr")
    assert sorted(ds["record_id"].values) == sorted(set(os.listdir(raw / "train")) - {bad.name})
    for sample, record_id in enumerate(ds["record_id"].values):  # pixels stay with their record
        green = evaluate(ASH, {b: np.load(raw / "train" / record_id / f"band_{b}.npy") for b in ASH.bands})[1]
        np.testing.assert_allclose(ds["image"].values[sample, 0, 1] / 255, green[..., 0], atol=0.003)
    assert verify(Place(str(tmp_path / "s.zarr"))) == []
    with pytest.raises(BadRecord):
        build_small(raw, tmp_path / "strict.zarr", strict=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{not json", "cannot be read"),
        ('{"record_id": 1}', "not a list"),
        ('[{"record_id": "../../etc"}]', "not a plain name"),
        ('[{"record_id": "18446744073709551616", "timestamp": "noon"}]', "timestamp"),
        ('[{"record_id": "18446744073709551616", "row_min": NaN}]', "row_min"),
        ('[{"record_id": "18446744073709551616", "timestamp": 9e11}]', "timestamp"),
        ('["x", 3]', "not a record"),
    ],
)
def test_malformed_metadata_is_reported_and_geometry_is_nan(
    raw: Path, tmp_path: Path, content: str, message: str
) -> None:
    (raw / "train_metadata.json").write_text(content)
    built = build_small(raw, tmp_path / "s.zarr")
    assert built.samples == 9
    assert message in built.set_aside[0]
    assert "train_metadata.json" in built.set_aside[0]
    assert np.isnan(open_store(tmp_path / "s.zarr")["latitude"].values).all()


def test_a_broken_projection_sets_its_record_aside(raw: Path, tmp_path: Path) -> None:
    path = raw / "train_metadata.json"
    entries = json.loads(path.read_text())
    entries[2]["projection_wkt"] = 'PROJCS["nonsense"]'
    path.write_text(json.dumps(entries))
    built = build_small(raw, tmp_path / "s.zarr")
    assert built.samples == 8
    assert entries[2]["record_id"] in built.set_aside[0]


def test_real_records_have_the_published_mask_sizes_and_places(real_data: Path, tmp_path: Path) -> None:
    """Compare mask sizes with the data set's list of all records, and places with pyproj."""
    import csv

    built = build_small(real_data / "opencontrails", tmp_path / "t.zarr", settings=StoreSettings(ASH))
    assert built.samples == 9
    assert "1003994937842600998" in built.set_aside[0]
    published = {r["Record_ID"]: r for r in csv.DictReader((real_data / "opencontrails/record_classes.csv").open())}
    ds = open_store(tmp_path / "t.zarr")
    for record_id, pixels in zip(ds["record_id"].values, ds["positive_pixels"].values, strict=True):
        if record_id in published:
            assert pixels / 65536 * 100 == pytest.approx(float(published[record_id]["High_Pixels"]))
    build_small(real_data / "opencontrails", tmp_path / "v.zarr", "validation", StoreSettings(ASH))
    ds = open_store(tmp_path / "v.zarr")
    entries = json.loads((real_data / "opencontrails/validation_metadata.json").read_text())
    by_id = {e["record_id"]: e for e in entries}
    from pyproj import Transformer

    for i, record_id in enumerate(ds["record_id"].values):
        e = by_id[record_id]
        to_degrees = Transformer.from_crs(e["projection_wkt"], "EPSG:4326", always_xy=True)
        x, y = e["col_min"] + 128 * e["col_size"], e["row_min"] + 128 * e["row_size"]
        longitude, latitude = to_degrees.transform(x, y)
        assert ds["latitude"].values[i] == pytest.approx(latitude, abs=1e-9)
        assert ds["longitude"].values[i] == pytest.approx(longitude, abs=1e-9)


def values_of(sample: Sample) -> dict[str, Any]:
    return {**vars(sample), "labels": vars(sample.labels)}


def test_arrays_of_either_byte_order_are_one_record(raw: Path) -> None:
    source = open_records(raw, "train", ASH)
    record_id = source.record_ids[0]
    expected = source.read_sample(record_id)
    for path in (raw / "train" / record_id).glob("*.npy"):
        array = np.load(path)
        np.save(
            path, np.asfortranarray(array) if path.stem == "band_14" else array.astype(array.dtype.newbyteorder(">"))
        )
    sample = source.read_sample(record_id)
    np.testing.assert_equal(values_of(sample), values_of(expected))


def test_frames_of_either_byte_order_are_one_frame(tmp_path: Path) -> None:
    frame = np.random.default_rng(0).random((40, 40, 4)).astype(np.float16)
    frame[..., 3] = frame[..., 3] > 0.5
    samples = []
    for order in "<>":
        np.save(tmp_path / "a.npy", frame.astype(f"{order}f2"))
        samples.append(open_frames(tmp_path, "train", ASH).read_sample("a"))
    np.testing.assert_equal(*map(values_of, samples))
    np.testing.assert_array_equal(np.moveaxis(samples[1].pixels[..., 0], 0, -1), frame[..., :3])


def test_the_footprint_of_a_site_is_computed_once_and_cannot_be_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    tiles, footprint = [], Tile.footprint
    monkeypatch.setattr(Tile, "footprint", lambda tile: tiles.append(tile) or footprint(tile))
    grid = (WKT, 2686377.25, -1984.9, 466287.28, 1929.75)
    first, second = (RecordMetadata(name, grid=grid).footprint(32, 32, "metadata.json") for name in "ab")
    assert len(tiles) == 1
    assert first["latitude"] == second["latitude"] == footprint(tiles[0])["latitude"]
    with pytest.raises(ValueError, match="read-only"):
        first["corner_latitude"][0] = 0
