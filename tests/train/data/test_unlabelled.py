"""Frames without labels: which ones, and in which order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from contrail_data.composites import COMPOSITES
from contrail_data.errors import ContrailError
from contrail_data.store.reader import open_store
from contrail_data.store.settings import StoreSettings
from contrail_train.config.data import DataConfig
from contrail_train.data.training_data import open_training_data
from contrail_train.data.unlabelled import unlabelled_rows
from helpers.batches import collect
from helpers.records import write_record
from helpers.runs import streaked
from helpers.stores import build_small


@pytest.mark.slow
def test_frames_without_labels_are_all_that_say_nothing_about_held_out_records(tmp_path: Path) -> None:
    store, other = streaked(tmp_path / "a", 0), streaked(tmp_path / "b", 8)  # half of the record ids are in both
    config = DataConfig(train=[str(store)], unlabelled=[str(store), str(other)], holdout=0.3, frames=[-1, 0])
    data = open_training_data(config)
    plain = open_training_data(config.model_copy(update={"unlabelled": []}))
    assert data.holdout.record_id.tolist() == plain.holdout.record_id.tolist()
    assert len(data.train) == len(plain.train)
    items = data.unlabelled
    assert items is not None
    held = set(data.holdout.record_id)
    expected = []
    for path in (store, other):
        free = [record_id for record_id in open_store(path)["record_id"].values if record_id not in held]
        labelled = {4} if path is store else set()
        expected += [(record_id, frame) for record_id in free for frame in range(1, 8) if frame not in labelled]
    assert list(zip(items.record_id, items.frame.tolist(), strict=True)) == expected
    assert str(other) in data.digests
    row = len(items) - 1
    ((image, target, _),) = collect(items, [np.array([row])])
    np.testing.assert_array_equal(image, open_store(other)["image"].values[items.sample[row], 6:8])
    assert not target.any()
    with pytest.raises(ContrailError, match="no frame is left"):
        open_training_data(
            DataConfig(train=[str(store)], validation=[str(other)], unlabelled=[str(other)], leaks="drop")
        )


def test_statistics_are_not_those_of_frames_without_labels(tmp_path: Path) -> None:
    write_record(tmp_path / "raw/validation/a", np.random.default_rng(0), size=64)
    settings = StoreSettings(COMPOSITES["ash"], size=64)
    labelled = build_small(tmp_path / "raw", tmp_path / "labelled.zarr", split="validation", settings=settings)
    config = DataConfig(train=[str(labelled.place.path)], unlabelled=[str(streaked(tmp_path / "b", 8))], holdout=0)
    with pytest.raises(ContrailError, match="has no train samples, so it has no statistics"):
        open_training_data(config)


def test_each_frame_without_a_label_is_drawn_once_before_any_is_drawn_again() -> None:
    rows = unlabelled_rows(5, 13, seed=3, epoch=1)
    assert sorted(rows[:5]) == sorted(rows[5:10]) == list(range(5))
    assert rows.tolist() == unlabelled_rows(5, 13, seed=3, epoch=1).tolist()
    assert rows.tolist() != unlabelled_rows(5, 13, seed=3, epoch=2).tolist()
