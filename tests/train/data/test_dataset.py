"""The torch Dataset gives what the trainer learns from, one sample at a time."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from contrail_data.catalog.catalog import add_entry
from contrail_data.errors import ContrailError, UsageError
from contrail_data.storage.place import Place, place_of
from contrail_data.store.reader import open_store
from contrail_data.store.transfer import copy_store
from contrail_train import ContrailDataset
from contrail_train.data import dataset as dataset_module
from contrail_train.data.items import Items
from contrail_train.data.loader import Batch, read_batch
from helpers.labels import pseudo_of
from helpers.records import write_record
from helpers.stores import build_small


def test_items_are_normalised_frames_around_the_labelled_one_with_their_mask(store: Path) -> None:
    dataset, stored = ContrailDataset(store, frames=[-2, 0, 1]), open_store(store)
    mean, std = (np.array(dataset.statistics[name], np.float32)[:, None, None] for name in ("mean", "std"))
    assert len(dataset) == stored.sizes["sample"]
    for row in (0, 5, -1):
        item, sample = dataset[row], np.arange(len(dataset))[row]
        labelled = int(stored["labelled_frame"][sample])
        frames = stored["image"].values[sample, [labelled - 2, labelled, labelled + 1]]
        np.testing.assert_allclose(item["image"], (frames / 255 - mean) / std, atol=2e-5)
        np.testing.assert_array_equal(item["mask"][0], stored["mask"].values[sample])
        assert item["record_id"] == str(stored["record_id"].values[sample]) == dataset.record_id[row]
        assert dataset.positive[row] == bool(item["mask"].any())
        assert item["valid"].all()
    assert dataset.label_shift == (0.5, 0.5)
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def test_soft_targets_and_positive_records_are_as_in_training(raw: Path, tmp_path: Path) -> None:
    path = raw / "train/18446744073709551618/human_pixel_masks.npy"
    np.save(path, np.zeros_like(np.load(path)))
    build_small(raw, tmp_path / "train.zarr")
    dataset = ContrailDataset(tmp_path / "train.zarr", target="mean", records="positive")
    assert len(dataset) == 8
    assert dataset.positive.all()
    assert dataset[1]["mask"].unique().tolist() == pytest.approx([0, 128 / 255, 191 / 255])


def test_augmentation_follows_the_global_seed_and_moves_image_and_mask_alike(store: Path) -> None:
    plain = ContrailDataset(store)
    turned = ContrailDataset(store, augment={"flip": 0.5, "rot90": 1.0, "affine": None, "label_shift": [0, 0]})
    assert (plain.label_shift, turned.label_shift) == ((0.5, 0.5), (0.5, 0.5))
    torch.manual_seed(7)
    first = turned[0]
    expected = plain[0]
    found = [
        (k, flips)
        for k in range(4)
        for flips in ([], [1])
        if torch.equal(torch.rot90(expected["mask"], k, (1, 2)).flip(flips), first["mask"])
        and torch.allclose(torch.rot90(expected["image"], k, (2, 3)).flip([f + 1 for f in flips]), first["image"])
    ]
    assert found
    torch.manual_seed(7)
    again = turned[0]
    assert torch.equal(first["image"], again["image"])
    assert any(not torch.equal(first["image"], turned[0]["image"]) for _ in range(9))


def test_the_label_shift_is_removed_with_augmentation_only(store: Path) -> None:
    still = {"flip": 0.0, "rot90": 0.0, "affine": None}
    moved = ContrailDataset(store, augment=still)
    assert moved.label_shift == (0.0, 0.0)
    mask = ContrailDataset(store)[1]["mask"][0]
    halves = (mask[1:-1, 1:-1] + mask[2:, 1:-1] + mask[1:-1, 2:] + mask[2:, 2:]) / 4
    torch.testing.assert_close(moved[1]["mask"][0, 1:-1, 1:-1], halves)


def test_missing_pixels_are_not_valid(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below = torch.arange(32)[:, None].expand(32, 32) >= 5

    def read(items: Items, rows: np.ndarray) -> Batch:
        return dataclasses.replace(read_batch(items, rows), valid_b1hw=below[None, None].byte())

    monkeypatch.setattr(dataset_module, "read_batch", read)
    for augment in (None, {"flip": 0.0, "rot90": 0.0, "affine": None}):
        assert torch.equal(ContrailDataset(store, augment=augment)[0]["valid"][0], below)


def test_a_pickled_dataset_gives_the_same_items(store: Path) -> None:
    dataset = ContrailDataset(store, frames=[0, 1], edges="repeat", target="mean")
    copy = pickle.loads(pickle.dumps(dataset))
    for name in ("image", "mask", "valid"):
        assert torch.equal(copy[3][name], dataset[3][name])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_workers_give_the_same_batches_as_the_process_itself(store: Path, method: str) -> None:
    dataset = ContrailDataset(store)
    _ = dataset[0]  # what a fork inherits is open
    own = list(DataLoader(dataset, batch_size=6))
    theirs = list(DataLoader(dataset, batch_size=6, num_workers=1, multiprocessing_context=method))
    assert [len(batch["record_id"]) for batch in theirs] == [6, 3]
    for a, b in zip(own, theirs, strict=True):
        assert a["record_id"] == b["record_id"]
        assert torch.equal(a["image"], b["image"])
        assert torch.equal(a["mask"], b["mask"])


def test_what_cannot_be_used_is_an_error_of_one_line(store: Path, tmp_path: Path) -> None:
    pseudo = pseudo_of(store, tmp_path / "pseudo.zarr")
    for arguments, error, message in (
        ({"frames": [1]}, ContrailError, "must ascend and include 0"),
        ({"frames": [-4, 0, 4]}, ContrailError, "no labelled frame is usable, of 9"),
        ({"target": "soft"}, ContrailError, r"target: cannot be 'soft'; give majority, mean or clip2"),
        ({"edges": "repeat"}, UsageError, "edges=repeat has no effect: it needs several data.frames"),
        ({"augment": {"mixup": {"alpha": 1.0}}}, UsageError, "mix the samples of a batch"),
        ({"augment": {"flop": 1.0}}, ContrailError, "there is no setting 'flop'; did you mean flip"),
        ({"augment": {"time_reversal": 0.5}}, UsageError, "needs several data.frames"),
        ({"statistics": {"mean": [0.5], "std": [1.0]}}, ContrailError, "not those of 3 channels"),
        ({"statistics": {"mean": 0.5, "std": 1.0}}, ContrailError, "not those of 3 channels"),
        ({"statistics": {"mean": [0.5] * 3, "std": [1.0, 1.0, np.nan]}}, ContrailError, "not those of 3 channels"),
        ({"statistics": 0.5}, ContrailError, "statistics are not a mapping"),
        ({"frames": 0}, ContrailError, "frames: cannot be '0'; give a list"),
        ({"statistics": {}, "normalise": "image"}, UsageError, "no effect with normalise='image'"),
        ({"store": []}, ContrailError, "no store is named"),
        ({"store": open_store(store)}, ContrailError, "an opened store is not read; give paths"),
        ({"store": [open_store(store)]}, ContrailError, "an opened store is not read; give paths"),
        ({"store": pseudo}, ContrailError, "holds pseudo-labels, not samples"),
        ({"store": tmp_path / "nothing.zarr"}, ContrailError, "neither a store nor a name|no such store"),
    ):
        with pytest.raises(error, match=message) as refused:
            ContrailDataset(**{"store": store, **arguments})
        assert "\n" not in str(refused.value)


def test_stores_without_a_train_split_take_the_statistics_of_training(store: Path, tmp_path: Path) -> None:
    write_record(tmp_path / "new/validation/a", np.random.default_rng(9))
    build_small(tmp_path / "new", tmp_path / "v.zarr", "validation")
    with pytest.raises(ContrailError, match="has no train samples, so it has no statistics"):
        ContrailDataset(tmp_path / "v.zarr")
    statistics = ContrailDataset(store).statistics
    given = ContrailDataset(tmp_path / "v.zarr", statistics=statistics)[0]["image"]
    joined = ContrailDataset([store, tmp_path / "v.zarr"])
    assert joined.record_id[-1] == "a"
    torch.testing.assert_close(joined[-1]["image"], given)


@pytest.mark.slow
def test_a_url_and_a_catalog_name_are_read_alike(
    store: Path, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_store(place_of(store), Place(f"{s3}/s.zarr"))
    add_entry(tmp_path / "catalog.yaml", "shared", f"{s3}/s.zarr", open_store(store), None)
    monkeypatch.setenv("CONTRAIL_CATALOG", str(tmp_path / "catalog.yaml"))
    local = ContrailDataset(store)[2]
    for name in (f"{s3}/s.zarr", "shared"):
        item = pickle.loads(pickle.dumps(ContrailDataset(name)))[2]
        assert item["record_id"] == local["record_id"]
        assert torch.equal(item["image"], local["image"])
