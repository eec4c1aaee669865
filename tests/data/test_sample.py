"""Reference frames of samples."""

from __future__ import annotations

import numpy as np
import pytest

from contrail_data.sample import reference_frame


@pytest.mark.parametrize(("frames", "middle"), [(1, 0), (2, 1), (5, 2), (8, 4)])
def test_the_reference_frame_is_the_middle_one_if_no_frame_is_labelled(frames: int, middle: int) -> None:
    assert reference_frame(-1, frames) == middle
    assert reference_frame(0, frames) == 0


def test_reference_frames_of_a_store_keep_their_shape_and_do_not_overflow() -> None:
    labelled = np.array([[4, -1], [0, 127]], np.int8)
    assert reference_frame(labelled, 600).tolist() == [[4, 300], [0, 127]]
