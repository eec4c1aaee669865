"""Batches hold the right pixels, in an order that depends only on seed and epoch."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contrail_data.errors import ContrailError
from contrail_data.store.reader import open_store
from contrail_train.config.data import DataConfig
from contrail_train.data.loader import ReadAhead, epoch_order, load, share_of, split_steps
from contrail_train.data.training_data import open_training_data
from helpers.batches import collect


@settings(max_examples=50)
@given(st.integers(1, 200), st.integers(1, 9), st.integers(1, 4), st.integers(0, 3), st.integers(1, 2))
def test_all_ranks_together_see_each_sample_once(count: int, batch: int, world: int, epoch: int, together: int) -> None:
    seed = 0
    order = epoch_order(np.ones(count), seed, epoch)
    seen: list[int] = []
    for rows in split_steps(order, batch):
        assert len(rows) <= batch
        shares = [share_of(len(rows), rank, world, together) for rank in range(world)]
        assert len({len(share) for share, _ in shares}) == 1  # all ranks have equally many rows, so that none waits
        own = [share[:owned] for share, owned in shares]
        seen += rows[np.concatenate(own)].tolist()
        for mine in own if together == 2 else ():
            assert {int(row) ^ 1 for row in mine} - {len(rows)} <= set(mine.tolist())  # its samples' partners
    assert sorted(seen) == list(range(count))
    np.testing.assert_array_equal(order, epoch_order(np.ones(count), seed, epoch))


def test_batches_hold_the_values_of_the_store(store: Path) -> None:
    data = open_training_data(DataConfig(train=[str(store)], holdout=0.3))
    ds = open_store(store)
    ids = list(ds["record_id"].values)
    assert len(data.train) + len(data.holdout) == 9
    order = data.epochs.rows(0, 0)
    got = collect(data.train, split_steps(order, 2))
    assert len(got) == len(order)
    for (image, target, weight), row in zip(got, order, strict=True):
        at = ids.index(data.train.record_id[row])
        np.testing.assert_array_equal(image[0], ds["image"].values[at, 4])
        np.testing.assert_array_equal(target, ds["mask"].values[at] * 255)
        assert weight == 1


def test_a_missing_chunk_names_the_file(store: Path) -> None:
    data = open_training_data(DataConfig(train=[str(store)], holdout=0))
    (store / "image" / "c.0.0.0.0.0").unlink()
    with pytest.raises(ContrailError, match=r"c\.0\.0\.0\.0\.0"):
        collect(data.train, [np.arange(9)])


def test_more_batches_are_read_at_a_time_where_steps_wait_for_reads_that_wait(store: Path) -> None:
    data = open_training_data(DataConfig(train=[str(store)], holdout=0))
    together = threading.Barrier(4)  # breaks unless four threads read at a time
    (read,) = data.train.images
    reads = itertools.count()

    def read_slowly(sample: int, frames: Sequence[int], out: np.ndarray) -> None:
        read(sample, frames, out)
        if next(reads) < 40:
            time.sleep(0.01)  # as for object storage: without a processor
        else:
            together.wait(timeout=60)

    rows = [np.arange(9)[n % 9 :][:1] for n in range(80)]
    expected = collect(data.train, rows)
    batches = load(replace(data.train, images=[read_slowly]), rows, torch.device("cpu"), threads=1, prefetch=1)
    images = [batch.image_btchw.numpy().copy() for batch in batches]
    for image, (whole, _, _) in zip(images, expected, strict=True):
        np.testing.assert_array_equal(image[0], whole)


def test_the_next_epoch_reads_as_far_ahead_from_its_first_batch_as_the_one_before_did_in_the_end(store: Path) -> None:
    data = open_training_data(DataConfig(train=[str(store)], holdout=0))
    (read,) = data.train.images

    def read_slowly(sample: int, frames: Sequence[int], out: np.ndarray) -> None:
        time.sleep(0.01)  # as for object storage: without a processor
        read(sample, frames, out)

    ahead = ReadAhead()
    rows = [np.arange(9)[n % 9 :][:1] for n in range(40)]
    for _ in load(replace(data.train, images=[read_slowly]), rows, torch.device("cpu"), 1, 1, ahead):
        pass
    assert ahead.pools >= 4
    together = threading.Barrier(4)  # breaks unless four threads read the first batches at a time

    def read_together(sample: int, frames: Sequence[int], out: np.ndarray) -> None:
        together.wait(timeout=60)
        read(sample, frames, out)

    expected = collect(data.train, rows[:4])
    batches = load(replace(data.train, images=[read_together]), rows[:4], torch.device("cpu"), 1, 1, ahead)
    for batch, (whole, _, _) in zip(batches, expected, strict=True):
        np.testing.assert_array_equal(batch.image_btchw.numpy()[0], whole)


def test_samples_are_drawn_at_their_frequency() -> None:
    frequency = np.array([0.25, 0.25, 0.5, 3.0])
    drawn = np.concatenate([epoch_order(frequency, 0, epoch) for epoch in range(2000)])
    np.testing.assert_allclose(np.bincount(drawn) / 2000, frequency, atol=0.04)
    assert len(epoch_order(frequency, 0, 0)) == 4
