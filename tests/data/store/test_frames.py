"""Compiled loops give what numpy gives, to the bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from contrail_data.composites import COMPOSITES, evaluate, quantise
from contrail_data.store.frames import stored_frames, sum_levels


@settings(max_examples=60)
@given(
    st.sampled_from(["ash", "ash_cira", "bands_diffs", "ash_wide"]),
    st.sampled_from([np.uint8, np.float16, np.float32]),
    arrays(
        np.float32,
        st.tuples(st.integers(1, 40), st.integers(1, 9), st.sampled_from([1, 3, 8, 9])),  # 8 is a case of its own
        elements=st.floats(180, 330, width=32),
    ),
    st.integers(0, 2**32 - 1),
)
def test_frames_are_the_composite_quantised(name: str, dtype: type, kelvin_yxt: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    noise = {b: rng.normal(0, 3, kelvin_yxt.shape).astype(np.float32) for b in COMPOSITES[name].bands}
    bands = {b: kelvin_yxt + difference for b, difference in noise.items()}
    expected = np.empty((kelvin_yxt.shape[2], len(COMPOSITES[name].channels), *kelvin_yxt.shape[:2]), dtype)
    quantise(np.moveaxis(evaluate(COMPOSITES[name], bands), -1, 0), expected)
    np.testing.assert_array_equal(stored_frames(COMPOSITES[name], bands, dtype), expected)


def test_levels_halfway_between_two_become_even_as_in_numpy() -> None:
    ash = COMPOSITES["ash"]
    kelvin = (243 + 60 * (np.arange(255) + 0.5) / 255).astype(np.float32)  # blue is (band 14 - 243) / 60
    kelvin = np.concatenate([np.nextafter(kelvin, np.float32(0)), kelvin, np.nextafter(kelvin, np.float32(999))])
    bands = {b: kelvin.reshape(-1, 3, 1) for b in ash.bands}
    expected = np.empty((1, 3, *bands[14].shape[:2]), np.uint8)
    quantise(np.moveaxis(evaluate(ash, bands), -1, 0), expected)
    np.testing.assert_array_equal(stored_frames(ash, bands, np.uint8), expected)


def test_bands_of_any_memory_layout_give_the_same_frames() -> None:
    ash = COMPOSITES["ash"]
    bands = {b: np.random.default_rng(b).normal(275, 9, (5, 7, 3)).astype(np.float32) for b in ash.bands}
    transposed = {b: np.asfortranarray(band) for b, band in bands.items()}
    np.testing.assert_array_equal(stored_frames(ash, transposed, np.uint8), stored_frames(ash, bands, np.uint8))


def test_a_missing_pixel_changes_no_other_one() -> None:
    ash = COMPOSITES["ash"]
    bands = {b: np.full((4, 4, 2), 280, np.float32) for b in ash.bands}
    whole = stored_frames(ash, bands, np.uint8)
    bands[14][1, 2, 0] = np.nan
    is_present = np.ones((4, 4), bool)
    is_present[1, 2] = False
    frames = stored_frames(ash, bands, np.uint8)
    np.testing.assert_array_equal(frames[0][:, is_present], whole[0][:, is_present])
    np.testing.assert_array_equal(frames[1], whole[1])


@settings(max_examples=30)
@given(arrays(np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 20), st.integers(1, 20))))
def test_levels_are_summed_in_each_channel(image_tcyx: np.ndarray) -> None:
    levels = np.moveaxis(image_tcyx, 1, 0).reshape(image_tcyx.shape[1], -1).astype(np.int64)
    at_low, at_high = (levels == 0).sum(1), (levels == 255).sum(1)
    expected = np.stack([levels.sum(1), (levels**2).sum(1), levels.min(1), levels.max(1), at_low, at_high], 1)
    np.testing.assert_array_equal(sum_levels(image_tcyx), expected)
    every_other = np.repeat(image_tcyx, 2, axis=3)[..., ::2]
    np.testing.assert_array_equal(sum_levels(every_other), expected)


@pytest.mark.parametrize("level", [0, 1, 254, 255])
def test_sums_of_one_level_are_exact_in_images_of_any_size(level: int) -> None:
    for pixels in (127, 128, 255, 8192, 70_001):
        (sums,) = sum_levels(np.full((1, 1, 1, pixels), level, np.uint8))
        expected = [level * pixels, level**2 * pixels, level, level, pixels * (level == 0), pixels * (level == 255)]
        assert sums.tolist() == expected


@pytest.mark.slow
def test_frames_are_computed_where_no_folder_for_machine_code_can_be_written(tmp_path: Path) -> None:
    code = (
        "import numba.core.caching as caching; caching.CacheImpl._locator_classes = [];"
        "import numpy as np; from contrail_data.store.frames import sum_levels;"
        "print(int(sum_levels(np.ones((1, 1, 2, 2), np.uint8))[0, 0]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "4\n", done.stderr
