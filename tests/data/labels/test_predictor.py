"""The selection of frames on a command line."""

from __future__ import annotations

import pytest

from contrail_data.errors import ContrailError
from contrail_data.labels.predictor import ALL_FRAMES, LABELLED_FRAME, FrameSelection


def test_frames_are_selected_by_name_or_offset() -> None:
    assert FrameSelection.parse("all") == ALL_FRAMES
    assert FrameSelection.parse("labelled") == FrameSelection.parse("0") == LABELLED_FRAME
    assert FrameSelection.parse("1, -1,1").offsets == (-1, 1)
    for text in ("128", "-999999999999999999999", "some", "", "1.5"):
        with pytest.raises(ContrailError, match="--frames"):
            FrameSelection.parse(text)
