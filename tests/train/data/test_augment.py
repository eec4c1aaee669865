"""Geometry of augmentation: image, label and validity move together, and back."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from contrail_train.config.augment import AugmentConfig
from contrail_train.data.augment import resample, to_label_frame, warp
from contrail_train.data.draw import Draw, draw
from contrail_train.data.loader import Batch
from helpers.augmentation import (
    CONTRAILS,
    DIHEDRAL,
    EVERYTHING,
    IDENTITY,
    MIXING,
    MOVING,
    NO_SHIFT,
    VALUES,
    augment,
    augment_batch,
    batch_of,
    blob,
    only,
)


def move(image: Tensor, matrix_b23: Tensor, shift_yx: tuple[float, float] = NO_SHIFT) -> Tensor:
    """Sample an image at A p + shift."""
    grid, still = (image.shape[-2], image.shape[-1]), torch.zeros(len(image), 2, 2, dtype=torch.float64)
    whole = torch.tensor([[0.0, 1.0, 0.0, 1.0]], dtype=torch.float64).expand(len(image), -1)
    return warp(image, matrix_b23, still, whole, grid=grid, shift_yx=shift_yx)


def centroid(image: Tensor) -> Tensor:
    """Return the centroid (y, x) in pixels from the image's centre."""
    height, width = image.shape[-2:]
    mass = image.double().reshape(height, width) / image.double().sum()
    y = (mass.sum(1) * (torch.arange(height) - (height - 1) / 2)).sum()
    return torch.stack([y, (mass.sum(0) * (torch.arange(width) - (width - 1) / 2)).sum()])


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
    assert torch.equal(moved.target_bkhw, target)
    assert moved.valid_b1hw is not None
    assert torch.equal(moved.valid_b1hw, valid)
    assert augment(only(), image, target).valid_b1hw is None


@pytest.mark.parametrize("name", [*MOVING, *VALUES, *MIXING, *CONTRAILS])
def test_a_sample_without_augmentation_stays_unchanged_in_a_mixed_batch(name: str) -> None:
    image, target = torch.randn(8, 3, 2, 32, 64), (torch.rand(8, 1, 32, 64) < 0.1).float()
    target[1::2] = 0
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
    assert torch.equal(moved.target_bkhw[still], target[still])
    assert not torch.equal(moved.image_btchw, image)


@pytest.mark.parametrize("size", [None, (192, 192)])
def test_a_crop_is_a_part_of_the_moved_image_with_its_label_and_validity(size: tuple[int, int] | None) -> None:
    """Beyond the crop's borders is the rest of the image, not a reflection of the crop."""
    image, target = torch.rand(6, 2, 3, 96, 96), (torch.rand(6, 1, 96, 96) < 0.1).float()
    given = batch_of(image, target, (torch.rand(6, 1, 96, 96) < 0.99).float())
    config = only(*MOVING)
    whole, cropped = draw(config, 6, 96, 96, seed=0, step=0), draw(config, 6, 96, 96, seed=0, step=0, crop=40)
    assert torch.equal(whole.matrix_b23, cropped.matrix_b23)
    everything, part = (augment_batch(given, drawn, config, (0.5, 0.5), size) for drawn in (whole, cropped))
    scale = 2 if size else 1
    assert part.image_btchw.shape == (6, 2, 3, 40 * scale, 40 * scale)
    for i, (top, bottom, left, right) in enumerate((cropped.crop_b4 * 96).round().int().tolist()):
        rows, columns = slice(top, bottom), slice(left, right)
        torch.testing.assert_close(part.target_bkhw[i], everything.target_bkhw[i, :, rows, columns], rtol=0, atol=1e-4)
        assert torch.equal(part.valid_b1hw[i], everything.valid_b1hw[i, :, rows, columns])
        rows, columns = (slice(s.start * scale, s.stop * scale) for s in (rows, columns))
        torch.testing.assert_close(
            part.image_btchw[i], everything.image_btchw[i, ..., rows, columns], rtol=0, atol=1e-4
        )


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
            in_image, in_label = centroid(moved.image_btchw[i, 0]), centroid(moved.target_bkhw[i])
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
        for part in (moved.image_btchw[i, 0, 0], moved.target_bkhw[i, 0]):
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
    assert everything.target_bkhw.dtype == torch.float32


def test_image_and_label_stay_aligned_through_all_augmentations() -> None:
    """The first channel of the image is the target, so both must stay equal."""
    config = only(**dict.fromkeys([*MOVING, *MIXING], 0.7))
    target = torch.cat([blob(64, 64, *yx) for yx in torch.randint(-20, 20, (8, 2)).tolist()])
    image = torch.stack([target, torch.rand(8, 1, 64, 64)], dim=2)
    for step in range(3):
        moved = augment(config, image, target, step=step)
        assert torch.allclose(moved.image_btchw[:, 0, :1], moved.target_bkhw, atol=1e-5)
        assert (moved.target_bkhw - target).abs().max() > 0.1


def test_slices_of_a_batch_are_augmented_as_within_the_whole_batch() -> None:
    image, target = torch.randn(8, 2, 3, 32, 32), (torch.rand(8, 1, 32, 32) < 0.1).float()
    drawn = draw(EVERYTHING, 8, 32, 32, seed=0, step=0)
    given = batch_of(image, target, (torch.rand(8, 1, 32, 32) < 0.9).float())
    full_batch = augment_batch(given, drawn, EVERYTHING, (0.5, 0.5), (48, 48))
    for rows in (slice(0, 2), slice(2, 8)):
        part = augment_batch(given[rows], drawn[rows], EVERYTHING, (0.5, 0.5), (48, 48))
        for ours, expected in zip(vars(part).values(), vars(full_batch).values(), strict=True):
            if expected is None or ours is None:  # no sample of it has drawn this
                continue
            torch.testing.assert_close(ours, expected[rows], rtol=1e-5, atol=1e-5)


def test_augmenting_is_deterministic_and_leaves_its_input_unchanged() -> None:
    image, target = torch.randn(4, 3, 3, 32, 32), torch.rand(4, 1, 32, 32)
    copies = image.clone(), target.clone()
    first, state = augment(EVERYTHING, image, target), torch.get_rng_state()
    second = augment(EVERYTHING, image, target)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.image_btchw, second.image_btchw)
    assert torch.equal(first.target_bkhw, second.target_bkhw)
    assert not torch.equal(first.image_btchw, augment(EVERYTHING, image, target, step=1).image_btchw)
    assert torch.equal(image, copies[0])
    assert torch.equal(target, copies[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_augmentation_on_the_gpu_never_synchronises_and_agrees_with_the_cpu() -> None:
    config = only(**dict.fromkeys([*MOVING, *VALUES, *MIXING, *CONTRAILS], 0.5) | {"noise": None})
    image, target, valid = torch.randn(8, 3, 3, 64, 64), torch.rand(8, 1, 64, 64), torch.ones(8, 1, 64, 64)
    drawn, noisy = draw(config, 8, 64, 64, seed=0, step=0), only(noise=1.0)
    given = Batch(image, target, torch.ones(8, 1), torch.ones(8), valid)
    given_on_gpu = Batch(*(None if part is None else part.cuda() for part in vars(given).values()))
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        on_gpu = augment_batch(given_on_gpu, drawn, config, (0.5, 0.5), (128, 128))
        augment_batch(given_on_gpu, draw(noisy, 8, 64, 64, seed=0, step=0), noisy, NO_SHIFT)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    on_cpu = augment_batch(given, drawn, config, (0.5, 0.5), (128, 128))
    changed = {"image_btchw", "target_bkhw", "positive_b1", "valid_b1hw", "erased_b1hw", "pasted_b1hw"}
    assert changed < {name for name, part in vars(on_gpu).items() if part is not None}
    for name, expected in vars(on_cpu).items():
        ours = getattr(on_gpu, name)
        assert (ours is None) == (expected is None), name
        if ours is not None:
            torch.testing.assert_close(ours.cpu(), expected, rtol=5e-3, atol=5e-3)  # TF32 in the blur


def test_all_targets_of_a_sample_move_and_mix_alike() -> None:
    image, target = torch.rand(4, 1, 3, 32, 32), (torch.rand(4, 1, 32, 32) < 0.1).float()
    single = augment(EVERYTHING, image, target, label_shift=(0.5, 0.5))
    several = augment(EVERYTHING, image, torch.cat([target, target / 2], dim=1), label_shift=(0.5, 0.5))
    assert torch.equal(several.target_bkhw[:, :1], single.target_bkhw)
    torch.testing.assert_close(several.target_bkhw[:, 1:], single.target_bkhw / 2)
    assert torch.equal(several.positive_b1, single.positive_b1)
