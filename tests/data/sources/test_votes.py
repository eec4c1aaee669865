"""Masks of annotators are combined."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from contrail_data.sources.votes import annotator_bits


@given(arrays(np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 8)), elements=st.integers(0, 1)))
def test_bit_r_is_set_where_annotator_r_marked_the_pixel(votes: np.ndarray) -> None:
    expected = (votes.astype(int) << np.arange(votes.shape[2])).sum(-1)
    np.testing.assert_array_equal(annotator_bits(votes), expected)
    others_first = np.moveaxis(np.moveaxis(votes, -1, 0).copy(), 0, -1)
    np.testing.assert_array_equal(annotator_bits(others_first), expected)
