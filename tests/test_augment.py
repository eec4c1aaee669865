from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from contrail_train.augment import augment_batch, draw, identity, to_label_frame, warp
from contrail_train.config import AugmentConfig

DIHEDRAL = [
    torch.tensor(rows, dtype=torch.float64)
    for a, b in product((-1.0, 1.0), repeat=2)
    for rows in ([[a, 0, 0], [0, b, 0]], [[0, a, 0], [b, 0, 0]])
]


def blob(height: int, width: int, y: float, x: float) -> Tensor:
    """(1, 1, h, w) Gaussian of 3 px about a point given in pixels from the image's centre."""
    rows = torch.arange(height) - (height - 1) / 2 - y
    columns = torch.arange(width) - (width - 1) / 2 - x
    return torch.exp(-(rows[:, None] ** 2 + columns**2) / 18)[None, None]


def centroid(image: Tensor) -> Tensor:
    """(y, x) from the image's centre."""
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
        moved = warp(image, matrix[None])
        assert (moved - image[..., rows, columns]).abs().max() <= tolerance


def test_draws_without_affine_are_dihedral_and_reach_all_eight() -> None:
    config = AugmentConfig(flip=0.5, rot90=0.5, affine=0.0)
    drawn = {tuple(m.flatten().tolist()) for m in draw(config, 200, 64, 64, seed=1, step=2)}
    assert drawn == {tuple(m.flatten().tolist()) for m in DIHEDRAL}
    oblong = draw(config, 200, 64, 96, seed=1, step=2)
    assert not oblong[:, 0, 1].any()
    assert not oblong[:, 1, 0].any()


def test_draw_is_a_pure_function_of_seed_and_step() -> None:
    config = AugmentConfig()
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
    first = draw(config, 8, 64, 64, seed=3, step=5)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert torch.equal(draw(config, 8, 64, 64, seed=3, step=5), first)
    assert torch.equal(draw(config, 4, 64, 64, seed=3, step=5), first[:4])
    assert not torch.equal(draw(config, 8, 64, 64, seed=3, step=6), first)
    assert not torch.equal(draw(config, 8, 64, 64, seed=4, step=5), first)


def test_draws_stay_within_their_limits_and_use_them() -> None:
    config = AugmentConfig(affine=1.0, shift=0.1, scale=0.3, rotate=15.0, flip=0.0, rot90=0.0)
    matrices = draw(config, 2000, 60, 120, seed=0, step=0)
    turn, shift = matrices[:, :, :2], matrices[:, :, 2].abs()
    zoom = torch.linalg.det(turn) ** -0.5
    angle = torch.rad2deg(torch.atan2(turn[:, 1, 0], turn[:, 0, 0]))
    for values, low, high in [
        (zoom, 0.7, 1.3),
        (angle, -15, 15),
        (shift[:, 0], 0, 6),
        (shift[:, 1], 0, 12),
    ]:
        margin = (high - low) / 100
        assert low <= values.min() < low + margin
        assert high - margin < values.max() <= high


def test_identity_returns_its_input_bit_for_bit() -> None:
    image, target = torch.rand(2, 3, 4, 100, 90), torch.rand(2, 1, 100, 90)
    nothing = AugmentConfig(flip=0, rot90=0, affine=0)
    matrix = draw(nothing, 2, 100, 90, seed=0, step=0)
    assert torch.equal(matrix, identity(2))
    moved = augment_batch(image, target, matrix, (0.0, 0.0))
    assert torch.equal(moved[0], image)
    assert torch.equal(moved[1], target)
    mixed = torch.cat([identity(1), DIHEDRAL[0][None]])  # through grid_sample all the same
    image = torch.rand(2, 1, 3, 64, 128)
    assert torch.equal(warp(image, mixed)[0], image[0])


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.5, 0.5), (0.45, -0.41)])
def test_image_and_label_move_together(shift: tuple[float, float]) -> None:
    config = AugmentConfig(affine=1.0, shift=0.05, flip=0.5, rot90=0.5)
    height, width, point = 96, 96, torch.tensor([6.0, -9.0], dtype=torch.float64)
    image = blob(height, width, 6.0, -9.0)
    label = blob(height, width, 6.0 + shift[0], -9.0 + shift[1])
    for step in range(12):
        matrix = draw(config, 1, height, width, seed=0, step=step)
        frames = torch.stack([image, image], dim=1)
        moved_image, moved_label = augment_batch(frames, label, matrix, shift)
        where = torch.linalg.solve(matrix[0, :, :2], point - matrix[0, :, 2])
        assert (centroid(moved_image[:, 0]) - where).abs().max() < 0.1
        assert (centroid(moved_label) - where).abs().max() < 0.1
        assert torch.equal(moved_image[:, 0], moved_image[:, 1])


def test_forgetting_the_label_shift_moves_a_flipped_label_the_wrong_way() -> None:
    """The reason for all this: half a pixel becomes a whole one between image and label."""
    flip = torch.tensor([[[-1.0, 0, 0], [0, 1, 0]]], dtype=torch.float64)
    label = blob(64, 64, 0.5, 0.0)
    naive, corrected = warp(label, flip), warp(label, flip, (0.5, 0.0))
    assert centroid(naive)[0] == pytest.approx(-0.5, abs=0.01)
    assert centroid(corrected)[0] == pytest.approx(0.0, abs=0.01)


def test_predictions_return_to_the_frame_of_the_labels() -> None:
    shift = (0.5, 0.41)
    label = blob(96, 80, 3.0, -4.0)
    prediction = warp(label, identity(1), shift)  # a perfect one, in the image's frame
    assert (centroid(to_label_frame(prediction, shift)) - centroid(label)).abs().max() < 0.01
    frames = torch.rand(2, 3, 8, 8)
    assert torch.equal(to_label_frame(frames, (0.0, 0.0)), frames)
    moved = to_label_frame(frames, (1.0, 2.0))  # whole pixels: P(q - shift), the border repeated
    assert torch.allclose(moved[..., 1:, 2:], frames[..., :-1, :-2], atol=1e-5)
    assert torch.allclose(moved[..., 0, 2:], frames[..., 0, :-2], atol=1e-5)


def test_bfloat16_keeps_its_type_and_float32_geometry() -> None:
    image = torch.rand(2, 1, 3, 256, 256).bfloat16()
    matrix = draw(AugmentConfig(affine=1.0), 2, 256, 256, seed=0, step=0)
    moved = warp(image, matrix, (0.5, 0.5))
    assert moved.dtype == torch.bfloat16
    assert torch.equal(moved, warp(image.float(), matrix, (0.5, 0.5)).bfloat16())
