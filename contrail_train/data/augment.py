"""Augmentation of a batch on its device: all that moves pixels in one resampling, then all that changes values.

Coordinates are pixels of the target's grid, (y, x), between pixel centres and relative to the centre of the image. A
point p of the output is stretched to d(p) = p + displacement, by `Draw.stretch_b2n`; its matrix A maps that to the
point `A[:, :2] @ d(p) + A[:, 2]` of the input. So the whole of it, another output size included, costs one
`grid_sample` for the image, all frames at once, and one for the target.

Labels of OpenContrails lie about half a pixel down and right of what was labelled. With `shift` = (dy, dx),
the target in the image's own frame is target(p + shift): flips and rotations turn about the image's centre,
and only there do image and label move together. Predictions are made in the image's frame; `to_label_frame`
maps them back.

Everything random is drawn on the CPU, by `draw`, before the batch is looked at, so that no decision waits for the
device. Resampling does not low-pass: zooming out by more than about 2 aliases.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Tensor
from torch.nn import functional

from contrail_train.config.schema import AugmentConfig
from contrail_train.data import appearance

MAX_CHANNELS = 64  # that brightness and contrast are drawn for, as a draw does not know the image's
WHOLLY_VALID = 0.999  # a pixel interpolated from valid ones alone may fall short of 1 by rounding


@dataclass(frozen=True)
class Draw:
    """What happens to each sample of a batch: CPU tensors with a leading b, float64 where not said otherwise.

    `draw[rows]`, rows a slice or indices, is the draw of some samples: what a process or a micro-batch takes of that
    of the global batch.
    """

    matrix_b23: Tensor
    """Output to input, pixels of the target about the image's centre."""
    stretch_b2n: Tensor
    """Displacement, as a fraction of the (height, width), at n evenly spaced lines across the output; 0: none."""
    reversed_b: Tensor
    """bool: frames last to first."""
    gain_bc: Tensor
    offset_bc: Tensor
    """Contrast and brightness of `MAX_CHANNELS` channels; neutral: 1 and 0."""
    blur_b: Tensor
    """Standard deviation of the blur, pixels of the target; 0: none."""
    noise_b: Tensor
    """Standard deviation of the noise; 0: none."""
    noise_seed_b: Tensor
    """int64"""
    cut_out_b4: Tensor
    """top, bottom, left, right of a hole as fractions of the sides; zeros: none."""
    mixup_b: Tensor
    """Share of the partner; 0: none."""
    cutmix_b4: Tensor
    """Rectangle that is the partner's; zeros: none."""

    def __len__(self) -> int:
        return len(self.matrix_b23)

    def __getitem__(self, rows: slice | list[int] | np.ndarray | Tensor) -> Draw:
        return Draw(*(getattr(self, field.name)[rows] for field in dataclasses.fields(self)))


class Augmented(NamedTuple):
    image_btchw: Tensor
    target_b1hw: Tensor
    positive_b1: Tensor
    valid_b1hw: Tensor | None


def identity(batch: int) -> Tensor:
    """(b, 2, 3) float64 matrices that leave every sample where it is."""
    return torch.eye(2, 3, dtype=torch.float64).repeat(batch, 1, 1)


def draw(config: AugmentConfig, batch: int, height: int, width: int, seed: int, step: int) -> Draw:
    """Draw what happens to the samples of one step: a pure function of its arguments, global random states left alone.

    height, width: of the target. Each kind of augmentation has a stream of random numbers of its own, named after
    it, and each sample a row of it: a setting changes nothing else's draws, and the first samples of a larger batch
    are drawn alike. Quarter turns are by 90°, 180° or 270°, only by 180° when the image is not square.
    """

    def stream(name: str, columns: int) -> np.ndarray:  # (b, columns) in [0, 1)
        return np.random.default_rng((seed, step, int.from_bytes(name.encode()))).random((batch, columns))

    def drawn(name: str, probability: float, columns: int) -> tuple[np.ndarray, np.ndarray]:
        """(b,) bool, which samples, and (b, columns) in [0, 1), how; nothing is drawn for a probability of 0."""
        if not probability:
            return np.zeros(batch, bool), np.full((batch, columns), 0.5)
        u = stream(name, 1 + columns)
        return u[:, 0] < probability, u[:, 1:]

    # ---- what moves pixels -------------------------------------------------------------------------------------
    flip = stream("flip", 2) < config.flip
    flip_y, flip_x = np.where(flip, -1.0, 1.0).T
    chosen, u = drawn("rot90", config.rot90, 1)
    quarters = np.where(chosen, 1 + np.floor(3 * u[:, 0]).astype(int) if height == width else 2, 0)
    # exact 0 and ±1, which cos(π/2) is not: the eight elements of the dihedral group only move pixels
    cos, sin = np.array([1.0, 0.0, -1.0, 0.0])[quarters], np.array([0.0, 1.0, 0.0, -1.0])[quarters]
    dihedral = np.array([[flip_y * cos, -flip_y * sin], [flip_x * sin, flip_x * cos]])

    chosen, u = drawn("affine", config.affine, 4)
    affine = np.where(chosen[:, None], 2 * u - 1, 0.0)  # in [-1, 1): 0 draws nothing
    chosen, u = drawn("turn", config.turn, 1)
    degrees = config.rotate * affine[:, 0] + config.turn_degrees * np.where(chosen, 2 * u[:, 0] - 1, 0.0)
    chosen, u = drawn("multi_scale", config.multi_scale, 1)
    zoom = (1 + config.scale * affine[:, 1]) * config.multi_scale_factor ** np.where(chosen, 2 * u[:, 0] - 1, 0.0)
    cos, sin = np.cos(np.deg2rad(degrees)) / zoom, np.sin(np.deg2rad(degrees)) / zoom
    turn = np.array([[cos, -sin], [sin, cos]])
    shift = config.shift * affine[:, 2:4] * (height, width)
    matrix = np.concatenate([np.einsum("ijb,jkb->bik", dihedral, turn), shift[:, :, None]], axis=2)

    cells = config.grid_cells
    chosen, u = drawn("grid_distortion", config.grid_distortion, 2 * cells)
    # widths of the input's cells, whose sum is that of the output's even ones, as albumentations' GridDistortion
    # (normalized) has it: the image's ends stay in place
    extent = 1 + config.grid_stretch * (2 * u.reshape(batch, 2, cells) - 1)
    extra = extent / extent.mean(axis=2, keepdims=True) - 1
    stretch = np.zeros((batch, 2, cells + 1))
    stretch[:, :, 1:-1] = np.where(chosen[:, None, None], extra.cumsum(axis=2)[:, :, :-1] / cells, 0.0)

    # ---- what changes values -----------------------------------------------------------------------------------
    time_reversed, _ = drawn("time_reversal", config.time_reversal, 0)
    chosen, u = drawn("brightness_contrast", config.brightness_contrast, 2 * MAX_CHANNELS)
    light = np.where(chosen[:, None], 2 * u - 1, 0.0).reshape(batch, MAX_CHANNELS, 2)
    chosen, u = drawn("blur", config.blur, 1)
    blur = np.where(chosen, config.blur_sigma * (1 - u[:, 0]), 0.0)
    chosen, u = drawn("noise", config.noise, 2)
    noise, noise_seed = np.where(chosen, config.noise_std * (1 - u[:, 0]), 0.0), (u[:, 1] * 2**53).astype(np.int64)
    chosen, u = drawn("cut_out", config.cut_out, 2)
    hole = np.where(chosen[:, None], float(config.cut_out_side), 0.0) * np.ones(2)

    # ---- what mixes samples ------------------------------------------------------------------------------------
    chosen, v = drawn("mixup", config.mixup, 1)
    share = np.where(chosen, betaincinv(config.mixup_alpha, config.mixup_alpha, v[:, 0]), 0.0)
    chosen, v = drawn("cutmix", config.cutmix, 3)
    pasted = np.sqrt(np.where(chosen, v[:, 0], 0.0))[:, None] * (height, width)  # Beta(1, 1) is uniform

    values = (
        *(matrix, stretch, time_reversed, 1 + config.contrast * light[..., 0], config.brightness * light[..., 1]),
        *(blur, noise, noise_seed, _rectangle(hole, u, height, width)),
        *(share, _rectangle(pasted, v[:, 1:], height, width)),
    )
    return Draw(*map(torch.from_numpy, values))


def _rectangle(sides_b2: np.ndarray, place_b2: np.ndarray, height: int, width: int) -> np.ndarray:
    """(b, 4) top, bottom, left, right, fractions on pixels' edges; zeros without a side. place: in [0, 1)."""
    image = np.array([height, width])
    sides = np.minimum(np.round(sides_b2), image)
    first = np.floor(place_b2 * (image - sides + 1))
    edges = np.stack([first, first + sides], axis=2) / image[:, None]
    return np.where((sides > 0).all(axis=1)[:, None], edges.reshape(-1, 4), 0.0)


def augment_batch(
    image_btchw: Tensor,
    target_b1hw: Tensor,
    positive_b1: Tensor,
    draw: Draw,
    config: AugmentConfig,
    label_shift: tuple[float, float],
    size: tuple[int, int] | None = None,
    valid_b1hw: Tensor | None = None,
) -> Augmented:
    """Apply a draw to its batch: move, change values, mix; the target goes from the label's frame into the image's.

    image_btchw: normalised, its frame possibly of another size than the target's; target_b1hw, positive_b1:
    probabilities, of a pixel and of a record; draw: of this batch, made for the target's height and width and by
    `config`; label_shift: (dy, dx), labels lie this many of their pixels down and right of the image; size: (h, w)
    that the image is resampled to, None: its own; valid_b1hw: 1 where the labelled frame has data, on the image's
    grid. Floating types stay. Targets become fractions where pixels mix; of `valid`, 0 or 1 on the target's grid,
    only those pixels are left that no missing one went into. Nothing is changed in place; what no sample has drawn
    costs nothing, and what one sample has not drawn leaves it as it was.

    Raises ValueError for a draw of another batch size, and for more than MAX_CHANNELS channels.
    """
    channels, grid = image_btchw.shape[2], (target_b1hw.shape[-2], target_b1hw.shape[-1])
    if len(draw) != len(image_btchw):
        raise ValueError(f"a draw for {len(draw)} samples, a batch of {len(image_btchw)}")
    if channels > MAX_CHANNELS:
        raise ValueError(f"{channels} channels, at most {MAX_CHANNELS}")
    moves = draw.matrix_b23, draw.stretch_b2n
    x = _sample(image_btchw, *moves, grid=grid, size=size or (image_btchw.shape[-2], image_btchw.shape[-1]))
    target, positive, valid = _sample(target_b1hw, *moves, grid=grid, shift_yx=label_shift), positive_b1, valid_b1hw
    if valid is not None:
        valid = (_sample(valid, *moves, grid=grid) >= WHOLLY_VALID).to(valid.dtype)

    x = appearance.reverse_time(x, draw.reversed_b)
    x = appearance.brightness_contrast(x, draw.gain_bc[:, :channels], draw.offset_bc[:, :channels])
    ratio = x.shape[-2] / grid[0]  # blur in pixels of the target looks the same at any size of the image
    x = appearance.blur(x, ratio * draw.blur_b, ratio * config.blur_sigma)
    x = appearance.add_noise(x, draw.noise_b, draw.noise_seed_b)
    x = appearance.cut_out(x, draw.cut_out_b4)

    if draw.mixup_b.any():
        either = config.mixup_labels == "or"
        x = appearance.mixup(x, draw.mixup_b)
        target, positive = (appearance.mixup(v, draw.mixup_b, either) for v in (target, positive))
        if valid is not None:  # 1 - valid: missing in either is missing
            valid = 1 - appearance.mixup(1 - valid, draw.mixup_b, either=True)
    if draw.cutmix_b4.any():
        x, target = appearance.cutmix(x, draw.cutmix_b4), appearance.cutmix(target, draw.cutmix_b4)
        pasted_b = draw.cutmix_b4[:, 1] > 0  # the rectangle's bottom
        positive = appearance.mixup(positive, pasted_b, either=True)
        if valid is not None:
            valid = appearance.cutmix(valid, draw.cutmix_b4)
    return Augmented(x, target, positive, valid)


def warp(image: Tensor, matrix_b23: Tensor, shift_yx: tuple[float, float] = (0.0, 0.0)) -> Tensor:
    """Sample `image(A p + shift)` bilinearly, reflected at the borders.

    image: (b, ..., h, w) of any floating type and on any device, frames and channels of a sample sharing its
    matrix; matrix_b23: (b, 2, 3) as in a `Draw`; shift_yx: pixels. Returns the shape, type and device of
    `image`. The identity without shift returns `image` itself; flips and quarter turns are exact where the
    sides are powers of two.
    """
    return _sample(image, matrix_b23, shift_yx=shift_yx)


def resample(image_btchw: Tensor, size: tuple[int, int]) -> Tensor:
    """The image at another (h, w), as `augment_batch` makes it of samples that nothing moves; for evaluation.

    Bilinear between pixel centres (align_corners=False), without a low-pass.
    """
    if image_btchw.shape[-2:] == size:
        return image_btchw
    flat = image_btchw.reshape(image_btchw.shape[0], -1, *image_btchw.shape[-2:])  # len would fix an exported batch
    moved = functional.interpolate(flat.float(), size, mode="bilinear", align_corners=False)
    return moved.reshape(*image_btchw.shape[:-2], *size).to(image_btchw.dtype)


def to_label_frame(prob: Tensor, label_shift: tuple[float, float]) -> Tensor:
    """Probabilities (b, ..., h, w) moved from the image's frame to the labels': P(q - shift).

    label_shift: (dy, dx) pixels, as in `augment_batch`; the border is repeated. Returns shape, type and
    device of `prob`.
    """
    height, width = prob.shape[-2:]
    moved = prob.reshape(prob.shape[0], -1, height, width)
    for axis, (shift, size) in enumerate(zip(label_shift, (height, width), strict=True), start=2):
        whole = math.floor(shift)
        part = shift - whole
        if not shift:
            continue
        reach = abs(whole) + 1
        padded = functional.pad(moved, (reach, reach, 0, 0) if axis == 3 else (0, 0, reach, reach), mode="replicate")
        near = padded.narrow(axis, reach - whole, size)
        moved = near if not part else torch.lerp(near, padded.narrow(axis, reach - whole - 1, size), part)
    return moved.reshape(prob.shape)


def _sample(
    image: Tensor,
    matrix_b23: Tensor,
    stretch_b2n: Tensor | None = None,
    *,
    grid: tuple[int, int] | None = None,
    size: tuple[int, int] | None = None,
    shift_yx: tuple[float, float] = (0.0, 0.0),
) -> Tensor:
    """`image` (b, ..., h, w) at A d(p) + shift for the p of a grid of `size`; all in pixels of an image of `grid`.

    grid: None: the image's own (h, w); size: None: that of `grid`.
    """
    batch, own = image.shape[0], (image.shape[-2], image.shape[-1])
    height, width = grid = grid or own
    size = size or grid
    theta = matrix_b23.double() + torch.tensor([[0.0, 0.0, d] for d in shift_yx], dtype=torch.float64)
    stretched = stretch_b2n is not None and bool(stretch_b2n.any())
    if not stretched and torch.equal(theta, identity(batch)):
        return resample(image, size)  # bit for bit where the size stays
    # to grid_sample's [-1, 1] between outer edges (align_corners=False): x / (W / 2), exact for W = 2^n
    theta = theta / torch.tensor([height / 2, width / 2], dtype=torch.float64)[:, None]
    theta = appearance.to_device(theta, image.device)[:, :, :, None, None]
    points = []
    for axis, (side, pixels) in enumerate(zip(size, grid, strict=True)):
        p_bs = ((torch.arange(side, dtype=torch.float64) - (side - 1) / 2) * (pixels / side))[None]
        if stretched and stretch_b2n is not None:
            p_bs = p_bs + pixels * _displacement(stretch_b2n[:, axis], side)
        points.append(appearance.to_device(p_bs, image.device))
    y, x = points[0][:, :, None], points[1][:, None, :]
    # products, not a matmul, which may run in TF32 or bf16: a tenth of a pixel off
    grid_b2hw = theta[:, :, 0] * y[:, None] + theta[:, :, 1] * x[:, None] + theta[:, :, 2]
    grid_bhw2 = grid_b2hw.flip(1).permute(0, 2, 3, 1)  # grid_sample wants (x, y)
    flat = image.reshape(batch, -1, *own).float()
    moved = functional.grid_sample(flat, grid_bhw2, mode="bilinear", padding_mode="reflection", align_corners=False)
    return moved.reshape(*image.shape[:-2], *size).to(image.dtype)


def _displacement(nodes_bn: Tensor, side: int) -> Tensor:
    """(b, side) values at pixel centres, linear between `nodes_bn` at n evenly spaced lines from edge to edge."""
    cells = nodes_bn.shape[1] - 1
    place = (torch.arange(side, dtype=torch.float64) + 0.5) * (cells / side)
    cell = place.long().clamp_max(cells - 1)
    part = place - cell
    return torch.lerp(nodes_bn[:, cell], nodes_bn[:, cell + 1], part)
