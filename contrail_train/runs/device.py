"""The choice of a device."""

from __future__ import annotations

import torch

from contrail_data.errors import ContrailError


def choose_device(name: str) -> torch.device:
    """Return the device of a name, after checking that it can be used.

    Args:
        name: A torch device, such as `cpu` or `cuda:1`, or `auto`: CUDA if available, otherwise the CPU.

    Returns:
        The device.

    Raises:
        ContrailError: If the device is not usable on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
        reason = "" if device.type in ("cpu", "cuda") else "only cpu and cuda are supported"
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0][:80]
    if reason:
        raise ContrailError(f"device {name!r}: not usable on this machine ({reason}); try auto")
    return device
