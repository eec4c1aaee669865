"""Batches: the right pixels with the right labels, in an order that is a pure function."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_build import SMALL, add_records, build_small

from contrail_data.errors import ContrailError
from contrail_data.places import Place
from contrail_data.pseudo import Decision, label_store
from contrail_data.store import open_store
from contrail_data.verify import verify
from contrail_train.config import DataConfig, PseudoConfig
from contrail_train.loader import (
    choose_holdout,
    epoch_order,
    load,
    open_training_data,
    step_rows,
    steps_per_epoch,
)

CPU = torch.device("cpu")


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 200), st.integers(1, 9), st.integers(1, 4), st.integers(0, 3), st.integers(0, 5))
def test_every_rank_together_sees_each_sample_once(count: int, batch: int, world: int, seed: int, epoch: int) -> None:
    order = epoch_order(count, seed, epoch)
    steps = steps_per_epoch(count, batch, world)
    seen = [step_rows(order, s, batch, r, world) for s in range(steps) for r in range(world)]
    assert sorted(np.concatenate(seen)) == list(range(count))
    assert max(map(len, seen)) <= batch
    np.testing.assert_array_equal(order, epoch_order(count, seed, epoch))


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
    assert len(set(group[held]) - set(group[kept])) <= 1  # what was held out stays so, but for the last group


@pytest.fixture
def store(raw: Path, tmp_path: Path) -> Path:
    build_small(raw, tmp_path / "train.zarr")
    return tmp_path / "train.zarr"


def pseudo_of(store: Path, out: Path) -> Path:
    """Pseudo-labels whose probability in every pixel is the frame's mean red, so that a mix-up of frames shows."""

    def predict(x_btchw: np.ndarray) -> np.ndarray:
        mean = x_btchw[:, :, 0].mean((2, 3), keepdims=True) / 255
        return np.broadcast_to(mean, (*x_btchw.shape[:2], *x_btchw.shape[3:])).astype(np.float32)

    label_store(
        open_store(store),
        predict,
        Decision(0.3, 0.0, 100, "sha256:test"),
        out,
        store_kind="pseudo-labels",
        all_frames=True,
        keep_human=True,
    )
    return out


def collect(items, rows) -> list[tuple[np.ndarray, np.ndarray, float]]:
    return [
        (b.image_btchw[i].numpy().copy(), b.target_b1hw[i, 0].numpy().copy(), float(b.weight_b[i]))
        for b in load(items, rows, CPU, threads=2, prefetch=2)
        for i in range(len(b.weight_b))
    ]


def test_batches_are_the_store(store: Path) -> None:
    data = open_training_data(DataConfig(train=[str(store)], holdout=0.3))
    ds = open_store(store)
    ids = list(ds["record_id"].values)
    assert len(data.train) + len(data.holdout) == 9
    order = epoch_order(len(data.train), 0, 0)
    rows = [step_rows(order, s, 2) for s in range(steps_per_epoch(len(order), 2))]
    got = collect(data.train, rows)
    assert len(got) == len(order)
    for (image, target, weight), row in zip(got, order, strict=True):
        at = ids.index(data.train.record_id[row])
        np.testing.assert_array_equal(image[0], ds["image"].values[at, 4])
        np.testing.assert_array_equal(target, ds["mask"].values[at] * 255)
        assert weight == 1


@pytest.mark.parametrize("target", ["soft", "quantised", "hard"])
def test_pseudo_labelled_frames_join_by_record(store: Path, tmp_path: Path, target: str) -> None:
    pseudo = pseudo_of(store, tmp_path / "pseudo.zarr")
    config = DataConfig(train=[str(store), str(pseudo)], holdout=0.3, pseudo=PseudoConfig(weight=0.25, target=target))
    data = open_training_data(config)
    records = len(set(data.train.record_id))
    assert not set(data.train.record_id) & set(data.holdout.record_id)
    assert len(data.train) == records * 8  # the human frame and seven others, none twice
    assert sorted(data.train.frame) == sorted(list(range(8)) * records)
    ds = open_store(store)
    ids = list(ds["record_id"].values)
    for row, (image, label, weight) in enumerate(collect(data.train, [np.arange(len(data.train))])):
        frame = data.train.frame[row]
        at = ids.index(data.train.record_id[row])
        np.testing.assert_array_equal(image[0], ds["image"].values[at, frame])
        if frame == 4:
            assert weight == 1
            np.testing.assert_array_equal(label, ds["mask"].values[at] * 255)
            continue
        assert weight == 0.25
        probability = ds["image"].values[at, frame, 0].mean() / 255
        expected = {"soft": probability, "quantised": round(probability * 4) / 4, "hard": float(probability >= 0.3)}
        assert label.min() == label.max()
        assert label[0, 0] / 255 == pytest.approx(expected[target], abs=0.51 / 255)


def test_pseudo_labels_keep_the_human_label_and_resume(raw: Path, tmp_path: Path) -> None:
    add_records(raw, 11)
    store = build_small(raw, tmp_path / "twenty.zarr").place.path
    out = pseudo_of(store, tmp_path / "pseudo.zarr")
    ds, parent = open_store(out), open_store(store)
    assert ds.attrs["parent"] == parent.attrs["digest"]
    np.testing.assert_array_equal(ds["frame_mask"].values[:, 4], parent["mask"].values)
    np.testing.assert_array_equal(ds["probability"].values[:, 4], parent["mask"].values * 255)
    assert set(ds["frame_source"].values[:, 4]) == {"human"}
    assert set(np.delete(ds["frame_source"].values, 4, 1).ravel()) == {"pseudo"}

    calls = 0

    def dies(x: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls == 9:  # within the second shard
            raise KeyboardInterrupt
        mean = x[:, :, 0].mean((2, 3), keepdims=True) / 255
        return np.broadcast_to(mean, (*x.shape[:2], *x.shape[3:])).astype(np.float32)

    options = {"store_kind": "pseudo-labels", "all_frames": True, "keep_human": True, "batch": 2}
    decision = Decision(0.3, 0.0, 100, "sha256:test")
    with pytest.raises(KeyboardInterrupt):
        label_store(parent, dies, decision, tmp_path / "again.zarr", **options)
    digest, resumed = label_store(parent, dies, decision, tmp_path / "again.zarr", **options)
    assert resumed == 16
    assert digest == ds.attrs["digest"]


def test_a_parent_is_never_overwritten_by_its_labels(store: Path) -> None:
    digest = open_store(store).attrs["digest"]
    options = {"store_kind": "pseudo-labels", "all_frames": True, "keep_human": True, "overwrite": True}
    for out in (store, store / "inside.zarr"):
        with pytest.raises(ContrailError, match="choose another -o"):
            label_store(open_store(store), lambda x: x[:, :, 0] / 255, Decision(0.5, 0, 1, "m"), out, **options)
    assert open_store(store).attrs["digest"] == digest
    assert verify(Place(str(store))) == []


def test_stores_that_do_not_fit_are_refused(store: Path, raw: Path, tmp_path: Path) -> None:
    pseudo = pseudo_of(store, tmp_path / "pseudo.zarr")
    with pytest.raises(ContrailError, match="names no store with images"):
        open_training_data(DataConfig(train=[str(pseudo)]))
    from dataclasses import replace

    build_small(raw, tmp_path / "other.zarr", settings=replace(SMALL, label_shift=(0.0, 0.0)))
    with pytest.raises(ContrailError, match="label_shift differs"):
        open_training_data(DataConfig(train=[str(store), str(tmp_path / "other.zarr")]))
    with pytest.raises(ContrailError, match="parent"):
        open_training_data(DataConfig(train=[str(tmp_path / "other.zarr"), str(pseudo)]))


def test_a_missing_chunk_names_the_file(store: Path) -> None:
    data = open_training_data(DataConfig(train=[str(store)], holdout=0))
    (store / "image" / "c.0.0.0.0.0").unlink()
    with pytest.raises(ContrailError, match=r"c\.0\.0\.0\.0\.0"):
        collect(data.train, [np.arange(9)])
