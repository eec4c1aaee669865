"""Flips, rotations, shifts, scalings and the label shift, composed into one affine matrix a sample.

Coordinates are pixels, (y, x), between pixel centres and relative to the centre of the image. A matrix A maps
a point p of the output to the point `A[:, :2] @ p + A[:, 2]` of the input, so that the whole of it costs one
`grid_sample` for the image, all frames at once, and one for the target.

Labels of OpenContrails lie about half a pixel down and right of what was labelled. With `shift` = (dy, dx),
the target in the image's own frame is target(p + shift): flips and rotations turn about the image's centre,
and only there do image and label move together. Predictions are made in the image's frame; `to_label_frame`
maps them back.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from contrail_train.config import AugmentConfig


def identity(batch: int) -> Tensor:
    """(b, 2, 3) float64 matrices that leave every sample where it is; for evaluation."""
    return torch.eye(2, 3, dtype=torch.float64).repeat(batch, 1, 1)


def draw(config: AugmentConfig, batch: int, height: int, width: int, seed: int, step: int) -> Tensor:
    """Random matrices of one step: a pure function of its arguments, global random states left alone.

    Returns (b, 2, 3) float64 on the CPU, output to input, pixels about the image centre. Each sample draws a
    vertical flip, a horizontal flip and a rotation by 90°, 180° or 270° (only 180° when the image is not
    square) and one joint shift, zoom and rotation. Every sample uses the same nine numbers whatever the
    probabilities, so changing one setting leaves the other draws as they were. Ranks must pass different
    seeds.
    """
    u = np.random.default_rng((seed, step)).random((batch, 9))
    flip_y = np.where(u[:, 0] < config.flip, -1.0, 1.0)
    flip_x = np.where(u[:, 1] < config.flip, -1.0, 1.0)
    quarters = 1 + np.floor(3 * u[:, 3]).astype(int) if height == width else np.full(batch, 2)
    quarters = np.where(u[:, 2] < config.rot90, quarters, 0)
    # exact 0 and ±1, which cos(π/2) is not: the eight elements of the dihedral group only move pixels
    cos90, sin90 = np.array([1.0, 0.0, -1.0, 0.0])[quarters], np.array([0.0, 1.0, 0.0, -1.0])[quarters]

    affine = u[:, 4] < config.affine
    centred = np.where(affine[:, None], 2 * u[:, 5:9] - 1, 0.0)  # in [-1, 1): 0 draws nothing
    angle, zoom = np.deg2rad(config.rotate * centred[:, 0]), 1 + config.scale * centred[:, 1]
    cos, sin = np.cos(angle) / zoom, np.sin(angle) / zoom

    dihedral = np.array([[flip_y * cos90, -flip_y * sin90], [flip_x * sin90, flip_x * cos90]])
    turn = np.array([[cos, -sin], [sin, cos]])
    shift = config.shift * centred[:, 2:4] * (height, width)
    matrix = np.concatenate([np.einsum("ijb,jkb->bik", dihedral, turn), shift[:, :, None]], axis=2)
    return torch.from_numpy(matrix)


def warp(image: Tensor, matrix_b23: Tensor, shift_yx: tuple[float, float] = (0.0, 0.0)) -> Tensor:
    """Sample `image(A p + shift)` bilinearly, reflected at the borders.

    image: (b, ..., h, w) of any floating type and on any device, frames and channels of a sample sharing its
    matrix; matrix_b23: (b, 2, 3) as from `draw`; shift_yx: pixels. Returns the shape, type and device of
    `image`. The identity without shift returns `image` itself; flips and quarter turns are exact where the
    sides are powers of two.
    """
    return _sample(image, matrix_b23, shift_yx, "reflection")


def augment_batch(
    image_btchw: Tensor, target_b1hw: Tensor, matrix_b23: Tensor, label_shift: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Move a batch by its matrices, and the target from the label's frame into the image's on the way.

    label_shift: (dy, dx), labels lie this many pixels down and right of the image. Returns (image, target) in
    the shapes and floating types given; targets become fractions where pixels mix.
    """
    return warp(image_btchw, matrix_b23), warp(target_b1hw, matrix_b23, label_shift)


def to_label_frame(prob: Tensor, label_shift: tuple[float, float]) -> Tensor:
    """Probabilities (b, ..., h, w) moved from the image's frame to the labels': P(q - shift).

    label_shift: (dy, dx) pixels, as in `augment_batch`; the border is repeated. Returns shape, type and
    device of `prob`.
    """
    dy, dx = label_shift
    return _sample(prob, identity(len(prob)), (-dy, -dx), "border")


def _sample(image: Tensor, matrix_b23: Tensor, shift_yx: tuple[float, float], padding: str) -> Tensor:
    batch, height, width = image.shape[0], image.shape[-2], image.shape[-1]
    theta = matrix_b23.double().cpu().clone()
    theta[:, :, 2] += torch.tensor(shift_yx, dtype=torch.float64)
    if torch.equal(theta, identity(batch)):
        return image  # bit for bit at any size, and free
    # to grid_sample's [-1, 1] between outer edges (align_corners=False): x / (W / 2), exact for W = 2^n
    theta /= torch.tensor([height / 2, width / 2], dtype=torch.float64)[:, None]
    theta = theta.to(image.device, torch.float32)[:, :, :, None, None]
    y = torch.arange(height, device=image.device, dtype=torch.float32)[:, None] - (height - 1) / 2
    x = torch.arange(width, device=image.device, dtype=torch.float32) - (width - 1) / 2
    # products, not a matmul, which may run in TF32 or bf16: a tenth of a pixel off
    grid_b2hw = theta[:, :, 0] * y + theta[:, :, 1] * x + theta[:, :, 2]
    grid_bhw2 = grid_b2hw.flip(1).permute(0, 2, 3, 1)  # grid_sample wants (x, y)
    flat = image.reshape(batch, -1, height, width).float()
    moved = functional.grid_sample(flat, grid_bhw2, mode="bilinear", padding_mode=padding, align_corners=False)
    return moved.reshape(image.shape).to(image.dtype)
