"""Carry human labels through time by the motion of the imagery: a second opinion on a model's pseudo-labels.

A human labelled one frame of a record. Dense optical flow from each other frame to the labelled one says where each
pixel was at that time, and the label is read there. The carried label misses contrails that form later and keeps
contrails that have gone.

The flow is computed on the mean of the channels, directly to the labelled frame, down to single pixels. The choice was
measured on 16 synthetic records with known motion: Dice with the truly moved label was 0.92, 0.86, 0.83, 0.63 after
10, 20, 30, 40 minutes (flow of the first channel: 0.86, 0.73, 0.63, 0.46; label not moved: 0.57, 0.25, 0.13, 0.09). On
the 10 real records with at least 50 labelled pixels the carried label kept 0.99, 0.95, 0.92, 0.88 of the contrails'
contrast to their surroundings in R; with the flow of R itself in coarser steps it kept 0.67, 0.50, 0.43, 0.28, and not
moved at most 0.16. (How well a flow explains the channel it was computed from says little.) Adding up flows over
10-minute steps kept no more overall, Farneback's method less. scikit-image's TV-L1 followed 3 synthetic records better
but the real ones worse, and takes 15 times as long.

Labels are shifted by half a pixel against the imagery in every frame alike; reading the flow at the shifted position
made no difference.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.composites import dequantise
from contrail_data.errors import ContrailError
from contrail_data.labels.predictor import ALL_FRAMES, Decision, FrameSelection, Labeller, Predicted
from contrail_data.labels.write import LabelledStore, write_labels
from contrail_data.store import logits
from contrail_data.store.reader import PixelReader, pixel_reader, read_scalars
from contrail_data.store.schema import Kind, require_samples

FlowBetween: TypeAlias = Callable[[npt.NDArray[Any], npt.NDArray[Any]], npt.NDArray[np.float32]]
"""Computes the flow between two frames as `flow_between` does. Several threads call it at once."""
RETURN_TOLERANCE = 1.0
"""Pixels. The flow at a pixel is trusted if the flow there and back ends within this distance of the pixel."""


def flow_between(from_cyx: npt.NDArray[Any], to_cyx: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Compute the dense optical flow between two frames, from the mean over their channels.

    Dense inverse search (Kroeger et al. 2016) as implemented in OpenCV.

    Args:
        from_cyx: First frame as stored, (c, y, x).
        to_cyx: Second frame as stored, (c, y, x).

    Returns:
        Flow in pixels (down, right), float32 (2, y, x): what is at p in the first frame is at p + flow in the second.
    """
    import cv2

    cv2.setNumThreads(1)  # the result does not depend on the number of cores
    first, second = (np.rint(dequantise(frame).mean(0) * 255).astype(np.uint8) for frame in (from_cyx, to_cyx))
    search = cv2.DISOpticalFlow.create(cv2.DISOpticalFlow_PRESET_MEDIUM)
    search.setFinestScale(0)  # contrails are a few pixels wide
    flow_yxd = search.calc(first, second, None)  # type: ignore[call-overload]
    return np.ascontiguousarray(np.moveaxis(np.asarray(flow_yxd, np.float32)[..., ::-1], -1, 0))


@dataclass(frozen=True)
class FlowMethod:
    """A method of optical flow."""

    name: str
    """Stands in the store for a model's digest. A change of the method gets a new number."""
    between: FlowBetween


DIS = FlowMethod("optical flow 3: cv2.DISOpticalFlow, medium, finest scale 0, mean of the channels", flow_between)


def carry_back(field_yx: npt.NDArray[np.float32], flow_dyx: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Read a field at p + flow for every pixel p, by bilinear interpolation.

    Args:
        field_yx: Field of the frame that the flow leads to, (y, x).
        flow_dyx: Flow in pixels (down, right), (2, y, x).

    Returns:
        The values, float32 (y, x); 0 where p + flow lies outside of the field.
    """
    from scipy.ndimage import map_coordinates

    grid = np.indices(field_yx.shape, np.float32)
    return np.asarray(map_coordinates(field_yx, grid + flow_dyx, order=1, mode="constant", cval=0.0), np.float32)


def label_by_flow(
    frame_cyx: npt.NDArray[Any],
    labelled_cyx: npt.NDArray[Any],
    label_yx: npt.NDArray[np.float32],
    between: FlowBetween = flow_between,
) -> tuple[npt.NDArray[np.float32], float]:
    """Carry the label of one frame to another frame.

    Args:
        frame_cyx: Frame to label, as stored, (c, y, x).
        labelled_cyx: The labelled frame, as stored, (c, y, x).
        label_yx: Its label, 0 to 1, float32 (y, x).
        between: Computes the flow.

    Returns:
        The carried label, float32 (y, x), and its reliability: the share of the label's pixels from which the flow
        there and back ends within `RETURN_TOLERANCE`; 1 if the label is empty.
    """
    if not label_yx.any() or np.array_equal(frame_cyx, labelled_cyx):
        return label_yx, 1.0
    back_dyx = between(frame_cyx, labelled_cyx)
    carried_yx = np.clip(carry_back(label_yx, back_dyx), 0, 1)  # weights may sum to 1 + 1e-7
    marked_yx = label_yx >= 0.5
    if not marked_yx.any():
        return carried_yx, 1.0
    forth_dyx = between(labelled_cyx, frame_cyx)
    round_trip_dyx = forth_dyx + np.stack([carry_back(part, forth_dyx) for part in back_dyx])
    target_dyx = np.indices(label_yx.shape, np.float32) + forth_dyx
    last_pixel = np.array(label_yx.shape)[:, None, None] - 1
    outside_yx = ((target_dyx < 0) | (target_dyx > last_pixel)).any(0)
    unreliable_yx = outside_yx | (np.hypot(*round_trip_dyx) > RETURN_TOLERANCE)
    return carried_yx, 1 - unreliable_yx[marked_yx].mean()


def propagate(
    parent: xr.Dataset,
    out: str | Path,
    *,
    frames: FrameSelection = ALL_FRAMES,
    method: FlowMethod = DIS,
    overwrite: bool = False,
) -> LabelledStore:
    """Write the human labels of a store's records, carried to other frames, as a store of pseudo-labels.

    The probability is the mean over the annotators, carried by the flow; the labelled frame keeps its mask. Records
    without a human label are left out. `frame_agreement` is the reliability of the flow (see `label_by_flow`).

    Args:
        parent: Store of samples.
        out: Path or URL of the store to write.
        frames: Frames to label.
        method: Computes the flow; the store states its name.
        overwrite: Replace the store, or the unfinished build, at `out`.

    Returns:
        The digest and the number of samples.

    Raises:
        ContrailError: If the store has no human labels or its samples are single frames, if only the labelled frame is
            selected, or for the reasons of `write_labels`.
    """
    path = parent.attrs["path"]
    require_samples(parent)
    records = read_scalars(parent)
    labelled = records["labelled_frame"].values.astype(int)
    human = np.flatnonzero((records["label_source"].values == "human") & (labelled >= 0))
    if not len(human):
        raise ContrailError(f"{path}: has no human labels to carry; choose a labelled store")
    if parent.sizes["time"] == 1:
        raise ContrailError(f"{path}: its samples are single frames; choose a store of records")
    if frames.offsets is not None and set(frames.offsets) <= {0}:
        raise ContrailError("--frames: selects only the labelled frame, which has its label; give others, such as -1,1")
    readers = {name: pixel_reader(parent, name) for name in ("image", "mask", "annotators") if name in parent.variables}
    predict = _Flow(parent, readers, labelled, records["annotator_count"].values.astype(int), method.between)
    # The mask of a frame is the majority of its annotators, a tie being no contrail: over a half by a code.
    decision = Decision(threshold=logits.threshold_of(1), gate=0.0, top_k=1, model=method.name)
    flow = Labeller(predict=predict, decision=decision)
    return write_labels(parent, flow, out, kind=Kind.PSEUDO_LABELS, frames=frames, samples=human, overwrite=overwrite)


@dataclass(frozen=True)
class _Flow:
    """Predicts frames of a store by carrying its labels: a `Predict`."""

    store: xr.Dataset
    readers: dict[str, PixelReader]
    labelled_frame: npt.NDArray[np.int64]
    annotator_count: npt.NDArray[np.int64]
    between: FlowBetween

    def __call__(
        self, samples: Sequence[int], window_btchw: npt.NDArray[Any], valid_bhw: npt.NDArray[np.bool_] | None
    ) -> Predicted:
        to_carry: list[tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.float32]]] = []
        for sample, frames_tcyx in zip(samples, np.split(window_btchw[:, 0], len(samples)), strict=True):
            labelled_1cyx = np.empty((1, *frames_tcyx.shape[1:]), frames_tcyx.dtype)
            self.readers["image"](sample, [int(self.labelled_frame[sample])], labelled_1cyx)
            label_yx = self.label(sample)
            to_carry += [(frame_cyx, labelled_1cyx[0], label_yx) for frame_cyx in frames_tcyx]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            carry = partial(label_by_flow, between=self.between)
            carried_b, reliability_b = zip(*pool.map(carry, *zip(*to_carry, strict=True)), strict=True)
        probability_byx = np.stack(carried_b)
        return Predicted(probability_byx, probability_byx.max((1, 2)), np.array(reliability_b, np.float32))

    def label(self, sample: int) -> npt.NDArray[np.float32]:
        # (y, x) share of the annotators that marked a pixel; the mask if there are no individual annotations
        plane = np.empty((1, self.store.sizes["y"], self.store.sizes["x"]), np.uint8)
        count = self.annotator_count[sample] if "annotators" in self.readers else 0
        self.readers["annotators" if count else "mask"](sample, [0], plane)
        return (np.bitwise_count(plane[0]) / max(count, 1)).astype(np.float32)
