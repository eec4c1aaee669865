"""Half precision: the type in which a network computes in training, and the scale of the loss that fp16 needs."""

import torch

from contrail_data.errors import ContrailError

_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_NAMES = {torch.float32: "float32", torch.bfloat16: "bf16 autocast", torch.float16: "fp16 autocast"}
_LEAST_SCALE = 2.0**-10


def choose_type(precision: str, device: torch.device) -> torch.dtype:
    """Choose the type in which a network computes in training.

    torch says that bf16 is supported where it is only emulated, as on a T4, so the compute capability decides.

    Args:
        precision: The setting `precision`.
        device: Where the network computes.

    Returns:
        float32, bfloat16 or float16.
    """
    if precision != "auto":
        return _TYPES[precision]
    if device.type != "cuda":
        return torch.float32
    major, _ = torch.cuda.get_device_capability(device)
    return torch.bfloat16 if major >= 8 else torch.float16 if major == 7 else torch.float32


def describe_type(dtype: torch.dtype, device: torch.device) -> str:
    """Describe the type in which a network computes.

    Args:
        dtype: What `choose_type` returned.
        device: Where the network computes.

    Returns:
        Such as "bf16 autocast", and what is wrong with it on this device.
    """
    emulates = device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0)
    slow = " (emulated by this GPU, and slow; precision=auto takes fp16)" if emulates else ""
    return _NAMES[dtype] + (slow if dtype == torch.bfloat16 else "")


def make_scaler(dtype: torch.dtype, device: torch.device) -> torch.amp.GradScaler:
    """Make the scaler of the loss, without which small gradients would vanish in fp16.

    Args:
        dtype: Type in which the network computes.
        device: Where it computes.

    Returns:
        The scaler; with another type than float16 it changes nothing.
    """
    return torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)


def check_scale(scaler: torch.amp.GradScaler, step: int) -> float | None:
    """Return the scale of the loss, which halves with each step whose gradient overflows.

    Args:
        scaler: The scaler.
        step: Steps taken so far.

    Returns:
        The scale; None without fp16.

    Raises:
        ContrailError: If it is so low that gradients overflow whatever their scale.
    """
    if not scaler.is_enabled():
        return None
    if (scale := scaler.get_scale()) < _LEAST_SCALE:
        raise ContrailError(
            f"precision: the gradients up to step {step} overflow in fp16 at every scale; set precision=fp32, and "
            "train again with another --out"
        )
    return scale
