"""Held-out records: whole groups, folds, and leaks into the validation data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contrail_data.errors import ContrailError
from contrail_data.store.reader import open_store
from contrail_train.config.schema import DataConfig
from contrail_train.data.holdout import choose_holdout
from contrail_train.data.training_data import open_training_data
from helpers.cli import run_command
from helpers.stores import build_small


@settings(max_examples=50, deadline=None)
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


@settings(max_examples=50, deadline=None)
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


def test_folds_are_read_from_a_file_and_invalid_files_are_refused(raw: Path, tmp_path: Path) -> None:
    parent = build_small(raw, tmp_path / "s.zarr").place.path
    ids = open_store(parent)["record_id"].values.tolist()
    table = tmp_path / "folds.csv"
    table.write_text("record_id,fold\n" + "".join(f"{r},{2 if r == ids[8] else 0}\n" for r in ids))
    data = open_training_data(DataConfig(train=[str(parent)], folds=str(table), fold=2))
    assert data.holdout.record_id.tolist() == [ids[8]]
    with pytest.raises(ContrailError, match="leaves none"):
        open_training_data(DataConfig(train=[str(parent)], folds=str(table), fold=2, leave_out=[0]))
    with pytest.raises(ContrailError, match="has no fold 1; choose from 0 to 2"):
        open_training_data(DataConfig(train=[str(parent)], folds=str(table), fold=1))
    for text, message in (
        ("a,b\n", "no columns record_id and fold"),
        ("record_id,fold\nx,1\ny\n", "line 3: None is not a fold"),
        (f"record_id,fold\nx,{'9' * 5000}\n", "line 2: '9{39} is not a fold"),
        ("record_id,fold\nx,1\nx,2\n", "line 3: x is in another fold too"),
    ):
        table.write_text(text)
        with pytest.raises(ContrailError, match=message):
            open_training_data(DataConfig(train=[str(parent)], folds=str(table)))
    with pytest.raises(ContrailError, match="No such file"):
        open_training_data(DataConfig(train=[str(parent)], folds="none.csv"))
    table.write_text(f"record_id,fold\n{ids[0]},0\n")
    with pytest.raises(ContrailError, match="lacks 8 of the records"):
        open_training_data(DataConfig(train=[str(parent)], folds=str(table)))
