"""The method of optical flow that a setting or an option names."""

from contrail_data.labels.flow import DIS, FlowMethod
from contrail_data.labels.predictor import FlowKind
from contrail_train.runs.distributed import choose_device


def flow_method(kind: FlowKind, weights: str | None = None, device: str = "cpu") -> FlowMethod:
    """Choose a method of optical flow.

    Args:
        kind: Which one.
        weights: File or URL of the weights of RAFT; None for torchvision's own.
        device: Where RAFT runs, a name as in `choose_device`; DIS runs on the CPU.

    Returns:
        The method.

    Raises:
        ContrailError: If the device or the weights cannot be used.
    """
    if kind is FlowKind.DIS:
        return DIS
    from contrail_train.models.raft import raft_method

    return raft_method(weights, choose_device(device))
