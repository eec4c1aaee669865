"""Synthetic TFRecords hold the records that are written as folders, and resume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from contrail_data.errors import ContrailError
from contrail_data.synthetic.records import write_records
from helpers.cli import run_data
from helpers.stores import build_small
from helpers.tfrecords import BANDS, Example

SIZE = 32


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synthetic")
    assert write_records(root, 21, seed=3, as_tfrecords=True, size=SIZE, validation_fraction=0.2) == {
        "train": 17,
        "validation": 4,
    }
    return root


def test_both_forms_give_the_same_samples(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from contrail_data.store.reader import open_store

    monkeypatch.setenv("CONTRAIL_CACHE", str(tmp_path / "cache"))
    write_records(tmp_path / "records", 21, seed=3, size=SIZE)
    for split in ("train", "validation"):
        a, b = (
            open_store(build_small(root, tmp_path / f"{split}{i}.zarr", split).place)
            for i, root in enumerate((shards, tmp_path / "records"))
        )
        order = [list(b["record_id"].values).index(record_id) for record_id in a["record_id"].values]
        for name in ("image", "mask", "source_digest", *(["annotators"] if split == "train" else [])):
            np.testing.assert_array_equal(a[name].values, b[name].values[order], err_msg=name)
        np.testing.assert_allclose(a["latitude"].values, b["latitude"].values[order], atol=1e-5)
        assert ("instance_masks" in a) == (split == "train")
    store = open_store(tmp_path / "train0.zarr")
    union = np.bitwise_or.reduce(store["instance_masks"].values, axis=1)
    np.testing.assert_array_equal(union, store["annotators"].values)
    assert store["instance_count"].values.max() > 1


def test_the_features_are_those_of_the_published_form(shards: Path) -> None:
    content = (shards / "train.tfrecords-00001-of-00002").read_bytes()
    features = Example.FromString(content[12 : 12 + int.from_bytes(content[:8], "little")]).features.feature
    assert {*features} - {"synthetic_instance_masks"} == {
        *(BANDS[band - 8] for band in (11, 14, 15)),
        *("brightness_temperature_difference", "human_pixel_masks", "human_individual_masks", "record_id"),
        *("n_times_before", "n_times_after", "projection_wkt", "row_min", "row_size", "col_min", "col_size"),
        *("timestamp", "satellite_scan_starts"),
    }
    assert len(features["satellite_scan_starts"].int64_list.value) == 8


def test_an_interrupted_run_continues_to_the_same_bytes(shards: Path, tmp_path: Path) -> None:
    write_records(tmp_path, 21, seed=3, as_tfrecords=True, size=SIZE)
    (tmp_path / "train.tfrecords-00001-of-00002").unlink()
    kept = (tmp_path / "train.tfrecords-00000-of-00002").stat()
    steps: list[int] = []
    write_records(tmp_path, 21, seed=3, as_tfrecords=True, size=SIZE, advance=steps.append)
    assert sum(steps) == 21
    assert (tmp_path / "train.tfrecords-00000-of-00002").stat().st_mtime_ns == kept.st_mtime_ns
    for path in shards.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_folders_with_other_data_are_left_as_they_are(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ContrailError, match="with another number of records"):
        write_records(shards, 22, seed=3, as_tfrecords=True, size=SIZE)
    with pytest.raises(ContrailError, match="holds synthetic records with another"):
        write_records(shards, 21, seed=3, size=SIZE)
    (tmp_path / "train.tfrecords-00000-of-00100").touch()
    done = run_data("synth", tmp_path, "--format", "tfrecords", "--records", 4)
    assert done.returncode == 1
    assert "holds train.tfrecords-00000-of-00100, which is not synthetic; choose another folder" in done.stderr
