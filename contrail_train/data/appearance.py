"""Augmentation that changes values, not places: light, blur, noise, holes, the order of frames, mixtures of samples.

Functions of a batch on any device and of what was drawn for it on the CPU, (b,) or (b, ...) tensors in which a
sample's neutral value leaves it bit for bit as it was. No function waits for the device, none changes its input.
Images are normalised: 0 is a channel's mean, 1 its standard deviation.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def to_device(drawn: Tensor, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """A CPU tensor on `device`; to a GPU through pinned memory, as a copy from elsewhere waits for all its work."""
    drawn = drawn.to(dtype)
    return drawn.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else drawn.to(device)


def reverse_time(x_btchw: Tensor, reversed_b: Tensor) -> Tensor:
    """Frames last to first in the samples where `reversed_b` (bool)."""
    if x_btchw.shape[1] == 1 or not reversed_b.any():
        return x_btchw
    where_b1111 = to_device(reversed_b, x_btchw.device, torch.bool)[:, None, None, None, None]
    return torch.where(where_b1111, x_btchw.flip(1), x_btchw)


def brightness_contrast(x_btchw: Tensor, gain_bc: Tensor, offset_bc: Tensor) -> Tensor:
    """Gain · x + offset for each sample and channel, all frames alike; neutral: 1 and 0."""
    if bool((gain_bc == 1).all()) and not offset_bc.any():
        return x_btchw
    gain, offset = (to_device(v, x_btchw.device, x_btchw.dtype)[:, None, :, None, None] for v in (gain_bc, offset_bc))
    return torch.addcmul(offset, gain, x_btchw)


def blur(x_btchw: Tensor, sigma_b: Tensor, largest: float) -> Tensor:
    """Gaussian blur of `sigma_b` pixels of the image, 0 for none, the border repeated.

    largest: bound of sigma; the kernel reaches 3 times as far whatever was drawn, so that a sample's result does not
    depend on the rest of its batch.
    """
    rows = sigma_b.nonzero()[:, 0]
    if not len(rows):
        return x_btchw
    reach = math.ceil(3 * largest)
    distance = torch.arange(-reach, reach + 1, dtype=torch.float64)
    kernel_bk = torch.exp(-0.5 * (distance / sigma_b[rows, None].double()) ** 2)
    kernel_bk = to_device(kernel_bk / kernel_bk.sum(1, keepdim=True), x_btchw.device, x_btchw.dtype)
    rows = to_device(rows, x_btchw.device, torch.int64)
    drawn = x_btchw[rows]
    kernel_nk = kernel_bk.repeat_interleave(drawn.shape[1] * drawn.shape[2], dim=0)  # n = b t c, each its own group
    moved = drawn.flatten(0, 2)[None]
    moved = functional.pad(moved, (reach,) * 4, mode="replicate")
    moved = functional.conv2d(moved, kernel_nk[:, None, :, None], groups=len(kernel_nk))
    moved = functional.conv2d(moved, kernel_nk[:, None, None, :], groups=len(kernel_nk))
    return x_btchw.index_copy(0, rows, moved.reshape(drawn.shape))


def add_noise(x_btchw: Tensor, std_b: Tensor, seed_b: Tensor) -> Tensor:
    """Gaussian noise of `std_b`, 0 for none, independent in every element; a function of each sample's seed (int64).

    Devices of different kinds make different noise of one seed.
    """
    stds, seeds = std_b.tolist(), seed_b.tolist()
    if not any(stds):
        return x_btchw
    x_btchw, generator = x_btchw.clone(), torch.Generator(x_btchw.device)
    for x_tchw, std, seed in zip(x_btchw, stds, seeds, strict=True):
        if std:
            generator.manual_seed(seed)
            noise = torch.randn(x_tchw.shape, generator=generator, device=x_tchw.device, dtype=x_tchw.dtype)
            x_tchw.add_(noise, alpha=std)
    return x_btchw


def cut_out(x_btchw: Tensor, sides_b4: Tensor) -> Tensor:
    """A rectangle of every frame set to 0, the mean; `sides_b4` as in `rectangles`."""
    if not sides_b4.any():
        return x_btchw
    inside_bhw = rectangles(sides_b4, x_btchw.shape[-2], x_btchw.shape[-1], x_btchw.device)
    return x_btchw.masked_fill(inside_bhw[:, None, None], 0.0)


def rectangles(sides_b4: Tensor, height: int, width: int, device: torch.device) -> Tensor:
    """(b, h, w) bool: pixels whose centre lies in (top, bottom, left, right), fractions of the image's sides.

    So one rectangle is the same place on grids of different size. Four zeros are no pixel.
    """
    y = (torch.arange(height, dtype=torch.float64) + 0.5) / height
    x = (torch.arange(width, dtype=torch.float64) + 0.5) / width
    top, bottom, left, right = sides_b4.double()[:, :, None].unbind(1)
    rows_bh = to_device((y >= top) & (y < bottom), device, torch.bool)
    columns_bw = to_device((x >= left) & (x < right), device, torch.bool)
    return rows_bh[:, :, None] & columns_bw[:, None, :]


def partners(batch: int) -> list[int]:
    """Whom each sample mixes with: its neighbour, 0 ↔ 1, 2 ↔ 3, ...; the last of an odd batch is alone, itself.

    Batches are shuffled, so neighbours are a random pair; and a run of 2 n samples, as a process or a micro-batch
    has, mixes as it would within the whole batch.
    """
    return [min(i ^ 1, batch - 1) for i in range(batch)]


def swapped(x: Tensor) -> Tensor:
    """Each sample's partner, (b, ...)."""
    batch = len(x)
    order = to_device(torch.tensor(partners(batch)), x.device, torch.int64)
    return x[order]


def mixup(x: Tensor, share_b: Tensor, either: bool = False) -> Tensor:
    """(1 − share) x + share · partner; `either`: the larger of both where share > 0. x: (b, ...)."""
    share = share_b.reshape(-1, *[1] * (x.ndim - 1))
    if either:
        return torch.maximum(x, swapped(x) * to_device(share > 0, x.device, x.dtype))
    return torch.lerp(x, swapped(x), to_device(share, x.device, x.dtype))


def cutmix(x: Tensor, sides_b4: Tensor) -> Tensor:
    """The partner's pixels within a rectangle, `sides_b4` as in `rectangles`. x: (b, ..., h, w)."""
    inside_bhw = rectangles(sides_b4, x.shape[-2], x.shape[-1], x.device)
    inside = inside_bhw.reshape(len(x), *[1] * (x.ndim - 3), *x.shape[-2:])
    return torch.where(inside, swapped(x), x)
