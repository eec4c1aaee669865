"""Submissions to the competition, and comparisons of two runs."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays

from contrail_data.labels.predictor import Decision, FrameSelection, Labeller, Predicted
from contrail_data.labels.write import write_labels
from contrail_data.storage.place import place_of
from contrail_data.store.manifest import set_aside_lines
from contrail_data.store.reader import open_store
from contrail_data.store.schema import Kind
from contrail_data.store.settings import StoreSettings
from contrail_train.inference.tables import encode
from helpers.cli import run_data, run_train
from helpers.records import write_record
from helpers.runs import set_options
from helpers.stores import ASH, build_small


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


def predictions_of(raw: Path, out: Path, *, size: int = 256, offset: int = 0) -> Path:
    """Build records and write a store of predictions: the brighter half of the last channel."""

    def predict(samples: list[int], x_btchw: np.ndarray, valid_bhw: np.ndarray | None) -> Predicted:
        p_bhw = (x_btchw[:, 0, 2] > np.median(x_btchw[:, 0, 2], (1, 2), keepdims=True)).astype(np.float32)
        p_bhw[0] = 0
        return Predicted(p_bhw, np.ones(len(p_bhw), np.float32), np.ones(len(p_bhw), np.float32))

    build_small(raw, out / "built.zarr", settings=StoreSettings(ASH, size=size))
    write_labels(
        open_store(out / "built.zarr"),
        Labeller(predict=predict, decision=Decision(0.5, 0.0, 10, "sha256:m")),
        out / "p.zarr",
        kind=Kind.PREDICTIONS,
        frames=FrameSelection((offset,)),
    )
    return out / "p.zarr"


def expected_rows(predictions: Path) -> dict[str, str]:
    """Encode masks pixel by pixel, by the published rule."""
    store, rows = open_store(predictions), {}
    for record_id, mask in zip(store["record_id"].values.tolist(), store["frame_mask"].values[:, 0], strict=True):
        starts, lengths, previous = [], [], -2
        for number in (column * 256 + row + 1 for column in range(256) for row in range(256) if mask[row, column]):
            if number == previous + 1:
                lengths[-1] += 1
            else:
                starts.append(number)
                lengths.append(1)
            previous = number
        rows[record_id] = " ".join(f"{s} {n}" for s, n in zip(starts, lengths, strict=True)) or "-"
    return rows


def rows_of(path: Path) -> list[tuple[str, str]]:
    with path.open(newline="") as file:
        return [(row["record_id"], row["encoded_pixels"]) for row in csv.DictReader(file)]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for i in range(5):
        write_record(tmp_path / "raw/train" / f"{i}{2**63}", rng, size=256)
    return tmp_path / "raw"


@pytest.mark.slow
def test_a_submission_holds_the_predicted_masks(raw: Path, tmp_path: Path) -> None:
    predictions = predictions_of(raw, tmp_path)
    done = run_train("submit", predictions, "-o", tmp_path / "s.csv")
    assert done.returncode == 0, done.stderr
    assert "5 records, 1 of them empty" in done.stdout
    assert dict(rows_of(tmp_path / "s.csv")) == expected_rows(predictions)
    for row, mask in zip(rows_of(tmp_path / "s.csv"), open_store(predictions)["frame_mask"].values[:, 0], strict=True):
        np.testing.assert_array_equal(decode(row[1], mask.shape), mask > 0)
    failed = run_train("submit", tmp_path / "built.zarr", "-o", tmp_path / "t.csv")
    assert "give a store that contrail-train predict wrote" in failed.stderr
    assert "exists" in run_train("submit", predictions, "-o", tmp_path / "s.csv").stderr


@pytest.mark.slow
def test_records_that_a_build_set_aside_are_named_through_all_stores_made_from_it(raw: Path, tmp_path: Path) -> None:
    lost = f"3{2**63}"
    band = raw / "train" / lost / "band_11.npy"
    content = band.read_bytes()
    band.write_bytes(b"")
    predictions_of(raw, tmp_path)
    assert run_data("merge", tmp_path / "built.zarr", "-o", tmp_path / "merged.zarr").returncode == 0
    for store in ("p", "merged"):
        lines = set_aside_lines(place_of(tmp_path / f"{store}.zarr"))
        assert [line.partition("/")[0] for line in lines] == [lost]
    done = run_train("submit", tmp_path / "p.zarr", "-o", tmp_path / "s.csv")
    assert done.returncode == 3
    assert f"set aside: no row: {lost}/band_11.npy" in done.stderr
    assert len(rows_of(tmp_path / "s.csv")) == 4
    band.write_bytes(content)
    assert run_data("append", tmp_path / "merged.zarr", raw, "-o", tmp_path / "all.zarr").returncode == 0
    assert not set_aside_lines(place_of(tmp_path / "all.zarr"))


@pytest.mark.slow
def test_a_sample_submission_decides_on_records_and_their_order(raw: Path, tmp_path: Path) -> None:
    predictions = predictions_of(raw, tmp_path)
    expected = expected_rows(predictions)
    ids = [*sorted(expected, reverse=True)[1:], "1234"]
    like = tmp_path / "sample_submission.csv"
    like.write_text("\ufeffrecord_id,encoded_pixels\r\n" + "".join(f"{i},1 1\r\n" for i in ids), encoding="utf-8")
    done = run_train("submit", predictions, "--like", like, "-o", tmp_path / "s.csv")
    assert done.returncode == 3
    assert "set aside: no prediction: 1234, an empty mask is written" in done.stderr
    assert f"1 predicted records are not in {like}, such as {max(expected)}" in done.stderr
    assert rows_of(tmp_path / "s.csv") == [(i, expected.get(i, "-")) for i in ids]
    like.write_text("record_id\n" + "".join(f"{i}\n" for i in sorted(expected)))
    assert run_train("submit", predictions, "--like", like, "-o", tmp_path / "all.csv").returncode == 0
    for text, reason in [
        ("id\n1\n", "has no column record_id"),
        ("record_id\n", "has no record_id in each row"),
        ("record_id,x\n,1\n", "has no record_id in each row"),
        ("record_id\n1\n1\n", "record 1 occurs twice"),
        ("record_id\n1\n2\n", "has none of the records"),
    ]:
        like.write_text(text)
        failed = run_train("submit", predictions, "--like", like, "-o", tmp_path / "no.csv")
        assert failed.returncode == 1
        assert reason in failed.stderr
    assert "not a file" in run_train("submit", predictions, "--like", raw, "-o", tmp_path / "no.csv").stderr
    assert not (tmp_path / "no.csv").exists()


@pytest.mark.parametrize(
    ("size", "offset", "reason"),
    [(128, 0, r"masks have 128 x 128 pixels, the competition's 256 x 256"), (256, 1, "other frames than the labelled")],
)
def test_masks_of_another_grid_or_frame_are_not_submitted(
    size: int, offset: int, reason: str, raw: Path, tmp_path: Path
) -> None:
    failed = run_train("submit", predictions_of(raw, tmp_path, size=size, offset=offset), "-o", tmp_path / "s.csv")
    assert failed.returncode == 1
    assert reason in failed.stderr
    assert not (tmp_path / "s.csv").exists()


@pytest.mark.slow
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
