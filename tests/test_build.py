"""Raw records to a sealed store: what is in it, what is refused, and what a kill leaves behind."""

from __future__ import annotations

import json
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from contrail_data.build.build import build
from contrail_data.composites import COMPOSITES, evaluate
from contrail_data.errors import BadRecord, ContrailError
from contrail_data.sources.open import open_source
from contrail_data.storage.place import Place
from contrail_data.store.reader import open_store
from contrail_data.store.schema import PROVENANCE
from contrail_data.store.settings import Settings
from contrail_data.store.verify import verify

ASH = COMPOSITES["ash"]
SMALL = Settings(ASH, size=32)


def build_small(root: Path, out: Path, split: str = "train", settings: Settings = SMALL, **options):
    options = {"workers": 2, **options}
    return build(open_source(root, split, settings.composite), settings, out, **options)


def contents(store: Path) -> dict[str, bytes]:
    """Every file but the provenance, which alone may differ between builds."""
    files = {p.relative_to(store).as_posix(): p.read_bytes() for p in store.rglob("*") if p.is_file()}
    files.pop(PROVENANCE)
    return files


def add_records(raw: Path, count: int) -> None:
    """More train records, so that a store has several shards."""
    from conftest import write_record

    rng = np.random.default_rng(1)
    for i in range(count):
        write_record(raw / "train" / f"more{i:03d}", rng)


def cli(*args: object, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", "from contrail_data.cli.main import main; main()", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, **options)


def test_xarray_alone_reads_it_with_names_and_units(raw: Path, tmp_path: Path) -> None:
    built = build_small(raw, tmp_path / "s.zarr")
    assert (built.samples, built.set_aside) == (9, [])
    ds = xr.open_zarr(tmp_path / "s.zarr")
    assert ds["image"].dims == ("sample", "time", "channel", "y", "x")
    assert dict(ds.sizes) == {
        "sample": 9,
        "time": 8,
        "channel": 3,
        "y": 32,
        "x": 32,
        "corner": 4,
        "affine": 6,
        "moment": 7,
    }
    assert list(ds["channel"].values) == ["R", "G", "B"]
    record_id = "18446744073709551619"
    one = ds.isel(sample=list(ds["record_id"].values).index(record_id)).load()
    folder = raw / "train" / record_id
    bands = {b: np.load(folder / f"band_{b}.npy") for b in ASH.bands}
    expected = np.moveaxis(evaluate(ASH, bands), -1, 0)
    np.testing.assert_allclose(one["image"], expected, atol=0.5 / 255 + 1e-6)
    np.testing.assert_array_equal(one["mask"], np.load(folder / "human_pixel_masks.npy")[..., 0])
    votes = np.load(folder / "human_individual_masks.npy")[:, :, 0]
    bits = (one["annotators"].values[..., np.newaxis].astype(int) >> np.arange(8)) & 1
    np.testing.assert_array_equal(bits[..., :4], votes)
    assert one["annotator_count"] == 4
    assert one["positive_pixels"] == votes[..., :3].all(-1).sum()
    labelled = np.datetime64(1583980800 + 1200 * 3, "s")
    assert one["time"].values[4] == labelled
    assert one["time"].values[0] == labelled - np.timedelta64(40, "m")
    last = ds.isel(sample=8)
    assert np.isnan(last["latitude"])
    assert np.isnat(last["time"].values).all()


def test_float_stores_hold_the_composite_itself(raw: Path, tmp_path: Path) -> None:
    build_small(raw, tmp_path / "s.zarr", settings=Settings(ASH, dtype="float32", codec="lz4", size=32))
    folder = sorted((raw / "train").iterdir())[0]
    expected = evaluate(ASH, {b: np.load(folder / f"band_{b}.npy") for b in ASH.bands})
    stored = xr.open_zarr(tmp_path / "s.zarr")["image"].isel(sample=0).transpose("channel", "y", "x", "time")
    np.testing.assert_array_equal(stored, expected)


def test_bytes_do_not_depend_on_workers(raw: Path, tmp_path: Path) -> None:
    one = build_small(raw, tmp_path / "a.zarr", workers=1)
    two = build_small(raw, tmp_path / "b.zarr", workers=3)
    assert one.digest == two.digest
    assert contents(tmp_path / "a.zarr") == contents(tmp_path / "b.zarr")


def test_statistics_are_of_train_only(raw: Path, tmp_path: Path) -> None:
    build_small(raw, tmp_path / "t.zarr")
    (raw / "train").rename(raw / "validation")
    build_small(raw, tmp_path / "v.zarr", "validation")
    ds = open_store(tmp_path / "t.zarr")
    unit = ds["image"].values / 255
    np.testing.assert_allclose(ds.attrs["statistics"]["mean"], unit.mean((0, 1, 3, 4)), rtol=1e-12)
    np.testing.assert_allclose(ds.attrs["statistics"]["std"], unit.std((0, 1, 3, 4)), rtol=1e-12)
    assert open_store(tmp_path / "v.zarr").attrs["statistics"] is None


def _edit(name: str, change):
    """A damage that loads an array of the record, changes it and saves it."""

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
    "wrong dtype": (_edit("band_14.npy", lambda a: a.astype("f8")), r"band_14\.npy: dtype is float64"),
    "wrong shape": (_edit("band_14.npy", lambda a: a[..., :5]), r"band_14\.npy: shape is \(32, 32, 5\)"),
    "bands of two sizes": (_edit("band_15.npy", lambda a: a[:16]), r"band_15\.npy: shape is \(16, 32, 8\)"),
    "NaN": (_edit("band_15.npy", _with_nan), r"band 15: 1 values are NaN"),
    "impossible kelvin": (_edit("band_14.npy", lambda a: a - 273.15), r"band 14: values from .* impossible"),
    "pickled": (
        lambda f: (f / "human_pixel_masks.npy").write_bytes(_pickled()),
        r"human_pixel_masks\.npy: holds pickled objects",
    ),
    "mask of counts": (_edit("human_pixel_masks.npy", lambda a: a * 3), r"human_pixel_masks\.npy: values other than"),
    "no mask": (
        lambda f: [(f / n).unlink() for n in ("human_pixel_masks.npy", "human_individual_masks.npy")],
        r"human_pixel_masks\.npy: missing",
    ),
    "nine annotators": (
        _edit("human_individual_masks.npy", lambda a: np.repeat(a, 3, -1)[..., :9]),
        r"9 annotators, at most 8",
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
    damage, told = DAMAGE[kind]
    bad = sorted((raw / "train").iterdir())[4]
    damage(bad)
    built = build_small(raw, tmp_path / "s.zarr")
    assert built.samples == 8
    (line,) = built.set_aside
    assert "\n" not in line
    assert re.search(told, line), line
    assert bad.name in line
    ds = open_store(tmp_path / "s.zarr")
    assert sorted(ds["record_id"].values) == sorted(set(os.listdir(raw / "train")) - {bad.name})
    for sample, record_id in enumerate(ds["record_id"].values):  # pixels went with their record
        green = evaluate(ASH, {b: np.load(raw / "train" / record_id / f"band_{b}.npy") for b in ASH.bands})[1]
        np.testing.assert_allclose(ds["image"].values[sample, 0, 1] / 255, green[..., 0], atol=0.003)
    assert verify(Place(str(tmp_path / "s.zarr"))) == []
    with pytest.raises(BadRecord):
        build_small(raw, tmp_path / "strict.zarr", strict=True)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{not json", "cannot be used"),
        ('{"record_id": 1}', "not a list"),
        ('[{"record_id": "../../etc"}]', "not a plain name"),
        ('[{"record_id": "18446744073709551616", "timestamp": "noon"}]', "timestamp"),
        ('[{"record_id": "18446744073709551616", "row_min": NaN}]', "row_min"),
        ('[{"record_id": "18446744073709551616", "timestamp": 9e11}]', "timestamp"),
        ('["x", 3]', "no record"),
    ],
)
def test_malformed_metadata_is_told_and_geometry_is_nan(raw: Path, tmp_path: Path, content: str, told: str) -> None:
    (raw / "train_metadata.json").write_text(content)
    built = build_small(raw, tmp_path / "s.zarr")
    assert built.samples == 9
    assert told in built.set_aside[0]
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


def test_other_sizes_are_resized_and_a_thin_contrail_stays(raw: Path, tmp_path: Path) -> None:
    from conftest import write_record

    big = write_record(raw / "train" / "1", np.random.default_rng(5), size=96)
    diagonal = np.eye(96, dtype="<i4")[..., np.newaxis]
    np.save(big / "human_pixel_masks.npy", diagonal)
    build_small(raw, tmp_path / "s.zarr")
    ds = open_store(tmp_path / "s.zarr")
    one = ds.isel(sample=list(ds["record_id"].values).index("1")).load()
    assert (int(one["height"]), int(one["width"]), int(one["positive_pixels"])) == (96, 96, 96)
    np.testing.assert_array_equal(one["mask"], np.eye(32, dtype=np.uint8))
    smooth = np.load(big / "band_14.npy")[..., 4].reshape(32, 3, 32, 3).mean((1, 3))
    np.testing.assert_allclose(one["image"].values[4, 2] / 255 * 60 + 243, smooth, atol=1.0)


def test_killed_at_any_moment_it_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    from conftest import write_record

    raw, rng, chance = tmp_path / "raw", np.random.default_rng(0), random.Random(0)
    for i in range(150):
        write_record(raw / "train" / f"{i:03d}", rng)
    (raw / "train" / "007" / "band_11.npy").unlink()
    whole = build_small(raw, tmp_path / "whole.zarr")
    out = tmp_path / "killed.zarr"
    command = [
        sys.executable,
        "-c",
        "from contrail_data.cli.main import main; main()",
        "build-ash",
        str(raw),
        "-o",
        str(out),
    ]
    killed_midway = 0
    for attempt in range(12):
        process = subprocess.Popen([*command, "--size", "32"], stderr=subprocess.PIPE, stdout=subprocess.PIPE)
        if attempt < 10:
            while process.poll() is None and not (out / "image").is_dir():
                time.sleep(0.002)
            time.sleep(chance.uniform(0, 0.25))
            process.send_signal(signal.SIGKILL)
        process.communicate()
        if process.returncode == -signal.SIGKILL and not (out / "zarr.json").exists():
            killed_midway += 1
            with pytest.raises(ContrailError, match="unfinished"):
                open_store(out)
        if (out / "zarr.json").exists():
            break
    assert killed_midway >= 2
    assert cli("build-ash", raw, "-o", out, "--size", 32).returncode == 1  # one record is set aside
    assert open_store(out).attrs["digest"] == whole.digest
    assert contents(out) == contents(tmp_path / "whole.zarr")


def test_a_second_builder_and_other_input_are_refused(raw: Path, tmp_path: Path) -> None:
    import fcntl

    out = tmp_path / "s.zarr"
    (out / ".building").mkdir(parents=True)
    with (out / ".building/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("somehost, process 77")
        lock.flush()
        with pytest.raises(ContrailError, match="somehost, process 77"):
            build_small(raw, out)
    build_small(raw, out)
    again = build_small(raw, out)
    assert again.resumed == again.samples == 9
    with pytest.raises(ContrailError, match="another store"):
        build_small(raw, out, settings=Settings(ASH, size=48))
    assert build_small(raw, out, settings=Settings(ASH, size=48), overwrite=True).samples == 9
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    for foreign in ("", '{"zarr_format": 3, "node_type": "group", "attributes": {}}'):
        if foreign:
            (tmp_path / "thesis" / "zarr.json").write_text(foreign)
        with pytest.raises(ContrailError, match="no contrail store"):
            build_small(raw, tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "chapter.tex").exists()


def test_changed_metadata_is_not_mixed_with_old(raw: Path, tmp_path: Path) -> None:
    add_records(raw, 20)
    out, path = tmp_path / "s.zarr", raw / "train_metadata.json"
    bad = sorted((raw / "train").iterdir())[2] / "band_11.npy"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:50])
    with pytest.raises(BadRecord):
        build_small(raw, out, workers=1, strict=True)
    bad.write_bytes(whole)
    assert any((out / ".building").glob("*.json"))
    entries = json.loads(path.read_text())
    for entry in entries:
        entry["timestamp"] += 86400
    path.write_text(json.dumps(entries))
    build_small(raw, out)
    assert build_small(raw, tmp_path / "fresh.zarr").digest == open_store(out).attrs["digest"]


def _rewrite(path: Path, change) -> None:
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))


STORE_DAMAGE = {
    "attribute gone": (
        lambda s: _rewrite(s / "zarr.json", lambda t: t["attributes"].pop("composite")),
        "not those that were sealed",
    ),
    "kind gone": (
        lambda s: _rewrite(s / "zarr.json", lambda t: t["attributes"].update(kind="other")),
        "not those that were sealed",
    ),
    "no JSON": (lambda s: (s / "zarr.json").write_text("{"), "cannot be opened"),
    "scalars cut": (lambda s: (s / "record_id/c/0").write_bytes(b"junk"), "record_id/c/0: fails its checksum"),
    "no layout": (lambda s: (s / "image/zarr.json").unlink(), "image/zarr.json"),
    "image gone": (lambda s: (s / "image/c.0.0.0.0.0").unlink(), "c.0.0.0.0.0"),
}


@pytest.mark.parametrize("kind", STORE_DAMAGE)
def test_a_damaged_store_is_an_error_that_says_where(raw: Path, tmp_path: Path, kind: str) -> None:
    from contrail_data.reports.preview import preview
    from contrail_data.reports.summary import facts, summary

    damage, told = STORE_DAMAGE[kind]
    build_small(raw, tmp_path / "s.zarr")
    damage(tmp_path / "s.zarr")

    def look() -> None:
        store = open_store(tmp_path / "s.zarr")
        summary(facts(store))
        preview(store, "18446744073709551616", tmp_path / "pictures")

    with pytest.raises(ContrailError, match=re.escape(told)):
        look()


def test_small_damage_does_not_stop_looking(raw: Path, tmp_path: Path) -> None:
    from contrail_data.reports.preview import preview
    from contrail_data.reports.summary import facts, summary

    build_small(raw, tmp_path / "s.zarr")
    (tmp_path / "s.zarr" / PROVENANCE).write_text("[]")
    store = open_store(tmp_path / "s.zarr")
    assert "unknown" in summary(facts(store))["built"]
    assert {d.path for d in verify(Place(str(tmp_path / "s.zarr")))} == {PROVENANCE}
    (tmp_path / "file").write_text("")
    with pytest.raises(ContrailError, match="cannot be a folder"):
        preview(store, "18446744073709551616", tmp_path / "file" / "sub")
    with pytest.raises(ContrailError, match="no predictions"):
        preview(store, "18446744073709551616", tmp_path / "pictures", store)


def test_the_command_line_ends_in_one_line(raw: Path, tmp_path: Path) -> None:
    os.truncate(sorted((raw / "train").iterdir())[0] / "band_11.npy", 100)
    done = cli("build-ash", raw, "--size", 32, "-o", tmp_path / "s.zarr")
    assert done.returncode == 1
    assert "band_11.npy: " in done.stderr
    assert "8 samples, 1 set aside" in done.stdout
    for args, told in [
        (("build-ash", raw, "--split", "tarin", "-o", tmp_path / "x.zarr"), "train"),
        (("build-ash", raw / "nowhere", "-o", tmp_path / "x.zarr"), "no such folder"),
        (("build-ash", raw, "--composite", "asch", "-o", tmp_path / "x.zarr"), "ash_cira"),
        (("inspect", tmp_path / "none.zarr"), "no such store"),
        (("stats", raw), "zarr.json"),
        (("preview", tmp_path / "s.zarr", "--record", "../../x"), "no record"),
        (("build-ash", raw, "--size", 32, "--strict", "-o", tmp_path / "y.zarr"), "band_11.npy"),
    ]:
        failed = cli(*args)
        assert failed.returncode == 1, args
        assert failed.stderr.splitlines()[-1].startswith("error: "), failed.stderr
        assert told in failed.stderr.splitlines()[-1]
        assert "Traceback" not in failed.stderr
    assert cli("build-ash", raw).returncode == 2


def test_real_records(real_data: Path, tmp_path: Path) -> None:
    """Sizes of masks as the complete list of the data set has them; places as pyproj gives them."""
    import csv

    built = build_small(real_data / "opencontrails", tmp_path / "t.zarr", settings=Settings(ASH))
    assert built.samples == 9
    assert "1003994937842600998" in built.set_aside[0]
    told = {r["Record_ID"]: r for r in csv.DictReader((real_data / "opencontrails/record_classes.csv").open())}
    ds = open_store(tmp_path / "t.zarr")
    for record_id, pixels in zip(ds["record_id"].values, ds["positive_pixels"].values, strict=True):
        if record_id in told:
            assert pixels / 65536 * 100 == pytest.approx(float(told[record_id]["High_Pixels"]))
    build_small(real_data / "opencontrails", tmp_path / "v.zarr", "validation", Settings(ASH))
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


def test_frames_become_a_store_of_one_time_step(real_data: Path, tmp_path: Path) -> None:
    built = build_small(real_data / "ash_frames", tmp_path / "f.zarr", settings=Settings(ASH))
    assert built.samples == 155
    ds = open_store(tmp_path / "f.zarr")
    assert ds["image"].shape == (155, 1, 3, 256, 256)
    at = list(ds["record_id"].values).index("195731008142151")
    published = np.load(real_data / "ash_frames/195731008142151.npy")
    np.testing.assert_allclose(np.moveaxis(ds["image"].values[at, 0] / 255, 0, -1), published[..., :3], atol=0.0022)
    np.testing.assert_array_equal(ds["mask"].values[at], published[..., 3])
