"""MISSING DOCSTRING."""

from __future__ import annotations

import torch

from contrail_data.errors import ContrailError


def choose_device(asked: str) -> torch.device:
    """`auto`: cuda where there is one, else cpu. Raises ContrailError for a device that is not there."""
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(asked)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("use cpu or cuda")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ContrailError(
            f"device {asked!r}: not usable here ({str(error).splitlines()[0][:80]}): try auto"
        ) from None
    return device
