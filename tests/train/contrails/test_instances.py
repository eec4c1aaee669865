"""Single contrails of an image."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from scipy.spatial.distance import cdist

from contrail_data.errors import ContrailError
from contrail_train.contrails import instances
from contrail_train.contrails.instances import Instances, connected, orientation, separate, separate_mask
from contrail_train.contrails.linking import Linking
from contrail_train.contrails.polyline import densified
from contrail_train.contrails.separation import COVERED, not_covered
from contrail_train.contrails.skeleton import thin

SIDE = 120
EIGHT = np.ones((3, 3))
MASKS = arrays(np.bool_, st.tuples(st.integers(1, 24), st.integers(1, 24)))


def line(middle: tuple[float, float], degrees: float, length: float, width: float = 3.0) -> np.ndarray:
    """Draw a line; its direction as in `Instance.orientation`."""
    y, x = np.mgrid[:SIDE, :SIDE] - np.array(middle)[:, np.newaxis, np.newaxis]
    dy, dx = -np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    inside = (np.abs(y * dy + x * dx) <= length / 2) & (np.abs(y * dx - x * dy) <= width / 2)
    return inside.astype(np.float32)


def apart(a: float, b: float) -> float:
    """Return the degrees between two orientations."""
    return abs((a - b + 90) % 180 - 90)


def assert_are_lines(found: Instances, expected: list[tuple[float, float]]) -> None:
    """Compare orientation and length of each contrail."""
    assert len(found.instances) == len(expected)
    for degrees, length in expected:
        nearest = min(found.instances, key=lambda one: apart(one.orientation, degrees))
        assert apart(nearest.orientation, degrees) < 4
        assert nearest.length == pytest.approx(length, rel=0.1)


@pytest.mark.parametrize("degrees", [0, 10, 45, 73, 90, 120, 179])
def test_a_lone_line_is_one_contrail_with_its_direction_length_and_width(degrees: float) -> None:
    p = 0.7 * line((60, 60), degrees, 70)
    for found in (separate(p, threshold=0.5), connected(p >= 0.5, p)):
        assert_are_lines(found, [(degrees, 70)])
        (one,) = found.instances
        assert one.width == pytest.approx((p > 0).sum() / 70, rel=0.05)
        assert one.confidence == pytest.approx(0.7)
        assert one.pixels == (found.labels_yx == 1).sum() == (p > 0).sum()
        assert 0 <= one.orientation < 180


def test_an_orientation_is_below_180_also_where_it_is_rounded() -> None:
    assert orientation(np.array([[9.0, 0.0], [0.0, -1e-16]])) == 0


@pytest.mark.parametrize("angle", [12, 20, 45, 90])
@pytest.mark.parametrize("degrees", [0, 33, 140])
def test_crossing_lines_are_two_contrails_that_keep_their_length(degrees: float, angle: float) -> None:
    p = np.maximum(line((60, 60), degrees, 100), line((57, 61), degrees + angle, 90))
    assert_are_lines(separate(p, threshold=0.5), [(degrees, 100), (degrees + angle, 90)])


def test_three_lines_that_cross_pairwise_are_three_contrails() -> None:
    lines = [((60, 60), 90, 100), ((60, 45), 20, 90), ((60, 75), 160, 90)]
    p = np.maximum.reduce([line(*one) for one in lines])
    assert_are_lines(separate(p, threshold=0.5), [(90, 100), (20, 90), (160, 90)])


def test_a_line_that_ends_at_another_is_a_contrail_of_its_own() -> None:
    p = np.maximum(line((60, 60), 90, 100), line((81, 60), 0, 40))
    assert_are_lines(separate(p, threshold=0.5), [(90, 100), (0, 40)])


def test_lines_whose_ends_meet_at_an_angle_are_two_contrails() -> None:
    p = np.maximum(line((60, 35), 90, 50), line((60 - 17.7, 60 + 17.7), 45, 50))
    assert_are_lines(separate(p, threshold=0.5), [(90, 50), (45, 50)])


@pytest.mark.parametrize("degrees", [90, 30])
def test_lines_side_by_side_are_parted_where_the_probability_is_lower_between_them(degrees: float) -> None:
    dy, dx = 2.5 * np.sin(np.radians(degrees)), 2.5 * np.cos(np.radians(degrees))
    both = np.maximum(line((60 - dy, 60 - dx), degrees, 80), line((60 + dy, 60 + dx), degrees, 80))
    p = ndimage.gaussian_filter(np.maximum(0.95 * both, 0.55 * line((60, 60), degrees, 80, 6)), 0.5)
    assert ndimage.label(p >= 0.5, EIGHT)[1] == 1
    found = separate(p, threshold=0.5)
    assert_are_lines(found, [(degrees, 80), (degrees, 80)])
    assert found.instances[0].pixels == pytest.approx(found.instances[1].pixels, rel=0.15)


def test_a_broken_line_is_one_contrail_up_to_the_largest_gap() -> None:
    p = np.maximum.reduce([line((60, x), 90, 26) for x in (20, 56, 92)])  # gaps of about 10 pixels
    assert_are_lines(separate(p, threshold=0.5), [(90, 98)])
    assert len(separate(p, threshold=0.5, linking=Linking(gap=5)).instances) == 3
    dotted = p.copy()
    dotted[59:61, 37:39] = 1  # too small for a direction of its own
    assert_are_lines(separate(dotted, threshold=0.5), [(90, 98)])


def test_a_dot_beside_a_gap_belongs_to_the_line_but_does_not_move_it() -> None:
    mask = np.zeros((30, 60), bool)
    mask[10, 5:25] = mask[10, 31:51] = True
    mask[8, 27:29] = True
    (one,) = separate_mask(mask, mask.astype(np.float32)).instances
    assert one.pixels == 42
    np.testing.assert_allclose(one.line[:, 0], 10)
    assert sorted(one.line[[0, -1], 1]) == pytest.approx([4.5, 50.5])


def test_lines_that_do_not_continue_each_other_stay_apart() -> None:
    aside = np.maximum(line((57, 35), 90, 40), line((64, 85), 90, 40))
    turned = np.maximum(line((60, 35), 90, 40), line((49, 82), 50, 40))
    alone = np.maximum(line((60, 30), 90, 40), line((60, 90), 90, 40))  # 20 pixels apart
    for p in (aside, turned, alone):
        assert len(separate(p, threshold=0.5).instances) == 2


def test_a_rough_edge_does_not_split_a_contrail() -> None:
    rng = np.random.default_rng(0)
    for degrees in (90, 25):
        p = line((60, 60), degrees, 90, 6)
        rim = ndimage.binary_dilation(p > 0) & (p == 0)
        p[rim & (rng.random(p.shape) < 0.3)] = 1
        assert_are_lines(separate(p, threshold=0.5), [(degrees, 92)])


@settings(max_examples=50)
@given(mask=MASKS, seed=st.integers(0, 3))
def test_every_pixel_of_any_mask_belongs_to_one_contrail(mask: np.ndarray, seed: int) -> None:
    p = np.random.default_rng(seed).random(mask.shape).astype(np.float32)
    for found in (separate_mask(mask, p), connected(mask, p)):
        np.testing.assert_array_equal(found.labels_yx > 0, mask)
        assert found.labels_yx.dtype == np.int32
        assert [one.number for one in found.instances] == list(range(1, found.labels_yx.max(initial=0) + 1))
        for one in found.instances:
            inside = found.labels_yx == one.number
            assert one.pixels == inside.sum()
            assert one.confidence == pytest.approx(p[inside].mean(dtype=np.float64))
            assert one.line.shape[1] == 2
            assert one.length > 0
            assert 0 <= one.orientation < 180


@settings(max_examples=50)
@given(mask=MASKS)
def test_thinning_keeps_what_is_connected(mask: np.ndarray) -> None:
    mask = np.pad(mask, 1)
    thinned = thin(mask)
    assert not (thinned & ~mask).any()
    labels, count = ndimage.label(mask, EIGHT)
    assert ndimage.label(thinned, EIGHT)[1] == count == len(np.unique(labels[thinned]))
    holes, kept_holes = (ndimage.label(~one)[1] for one in (mask, thinned))
    assert holes == kept_holes
    np.testing.assert_array_equal(thin(thinned), thinned)


def test_places_without_data_belong_to_no_contrail() -> None:
    p = line((60, 60), 90, 80)
    p[:, 58:62] = np.nan
    found = separate(p, threshold=0.5)
    assert_are_lines(found, [(90, 80)])
    assert not found.labels_yx[:, 58:62].any()
    assert found.instances[0].confidence == 1
    assert not separate(np.full((5, 7), np.nan, np.float32), threshold=0.5).instances


def test_maps_of_other_shapes_are_refused() -> None:
    with pytest.raises(ContrailError, match="cut all of them to one window"):
        connected(np.zeros((4, 5), bool), np.zeros((5, 4)))
    with pytest.raises(ContrailError, match=r"are not \(y, x\)"):
        separate(np.zeros((1, 4, 5)), threshold=0.5)


def test_real_labels_that_are_a_single_line_stay_whole(real_data: Path) -> None:
    split, single = 0, 0
    for path in sorted((real_data / "ash_frames").glob("pos_*.npy"))[:40:4]:
        label = np.load(path)[..., 3] > 0.5
        p = label.astype(np.float32)
        parts = separate(p, threshold=0.5).labels_yx
        regions = connected(label, p)
        for one in regions.instances:
            inside = regions.labels_yx == one.number
            points = np.argwhere(inside)
            if one.pixels < 20 or one.length < 5 * one.width:
                continue
            across = np.linalg.svd(points - points.mean(0), full_matrices=False)[2][1] @ (points - points.mean(0)).T
            if np.abs(across).max() < 0.75 * one.width + 1:
                single += 1
                split += len(np.unique(parts[inside])) > 1
    assert single > 20
    assert split == 0


@given(
    arrays(np.int8, st.tuples(st.integers(1, 12), st.just(2), st.just(2)), elements=st.integers(0, 30)), st.floats(1, 8)
)
@settings(max_examples=60)
def test_lines_are_kept_whose_points_are_not_near_those_of_the_lines_kept_before(
    ends: np.ndarray, reach: float
) -> None:
    drawn = [densified(line.astype(float)) for line in ends]
    kept = [0]
    for number in range(1, len(drawn)):
        before = np.concatenate([drawn[other] for other in kept])
        if (cdist(drawn[number], before).min(1) <= reach).mean() < COVERED:
            kept.append(number)
    assert not_covered(drawn, reach) == kept


def test_of_threads_that_separate_masks_two_work_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    working, most, changing, second = 0, 0, threading.Lock(), threading.Event()

    def separate_lines(*arguments: Any) -> Any:
        nonlocal working, most
        with changing:
            working += 1
            most = max(most, working)
            if working == 2:
                second.set()
        assert second.wait(timeout=60)
        time.sleep(0.02)  # for a third one to begin
        with changing:
            working -= 1
        return original(*arguments)

    original = instances.separate_lines
    monkeypatch.setattr(instances, "separate_lines", separate_lines)
    probability = line((60, 60), 30, 40)
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: separate(probability, threshold=0.5), range(6)))
    assert most == 2
    assert all(len(one.instances) == 1 for one in found)
