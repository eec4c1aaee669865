"""Augmentation of single contrails: erased from their sample, or copied into a sample that has none.

Where contrails lie is taken from the targets, once these have been moved into the image's frame. A region reaches a
pixel beyond the contrail on every side and fades out over two more. All frames are changed at the same place, that of
the contrail in the labelled frame.
"""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from contrail_train.data.appearance import swapped, to_device
from contrail_train.data.loader import Batch

CONTRAIL = 0.2  # least target of a contrail's pixel; a single pixel, shifted by half a pixel each way, keeps 1/4
SURROUNDINGS = 15
"""Side of the square whose mean replaces a pixel of an erased contrail, in pixels of the label."""


def erase_and_paste_labels(batch: Batch, erased_b: Tensor, pasted_b: Tensor) -> Batch:
    """Erase and copy contrails in targets, records and validity.

    Args:
        batch: Labels in the image's frame; images of any kind.
        erased_b: bool, on the CPU: whose contrails are erased.
        pasted_b: bool, on the CPU: which samples without contrails take those of their partner.

    Returns:
        The batch with the labels that it has after this, and where images are to be changed.
    """
    target_bkhw, positive_b1, valid_b1hw = batch.target_bkhw, batch.positive_b1, batch.valid_b1hw
    erased_b1hw, pasted_b1hw = None, None
    if erased_b.any():
        erased_b1hw = _regions(target_bkhw) * _chosen(erased_b, target_bkhw)
        target_bkhw = target_bkhw * (1 - erased_b1hw)
        positive_b1 = positive_b1 * (erased_b1hw.amax((2, 3)) == 0)
    if pasted_b.any():
        takes_b1 = (positive_b1 == 0) & (swapped(positive_b1) > 0)
        takes_b111 = takes_b1[:, :, None, None] * _chosen(pasted_b, target_bkhw)
        pasted_b1hw = swapped(_regions(target_bkhw)) * takes_b111
        target_bkhw = torch.lerp(target_bkhw, swapped(target_bkhw), pasted_b1hw)
        positive_b1 = torch.where(pasted_b1hw.amax((2, 3)) > 0, swapped(positive_b1), positive_b1)
        if valid_b1hw is not None:
            valid_b1hw = torch.where(pasted_b1hw > 0, valid_b1hw * swapped(valid_b1hw), valid_b1hw)
    return replace(
        batch,
        target_bkhw=target_bkhw,
        positive_b1=positive_b1,
        valid_b1hw=valid_b1hw,
        erased_b1hw=erased_b1hw,
        pasted_b1hw=pasted_b1hw,
    )


def _regions(target_bkhw: Tensor) -> Tensor:
    """(b, 1, h, w) share, 1 within a pixel of a contrail in any map, falling to 0 over two more."""
    contrail_b1hw = (target_bkhw.amax(1, keepdim=True) >= CONTRAIL).to(target_bkhw.dtype)
    grown_b1hw = functional.max_pool2d(contrail_b1hw, 5, stride=1, padding=2)
    return functional.avg_pool2d(grown_b1hw, 3, stride=1, padding=1, count_include_pad=False)


def _chosen(which_b: Tensor, like: Tensor) -> Tensor:
    return to_device(which_b, like.device, like.dtype)[:, None, None, None]


def erase(x_btchw: Tensor, share_b1hw: Tensor, erased_b: Tensor, ratio: float) -> Tensor:
    """Replace contrails by the mean of the pixels around them, in each frame and channel.

    Args:
        x_btchw: Normalised images.
        share_b1hw: `erased_b1hw` of their labels, of any size.
        erased_b: bool, on the CPU: whose contrails are erased.
        ratio: Side of a label's pixel in pixels of the image.

    Returns:
        The images.
    """
    rows = to_device(erased_b.nonzero()[:, 0], x_btchw.device, torch.int64)
    drawn, share = x_btchw[rows].float(), _at_size(share_b1hw[rows], x_btchw)[:, None]
    without = torch.lerp(drawn, _surroundings(drawn, share, ratio), share)
    return x_btchw.index_copy(0, rows, without.to(x_btchw.dtype))


def paste(x_btchw: Tensor, share_b1hw: Tensor, pasted_b: Tensor, ratio: float) -> Tensor:
    """Add to samples by how much the contrails of their partners differ from the pixels around them.

    Copied with their background, contrails would be known by its edges.

    Args:
        x_btchw: Normalised images.
        share_b1hw: `pasted_b1hw` of their labels, of any size.
        pasted_b: bool, on the CPU: which samples may take the contrails of their partner.
        ratio: Side of a label's pixel in pixels of the image.

    Returns:
        The images.
    """
    rows = to_device(pasted_b.nonzero()[:, 0], x_btchw.device, torch.int64)
    partner, share = swapped(x_btchw)[rows].float(), _at_size(share_b1hw[rows], x_btchw)[:, None]
    added = share * (partner - _surroundings(partner, share, ratio))
    return x_btchw.index_copy(0, rows, x_btchw[rows] + added.to(x_btchw.dtype))


def _surroundings(x_btchw: Tensor, share_b11hw: Tensor, ratio: float) -> Tensor:
    """The mean of the pixels around contrails; 0, the mean of the channel, where there are only contrails."""
    side = 2 * round(SURROUNDINGS * ratio / 2) + 1
    kept = 1 - share_b11hw
    return _box_mean(x_btchw * kept, side) / _box_mean(kept, side).clamp_min(1e-6)


def _at_size(share_b1hw: Tensor, like: Tensor) -> Tensor:
    size = tuple(like.shape[-2:])
    if share_b1hw.shape[-2:] == size:
        return share_b1hw
    return functional.interpolate(share_b1hw, size, mode="bilinear", align_corners=False)


def _box_mean(x: Tensor, side: int) -> Tensor:
    """The mean over a square around each pixel, with 0 beyond the borders."""
    flat = x.flatten(0, -4).flatten(1, -3)
    for kernel, padding in (((side, 1), (side // 2, 0)), ((1, side), (0, side // 2))):
        flat = functional.avg_pool2d(flat, kernel, stride=1, padding=padding)
    return flat.reshape(x.shape)
