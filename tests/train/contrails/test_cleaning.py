"""Cleaning a mask."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from contrail_data.errors import ContrailError
from contrail_train.contrails.cleaning import Cleaning, clean, elongations

MAPS = arrays(np.float32, (3, 12, 14), elements=st.floats(0, 1, width=16))
VALID = arrays(np.bool_, (3, 12, 14))

CLEANINGS = st.builds(
    Cleaning,
    threshold=st.floats(0.4, 0.8),
    low=st.none() | st.floats(0, 0.4),
    fill=st.none() | st.floats(0, 0.4),
    min_pixels=st.integers(1, 6),
    elongation=st.none() | st.floats(1, 4),
    reach=st.integers(0, 3),
)


@given(
    p=MAPS, valid=VALID, low=st.floats(0, 0.5), size=st.integers(1, 6), long=st.floats(1, 4), reach=st.integers(0, 3)
)
def test_each_switch_adds_or_removes_only_its_own_pixels(p, valid, low, size, long, reach) -> None:
    plain = clean(p, valid, Cleaning(0.5))
    np.testing.assert_array_equal(plain, (p >= 0.5) & valid)
    grown = clean(p, valid, Cleaning(0.5, low=low))
    assert (grown >= plain).all()
    assert not (grown & ~((p >= low) & valid)).any()
    filled, consistent = (clean(p, valid, Cleaning(0.5, fill=f, reach=reach)) for f in (low, None))
    assert (filled >= consistent).all()
    assert not (filled & ~plain & (p < low)).any()
    for less in (Cleaning(0.5, min_pixels=size), Cleaning(0.5, elongation=long), Cleaning(0.5, reach=reach)):
        cleaned = clean(p, valid, less)
        assert (cleaned <= plain).all()
        # a second cleaning changes nothing
        np.testing.assert_array_equal(clean(cleaned.astype(np.float32), valid, less), cleaned)


@given(p=MAPS, valid=VALID, cleaning=CLEANINGS, more=st.integers(1, 6))
def test_combined_switches_stay_within_valid_pixels_and_ignore_the_direction_of_time(p, valid, cleaning, more) -> None:
    cleaned = clean(p, valid, cleaning)
    assert not (cleaned & ~valid).any()
    np.testing.assert_array_equal(clean(np.where(valid, p, np.float32(np.nan)), valid, cleaning), cleaned)
    assert not (clean(p, valid, replace(cleaning, min_pixels=cleaning.min_pixels + more)) & ~cleaned).any()
    np.testing.assert_array_equal(clean(p[::-1], valid[::-1], cleaning), cleaned[::-1])  # time has no direction


def test_switches_keep_and_remove_the_expected_regions() -> None:
    p = np.zeros((3, 30, 30), np.float32)
    p[:, 5, 2:22] = 0.9  # a line, in all times
    p[1, 20:24, 20:24] = 0.9  # a blob, in one time
    p[1, 27, 3] = 0.9
    p[1, 5, 22:26] = 0.4  # where the line fades
    everywhere = np.ones(p.shape, bool)

    def pixels(**switches) -> int:
        return int(clean(p, everywhere, Cleaning(0.5, **switches))[1].sum())

    assert pixels() == 20 + 16 + 1
    assert pixels(low=0.3) == 24 + 16 + 1
    assert pixels(min_pixels=2) == 20 + 16
    assert pixels(min_pixels=17) == 20
    assert pixels(elongation=3) == 20
    assert pixels(elongation=19.9) == 20
    assert pixels(elongation=20.1) == 0
    assert pixels(reach=2) == 20


def test_regions_that_touch_by_a_corner_are_one() -> None:
    p = np.eye(9, dtype=np.float32)[np.newaxis]
    assert clean(p, np.ones(p.shape, bool), Cleaning(0.5, min_pixels=9)).sum() == 9
    assert clean(p, np.ones(p.shape, bool), Cleaning(0.5, min_pixels=10)).sum() == 0


@pytest.mark.parametrize("reach", [0, 1, 4])
def test_reach_is_exact_and_a_region_is_kept_whole(reach: int) -> None:
    p = np.zeros((2, 20, 20), np.float32)
    p[0, 3, 2:9] = p[1, 3 + reach, 8 + reach] = 1
    everywhere = np.ones(p.shape, bool)
    np.testing.assert_array_equal(clean(p, everywhere, Cleaning(0.5, reach=reach)), p > 0.5)
    if reach:
        assert not clean(p, everywhere, Cleaning(0.5, reach=reach - 1)).any()
    assert clean(p[:1], everywhere[:1], Cleaning(0.5, reach=reach)).sum() == 7  # a single time is not compared


def test_a_time_without_data_says_nothing_about_its_neighbours() -> None:
    p = np.zeros((3, 9, 9), np.float32)
    p[1, 4] = 1
    valid = np.ones(p.shape, bool)
    assert not clean(p, valid, Cleaning(0.5, reach=2)).any()
    valid[0] = False
    assert not clean(p, valid, Cleaning(0.5, reach=2)).any()
    valid[2] = False
    np.testing.assert_array_equal(clean(p, valid, Cleaning(0.5, reach=2)), p > 0.5)


def test_a_gap_in_time_is_filled_where_the_probability_allows() -> None:
    p = np.zeros((3, 12, 12), np.float32)
    p[0, 5, 2:8], p[2, 5, 4:10] = 0.9, 0.9
    p[1, 4:7] = 0.4
    p[1, 5, 6] = 0.2
    valid = np.ones(p.shape, bool)
    valid[1, 5, 5] = False
    filled = clean(p, valid, Cleaning(0.5, fill=0.3, reach=1))[1]
    expected = np.zeros((12, 12), bool)
    expected[4:7, 3:9] = True  # within one of columns 2 to 7 and of 4 to 9
    expected[5, 5:7] = False
    np.testing.assert_array_equal(filled, expected)
    assert not clean(p, valid, Cleaning(0.5, reach=1))[1].any()
    p[2] = 0
    # pixels that are only in the earlier time do not make a gap
    assert not clean(p, valid, Cleaning(0.5, fill=0.3, reach=1)).any()


def test_elongation_of_a_rectangle_is_its_sides_ratio() -> None:
    labels = np.zeros((60, 60), np.int32)
    labels[2:5, 3:45], labels[10:50, 50:55], labels[20, 20] = 1, 2, 3
    np.testing.assert_allclose(elongations(labels, 3), [42 / 3, 40 / 5, 1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"low": 0.6}, "--hysteresis: 0.6 is above the threshold 0.5; lower it"),
        ({"fill": 0.6, "reach": 1}, "above the threshold"),
        ({"fill": 0.4}, "without --consistent"),
        ({"reach": -1}, "0 or more"),
        ({"elongation": 0.5}, "give 1 or more"),
    ],
)
def test_settings_that_contradict_are_refused(settings: dict[str, float], message: str) -> None:
    p = np.zeros((1, 4, 4), np.float32)
    with pytest.raises(ContrailError, match=message):
        clean(p, np.ones(p.shape, bool), Cleaning(0.5, **settings))


def test_validity_of_another_shape_is_refused() -> None:
    with pytest.raises(ContrailError, match="one grid"):
        clean(np.zeros((2, 4, 4), np.float32), np.ones((1, 4, 4), bool), Cleaning(0.5))
    assert clean(np.zeros((0, 4, 4), np.float32), np.ones((0, 4, 4), bool), Cleaning(0.5, reach=1)).shape == (0, 4, 4)
