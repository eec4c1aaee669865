"""Codes of probabilities, compared with logits of scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import expit, logit

from contrail_data.store import logits


def test_a_code_is_the_logit_rounded_down() -> None:
    rng = np.random.default_rng(0)
    p = expit(np.concatenate([rng.uniform(-35, 25, 20_000), rng.normal(0, 0.01, 1000)]))
    exact = np.clip(np.floor(logit(p) * logits.STEPS), -32768, 32766)
    off = logits.encode(p) - exact
    assert np.abs(off).max() <= 1  # where the edge, a float32, and rounding of the logit differ
    assert (off != 0).mean() < 1e-3
    codes = logits.encode(np.sort(p))
    assert (np.diff(codes.astype(int)) >= 0).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_code_is_that_of_the_last_edge_reached(dtype: type) -> None:
    bits = np.random.default_rng(0).integers(0, np.float32(1).view(np.uint32), 100_000, dtype=np.uint32)
    near_one = np.arange(np.float32(1).view(np.uint32) - 20_000, np.float32(1).view(np.uint32) + 1, dtype=np.uint32)
    p = np.concatenate([bits, near_one]).view(np.float32).astype(dtype)
    np.testing.assert_array_equal(logits.encode(p), np.searchsorted(logits.EDGES, p, side="right") - 1 + logits.LOWEST)


def test_every_float32_has_the_code_of_the_last_edge_that_it_reaches() -> None:
    half, one = (int(np.float32(p).view(np.uint32)) for p in (0.5, 1))
    ranges = np.arange(half >> 12, dtype=np.uint32)
    ends = (ranges[:, np.newaxis] << 12 | np.array([0, 0xFFF], np.uint32)).view(np.float32)
    above = np.arange(half, one + 1, dtype=np.uint32).view(np.float32)
    for p in (ends, above):
        expected = np.searchsorted(logits.EDGES, p, side="right") - 1 + logits.LOWEST
        np.testing.assert_array_equal(logits.encode(p), expected)
    # A range that is looked up together has at most two codes, so those between its ends are right as well.
    assert np.diff(logits.encode(ends).astype(int)).max() <= 1
    assert logits.encode(np.array(-0.0, np.float32)) == logits.LOWEST


def test_ends_are_exact_and_the_steps_between_are_those_of_the_documented_formula() -> None:
    ends = np.array([0, 1], np.float32)
    np.testing.assert_array_equal(logits.encode(ends), [-32768, 32767])
    np.testing.assert_array_equal(logits.decode(logits.encode(ends)), ends)
    assert logits.encode(np.array(0.5)) == 0
    codes = np.arange(-32767, 32767).astype(np.int16)
    np.testing.assert_allclose(logits.decode(codes), 1 / (1 + np.exp(-codes / logits.STEPS)), rtol=1.2e-7)
    resolved = codes[codes < 29 * logits.STEPS]
    np.testing.assert_array_equal(logits.encode(logits.decode(resolved)), resolved)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_threshold_selects_the_same_pixels_by_probability_and_by_code(dtype: type) -> None:
    rng = np.random.default_rng(0)
    for code in [-32768, -20_000, -11_357, -1, 0, 1, 6_000, 9_000, 32_767, *rng.integers(-15_000, 9_000, 200)]:
        threshold = logits.threshold_of(int(code))
        assert threshold == np.float32(threshold)  # comparisons in float32 and float64 agree
        near = np.float32(threshold)
        p = [
            near,
            *(np.nextafter(near, np.float32(end)) for end in (0, 1)),
            0,
            1,
            *rng.random(50),
            *expit(rng.normal(-12, 3, 50)),
        ]
        p = np.array(p, np.float32).astype(dtype)
        np.testing.assert_array_equal(p >= threshold, logits.encode(p) >= code)


@pytest.mark.parametrize("value", [math.nan, -0.01, 1.0000001, math.inf])
def test_values_that_are_not_probabilities_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="must lie in"):
        logits.encode(np.array([0.5, value, 0.5], np.float32))
