"""Augmentation: random draws, geometry, values and mixtures of samples."""

from __future__ import annotations

import dataclasses
import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional

from contrail_train.config.schema import AugmentConfig
from contrail_train.config.settings import group_of
from contrail_train.data.augment import (
    augment_batch,
    draw_labels,
    resample,
    to_label_frame,
    warp,
)
from contrail_train.data.draw import MAX_CHANNELS, Draw, draw
from contrail_train.data.loader import Batch, share_of

DIHEDRAL = [
    torch.tensor(rows, dtype=torch.float64)
    for a, b in product((-1.0, 1.0), repeat=2)
    for rows in ([[a, 0, 0], [0, b, 0]], [[0, a, 0], [b, 0, 0]])
]

MOVING = ["flip", "rot90", "affine", "turn", "multi_scale", "grid_distortion"]
VALUES = ["brightness_contrast", "blur", "noise", "time_reversal", "cut_out"]
MIXING = ["mixup", "cutmix"]
NO_SHIFT = (0.0, 0.0)
IDENTITY = torch.eye(2, 3, dtype=torch.float64)[None]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def only(*names: str, **settings: Any) -> AugmentConfig:
    """Return a config of only these augmentations: names have probability 1, groups take a probability or settings."""
    chosen: dict[str, Any] = {"flip": 0.0, "rot90": 0.0, "affine": None, **dict.fromkeys(names, 1.0), **settings}
    for name, value in chosen.items():
        if group_of(AugmentConfig.model_fields[name]) and isinstance(value, float):
            chosen[name] = {"probability": value}
    return AugmentConfig(**chosen)


def augment(
    config: AugmentConfig,
    image_btchw: Tensor,
    target_b1hw: Tensor | None = None,
    label_shift: tuple[float, float] = NO_SHIFT,
    step: int = 0,
    size: tuple[int, int] | None = None,
    valid_b1hw: Tensor | None = None,
) -> Batch:
    """Draw for a whole batch and apply; without a target, an empty one of the image's size."""
    if target_b1hw is None:
        target_b1hw = torch.zeros(len(image_btchw), 1, *image_btchw.shape[-2:])
    drawn = draw(config, len(image_btchw), target_b1hw.shape[-2], target_b1hw.shape[-1], seed=0, step=step)
    return augment_batch(batch_of(image_btchw, target_b1hw, valid_b1hw), drawn, config, label_shift, size)


def batch_of(image_btchw: Tensor, target_b1hw: Tensor, valid_b1hw: Tensor | None = None) -> Batch:
    """Return a batch of records that are as positive as their most certain pixel."""
    positive_b1 = target_b1hw.amax(dim=(1, 2, 3))[:, None]
    return Batch(image_btchw, target_b1hw, positive_b1, torch.ones(len(image_btchw)), valid_b1hw)


def move(image: Tensor, matrix_b23: Tensor, shift_yx: tuple[float, float] = NO_SHIFT) -> Tensor:
    """Sample an image at A p + shift."""
    grid, still = (image.shape[-2], image.shape[-1]), torch.zeros(len(image), 2, 2, dtype=torch.float64)
    return warp(image, matrix_b23, still, grid=grid, shift_yx=shift_yx)


def same(a: Draw, b: Draw) -> bool:
    return all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(Draw))


def blob(height: int, width: int, y: float, x: float) -> Tensor:
    """Return a Gaussian of 3 px, shape (1, 1, h, w), about a point given in pixels from the image's centre."""
    rows = torch.arange(height) - (height - 1) / 2 - y
    columns = torch.arange(width) - (width - 1) / 2 - x
    return torch.exp(-(rows[:, None] ** 2 + columns**2) / 18)[None, None]


def centroid(image: Tensor) -> Tensor:
    """Return the centroid (y, x) in pixels from the image's centre."""
    height, width = image.shape[-2:]
    mass = image.double().reshape(height, width) / image.double().sum()
    y = (mass.sum(1) * (torch.arange(height) - (height - 1) / 2)).sum()
    return torch.stack([y, (mass.sum(0) * (torch.arange(width) - (width - 1) / 2)).sum()])


# random draws
def test_draws_without_affine_cover_all_eight_dihedral_matrices() -> None:
    config = AugmentConfig(flip=0.5, rot90=0.5, affine=None)
    drawn = {tuple(m.flatten().tolist()) for m in draw(config, 200, 64, 64, seed=1, step=2).matrix_b23}
    assert drawn == {tuple(m.flatten().tolist()) for m in DIHEDRAL}
    oblong = draw(config, 200, 64, 96, seed=1, step=2).matrix_b23
    assert not oblong[:, 0, 1].any()
    assert not oblong[:, 1, 0].any()


EVERYTHING = only(**dict.fromkeys([*MOVING, *VALUES, *MIXING], 0.5))


def test_draw_is_a_pure_function_of_seed_and_step() -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
    first = draw(EVERYTHING, 8, 64, 64, seed=3, step=5)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert same(draw(EVERYTHING, 8, 64, 64, seed=3, step=5), first)
    other_step, other_seed = draw(EVERYTHING, 8, 64, 64, seed=3, step=6), draw(EVERYTHING, 8, 64, 64, seed=4, step=5)
    for field in dataclasses.fields(Draw):
        values = [getattr(d, field.name) for d in (first, other_step, other_seed)]
        assert not torch.equal(values[0], values[1])
        assert not torch.equal(values[0], values[2])


def test_a_draw_can_be_indexed_by_rows() -> None:
    drawn = draw(EVERYTHING, 8, 64, 64, seed=3, step=5)
    assert same(drawn[:4], draw(EVERYTHING, 4, 64, 64, seed=3, step=5))
    assert same(drawn[[5, 1]], drawn[np.array([5, 1])])
    assert torch.equal(drawn[4:6].matrix_b23, drawn.matrix_b23[4:6])
    assert len(drawn[1::2]) == 4


@pytest.mark.parametrize("changed", [*MOVING, *VALUES, *MIXING])
def test_switching_off_an_augmentation_leaves_all_other_draws_unchanged(changed: str) -> None:
    field = {
        "brightness_contrast": {"gain_bc", "offset_bc"},
        "time_reversal": {"reversed_b"},
        "grid_distortion": {"stretch_b2n"},
        "noise": {"noise_b", "noise_seed_b"},
        "blur": {"blur_b"},
        "cut_out": {"cut_out_b4"},
        "mixup": {"mixup_b"},
        "cutmix": {"cutmix_b4"},
    }.get(changed, {"matrix_b23"})
    off = None if group_of(AugmentConfig.model_fields[changed]) else 0.0
    without = EVERYTHING.model_copy(update={changed: off})
    before, after = (
        draw(EVERYTHING, 40, 64, 64, seed=0, step=0),
        draw(without, 40, 64, 64, seed=0, step=0),
    )
    differs = {
        f.name for f in dataclasses.fields(Draw) if not torch.equal(getattr(before, f.name), getattr(after, f.name))
    }
    assert differs == field


def test_augmentations_occur_at_their_probabilities() -> None:
    rates = dict(zip([*MOVING, *VALUES, *MIXING], np.linspace(0.2, 0.8, 13), strict=True))
    n = 4000

    def rate_of(name: str, drawn: Draw) -> float:
        chosen = {
            "grid_distortion": drawn.stretch_b2n.any(dim=2).all(dim=1),
            "brightness_contrast": (drawn.gain_bc != 1).all(dim=1) & (drawn.offset_bc != 0).all(dim=1),
            "blur": drawn.blur_b > 0,
            "noise": drawn.noise_b > 0,
            "time_reversal": drawn.reversed_b,
            "cut_out": drawn.cut_out_b4.any(dim=1),
            "mixup": drawn.mixup_b > 0,
            "cutmix": drawn.cutmix_b4.any(dim=1),
            "flip": drawn.matrix_b23[:, 0, 0] < 0,
        }
        return chosen.get(name, (drawn.matrix_b23 != IDENTITY).flatten(1).any(dim=1)).double().mean().item()

    for name, probability in rates.items():
        assert rate_of(name, draw(only(**{name: probability}), n, 64, 64, seed=0, step=0)) == pytest.approx(
            probability, abs=0.03
        )
        assert rate_of(name, draw(only(), n, 64, 64, seed=0, step=0)) == 0


def test_draws_stay_within_their_limits_and_cover_them() -> None:
    config = only("affine")
    matrices = draw(config, 2000, 60, 120, seed=0, step=0).matrix_b23
    shift = matrices[:, :, 2].abs()
    values = [(*zoom_and_angle(matrices), (0.7, 1.3), (-15, 15)), (shift[:, 0], shift[:, 1], (0, 6), (0, 12))]
    matrices = draw(
        only("multi_scale", turn={"probability": 1, "degrees": 40}), 2000, 60, 120, seed=0, step=0
    ).matrix_b23
    zoom, angle = zoom_and_angle(matrices)
    values.append((zoom.log2(), angle, (-1, 1), (-40, 40)))
    assert abs(zoom.log2().mean()) < 0.05  # uniform in the logarithm
    assert not matrices[:, :, 2].any()
    config = only("noise", cut_out={"probability": 1, "side": 20}, blur={"probability": 1, "sigma": 2})
    drawn = draw(config, 4000, 60, 120, seed=0, step=0)
    values.append((drawn.cut_out_b4[:, 1] * 60, drawn.cut_out_b4[:, 3] * 120, (19.99, 60.01), (19.99, 120.01)))
    assert torch.allclose(drawn.cut_out_b4[:, 1::2] - drawn.cut_out_b4[:, ::2], torch.tensor([[1 / 3, 1 / 6]]).double())
    values.append((drawn.blur_b, drawn.noise_b, (0, 2), (0, 0.1)))
    drawn = draw(only(brightness_contrast={"probability": 1, "contrast": 0.1}), 100, 60, 120, seed=0, step=0)
    values.append((drawn.offset_bc, drawn.gain_bc, (-0.2, 0.2), (0.9, 1.1)))
    drawn = draw(only(mixup=1.0, cutmix=1.0), 4000, 60, 120, seed=0, step=0)
    sides = drawn.cutmix_b4[:, 1::2] - drawn.cutmix_b4[:, ::2]
    values.append((drawn.mixup_b, sides.prod(dim=1), (0, 1), (0, 1)))
    assert drawn.mixup_b.var().item() == pytest.approx(1 / (4 * (2 * 0.4 + 1)), rel=0.05)  # of Beta(a, a)
    assert sides.prod(dim=1).mean().item() == pytest.approx(0.5, abs=0.02)
    for first, second, *limits in values:
        for value, (low, high) in zip((first, second), limits, strict=True):
            margin = (high - low) / 50
            assert low <= value.min() < low + margin
            assert high - margin < value.max() <= high


def zoom_and_angle(matrices_b23: Tensor) -> tuple[Tensor, Tensor]:
    """Return the zoom and the angle in degrees of each matrix."""
    turn = matrices_b23[:, :, :2]
    return torch.linalg.det(turn) ** -0.5, torch.rad2deg(torch.atan2(turn[:, 1, 0], turn[:, 0, 0]))


# augmentations that move pixels
@pytest.mark.parametrize(("size", "tolerance"), [(64, 0.0), (96, 1e-4)])
def test_dihedral_group_permutes_pixels_exactly(size: int, tolerance: float) -> None:
    image = torch.rand(1, 2, 3, size, size)
    centred = np.arange(size) - (size - 1) / 2
    yx = np.stack(np.meshgrid(centred, centred, indexing="ij"))
    for matrix in DIHEDRAL:
        source = np.einsum("ij,jyx->iyx", matrix[:, :2].numpy(), yx) + (size - 1) / 2
        rows, columns = source.astype(int)
        moved = move(image, matrix[None])
        assert (moved - image[..., rows, columns]).abs().max() <= tolerance


def test_identity_returns_its_input_bit_for_bit() -> None:
    image, target, valid = torch.rand(2, 3, 4, 100, 90), torch.rand(2, 1, 100, 90), torch.ones(2, 1, 100, 90)
    assert torch.equal(draw(only(), 2, 100, 90, seed=0, step=0).matrix_b23, IDENTITY.expand(2, -1, -1))
    moved = augment(only(), image, target, valid_b1hw=valid)
    assert torch.equal(moved.image_btchw, image)
    assert torch.equal(moved.target_b1hw, target)
    assert moved.valid_b1hw is not None
    assert torch.equal(moved.valid_b1hw, valid)
    assert augment(only(), image, target).valid_b1hw is None


@pytest.mark.parametrize("name", [*MOVING, *VALUES, *MIXING])
def test_a_sample_without_augmentation_stays_unchanged_in_a_mixed_batch(name: str) -> None:
    image, target = torch.randn(8, 3, 2, 32, 64), (torch.rand(8, 1, 32, 64) < 0.1).float()
    config = only(**{name: 0.5})
    drawn, nothing = draw(config, 8, 32, 64, seed=0, step=0), draw(only(), 8, 32, 64, seed=0, step=0)
    still = [
        i
        for i in range(8)
        if all(
            torch.equal(getattr(drawn, f.name)[i], getattr(nothing, f.name)[i])
            for f in dataclasses.fields(Draw)
            if f.name not in ("noise_seed_b", "stretch_b2n")
        )
        and not drawn.stretch_b2n[i].any()
    ]
    moved = augment(config, image, target)
    assert 0 < len(still) < 8
    assert torch.equal(moved.image_btchw[still], image[still])
    assert torch.equal(moved.target_b1hw[still], target[still])
    assert not torch.equal(moved.image_btchw, image)


@pytest.mark.parametrize("size", [None, (192, 192)])
@pytest.mark.parametrize("shift", [NO_SHIFT, (0.5, 0.5), (0.45, -0.41)])
@pytest.mark.parametrize("name", [*MOVING, "all"])
def test_image_and_label_move_together(name: str, shift: tuple[float, float], size: tuple[int, int] | None) -> None:
    chosen = MOVING if name == "all" else [name]
    limits = {
        "affine": {"probability": 1, "shift": 0.05, "scale": 0.2},
        "multi_scale": {"probability": 1, "factor": 1.3},
        "turn": {"probability": 1, "degrees": 30},
        "grid_distortion": {"probability": 1, "stretch": 0.5},
    }
    config = only(*chosen, **{key: limit for key, limit in limits.items() if key in chosen})
    point = torch.tensor([6.0, -9.0], dtype=torch.float64)
    image, label = blob(96, 96, 6.0, -9.0), blob(96, 96, 6.0 + shift[0], -9.0 + shift[1])
    n = 6
    for step in range(2):
        frames = torch.stack([image, image], dim=1).expand(n, 2, 1, 96, 96)
        moved = augment(config, frames, label.expand(n, 1, 96, 96), shift, step, size=size)
        matrix = draw(config, n, 96, 96, seed=0, step=step).matrix_b23
        for i in range(n):
            assert torch.equal(moved.image_btchw[i, 0], moved.image_btchw[i, 1])
            in_image, in_label = centroid(moved.image_btchw[i, 0]), centroid(moved.target_b1hw[i])
            in_image = in_image / 2 if size else in_image
            assert (in_image - in_label).abs().max() < 0.1
            if "grid_distortion" not in chosen:
                where = torch.linalg.solve(matrix[i, :, :2], point - matrix[i, :, 2])
                assert (in_label - where).abs().max() < 0.1
            if name != "all":
                assert (in_label - point).abs().max() > 0.01


@pytest.mark.parametrize("shift", [(0.5, 0.5), (1.0, -0.25)])
def test_a_line_and_its_label_agree_in_reflected_borders_to_a_tenth_of_a_pixel(shift: tuple[float, float]) -> None:
    """Both are sampled from one function of continuous coordinates, where the transformation says."""
    side, n, sigma = 96, 8, 5.0

    def line(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        return np.exp(-(((0.6 * y + 0.8 * x - 22) / sigma) ** 2) / 2) + np.exp(-(((y - 0.2 * x + 35) / sigma) ** 2) / 2)

    at = np.arange(side) - (side - 1) / 2
    yx = np.stack(np.meshgrid(at, at, indexing="ij"))
    image, label = (torch.from_numpy(line(yx[0] - dy, yx[1] - dx)).float() for dy, dx in (NO_SHIFT, shift))
    config = only("affine", "flip", rot90=0.7, turn=0.5, multi_scale=0.5)
    moved = augment(config, image.expand(n, 1, 1, side, side), label.expand(n, 1, side, side), shift)
    matrices, reflected = draw(config, n, side, side, seed=0, step=0).matrix_b23.numpy(), 0.0
    for i in range(n):
        place = np.einsum("ij,jyx->iyx", matrices[i, :, :2], yx) + matrices[i, :, 2, None, None]
        outside = (np.abs(place) > side / 2).any(0)
        from_edge = (place + side / 2) % (2 * side)
        seen = np.minimum(from_edge, 2 * side - from_edge).clip(0.5, side - 0.5) - side / 2
        inside_label = (np.abs(seen + np.array(shift)[:, None, None]) <= (side - 1) / 2).all(0)
        slope = np.exp(-0.5) / sigma  # of the line, at its steepest, per pixel
        for part in (moved.image_btchw[i, 0, 0], moved.target_b1hw[i, 0]):
            assert np.abs(part.numpy() - line(*seen))[inside_label].max() < 0.1 * slope
        reflected += outside.mean() / n
    assert reflected > 0.1


def test_grid_distortion_stretches_cells_and_keeps_the_ends() -> None:
    config = only(grid_distortion={"probability": 1, "cells": 4, "stretch": 0.6})
    side, n = 64, 5
    ramp = (torch.arange(side) + 0.5).expand(n, 1, 1, side, side)
    moved = augment(config, torch.cat([ramp, ramp.mT], dim=2)).image_btchw
    lines = draw(config, n, side, side, seed=0, step=0).stretch_b2n * side + torch.linspace(
        0, side, 5
    )  # input of each line
    width = lines.diff(dim=2)
    assert (width > 0).all()
    many = 1 + (draw(config, 500, side, side, seed=0, step=0).stretch_b2n * 4).diff(dim=2)
    ratio = many.amax(dim=2) / many.amin(dim=2)
    assert 3 < ratio.max() <= 1.6 / 0.4
    assert torch.equal(lines[:, :, [0, -1]], torch.tensor([0.0, side]).double().expand(n, 2, 2))
    edges = np.linspace(0, side, 5)
    for i in range(n):
        for axis, channel in ((0, moved[i, 0, 1, :, 7]), (1, moved[i, 0, 0, 7, :])):
            expected = np.interp(np.arange(side) + 0.5, edges, lines[i, axis]).clip(0.5, side - 0.5)
            np.testing.assert_allclose(channel, expected, atol=1e-4)


@pytest.mark.parametrize("size", [(128, 128), (96, 112), (40, 33)])
def test_resample_equals_torch_and_an_identity_draw(size: tuple[int, int]) -> None:
    image = torch.rand(2, 3, 2, 64, 64)
    expected = functional.interpolate(image.flatten(0, 1), size, mode="bilinear", align_corners=False)
    resampled = resample(image, size)
    assert torch.equal(resampled.flatten(0, 1), expected)
    assert torch.equal(augment(only(), image, size=size).image_btchw, resampled)
    assert resample(image, (64, 64)) is image
    config = only(flip=0.2)
    moved = augment(config, image.repeat(8, 1, 1, 1, 1), size=size).image_btchw  # through grid_sample
    still = (draw(config, 16, 64, 64, seed=0, step=0).matrix_b23 == IDENTITY).flatten(1).all(dim=1)
    assert 0 < still.sum() < 16
    assert torch.allclose(moved[still], resampled.repeat(8, 1, 1, 1, 1)[still], atol=1e-5)


def test_pixels_interpolated_from_missing_ones_are_invalid() -> None:
    valid = torch.ones(6, 1, 64, 64)
    valid[..., 20:30, 40:44] = 0
    config = only(affine={"probability": 1, "rotate": 30})
    for given in (valid, resample(valid[:, None], (128, 128))[:, 0].floor()):
        image, target = torch.rand(6, 1, 3, *given.shape[-2:]), torch.rand(6, 1, 64, 64)
        moved = augment(config, image, target, (0.5, 0.5), valid_b1hw=given)
        assert moved.valid_b1hw is not None
        assert moved.valid_b1hw.shape == (6, 1, 64, 64)
        seen = _sample_of(given, config)
        assert torch.equal(moved.valid_b1hw, (seen >= 0.999).float())
        assert ((seen > 0) & (moved.valid_b1hw == 0)).any()
        assert moved.valid_b1hw.mean() > 0.9


def _sample_of(valid_b1hw: Tensor, config: AugmentConfig) -> Tensor:
    """Return the validity augmented like an image, on the target's grid."""
    return augment(config, valid_b1hw[:, None], torch.zeros(6, 1, 64, 64), size=(64, 64)).image_btchw[:, 0]


def test_forgetting_the_label_shift_moves_a_flipped_label_the_wrong_way() -> None:
    """Without the label shift, an offset of half a pixel between image and label becomes an error of a full pixel."""
    flip = torch.tensor([[[-1.0, 0, 0], [0, 1, 0]]], dtype=torch.float64)
    label = blob(64, 64, 0.5, 0.0)
    naive, corrected = move(label, flip), move(label, flip, (0.5, 0.0))
    assert centroid(naive)[0] == pytest.approx(-0.5, abs=0.01)
    assert centroid(corrected)[0] == pytest.approx(0.0, abs=0.01)


def test_predictions_return_to_the_frame_of_the_labels() -> None:
    shift = (0.5, 0.41)
    label = blob(96, 80, 3.0, -4.0)
    prediction = move(label, IDENTITY, shift)  # a perfect prediction in the image's frame
    assert (centroid(to_label_frame(prediction, shift)) - centroid(label)).abs().max() < 0.01
    frames = torch.rand(2, 3, 8, 8)
    assert torch.equal(to_label_frame(frames, (0.0, 0.0)), frames)
    moved = to_label_frame(frames, (1.0, 2.0))  # whole pixels: P(q - shift), the border repeated
    assert torch.allclose(moved[..., 1:, 2:], frames[..., :-1, :-2], atol=1e-5)
    assert torch.allclose(moved[..., 0, 2:], frames[..., 0, :-2], atol=1e-5)


def test_bfloat16_images_keep_their_type_and_use_float32_geometry() -> None:
    image = torch.rand(2, 1, 3, 256, 256).bfloat16()
    matrix = draw(AugmentConfig(affine={"probability": 1}), 2, 256, 256, seed=0, step=0).matrix_b23
    moved = move(image, matrix, (0.5, 0.5))
    assert moved.dtype == torch.bfloat16
    assert torch.equal(moved, move(image.float(), matrix, (0.5, 0.5)).bfloat16())
    everything = augment(EVERYTHING, image, torch.rand(2, 1, 256, 256))
    assert everything.image_btchw.dtype == torch.bfloat16
    assert everything.target_b1hw.dtype == torch.float32


# augmentations that change values
def test_brightness_and_contrast_are_equal_in_all_frames() -> None:
    image, config = torch.randn(3, 4, 11, 8, 8), only(brightness_contrast=1.0)
    moved, drawn = augment(config, image).image_btchw, draw(config, 3, 8, 8, seed=0, step=0)
    gain, offset = (v[:, None, :11, None, None].float() for v in (drawn.gain_bc, drawn.offset_bc))
    torch.testing.assert_close(moved, image * gain + offset)
    assert len(drawn.gain_bc[:, :11].unique()) == 33
    with pytest.raises(ValueError, match="at most 64"):
        augment(config, torch.randn(1, 1, MAX_CHANNELS + 1, 4, 4))


@pytest.mark.parametrize(("size", "ratio"), [(None, 1), ((48, 40), 2)])
def test_blur_equals_that_of_scipy(size: tuple[int, int] | None, ratio: int) -> None:
    image, config = torch.rand(4, 2, 3, 24, 20), only(blur={"probability": 1, "sigma": 1.5})
    sigma, before = draw(config, 4, 24, 20, seed=0, step=0).blur_b, resample(image, size or (24, 20))
    moved = augment(config, image, size=size).image_btchw
    for i in range(4):
        golden = gaussian_filter(
            before[i].numpy(), ratio * float(sigma[i]), mode="nearest", radius=math.ceil(4.5 * ratio), axes=(2, 3)
        )
        np.testing.assert_allclose(moved[i], golden, atol=1e-6)
    assert (moved - before).abs().max() > 0.1


def test_noise_has_the_drawn_deviation_and_depends_only_on_its_sample() -> None:
    config = only(noise={"probability": 1, "std": 0.5})
    image, drawn = torch.zeros(4, 2, 3, 64, 64), draw(config, 4, 64, 64, seed=0, step=0)
    moved = augment(config, image).image_btchw
    assert not image.any()
    assert torch.allclose(moved.std(dim=(1, 2, 3, 4)), drawn.noise_b.float(), rtol=0.03)
    rest = augment_batch(batch_of(image[2:], torch.zeros(2, 1, 64, 64)), drawn[2:], config, NO_SHIFT)
    assert torch.equal(rest.image_btchw, moved[2:])


def test_cut_out_is_one_square_of_the_mean_in_all_frames() -> None:
    config = only(cut_out={"probability": 1, "side": 5})
    for size, side in ((None, 5), ((64, 64), 10)):
        moved = augment(config, torch.ones(6, 3, 2, 32, 32), torch.ones(6, 1, 32, 32), size=size)
        hole = moved.image_btchw == 0
        assert (hole.sum(dim=(-2, -1)) == side**2).all()
        assert ((hole.any(dim=-1).sum(dim=-1) == side) & (hole.any(dim=-2).sum(dim=-1) == side)).all()
        assert (hole == hole[:, :1, :1]).all()
        assert moved.target_b1hw.all()
    assert not augment(only(cut_out={"probability": 1, "side": 500}), torch.ones(1, 1, 1, 8, 8)).image_btchw.any()


def test_time_reversal_reverses_the_order_of_frames() -> None:
    image, config = torch.rand(8, 3, 2, 4, 4), only(time_reversal=0.5)
    moved, turned = augment(config, image).image_btchw, draw(config, 8, 4, 4, seed=0, step=0).reversed_b
    assert torch.equal(moved[turned], image[turned].flip(1))
    assert torch.equal(moved[~turned], image[~turned])
    assert 0 < turned.sum() < 8


# augmentations that mix samples
def test_mixup_blends_image_label_and_record_alike() -> None:
    image, config = torch.rand(5, 2, 3, 8, 8), only(mixup=1.0)
    target = (torch.rand(5, 1, 8, 8) < 0.3).float()
    target[1] = 0
    valid = (torch.rand(5, 1, 8, 8) < 0.8).float()
    share, partner = draw(config, 5, 8, 8, seed=0, step=0).mixup_b.float(), [1, 0, 3, 2, 4]
    moved = augment(config, image, target, valid_b1hw=valid)
    positive = target.amax(dim=(1, 2, 3))[:, None]
    for before, after in ((image, moved.image_btchw), (target, moved.target_b1hw), (positive, moved.positive_b1)):
        s = share.reshape(5, *[1] * (before.ndim - 1))
        torch.testing.assert_close(after, (1 - s) * before + s * before[partner])
    assert moved.valid_b1hw is not None
    assert torch.equal(moved.valid_b1hw, valid * valid[partner])
    either = augment(only(mixup={"probability": 1, "labels": "or"}), image, target)
    assert torch.equal(either.image_btchw, moved.image_btchw)
    assert torch.equal(either.target_b1hw, torch.maximum(target, target[partner]))
    assert torch.equal(either.positive_b1, torch.maximum(positive, positive[partner]))


@pytest.mark.parametrize("size", [None, (64, 64)])
def test_cutmix_pastes_image_label_and_validity_of_one_rectangle(size: tuple[int, int] | None) -> None:
    number = torch.arange(6.0).reshape(6, 1, 1, 1)
    image, target = number[..., None].expand(6, 2, 3, 32, 32), number.expand(6, 1, 32, 32)
    valid = (number % 2).expand(6, 1, 32, 32)
    config = only(cutmix=1.0)
    moved, partner = augment(config, image, target, size=size, valid_b1hw=valid), [1, 0, 3, 2, 5, 4]
    drawn = draw(config, 6, 32, 32, seed=0, step=0).cutmix_b4
    for i in range(6):
        inside = moved.target_b1hw[i, 0] == partner[i]
        area = ((drawn[i, 1] - drawn[i, 0]) * (drawn[i, 3] - drawn[i, 2])).item()
        assert inside.float().mean().item() == pytest.approx(area)
        assert ((moved.target_b1hw[i] == i) | inside).all()
        in_image = inside if size is None else inside.repeat_interleave(2, 0).repeat_interleave(2, 1)
        assert ((moved.image_btchw[i] == partner[i]) == in_image).all()
        assert moved.valid_b1hw is not None
        assert torch.equal(moved.valid_b1hw[i, 0], torch.where(inside, float(partner[i] % 2), float(i % 2)))
        assert moved.positive_b1[i].item() == max(i, partner[i])
    single = augment(EVERYTHING, torch.rand(1, 1, 1, 8, 8))
    assert single.image_btchw.isfinite().all()


SWEEPING = {"affine": {"probability": 1, "shift": 0.5}, "turn": {"probability": 0.5}, "multi_scale": 0.5}


def records(n: int, side: int = 48) -> Batch:
    """Return a batch in which every other record has a short contrail, most near a border."""
    target, random = torch.zeros(n, 1, side, side), np.random.default_rng(0)
    for i in range(0, n, 2):
        y, x = random.choice([1, 4, 20, side - 6], 2)
        target[i, 0, y, x : x + 5] = 1
    return batch_of(torch.rand(n, 1, 1, side, side), target)


@pytest.mark.parametrize("settings", [SWEEPING, {"cutmix": 1.0}, {"cutmix": 0.5, **SWEEPING}])
def test_a_record_is_positive_while_a_contrail_is_left_in_the_image(settings: dict[str, Any]) -> None:
    """By counting the pixels of contrail that lie in the image and outside a pasted rectangle."""
    config, given, stale = only(**settings), records(400), 0
    moved = augment_batch(given, draw(config, 400, 48, 48, seed=0, step=0), config, (0.5, 0.5))
    peak = moved.target_b1hw.numpy().max((1, 2, 3))
    positive = moved.positive_b1[:, 0].numpy()
    assert not positive[peak == 0].any()
    assert positive[peak >= 0.5].all()
    assert set(positive.tolist()) == {0.0, 1.0}
    had_one = given.positive_b1[:, 0].numpy() > 0
    if "cutmix" in settings:
        had_one |= had_one.reshape(-1, 2)[:, ::-1].ravel()
    stale = (had_one & (peak == 0)).mean()
    assert stale > 0.1  # so many would have been positive without a contrail


def test_the_record_of_a_soft_label_follows_its_core() -> None:
    target = torch.zeros(2, 1, 32, 32)
    target[:, 0, 4, 4:12] = 1
    target[:, 0, 16, 4:28] = 0.15  # seen by few annotators
    given = batch_of(torch.zeros(2, 1, 1, 32, 32), target)
    drawn = draw(only(), 2, 32, 32, seed=0, step=0)
    drawn.matrix_b23[1, 0, 2] = 8  # the core leaves at the top, but for its reflection's few rows
    drawn.matrix_b23[1, :, :2] *= 0.4
    assert augment_batch(given, drawn, only(), NO_SHIFT).positive_b1[:, 0].tolist() == [1, 0]


def test_redrawing_keeps_positives_and_is_a_function_of_seed_and_step() -> None:
    given, own = records(200), np.arange(200)
    base = {"cutmix": 0.5, **SWEEPING}

    def labels(own: np.ndarray, step: int = 0, **settings: Any) -> tuple[Draw, Batch]:
        part = Batch(*(v[own] if v is not None else None for v in vars(given).values()))
        return draw_labels(part, own, 200, only(**base, **settings), (0.5, 0.5), seed=0, step=step)

    once, never = labels(own)[1].positive_b1, labels(own, redraw=0)[1].positive_b1
    assert torch.equal(once, never)
    positive = given.positive_b1 > 0
    assert (once[positive] == 0).float().mean() > 0.1
    drawn, kept = labels(own, redraw=20)
    assert (kept.positive_b1[positive] > 0).all()
    first = draw(only(**base), 200, 48, 48, seed=0, step=0)
    again = (drawn.matrix_b23 != first.matrix_b23).flatten(1).any(1) | (drawn.cutmix_b4 != first.cutmix_b4).any(1)
    assert not again[~positive[:, 0]].any()
    assert same(drawn, labels(own, redraw=20)[0])
    assert not same(drawn, labels(own, step=1, redraw=20)[0])
    pairs = np.flatnonzero(own // 2 % 3 == 1)  # those of one of three processes
    assert same(labels(pairs, redraw=20)[0], drawn[pairs])


def test_image_and_label_stay_aligned_through_all_augmentations() -> None:
    """The first channel of the image is the target, so both must stay equal."""
    config = only(**dict.fromkeys([*MOVING, *MIXING], 0.7))
    target = torch.cat([blob(64, 64, *yx) for yx in torch.randint(-20, 20, (8, 2)).tolist()])
    image = torch.stack([target, torch.rand(8, 1, 64, 64)], dim=2)
    for step in range(3):
        moved = augment(config, image, target, step=step)
        assert torch.allclose(moved.image_btchw[:, 0, :1], moved.target_b1hw, atol=1e-5)
        assert (moved.target_b1hw - target).abs().max() > 0.1


def test_slices_of_a_batch_are_augmented_as_within_the_whole_batch() -> None:
    image, target = torch.randn(8, 2, 3, 32, 32), (torch.rand(8, 1, 32, 32) < 0.1).float()
    drawn = draw(EVERYTHING, 8, 32, 32, seed=0, step=0)
    given = batch_of(image, target, (torch.rand(8, 1, 32, 32) < 0.9).float())
    full_batch = augment_batch(given, drawn, EVERYTHING, (0.5, 0.5), (48, 48))
    for rows in (slice(0, 2), slice(2, 8)):
        part = augment_batch(given[rows], drawn[rows], EVERYTHING, (0.5, 0.5), (48, 48))
        for ours, expected in zip(vars(part).values(), vars(full_batch).values(), strict=True):
            assert ours is not None
            torch.testing.assert_close(ours, expected[rows], rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="a draw for 8 samples, but a batch of 2"):
        augment_batch(given[:2], drawn, EVERYTHING, NO_SHIFT)


@pytest.mark.parametrize(("count", "world"), [(8, 2), (7, 2), (5, 3), (2, 3)])
def test_processes_mix_the_samples_that_one_process_mixes(count: int, world: int) -> None:
    config = only(mixup=0.8, cutmix=0.5, affine=0.5)
    given = batch_of(torch.randn(count, 1, 2, 16, 16), (torch.rand(count, 1, 16, 16) < 0.1).float())
    drawn = draw(config, count, 16, 16, seed=0, step=0)
    whole = augment_batch(given, drawn, config, (0.5, 0.5))
    for rank in range(world):
        own, owned = share_of(count, rank, world, config.together)
        part = Batch(*(None if v is None else v[own] for v in vars(given).values()))
        moved = augment_batch(part, drawn[own], config, (0.5, 0.5))
        for name in ("image_btchw", "target_b1hw", "positive_b1"):
            torch.testing.assert_close(getattr(moved, name)[:owned], getattr(whole, name)[own[:owned]])


def test_augmenting_is_deterministic_and_leaves_its_input_unchanged() -> None:
    image, target = torch.randn(4, 3, 3, 32, 32), torch.rand(4, 1, 32, 32)
    copies = image.clone(), target.clone()
    first, state = augment(EVERYTHING, image, target), torch.get_rng_state()
    second = augment(EVERYTHING, image, target)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.image_btchw, second.image_btchw)
    assert torch.equal(first.target_b1hw, second.target_b1hw)
    assert not torch.equal(first.image_btchw, augment(EVERYTHING, image, target, step=1).image_btchw)
    assert torch.equal(image, copies[0])
    assert torch.equal(target, copies[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_augmentation_on_the_gpu_never_synchronises_and_agrees_with_the_cpu() -> None:
    config = only(**dict.fromkeys([*MOVING, *VALUES, *MIXING], 0.5) | {"noise": None})
    image, target, valid = torch.randn(8, 3, 3, 64, 64), torch.rand(8, 1, 64, 64), torch.ones(8, 1, 64, 64)
    drawn, noisy = draw(config, 8, 64, 64, seed=0, step=0), only(noise=1.0)
    given = Batch(image, target, torch.ones(8, 1), torch.ones(8), valid)
    given_on_gpu = Batch(*(part.cuda() for part in vars(given).values()))
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        on_gpu = augment_batch(given_on_gpu, drawn, config, (0.5, 0.5), (128, 128))
        augment_batch(given_on_gpu, draw(noisy, 8, 64, 64, seed=0, step=0), noisy, NO_SHIFT)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    on_cpu = augment_batch(given, drawn, config, (0.5, 0.5), (128, 128))
    for ours, expected in zip(vars(on_gpu).values(), vars(on_cpu).values(), strict=True):
        torch.testing.assert_close(ours.cpu(), expected, rtol=5e-3, atol=5e-3)  # TF32 in the blur
