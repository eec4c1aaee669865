"""Which frames are trained on, with which labels."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from contrail_data.errors import ContrailError
from contrail_data.labels.predictor import Decision, Labeller, Predicted
from contrail_data.labels.write import write_labels
from contrail_data.store.logits import decode
from contrail_data.store.reader import open_store
from contrail_data.store.schema import Kind
from contrail_train.config.data import BalanceConfig, DataConfig, PseudoConfig
from contrail_train.data.items import open_labelled
from contrail_train.data.loader import load
from contrail_train.data.training_data import open_training_data
from helpers.batches import CPU, collect
from helpers.labels import labels_of, mean_red, pseudo_of
from helpers.records import add_records, write_record
from helpers.stores import SMALL, build_small


@pytest.mark.parametrize("target", ["soft", "quantised", "hard"])
def test_pseudo_labelled_frames_are_added_to_training_records(store: Path, tmp_path: Path, target: str) -> None:
    pseudo = pseudo_of(store, tmp_path / "pseudo.zarr")
    config = DataConfig(train=[str(store), str(pseudo)], holdout=0.3, pseudo=PseudoConfig(weight=0.25, target=target))
    data = open_training_data(config)
    records = len(set(data.train.record_id))
    assert not set(data.train.record_id) & set(data.holdout.record_id)
    assert len(data.train) == records * 8  # one human and seven pseudo-labelled frames, each once
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


def test_a_pseudo_labelled_frame_is_drawn_with_a_probability_instead_of_the_human_labelled_one(
    store: Path, tmp_path: Path
) -> None:
    pseudo = pseudo_of(store, tmp_path / "pseudo.zarr")
    config = DataConfig(train=[str(store), str(pseudo)], holdout=0, pseudo=PseudoConfig(probability=0.25))
    data = open_training_data(config)
    records = sorted(set(data.train.record_id))
    assert len(data.epochs) == len(records)
    drawn = np.array([data.epochs.rows(0, epoch) for epoch in range(400)])
    for rows in drawn:
        assert sorted(data.train.record_id[rows]) == records
    frames = np.bincount(data.train.frame[drawn].ravel(), minlength=8) / drawn.size
    np.testing.assert_allclose(frames, [0.75 if frame == 4 else 0.25 / 7 for frame in range(8)], atol=0.02)
    np.testing.assert_array_equal(open_training_data(config).epochs.rows(0, 5), drawn[5])
    assert not np.array_equal(data.epochs.rows(1, 5), drawn[5])
    chosen = data.train.frame[drawn[0][np.argsort(data.train.record_id[drawn[0]])]]
    assert not np.array_equal(chosen, data.train.frame[drawn[1][np.argsort(data.train.record_id[drawn[1]])]])


@pytest.mark.slow
def test_pseudo_labels_of_records_without_a_human_label_are_trained_on(store: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    for i in range(9):
        for path in write_record(tmp_path / f"other/test/external{i}", rng).glob("human_*.npy"):
            path.unlink()
    external = str(build_small(tmp_path / "other", tmp_path / "external.zarr", split="test").place.path)
    labels = str(pseudo_of(Path(external), tmp_path / "labels.zarr"))
    both = open_training_data(
        DataConfig(train=[str(store), external, labels], holdout=0.3, pseudo=PseudoConfig(probability=0.1))
    )
    rows = both.epochs.rows(0, 0)
    assert both.pseudo_labelled == 9 * 8
    assert len(set(both.train.record_id)) == len(rows) == len(both.epochs)
    assert (both.train.store[rows] == 1).sum() == 9
    only = open_training_data(DataConfig(train=[external, labels], validation=[str(store)]))
    assert (len(only.train), len(only.epochs), len(only.holdout)) == (9 * 8, 9 * 8, 9)
    assert only.statistics == open_store(store).attrs["statistics"]
    with pytest.raises(ContrailError, match="no statistics"):
        open_training_data(DataConfig(train=[external, labels], holdout=0))
    opened = {name: open_store(name) for name in (external, labels)}
    opened[external].attrs["statistics"] = only.statistics  # as a store of the train split has
    assert not len(open_training_data(DataConfig(train=[external, labels], holdout=0), opened).holdout)
    with pytest.raises(ContrailError, match=r"to hold out; name labelled stores in data\.validation"):
        open_training_data(DataConfig(train=[external, labels]), opened)
    with pytest.raises(ContrailError, match="nothing to train on"):
        open_training_data(DataConfig(train=[external], validation=[str(store)]))


def test_pseudo_labels_keep_the_human_label_and_resume(raw: Path, tmp_path: Path) -> None:
    add_records(raw, 11)
    store = build_small(raw, tmp_path / "twenty.zarr").place.path
    out = pseudo_of(store, tmp_path / "pseudo.zarr")
    ds, parent = open_store(out), open_store(store)
    assert ds.attrs["parent"] == parent.attrs["digest"]
    np.testing.assert_array_equal(ds["frame_mask"].values[:, 4], parent["mask"].values)
    np.testing.assert_array_equal(decode(ds["logit"].values[:, 4]), parent["mask"].values)
    assert set(ds["frame_source"].values[:, 4]) == {"human"}
    assert set(np.delete(ds["frame_source"].values, 4, 1).ravel()) == {"pseudo"}

    calls = 0

    def interrupted(samples: list[int], x: np.ndarray, valid: np.ndarray | None) -> Predicted:
        nonlocal calls
        calls += 1
        if calls == 9:  # within the second shard
            raise KeyboardInterrupt
        return mean_red(samples, x, valid)

    labeller = Labeller(predict=interrupted, decision=Decision(0.3, 0.0, 100, "sha256:test"))
    with pytest.raises(KeyboardInterrupt):
        write_labels(parent, labeller, tmp_path / "again.zarr", kind=Kind.PSEUDO_LABELS, batch=2)
    labelled = write_labels(parent, labeller, tmp_path / "again.zarr", kind=Kind.PSEUDO_LABELS, batch=2)
    assert labelled.resumed == 16
    assert labelled.digest == ds.attrs["digest"]


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


def test_window_offsets_are_relative_to_the_labelled_frame(store: Path) -> None:
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
    with pytest.raises(ContrailError, match=r"no labelled frame has the neighbours.*\(8 frames per sample\)"):
        open_training_data(DataConfig(train=[str(store)], frames=[0, 4]))
    with pytest.raises(ContrailError, match="9 of 9 labelled frames"):
        open_labelled([open_store(store)], (0, 4))


def test_repeated_edges_stand_for_frames_beyond_the_ends_of_a_record(store: Path, tmp_path: Path) -> None:
    stores = [str(store), str(pseudo_of(store, tmp_path / "pseudo.zarr"))]
    data = open_training_data(DataConfig(train=stores, holdout=0.3, frames=[-2, 0, 1], edges="repeat"))
    assert set(data.train.frame) == set(range(8))
    assert data.without_neighbours == 0
    ds = open_store(store)
    ids = list(ds["record_id"].values)
    for row, (image, _, _) in enumerate(collect(data.train, [np.arange(len(data.train))])):
        frame = data.train.frame[row]
        expected = [max(frame - 2, 0), frame, min(frame + 1, 7)]
        np.testing.assert_array_equal(image, ds["image"].values[ids.index(data.train.record_id[row]), expected])


def test_two_targets_are_read_as_two_maps_and_scored_against_the_first(store: Path, tmp_path: Path) -> None:
    pseudo = pseudo_of(store, tmp_path / "pseudo.zarr")
    settings = {"train": [str(store), str(pseudo)], "holdout": 0.3}
    two = open_training_data(DataConfig(**settings, second_target="mean"))
    hard, soft = (open_training_data(DataConfig(**settings, target=target)) for target in ("majority", "mean"))
    rows = np.arange(len(two.train))
    (both,) = load(two.train, [rows], CPU, 2, 1)
    assert both.target_bkhw.shape[1] == 2
    for k, single in enumerate((hard, soft)):
        (expected,) = load(single.train, [rows], CPU, 2, 1)
        assert torch.equal(both.target_bkhw[:, k : k + 1], expected.target_bkhw)
    human = len(rows) - two.pseudo_labelled
    assert (both.target_bkhw[:human, 0] != both.target_bkhw[:human, 1]).any()
    assert torch.equal(both.target_bkhw[human:, 0], both.target_bkhw[human:, 1])
    (held,) = load(two.holdout, [np.arange(len(two.holdout))], CPU, 2, 1)
    assert held.target_bkhw.shape[1] == 1


def test_masks_of_annotators_follow_the_majority_mask_which_stands_for_missing_ones(
    store: Path, tmp_path: Path
) -> None:
    pseudo = pseudo_of(store, tmp_path / "pseudo.zarr")
    config, ds = DataConfig(train=[str(store), str(pseudo)], holdout=0.3), open_store(store)
    votes, count = ds["annotators"].values, ds["annotator_count"].values
    most = int(count.max())
    data = open_training_data(config, annotators=most + 1)
    (batch,) = load(data.train, [np.arange(len(data.train))], CPU, 2, 1)
    assert batch.annotators_b is not None
    ids = ds["record_id"].values.tolist()
    for row in range(data.human_labelled):
        at, target_khw = ids.index(data.train.record_id[row]), batch.target_bkhw[row].numpy() > 0
        own = int(count[at])
        assert batch.annotators_b[row] == own > 0
        np.testing.assert_array_equal(target_khw[0], ds["mask"].values[at] > 0)
        np.testing.assert_array_equal(target_khw[1 : own + 1], [votes[at] >> r & 1 for r in range(own)])
        assert (target_khw[own + 1 :] == target_khw[0]).all()
    assert not batch.annotators_b[data.human_labelled :].any()
    assert len(data.holdout.label[0]) == 1
    with pytest.raises(ContrailError, match=f"set model.annotator_maps={most}"):
        open_training_data(config, annotators=most - 1)


@pytest.mark.parametrize(("target", "factor"), [("mean", 1), ("clip2", 2)])
def test_soft_targets_are_the_mean_of_the_annotators(store: Path, target: str, factor: int) -> None:
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
        # held-out records always have the label of the majority
        np.testing.assert_array_equal(label, ds["mask"].values[at] * 255)


def test_training_can_use_only_positive_records(raw: Path, tmp_path: Path) -> None:
    for i in (1, 4):
        path = raw / "train" / str(18446744073709551616 + i) / "human_pixel_masks.npy"
        np.save(path, np.zeros_like(np.load(path)))
    build_small(raw, tmp_path / "train.zarr")
    config = DataConfig(train=[str(tmp_path / "train.zarr")], holdout=0.3)
    everything = open_training_data(config)
    positive = open_training_data(config.model_copy(update={"records": "positive"}))
    assert len(positive.train) + len(positive.holdout) == 7
    assert positive.train.positive.all()
    # all stages of a pipeline hold out the same records
    assert set(positive.holdout.record_id) <= set(everything.holdout.record_id)


def test_batches_mark_missing_pixels_as_invalid(store: Path) -> None:
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


def test_a_store_of_another_composite_is_refused(store: Path) -> None:
    with pytest.raises(ContrailError, match="has composite 'ash', not 'ash_wide'"):
        open_training_data(DataConfig(train=[str(store)], composite="ash_wide"))


@pytest.mark.slow
def test_labels_of_a_model_that_saw_the_holdout_are_refused(raw: Path, tmp_path: Path) -> None:
    parent = build_small(raw, tmp_path / "s.zarr").place.path
    held = open_training_data(DataConfig(train=[str(parent)], holdout=0.3)).holdout.record_id.tolist()
    assert held
    clean = labels_of(parent, tmp_path / "clean.zarr", tuple(set(open_store(parent)["record_id"].values) - set(held)))
    open_training_data(DataConfig(train=[str(parent), str(clean)], holdout=0.3))
    leaky = labels_of(parent, tmp_path / "leaky.zarr", (held[0],))
    config = DataConfig(train=[str(parent), str(leaky)], holdout=0.3)
    with pytest.raises(ContrailError, match=rf"trained on 1 of {len(held)} held-out records, such as {held[0]}"):
        open_training_data(config)
    assert held[0] in open_training_data(config.model_copy(update={"leaks": "allow"})).labellers_saw


@pytest.mark.slow
def test_frames_of_low_agreement_or_confidence_are_left_out(raw: Path, tmp_path: Path) -> None:
    parent = build_small(raw, tmp_path / "s.zarr").place.path
    labels = labels_of(parent, tmp_path / "l.zarr")
    config = DataConfig(train=[str(parent), str(labels)], holdout=0)
    everything = open_training_data(config).pseudo_labelled
    assert everything == 9 * 7
    agreement = open_store(labels)["frame_agreement"].values
    pseudo = open_store(labels)["frame_source"].values == "pseudo"
    for key, least, of in (
        ("min_agreement", 0.5, "frame"),
        ("min_confidence", 0.95, "frame"),
        ("min_agreement", 0.5, "record"),
    ):
        some = config.model_copy(update={"pseudo": config.pseudo.model_copy(update={key: least, "of": of})})
        mean = np.where(pseudo, agreement, 0).sum(1, keepdims=True) / pseudo.sum(1, keepdims=True)
        value = {"frame": agreement, "record": np.broadcast_to(mean, agreement.shape)}[of]
        if key == "min_confidence":
            with pytest.raises(ContrailError, match=r"l\.zarr: no pseudo-labelled frame is left .* lower the limits"):
                open_training_data(some)
            continue
        assert open_training_data(some).pseudo_labelled == int((pseudo & (value >= least)).sum()), (key, of)
    with pytest.raises(ContrailError, match=r"data\.train names no pseudo-labels; omit these settings"):
        open_training_data(some.model_copy(update={"train": [str(parent)]}))


@pytest.mark.parametrize("pseudo", [False, True])
def test_classes_are_balanced_over_all_stores(raw: Path, tmp_path: Path, pseudo: bool) -> None:
    """One store has only negative records, the other, of another number of them, only positive ones."""
    folders = sorted((raw / "train").iterdir())
    for folder in folders[:6]:
        for name in ("human_pixel_masks", "human_individual_masks"):
            np.save(folder / f"{name}.npy", np.zeros_like(np.load(folder / f"{name}.npy")))
    for folder in folders[6:]:
        (tmp_path / "other/train").mkdir(parents=True, exist_ok=True)
        folder.rename(tmp_path / "other/train" / folder.name)
    stores = [build_small(root, tmp_path / f"{root.name}.zarr").place.path for root in (raw, tmp_path / "other")]
    train = [*stores, pseudo_of(stores[0], tmp_path / "pseudo.zarr")] if pseudo else stores
    config = DataConfig(train=[*map(str, train)], holdout=0, balance=BalanceConfig(by=["positive"]))
    data = open_training_data(config)
    positive, frequency = data.train.positive, data.epochs.frequency
    assert 0 < positive.mean() != 0.5
    assert frequency[positive].sum() == pytest.approx(frequency.sum() / 2)
    assert frequency.mean() == pytest.approx(1)
    by_month = open_training_data(config.model_copy(update={"balance": BalanceConfig(by=["month"])}))
    unknown = by_month.train.store == 1  # without metadata; all others are of one month
    assert by_month.epochs.frequency[unknown].sum() == pytest.approx(by_month.epochs.frequency.sum() / 2)


@pytest.mark.parametrize("target", ["soft", "quantised", "hard"])
def test_a_pseudo_labelled_frame_that_the_gate_rejects_has_no_contrail(raw: Path, tmp_path: Path, target: str) -> None:
    store = build_small(raw, tmp_path / "s.zarr").place.path

    def alternate(samples: list[int], x_btchw: np.ndarray, valid_bhw: np.ndarray | None) -> Predicted:
        score = np.where(np.arange(len(x_btchw)) % 2, 0.9, 0.4).astype(np.float32)
        return Predicted(np.full((len(score), *x_btchw.shape[3:]), 0.75, np.float32), score, np.ones_like(score))

    labeller = Labeller(predict=alternate, decision=Decision(0.5, 0.6, 1, "sha256:test"))
    write_labels(open_store(store), labeller, tmp_path / "p.zarr", kind=Kind.PSEUDO_LABELS)
    config = DataConfig(train=[str(store), str(tmp_path / "p.zarr")], holdout=0, pseudo=PseudoConfig(target=target))
    train = open_training_data(config).train
    rows = np.flatnonzero(train.frame != 4)
    levels = [np.unique(label).tolist() for _, label, _ in collect(train, [rows])]
    expected = {"soft": 191, "quantised": 191, "hard": 255}[target]  # 255 x 0.75
    assert levels == [[expected] if frame % 2 else [0] for frame in train.frame[rows]]
