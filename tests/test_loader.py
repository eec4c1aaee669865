"""Batches: the right pixels with the right labels, in an order that is a pure function."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_build import SMALL, add_records, build_small

from contrail_data.errors import ContrailError
from contrail_data.labels.predictor import Decision, Predicted
from contrail_data.labels.write import label_store
from contrail_data.storage.place import Place
from contrail_data.store.reader import open_store
from contrail_data.store.verify import verify
from contrail_train.config.schema import DataConfig, PseudoConfig
from contrail_train.data.holdout import choose_holdout
from contrail_train.data.items import open_labelled
from contrail_train.data.loader import epoch_order, load, share_of, step_rows, steps_per_epoch
from contrail_train.data.training_data import open_training_data

CPU = torch.device("cpu")


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 200), st.integers(1, 9), st.integers(1, 4), st.integers(0, 3), st.integers(0, 5))
def test_every_rank_together_sees_each_sample_once(count: int, batch: int, world: int, seed: int, epoch: int) -> None:
    order = epoch_order(np.ones(count), seed, epoch)
    seen: list[int] = []
    for step in range(steps_per_epoch(count, batch)):
        rows = step_rows(order, step, batch)
        assert len(rows) <= batch
        shares = [share_of(len(rows), rank, world) for rank in range(world)]
        assert len({len(share) for share in shares}) == 1  # nobody waits for more than others have
        own = [share[: len(range(rank, len(rows), world))] for rank, share in enumerate(shares)]
        seen += rows[np.concatenate(own)].tolist()
        assert all((share[len(mine) :] == 0).all() for share, mine in zip(shares, own, strict=True))
    assert sorted(seen) == list(range(count))
    np.testing.assert_array_equal(order, epoch_order(np.ones(count), seed, epoch))


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


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1, max_size=60), st.integers(2, 6))
def test_folds_share_the_records_out(records: list[tuple[int, bool]], folds: int) -> None:
    group = np.array([str(g) for g, _ in records])
    positive = np.array([p for _, p in records])
    held = np.stack([choose_holdout(group, positive, 1 / folds, fold) for fold in range(folds)])
    assert (held.sum(0) == 1).all()


@pytest.fixture
def store(raw: Path, tmp_path: Path) -> Path:
    build_small(raw, tmp_path / "train.zarr")
    return tmp_path / "train.zarr"


def mean_red(x_btchw: np.ndarray, valid_bhw: np.ndarray | None) -> Predicted:
    """The frame's mean red as the probability of every pixel, so that a mix-up of frames shows."""
    mean_b = (x_btchw[:, 0, 0].mean((1, 2)) / 255).astype(np.float32)
    shape = (len(x_btchw), *x_btchw.shape[3:])
    return Predicted(np.broadcast_to(mean_b[:, None, None], shape), mean_b, np.ones(len(mean_b), np.float32))


def pseudo_of(store: Path, out: Path, trained: tuple[str, ...] = ()) -> Path:
    """Pseudo-labels by `mean_red`."""
    label_store(
        open_store(store),
        mean_red,
        Decision(0.3, 0.0, 100, "sha256:test"),
        out,
        store_kind="pseudo-labels",
        frames="all",
        trained_records=trained,
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
    order = epoch_order(data.train.frequency, 0, 0)
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

    def dies(x: np.ndarray, valid: np.ndarray | None) -> Predicted:
        nonlocal calls
        calls += 1
        if calls == 9:  # within the second shard
            raise KeyboardInterrupt
        return mean_red(x, valid)

    options = {"store_kind": "pseudo-labels", "frames": "all", "batch": 2}
    decision = Decision(0.3, 0.0, 100, "sha256:test")
    with pytest.raises(KeyboardInterrupt):
        label_store(parent, dies, decision, tmp_path / "again.zarr", **options)
    digest, resumed = label_store(parent, dies, decision, tmp_path / "again.zarr", **options)
    assert resumed == 16
    assert digest == ds.attrs["digest"]


def test_a_parent_is_never_overwritten_by_its_labels(store: Path) -> None:
    digest = open_store(store).attrs["digest"]
    options = {"store_kind": "pseudo-labels", "frames": "all", "overwrite": True}
    for out in (store, store / "inside.zarr"):
        with pytest.raises(ContrailError, match="choose another -o"):
            label_store(open_store(store), mean_red, Decision(0.5, 0, 1, "m"), out, **options)
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


def test_windows_of_frames_about_the_labelled_one(store: Path) -> None:
    offsets = [-3, -1, 0, 2]
    data = open_training_data(DataConfig(train=[str(store)], holdout=0.3, frames=offsets))
    ds = open_store(store)
    ids = list(ds["record_id"].values)
    for row, (image, _, _) in enumerate(collect(data.train, [np.arange(len(data.train))])):
        at = ids.index(data.train.record_id[row])
        np.testing.assert_array_equal(image, ds["image"].values[at, [1, 3, 4, 6]])


def test_frames_without_neighbours_are_left_out_and_counted(store: Path, tmp_path: Path) -> None:
    pseudo = pseudo_of(store, tmp_path / "pseudo.zarr")
    data = open_training_data(DataConfig(train=[str(store), str(pseudo)], holdout=0.3, frames=[-2, 0, 1]))
    assert set(data.train.frame) == {2, 3, 4, 5, 6}
    assert data.without_neighbours == 9 * 3
    with pytest.raises(ContrailError, match=r"no labelled frame has the neighbours.*\(8 frames a sample\)"):
        open_training_data(DataConfig(train=[str(store)], frames=[0, 4]))
    with pytest.raises(ContrailError, match="9 of 9 labelled frames"):
        open_labelled([open_store(store)], (0, 4))


@pytest.mark.parametrize(("target", "factor"), [("mean", 1), ("clip2", 2)])
def test_soft_targets_are_the_annotators_mean(store: Path, target: str, factor: int) -> None:
    data = open_training_data(DataConfig(train=[str(store)], holdout=0.3, target=target))
    ds = open_store(store)
    ids = list(ds["record_id"].values)
    for row, (_, label, _) in enumerate(collect(data.train, [np.arange(len(data.train))])):
        at = ids.index(data.train.record_id[row])
        votes = np.unpackbits(ds["annotators"].values[at, ..., np.newaxis], axis=-1).sum(-1)
        share = np.minimum(factor * votes / ds["annotator_count"].values[at], 1)
        np.testing.assert_array_equal(label, np.rint(255 * share))
        assert 0 < share.max() <= 1
    for row, (_, label, _) in enumerate(collect(data.holdout, [np.arange(len(data.holdout))])):
        at = ids.index(data.holdout.record_id[row])
        np.testing.assert_array_equal(label, ds["mask"].values[at] * 255)  # scored against the majority all the same


def test_positive_records_alone(raw: Path, tmp_path: Path) -> None:
    for i in (1, 4):
        path = raw / "train" / str(18446744073709551616 + i) / "human_pixel_masks.npy"
        np.save(path, np.zeros_like(np.load(path)))
    build_small(raw, tmp_path / "train.zarr")
    config = DataConfig(train=[str(tmp_path / "train.zarr")], holdout=0.3)
    everything = open_training_data(config)
    positive = open_training_data(config.model_copy(update={"records": "positive"}))
    assert len(positive.train) + len(positive.holdout) == 7
    assert positive.train.positive.all()
    # a pipeline's stages hold the same records out
    assert set(positive.holdout.record_id) <= set(everything.holdout.record_id)


def test_missing_pixels_reach_the_batch(store: Path) -> None:
    items = open_labelled([open_store(store)])

    def read(sample: int, frames: list[int], out: np.ndarray) -> None:
        out[:] = 1
        out[0, 0, :3] = 0 if frames == [4] else 1

    some = dataclasses.replace(items, valid=[read])
    (batch,) = load(some, [np.arange(3)], CPU, 1, 1)
    assert batch.valid_b1hw is not None
    assert (batch.valid_b1hw == 0).sum() == 9
    (batch,) = load(items, [np.arange(3)], CPU, 1, 1)
    assert batch.valid_b1hw is None


def test_a_run_can_insist_on_its_composite(store: Path) -> None:
    with pytest.raises(ContrailError, match="--composite ash_wide"):
        open_training_data(DataConfig(train=[str(store)], composite="ash_wide"))
