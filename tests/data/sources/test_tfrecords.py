"""Records read from TFRecords are those of the other form; what is damaged is named, and the rest is built."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from contrail_data.composites import COMPOSITES
from contrail_data.errors import BadRecord, ContrailError
from contrail_data.sources import tfrecord_index
from contrail_data.sources.base import InputFormat
from contrail_data.sources.open import open_source
from contrail_data.sources.recognise import recognise
from contrail_data.sources.tfrecords import open_tfrecords
from contrail_data.storage.tfrecord import frame
from contrail_data.store.reader import open_store
from contrail_data.store.settings import StoreSettings
from helpers.cli import run_data
from helpers.stores import ASH, build_small, contents
from helpers.tfrecords import convert, example, features_of, tensor, write_shard

SAME = ("image", "mask", "annotators", "annotator_count", "record_id", "labelled_frame", "source_digest")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTRAIL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def shards(raw: Path, tmp_path: Path) -> Path:
    """The nine train records of `raw` in two shards: five and four of them."""
    return convert(raw, tmp_path / "tf")


def assert_same_samples(a: xr.Dataset, b: xr.Dataset) -> None:
    """The values that both forms state are equal bit by bit, record for record."""
    rows = [[str(r) for r in store["record_id"].values] for store in (a, b)]
    assert sorted(rows[0]) == sorted(rows[1])
    order = [rows[1].index(record_id) for record_id in rows[0]]
    for name in SAME:
        assert (name in a) == (name in b), name
        if name in a:
            assert a[name].dtype == b[name].dtype
            np.testing.assert_array_equal(a[name].values, b[name].values[order], err_msg=name)


@pytest.mark.parametrize("as_values", [False, True], ids=["content", "values"])
def test_both_forms_of_a_record_give_the_same_sample(raw: Path, tmp_path: Path, as_values: bool) -> None:
    tf = convert(raw, tmp_path / "tf", as_values=as_values)
    a, b = (open_store(build_small(root, tmp_path / f"{i}.zarr").place) for i, root in enumerate((tf, raw)))
    assert_same_samples(a, b)
    assert a.attrs["source"] == "tfrecords"
    later = a["time"].values - b["time"].values[[list(b["record_id"].values).index(r) for r in a["record_id"].values]]
    assert set(later[~np.isnat(later)].tolist()) == {np.timedelta64(21, "s").astype("timedelta64[ns]").astype(int)}


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "validation"])
def test_both_forms_of_real_records_give_the_same_samples(real_data: Path, tmp_path: Path, split: str) -> None:
    records = real_data / "opencontrails"
    tf = convert(records, tmp_path / "tf", split, shards=3)
    settings = StoreSettings(ASH)
    a, b = (build_small(root, tmp_path / f"{i}.zarr", split, settings) for i, root in enumerate((tf, records)))
    assert_same_samples(open_store(a.place), open_store(b.place))
    assert len(a.set_aside) == len(b.set_aside) == (split == "train")


def _flip(offset: int) -> Callable[[bytearray, list[int]], None]:
    def damage(content: bytearray, offsets: list[int]) -> None:
        content[offsets[1] + offset] ^= 1

    return damage


def _cut(content: bytearray, offsets: list[int]) -> None:
    del content[offsets[-1] + 1000 :]


def _huge(content: bytearray, offsets: list[int]) -> None:
    del content[offsets[1] :]
    content += frame(b"")[0]
    length = (5 << 30).to_bytes(8, "little")
    content[-8:] = length
    content += _length_checksum(length)


def _length_checksum(length: bytes) -> bytes:
    """A length is a record of its own checksum: that of a record with this payload."""
    return frame(length)[3]


DAMAGE = {
    "a bit of a band": (_flip(200_000), 8, r"offset {1}: record \d+: fails its checksum"),
    "a bit of a mask or id": (_flip(20), 8, r"offset {1}: record [\w.-]+: fails its checksum"),
    "a bit of a length": (_flip(2), 5, r"offset {1}: the length of a record fails its checksum"),
    "truncated": (_cut, 8, r"offset {-1}: cut short, 988 of [\d,]+ bytes"),
    "truncated in a header": (
        lambda c, o: c.__delitem__(slice(o[-1] + 5, None)),
        8,
        r"offset {-1}: cut short, 5 bytes",
    ),
    "a record of 5 GB that is not there": (_huge, 5, r"offset {1}: cut short, 0 of 5,368,709,124 bytes"),
    "foreign": (lambda c, o: c.__setitem__(slice(None), b"id,name\n1,a\n" * 99), 4, r"offset 0: not a TFRecord file"),
    "empty": (lambda c, o: c.clear(), 4, r"0 bytes, so it has no records; restore the file, or remove it"),
    "compressed": (lambda c, o: c.__setitem__(slice(0, 2), b"\x1f\x8b"), 4, r"offset 0: compressed"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_reported_with_file_and_offset_and_the_rest_is_built(
    raw: Path, shards: Path, tmp_path: Path, kind: str
) -> None:
    damage, samples, message = DAMAGE[kind]
    folders = sorted((raw / "train").iterdir())[::2]
    path = shards / "train.tfrecords-00000-of-00002"
    offsets = write_shard(path, [example(features_of(folder)) for folder in folders])
    content = bytearray(path.read_bytes())
    damage(content, offsets)
    path.write_bytes(content)
    built = build_small(shards, tmp_path / "s.zarr")
    assert built.samples == samples
    (line,) = built.set_aside
    numbers = {f"{{{i}}}": str(offsets[i]) for i in (1, -1)}
    for field, offset in numbers.items():
        message = message.replace(field, offset)
    assert re.search(rf"^{path.name}: {message}", line), line
    assert "\n" not in line


def test_a_record_of_terabytes_in_a_sparse_file_is_passed_over(raw: Path, shards: Path, tmp_path: Path) -> None:
    folders = sorted((raw / "train").iterdir())
    path = shards / "train.tfrecords-00002-of-00003"
    length = 1 << 40
    stated = length.to_bytes(8, "little")
    (offset,) = write_shard(path, [example(features_of(folders[0]) | {"record_id": b"before"})])
    offset = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(stated + _length_checksum(stated))
        file.truncate(offset + 12 + length + 4)
    write_shard(tmp_path / "behind", [example(features_of(folders[0]) | {"record_id": b"behind"})])
    with path.open("ab") as file:
        file.write((tmp_path / "behind").read_bytes())
    built = build_small(shards, tmp_path / "s.zarr")
    assert built.samples == 11
    (line,) = built.set_aside
    assert re.search(rf"{path.name}: offset {offset}: record .*: 1,099,511,627,776 bytes, more than", line)


def _without(*names: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda features: {name: value for name, value in features.items() if name not in names}


ODD = {
    "no band": (_without("data_12um"), "has no feature data_12um; choose a composite"),
    "no mask": (_without("human_pixel_masks", "human_individual_masks"), "has no feature human_pixel_masks"),
    "no feature with the number of frames": (_without("n_times_before"), "has no feature n_times_before"),
    "another number of frames": (lambda f: f | {"n_times_after": [2]}, "7 frames, but the other records have 8"),
    "frames that are not there": (lambda f: f | {"data_11um": f["data_11um"][..., :7]}, r"feature data_11um: float64"),
    "a band of whole numbers": (lambda f: f | {"data_11um": f["data_11um"].astype("i4")}, r"feature data_11um: int32"),
    "a band as text": (lambda f: f | {"cloud_top": b"\xffx"}, "feature cloud_top: "),
    "a band as a list": (lambda f: f | {"cloud_top": [1.5]}, "feature cloud_top: not a single string"),
    "celsius": (lambda f: f | {"data_11um": f["data_11um"] - 273.15}, "band 14: values from .* impossible"),
    "infinite": (lambda f: f | {"data_11um": f["data_11um"] * 1e300}, "band 14: values from .* impossible"),
    "NaN": (lambda f: f | {"data_11um": f["data_11um"] * np.nan}, "band 14: 8192 values are NaN"),
    "a mask of counts": (lambda f: f | {"human_pixel_masks": f["human_pixel_masks"] * 3}, "values other than 0 and 1"),
    "a mask of another size": (
        lambda f: f | {"human_pixel_masks": f["human_pixel_masks"][:5]},
        r"feature human_pixel_masks: int32 \(5, 32, 1\), but bands have \(32, 32\)",
    ),
    "nine annotators": (
        lambda f: f | {"human_individual_masks": np.repeat(f["human_individual_masks"], 3, -1)[..., :9]},
        "9 annotators, but a store holds 8",
    ),
    "a broken projection": (lambda f: f | {"projection_wkt": b"PROJCS[nonsense]"}, "unreadable projection"),
    "a place that is not a number": (lambda f: f | {"row_min": b"north"}, "row_min is 'north'"),
    "a path as its id": (lambda f: f | {"record_id": b"../../etc"}, r"record id '../../etc': not a plain name"),
    "no example": (lambda f: {}, "not a tf.train.Example"),
}


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_record_is_reported_and_the_rest_is_built(raw: Path, tmp_path: Path, kind: str) -> None:
    change, message = ODD[kind]
    folders = sorted((raw / "train").iterdir())
    all_features = [features_of(folder) for folder in folders]
    entry = {"projection_wkt": "", "row_min": 0.0, "row_size": -2000.0, "col_min": 0.0, "col_size": 2000.0}
    all_features[4] = change(features_of(folders[4], entry | {"timestamp": 1583980800}) | {"projection_wkt": _UTM})
    offsets = write_shard(tmp_path / "tf/train.tfrecord", [example(features) for features in all_features])
    built = build_small(tmp_path / "tf", tmp_path / "s.zarr")
    assert built.samples == 8, built.set_aside
    (line,) = built.set_aside
    assert line.startswith(f"train.tfrecord: offset {offsets[4]}: record"), line
    assert re.search(message, line), line


_UTM = (
    b'PROJCS["u",GEOGCS["u",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,298.257223563]],PRIMEM["Greenwich",0],'
    b'UNIT["degree",0.0174532925199433]],PROJECTION["Transverse_Mercator"],PARAMETER["central_meridian",-63],'
    b'PARAMETER["latitude_of_origin",0],PARAMETER["scale_factor",0.9996],PARAMETER["false_easting",500000],'
    b'PARAMETER["false_northing",0],UNIT["metre",1]]'
)


def test_the_labelled_frame_and_the_number_of_frames_are_those_of_the_record(raw: Path, tmp_path: Path) -> None:
    payloads = []
    for i, folder in enumerate(sorted((raw / "train").iterdir())[:3]):
        features = features_of(folder)
        bands = {name: value[..., :5] for name, value in features.items() if getattr(value, "ndim", 0) == 3}
        bands["human_pixel_masks"] = features["human_pixel_masks"]
        starts = [1_600_000_000 + 599 * j for j in range(5)]
        times = {"n_times_before": [1 + i], "n_times_after": [3 - i]}
        times |= {"timestamp": [starts[2]]} if i == 1 else {"satellite_scan_starts": starts}
        payloads.append(example(features | bands | times))
    write_shard(tmp_path / "train.tfrecord", payloads)
    store = open_store(build_small(tmp_path / "train.tfrecord", tmp_path / "s.zarr").place)
    assert store.sizes["time"] == 5
    assert store["labelled_frame"].values.tolist() == [1, 2, 3]
    expected = [starts, [starts[2] + 600 * (j - 2) for j in range(5)], starts]
    np.testing.assert_array_equal(store["time"].values.astype("datetime64[s]").astype(int), expected)


def test_unknown_features_are_reported_once_with_type_and_shape(raw: Path, tmp_path: Path) -> None:
    payloads = []
    for i, folder in enumerate(sorted((raw / "train").iterdir())):
        features = features_of(folder)
        votes = features["human_individual_masks"][:, :, 0]
        masks = np.stack([np.where(votes.any((0, 1)), votes, -1), *[-np.ones_like(votes)] * (i % 3)])
        more = {"drawn": masks, "cover": [0.5, 0.1], "wind": np.zeros((2, 3 + i % 2), np.float32), "source": b"sat"}
        payloads.append(example(features | more))
    write_shard(tmp_path / "tf/train.tfrecord", payloads)
    for _ in range(2):  # the second time from the cache
        note = open_source(tmp_path / "tf", "train", ASH).note
        assert "unknown features: cover (list of float), source (bytes), wind (float32 2 x 3-4)" in note
        assert "masks of single contrails: drawn (int32 1-3 x 32 x 32 x 4)" in note
    store = open_store(build_small(tmp_path / "tf", tmp_path / "s.zarr").place)
    assert not {"drawn", "cover", "wind", "source"} & set(store.variables)
    assert store["instance_masks"].shape == (9, 3, 32, 32)
    assert store["instance_count"].values.tolist() == [1 + i % 3 for i in range(9)]
    np.testing.assert_array_equal(store["instance_masks"].values[:, 0], store["annotators"].values)
    assert not store["instance_masks"].values[:, 1:].any()


def test_stores_with_instance_masks_are_merged_and_appended_to(raw: Path, tmp_path: Path) -> None:
    """Of two, one and no masks a record: the rest of the axis is empty."""
    folders = sorted((raw / "train").iterdir())
    for name, number, chosen in (("two", 2, folders[:3]), ("one", 1, folders[3:6]), ("none", 0, folders[6:])):
        payloads = []
        for folder in chosen:
            votes = features_of(folder)["human_individual_masks"][:, :, 0]
            masks = {"drawn": np.stack([votes] * number)} if number else {}
            payloads.append(example(features_of(folder) | masks))
        write_shard(tmp_path / name / "train.tfrecord", payloads)
        build_small(tmp_path / name, tmp_path / f"{name}.zarr")
    assert "instance_count" not in open_store(tmp_path / "none.zarr")
    merge = run_data(
        "merge", *(tmp_path / f"{name}.zarr" for name in ("one", "none", "two")), "-o", tmp_path / "m.zarr"
    )
    assert merge.returncode == 0, merge.stderr
    store = open_store(tmp_path / "m.zarr")
    assert store["instance_count"].values.tolist() == [1] * 3 + [0] * 3 + [2] * 3
    marks, masks = store["annotators"].values, store["instance_masks"].values
    np.testing.assert_array_equal(masks[:3, 0], marks[:3])
    np.testing.assert_array_equal(masks[6:], np.stack([marks[6:]] * 2, 1))
    assert not masks[:3, 1].any()
    append = run_data("append", tmp_path / "one.zarr", tmp_path / "two", "-o", tmp_path / "a.zarr")
    assert append.returncode == 0, append.stderr
    appended = open_store(tmp_path / "a.zarr")
    assert appended["instance_count"].values.tolist() == [1] * 3 + [2] * 3
    np.testing.assert_array_equal(appended["instance_masks"].values, masks[[0, 1, 2, 6, 7, 8]])
    assert run_data("verify", tmp_path / "a.zarr").returncode == 0


def test_a_resized_store_has_resized_instance_masks(raw: Path, tmp_path: Path) -> None:
    folder = min((raw / "train").iterdir())
    votes = features_of(folder)["human_individual_masks"][:, :, 0]
    write_shard(tmp_path / "tf/train.tfrecord", [example(features_of(folder) | {"drawn": votes[None]})])
    store = open_store(build_small(tmp_path / "tf", tmp_path / "s.zarr", settings=StoreSettings(ASH, size=64)).place)
    np.testing.assert_array_equal(store["instance_masks"].values[:, 0], store["annotators"].values)
    assert store["annotators"].values.any()


def test_a_second_build_does_not_search_the_shards_again(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[str] = []
    original = tfrecord_index.find_records

    def counted(window: Any, size: int) -> Any:
        searched.append(window)
        return original(window, size)

    monkeypatch.setattr(tfrecord_index, "find_records", counted)
    first = open_tfrecords(str(shards), "train", ASH)
    assert len(searched) == 2
    again = open_tfrecords(str(shards), "train", COMPOSITES["ash_wide"])
    assert len(searched) == 2
    assert again.entries == first.entries
    os.utime(shards / "train.tfrecords-00001-of-00002")  # touched, so perhaps changed
    assert open_tfrecords(str(shards), "train", ASH).entries == first.entries
    assert len(searched) == 3
    for index in (tmp_path / "cache").rglob("*.json"):
        index.write_text('{"records": [{"offset": 3}], "others": 1}')
    assert open_tfrecords(str(shards), "train", ASH).entries == first.entries
    assert len(searched) == 5


def test_a_record_is_not_taken_for_the_one_that_an_outdated_index_names(shards: Path, tmp_path: Path) -> None:
    first = open_tfrecords(str(shards), "train", ASH).record_ids[0]
    for index in (tmp_path / "cache").rglob("*.json"):
        index.write_text(index.read_text().replace(f'"{first}"', '"another"'))
    with pytest.raises(BadRecord, match=f"offset 0: record another: states the id {first}; restore the file"):
        open_tfrecords(str(shards), "train", ASH).read_sample("another")


def test_a_cache_that_cannot_be_written_is_done_without(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CONTRAIL_CACHE", str(tmp_path / "file"))
    assert len(open_tfrecords(str(shards), "train", ASH).record_ids) == 9


def test_records_without_an_id_are_named_by_file_and_position(raw: Path, tmp_path: Path) -> None:
    payloads = [example(_without("record_id")(features_of(folder))) for folder in sorted((raw / "train").iterdir())]
    write_shard(tmp_path / "tf/train.tfrecords-00000-of-00100", payloads)
    source = open_tfrecords(str(tmp_path / "tf"), "train", ASH)
    assert source.record_ids[1] == "train.tfrecords-00000-of-00100-00001"
    assert "1 of 100 shards of train are there; 9 records state no id" in source.note
    assert "9 of 9 records have no time or place (NaN)" in source.note
    numbers = {key: [1.0] for key in ("row_min", "row_size", "col_min", "col_size")}
    located = {**features_of(sorted((raw / "train").iterdir())[0]), **numbers, "projection_wkt": b"", "timestamp": [1]}
    write_shard(tmp_path / "located/train.tfrecord", [example(_without("record_id")(located)), *payloads[:2]])
    assert "2 of 3 records have no time or place (NaN)" in open_tfrecords(str(tmp_path / "located"), "train", ASH).note


def test_a_record_that_occurs_twice_is_taken_once(raw: Path, shards: Path, tmp_path: Path) -> None:
    shutil.copy(shards / "train.tfrecords-00000-of-00002", shards / "train.tfrecords-00002-of-00003")
    built = build_small(shards, tmp_path / "s.zarr")
    assert built.samples == 9
    assert len(built.set_aside) == 5
    assert re.search(r"offset 0: record \d+: occurs in train.tfrecords-00000-of-00002 already", built.set_aside[0])


def test_shards_are_found_by_folder_file_and_glob(shards: Path, raw: Path, tmp_path: Path) -> None:
    convert(raw, shards, "train", 1)
    (shards / "train.tfrecords-00000-of-00001").rename(shards / "validation.tfrecords-00000-of-00001")
    for where, split, count in [
        (shards, "train", 9),
        (shards, "validation", 9),
        (f"file://{shards}", "train", 9),
        (shards / "train.tfrecords-00000-of-00002", "train", 5),
        (f"{shards}/*-00001-of-*", "train", 4),
    ]:
        assert recognise(str(where), split) is InputFormat.TFRECORDS
        assert len(open_source(where, split, ASH).record_ids) == count, where
    with pytest.raises(ContrailError, match="holds no TFRecords of test; use --split train or validation"):
        open_source(shards, "test", ASH)
    with pytest.raises(ContrailError, match="holds no TFRecords"):
        open_source(raw, "train", ASH, InputFormat.TFRECORDS)


def test_the_same_shards_elsewhere_give_the_same_store(shards: Path, tmp_path: Path) -> None:
    build_small(shards, tmp_path / "whole.zarr")
    built = build_small(shards, tmp_path / "whole.zarr")
    assert built.existed
    (tmp_path / "copy").mkdir()
    shutil.copytree(shards, tmp_path / "copy/tf")
    build_small(tmp_path / "copy/tf", tmp_path / "copy.zarr", workers=1)
    assert contents(tmp_path / "copy.zarr") == contents(tmp_path / "whole.zarr")


def test_a_damaged_store_is_repaired_from_its_tfrecords(shards: Path, tmp_path: Path) -> None:
    build_small(shards, tmp_path / "s.zarr")
    before = contents(tmp_path / "s.zarr")
    (tmp_path / "s.zarr/image/c.0.0.0.0.0").unlink()
    done = run_data("verify", tmp_path / "s.zarr", "--repair-from", shards)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "s.zarr") == before


def test_a_tensor_with_fewer_values_than_elements_is_a_mask_of_nothing(raw: Path, tmp_path: Path) -> None:
    folder = min((raw / "train").iterdir())
    empty = tensor(np.zeros((0,), np.int32), as_values=True)
    header = tensor(np.zeros((32, 32, 1), np.int32))[: len(tensor(np.zeros((32, 32, 1), np.int32))) - 32 * 32 * 4 - 3]
    assert len(empty) < len(header)
    features = _without("human_individual_masks")(features_of(folder)) | {"human_pixel_masks": header}
    write_shard(tmp_path / "tf/train.tfrecord", [example(features)])
    store = open_store(build_small(tmp_path / "tf", tmp_path / "s.zarr").place)
    assert store["positive_pixels"].values.tolist() == [0]
    assert store["label_source"].values.tolist() == ["human"]
