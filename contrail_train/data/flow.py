"""Optical flow from the labelled frame of a window to its other frames: to warp them onto it, and as an input.

It is computed from frames as stored, before anything else, so that it is the same in training, scoring and prediction.
A pair of frames of 256 x 256 pixels takes a core about 40 ms by dense inverse search, so loader threads compute it
ahead of the step, and what fits into memory is kept for later epochs.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xxhash
from torch import Tensor
from torch.nn import functional

from contrail_data.labels.flow import FlowMethod


@dataclass(frozen=True)
class WindowFlow:
    """Computes the flow of windows, keeps it as long as there is room, and states what it is for."""

    method: FlowMethod
    labelled: int
    """Index of the labelled frame in a window."""
    warps: bool = True
    """Whether frames are warped by it."""
    is_input: bool = False
    """Whether the network sees it."""
    room: int = 0
    """Bytes of flow that are kept."""
    kept: dict[bytes, npt.NDArray[np.float16]] = field(default_factory=dict, repr=False)
    """Flow by the digest of a window."""

    def __call__(self, window_tcyx: npt.NDArray[Any]) -> npt.NDArray[np.float16]:
        """Compute the flow of a window.

        Args:
            window_tcyx: Frames as stored, (t, c, y, x).

        Returns:
            Flow in pixels (down, right), float16 (t, 2, y, x): what is at p in the labelled frame is at p + flow in
            frame t. 0 for the labelled frame itself.
        """
        window_tcyx = np.ascontiguousarray(window_tcyx)
        key = xxhash.xxh3_128_digest(window_tcyx.data)
        if (flow_tdyx := self.kept.get(key)) is not None:
            return flow_tdyx
        flow_tdyx = np.zeros((len(window_tcyx), 2, *window_tcyx.shape[2:]), np.float16)
        for t, frame_cyx in enumerate(window_tcyx):
            if t != self.labelled:
                flow_tdyx[t] = self.method.between(window_tcyx[self.labelled], frame_cyx)
        if (len(self.kept) + 1) * flow_tdyx.nbytes <= self.room:
            self.kept[key] = flow_tdyx
        return flow_tdyx

    def of_batch(self, window_btchw: Tensor) -> Tensor:
        """Compute the flow of several windows, in parallel.

        Args:
            window_btchw: Frames as stored, on any device.

        Returns:
            Their flow, float16 (b, t, 2, y, x), on the same device.
        """
        windows = window_btchw.cpu().numpy()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            flow_btdyx = np.stack(list(pool.map(self, windows)))
        return torch.from_numpy(flow_btdyx).to(window_btchw.device)


def warp_frames(x_btchw: Tensor, flow_btdhw: Tensor, labelled: int) -> Tensor:
    """Read each frame where the flow says that the pixels of the labelled frame are in it, bilinearly.

    Args:
        x_btchw: Frames, float32. Their borders are repeated where the flow leaves them.
        flow_btdhw: Flow from the labelled frame to each, pixels (down, right).
        labelled: Index of the labelled frame, which stays as it is.

    Returns:
        The frames, of the same shape.
    """
    height, width = x_btchw.shape[3:]
    others = [t for t in range(x_btchw.shape[1]) if t != labelled]
    flow_nhw2 = flow_btdhw[:, others].flatten(0, 1).permute(0, 2, 3, 1).float()
    y = torch.arange(height, device=x_btchw.device)[:, None] + flow_nhw2[..., 0]
    x = torch.arange(width, device=x_btchw.device) + flow_nhw2[..., 1]
    grid_nhw2 = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)  # grid_sample takes (x, y)
    frames_nchw = x_btchw[:, others].flatten(0, 1)
    warped = x_btchw.clone()
    warped[:, others] = functional.grid_sample(
        frames_nchw, grid_nhw2, mode="bilinear", padding_mode="border", align_corners=False
    ).unflatten(0, (-1, len(others)))
    return warped
