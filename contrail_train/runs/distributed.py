"""Several processes on one run, started by `torchrun`: who is who, sums over all, batch norms over all."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn import functional

from contrail_data.errors import ContrailError


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0


ALONE = Ranks()


def join(device: torch.device) -> tuple[Ranks, torch.device]:
    """Meet the other processes where `torchrun` has started several; alone otherwise. With a GPU each, a process has
    that of its number on the machine. Raises ContrailError when they cannot be met.
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
            raise ContrailError(
                f"the {world} processes of this run cannot meet ({str(error).splitlines()[0]}): "
                "start them with torchrun"
            ) from None
    return Ranks(dist.get_rank(), world), device


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.clone()
        dist.all_reduce(grad)
        return grad


def total(x: Tensor) -> Tensor:
    """Sum of a tensor over all processes. Its gradient is summed over them as well: it is that of the sum of all
    processes' losses, so where each has the loss of the global batch, the mean of their gradients, which is what
    DistributedDataParallel makes, is the gradient of that loss.
    """
    result: Tensor = _Total.apply(x) if dist.is_initialized() else x
    return result


def gather(value: Any, ranks: Ranks) -> list[Any]:
    """The value of every process, by rank."""
    if ranks.world == 1:
        return [value]
    values = [None] * ranks.world
    dist.all_gather_object(values, value)
    return values


def leave(ranks: Ranks) -> None:
    if ranks.world > 1:
        dist.destroy_process_group()


def wait(ranks: Ranks) -> None:
    if ranks.world > 1:
        dist.barrier()


class SyncedBatchNorm(nn.Module):
    """A 2-D batch norm, timm's with an activation included, over the batches of all processes, on any device.

    Takes over the given norm's weights under their names. torch's own needs a GPU.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.weight, self.bias, self.eps, self.momentum = norm.weight, norm.bias, norm.eps, norm.momentum or 0.1
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(norm, name))
        self.after = nn.Sequential(*(m for n in ("drop", "act") if isinstance(m := getattr(norm, n, None), nn.Module)))

    def forward(self, x_bchw: Tensor) -> Tensor:
        if not self.training:
            moments = self.running_mean, self.running_var
            normalised = functional.batch_norm(x_bchw, *moments, self.weight, self.bias, eps=self.eps)
            return self.after(normalised)
        count = total(x_bchw.new_tensor([x_bchw.numel() / x_bchw.shape[1]]))
        mean_c = total(x_bchw.sum((0, 2, 3))) / count
        centred_bchw = x_bchw - mean_c[:, None, None]
        variance_c = total(centred_bchw.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean_c, self.momentum)
            self.running_var.lerp_(variance_c * count / (count - 1).clamp_min(1), self.momentum)
        scale_c = self.weight * torch.rsqrt(variance_c + self.eps)
        return self.after(centred_bchw * scale_c[:, None, None] + self.bias[:, None, None])


def sync_batch_norms(model: nn.Module, device: torch.device) -> None:
    """Make every batch norm inside the model one over all processes, its weights under the same names."""
    if device.type == "cuda":
        convert_sync_batchnorm(model)
        return
    for name, child in model.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(model, name, SyncedBatchNorm(child))
        else:
            sync_batch_norms(child, device)
