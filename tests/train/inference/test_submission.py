"""Submissions to the competition, and comparisons of two runs."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays

from contrail_data.store.reader import open_store
from contrail_train.inference.tables import encode
from helpers.cli import run_train
from helpers.runs import set_options


def decode(text: str, shape: tuple[int, int]) -> np.ndarray:
    """Decode run lengths, and check that they are sorted, positive and without overlap."""
    mask = np.zeros(shape[0] * shape[1], bool)
    numbers = [int(part) for part in text.split()] if text != "-" else []
    free = 1
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        assert start >= free
        assert length >= 1
        free = start + length
        mask[start - 1 : free - 1] = True
    return mask.reshape(shape[::-1]).T


@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_decoding_inverts_encoding(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(decode(encode(mask), mask.shape), mask)


def test_run_lengths_follow_the_published_rule() -> None:
    """'1 3 10 5' implies pixels 1, 2, 3, 10, 11, 12, 13, 14; pixels are numbered from top to bottom, then left to
    right: 1 is pixel (1, 1), 2 is pixel (2, 1)."""
    pixels = decode("1 3 10 5", (4, 5)).T.ravel()
    assert (np.flatnonzero(pixels) + 1).tolist() == [1, 2, 3, 10, 11, 12, 13, 14]
    mask = np.zeros((4, 5), bool)
    mask[1, 0] = True
    assert encode(mask) == "2 1"
    assert encode(np.zeros((4, 5), bool)) == "-"
    assert not decode("-", (4, 5)).any()


def test_a_submission_holds_the_predicted_masks(store: Path, finished: Path, tmp_path: Path) -> None:
    assert run_train("predict", finished, store, "-o", tmp_path / "p.zarr").returncode == 0
    done = run_train("submit", tmp_path / "p.zarr", "-o", tmp_path / "s.csv")
    assert done.returncode == 0, done.stderr
    predicted = open_store(tmp_path / "p.zarr")
    with (tmp_path / "s.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["record_id"] for row in rows] == predicted["record_id"].values.tolist()
    for row, mask in zip(rows, predicted["frame_mask"].values[:, 0], strict=True):
        np.testing.assert_array_equal(decode(row["encoded_pixels"], mask.shape), mask > 0)
    failed = run_train("submit", store, "-o", tmp_path / "t.csv")
    assert "give a store that contrail-train predict wrote" in failed.stderr
    assert "exists" in run_train("submit", tmp_path / "p.zarr", "-o", tmp_path / "s.csv").stderr


def test_two_runs_are_compared_record_by_record(store: Path, unseen: Path, finished: Path, tmp_path: Path) -> None:
    same = run_train("compare", finished, finished, unseen)
    assert same.returncode == 0, same.stderr
    assert "+0.0000 (+0.0000 to +0.0000)" in same.stdout
    other = tmp_path / "compared"
    options = set_options(
        "model.encoder=test_resnet", "model.decoder.channels=[16,16,8,8,8]", "epochs=1", "batch_size=8"
    )
    assert run_train("run", "unet2d", "--out", other, *options, *set_options(f"data.train={store}")).returncode == 0
    done = run_train("compare", finished, other, unseen)
    assert done.returncode == 0, done.stderr
    assert "B minus A" in done.stdout
