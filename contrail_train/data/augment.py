"""Augmentation of a batch on its device: everything that moves pixels in one resampling, then what changes values.

Coordinates are pixels of the target's grid, (y, x), between pixel centres and relative to the centre of the image. A
point p of the output, or of the part of it that a crop leaves, is stretched to d(p) = p + displacement
(`Draw.stretch_b2n`), which the matrix A maps to the point `A[:, :2] @ d(p) + A[:, 2]` of the input. So all of it,
including another output size, costs one `grid_sample` for the image, all frames at once, and one for the target.

The labels of OpenContrails lie about half a pixel down and right of the contrails in the image. With `label_shift` =
(dy, dx), the target in the image's own frame is target(p + shift). Flips and rotations turn about the image's centre,
and only in the image's frame do image and label move together: points beyond its borders are reflected in it before
the shift is added. The network predicts in the image's frame; `to_label_frame` maps predictions back.

Resampling does not low-pass: zooming out by more than a factor of about 2 aliases.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from contrail_train.config.augment import AugmentConfig
from contrail_train.data import appearance, contrails
from contrail_train.data.draw import MAX_CHANNELS, Draw, draw
from contrail_train.data.loader import Batch, Ints

ALL_VALID = 0.999  # a pixel interpolated from valid ones only may fall short of 1 by rounding
REMAINING = 0.2  # of the largest label; a single pixel, shifted by half a pixel each way, keeps 1/4


def draw_labels(
    batch: Batch,
    own: Ints,
    count: int,
    config: AugmentConfig,
    label_shift: tuple[float, float],
    *,
    seed: int,
    step: int,
    crop: int | None = None,
) -> tuple[Draw, Batch]:
    """Draw for a step and move its labels; `config.redraw` draws again what would empty positive samples.

    Args:
        batch: As for `augment_labels`: this process's share of the step.
        own: Which of the step's samples these are.
        count: Samples of the step, over all processes.
        config: What is drawn.
        label_shift: (down, right) offset of the labels from the image, in their pixels.
        seed: Seed of the run.
        step: Number of the step.
        crop: Side in pixels of the part of the target that remains; None for all of it.

    Returns:
        The draw for the batch, and the batch with labels moved by it.
    """
    height, width = batch.target_bkhw.shape[-2:]
    drawn = draw(config, count, height, width, seed=seed, step=step, crop=crop)[own]
    labels = augment_labels(batch, drawn, config, label_shift)
    for attempt in range(1, config.redraw + 1):
        emptied_b = ((batch.positive_b1 > 0) & (labels.positive_b1 == 0))[:, 0].cpu() & ~drawn.erased_b
        if not emptied_b.any():
            break
        other = draw(config, count, height, width, seed=seed, step=step, attempt=attempt, crop=crop)[own]
        drawn = drawn.placed_as(other, emptied_b)
        labels = augment_labels(batch, drawn, config, label_shift)
    return drawn, labels


def augment_labels(batch: Batch, drawn: Draw, config: AugmentConfig, label_shift: tuple[float, float]) -> Batch:
    """Move and mix targets, records and validity; the target goes from the label's frame into the image's.

    A record remains positive as long as labels of at least `REMAINING` times its largest one remain in the image.

    Args:
        batch: Targets and records as probabilities, validity on the image's grid, all floating; images of any type.
        drawn: The draw for this batch, made for the target's height and width.
        config: The settings that it was made with.
        label_shift: (down, right) offset of the labels from the image, in their pixels.

    Returns:
        The batch with the images as they were, and where contrails are to be erased and pasted in them. Targets and
        validity have the size of the crop. Targets become fractions where pixels mix. Validity is 0 or 1; a pixel is
        valid if no missing one contributed to it.
    """
    grid = batch.target_bkhw.shape[-2], batch.target_bkhw.shape[-1]
    moves, valid_b1hw = (drawn.matrix_b23, drawn.stretch_b2n, drawn.crop_b4), batch.valid_b1hw
    target_bkhw = warp(batch.target_bkhw, *moves, grid=grid, shift_yx=label_shift)
    positive_b1 = _remaining(batch.positive_b1, batch.target_bkhw, target_bkhw)
    if valid_b1hw is not None:
        valid_b1hw = (warp(valid_b1hw, *moves, grid=grid) >= ALL_VALID).to(valid_b1hw.dtype)
    batch = replace(batch, target_bkhw=target_bkhw, positive_b1=positive_b1, valid_b1hw=valid_b1hw)
    batch = contrails.erase_and_paste_labels(batch, drawn.erased_b, drawn.pasted_b)
    target_bkhw, positive_b1, valid_b1hw = batch.target_bkhw, batch.positive_b1, batch.valid_b1hw
    annotators_b = batch.annotators_b
    if annotators_b is not None:  # a mixture has the masks of both, and the majority mask where one has fewer
        mixed_b = appearance.to_device((drawn.mixup_b > 0) | drawn.cutmix_b4.any(1), annotators_b.device, torch.bool)
        if batch.pasted_b1hw is not None:
            mixed_b = mixed_b | (batch.pasted_b1hw.amax((1, 2, 3)) > 0)
        most_b = torch.maximum(annotators_b, appearance.swapped(annotators_b))
        annotators_b = torch.where(mixed_b, most_b, annotators_b)
    if drawn.mixup_b.any():
        either = config.mixup is not None and config.mixup.labels == "or"
        target_bkhw, positive_b1 = (appearance.mixup(v, drawn.mixup_b, either) for v in (target_bkhw, positive_b1))
        if valid_b1hw is not None:  # missing in either is missing
            valid_b1hw = 1 - appearance.mixup(1 - valid_b1hw, drawn.mixup_b, either=True)
    if drawn.cutmix_b4.any():
        height, width = target_bkhw.shape[-2:]
        inside_b1hw = appearance.rectangles(drawn.cutmix_b4, height, width, target_bkhw.device)[:, None]
        other_bkhw, other_b1 = appearance.swapped(target_bkhw), appearance.swapped(positive_b1)
        own_b1 = _remaining(positive_b1, target_bkhw, target_bkhw.masked_fill(inside_b1hw, 0))
        pasted_b1 = _remaining(other_b1, other_bkhw, other_bkhw.masked_fill(~inside_b1hw, 0))
        positive_b1 = torch.maximum(own_b1, pasted_b1)
        target_bkhw = torch.where(inside_b1hw, other_bkhw, target_bkhw)
        if valid_b1hw is not None:
            valid_b1hw = appearance.cutmix(valid_b1hw, drawn.cutmix_b4)
    return replace(
        batch, target_bkhw=target_bkhw, positive_b1=positive_b1, valid_b1hw=valid_b1hw, annotators_b=annotators_b
    )


def _remaining(positive_b1: Tensor, before_bkhw: Tensor, after_bkhw: Tensor) -> Tensor:
    """The records' probabilities, 0 where hardly any of a label is left that was there."""
    most_b1, left_b1 = (v.amax((1, 2, 3))[:, None] for v in (before_bkhw, after_bkhw))
    return positive_b1 * ((most_b1 == 0) | ((left_b1 > 0) & (left_b1 >= REMAINING * most_b1)))


def augment_images(
    x_btchw: Tensor,
    drawn: Draw,
    config: AugmentConfig,
    grid: tuple[int, int],
    size: tuple[int, int] | None = None,
    *,
    labels: Batch,
) -> Tensor:
    """Move images, change their values and mix them.

    Nothing is changed in place. What no sample has drawn costs nothing, and what a sample has not drawn leaves it
    unchanged, bit for bit.

    Args:
        x_btchw: Normalised images, whose size may differ from the target's.
        drawn: The draw for these samples.
        config: The settings that it was made with.
        grid: (h, w) of the target before it was cropped.
        size: (h, w) to which whole images are resampled; None keeps their own.
        labels: Their labels as moved by `augment_labels`, which state where contrails are erased and pasted.

    Returns:
        The images, of the same type; with crops only as much of `size` as the crops are of `grid`.

    Raises:
        ValueError: If they have more than `MAX_CHANNELS` channels.
    """
    channels = x_btchw.shape[2]
    if channels > MAX_CHANNELS:
        raise ValueError(f"{channels} channels, but at most {MAX_CHANNELS} are supported")
    size = size or (x_btchw.shape[-2], x_btchw.shape[-1])
    ratio = size[0] / grid[0]  # a blur in pixels of the target looks the same at any size of the image
    size = cropped_size(size, drawn.crop_b4)
    x_btchw = warp(x_btchw, drawn.matrix_b23, drawn.stretch_b2n, drawn.crop_b4, grid=grid, size=size)
    if labels.erased_b1hw is not None and drawn.erased_b.any():
        x_btchw = contrails.erase(x_btchw, labels.erased_b1hw, drawn.erased_b, ratio)
    if labels.pasted_b1hw is not None and drawn.pasted_b.any():
        x_btchw = contrails.paste(x_btchw, labels.pasted_b1hw, drawn.pasted_b, ratio)
    x_btchw = appearance.reverse_time(x_btchw, drawn.reversed_b)
    x_btchw = appearance.brightness_contrast(x_btchw, drawn.gain_bc[:, :channels], drawn.offset_bc[:, :channels])
    if config.blur is not None:
        x_btchw = appearance.blur(x_btchw, ratio * drawn.blur_b, ratio * config.blur.sigma)
    x_btchw = appearance.add_noise(x_btchw, drawn.noise_b, drawn.noise_seed_b)
    return _mixed(x_btchw, drawn)


def _mixed(x_btchw: Tensor, drawn: Draw) -> Tensor:
    """Cut holes, and mix samples with their partners."""
    x_btchw = appearance.cut_out(x_btchw, drawn.cut_out_b4)
    if drawn.mixup_b.any():
        x_btchw = appearance.mixup(x_btchw, drawn.mixup_b)
    return appearance.cutmix(x_btchw, drawn.cutmix_b4) if drawn.cutmix_b4.any() else x_btchw


def augment_flow(flow_btdhw: Tensor, drawn: Draw, grid: tuple[int, int], size: tuple[int, int] | None = None) -> Tensor:
    """Move optical flow as `augment_images` moves its frames, and turn and scale its vectors with them.

    What is at p in the labelled frame and at p + f in another comes from A d(p) and A d(p + f) before augmentation, see
    the module, so a vector v there becomes f = A⁻¹ v, divided by the stretch of each axis; where the images were
    reflected, so are the vectors.

    Args:
        flow_btdhw: Flow of stored frames in pixels (down, right), float32 (b, t, 2, h, w).
        drawn: The draw for these samples.
        grid: (h, w) of the target before it was cropped.
        size: (h, w) to which whole images are resampled; None keeps their own. Vectors remain in stored pixels.

    Returns:
        The flow of the augmented frames.
    """
    size = cropped_size(size or (flow_btdhw.shape[-2], flow_btdhw.shape[-1]), drawn.crop_b4)
    moves = drawn.matrix_b23, drawn.stretch_b2n, drawn.crop_b4
    moved = warp(flow_btdhw, *moves, grid=grid, size=size)
    places_b2hw = _places(*moves, grid=grid, size=size, device=moved.device)
    mirrored_b2hw = ((places_b2hw + 1) / 2).floor() % 2  # every second image beyond the edges -1 and 1
    moved = moved * (1 - 2 * mirrored_b2hw)[:, None]
    inverse_b22 = torch.linalg.inv(drawn.matrix_b23[:, :, :2])
    inverse_b22 = appearance.to_device(inverse_b22, moved.device)[:, :, :, None, None, None]
    down, right = moved[:, :, 0], moved[:, :, 1]
    parts = []
    for axis, side in enumerate(size):
        first_b1, last_b1 = drawn.crop_b4[:, 2 * axis, None], drawn.crop_b4[:, 2 * axis + 1, None]
        stretch_bs = 1 + _slope(drawn.stretch_b2n[:, axis], _across(side, first_b1, last_b1))
        stretch_b1hw = appearance.to_device(stretch_bs, moved.device).unflatten(
            1, (1, -1, 1) if axis == 0 else (1, 1, -1)
        )
        along = inverse_b22[:, axis, 0] * down + inverse_b22[:, axis, 1] * right
        parts.append(along / stretch_b1hw)
    moved = torch.stack(parts, dim=2)
    return _mixed(appearance.reverse_time(moved, drawn.reversed_b), drawn)


def cropped_size(size: tuple[int, int], crop_b4: Tensor) -> tuple[int, int]:
    """Return the size of the crops of images.

    Args:
        size: (h, w) of the images.
        crop_b4: Where they are cropped, as in a `Draw`.

    Returns:
        (h, w) of the crops.
    """
    top, bottom, left, right = crop_b4[0].tolist()
    return round(size[0] * (bottom - top)), round(size[1] * (right - left))


def resample(image_btchw: Tensor, size: tuple[int, int]) -> Tensor:
    """Resample images for evaluation, as `augment_images` does for samples that nothing moves.

    Bilinear between pixel centres (align_corners=False), without a low-pass.

    Args:
        image_btchw: (b, t, c, h, w), floating.
        size: (height, width) in pixels.

    Returns:
        (b, t, c, *size) of the same type.
    """
    if image_btchw.shape[-2:] == size:
        return image_btchw
    flat = image_btchw.reshape(image_btchw.shape[0], -1, *image_btchw.shape[-2:])  # len would fix an exported batch
    moved = functional.interpolate(flat.float(), size, mode="bilinear", align_corners=False)
    return moved.reshape(*image_btchw.shape[:-2], *size).to(image_btchw.dtype)


def to_label_frame(prob: Tensor, label_shift: tuple[float, float]) -> Tensor:
    """Move probabilities from the image's frame to the labels': P(q - shift), with the border repeated.

    Args:
        prob: (b, ..., h, w), floating.
        label_shift: (down, right) offset of the labels from the image, pixels.

    Returns:
        The moved probabilities, of the same shape, type and device.
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


def warp(
    image: Tensor,
    matrix_b23: Tensor,
    stretch_b2n: Tensor,
    crop_b4: Tensor,
    *,
    grid: tuple[int, int],
    size: tuple[int, int] | None = None,
    shift_yx: tuple[float, float] = (0.0, 0.0),
) -> Tensor:
    """Sample `image(R(A d(p)) + shift)` bilinearly for the points p of an output, where R reflects at the borders.

    Args:
        image: (b, ..., h, w), floating, on any device; frames and channels of a sample share its matrix.
        matrix_b23: Matrices A, as in a `Draw`.
        stretch_b2n: Displacements d(p) - p, as in a `Draw`.
        crop_b4: The part of the output to compute, as in a `Draw`.
        grid: (h, w) of an image whose pixels are the unit of coordinates.
        size: (h, w) of that part; None for its size in `grid`.
        shift_yx: Pixels.

    Returns:
        The samples, of the type and device of `image`; only resampled if nothing moves. Flips and quarter turns are
        exact where the sides are powers of two.
    """
    part = cropped_size(grid, crop_b4)
    size = size or part
    moves = stretch_b2n.any() or any(shift_yx) or part != grid
    if not moves and bool((matrix_b23.double() == torch.eye(2, 3)).all()):
        return resample(image, size)  # unchanged if the size is the same
    grid_b2hw = _places(matrix_b23, stretch_b2n, crop_b4, grid=grid, size=size, device=image.device)
    if any(shift_yx):  # otherwise grid_sample reflects
        moved_by = [_reflected(v, n) + d / (n / 2) for v, n, d in zip(grid_b2hw.unbind(1), grid, shift_yx, strict=True)]
        grid_b2hw = torch.stack(moved_by, dim=1)
    grid_bhw2 = grid_b2hw.flip(1).permute(0, 2, 3, 1)  # grid_sample takes (x, y)
    flat = image.flatten(1, -3).float()
    moved = functional.grid_sample(flat, grid_bhw2, mode="bilinear", padding_mode="reflection", align_corners=False)
    return moved.reshape(*image.shape[:-2], *size).to(image.dtype)


def _places(
    matrix_b23: Tensor,
    stretch_b2n: Tensor,
    crop_b4: Tensor,
    *,
    grid: tuple[int, int],
    size: tuple[int, int],
    device: torch.device,
) -> Tensor:
    """The points A d(p) that `warp` samples, (b, 2, h, w), between the edges -1 and 1 of the image and beyond."""
    part, theta = cropped_size(grid, crop_b4), matrix_b23.double()
    # to grid_sample's [-1, 1] between outer edges (align_corners=False): x / (W / 2), exact for W = 2^n
    theta = theta / (torch.tensor(grid, dtype=torch.float64)[:, None] / 2)
    theta = appearance.to_device(theta, device)[:, :, :, None, None]
    points = []
    for axis, (side, pixels) in enumerate(zip(size, grid, strict=True)):
        first_b1, last_b1 = crop_b4[:, 2 * axis, None], crop_b4[:, 2 * axis + 1, None]
        p_s = (torch.arange(side, dtype=torch.float64) - (side - 1) / 2) * (part[axis] / side)
        p_bs = p_s + pixels * ((first_b1 + last_b1) / 2 - 0.5)
        p_bs = p_bs + pixels * _displacement(stretch_b2n[:, axis], _across(side, first_b1, last_b1))
        points.append(appearance.to_device(p_bs, device))
    y, x = points[0][:, :, None], points[1][:, None, :]
    # products, not a matmul, which may run in TF32 or bf16: a tenth of a pixel off
    return theta[:, :, 0] * y[:, None] + theta[:, :, 1] * x[:, None] + theta[:, :, 2]


def _across(side: int, first_b1: Tensor, last_b1: Tensor) -> Tensor:
    """(b, side) places of the pixels of a crop across the image, from 0 to 1."""
    return first_b1 + (torch.arange(side, dtype=torch.float64) + 0.5) * (last_b1 - first_b1) / side


def _reflected(place: Tensor, pixels: int) -> Tensor:
    """Places beyond the edges -1 and 1 reflected, as grid_sample does: no further out than the outermost centres."""
    inside = torch.where(place.abs() > 1, (torch.remainder(place - 1, 4) - 2).abs() - 1, place)
    limit = 1 - 1 / pixels + 1e-6  # centres themselves may be off by rounding, and stay
    return inside.clamp(-limit, limit)


def _displacement(nodes_bn: Tensor, place_bs: Tensor) -> Tensor:
    """(b, s) values at places from 0 to 1, linear between `nodes_bn` at n evenly spaced lines from edge to edge."""
    cells = nodes_bn.shape[1] - 1
    cell_bs = (place_bs * cells).long().clamp_max(cells - 1)
    return torch.lerp(nodes_bn.gather(1, cell_bs), nodes_bn.gather(1, cell_bs + 1), place_bs * cells - cell_bs)


def _slope(nodes_bn: Tensor, place_bs: Tensor) -> Tensor:
    """(b, s) derivative of `_displacement` by the place."""
    cells = nodes_bn.shape[1] - 1
    cell_bs = (place_bs * cells).long().clamp_max(cells - 1)
    return cells * nodes_bn.diff(dim=1).gather(1, cell_bs)
