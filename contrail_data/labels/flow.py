"""Labels carried through time by the motion of the imagery: a second opinion beside a model's.

A human labelled one frame of a record. Dense optical flow from each other frame to that one tells where each of its
pixels was then, and the label is read there. A contrail that forms later is not in it, one that is gone still is.

The flow is that of the channels' mean, straight to the labelled frame, down to single pixels. On 16 synthetic records,
whose motion is known, Dice with the label truly moved was 0.92, 0.86, 0.83, 0.63 after 10, 20, 30, 40 minutes (flow of
the first channel: 0.86, 0.73, 0.63, 0.46; an unmoved label: 0.57, 0.25, 0.13, 0.09). On the 10 real records with 50
labelled pixels or more the carried label kept 0.99, 0.95, 0.92, 0.88 of the contrails' contrast to their surroundings
in R, with R's own flow by coarser steps 0.67, 0.50, 0.43, 0.28, unmoved 0.16 at most: how well a flow explains the
channel that it comes from tells little. Flows added up over 10-minute steps kept no more on the whole, Farneback's
less. scikit-image's TV-L1 followed 3 synthetic records better, the real ones worse, and takes 15 times as long.

Labels lie half a pixel off the imagery in every frame alike: reading the flow where the image lies made no difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.composites import dequantise
from contrail_data.errors import ContrailError
from contrail_data.labels.predictor import Decision, Frames, Predicted
from contrail_data.labels.write import write_labels
from contrail_data.store.reader import pixel_reader, read_scalars
from contrail_data.store.schema import kind

METHOD = "optical flow 2: cv2.DISOpticalFlow, medium, finest scale 0, mean of the channels"
"""Names what made the labels, as a model's digest does; another way to make them is another number."""
RETURNS = 1.0
"""Pixels: a flow that does not lead back nearer than this is not trusted."""


def flow_between(from_cyx: npt.NDArray[Any], to_cyx: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """(2, y, x) float32 (down, right) pixels: what is at p in the first frame is at p + flow in the second.

    Frames (c, y, x) as stored; what moves is the mean over their channels. Dense inverse search (Kroeger et al. 2016),
    as OpenCV has it.
    """
    import cv2

    cv2.setNumThreads(1)  # the same bytes, however many cores there are
    first, second = (np.rint(dequantise(frame).mean(0) * 255).astype(np.uint8) for frame in (from_cyx, to_cyx))
    search = cv2.DISOpticalFlow.create(cv2.DISOpticalFlow_PRESET_MEDIUM)
    search.setFinestScale(0)  # contrails are a few pixels wide
    flow_yxd = search.calc(first, second, None)  # type: ignore[call-overload]
    return np.ascontiguousarray(np.moveaxis(np.asarray(flow_yxd, np.float32)[..., ::-1], -1, 0))


def carried(field_yx: npt.NDArray[np.float32], flow_dyx: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(y, x): the field read at p + flow, bilinear; 0 outside of it."""
    from scipy.ndimage import map_coordinates

    grid = np.indices(field_yx.shape, np.float32)
    moved = map_coordinates(field_yx, grid + flow_dyx, order=1, mode="constant", cval=0.0)
    return np.asarray(moved, np.float32)


def label_by_flow(
    frames_tcyx: npt.NDArray[Any], labelled_cyx: npt.NDArray[Any], label_yx: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """((t, y, x) the labelled frame's label in every frame, (t) how sure): the share of the label's pixels from which
    the flow there and back ends within `RETURNS`; 1 without a label.
    """
    carried_tyx = np.zeros((len(frames_tcyx), *label_yx.shape), np.float32)
    sure_t = np.ones(len(frames_tcyx), np.float32)
    if not label_yx.any():
        return carried_tyx, sure_t
    grid = np.indices(label_yx.shape, np.float32)
    marked = label_yx >= 0.5
    for t, frame_cyx in enumerate(frames_tcyx):
        back_dyx = flow_between(frame_cyx, labelled_cyx)
        carried_tyx[t] = carried(label_yx, back_dyx)
        there_dyx = flow_between(labelled_cyx, frame_cyx)
        round_dyx = there_dyx + np.stack([carried(part, there_dyx) for part in back_dyx])
        lost_yx = np.hypot(*round_dyx) > RETURNS
        lost_yx |= ((grid + there_dyx < 0) | (grid + there_dyx > np.array(label_yx.shape)[:, None, None] - 1)).any(0)
        if marked.any():
            sure_t[t] = 1 - lost_yx[marked].mean()
    return carried_tyx, sure_t


def propagate(
    parent: xr.Dataset,
    out: str | Path,
    *,
    frames: Frames = "all",
    overwrite: bool = False,
    command: Sequence[str] = (),
) -> tuple[str, int, int]:
    """Write the human labels of a store's records, carried to other frames, as a store of pseudo-labels; returns
    digest, how many samples were done before, and how many there are.

    frames: all, or those at these offsets from the labelled one. Probability is the annotators' mean, carried; the
    labelled frame keeps its mask. Records without a human label are left out; `frame_agreement` is how sure the flow is
    of itself. Raises ContrailError for a store without labels, with single frames, for no frame but the labelled one,
    or where `write_labels` does.
    """
    if kind(parent) != "samples":
        raise ContrailError(f"{parent.attrs['path']}: holds {kind(parent)}, no images: name the store it came from")
    records = read_scalars(parent)
    labelled = records["labelled_frame"].values.astype(int)
    human = np.flatnonzero((records["label_source"].values == "human") & (labelled >= 0))
    if not len(human):
        raise ContrailError(f"{parent.attrs['path']}: no human labels to carry: choose a labelled store")
    if parent.sizes["time"] == 1:
        raise ContrailError(f"{parent.attrs['path']}: its samples are single frames: choose a store of records")
    if frames == "labelled" or (frames != "all" and set(frames) <= {0}):
        raise ContrailError("frames: only the labelled one, where the label is: ask for others, such as -1,1")
    voters = records["annotator_count"].values.astype(int)
    read_image, read_mask = pixel_reader(parent), pixel_reader(parent, "mask")
    read_votes = pixel_reader(parent, "annotators") if "annotators" in parent.variables else None

    def label_of(sample: int) -> npt.NDArray[np.float32]:
        held = np.empty((1, parent.sizes["y"], parent.sizes["x"]), np.uint8)
        if read_votes is not None and voters[sample]:
            read_votes(sample, [0], held)
            return (np.bitwise_count(held[0]) / voters[sample]).astype(np.float32)
        read_mask(sample, [0], held)
        return held[0].astype(np.float32)

    def tell(
        samples: Sequence[int], window_btchw: npt.NDArray[Any], valid_bhw: npt.NDArray[np.bool_] | None
    ) -> Predicted:
        told = []
        labelled_tcyx = np.empty((1, *window_btchw.shape[2:]), window_btchw.dtype)
        for sample, frames_tcyx in zip(samples, np.split(window_btchw[:, 0], len(samples)), strict=True):
            read_image(sample, [labelled[sample]], labelled_tcyx)
            told.append(label_by_flow(frames_tcyx, labelled_tcyx[0], label_of(sample)))
        probability, sure = (np.concatenate(part) for part in zip(*told, strict=True))
        return Predicted(probability, probability.max((1, 2)), sure)

    # a tie of annotators is no contrail, as in the masks: over a half, in units of 1/255
    decision = Decision(128 / 255, 0.0, 1, METHOD)
    digest, resumed = write_labels(
        parent,
        tell,
        decision,
        out,
        store_kind="pseudo-labels",
        frames=frames,
        samples=human,
        overwrite=overwrite,
        command=command,
    )
    return digest, resumed, len(human)
