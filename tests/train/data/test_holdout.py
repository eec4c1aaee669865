"""Held-out records: whole groups, folds, and leaks into the validation data."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contrail_data.composites import COMPOSITES
from contrail_data.errors import ContrailError
from contrail_data.splits.leaks import Checked
from contrail_data.store.reader import open_store
from contrail_data.store.settings import StoreSettings
from contrail_data.synthetic.noise import power_law_noise
from contrail_train.config.data import DataConfig
from contrail_train.data.holdout import choose_holdout
from contrail_train.data.training_data import open_training_data
from helpers.cli import run_command
from helpers.stores import build_small


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1, max_size=60), st.floats(0, 0.9))
def test_holdout_takes_whole_groups_of_each_kind(records: list[tuple[int, bool]], fraction: float) -> None:
    group = np.array([str(g) for g, _ in records])
    positive = np.array([p for _, p in records])
    held = choose_holdout(group, positive, fraction)
    assert not set(group[held]) & set(group[~held])
    assert held.sum() >= np.floor(fraction * len(records) - 2)
    if fraction == 0:
        assert not held.any()
    more = choose_holdout(np.append(group, "another"), np.append(positive, True), fraction)
    kept = held & more[:-1]
    assert len(set(group[held]) - set(group[kept])) <= 1  # a new group releases at most one held-out group


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1, max_size=60), st.integers(2, 6))
def test_every_record_is_held_out_in_exactly_one_fold(records: list[tuple[int, bool]], folds: int) -> None:
    group = np.array([str(g) for g, _ in records])
    positive = np.array([p for _, p in records])
    held = np.stack([choose_holdout(group, positive, 1 / folds, fold) for fold in range(folds)])
    assert (held.sum(0) == 1).all()


@pytest.mark.slow
def test_leaking_validation_is_refused_dropped_or_allowed(raw: Path, tmp_path: Path) -> None:
    """Records of one site, 20 minutes apart, overlap those of the other store; the ninth has no place."""

    from contrail_data.cli.main import main

    everything = build_small(raw, tmp_path / "all.zarr").place.path
    ids = open_store(everything)["record_id"].values.tolist()
    for name, part in (("a", ids[:4] + ids[8:]), ("b", ids[4:8])):
        given = [x for record in part for x in ("--records", record)]
        assert run_command(main, "subset", everything, "-o", tmp_path / f"{name}.zarr", *given).returncode == 0
    config = DataConfig(train=[str(tmp_path / "a.zarr")], validation=[str(tmp_path / "b.zarr")])
    with pytest.raises(ContrailError, match=r"4 records of data.train leak into data.validation .*data.leaks=drop"):
        open_training_data(config)
    dropped = open_training_data(config.model_copy(update={"leaks": "drop"}))
    assert dropped.train.record_id.tolist() == ids[8:]
    assert dropped.leaking == 4
    allowed = open_training_data(config.model_copy(update={"leaks": "allow"}))
    assert (len(allowed.train), sorted(allowed.holdout.record_id.tolist())) == (5, sorted(ids[4:8]))


@pytest.mark.slow
def test_images_reveal_leaks_where_place_and_time_are_unknown(raw: Path, tmp_path: Path) -> None:
    """Record `copy` shows what the first of nine shows, shifted by two of its 64 pixels."""
    fields = [power_law_noise(np.random.default_rng(i), 66, 1.8)[0] for i in range(9)]
    folders = sorted((raw / "train").iterdir())
    copy = shutil.copytree(folders[0], tmp_path / "other/train/copy")
    for i, folder in enumerate([*folders, copy]):
        begin = slice(2, 66) if folder == copy else slice(0, 64)
        for band in (11, 14, 15):
            whole = 280 + 4 * (fields[i % 9] + (band - 14) * fields[i % 9 - 1])
            np.save(folder / f"band_{band:02d}.npy", whole[begin, begin, np.newaxis].repeat(8, 2).astype("<f4"))
        for mask in folder.glob("human*.npy"):
            np.save(mask, np.load(mask).repeat(2, 0).repeat(2, 1))
    (raw / "train_metadata.json").unlink()
    settings = StoreSettings(COMPOSITES["ash"], size=64)
    first, second = (
        str(build_small(root, tmp_path / f"{name}.zarr", settings=settings).place.path)
        for name, root in (("first", raw), ("second", tmp_path / "other"))
    )
    original = open_store(first)["record_id"].values[0]
    both = open_training_data(DataConfig(train=[first, second], holdout=0.3))
    assert len({*both.train.group, *both.holdout.group}) == 9
    assert ("copy" in both.train.record_id) == (original in both.train.record_id)
    assert both.checked[first] == Checked(records=9, id=9, data=9, footprint=0, image=9, unchecked=0)
    config = DataConfig(train=[first], validation=[second])
    with pytest.raises(ContrailError, match=r"1 records of data.train leak into data.validation \(1 by image; such as"):
        open_training_data(config)
    dropped = open_training_data(config.model_copy(update={"leaks": "drop"}))
    assert original not in dropped.train.record_id
    assert len(dropped.train) == 8


@pytest.mark.slow
def test_folds_are_read_from_a_file_and_invalid_files_are_refused(raw: Path, tmp_path: Path) -> None:
    parent = build_small(raw, tmp_path / "s.zarr").place.path
    ids = open_store(parent)["record_id"].values.tolist()
    table = tmp_path / "folds.csv"
    table.write_text("\ufeffrecord_id,fold\n" + "".join(f"{r},{2 if r == ids[8] else 0}\n" for r in ids))
    data = open_training_data(DataConfig(train=[str(parent)], folds=str(table), fold=2))
    assert data.holdout.record_id.tolist() == [ids[8]]
    with pytest.raises(ContrailError, match="leaves none"):
        open_training_data(DataConfig(train=[str(parent)], folds=str(table), fold=2, leave_out=[0]))
    with pytest.raises(ContrailError, match="has no fold 1; choose from 0 to 2"):
        open_training_data(DataConfig(train=[str(parent)], folds=str(table), fold=1))
    for text, message in (
        ("a,b\n", "no column record_id and fold"),
        ("record_id,fold\nx,1\ny\n", "record y: '' is not a fold"),
        (f"record_id,fold\nx,{'9' * 5000}\n", "record x: '9{39} is not a fold"),
        ("record_id,fold\nx,1\nx,2\n", "record x is in another fold too"),
    ):
        table.write_text(text)
        with pytest.raises(ContrailError, match=message):
            open_training_data(DataConfig(train=[str(parent)], folds=str(table)))
    with pytest.raises(ContrailError, match="No such file"):
        open_training_data(DataConfig(train=[str(parent)], folds="none.csv"))
    table.write_text(f"record_id,fold\n{ids[0]},0\n")
    with pytest.raises(ContrailError, match="lacks 8 of the records"):
        open_training_data(DataConfig(train=[str(parent)], folds=str(table)))
