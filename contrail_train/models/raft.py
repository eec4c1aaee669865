"""Optical flow by RAFT (Teed and Deng 2020) as torchvision has it, trained on ordinary videos.

It sees the mean of the channels, as the flow of `contrail_data.labels.flow` does.
"""

import hashlib
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.models.optical_flow import Raft_Small_Weights, raft_large, raft_small

from contrail_data.composites import dequantise
from contrail_data.errors import ContrailError
from contrail_data.labels.flow import FlowMethod
from contrail_train.models.raft_weights import FILE_REMEDY, check_weights, is_url

UPDATES = 12
SMALLEST_SIDE = 128  # pixels, for its pyramid of correlations
_STEM = "feature_encoder.convnormrelu.0.weight"


def raft_method(weights: str | None, device: torch.device) -> FlowMethod:
    """Load RAFT as a method of optical flow.

    Args:
        weights: As for `read_raft`.
        device: Where it runs.

    Returns:
        The method; its name states the network and the digest of the weights.

    Raises:
        ContrailError: If the weights cannot be read or are not those of RAFT.
    """
    state = read_raft(weights)
    is_small = _STEM in state and state[_STEM].shape[0] == 32
    network = (raft_small if is_small else raft_large)(weights=None)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ContrailError(
            f"{weights}: not weights of raft_small or raft_large ({str(error).splitlines()[-1].strip()[:120]}); give a "
            "file that torchvision offers"
        ) from error
    network.eval().requires_grad_(False).to(device)
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(name.encode() + tensor.numpy().tobytes())

    lock = threading.Lock()  # torchvision's module keeps the correlations of a pair in itself

    @torch.inference_mode()
    def _between(from_cyx: npt.NDArray[Any], to_cyx: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        height, width = from_cyx.shape[1:]
        pad_y, pad_x = (max(-side % 8, SMALLEST_SIDE - side) for side in (height, width))
        images = (torch.from_numpy(2 * dequantise(frame).mean(0) - 1).float() for frame in (from_cyx, to_cyx))
        padded = (
            functional.pad(yx.to(device).expand(1, 3, -1, -1), (0, pad_x, 0, pad_y), mode="replicate") for yx in images
        )
        with lock:
            flow_1dyx = network(*padded, num_flow_updates=UPDATES)[-1]
        down_right = flow_1dyx[0].flip(0)[:, :height, :width]  # torchvision's are (right, down)
        return np.ascontiguousarray(down_right.cpu().numpy())

    name = f"raft_{'small' if is_small else 'large'}"
    return FlowMethod(
        f"optical flow 5: torchvision {name}, {UPDATES} updates, mean of the channels, weights "
        f"sha256:{digest.hexdigest()}",
        _between,
    )


def read_raft(weights: str | None) -> dict[str, Tensor]:
    """Read weights of RAFT.

    Args:
        weights: A file or URL of the weights of torchvision's `raft_small` or `raft_large`. None for those of
            `raft_small`, from the torch hub or its local cache.

    Returns:
        Its tensors by name, on the CPU.

    Raises:
        ContrailError: If they cannot be read.
    """
    source = weights or Raft_Small_Weights.C_T_V2.url
    check_weights(weights)
    try:
        if is_url(source):
            state: Any = torch.hub.load_state_dict_from_url(
                source, map_location="cpu", progress=False, check_hash=True, weights_only=True
            )
        elif source.endswith(".safetensors"):
            state = safetensors.torch.load_file(source)
        else:
            state = torch.load(Path(source), map_location="cpu", weights_only=True)
    except Exception as error:  # OSError, URLError, UnpicklingError, RuntimeError, ...
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        remedy = (
            "download them elsewhere and give their path (--weights, data.flow.weights)"
            if is_url(source)
            else FILE_REMEDY
        )
        raise ContrailError(f"{source}: weights of RAFT cannot be read ({reason}); {remedy}") from error
    if not isinstance(state, dict):
        raise ContrailError(f"{source}: holds no weights of RAFT; {FILE_REMEDY}")
    return state
