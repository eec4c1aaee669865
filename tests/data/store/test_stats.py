"""Statistics per channel are correct, and the same however the work is split."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contrail_data.store.moments import moments
from contrail_data.store.stats import combined, merge


@settings(max_examples=30)
@given(
    st.sampled_from([np.uint8, np.float16, np.float32]),
    st.integers(1, 6),
    st.sampled_from([(1, 3, 5, 7), (2, 1, 4, 4)]),
    st.randoms(use_true_random=False),
)
def test_statistics_equal_those_of_numpy_and_do_not_depend_on_order(
    dtype, samples: int, shape: tuple[int, ...], random
) -> None:
    rng = np.random.default_rng(random.randrange(2**32))
    stored = rng.integers(0, 256, (samples, *shape)).astype(np.uint8)
    stored = stored if dtype is np.uint8 else (stored / 255).astype(dtype)
    unit = stored / 255 if dtype is np.uint8 else stored.astype(np.float64)
    names = [str(c) for c in range(shape[1])]
    rows = [moments(s) for s in stored]
    statistics = merge(rows, names)
    axes = (0, 1, 3, 4)
    np.testing.assert_allclose(statistics["mean"], unit.mean(axes), rtol=1e-12)
    np.testing.assert_allclose(statistics["std"], unit.std(axes), rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(statistics["minimum"], unit.min(axes))
    np.testing.assert_array_equal(statistics["maximum"], unit.max(axes))
    np.testing.assert_allclose(statistics["at_low"], (unit <= 0).mean(axes), rtol=1e-12)
    np.testing.assert_allclose(statistics["at_high"], (unit >= 1).mean(axes), rtol=1e-12)
    random.shuffle(rows)
    assert merge(rows, names) == statistics
    if samples > 1:
        parts = combined([merge(rows[:1], names), merge(rows[1:], names)])
        np.testing.assert_allclose(parts["std"], statistics["std"], rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(parts["mean"], statistics["mean"], rtol=1e-12)


def test_a_small_deviation_from_a_large_mean_is_not_rounded_away() -> None:
    base = np.full((1, 1, 64, 64), 0.75, np.float64)
    base[..., ::2] += 1e-9
    statistics = merge([moments(base), moments(base)], ["x"])
    assert statistics["std"][0] == pytest.approx(base.std(), rel=1e-7)
