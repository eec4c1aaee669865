"""Which frames of a store a labeller predicts."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.errors import ContrailError
from contrail_data.labels.predictor import FrameSelection
from contrail_data.sample import predictable_frames, reference_frame


def frames_to_predict(
    scalars: xr.Dataset,
    parent: xr.Dataset,
    frames: FrameSelection,
    offsets: Sequence[int],
    repeats_edges: bool = False,
) -> npt.NDArray[np.int64]:
    """Return which frames of each sample are predicted.

    A sample without a labelled frame counts from its middle frame. A selection of all frames leaves out those without
    the neighbours at `offsets`.

    Args:
        scalars: Per-sample variables of the samples to predict.
        parent: Their store.
        frames: Frames that are selected.
        offsets: Input frames of the model relative to the predicted frame, ascending.
        repeats_edges: Whether the first and last frame of a sample stand for neighbours beyond its ends.

    Returns:
        Frame indices, int64 (sample, time), ascending along time.

    Raises:
        ContrailError: If the samples lack a selected frame, or one of its neighbours.
    """
    path, count = parent.attrs["path"], parent.sizes["time"]
    usable = np.array(predictable_frames(offsets, count, repeats_edges), np.int64)
    if frames.offsets is None:
        frames_nt = np.tile(usable, (scalars.sizes["sample"], 1))
    else:
        reference_n = reference_frame(scalars["labelled_frame"].values, count)
        frames_nt = reference_n[:, np.newaxis] + np.array(frames.offsets, np.int64)
        if (absent := ~np.isin(frames_nt, np.arange(count))).any():
            offset = frames.offsets[int(np.argmax(absent.any(0)))]
            raise ContrailError(
                f"{path}: samples of {count} frames have no frame at {offset:+d} from the labelled one; select others"
            )
    if not len(usable) or not np.isin(frames_nt, usable).all():
        raise ContrailError(
            f"{path}: some of the selected frames (of {count}) lack the neighbours {list(offsets)} that the model "
            "needs; select other frames, a store of records, or a 2D model"
        )
    return frames_nt
