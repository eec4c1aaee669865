"""The device of a run, and its processes if `torchrun` starts several: ranks, sums, synchronised batch norms."""

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from contrail_data.errors import ContrailError
from contrail_data.labels.predictor import check_device
from contrail_data.messages import Kind, print_message
from contrail_train.timm_alone import timm


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run."""

    rank: int = 0
    """Its number."""
    world: int = 1
    """How many there are."""

    @property
    def first(self) -> bool:
        """Whether this process writes files and messages on behalf of all."""
        return self.rank == 0

    def say(self, message: str, kind: Kind = Kind.INFO) -> None:
        """Print a message to standard error, once for all processes.

        Args:
            message: The line to print.
            kind: What it is.
        """
        if self.first:
            print_message(kind, message)


ALONE = Ranks()
"""A single process."""


def is_first() -> bool:
    """Say, before the processes have connected, whether this is the first one of the run.

    Returns:
        Whether it writes files and messages on behalf of all.
    """
    return os.environ.get("RANK", "0") == "0"


def choose_device(name: str) -> torch.device:
    """Return the device of a name, after checking that it can be used.

    Args:
        name: A torch device, such as `cpu` or `cuda:1`, or `auto`: CUDA if available, otherwise the CPU.

    Returns:
        The device.

    Raises:
        ContrailError: If the device is not usable on this machine.
    """
    if check_device(name) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0][:80]
        raise ContrailError(f"device {name!r}: not usable on this machine ({reason}); try auto") from None
    return device


def join(device: torch.device) -> tuple[Ranks, torch.device]:
    """Connect to the other processes of the run if `torchrun` has started several.

    Args:
        device: The chosen device. With GPUs, each process takes the one of its number on the machine.

    Returns:
        This process among all, and its device.

    Raises:
        ContrailError: If the processes cannot connect.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return ALONE, device
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        try:
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ContrailError(
                f"the {world} processes of this run cannot connect ({reason}); start them with torchrun"
            ) from None
    return Ranks(dist.get_rank(), world), device


def leave(ranks: Ranks) -> None:
    """Disconnect from the other processes.

    Args:
        ranks: This process among all.
    """
    if ranks.world > 1:
        dist.destroy_process_group()


def wait(ranks: Ranks) -> None:
    """Wait until all processes have come to this point.

    Args:
        ranks: This process among all.
    """
    if ranks.world > 1:
        dist.barrier()


def gather(value: Any, ranks: Ranks) -> list[Any]:
    """Collect a value from every process.

    Args:
        value: What this process contributes; it must be picklable.
        ranks: This process among all.

    Returns:
        The values of all processes, by rank.
    """
    if ranks.world == 1:
        return [value]
    values = [None] * ranks.world
    dist.all_gather_object(values, value)
    return values


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    backward = forward  # each process's input adds to the sums of all


def sum_over_processes(x: Tensor) -> Tensor:
    """Sum a tensor over all processes, differentiably.

    The gradient is summed over the processes too, so it is that of the sum of all processes' losses. Where each process
    has the loss of the global batch, DistributedDataParallel's mean of their gradients is the gradient of that loss.

    Args:
        x: Any shape, the same in all processes.

    Returns:
        The sum, of the same shape; `x` itself in a single process.
    """
    return _AllReduceSum.apply(x) if dist.is_initialized() else x


class SyncedBatchNorm(nn.BatchNorm2d):
    """A 2-D batch norm over the batches of all processes, on any device; torch's own needs a GPU.

    Args:
        norm: Its weights are copied, under the same names, and the activation that timm's norms include is kept.
    """

    momentum: float
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, norm: nn.BatchNorm2d | nn.BatchNorm3d) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum or 0.1)
        self.load_state_dict(norm.state_dict())
        self.after = nn.Sequential(*(m for n in ("drop", "act") if isinstance(m := getattr(norm, n, None), nn.Module)))

    def forward(self, x_bchw: Tensor) -> Tensor:
        """Normalise a batch.

        Args:
            x_bchw: (b, c, h, w), this process's share; or (b, c, t, h, w).

        Returns:
            The normalised batch, of the same shape.
        """
        if x_bchw.ndim == 5:
            return torch.as_tensor(self(x_bchw.flatten(2, 3)).unflatten(2, x_bchw.shape[2:4]))
        if not self.training:
            return self.after(super().forward(x_bchw))
        count = sum_over_processes(x_bchw.new_tensor([x_bchw.numel() / x_bchw.shape[1]]))
        mean_c = sum_over_processes(x_bchw.sum((0, 2, 3))) / count
        centred_bchw = x_bchw - mean_c[:, None, None]
        variance_c = sum_over_processes(centred_bchw.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean_c, self.momentum)
            self.running_var.lerp_(variance_c * count / (count - 1).clamp_min(1), self.momentum)
        scale_c = self.weight * torch.rsqrt(variance_c + self.eps)
        return self.after(centred_bchw * scale_c[:, None, None] + self.bias[:, None, None])


def sync_batch_norms(model: nn.Module, device: torch.device) -> None:
    """Replace every batch norm inside the model by one over all processes, its weights under the same names.

    Args:
        model: Changed in place.
        device: Where it will run.
    """
    if device.type == "cuda":
        timm.layers.convert_sync_batchnorm(model)
        return
    for name, child in model.named_children():
        if isinstance(child, nn.BatchNorm2d | nn.BatchNorm3d):
            setattr(model, name, SyncedBatchNorm(child))
        else:
            sync_batch_norms(child, device)
