"""Labels carried by optical flow: known motion, the derived store, comparison with other labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from contrail_data.cli.main import main
from contrail_data.errors import ContrailError
from contrail_data.labels.agreement import compare_label_stores
from contrail_data.labels.flow import carry_back, flow_between, label_by_flow, propagate
from contrail_data.store.reader import open_store
from contrail_train.config.data import DataConfig
from contrail_train.data.training_data import open_training_data
from helpers.cli import run_command
from helpers.labels import labels_of
from helpers.stores import build_small

SIDE = 96


def clouds(dy: float, dx: float) -> np.ndarray:
    """Return a smooth random field that has moved by (dy, dx) pixels, as uint8 (channel, y, x)."""
    field = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((SIDE + 40, SIDE + 40)), 3)
    field = (field - field.min()) / np.ptp(field)
    moved = ndimage.shift(field, (dy, dx), order=3, mode="nearest")[20:-20, 20:-20]
    return np.repeat(np.rint(255 * moved).astype(np.uint8)[np.newaxis], 3, 0)


@pytest.mark.slow
@settings(max_examples=15)
@given(st.floats(-6, 6), st.floats(-6, 6))
def test_flow_recovers_a_known_motion_and_carries_the_label_along(dy: float, dx: float) -> None:
    flow = flow_between(clouds(0, 0), clouds(dy, dx))
    inner = flow[:, 16:-16, 16:-16]
    np.testing.assert_allclose(np.median(inner, axis=(1, 2)), (dy, dx), atol=0.3)
    label = np.zeros((SIDE, SIDE), np.float32)
    label[44:50, 30:66] = 1
    carried, reliability = label_by_flow(clouds(dy, dx), clouds(0, 0), label)
    centre = np.add(ndimage.center_of_mass(label), (dy, dx))
    np.testing.assert_allclose(ndimage.center_of_mass(carried), centre, atol=0.5)
    assert reliability > 0.8
    for frame, marks in ((clouds(0, 0), label), (clouds(dy, dx), np.zeros_like(label))):
        carried, reliability = label_by_flow(frame, clouds(0, 0), marks)
        np.testing.assert_array_equal(carried, marks)
        assert reliability == 1


@settings(max_examples=10)
@given(st.floats(-4, 4), st.floats(-0.05, 0.05))
def test_flow_recovers_a_rotation_and_a_stretch_within_a_pixel(degrees: float, stretch: float) -> None:
    turn = np.deg2rad(degrees)
    matrix = (1 + stretch) * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    grid = np.indices((SIDE, SIDE)) - (SIDE - 1) / 2
    expected = np.tensordot(matrix, grid, 1) - grid
    before = clouds(0, 0)
    place = np.tensordot(np.linalg.inv(matrix), grid, 1) + (SIDE - 1) / 2
    after = np.stack([ndimage.map_coordinates(c.astype(float), place, order=3, mode="nearest") for c in before])
    flow = flow_between(before, np.rint(after.clip(0, 255)).astype(np.uint8))
    inner = np.hypot(*(flow - expected))[16:-16, 16:-16]
    assert np.quantile(inner, 0.95) < 1


def test_a_channel_without_structure_does_not_hide_motion() -> None:
    frames = [clouds(0, 0), clouds(2, -3)]
    for frame in frames:
        frame[0] = 255  # like the R channel of ash where it is clipped
    np.testing.assert_allclose(np.median(flow_between(*frames)[:, 16:-16, 16:-16], axis=(1, 2)), (2, -3), atol=0.3)


def test_pixels_carried_in_from_outside_are_not_contrails() -> None:
    flow = np.stack([np.full((SIDE, SIDE), 30.0), np.zeros((SIDE, SIDE))]).astype(np.float32)
    moved = carry_back(np.ones((SIDE, SIDE), np.float32), flow)
    assert moved[: SIDE - 30].min() == 1
    assert moved[SIDE - 29 :].max() == 0
    slope = np.indices((SIDE, SIDE))[1].astype(np.float32)
    half_pixel = np.stack([np.zeros_like(slope), np.full_like(slope, 0.5)])
    # Values between pixels are interpolated.
    np.testing.assert_array_equal(carry_back(slope, half_pixel)[:, :-1], slope[:, :-1] + 0.5)
    still = np.random.default_rng(0).random((SIDE, SIDE)).astype(np.float32)
    np.testing.assert_array_equal(carry_back(still, np.zeros((2, SIDE, SIDE), np.float32)), still)


@pytest.mark.slow
def test_carried_labels_are_pseudo_labels(raw: Path, tmp_path: Path) -> None:
    parent = build_small(raw, tmp_path / "s.zarr").place.path
    store = open_store(parent)
    done = run_command(main, "propagate", parent, "-o", tmp_path / "flow.zarr")
    assert done.returncode == 0, done.stderr
    assert propagate(store, tmp_path / "again.zarr").digest == open_store(tmp_path / "flow.zarr").attrs["digest"]
    carried = open_store(tmp_path / "flow.zarr")
    np.testing.assert_array_equal(carried["frame_mask"].values[:, 4], store["mask"].values)
    assert run_command(main, "verify", tmp_path / "flow.zarr").returncode == 0
    data = open_training_data(DataConfig(train=[str(parent), str(tmp_path / "flow.zarr")], holdout=0))
    assert data.pseudo_labelled == 9 * 7
    assert not data.labellers_saw

    labels_of(parent, tmp_path / "model.zarr")
    rows = compare_label_stores(carried, open_store(tmp_path / "model.zarr"))
    assert [row.offset for row in rows] == [-4, -3, -2, -1, 1, 2, 3]
    label = store["mask"].values.sum()
    assert rows[0].unmoved_dice == pytest.approx(2 * label / (label + 9 * 32 * 32))
    rows_of_itself = compare_label_stores(carried, carried)
    assert all(row.dice == pytest.approx(1) for row in rows_of_itself)
    done = run_command(main, "compare-labels", tmp_path / "flow.zarr", tmp_path / "model.zarr")
    assert "unmoved" in done.stdout
    with pytest.raises(ContrailError, match="give two stores of labels"):
        compare_label_stores(carried, store)
    with pytest.raises(ContrailError, match="give the store it was made from"):
        propagate(carried, tmp_path / "no.zarr")


@pytest.mark.slow
def test_only_human_labels_are_carried_and_only_to_requested_frames(raw: Path, tmp_path: Path) -> None:
    for record in sorted((raw / "train").iterdir())[:2]:
        (raw / "test").mkdir(exist_ok=True)
        (target := raw / "test" / record.name[::-1]).mkdir()
        for band in record.glob("band_*.npy"):
            (target / band.name).write_bytes(band.read_bytes())
    train = build_small(raw, tmp_path / "train.zarr").place.path
    test = build_small(raw, tmp_path / "test.zarr", "test").place.path
    with pytest.raises(ContrailError, match="no human labels to carry"):
        propagate(open_store(test), tmp_path / "no.zarr")
    both = tmp_path / "both.zarr"
    assert run_command(main, "merge", test, train, "-o", both).returncode == 0
    store = open_store(both)
    propagate(store, tmp_path / "all.zarr")
    done = run_command(main, "propagate", both, "-o", tmp_path / "near.zarr", "--frames", "-1,1")
    assert done.returncode == 0, done.stderr
    every, near = open_store(tmp_path / "all.zarr"), open_store(tmp_path / "near.zarr")
    human = store["record_id"].values[store["label_source"].values == "human"]
    assert len(human) == 9 < store.sizes["sample"]
    np.testing.assert_array_equal(near["record_id"].values, human)
    np.testing.assert_array_equal(near["frame"].values, [[3, 5]] * 9)
    for name in ("logit", "frame_mask", "frame_agreement"):
        np.testing.assert_array_equal(near[name].values, every[name].values[:, [3, 5]])
    for frames in ("labelled", "0"):
        done = run_command(main, "propagate", both, "-o", tmp_path / "no.zarr", "--frames", frames)
        assert done.returncode == 1
        assert "only the labelled frame" in done.stderr
    assert not (tmp_path / "no.zarr").exists()
