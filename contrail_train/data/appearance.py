"""Augmentation that changes values, not places: brightness, blur, noise, holes, order of frames, mixtures of samples.

The functions take a batch on any device and what was drawn for it on the CPU: tensors (b) or (b, ...), in which a
sample's neutral value leaves it unchanged, bit for bit. No function waits for the device or changes its input. Images
are normalised: 0 is a channel's mean, and 1 its standard deviation.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional


def to_device(drawn: Tensor, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """Copy a tensor from the CPU to a device without waiting for the device.

    Args:
        drawn: Any tensor on the CPU.
        device: Where to; for a GPU the copy goes through pinned memory, as any other would wait for all its work.
        dtype: Type of the result.

    Returns:
        The tensor on the device.
    """
    drawn = drawn.to(dtype)
    return drawn.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else drawn.to(device)


def reverse_time(x_btchw: Tensor, reversed_b: Tensor) -> Tensor:
    """Reverse the order of the frames of some samples.

    Args:
        x_btchw: Images.
        reversed_b: (b) bool, which samples.

    Returns:
        The images.
    """
    if x_btchw.shape[1] == 1 or not reversed_b.any():
        return x_btchw
    where_b1111 = to_device(reversed_b, x_btchw.device, torch.bool)[:, None, None, None, None]
    return torch.where(where_b1111, x_btchw.flip(1), x_btchw)


def brightness_contrast(x_btchw: Tensor, gain_bc: Tensor, offset_bc: Tensor) -> Tensor:
    """Compute gain · x + offset per sample and channel, equally in all frames.

    Args:
        x_btchw: Images.
        gain_bc: Factors; neutral: 1.
        offset_bc: Values to add; neutral: 0.

    Returns:
        The images.
    """
    if bool((gain_bc == 1).all()) and not offset_bc.any():
        return x_btchw
    gain, offset = (to_device(v, x_btchw.device, x_btchw.dtype)[:, None, :, None, None] for v in (gain_bc, offset_bc))
    return torch.addcmul(offset, gain, x_btchw)


def blur(x_btchw: Tensor, sigma_b: Tensor, largest: float) -> Tensor:
    """Apply a Gaussian blur, with the border repeated.

    Args:
        x_btchw: Images.
        sigma_b: Standard deviation in pixels of the image; 0: none.
        largest: Upper limit of `sigma_b`. The kernel reaches 3 times as far whatever was drawn, so that a sample's
            result does not depend on the rest of its batch.

    Returns:
        The images.
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
    """Add Gaussian noise, independent in every element and a function of each sample's seed.

    Devices of different kinds make different noise from the same seed.

    Args:
        x_btchw: Images.
        std_b: Standard deviation; 0: none.
        seed_b: (b) int64.

    Returns:
        The images.
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
    """Set a rectangle of every frame to 0, the channel's mean.

    Args:
        x_btchw: Images.
        sides_b4: As in `rectangles`.

    Returns:
        The images.
    """
    if not sides_b4.any():
        return x_btchw
    inside_bhw = rectangles(sides_b4, x_btchw.shape[-2], x_btchw.shape[-1], x_btchw.device)
    return x_btchw.masked_fill(inside_bhw[:, None, None], 0.0)


def rectangles(sides_b4: Tensor, height: int, width: int, device: torch.device) -> Tensor:
    """Return the pixels whose centre lies in a rectangle; it is the same place on grids of different size.

    Args:
        sides_b4: (top, bottom, left, right) as fractions of the image's sides; zeros: no pixel.
        height: Pixels.
        width: Pixels.
        device: Where the result is needed.

    Returns:
        (b, h, w) bool.
    """
    y = (torch.arange(height, dtype=torch.float64) + 0.5) / height
    x = (torch.arange(width, dtype=torch.float64) + 0.5) / width
    top, bottom, left, right = sides_b4.double()[:, :, None].unbind(1)
    rows_bh = to_device((y >= top) & (y < bottom), device, torch.bool)
    columns_bw = to_device((x >= left) & (x < right), device, torch.bool)
    return rows_bh[:, :, None] & columns_bw[:, None, :]


def mixup(x: Tensor, share_b: Tensor, either: bool = False) -> Tensor:
    """Blend each sample with its partner: (1 − share) x + share · partner.

    Args:
        x: (b, ...) images, targets or validity.
        share_b: Share of the partner; 0: none.
        either: Take the larger of the two instead where share > 0.

    Returns:
        The blend, of the shape of `x`.
    """
    share = share_b.reshape(-1, *[1] * (x.ndim - 1))
    if either:
        return torch.maximum(x, swapped(x) * to_device(share > 0, x.device, x.dtype))
    return torch.lerp(x, swapped(x), to_device(share, x.device, x.dtype))


def cutmix(x: Tensor, sides_b4: Tensor) -> Tensor:
    """Take the partner's pixels within a rectangle.

    Args:
        x: (b, ..., h, w) images, targets or validity.
        sides_b4: As in `rectangles`.

    Returns:
        The mixture, of the shape of `x`.
    """
    inside_bhw = rectangles(sides_b4, x.shape[-2], x.shape[-1], x.device)
    inside = inside_bhw.reshape(len(x), *[1] * (x.ndim - 3), *x.shape[-2:])
    return torch.where(inside, swapped(x), x)


def swapped(x: Tensor) -> Tensor:
    """Return the sample with which each one mixes: its neighbour, 0 ↔ 1, 2 ↔ 3, ...; the last of an odd batch itself.

    Batches are shuffled, so neighbours are a random pair. A process and a micro-batch have whole pairs, so that samples
    mix as they would within the whole batch.

    Args:
        x: (b, ...) values of the samples.

    Returns:
        Those of their partners.
    """
    partner_b = (torch.arange(len(x)) ^ 1).clamp_max(len(x) - 1)
    return x[to_device(partner_b, x.device, torch.int64)]
